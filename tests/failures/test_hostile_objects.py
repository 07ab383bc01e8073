"""Objects of the application whose own code fails while the bus reports a failure."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
import trio
from tests.support.checks import adds_up
from tests.support.events import REGISTRY, Ping, Pong
from tests.support.hostile import EXCEPTIONS, HostileCallable, HostileEvent, refuse
from tests.support.ways import WAYS, Way

from goevent import (
    Config,
    Delivery,
    DispatchHandle,
    Event,
    EventError,
    EventVetoed,
    GoEvent,
    MemoryDriver,
    MemoryHub,
    Retry,
    Supervision,
    Veto,
)
from goevent.middleware import LogEvents


def make(**config: Any) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, **config))


def raising(error: Exception) -> Any:
    def handler(event: Any) -> None:
        raise error

    return handler


async def goes_on(bus: GoEvent) -> bool:
    """Tell whether a bus still takes events to its listeners."""
    ran: list[Pong] = []
    bus.subscribe(ran.append, Pong)
    handle = await bus.dispatch(Pong(1))
    await handle.wait()
    return (len(ran), handle.errors) == (1, ())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", EXCEPTIONS)
async def test_hostile_exception_is_reported_as_any_other(
    name: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = EXCEPTIONS[name]()
    bus = make()
    WAYS[way].register(bus, raising(error))
    with caplog.at_level(logging.INFO, "goevent"):
        async with bus:
            for event in (Ping(1), Ping(2)):
                await (await bus.dispatch(event)).wait()
            handle = await bus.dispatch(Ping(3))
            await handle.wait()
            assert WAYS[way].event is not Ping or await goes_on(bus)
            ledger = await bus.close()
    # Nobody has looked at the failures of the first two.
    assert "nobody handled: listener failed on 'test.ping'" in caplog.text
    stops = "stop" in way or "once" in way
    assert adds_up(ledger)
    assert ledger.failed == bus.error_count == (1 if stops else 3)
    assert [failure.error is error for failure in handle.errors] == ([] if stops else [True])
    for failure in bus.errors:
        assert failure.error is error
        assert failure.attempts == WAYS[way].attempts
        for text in (failure.reason, failure.details, repr(failure), str(failure)):
            assert text.encode()
        assert failure.as_text().reason == failure.reason


@pytest.mark.parametrize("way", ["inline", "inline async", "mailbox", "async, timeout", "thread"])
@pytest.mark.parametrize("name", EXCEPTIONS)
async def test_hostile_exception_reaches_on_error_and_the_snapshot(name: str, way: str) -> None:
    error = EXCEPTIONS[name]()
    bus = make()
    told: list[EventError] = []
    bus.on_error(told.append)
    WAYS[way].register(bus, raising(error))
    async with bus:
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
        assert "listener failed" in str(bus.snapshot().listeners[0].last_error)
    assert [failure.error is error for failure in told] == [True]


@pytest.mark.parametrize("way", ["inline", "inline async", "mailbox", "async, timeout", "thread"])
@pytest.mark.parametrize("name", EXCEPTIONS)
async def test_hostile_exception_crosses_a_hub(name: str, way: str) -> None:
    hub = MemoryHub()
    error = EXCEPTIONS[name]()
    sender, receiver = make(driver=MemoryDriver(hub)), make(driver=MemoryDriver(hub))
    WAYS[way].register(receiver, raising(error))
    async with receiver, sender:
        for n in range(2):
            await (await sender.dispatch(Ping(n))).wait()
        with trio.fail_after(30):
            while receiver.error_count < 2:
                await trio.sleep(0.001)
        ledger = await receiver.close()
    assert (ledger.accepted, ledger.failed) == (2, 2)
    assert [failure.error is error for failure in receiver.errors] == [True, True]


@pytest.mark.parametrize("name", EXCEPTIONS)
async def test_hostile_exception_of_middleware_names_the_middleware(name: str) -> None:
    error = EXCEPTIONS[name]()

    class Before:
        def around_call(self, delivery: Delivery) -> Iterator[None]:
            raise error
            yield

    class After:
        async def around_dispatch(self, handle: DispatchHandle) -> AsyncIterator[None]:
            yield
            raise error

    bus = make(middleware=(After(),))
    bus.subscribe(lambda event: None, Ping, async_=True, middleware=(Before(),))
    async with bus:
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
        ledger = await bus.close()
    reported = {failure.listener: failure.error for failure in handle.errors}
    assert [listener.rpartition(".")[2] for listener in sorted(reported)] == ["After", "Before"]
    assert all(each is error for each in reported.values())
    assert (ledger.accepted, ledger.failed) == (1, 1)


@pytest.mark.parametrize("name", EXCEPTIONS)
async def test_hostile_exception_of_a_listener_is_not_taken_for_that_of_middleware(
    name: str,
) -> None:
    error = EXCEPTIONS[name]()
    seen: list[Exception] = []

    class Outer:
        async def around_call(self, delivery: Delivery) -> AsyncIterator[None]:
            try:
                yield
            except Exception as passing:
                seen.append(passing)
                raise

    class Inner:
        def around_call(self, delivery: Delivery) -> Iterator[None]:
            yield

    bus = make()
    bus.subscribe(raising(error), Ping, async_=True, middleware=(Outer(), Inner()), name="listener")
    async with bus:
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
    [failure] = handle.errors
    assert failure.listener == "listener"
    assert failure.error is error
    assert [each is error for each in seen] == [True]


@pytest.mark.parametrize("name", EXCEPTIONS)
async def test_hostile_exception_of_other_functions_fails_the_event(name: str) -> None:
    error = EXCEPTIONS[name]()
    bus = make()
    ran: list[Any] = []
    bus.subscribe(ran.append, Ping, when=raising(error))
    bus.subscribe(ran.append, Ping, async_=True, ordering_key=raising(error))
    bus.subscribe(
        raising(ValueError("x")), Ping, async_=True, retry=Retry(backoff=0.0, on=raising(error))
    )
    async with bus:
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
        assert await goes_on(bus)
        ledger = await bus.close()
    assert [failure.error is error for failure in handle.errors] == [True] * 3
    assert (ran, ledger.failed) == ([], 3)
    assert adds_up(ledger)


@pytest.mark.parametrize("name", EXCEPTIONS)
async def test_retry_applies_to_a_hostile_exception(name: str) -> None:
    error = EXCEPTIONS[name]()
    bus = make()
    runs = 0

    @bus.listener(
        Ping, async_=True, retry=Retry(attempts=3, backoff=0.0, on=type(error), not_on=KeyError)
    )
    def fail(event: Ping) -> None:
        nonlocal runs
        runs += 1
        raise error

    async with bus:
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
    assert (runs, len(handle.errors)) == (3, 1)
    assert [each is error for each in handle.errors[0].causes] == [True] * 3


@pytest.mark.parametrize("name", EXCEPTIONS)
async def test_hostile_exception_of_an_error_callback_is_logged(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    bus = make()
    bus.on_error(raising(EXCEPTIONS[name]()))
    Way({}).register(bus, raising(ValueError("x")))
    async with bus:
        await bus.dispatch(Ping(1))
    assert "an on_error callback failed on: listener failed on 'test.ping'" in caplog.text


@pytest.mark.parametrize("name", EXCEPTIONS)
async def test_hostile_exception_escalates(name: str) -> None:
    error = EXCEPTIONS[name]()
    bus = make()
    bus.subscribe(raising(error), Ping, async_=True, supervision=Supervision("escalate"))

    async def run() -> None:
        async with bus:
            await bus.dispatch(Ping(1))
            await trio.sleep_forever()

    with pytest.raises(EventError) as raised:
        await run()
    assert raised.value.error is error


@pytest.mark.parametrize("name", EXCEPTIONS)
async def test_hostile_exception_beside_an_open_scope_is_reported(name: str) -> None:
    error = EXCEPTIONS[name]()
    bus = make()

    async def leave_open(event: Ping) -> None:
        trio.CancelScope().__enter__()
        raise error

    bus.subscribe(leave_open, Ping)
    bus.subscribe(leave_open, Ping, async_=False)
    async with bus:
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
        assert await goes_on(bus)
    assert ["left a cancel scope" in failure.reason for failure in handle.errors] == [True, True]
    assert all(failure.details for failure in handle.errors)


@pytest.mark.parametrize("way", WAYS)
async def test_hostile_event_is_handled_as_any_other(way: str) -> None:
    bus = make()
    fails = False
    options = {**WAYS[way].options}
    options.pop("ordering_key", None)
    chosen = Way(options, WAYS[way].suspends, "test.*" if WAYS[way].event != "**" else "**")

    def handler(event: Any) -> None:
        if fails:
            raise ValueError("no")

    chosen.register(bus, handler)
    async with bus:
        first = await bus.dispatch(HostileEvent(1))
        await first.wait()
        assert first.errors == ()
        fails = True
        second = await bus.dispatch(HostileEvent(2))
        await second.wait()
        assert all("ValueError: no" in str(failure) for failure in second.errors)
        ledger = await bus.close()
    assert adds_up(ledger)
    assert ledger.failed == len(second.errors) == ("once" not in way)


@pytest.mark.parametrize(
    "options", [{}, {"async_": True}, {"thread": True}, {"once": True}, {"async_": False}], ids=str
)
async def test_hostile_callable_is_a_listener(options: dict[str, Any]) -> None:
    bus = make()
    ran: list[Any] = []
    key = HostileCallable(lambda event: event.n)
    wants = HostileCallable(lambda event: True)

    bus.subscribe(HostileCallable(ran.append), Ping, when=wants, **options)
    if options == {"async_": True}:
        bus.subscribe(HostileCallable(ran.append), Ping, ordering_key=key, **options)
    bus.subscribe(HostileCallable(raising(ValueError("x"))), Ping, **options)
    async with bus:
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
        assert bus.snapshot().ledger.failed == 1
    assert [failure.listener for failure in handle.errors] == ["HostileCallable"]
    assert len(ran) == 1 + (options == {"async_": True})


async def test_hostile_callable_keeps_order_by_key() -> None:
    """A callable without a truth value is an `ordering_key` all the same."""
    bus = make()
    running, most = 0, 0

    async def handler(event: Ping) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0)
        running -= 1

    bus.subscribe(handler, Ping, ordering_key=HostileCallable(lambda event: 1))
    async with bus:
        for n in range(5):
            await bus.dispatch(Ping(n))
    assert (most, bus.snapshot().ledger.completed) == (1, 5)


async def test_hostile_handler_of_the_log_does_not_end_the_bus(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Broken(logging.Filter):
        filter = refuse

    broken = Broken()
    logger = logging.getLogger("goevent")
    logger.addFilter(broken)
    bus = make(slow_after=1e-9)
    bus.subscribe(raising(ValueError("x")), Ping)
    bus.subscribe(raising(ValueError("x")), Ping, async_=True)
    try:
        async with bus:
            await bus.dispatch(Ping(1))
            await bus.wait()
            assert await goes_on(bus)
    finally:
        logger.removeFilter(broken)
    assert "ZeroDivisionError: code of a hostile object ran" in capsys.readouterr().err
    assert bus.error_count == 2


async def test_log_of_events_does_not_fail_on_a_hostile_field(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = make(middleware=(LogEvents(payload=True, level=logging.INFO),))
    ran: list[Event] = []
    bus.subscribe(ran.append, "test.untyped")
    with caplog.at_level(logging.INFO, "goevent"):
        async with bus:
            handle = await bus.dispatch(Event("test.untyped", {"who": HostileCallable(print)}))
    assert (len(ran), handle.errors) == (1, ())
    assert "<it cannot be shown: ZeroDivisionError>" in caplog.text


async def test_veto_with_hostile_code_is_a_veto(caplog: pytest.LogCaptureFixture) -> None:
    class HostileVeto(Veto):
        __str__ = __setattr__ = refuse

    class Refuse:
        def around_call(self, delivery: Delivery) -> Iterator[None]:
            raise HostileVeto("no")
            yield

    bus = make(middleware=(LogEvents(), Refuse()))
    bus.subscribe(lambda event: None, Ping)
    async with bus:
        handle = await bus.dispatch(Ping(1))
    assert [type(error) for error in handle.errors] == [EventVetoed]
    assert "its __str__ raised ZeroDivisionError" in handle.errors[0].reason


@dataclass(unsafe_hash=True)
class Mutable:
    """An event that changes its own hash while it is a key."""

    n: int


REGISTRY.register_as("test.mutable", Mutable)


async def test_key_that_changes_while_its_event_runs_keeps_the_order_and_ends_no_bus() -> None:
    bus = make()
    ran: list[tuple[str, int]] = []

    async def change(event: Mutable) -> None:
        n, event.n = event.n, event.n + 100
        ran.append(("begin", n))
        await trio.lowlevel.checkpoint()
        ran.append(("end", n))

    bus.subscribe(change, "test.mutable", ordering_key=lambda event: event)
    async with bus:
        for n in (1, 1, 2, 1):
            bus.dispatch_nowait(Mutable(n))
        await bus.wait()
        ledger = await bus.close()
    assert ledger.completed == 4
    assert [entry for entry in ran if entry[1] == 1] == [("begin", 1), ("end", 1)] * 3


class KeyOnce:
    """A key that is hashed and compared a few times only."""

    def __init__(self, times: int) -> None:
        self.times = times

    def _count(self) -> None:
        self.times -= 1
        if self.times < 0:
            refuse()

    def __hash__(self) -> int:
        self._count()
        return 1

    def __eq__(self, other: object) -> bool:
        self._count()
        return self is other


@pytest.mark.parametrize("times", [0, 1, 2, 3, 5])
async def test_key_that_fails_later_ends_no_bus(times: int) -> None:
    bus = make()
    ran: list[Ping] = []

    async def note(event: Ping) -> None:
        await trio.lowlevel.checkpoint()
        ran.append(event)

    keys = [KeyOnce(times) for _ in range(5)]

    def key_of(event: Ping) -> KeyOnce:
        return keys[event.n % 5]

    registration = bus.subscribe(note, Ping, ordering_key=key_of)
    async with bus:
        handles = [await bus.dispatch(Ping(n)) for n in range(20)]
        await bus.wait()
        registration.unregister()
        assert await goes_on(bus)
        ledger = await bus.close()
    failed = sum(len(handle.errors) for handle in handles)
    assert adds_up(ledger)
    assert (ledger.failed, len(ran)) == (failed, 20 - failed)


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, Decimal(1)), (Decimal(1), 1), (True, 1), ((1, 2), (1, 2)), ("a", Text("a")), (1.0, 1)],
)
async def test_equal_keys_of_different_types_are_one_key(one: object, other: object) -> None:
    bus = make()
    running, most = 0, 0

    async def note(event: Ping) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.lowlevel.checkpoint()
        running -= 1

    bus.subscribe(note, Ping, ordering_key=lambda event: other if event.n % 2 else one)
    async with bus:
        for n in range(6):
            await bus.dispatch(Ping(n))
    assert (most, bus.snapshot().ledger.completed) == (1, 6)
