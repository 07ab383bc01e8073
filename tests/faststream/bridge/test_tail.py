"""The tail of the bridge: bounds, order, errors, and the ends of the reader and of the bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from tests.faststream.bridge.test_border import FaultyAdapter
from tests.support.faststream_buses import FastStreamBus
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Paid, until

from goevent import BusForked, DriverError, UnsupportedError
from goevent.drivers import Finding, TailedEvent
from goevent_faststream import FastStreamDriver
from goevent_faststream._bridge.tail import MAX_WAITING_BYTES, MAX_WAITING_EVENTS

Show = Callable[[TailedEvent], Coroutine[Any, Any, None]]


class TailingAdapter(FaultyAdapter):
    """An adapter that shows numbered events as fast as it may."""

    def __init__(
        self, count: int = 10**9, size: int = 1, *, refusal: str = "", end: str = ""
    ) -> None:
        super().__init__("", ValueError, durable=False)
        self.count = count
        self.data = b"." * size
        self.refusal = refusal
        self.end = end
        self.shown = 0
        self.is_ended = False

    async def tail(self, pattern: str, show: Show, started: Callable[[], None]) -> None:
        if self.refusal:
            raise UnsupportedError(self.refusal)
        started()
        try:
            while self.shown < self.count:
                await show(TailedEvent(event_name=pattern, data=self.data, id=str(self.shown)))
                self.shown += 1
            if self.end:
                raise RuntimeError(self.end)
            await asyncio.Event().wait()
        finally:
            self.is_ended = True


@asynccontextmanager
async def tailing(adapter: FaultyAdapter) -> AsyncGenerator[FastStreamBus]:
    """Open a bus on an adapter."""
    driver = FastStreamDriver.from_url("nats://127.0.0.1:1")
    driver._adapter = adapter  # pyright: ignore[reportPrivateUsage]
    bus = FastStreamBus(driver)
    with trio.fail_after(HANG_SECONDS):
        async with bus:
            yield bus


async def test_events_reach_the_reader_in_order() -> None:
    adapter = TailingAdapter(3 * MAX_WAITING_EVENTS)
    async with tailing(adapter) as bus, bus.driver.tail("a.b") as events:
        ids = [int((await events.receive()).id) for _ in range(adapter.count)]
    assert ids == [*range(adapter.count)]


class HostileAdapter(TailingAdapter):
    """An adapter that shows messages of other programs, and then an event."""

    async def tail(self, pattern: str, show: Show, started: Callable[[], None]) -> None:
        started()
        for name in ("", "a.", "a.\x1b[31m", "a.\udcff", "a.é", "a.*", "**", "a" * 10_000, "a.b"):
            await show(TailedEvent(event_name=name, data=b""))
        await asyncio.Event().wait()


async def test_messages_whose_name_is_no_event_name_are_not_shown() -> None:
    async with tailing(HostileAdapter()) as bus, bus.driver.tail("**") as events:
        assert (await events.receive()).event_name == "a.b"


async def test_a_slow_reader_holds_back_the_adapter() -> None:
    adapter = TailingAdapter()
    async with tailing(adapter) as bus, bus.driver.tail("a.b") as events:
        await until(lambda: adapter.shown == MAX_WAITING_EVENTS)
        # The bus itself goes on.
        assert await bus.driver._call(idle) == "idle"  # pyright: ignore[reportPrivateUsage]
        assert adapter.shown == MAX_WAITING_EVENTS
        for _ in range(MAX_WAITING_EVENTS):
            await events.receive()
        await until(lambda: adapter.shown > MAX_WAITING_EVENTS)
    await until(lambda: adapter.is_ended)


async def test_large_events_are_bounded_by_their_bytes() -> None:
    adapter = TailingAdapter(size=MAX_WAITING_BYTES // 4)
    async with tailing(adapter) as bus, bus.driver.tail("a.b") as events:
        await until(lambda: adapter.shown == 4)
        for number in range(20):
            assert (await events.receive()).id == str(number)


async def test_a_refusal_is_raised_where_the_block_is_entered() -> None:
    async with tailing(TailingAdapter(refusal="no tails here")) as bus:
        with pytest.raises(UnsupportedError, match="no tails here"):
            async with bus.driver.tail("a.b"):
                pass


async def test_a_failure_of_the_adapter_comes_behind_its_events_and_leaves_the_bus_open() -> None:
    adapter = TailingAdapter(5, end="a defect")
    async with tailing(adapter) as bus, bus.driver.tail("a.b") as events:
        for number in range(5):
            assert (await events.receive()).id == str(number)
        with pytest.raises(DriverError, match="a defect"):
            await events.receive()
        handle = await bus.dispatch(Paid(n=1))
        await handle.wait()
        assert handle.errors == ()


async def test_an_error_of_the_reader_is_not_wrapped() -> None:
    adapter = TailingAdapter()
    async with tailing(adapter) as bus:
        with pytest.raises(ZeroDivisionError):
            async with bus.driver.tail("a.b"):
                raise ZeroDivisionError
        await until(lambda: adapter.is_ended)


async def test_the_channel_ends_when_the_bus_closes_while_it_is_read() -> None:
    adapter = TailingAdapter(1)
    seen: list[TailedEvent] = []

    async def read(task_status: trio.TaskStatus[None]) -> None:
        async with bus.driver.tail("a.b") as events:
            task_status.started()
            async for event in events:
                seen.append(event)

    async with trio.open_nursery() as nursery, tailing(adapter) as bus:
        await nursery.start(read)
        await until(lambda: bool(seen))
    assert len(seen) == 1
    assert adapter.is_ended


async def test_a_reader_that_closes_its_end_ends_the_tail() -> None:
    adapter = TailingAdapter()
    async with tailing(adapter) as bus, bus.driver.tail("a.b") as events:
        await events.receive()
        await events.aclose()
        await until(lambda: adapter.is_ended)
        with pytest.raises(trio.ClosedResourceError):
            await events.receive()


async def test_a_fork_of_the_process_reads_no_more() -> None:
    async with tailing(TailingAdapter(1)) as bus, bus.driver.tail("a.b") as events:
        bus.driver._trio_side._tails.copy().pop().fork()  # type: ignore[union-attr]  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
        with pytest.raises(BusForked):
            await events.receive()


async def test_a_pattern_that_is_none_is_wrong_use() -> None:
    async with tailing(TailingAdapter()) as bus:
        with pytest.raises(ValueError, match="pattern"):
            bus.driver.tail("a..b")


async def test_an_adapter_without_answers_says_so_in_words() -> None:
    async with tailing(FaultyAdapter("", ValueError, durable=False)) as bus:
        with pytest.raises(UnsupportedError, match="cannot show the events that pass"):
            bus.driver.tail("a.b")
        with pytest.raises(UnsupportedError, match="cannot tell the backlog of a group"):
            await bus.driver.lag("g")
        with pytest.raises(UnsupportedError, match="cannot check its broker"):
            await bus.driver.check(["a.b"])


async def test_findings_come_errors_first() -> None:
    class CheckedAdapter(FaultyAdapter):
        async def check(self, names: list[str]) -> list[Finding]:
            return [
                Finding(severity="warning", text="w"),
                Finding(severity="error", text=names[0]),
            ]

    async with tailing(CheckedAdapter("", ValueError, durable=False)) as bus:
        found = await bus.driver.check(["a.b"])
    assert [finding.text for finding in found] == ["a.b", "w"]


async def idle() -> str:
    """Return from the loop."""
    return "idle"
