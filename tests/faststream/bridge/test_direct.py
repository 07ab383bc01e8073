"""The bridge of direct messages, with an adapter that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from tests.faststream.bridge.test_border import FaultyAdapter
from tests.support.direct_messages import DirectBus
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import until

from goevent import DriverConnectionError, DriverError, UnsupportedError
from goevent.drivers import TakeDirect
from goevent_faststream import FastStreamDriver
from goevent_faststream._adapter.contract import OutgoingDirect
from goevent_faststream._bridge import direct as direct_module

ANSWER = "goevent.replies.a1"


class HeldDirectMessages:
    """Direct messages that the adapter keeps until the test answers them."""

    def __init__(self) -> None:
        self.held: list[OutgoingDirect] = []
        self.opened: list[str] = []
        self.take: TakeDirect | None = None
        self.failure: Exception | None = None

    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        if self.failure is not None:
            raise self.failure
        self.take = take
        self.opened += addresses

    async def close_addresses(self, addresses: Sequence[str]) -> None:
        self.opened = [each for each in self.opened if each not in addresses]

    def send(self, burst: Sequence[OutgoingDirect]) -> None:
        self.held += burst
        if self.failure is not None:
            raise self.failure


class DirectAdapter(FaultyAdapter):
    """An adapter without a broker that carries direct messages."""

    def __init__(self) -> None:
        super().__init__("", RuntimeError, durable=False)
        self.direct = HeldDirectMessages()


def make_direct_bus() -> tuple[DirectBus, HeldDirectMessages]:
    driver = FastStreamDriver.from_url("nats://127.0.0.1:1")
    adapter = DirectAdapter()
    driver._adapter = adapter  # pyright: ignore[reportPrivateUsage]
    bus = DirectBus(driver)
    return bus, adapter.direct


async def connected(bus: DirectBus) -> Any:
    """Return the Trio side of an open bus."""
    return bus.driver._trio_side  # pyright: ignore[reportPrivateUsage]


async def on_loop(bus: DirectBus, call: Any, *args: Any) -> None:
    """Call a function on the loop."""

    async def work() -> None:
        call(*args)

    side: Any = await connected(bus)
    await side.call(work)


async def test_each_message_has_one_result_at_the_latest_when_the_bus_ends() -> None:
    bus, direct = make_direct_bus()
    async with bus:
        bus.post(ANSWER, b"1", b"2", b"3")
        await until(lambda: len(direct.held) == 3)
        await on_loop(bus, direct.held[1].done, 0)
        await on_loop(bus, direct.held[1].done, 5)
        await until(lambda: bus.results)
        assert bus.results == [0]
    assert len(bus.results) == 3
    assert all(isinstance(each, DriverConnectionError) for each in bus.results[1:])
    bus.post(ANSWER, b"4")
    assert isinstance(bus.results[3], DriverConnectionError)


async def test_result_of_the_last_moment_is_told() -> None:
    bus, direct = make_direct_bus()
    async with bus:
        bus.post(ANSWER, b"1")
        await until(lambda: direct.held)
        side: Any = await connected(bus)
        # Nobody takes it from the queue any more.
        side._tasks.cancel_scope.cancel()
        side._direct._items.items.append(direct.held[0])
        direct.held[0].result = 0
    assert bus.results == [0]


async def test_crash_of_the_loop_answers_all_messages() -> None:
    bus, direct = make_direct_bus()

    def crash() -> None:
        raise SystemExit

    async def body() -> None:
        async with bus:
            bus.post(ANSWER, b"1", b"2")
            await until(lambda: len(direct.held) == 2)
            side: Any = await connected(bus)
            side._loop_thread.call_soon(crash)
            await trio.sleep_forever()

    with trio.fail_after(HANG_SECONDS), pytest.raises((DriverError, BaseExceptionGroup)):
        await body()
    assert [type(each) for each in bus.results] == [DriverConnectionError] * 2


async def test_adapter_that_raises_fails_its_messages_and_not_the_bus() -> None:
    bus, direct = make_direct_bus()
    async with bus:
        direct.failure = ValueError("mine")
        (result,) = await bus.send(ANSWER, b"1")
        assert isinstance(result, DriverError)
        assert "mine" in str(result)
        direct.failure = DriverError("refused")
        with pytest.raises(DriverError, match="refused"):
            await bus.open_addresses(ANSWER)
        direct.failure = None
        bus.post(ANSWER, b"2")
        await until(lambda: len(direct.held) == 2)


async def test_waiting_messages_are_bounded_in_both_directions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(direct_module, "MAX_WAITING_BYTES", 1000)
    bus, direct = make_direct_bus()
    async with bus:
        # One of any size passes if no other one waits.
        bus.post(ANSWER, b"x" * 5000)
        bus.post(ANSWER, b"y")
        assert ["too many direct messages" in str(each) for each in bus.results] == [True]
        await until(lambda: direct.held)
        await on_loop(bus, direct.held[0].done, None)
        await until(lambda: len(bus.results) == 2)
        bus.post(ANSWER, b"z")
        await until(lambda: len(direct.held) == 2)

        await bus.open_addresses(ANSWER)
        take = direct.take
        assert take is not None

        def flood() -> None:
            # Trio takes none of them meanwhile: this blocks it.
            take(ANSWER, b"x" * 5000)
            for _ in range(100):
                take(ANSWER, b"lost")

        flood_in_trio_thread(flood)
        await until(lambda: bus.taken)
        await on_loop(bus, take, ANSWER, b"after")
        await until(lambda: len(bus.taken) == 2)
        assert [data[:5] for _, data in bus.taken] == [b"xxxxx", b"after"]
        await until(lambda: bus.reports)
    assert bus.count_reports("direct messages are lost") == 1
    assert len(bus.reports) == 1


def flood_in_trio_thread(flood: Any) -> None:
    """Call it here, as no loop does, so that Trio takes nothing before it ends."""
    flood()


async def test_messages_to_closed_addresses_are_dropped() -> None:
    bus, direct = make_direct_bus()
    async with bus:
        await bus.open_addresses(ANSWER, "second")
        assert direct.opened == [ANSWER, "second"]
        await bus.driver.close_addresses([ANSWER])
        assert direct.opened == ["second"]
        assert direct.take is not None
        for address in (ANSWER, "never", "second"):
            await on_loop(bus, direct.take, address, b"1")
        await until(lambda: bus.taken)
        assert bus.taken == [("second", b"1")]


async def test_refused_opening_leaves_earlier_addresses_open() -> None:
    bus, direct = make_direct_bus()
    async with bus:
        await bus.open_addresses(ANSWER)
        direct.failure = DriverError("refused")
        with pytest.raises(DriverError):
            await bus.open_addresses(ANSWER, "second")
        direct.failure = None
        assert direct.take is not None
        await on_loop(bus, direct.take, "second", b"1")
        await on_loop(bus, direct.take, ANSWER, b"2")
        await until(lambda: bus.taken)
        assert bus.taken == [(ANSWER, b"2")]


async def test_driver_without_direct_messages_refuses_them() -> None:
    driver = FastStreamDriver.from_url("nats://127.0.0.1:1")
    driver._adapter = FaultyAdapter("", RuntimeError, durable=False)  # pyright: ignore[reportPrivateUsage]
    bus = DirectBus(driver)
    async with bus:
        with pytest.raises(UnsupportedError):
            await bus.open_addresses(ANSWER)
        with pytest.raises(UnsupportedError):
            await bus.driver.close_addresses([ANSWER])
        bus.post(ANSWER, b"1")
        assert isinstance(bus.results[0], UnsupportedError)
