"""Middleware on a bus: hooks around dispatches, deliveries and runs, and their limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from tests.support.checks import ignore_error
from tests.support.events import REGISTRY, Ping, Pong
from tests.support.limits import HANG_SECONDS
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    BusClosed,
    Config,
    Delivery,
    DispatchHandle,
    Event,
    EventError,
    EventVetoed,
    GoEvent,
    Ledger,
    ListenerOptions,
    MailboxFull,
    MemoryDriver,
    MemoryHub,
    Retry,
    Supervision,
    Veto,
    current_delivery,
)

EVERY = [
    {},
    {"async_": True},
    {"thread": True},
]  # the options that make a `def` each kind of listener


def make(*middleware: Any, **config: Any) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, middleware=middleware, **config))


class Trace:
    """Records when it is entered and left, and its subject."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    @contextmanager
    def noted(self, what: str) -> Generator[None]:
        self.log.append(f"{self.name} {what}")
        try:
            yield
        except BaseException as error:
            self.log.append(f"{self.name} {what} raised {type(error).__name__}")
            raise
        self.log.append(f"{self.name} {what} done")


class Around(Trace):
    def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
        with self.noted(f"dispatch {handle.event_name}"):
            yield

    def around_delivery(self, handle: DispatchHandle, /) -> Iterator[None]:
        with self.noted(f"delivery {handle.event_name}"):
            yield

    def around_call(self, delivery: Delivery, /) -> Iterator[None]:
        with self.noted(f"call {delivery.listener}"):
            yield


class AsyncAround(Trace):
    async def around_dispatch(self, handle: DispatchHandle, /) -> AsyncIterator[None]:
        with self.noted(f"dispatch {handle.event_name}"):
            await trio.sleep(0)
            yield

    async def around_delivery(self, handle: DispatchHandle, /) -> AsyncIterator[None]:
        with self.noted(f"delivery {handle.event_name}"):
            await trio.sleep(0)
            yield


class AsyncAroundCall(Trace):
    async def around_call(self, delivery: Delivery, /) -> AsyncIterator[None]:
        with self.noted(f"call {delivery.listener}"):
            await trio.sleep(0)
            yield


class PausedHook:
    """Async middleware that waits around a dispatch until it is released."""

    def __init__(self, *, after: bool = False) -> None:
        self.entered = 0
        self.go = trio.Event()
        self._after = after

    async def around_dispatch(self, handle: DispatchHandle, /) -> AsyncIterator[None]:
        self.entered += 1
        if self._after:
            yield
        await self.go.wait()
        if not self._after:
            yield


class Fails:
    """Raises at one hook, above or below its yield."""

    def __init__(self, hook: str, error: Exception, *, after: bool = False) -> None:
        def around(subject: Any, /) -> Iterator[None]:
            if not after:
                raise error
            yield
            raise error

        setattr(self, hook, around)


class Swallows:
    """Swallows the exception at its yield."""

    def noted(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            return

    def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
        yield from self.noted()

    def around_call(self, delivery: Delivery, /) -> Iterator[None]:
        yield from self.noted()


# -- order


async def test_the_first_middleware_is_the_outermost_around_dispatch_and_around_call() -> None:
    log: list[str] = []
    async with make(Around("a", log), Around("b", log)) as bus:

        @bus.listener(Ping, name="it")
        def it(event: Ping) -> None:
            log.append("it")

        bus.dispatch_nowait(Ping())
    assert log == [
        "a dispatch test.ping",
        "b dispatch test.ping",
        "a call it",
        "b call it",
        "it",
        "b call it done",
        "a call it done",
        "b dispatch test.ping done",
        "a dispatch test.ping done",
    ]


async def test_sync_and_async_middleware_keep_their_order_among_each_other() -> None:
    log: list[str] = []
    async with make(Around("a", log), AsyncAround("b", log), Around("c", log)) as bus:
        await bus.dispatch(Ping())
    starts = [line for line in log if not line.endswith("done")]
    assert starts == [f"{name} dispatch test.ping" for name in "abc"]
    assert log[3:] == [f"{name} dispatch test.ping done" for name in "cba"]


@pytest.mark.parametrize("kind", [*EVERY, {"middleware_async": True}])
async def test_the_middleware_of_a_listener_runs_inside_that_of_the_bus(
    kind: dict[str, Any],
) -> None:
    log: list[str] = []
    own: Any = Around("own", log)
    if kind.pop("middleware_async", None):
        own, kind = AsyncAroundCall("own", log), {"async_": True}
    async with make(Around("bus", log)) as bus:

        @bus.listener(Ping, name="it", middleware=(own,), **kind)
        def it(event: Ping) -> None:
            log.append("it")

        handle = await bus.dispatch(Ping())
        await handle.wait()
    calls = [line for line in log if "dispatch" not in line]
    assert calls == ["bus call it", "own call it", "it", "own call it done", "bus call it done"]


async def test_the_default_middleware_of_listeners_is_replaced_by_their_own() -> None:
    log: list[str] = []
    config: dict[str, Any] = {"listener": ListenerOptions(middleware=(Around("default", log),))}
    async with make(**config) as bus:

        @bus.listener(Ping, name="plain")
        def plain(event: Ping) -> None: ...

        @bus.listener(Ping, name="special", middleware=(Around("own", log),))
        def special(event: Ping) -> None: ...

        bus.dispatch_nowait(Ping())
    assert [line for line in log if "done" not in line] == [
        "default call plain",
        "own call special",
    ]


async def test_a_nested_dispatch_has_middleware_of_its_own_inside_that_of_the_outer() -> None:
    log: list[str] = []
    async with make(Around("a", log)) as bus:

        @bus.listener(Ping, name="outer")
        def outer(event: Ping) -> None:
            bus.dispatch_nowait(Pong())

        @bus.listener(Pong, name="inner")
        def inner(event: Pong) -> None:
            log.append("inner")

        await bus.dispatch(Ping())
    middle = log.index("inner")
    assert log[:middle] == [
        "a dispatch test.ping",
        "a call outer",
        "a dispatch test.pong",
        "a call inner",
    ]
    assert log[middle + 1 :] == [f"{line} done" for line in log[:middle][::-1]]


async def test_a_nested_dispatch_by_an_async_listener_has_async_middleware() -> None:
    log: list[str] = []
    async with make(AsyncAround("a", log)) as bus:

        @bus.listener(Ping, async_=False)
        async def outer(event: Ping) -> None:
            await bus.dispatch(Pong())

        await bus.dispatch(Ping())
    assert log == [
        "a dispatch test.ping",
        "a dispatch test.pong",
        "a dispatch test.pong done",
        "a dispatch test.ping done",
    ]


async def test_middleware_around_calls_is_not_entered_for_events_without_listeners() -> None:
    log: list[str] = []
    async with make(Around("a", log)) as bus:
        assert (await bus.dispatch(Ping())).done
        assert (await bus.dispatch(Event("mw.unheard"))).done
    assert [line for line in log if "done" not in line] == [
        "a dispatch test.ping",
        "a dispatch mw.unheard",
    ]


# -- over a hub


async def test_middleware_around_delivery_runs_where_the_event_arrives_and_only_there() -> None:
    hub = MemoryHub()
    here: list[str] = []
    there: list[str] = []
    one = make(Around("one", here), driver=MemoryDriver(hub))
    two = make(AsyncAround("two", there), driver=MemoryDriver(hub))
    ran = trio.Event()
    async with one, two:

        @two.listener(Ping, name="far")
        async def far(event: Ping) -> None:
            ran.set()

        await two.ready()
        await one.dispatch(Ping())
        with trio.fail_after(HANG_SECONDS):
            await ran.wait()
    assert [line for line in here if "call driver" not in line] == [
        "one dispatch test.ping",
        "one dispatch test.ping done",
    ]
    assert there == ["two delivery test.ping", "two delivery test.ping done"]


@pytest.mark.parametrize("kind", [{}, {"async_": True}, {"thread": True}])
async def test_headers_that_middleware_sets_travel_over_the_hub(kind: dict[str, Any]) -> None:
    class Enrich:
        def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
            handle.headers["trace"] = "t1"
            yield

    class Note:
        def around_delivery(self, handle: DispatchHandle, /) -> Iterator[None]:
            arrived.append(dict(handle.headers))
            handle.headers["hop"] = "two"
            yield

        def around_call(self, delivery: Delivery, /) -> Iterator[None]:
            seen.append(dict(delivery.headers))
            yield

    hub = MemoryHub()
    arrived: list[dict[str, str]] = []
    seen: list[dict[str, str]] = []
    one = make(Enrich(), driver=MemoryDriver(hub))
    two = make(Note(), driver=MemoryDriver(hub))
    async with one, two:

        @two.listener(Ping, **kind)
        def far(event: Ping) -> None:
            seen.append(dict(current_delivery().headers))

        await two.ready()
        handle = await one.dispatch(Ping())
        await handle.wait()
        await wait_until(lambda: len(seen) == 2)
        assert handle.headers == {"trace": "t1"}  # each bus has its own
    assert arrived == [{"trace": "t1"}]
    assert seen == [{"trace": "t1", "hop": "two"}] * 2


async def wait_until(ready: Callable[[], bool]) -> None:
    with trio.fail_after(HANG_SECONDS):
        while not ready():
            await trio.sleep(0)


async def test_headers_are_in_current_delivery_of_every_listener_of_the_dispatch() -> None:
    class Enrich:
        async def around_dispatch(self, handle: DispatchHandle, /) -> AsyncIterator[None]:
            await trio.sleep(0)
            handle.headers["n"] = str(handle.event)
            yield

    seen: dict[str, str] = {}
    async with make(Enrich()) as bus:

        @bus.listener(Ping)
        async def mailbox(event: Ping) -> None:
            seen["mailbox"] = current_delivery().headers["n"]

        @bus.listener(Ping, async_=False)
        async def awaited(event: Ping) -> None:
            seen["awaited"] = current_delivery().headers["n"]

        @bus.listener(Ping, thread=True)
        def thread(event: Ping) -> None:
            seen["thread"] = current_delivery().headers["n"]

        handle = await bus.dispatch(Ping(4))
        await handle.wait()
    assert seen == dict.fromkeys(("mailbox", "awaited", "thread"), str(Ping(4)))


async def test_a_veto_around_delivery_keeps_the_event_from_that_bus_only() -> None:
    class Border:
        def around_delivery(self, handle: DispatchHandle, /) -> Iterator[None]:
            raise Veto("not here")
            yield

    hub = MemoryHub()
    ran: list[str] = []
    one = make(driver=MemoryDriver(hub))
    two = make(Border(), driver=MemoryDriver(hub))
    three = make(driver=MemoryDriver(hub))
    async with one, two, three:
        for name, bus in (("one", one), ("two", two), ("three", three)):

            @bus.listener(Ping)
            def note(event: Ping, name: str = name) -> None:
                ran.append(name)

            await bus.ready()
        await one.dispatch(Ping())
        await one.wait()
        await wait_until(lambda: "three" in ran)
        await wait_all_tasks_blocked()
        assert two.errors == ()
        assert two.snapshot().ledger == Ledger()
    assert ran == ["one", "three"]


@pytest.mark.parametrize("after", [False, True])
async def test_a_failure_around_delivery_is_one_error_and_later_events_arrive(after: bool) -> None:
    class Broken:
        def around_delivery(self, handle: DispatchHandle, /) -> Iterator[None]:
            fails = isinstance(handle.event, Ping) and handle.event.n == 1
            if fails and not after:
                raise ValueError("broken")
            yield
            if fails:
                raise ValueError("broken")

    hub = MemoryHub()
    seen: list[int] = []
    one = make(driver=MemoryDriver(hub))
    two = make(Broken(), driver=MemoryDriver(hub))
    async with one, two:

        @two.listener(Ping)
        def note(event: Ping) -> None:
            seen.append(event.n)

        await two.ready()
        await one.dispatch(Ping(1))
        await one.dispatch(Ping(2))
        await wait_until(lambda: 2 in seen)
        (error,) = two.errors
        assert error.listener == Broken.__name__
        assert repr(error.error) == "ValueError('broken')"
    assert seen == ([1, 2] if after else [2])


# -- dispatch_nowait


@pytest.mark.parametrize("nested", [False, True])
async def test_dispatch_nowait_with_async_middleware_enters_nothing_and_delivers_nothing(
    nested: bool,
) -> None:
    log: list[str] = []
    async with make(Around("a", log), AsyncAround("b", log)) as bus:
        seen: list[Event] = []
        bus.subscribe(seen.append, Pong)

        @bus.listener(Pong)
        async def later(event: Pong) -> None:
            seen.append(event)

        if nested:

            @bus.listener(Ping)
            def dispatches(event: Ping) -> None:
                log.clear()
                with pytest.raises(TypeError, match=r"AsyncAround.around_dispatch is async"):
                    bus.dispatch_nowait(Pong())
                assert log == []

            (await bus.dispatch(Ping())).raise_errors()
        else:
            with pytest.raises(TypeError, match=r"await bus\.dispatch"):
                bus.dispatch_nowait(Pong())
            assert log == []
        ledger = await bus.close()
    assert seen == []
    assert ledger.accepted == int(nested)


async def test_async_middleware_around_calls_does_not_stop_dispatch_nowait() -> None:
    log: list[str] = []
    async with make() as bus:

        @bus.listener(Ping, name="it", middleware=(AsyncAroundCall("m", log),))
        async def it(event: Ping) -> None: ...

        handle = bus.dispatch_nowait(Ping())
        await handle.wait()
    assert log == ["m call it", "m call it done"]


async def test_would_block_passes_through_middleware_and_no_listener_gets_the_event() -> None:
    log: list[str] = []
    async with make(Around("a", log)) as bus:
        seen: list[Event] = []
        go = trio.Event()

        @bus.listener(Ping, mailbox=1, name="slow")
        async def slow(event: Ping) -> None:
            await go.wait()

        bus.subscribe(seen.append, Ping)
        bus.dispatch_nowait(Ping(1))
        await wait_all_tasks_blocked()
        bus.dispatch_nowait(Ping(2))
        log.clear()
        with pytest.raises(trio.WouldBlock, match="slow"):
            bus.dispatch_nowait(Ping(3))
        assert log == ["a dispatch test.ping", "a dispatch test.ping raised WouldBlock"]
        assert seen == [Ping(1), Ping(2)]
        go.set()
        ledger = await bus.close()
    assert (ledger.accepted, ledger.completed) == (4, 4)


@pytest.mark.parametrize("how", ["dispatch", "dispatch_nowait"])
async def test_mailbox_full_passes_through_middleware(how: str) -> None:
    async with make(Around("a", []), Swallows()) as bus:
        go = trio.Event()

        @bus.listener(Ping, mailbox=1, overflow="error")
        async def slow(event: Ping) -> None:
            await go.wait()

        await bus.dispatch(Ping())
        await wait_all_tasks_blocked()
        await bus.dispatch(Ping())
        if how == "dispatch":
            with pytest.raises(MailboxFull):
                await bus.dispatch(Ping())
        else:
            with pytest.raises(MailboxFull):
                bus.dispatch_nowait(Ping())
        go.set()
        ledger = await bus.close()
    assert ledger == Ledger(accepted=2, completed=2)


# -- veto


async def test_a_veto_around_dispatch_keeps_the_event_from_all_listeners() -> None:
    class NoPing:
        def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
            if isinstance(handle.event, Ping):
                raise Veto("no pings today")
            yield

    log: list[str] = []
    reported: list[EventError] = []
    async with make(Around("outer", log), NoPing(), Around("inner", log)) as bus:
        bus.on_error(reported.append)

        @bus.listener(Ping)
        def inline(event: Ping) -> None:
            log.append("inline")

        @bus.listener(Ping)
        async def mailbox(event: Ping) -> None:
            log.append("mailbox")

        for handle in (await bus.dispatch(Ping()), bus.dispatch_nowait(Ping())):
            assert handle.done
            await handle.wait()
            (error,) = handle.errors
            assert type(error) is EventVetoed
            assert error.outcome == "dropped"
            assert error.listener == NoPing.__name__
            assert error.reason == "no pings today"
        assert bus.errors == ()
        assert bus.error_count == 0
        ledger = await bus.close()
    assert log == ["outer dispatch test.ping", "outer dispatch test.ping raised Veto"] * 2
    assert reported == []
    assert ledger == Ledger()


@pytest.mark.parametrize("kind", [*EVERY, {"async_": False}])
async def test_a_veto_around_a_call_drops_the_event_for_that_listener(kind: dict[str, Any]) -> None:
    class Guard:
        def around_call(self, delivery: Delivery, /) -> Iterator[None]:
            if delivery.listener == "shut out":
                raise Veto("not you")
            yield

    ran: list[str] = []
    reported: list[EventError] = []

    async def awaited(event: Ping) -> None:
        ran.append("shut out")

    def plain(event: Ping) -> None:
        ran.append("shut out")

    async with make(Guard()) as bus:
        bus.on_error(reported.append)
        handler = awaited if kind.get("async_") is False else plain
        bus.subscribe(handler, Ping, name="shut out", **kind)

        @bus.listener(Ping)
        def other(event: Ping) -> None:
            ran.append("other")

        handle = await bus.dispatch(Ping())
        await handle.wait()
        (error,) = handle.errors
        assert type(error) is EventVetoed
        assert error.listener == "shut out"
        assert "Guard" in error.reason
        assert "not you" in error.reason
        assert bus.errors == ()
        ledger = await bus.close()
    assert ran == ["other"]
    assert reported == []
    assert ledger == Ledger(accepted=2, completed=1, dropped=1)


@pytest.mark.parametrize("kind", [{"async_": True}, {"async_": False}])
async def test_a_veto_is_not_retried_and_is_not_a_failure_for_supervision(
    kind: dict[str, Any],
) -> None:
    class Never:
        entered = 0

        def around_call(self, delivery: Delivery, /) -> Iterator[None]:
            self.entered += 1
            raise Veto("never")
            yield

    never = Never()
    async with make(never) as bus:

        @bus.listener(Ping, retry=Retry(), supervision=Supervision("escalate"), **kind)
        async def it(event: Ping) -> None: ...

        handle = await bus.dispatch(Ping())
        await handle.wait()
        assert [type(error) for error in handle.errors] == [EventVetoed]
    assert never.entered == 1


async def test_a_veto_below_the_yield_is_a_failure_of_the_middleware() -> None:
    ran: list[Event] = []
    async with make(Fails("around_dispatch", Veto("too late"), after=True)) as bus:
        bus.subscribe(ran.append, Ping)
        handle = await bus.dispatch(Ping(1))
        (error,) = handle.errors
        assert type(error) is EventError
        assert error.listener == "Fails"
        assert bus.errors == (error,)
    assert ran == [Ping(1)]


@pytest.mark.parametrize("kind", [{"async_": True}, {"async_": False}])
async def test_a_listener_that_raises_veto_has_failed(kind: dict[str, Any]) -> None:
    async with make(Around("a", [])) as bus:

        @bus.listener(Ping, name="it", **kind)
        async def it(event: Ping) -> None:
            raise Veto("I am no middleware")

        handle = await bus.dispatch(Ping())
        await handle.wait()
        (error,) = handle.errors
        assert (type(error), error.listener) == (EventError, "it")
        ledger = await bus.close()
    assert ledger == Ledger(accepted=1, failed=1)


# -- failures


@pytest.mark.parametrize("how", ["dispatch", "dispatch_nowait"])
@pytest.mark.parametrize("after", [False, True])
async def test_a_failing_hook_around_dispatch_is_one_error_that_names_it(
    how: str, after: bool
) -> None:
    log: list[str] = []
    ran: list[Event] = []
    reported: list[EventError] = []
    cause = ValueError("broken")
    broken = Fails("around_dispatch", cause, after=after)
    async with make(Around("outer", log), broken, Around("inner", log)) as bus:
        bus.on_error(reported.append)
        bus.subscribe(ran.append, Ping)

        @bus.listener(Ping)
        async def later(event: Ping) -> None:
            ran.append(event)

        handle = await bus.dispatch(Ping(1)) if how == "dispatch" else bus.dispatch_nowait(Ping(1))
        await handle.wait()
        (error,) = handle.errors
        assert (error.listener, error.error, error.event_name) == ("Fails", cause, "test.ping")
        assert bus.errors == (error,)
        ledger = await bus.close()
    assert reported == [error]
    assert ran == ([Ping(1)] * 2 if after else [])
    assert ledger == (Ledger(accepted=2, completed=2) if after else Ledger())
    assert "outer dispatch test.ping raised ValueError" in log
    assert ("inner dispatch test.ping done" in log) == after


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", [*EVERY, {"async_": False}])
async def test_a_failing_hook_around_a_call_is_one_failure_that_names_it(
    kind: dict[str, Any], after: bool
) -> None:
    ran: list[Event] = []
    cause = ValueError("broken")

    def plain(event: Ping) -> None:
        ran.append(event)

    async def awaited(event: Ping) -> None:
        ran.append(event)

    async with make(Fails("around_call", cause, after=after)) as bus:
        bus.on_error(ignore_error)
        handler = awaited if kind.get("async_") is False else plain
        bus.subscribe(handler, Ping, **kind)
        handle = await bus.dispatch(Ping())
        await handle.wait()
        (error,) = handle.errors
        assert (error.listener, error.error) == ("Fails", cause)
        ledger = await bus.close()
    assert len(ran) == int(after)
    assert ledger == Ledger(accepted=1, failed=1)


@pytest.mark.parametrize("kind", [*EVERY, {"async_": False}])
async def test_middleware_cannot_swallow_the_failure_of_a_listener(kind: dict[str, Any]) -> None:
    cause = ValueError("the listener's")

    def plain(event: Ping) -> None:
        raise cause

    async def awaited(event: Ping) -> None:
        raise cause

    async with make(Swallows()) as bus:
        handler = awaited if kind.get("async_") is False else plain
        bus.subscribe(handler, Ping, name="it", **kind)
        handle = await bus.dispatch(Ping())
        await handle.wait()
        (error,) = handle.errors
        assert (error.listener, error.error) == ("it", cause)
        ledger = await bus.close()
    assert ledger == Ledger(accepted=1, failed=1)


@pytest.mark.parametrize("kind", [*EVERY, {"async_": False}])
async def test_an_error_by_which_a_hook_replaces_that_of_the_listener_is_the_hooks(
    kind: dict[str, Any],
) -> None:
    class Translates:
        def around_call(self, delivery: Delivery, /) -> Iterator[None]:
            try:
                yield
            except ValueError as error:
                raise KeyError("mine") from error

    def plain(event: Ping) -> None:
        raise ValueError("the listener's")

    async def awaited(event: Ping) -> None:
        raise ValueError("the listener's")

    async with make(Around("outer", []), Translates(), Around("inner", [])) as bus:
        handler = awaited if kind.get("async_") is False else plain
        bus.subscribe(handler, Ping, **kind)
        handle = await bus.dispatch(Ping())
        await handle.wait()
        (error,) = handle.errors
        assert error.listener == Translates.__name__
        assert repr(error.error) == "KeyError('mine')"
        assert isinstance(error.error, KeyError)
        assert repr(error.error.__cause__) == 'ValueError("the listener\'s")'


@pytest.mark.parametrize("how", ["dispatch", "dispatch_nowait"])
async def test_a_failure_on_a_special_route_has_no_error_of_the_kernel_in_its_context(
    how: str,
) -> None:
    async with make(Around("a", [])) as bus:

        @bus.listener(Ping)
        def fails(event: Ping) -> None:
            raise ValueError("lone")

        handle = await bus.dispatch(Ping()) if how == "dispatch" else bus.dispatch_nowait(Ping())
        (error,) = handle.errors
        assert error.error is not None
        assert error.error.__context__ is None


async def test_an_async_listeners_failure_has_no_error_of_the_kernel_in_its_context() -> None:
    async with make() as bus:

        @bus.listener(Ping, async_=False)
        async def fails(event: Ping) -> None:
            raise ValueError("lone")

        (error,) = (await bus.dispatch(Ping())).errors
        assert error.error is not None
        assert error.error.__context__ is None


async def test_a_failure_after_a_wait_for_room_has_no_error_of_the_kernel_in_its_context() -> None:
    hub = MemoryHub()
    one = make(driver=MemoryDriver(hub))
    two = make(driver=MemoryDriver(hub))
    special = make(Around("a", []))
    async with one, two, special:
        for bus, source in ((two, one), (special, special)):
            go = trio.Event()
            wait_for_it = go.wait

            @bus.listener(Ping, mailbox=1)
            async def full(event: Ping, wait: Callable[[], Any] = wait_for_it) -> None:
                await wait()

            @bus.listener(Ping, name="fails")
            def fails(event: Ping) -> None:
                if event.n == 3:
                    raise ValueError("lone")

            await bus.ready()
            async with trio.open_nursery() as nursery:
                for n in (1, 2, 3):
                    nursery.start_soon(source.dispatch, Ping(n))
                    await wait_all_tasks_blocked()
                go.set()
            await wait_all_tasks_blocked()
            (error,) = bus.errors
            assert repr(error.error) == "ValueError('lone')"
            assert error.error is not None
            assert error.error.__context__ is None


async def test_a_hook_that_yields_twice_fails() -> None:
    class Twice:
        def around_call(self, delivery: Delivery, /) -> Iterator[None]:
            yield
            yield

    async with make(Twice()) as bus:
        bus.subscribe(lambda event: None, Ping)
        (error,) = (await bus.dispatch(Ping())).errors
        assert error.listener == Twice.__name__
        assert isinstance(error.error, RuntimeError)


async def test_a_failed_hook_around_a_call_is_retried_like_the_listener(
    autojump_clock: MockClock,
) -> None:
    class Flaky:
        attempts: list[int]

        def __init__(self) -> None:
            self.attempts = []

        def around_call(self, delivery: Delivery, /) -> Iterator[None]:
            self.attempts.append(delivery.attempt)
            if delivery.attempt < 3:
                raise ValueError("not yet")
            yield

    kinds: list[dict[str, Any]] = [{"async_": True}, {"async_": False}]
    for kind in kinds:
        flaky = Flaky()
        async with make(flaky) as bus:

            @bus.listener(Ping, retry=Retry(attempts=3, jitter=0), **kind)
            async def it(event: Ping) -> None: ...

            handle = await bus.dispatch(Ping())
            await handle.wait()
            assert handle.errors == ()
        assert flaky.attempts == [1, 2, 3]


@pytest.mark.parametrize("kind", [{"async_": True}, {"async_": False}])
async def test_middleware_sees_the_timeout_of_its_listener(
    autojump_clock: MockClock, kind: dict[str, Any]
) -> None:
    log: list[str] = []
    async with make() as bus:

        @bus.listener(Ping, name="it", timeout=1, middleware=(Around("m", log),), **kind)
        async def it(event: Ping) -> None:
            await trio.sleep_forever()

        handle = await bus.dispatch(Ping())
        await handle.wait()
        assert [error.listener for error in handle.errors] == ["it"]
    assert log == ["m call it", "m call it raised ListenerTimeout"]


# -- scopes of middleware


@pytest.mark.parametrize("flavour", ["sync", "async"])
@pytest.mark.parametrize("kind", [{"async_": True}, {"async_": False}])
async def test_a_hook_that_cancels_the_run_inside_it_has_failed(
    autojump_clock: MockClock, kind: dict[str, Any], flavour: str
) -> None:
    class Impatient:
        def around_call(self, delivery: Delivery, /) -> Iterator[None]:
            with trio.move_on_after(1):
                yield

    class AsyncImpatient:
        async def around_call(self, delivery: Delivery, /) -> AsyncIterator[None]:
            with trio.move_on_after(1):
                yield

    impatient = Impatient() if flavour == "sync" else AsyncImpatient()
    seen: list[int] = []
    with trio.fail_after(60):
        async with make(impatient) as bus:

            @bus.listener(Ping, **kind)
            async def it(event: Ping) -> None:
                if event.n == 1:
                    await trio.sleep_forever()
                seen.append(event.n)

            first = await bus.dispatch(Ping(1))
            second = await bus.dispatch(Ping(2))
            await first.wait()
            await second.wait()
            (error,) = first.errors
            assert error.listener == type(impatient).__name__
            assert second.errors == ()
            ledger = await bus.close()
    assert seen == [2]
    assert ledger == Ledger(accepted=2, completed=1, failed=1)


@pytest.mark.parametrize("flavour", ["sync", "async"])
async def test_a_hook_that_cancels_a_dispatch_that_waits_for_room_has_failed(
    autojump_clock: MockClock, flavour: str
) -> None:
    class Impatient:
        def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
            with trio.move_on_after(1):
                yield

    class AsyncImpatient:
        async def around_dispatch(self, handle: DispatchHandle, /) -> AsyncIterator[None]:
            with trio.move_on_after(1):
                yield

    impatient = Impatient() if flavour == "sync" else AsyncImpatient()
    with trio.fail_after(60):
        async with make(impatient) as bus:
            go = trio.Event()

            @bus.listener(Ping, mailbox=1)
            async def slow(event: Ping) -> None:
                await go.wait()

            await bus.dispatch(Ping(1))
            await wait_all_tasks_blocked()
            await bus.dispatch(Ping(2))
            handle = await bus.dispatch(Ping(3))
            assert handle.done
            assert [error.listener for error in handle.errors] == [type(impatient).__name__]
            assert trio.current_effective_deadline() > trio.current_time()
            go.set()
            ledger = await bus.close()
    assert ledger == Ledger(accepted=2, completed=2)


# -- waiting inside middleware


async def test_a_dispatch_cancelled_while_it_waits_for_room_in_middleware_delivers_nothing() -> (
    None
):
    log: list[str] = []
    seen: list[Event] = []
    async with make(AsyncAround("a", log)) as bus:
        go = trio.Event()

        @bus.listener(Ping, mailbox=1)
        async def slow(event: Ping) -> None:
            await go.wait()
            seen.append(event)

        bus.subscribe(seen.append, Ping)
        await bus.dispatch(Ping(1))
        await wait_all_tasks_blocked()
        await bus.dispatch(Ping(2))
        log.clear()
        seen.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.dispatch, Ping(3))
            await wait_all_tasks_blocked()
            assert log == ["a dispatch test.ping"]
            nursery.cancel_scope.cancel()
        assert log == ["a dispatch test.ping", "a dispatch test.ping raised Cancelled"]
        go.set()
        ledger = await bus.close()
    assert seen == [Ping(1), Ping(2)]
    assert ledger == Ledger(accepted=4, completed=4)


async def test_a_dispatch_cancelled_inside_an_async_hook_delivers_nothing() -> None:
    paused = PausedHook()
    seen: list[Event] = []
    async with make(paused) as bus:
        bus.subscribe(seen.append, Ping)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.dispatch, Ping())
            await wait_all_tasks_blocked()
            assert paused.entered == 1
            nursery.cancel_scope.cancel()
        ledger = await bus.close()
    assert seen == []
    assert ledger == Ledger()


async def test_a_dispatch_cancelled_below_the_yield_has_delivered_everything() -> None:
    paused = PausedHook(after=True)
    seen: list[Event] = []
    async with make(paused) as bus:
        bus.subscribe(seen.append, Ping)

        @bus.listener(Ping)
        async def later(event: Ping) -> None:
            seen.append(event)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.dispatch, Ping())
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        ledger = await bus.close()
    assert seen == [Ping(), Ping()]
    assert ledger == Ledger(accepted=2, completed=2)


async def test_a_bus_that_closes_while_an_async_hook_waits_refuses_the_event() -> None:
    paused = PausedHook()
    seen: list[Event] = []
    refused: list[Exception] = []
    async with make(paused) as bus, trio.open_nursery() as nursery:
        bus.subscribe(seen.append, Ping)

        async def dispatch() -> None:
            try:
                await bus.dispatch(Ping())
            except BusClosed as error:
                refused.append(error)

        nursery.start_soon(dispatch)
        await wait_all_tasks_blocked()
        ledger = await bus.close()
        paused.go.set()
    assert len(refused) == 1
    assert seen == []
    assert ledger == Ledger()


async def test_a_bus_that_drains_while_an_async_hook_waits_refuses_the_event() -> None:
    paused = PausedHook()
    seen: list[Event] = []
    refused: list[Exception] = []
    go = trio.Event()
    async with make(paused) as bus, trio.open_nursery() as nursery:
        bus.subscribe(seen.append, Ping)

        @bus.listener(Pong)
        async def busy(event: Pong) -> None:
            await go.wait()

        async def dispatch(event: Event) -> None:
            try:
                await bus.dispatch(event)
            except BusClosed as error:
                refused.append(error)

        paused.go.set()
        await bus.dispatch(Pong())
        paused.go = trio.Event()
        nursery.start_soon(dispatch, Ping())
        await wait_all_tasks_blocked()
        nursery.start_soon(bus.close)
        await wait_all_tasks_blocked()
        assert bus.snapshot().state == "draining"
        paused.go.set()
        await wait_all_tasks_blocked()
        assert len(refused) == 1
        go.set()
    assert seen == []


async def test_a_listener_of_a_draining_bus_may_dispatch_through_async_middleware() -> None:
    seen: list[Event] = []
    async with make(AsyncAround("a", [])) as bus:
        go = trio.Event()
        bus.subscribe(seen.append, Pong)

        @bus.listener(Ping)
        async def relay(event: Ping) -> None:
            await go.wait()
            await bus.dispatch(Pong())

        await bus.dispatch(Ping())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.close)
            await wait_all_tasks_blocked()
            assert bus.snapshot().state == "draining"
            go.set()
    assert seen == [Pong()]


@pytest.mark.parametrize("after", [False, True])
async def test_an_async_hook_around_a_dispatch_from_a_thread_does_not_keep_the_bus_open(
    autojump_clock: MockClock, after: bool
) -> None:
    paused = PausedHook(after=after)
    ended: list[str] = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, make(paused, close_timeout=1) as bus:

            def dispatch() -> None:
                try:
                    bus.dispatch_from_thread(Ping())
                except BusClosed:
                    ended.append("refused")

            nursery.start_soon(trio.to_thread.run_sync, dispatch)
            await wait_until_entered(paused)
    assert ended == ["refused"]


async def wait_until_entered(paused: PausedHook) -> None:
    while not paused.entered:
        await trio.lowlevel.checkpoint()


# -- context variables


VARIABLE: ContextVar[str] = ContextVar("mw.variable", default="unset")


class Sets:
    def around_call(self, delivery: Delivery, /) -> Iterator[None]:
        VARIABLE.set(delivery.listener)
        yield


class SetsAndResets:
    async def around_call(self, delivery: Delivery, /) -> AsyncIterator[None]:
        await trio.sleep(0)
        token = VARIABLE.set(delivery.listener)
        yield
        VARIABLE.reset(token)


@pytest.mark.parametrize("flavour", [Sets, SetsAndResets])
@pytest.mark.parametrize("kind", ["inline", "awaited", "mailbox", "blocking", "thread"])
async def test_a_context_variable_set_around_a_call_is_seen_by_that_listener_only(
    kind: str, flavour: type[Any]
) -> None:
    if kind == "inline" and flavour is SetsAndResets:
        pytest.skip("async middleware cannot stand around an inline def")
    options: dict[str, dict[str, Any]] = {
        "inline": {},
        "awaited": {"async_": False},
        "mailbox": {},
        "blocking": {"async_": True},
        "thread": {"thread": True},
    }
    seen: dict[str, str] = {}

    def listen(event: Ping) -> None:
        seen["it"] = VARIABLE.get()

    async def listen_async(event: Ping) -> None:
        await trio.sleep(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    async def child() -> None:
        seen["it"] = VARIABLE.get()

    async with make() as bus:
        handler = listen_async if kind in ("awaited", "mailbox") else listen
        bus.subscribe(handler, Ping, name="it", middleware=(flavour(),), **options[kind])

        @bus.listener(Ping, name="inline beside")
        def beside(event: Ping) -> None:
            seen["inline beside"] = VARIABLE.get()

        @bus.listener(Ping, name="mailbox beside")
        async def beside_later(event: Ping) -> None:
            seen["mailbox beside"] = VARIABLE.get()

        handle = await bus.dispatch(Ping())
        await handle.wait()
        assert handle.errors == ()
    assert seen == {"it": "it", "inline beside": "unset", "mailbox beside": "unset"}
    assert VARIABLE.get() == "unset"


async def test_a_nested_listener_sees_the_context_of_the_inline_listener_that_dispatches() -> None:
    seen: list[str] = []
    async with make() as bus:

        @bus.listener(Ping, middleware=(Sets(),), name="outer")
        def outer(event: Ping) -> None:
            bus.dispatch_nowait(Pong())

        @bus.listener(Pong)
        def inner(event: Pong) -> None:
            seen.append(VARIABLE.get())

        await bus.dispatch(Ping())
    assert seen == ["outer"]


# -- class listeners that are restarted


async def test_middleware_runs_around_a_class_listener_that_was_rebuilt(
    autojump_clock: MockClock,
) -> None:
    log: list[str] = []

    class Counter:
        event_name = "test.ping"
        options = ListenerOptions(
            name="counter",
            supervision=Supervision("restart", backoff=1),
            middleware=(Around("own", log),),
        )
        built = 0

        def __init__(self) -> None:
            Counter.built += 1
            self.number = Counter.built

        async def on_event(self, event: Ping) -> None:
            log.append(f"instance {self.number}")
            if event.n == 1:
                raise ValueError("restart me")

    async with make(Around("bus", log)) as bus:
        bus.on_error(ignore_error)
        bus.register_listener(Counter)
        for n in (1, 2):
            await bus.dispatch(Ping(n))
        await bus.wait()
    assert Counter.built == 2
    assert [line for line in log if "dispatch" not in line] == [
        "bus call counter",
        "own call counter",
        "instance 1",
        "own call counter raised ValueError",
        "bus call counter raised ValueError",
        "bus call counter",
        "own call counter",
        "instance 2",
        "own call counter done",
        "bus call counter done",
    ]


async def test_middleware_runs_around_an_inline_class_listener_that_was_rebuilt() -> None:
    log: list[str] = []

    class Counter:
        event_name = "test.ping"
        options = ListenerOptions(name="counter", supervision=Supervision("restart"))
        built = 0

        def __init__(self) -> None:
            Counter.built += 1
            self.number = Counter.built

        def on_event(self, event: Ping) -> None:
            log.append(f"instance {self.number}")
            if event.n == 1:
                raise ValueError("restart me")

    async with make(Around("bus", log)) as bus:
        bus.on_error(ignore_error)
        bus.register_listener(Counter)
        for n in (1, 2):
            await bus.dispatch(Ping(n))
    assert [line for line in log if "dispatch" not in line] == [
        "bus call counter",
        "instance 1",
        "bus call counter raised ValueError",
        "bus call counter",
        "instance 2",
        "bus call counter done",
    ]


async def test_every_lane_calls_the_rebuilt_instance(autojump_clock: MockClock) -> None:
    ran: list[tuple[int, int]] = []

    class Worker:
        event_name = "test.ping"
        options = ListenerOptions(supervision=Supervision("restart", backoff=1), concurrency=2)
        built = 0

        def __init__(self) -> None:
            Worker.built += 1
            self.number = Worker.built

        async def on_event(self, event: Ping) -> None:
            await trio.sleep(event.n)
            ran.append((event.n, self.number))
            if event.n == 1:
                raise ValueError("restart me")

    async with make() as bus:
        bus.on_error(ignore_error)
        bus.register_listener(Worker)
        for n in (1, 5, 2, 3):  # the lane of 5 goes on with 3, long after the restart
            await bus.dispatch(Ping(n))
        await bus.wait()
    assert ran == [(1, 1), (2, 2), (5, 1), (3, 2)]


# -- other cases


async def test_the_observer_of_tests_sees_dispatches_and_runs_through_middleware() -> None:
    from goevent.testing import record

    async with make(Around("a", [])) as bus:
        recorder = record(bus)

        @bus.listener(Ping)
        async def later(event: Ping) -> None: ...

        @bus.listener(Ping)
        def now(event: Ping) -> None: ...

        @bus.listener(Ping, async_=False)
        async def awaited(event: Ping) -> None: ...

        handle = await bus.dispatch(Ping(1))
        await handle.wait()
    assert recorder.dispatched == [Ping(1)]
    assert [recorder.ran(listener) for listener in (now, awaited, later)] == [[Ping(1)]] * 3


async def test_async_middleware_around_calls_is_refused_for_an_inline_def() -> None:
    bus = make()
    with pytest.raises(ValueError, match=r"AsyncAroundCall\.around_call is async .* async_=True"):

        @bus.listener(Ping, middleware=(AsyncAroundCall("m", []),))
        def inline(event: Ping) -> None: ...


async def test_a_reopened_bus_has_its_middleware() -> None:
    log: list[str] = []
    bus = make(Around("a", log))
    for _ in range(2):
        async with bus:
            await bus.dispatch(Ping())
    assert log == ["a dispatch test.ping", "a dispatch test.ping done"] * 2


async def test_a_base_exception_passes_through_middleware_and_the_ledger_balances() -> None:
    log: list[str] = []
    async with make(Around("a", log)) as bus:

        @bus.listener(Ping, name="quits")
        def quits(event: Ping) -> None:
            raise SystemExit(3)

        @bus.listener(Ping)
        def behind(event: Ping) -> None: ...

        with pytest.raises(SystemExit):
            await bus.dispatch(Ping())
        with pytest.raises(SystemExit):
            bus.dispatch_nowait(Ping())
        ledger = await bus.close()
    assert log[:4] == [
        "a dispatch test.ping",
        "a call quits",
        "a call quits raised SystemExit",
        "a dispatch test.ping raised SystemExit",
    ]
    assert ledger == Ledger(accepted=4, abandoned=4)


@pytest.mark.parametrize("limit", [100, 150])
async def test_an_endless_cycle_through_middleware_ends_with_a_nesting_error(limit: int) -> None:
    log: list[str] = []
    async with make(Around("a", log), Around("b", log), max_nesting=limit) as bus:

        @bus.listener(Ping, middleware=(Around("c", log),))
        def again(event: Ping) -> None:
            bus.dispatch_nowait(Ping(event.n + 1))

        await bus.dispatch(Ping())
        (error,) = bus.errors
        assert "NestingError" in error.details
        assert "RecursionError" not in error.details


@pytest.mark.parametrize("limit", [100, 150])
async def test_an_endless_cycle_through_async_middleware_ends_with_a_nesting_error(
    limit: int,
) -> None:
    log: list[str] = []
    middleware = (AsyncAround("a", log), AsyncAroundCall("b", log))
    async with make(*middleware, max_nesting=limit) as bus:

        @bus.listener(Ping, async_=False, timeout=60, retry=Retry(on=KeyError))
        async def again(event: Ping) -> None:
            await bus.dispatch(Ping(event.n + 1))

        await bus.dispatch(Ping())
        (error,) = bus.errors
        assert "NestingError" in error.details
        assert "RecursionError" not in error.details
