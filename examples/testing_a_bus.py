"""How to test an application with a bus: `python -m pytest examples/testing_a_bus.py`."""

# --8<-- [start:setup]
import pytest
import trio
from box_office import BoxOffice, SeatBooked, SoldOut

from goevent import Config, Event, GoEvent
from goevent.testing import Recorder, record, wait_idle

# --8<-- [end:setup]


# --8<-- [start:bus]
async def test_last_seat_makes_a_show_sold_out(bus: GoEvent, recorder: Recorder) -> None:
    BoxOffice(bus, seats=2)
    for _ in range(2):
        await bus.dispatch(SeatBooked(show="Hamlet", seat=1))
    await wait_idle(bus)  # includes events that listeners dispatch
    assert recorder.events(SoldOut) == [SoldOut(show="Hamlet")]
    assert len(recorder.ran(BoxOffice.book)) == 2
    # --8<-- [end:bus]


# --8<-- [start:errors]
async def test_unknown_show_is_an_error(bus: GoEvent) -> None:
    BoxOffice(bus, seats=2)
    handle = await bus.dispatch(SeatBooked(show="Cats", seat=1))
    await handle.wait()
    with pytest.raises(ExceptionGroup) as caught:
        handle.raise_errors()  # the fixture insists that the test looks at the errors
    assert "Cats is not on" in str(caught.value.exceptions[0])
    # --8<-- [end:errors]


# --8<-- [start:clock]
class Reminder(Event, name="reminder.due"):
    seat: int


async def test_a_slow_listener_takes_no_time(
    bus: GoEvent, autojump_clock: trio.testing.MockClock
) -> None:
    @bus.listener(Reminder)
    async def remind(event: Reminder) -> None:
        await trio.sleep(3600)

    before = trio.current_time()
    handle = await bus.dispatch(Reminder(seat=1))
    await handle.wait()
    assert trio.current_time() - before == 3600
    # --8<-- [end:clock]


# --8<-- [start:own]
async def test_with_a_bus_of_its_own() -> None:
    bus = GoEvent(Config(close_timeout=1))
    recorder = record(bus)
    async with bus:
        await bus.dispatch(SeatBooked(show="Hamlet", seat=1))
    assert recorder.dispatched == [SeatBooked(show="Hamlet", seat=1)]
    # --8<-- [end:own]
