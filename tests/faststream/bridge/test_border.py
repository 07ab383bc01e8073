"""The bridge's border: whatever an adapter or its client raises is a `DriverError`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
from tests.support.faststream_buses import FastStreamBus
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import OrderLost, Paid, until

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Backlog, Capabilities
from goevent_faststream import FastStreamDriver
from goevent_faststream._adapter.contract import (
    AdapterHost,
    Arrival,
    Decision,
    Outgoing,
    publish_each,
)


class Mine(Exception):
    """An exception of a client."""


class FaultyAdapter:
    """An adapter without a broker, whose methods raise."""

    def __init__(self, fails: str, make: Callable[[], BaseException], *, durable: bool) -> None:
        self.capabilities = Capabilities(durable=durable, fan_out=not durable, in_flight=100)
        self.fails = fails
        self.make = make
        self.host: AdapterHost | None = None
        self.calls: list[str] = []

    def call(self, method: str) -> None:
        self.calls.append(method)
        if method == self.fails:
            raise self.make()

    @property
    def inspection(self) -> object:
        return self

    async def open(self, host: AdapterHost) -> None:
        self.host = host
        self.call("open")

    async def close(self) -> None:
        self.call("close")

    async def subscribe(self, names: Sequence[str]) -> None:
        self.call("subscribe")

    async def unsubscribe(self, names: Sequence[str]) -> None:
        self.call("unsubscribe")

    async def stop_receiving(self) -> None:
        self.call("stop_receiving")

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        self.call("publish")
        for outgoing in burst[1:]:
            outgoing.done(None)
        self.call("publish the first")
        if self.fails == "publish each":
            await publish_each(burst[:1], self.publish_one)
        else:
            burst[0].done(None)

    async def publish_one(self, outgoing: Outgoing) -> None:
        self.call("publish each")

    async def settle(self, decisions: Sequence[Decision]) -> None:
        self.call("settle")

    def backlogs(self) -> tuple[Backlog, ...]:
        self.call("backlogs")
        return ()


EXCEPTIONS: list[Callable[[], Exception]] = [
    lambda: ValueError("a value"),
    lambda: KeyError("a key"),
    lambda: RuntimeError("a state"),
    Mine,
    lambda: ExceptionGroup("client", [ExceptionGroup("inner", [KeyError("a key")])]),
    asyncio.InvalidStateError,
]
UNREACHABLE: list[Callable[[], Exception]] = [
    lambda: ConnectionResetError(104, "reset"),
    lambda: TimeoutError("late"),
    lambda: ExceptionGroup("client", [OSError(113, "no route")]),
]
each_exception = pytest.mark.parametrize("make", [*EXCEPTIONS, *UNREACHABLE])


def make_bus(
    fails: str, make: Callable[[], BaseException], *, durable: bool = False
) -> tuple[FastStreamBus, FaultyAdapter]:
    driver = FastStreamDriver.from_url("nats://127.0.0.1:1")
    adapter = FaultyAdapter(fails, make, durable=durable)
    driver._adapter = adapter  # pyright: ignore[reportPrivateUsage]
    return FastStreamBus(driver), adapter


async def refused(bus: FastStreamBus) -> bool:
    """Tell whether a subscription of the bus is refused."""
    try:
        await bus.ready()
    except DriverError:
        return True
    return False


def kind_of(make: Callable[[], Exception]) -> type[DriverError]:
    return DriverConnectionError if make in UNREACHABLE else DriverError


@each_exception
@pytest.mark.parametrize("method", ["open", "subscribe", "close"])
async def test_opening_and_closing_raise_one_driver_error(
    make: Callable[[], Exception], method: str
) -> None:
    bus, _ = make_bus(method, make)
    bus.seen(Paid)
    with trio.fail_after(HANG_SECONDS), pytest.raises(DriverError) as caught:
        async with bus:
            pass
    assert type(caught.value) is kind_of(make)
    assert not isinstance(caught.value.__cause__, ExceptionGroup)


@each_exception
async def test_a_refused_subscription_reaches_ready_and_is_reported_once(
    make: Callable[[], Exception],
) -> None:
    bus, adapter = make_bus("", make)
    async with bus:
        adapter.fails = "subscribe"
        with trio.fail_after(HANG_SECONDS), pytest.raises(DriverError) as caught:
            await bus.subscribe(print, Paid).ready()
        assert type(caught.value) is kind_of(make)
        # Publishing goes on.
        handle = await bus.dispatch(OrderLost())
        await handle.wait()
        assert handle.errors == ()
        await until(lambda: adapter.calls.count("subscribe") > 2)
        assert [error.event_name for error in bus.reports] == ["order.paid"]
        adapter.fails = ""
        with trio.fail_after(HANG_SECONDS):
            while await refused(bus):
                await trio.sleep(0.01)


@each_exception
async def test_events_of_a_name_that_could_not_be_subscribed_to_do_not_arrive(
    make: Callable[[], Exception],
) -> None:
    bus, adapter = make_bus("", make)
    async with bus:
        adapter.fails = "subscribe"
        got = bus.seen(Paid)
        with pytest.raises(DriverError):
            await bus.ready()
        names = bus.driver._trio_side._names  # type: ignore[union-attr]  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
        assert [*names] == []
        assert got == []


@each_exception
@pytest.mark.parametrize("method", ["publish", "publish the first", "publish each"])
async def test_a_client_that_fails_to_publish_fails_these_events_only(
    make: Callable[[], Exception], method: str
) -> None:
    bus, adapter = make_bus(method, make)
    async with bus:
        handles = [bus.dispatch_nowait(Paid(n=n)) for n in range(3)]
        with trio.fail_after(HANG_SECONDS):
            for handle in handles:
                await handle.wait()
        failed = [handle for handle in handles if handle.errors]
        assert len(failed) == (3 if method == "publish" else 1)
        assert all(isinstance(handle.errors[0].error, DriverError) for handle in failed)
        adapter.fails = ""
        handle = await bus.dispatch(Paid(n=4))
        await handle.wait()
        assert handle.errors == ()


@each_exception
async def test_a_client_that_fails_to_settle_ends_the_bus_with_a_driver_error(
    make: Callable[[], Exception],
) -> None:
    bus, adapter = make_bus("settle", make, durable=True)
    driver: Any = bus.driver
    driver._config = type(driver.config)(group="border")
    bus.seen(Paid)

    async def deliver() -> None:
        assert adapter.host is not None
        await adapter.host.deliver(Arrival("order.paid", "order.paid", b"{}"))

    async def body() -> None:
        async with bus:
            await driver._call(deliver)
            await trio.sleep_forever()

    with trio.fail_after(HANG_SECONDS), pytest.raises(DriverError, match="has failed"):
        await body()


@each_exception
async def test_a_client_that_fails_to_stop_or_to_unsubscribe_is_reported(
    make: Callable[[], Exception],
) -> None:
    for method in ("stop_receiving", "unsubscribe"):
        bus, _ = make_bus(method, make)
        registration = bus.subscribe(print, Paid)
        async with bus:
            if method == "unsubscribe":
                registration.unregister()
                await until(lambda bus=bus: bus.reports)  # type: ignore[misc]
        assert len(bus.errors) == 1


@each_exception
async def test_backlogs_that_cannot_be_told_are_a_driver_error(
    make: Callable[[], Exception],
) -> None:
    bus, _ = make_bus("backlogs", make)
    async with bus:
        with pytest.raises(DriverError):
            bus.snapshot()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_an_exit_in_the_thread_of_the_loop_ends_the_bus(kind: type[BaseException]) -> None:
    bus, _ = make_bus("subscribe", kind)
    bus.seen(Paid)
    with trio.fail_after(HANG_SECONDS), pytest.raises((kind, BaseExceptionGroup)) as caught:
        async with bus:
            pytest.fail("it opened")
    assert isinstance(caught.value, kind) or caught.group_contains(kind)
