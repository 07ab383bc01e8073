"""The publisher of a driver that can post: no task per event, in order, settled once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Self

import pytest
import trio
from tests.support.checks import ignore_error
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Capabilities,
    Config,
    DriverError,
    EncodeError,
    Event,
    EventRegistry,
    GoEvent,
    Inbox,
    Message,
    Receipt,
)

REGISTRY = EventRegistry()
IN_FLIGHT = 4
MAX_WAITING_EVENTS = 1024  # besides the events in flight

Replied = Callable[[Receipt | Exception | None], None]


class Parcel(Event, name="publisher.parcel", registry=REGISTRY):
    n: int = 0
    weight: float = 0.0


class Broker:
    """A broker that takes posted events while it has room, and published events always."""

    schemes: tuple[str, ...] = ()
    capabilities = Capabilities(in_flight=IN_FLIGHT)

    def __init__(self) -> None:
        self.room = 1_000_000
        self.sent: list[int] = []
        self.posted: deque[tuple[int, Replied]] = deque()
        self.published: deque[tuple[int, trio.Event]] = deque()
        self.most = 0

    @classmethod
    def from_url(cls, url: str) -> Self:
        raise NotImplementedError

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def subscribe(self, names: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()

    async def unsubscribe(self, names: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()

    def publish_nowait(self, message: Message, replied: Replied) -> None:
        if not self.room:
            raise trio.WouldBlock
        message.encode()
        self.room -= 1
        self.sent.append(message.event.n)
        self.posted.append((message.event.n, replied))
        self.most = max(self.most, len(self.posted))

    async def publish(self, message: Message) -> Receipt:
        answered = trio.Event()
        self.sent.append(message.event.n)
        self.published.append((message.event.n, answered))
        await answered.wait()
        return Receipt(id=f"published {message.event.n}")

    def answer(self) -> None:
        """Reply to the event that was sent first."""
        if self.posted:
            n, replied = self.posted.popleft()
            replied(Receipt(id=f"posted {n}"))
        else:
            self.published.popleft()[1].set()

    async def answer_all(self) -> None:
        await wait_all_tasks_blocked()
        while self.posted or self.published:
            self.answer()
            await wait_all_tasks_blocked()


def opened(broker: Broker) -> GoEvent:
    bus = GoEvent(Config(registry=REGISTRY, driver=broker))
    bus.on_error(ignore_error)
    return bus


async def test_an_event_is_sent_before_dispatch_returns(autojump_clock: MockClock) -> None:
    broker = Broker()
    async with opened(broker) as bus:
        handle = bus.dispatch_nowait(Parcel(1))
        assert broker.sent == [1]
        assert (handle.done, handle.receipt) == (False, "")
        broker.answer()
        assert (handle.done, handle.receipt) == (True, "posted 1")
        await handle.wait()


async def test_waiters_are_woken_by_the_reply(autojump_clock: MockClock) -> None:
    broker = Broker()
    woken: list[int] = []
    async with opened(broker) as bus, trio.open_nursery() as nursery:
        handle = bus.dispatch_nowait(Parcel(1))

        async def wait(n: int) -> None:
            await handle.wait()
            woken.append(n)

        for n in range(3):
            nursery.start_soon(wait, n)
        await wait_all_tasks_blocked()
        assert woken == []
        broker.answer()
        await wait_all_tasks_blocked()
        assert sorted(woken) == [0, 1, 2]


async def test_a_cancelled_waiter_does_not_end_the_waits_of_others(
    autojump_clock: MockClock,
) -> None:
    broker = Broker()
    async with opened(broker) as bus:
        handle = bus.dispatch_nowait(Parcel(1))
        for _ in range(3):
            with trio.move_on_after(1) as scope:
                await handle.wait()
            assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.wait)
            nursery.start_soon(handle.wait)
            await wait_all_tasks_blocked()
            broker.answer()


async def test_at_most_in_flight_events_are_posted_and_the_rest_follows_in_order(
    autojump_clock: MockClock,
) -> None:
    broker = Broker()
    async with opened(broker) as bus:
        for n in range(50):
            bus.dispatch_nowait(Parcel(n))
        assert broker.sent == [0, 1, 2, 3]
        assert bus.snapshot().state == "open"
        await broker.answer_all()
        assert broker.sent == list(range(50))
        assert broker.most == IN_FLIGHT
        assert not broker.published


async def test_dispatch_waits_when_the_publisher_is_full(autojump_clock: MockClock) -> None:
    broker = Broker()
    dispatched: list[int] = []
    async with opened(broker) as bus, trio.open_nursery() as nursery:

        async def dispatch_all() -> None:
            for n in range(IN_FLIGHT + MAX_WAITING_EVENTS + 10):
                await bus.dispatch(Parcel(n))
                dispatched.append(n)

        nursery.start_soon(dispatch_all)
        await wait_all_tasks_blocked()
        assert len(dispatched) == IN_FLIGHT + MAX_WAITING_EVENTS
        with pytest.raises(trio.WouldBlock, match="no room in the mailbox of driver"):
            bus.dispatch_nowait(Parcel(-1))
        broker.answer()
        await wait_all_tasks_blocked()
        assert len(dispatched) == IN_FLIGHT + MAX_WAITING_EVENTS + 1
        await broker.answer_all()
    assert broker.sent == list(range(IN_FLIGHT + MAX_WAITING_EVENTS + 10))


async def test_an_event_that_cannot_be_posted_is_published_and_no_event_overtakes_it(
    autojump_clock: MockClock,
) -> None:
    broker = Broker()
    broker.room = 2
    async with opened(broker) as bus:
        handles = [bus.dispatch_nowait(Parcel(n)) for n in range(4)]
        broker.room = 100  # too late for the events that wait already, and for those behind them
        handles += [bus.dispatch_nowait(Parcel(n)) for n in range(4, 6)]
        await broker.answer_all()
        handles.append(bus.dispatch_nowait(Parcel(6)))
        await broker.answer_all()
        assert broker.sent == list(range(7))
        assert [handle.receipt.split()[0] for handle in handles] == [
            *["posted"] * 2,
            *["published"] * 4,
            "posted",
        ]


async def test_waiting_events_are_published_when_posting_is_refused_meanwhile(
    autojump_clock: MockClock,
) -> None:
    broker = Broker()
    broker.room = IN_FLIGHT + 1
    async with opened(broker) as bus:
        for n in range(10):
            bus.dispatch_nowait(Parcel(n))
        for _ in range(IN_FLIGHT):
            broker.answer()
        await wait_all_tasks_blocked()
        assert len(broker.posted) == 1
        assert len(broker.published) == IN_FLIGHT - 1
        await broker.answer_all()
    assert broker.sent == list(range(10))


@pytest.mark.parametrize("room", range(IN_FLIGHT + 2))
async def test_at_most_in_flight_events_are_posted_and_published_together(
    autojump_clock: MockClock, room: int
) -> None:
    broker = Broker()
    broker.room = room
    async with opened(broker) as bus:
        for n in range(20):
            bus.dispatch_nowait(Parcel(n))
            await wait_all_tasks_blocked()
            assert len(broker.posted) + len(broker.published) <= IN_FLIGHT
        for _ in range(20):
            assert len(broker.posted) + len(broker.published) <= IN_FLIGHT
            broker.answer()
            await wait_all_tasks_blocked()
    assert broker.sent == list(range(20))


async def test_a_refusal_reaches_the_handle_and_the_supervisor(autojump_clock: MockClock) -> None:
    broker = Broker()
    async with opened(broker) as bus:
        handle = bus.dispatch_nowait(Parcel(1))
        refusal = DriverError("refused")
        broker.posted.popleft()[1](refusal)
        await handle.wait()
        (error,) = handle.errors
        assert error.__cause__ is refusal
        assert error.listener == "driver"
        assert bus.errors == (error,)


async def test_an_event_that_cannot_be_encoded_fails_alone(autojump_clock: MockClock) -> None:
    broker = Broker()
    async with opened(broker) as bus:
        for n in range(6):
            bus.dispatch_nowait(Parcel(n, float("nan") if n in (1, 5) else 1.0))
        await broker.answer_all()
        assert broker.sent == [0, 2, 3, 4]
        assert [type(error.__cause__) for error in bus.errors] == [EncodeError] * 2


async def test_many_events_in_a_row_may_be_unencodable(autojump_clock: MockClock) -> None:
    broker = Broker()
    async with opened(broker) as bus:
        for n in range(IN_FLIGHT):
            bus.dispatch_nowait(Parcel(n))
        for _ in range(MAX_WAITING_EVENTS):
            bus.dispatch_nowait(Parcel(0, float("inf")))
        await broker.answer_all()
        assert len(broker.sent) == IN_FLIGHT
        assert bus.error_count == MAX_WAITING_EVENTS


async def test_a_second_reply_changes_nothing(autojump_clock: MockClock) -> None:
    broker = Broker()
    async with opened(broker) as bus:
        handle = bus.dispatch_nowait(Parcel(1))
        _, replied = broker.posted.popleft()
        replied(Receipt(id="first"))
        replied(DriverError("second"))
        assert (handle.receipt, handle.errors, handle.pending) == ("first", (), 0)


async def test_a_reply_without_a_receipt_settles(autojump_clock: MockClock) -> None:
    broker = Broker()
    async with opened(broker) as bus:
        handle = bus.dispatch_nowait(Parcel(1))
        broker.posted.popleft()[1](None)
        assert (handle.done, handle.receipt, handle.receivers) == (True, "", None)


async def test_the_bus_waits_for_replies(autojump_clock: MockClock) -> None:
    broker = Broker()
    order: list[str] = []
    async with opened(broker) as bus, trio.open_nursery() as nursery:
        for n in range(IN_FLIGHT + 2):
            bus.dispatch_nowait(Parcel(n))

        async def wait() -> None:
            await bus.wait()
            order.append("waited")

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        order.append("answer")
        await broker.answer_all()
    assert order == ["answer", "waited"]


async def test_closing_waits_for_replies(autojump_clock: MockClock) -> None:
    broker = Broker()
    async with opened(broker) as bus:
        handles = [bus.dispatch_nowait(Parcel(n)) for n in range(IN_FLIGHT + 2)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.answer_all)
            await bus.close(60)
            assert all(handle.receipt for handle in handles)
    assert bus.error_count == 0


async def test_closing_waits_for_no_reply_to_events_that_are_left_to_workers(
    autojump_clock: MockClock,
) -> None:
    broker = Broker()
    async with opened(broker) as bus:
        for n in range(IN_FLIGHT + 2):
            bus.dispatch_nowait(Parcel(n))
        broker.room = 0
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.close)
            await wait_all_tasks_blocked()
            while broker.posted:  # in one step, as when a connection is lost
                broker.answer()
            await broker.answer_all()
        assert trio.current_time() == start
    assert broker.sent == [*range(IN_FLIGHT + 2)]


async def test_closing_waits_for_no_reply_to_events_that_cannot_be_encoded(
    autojump_clock: MockClock,
) -> None:
    broker = Broker()
    broker.capabilities = Capabilities(in_flight=1)
    async with opened(broker) as bus:
        bus.dispatch_nowait(Parcel(1))
        bus.dispatch_nowait(Parcel(2, float("nan")))
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.close)
            await broker.answer_all()
        assert trio.current_time() == start


async def test_a_posted_event_without_a_reply_is_abandoned_at_the_end(
    autojump_clock: MockClock,
) -> None:
    broker = Broker()
    async with opened(broker) as bus:
        handles = [bus.dispatch_nowait(Parcel(n)) for n in range(IN_FLIGHT + 2)]
        late = [replied for _, replied in broker.posted]
        start = trio.current_time()
        await bus.close(5)
        assert trio.current_time() == start + 5
    assert all(handle.errors[0].outcome == "abandoned" for handle in handles)
    for replied in late:
        replied(Receipt(id="late"))
    assert handles[0].receipt == ""
    assert bus.error_count == IN_FLIGHT + 2


async def test_the_bus_may_be_opened_again(autojump_clock: MockClock) -> None:
    broker = Broker()
    bus = opened(broker)
    for n in range(3):
        async with bus:
            handle = bus.dispatch_nowait(Parcel(n))
            broker.answer()
            assert handle.receipt == f"posted {n}"
    assert bus.error_count == 0


@pytest.mark.parametrize("seed", range(30))
async def test_any_sequence_of_replies_keeps_the_order_and_the_ledger(
    autojump_clock: MockClock, seed: int
) -> None:
    random = Random(seed)
    broker = Broker()
    settled: list[int] = []
    async with opened(broker) as bus, trio.open_nursery() as nursery:
        left = 300

        async def produce(start: int) -> None:
            for n in range(start, start + left):
                handle = await bus.dispatch(Parcel(n))
                if random.random() < 0.3:
                    with trio.move_on_after(random.choice([0, 1, 100])):
                        await handle.wait()
                        assert handle.done
                        assert handle.receipt.endswith(f" {n}")
                settled.append(n)

        async def serve() -> None:
            while len(settled) < 3 * left:
                broker.room = random.choice([0, 1, 5, 100])
                for _ in range(random.randrange(8)):
                    if broker.posted or broker.published:
                        broker.answer()
                await trio.sleep(random.choice([0, 0.5]))
            broker.room = 1_000_000
            await broker.answer_all()

        for start in (0, 1000, 2000):
            nursery.start_soon(produce, start)
        nursery.start_soon(serve)
    for start in (0, 1000, 2000):
        mine = [n for n in broker.sent if start <= n < start + 1000]
        assert mine == list(range(start, start + left))
    assert len(settled) == 3 * left
    assert bus.error_count == 0
