"""The channel of a tail: its bounds, its end, and the tail of a memory hub."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import trio
from tests.support.events import REGISTRY, Ping
from tests.support.limits import HANG_SECONDS
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import Config, DriverError, Event, GoEvent, MemoryDriver, MemoryHub, UnsupportedError
from goevent.drivers import TailChannel, TailedEvent, running_tail


def event(text: str, size: int = 1) -> TailedEvent:
    return TailedEvent(event_name=text, data=bytes(size))


async def test_a_full_channel_counts_what_its_reader_has_missed() -> None:
    channel = TailChannel(max_events=2)
    for name in ("a", "b", "c", "d", "e"):
        channel.put_nowait(event(name))
    shown = [await channel.receive(), await channel.receive()]
    channel.put_nowait(event("f"))
    shown += [await channel.receive(), await channel.receive()]
    told = [(each.event_name, each.missed) for each in shown]
    assert told == [("a", 0), ("b", 0), ("e", 2), ("f", 0)]


async def test_a_reader_that_catches_up_is_told_though_nothing_follows() -> None:
    channel = TailChannel(max_events=2)
    for n in range(100):
        channel.put_nowait(event(f"e{n}"))
    with trio.fail_after(HANG_SECONDS):
        shown = [await channel.receive() for _ in range(3)]
    told = [(each.event_name, each.missed) for each in shown]
    assert told == [("e0", 0), ("e1", 0), ("e99", 97)]


async def test_what_the_broker_has_left_out_is_counted_with_what_the_channel_leaves_out() -> None:
    channel = TailChannel(max_events=1)
    channel.put_nowait(event("a"))
    for missed in (0, 10, 0, 100):
        channel.put_nowait(TailedEvent(event_name="b", data=b"", missed=missed))
    with trio.fail_after(HANG_SECONDS):
        assert [(await channel.receive()).missed for _ in range(2)] == [0, 113]


async def test_a_channel_is_bounded_in_bytes_and_takes_one_event_of_any_size() -> None:
    channel = TailChannel(max_bytes=100)
    channel.put_nowait(event("large", 1000))
    channel.put_nowait(event("missed"))
    channel.put_nowait(event("newest"))
    assert not channel.has_room
    assert (await channel.receive()).event_name == "large"
    newest = await channel.receive()
    assert (newest.event_name, newest.missed) == ("newest", 1)


async def test_put_waits_for_room_and_a_cancelled_put_puts_nothing_in(
    autojump_clock: MockClock,
) -> None:
    channel = TailChannel(max_events=1)
    await channel.put(event("a"))
    with trio.move_on_after(1):
        await channel.put(event("cancelled"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.put, event("b"))
        await wait_all_tasks_blocked()
        assert (await channel.receive()).event_name == "a"
        assert (await channel.receive()).event_name == "b"
    assert channel.has_room


async def test_a_tail_that_fails_later_tells_its_reader_after_the_events() -> None:
    async def show(channel: TailChannel, started: Callable[[], None]) -> None:
        started()
        channel.put_nowait(event("last"))
        raise DriverError("the right was withdrawn")

    async with running_tail(show) as channel:
        assert (await channel.receive()).event_name == "last"
        for _ in range(2):
            with pytest.raises(DriverError, match="withdrawn"):
                await channel.receive()


async def test_a_tail_that_cannot_start_raises_its_error_without_a_group() -> None:
    async def show(channel: TailChannel, started: Callable[[], None]) -> None:
        raise DriverError("refused")

    with pytest.raises(DriverError, match="refused"):
        async with running_tail(show):
            pytest.fail("the block has begun")


async def test_an_error_of_the_block_leaves_it_as_it_is(autojump_clock: MockClock) -> None:
    async def show(channel: TailChannel, started: Callable[[], None]) -> None:
        started()
        await trio.sleep_forever()

    opened: list[TailChannel] = []

    async def fail_inside() -> None:
        async with running_tail(show) as channel:
            opened.append(channel)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail_inside()
    (channel,) = opened
    with pytest.raises(trio.ClosedResourceError):
        await channel.receive()
    await channel.put(event("dropped"))


async def test_a_closed_channel_wakes_its_reader_and_its_writer(
    autojump_clock: MockClock,
) -> None:
    channel = TailChannel(max_events=1)

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await channel.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        await channel.aclose()
    channel = TailChannel(max_events=1)
    async with trio.open_nursery() as nursery:
        await channel.put(event("a"))
        nursery.start_soon(channel.put, event("b"))
        await wait_all_tasks_blocked()
        await channel.aclose()


async def test_a_tail_of_a_hub_shows_own_events_and_unencodable_ones() -> None:
    hub = MemoryHub()
    driver = MemoryDriver(hub)
    bus = GoEvent(Config(registry=REGISTRY, driver=driver))
    async with bus, driver.tail("**") as channel:
        await (await bus.dispatch(Ping(n=7))).wait()
        await (await bus.dispatch(Event("ad.hoc", {"f": object}))).wait()
        shown = [await channel.receive(), await channel.receive()]
    assert [each.event_name for each in shown] == [Ping.event_name, "ad.hoc"]
    assert msgspec.json.decode(shown[0].data)["event_data"]["n"] == 7
    assert shown[1].data == b""
    assert shown[0].id
    assert shown[0].time


async def test_a_bus_without_a_hub_has_nothing_to_show() -> None:
    driver = MemoryDriver()
    with pytest.raises(UnsupportedError, match="alone"):
        driver.tail("**")
    assert await driver.check(["a"]) == ()


async def test_a_pattern_that_makes_no_sense_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"bad name!"):
        MemoryDriver(MemoryHub()).tail("bad name!")
