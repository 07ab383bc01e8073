"""Listeners with `context=True`, and `current_delivery` in all places where it may be called."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from tests.support.checks import always
from tests.support.events import REGISTRY, Ping, Pong
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Config,
    Delivery,
    DispatchHandle,
    EventError,
    GoEvent,
    Ledger,
    MemoryDriver,
    MemoryHub,
    Retry,
    Supervision,
    current_delivery,
)

VARIABLE: ContextVar[str] = ContextVar("context.variable", default="unset")


def make(**config: Any) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, **config))


MAILBOX_KINDS: dict[str, dict[str, Any]] = {
    "async": {},
    "blocking": {"async_": True},
    "thread": {"thread": True},
    "concurrent": {"concurrency": 3},
    "keyed": {"ordering_key": "n"},
    "timeout": {"timeout": 60},
    "thread with a timeout": {"thread": True, "timeout": 60},
    "retry": {"retry": Retry()},
}


def listens(bus: GoEvent, kind: str, call: Callable[[Any], None], **options: Any) -> None:
    """Subscribe a function as one of the kinds of listener with a mailbox."""

    async def call_async(event: Ping) -> None:
        await trio.sleep(0)
        call(event)

    given = MAILBOX_KINDS[kind]
    handler = call if "thread" in given or "async_" in given else call_async
    chosen: dict[str, Any] = {"name": "it", **given, **options}
    bus.subscribe(handler, Ping, **chosen)


# -- context=True


@pytest.mark.parametrize("how", ["dispatch", "dispatch_nowait"])
@pytest.mark.parametrize("kind", MAILBOX_KINDS)
async def test_with_context_a_listener_sees_the_variables_of_its_dispatcher(
    bus: GoEvent, kind: str, how: str
) -> None:
    seen: list[str] = []
    listens(bus, kind, lambda event: seen.append(VARIABLE.get()), context=True)

    async def dispatch(value: str) -> None:
        VARIABLE.set(value)
        if how == "dispatch":
            await bus.dispatch(Ping())
        else:
            bus.dispatch_nowait(Ping())
        VARIABLE.set("later")  # set after the dispatch: the listener does not see it

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dispatch, "one")
        nursery.start_soon(dispatch, "two")
    await bus.wait()
    assert sorted(seen) == ["one", "two"]


@pytest.mark.parametrize("kind", MAILBOX_KINDS)
async def test_without_context_a_listener_sees_the_variables_of_the_bus(
    bus: GoEvent, kind: str
) -> None:
    seen: list[str] = []
    listens(bus, kind, lambda event: seen.append(VARIABLE.get()))
    VARIABLE.set("dispatcher")
    await bus.dispatch(Ping())
    await bus.wait()
    assert seen == ["unset"]


@pytest.mark.parametrize("kind", MAILBOX_KINDS)
async def test_variables_set_by_a_listener_with_context_are_seen_by_no_other_listener(
    bus: GoEvent, kind: str
) -> None:
    seen: list[str] = []

    def sets(event: Ping) -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set(f"listener {event.n}")
        seen.append(VARIABLE.get())

    listens(bus, kind, sets, context=True)
    listens(bus, kind, sets, context=True, name="twin")
    VARIABLE.set("dispatcher")
    handle = await bus.dispatch(Ping(7))
    await handle.wait()
    assert handle.errors == ()
    assert sorted(seen) == ["dispatcher"] * 2 + ["listener 7"] * 2
    assert VARIABLE.get() == "dispatcher"


async def test_each_attempt_begins_with_the_variables_of_the_dispatcher(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    seen: list[str] = []

    @bus.listener(Ping, context=True, retry=Retry(attempts=3, jitter=0))
    async def flaky(event: Ping) -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set("dirty")
        if len(seen) < 3:
            raise ValueError("again")

    VARIABLE.set("dispatcher")
    await (await bus.dispatch(Ping())).wait()
    assert seen == ["dispatcher"] * 3


@pytest.mark.parametrize("context", [True, False])
async def test_a_dispatch_that_waits_for_room_passes_its_variables_on(
    bus: GoEvent, context: bool
) -> None:
    seen: list[tuple[int, str]] = []
    go = trio.Event()

    @bus.listener(Ping, mailbox=1, context=context)
    async def slow(event: Ping) -> None:
        await go.wait()
        seen.append((event.n, VARIABLE.get()))

    async def dispatch(n: int) -> None:
        VARIABLE.set(f"task {n}")
        await bus.dispatch(Ping(n))

    async with trio.open_nursery() as nursery:
        for n in range(4):
            nursery.start_soon(dispatch, n)
            await wait_all_tasks_blocked()
        go.set()
    await bus.wait()
    assert seen == [(n, f"task {n}" if context else "unset") for n in range(4)]


async def test_children_and_threads_of_a_listener_with_context_see_it(bus: GoEvent) -> None:
    seen: list[str] = []

    @bus.listener(Ping, context=True)
    async def parent(event: Ping) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        await trio.to_thread.run_sync(lambda: seen.append(f"thread {VARIABLE.get()}"))

    async def child() -> None:
        seen.append(f"child {VARIABLE.get()}")

    VARIABLE.set("dispatcher")
    await (await bus.dispatch(Ping())).wait()
    assert seen == ["child dispatcher", "thread dispatcher"]


async def test_a_listener_with_context_and_a_plain_one_share_workers(bus: GoEvent) -> None:
    seen: list[str] = []

    @bus.listener(Ping, context=True)
    async def with_context(event: Ping) -> None:
        VARIABLE.set("of the listener")
        await trio.sleep(0)

    @bus.listener(Ping)
    async def plain(event: Ping) -> None:
        seen.append(VARIABLE.get())

    VARIABLE.set("dispatcher")
    for _ in range(20):
        await bus.dispatch(Ping())
        await trio.sleep(0)
    await bus.wait()
    assert seen == ["unset"] * 20


async def test_a_chain_of_listeners_with_context_passes_the_variables_on(bus: GoEvent) -> None:
    seen: list[str] = []

    @bus.listener(Ping, context=True)
    async def relay(event: Ping) -> None:
        await bus.dispatch(Pong())

    @bus.listener(Pong, context=True)
    async def last(event: Pong) -> None:
        seen.append(VARIABLE.get())

    VARIABLE.set("origin")
    await bus.dispatch(Ping())
    await bus.close()
    assert seen == ["origin"]


async def test_variables_set_by_middleware_around_the_dispatch_belong_to_the_dispatcher() -> None:
    class Sets:
        def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
            token = VARIABLE.set("middleware")
            yield
            VARIABLE.reset(token)

    class SetsAsync:
        async def around_dispatch(self, handle: DispatchHandle, /) -> AsyncIterator[None]:
            await trio.sleep(0)
            token = VARIABLE.set("middleware")
            yield
            VARIABLE.reset(token)

    for middleware in (Sets(), SetsAsync()):
        seen: list[str] = []
        async with make(middleware=(middleware,)) as bus:

            @bus.listener(Ping, context=True)
            async def it(event: Ping, seen: list[str] = seen) -> None:
                seen.append(VARIABLE.get())

            await bus.dispatch(Ping())
        assert seen == ["middleware"]
        assert VARIABLE.get() == "unset"


async def test_a_listener_with_context_must_not_leave_a_scope_open_either(bus: GoEvent) -> None:
    @bus.listener(Ping, context=True)
    async def untidy(event: Ping) -> None:
        trio.CancelScope().__enter__()

    handle = await bus.dispatch(Ping())
    await handle.wait()
    (error,) = handle.errors
    assert "left a cancel scope or a nursery open" in str(error.error)
    again = await bus.dispatch(Ping())
    await again.wait()
    assert len(again.errors) == 1


async def test_a_listener_with_context_shows_where_it_waits(bus: GoEvent) -> None:
    tasks: list[trio.lowlevel.Task] = []

    @bus.listener(Ping, context=True)
    async def waits(event: Ping) -> None:
        tasks.append(trio.lowlevel.current_task())
        await trio.sleep_forever()

    async with trio.open_nursery():
        await bus.dispatch(Ping())
        await wait_all_tasks_blocked()
        frames = [frame.f_code.co_name for frame, _ in tasks[0].iter_await_frames()]
    assert "waits" in frames
    await bus.close(timeout=0)
    assert [error.outcome for error in bus.errors] == ["abandoned"]


@pytest.mark.parametrize("options", [{"context": True}, {"async_": False}])
async def test_awaiting_an_object_unknown_to_trio_is_a_failure_of_the_listener(
    bus: GoEvent, options: dict[str, Any]
) -> None:
    class Foreign:
        def __await__(self) -> Generator[str]:
            yield "something that Trio does not know"

    @bus.listener(Ping, **options)
    async def awaits(event: Ping) -> None:
        await Foreign()

    for _ in range(2):
        handle = await bus.dispatch(Ping())
        await handle.wait()
        (error,) = handle.errors
        assert isinstance(error.error, TypeError)
        assert "something that Trio does not know" in str(error.error)


# -- current_delivery


async def test_outside_of_listeners_there_is_no_delivery(bus: GoEvent) -> None:
    with pytest.raises(RuntimeError, match="no current delivery"):
        current_delivery()


def test_outside_of_trio_there_is_no_delivery() -> None:
    with pytest.raises(RuntimeError, match="no current delivery"):
        current_delivery()


def deliveries(seen: list[Delivery]) -> Callable[[Any], None]:
    return lambda event: seen.append(current_delivery())


@pytest.mark.parametrize("context", [None, True])
@pytest.mark.parametrize("kind", MAILBOX_KINDS)
async def test_a_listener_with_a_mailbox_finds_its_delivery(
    bus: GoEvent, kind: str, context: bool | None
) -> None:
    seen: list[Delivery] = []
    listens(bus, kind, deliveries(seen), context=context)
    handle = await bus.dispatch(Ping(3))
    await handle.wait()
    assert handle.errors == ()
    (delivery,) = seen
    assert delivery.handle is handle
    assert (delivery.listener, delivery.attempt) == ("it", 1)
    assert (delivery.event, delivery.event_name) == (Ping(3), "test.ping")
    with pytest.raises(RuntimeError):
        current_delivery()


async def test_listeners_that_run_at_once_find_their_own_deliveries(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    seen: list[tuple[int, object]] = []

    @bus.listener(Ping, concurrency=5)
    async def it(event: Ping) -> None:
        await trio.sleep(10 - event.n)
        seen.append((event.n, current_delivery().event))

    for n in range(8):
        await bus.dispatch(Ping(n))
    await bus.wait()
    assert sorted(seen, key=lambda pair: pair[0]) == [(n, Ping(n)) for n in range(8)]


async def test_an_inline_def_has_no_delivery(bus: GoEvent) -> None:
    @bus.listener(Ping)
    def inline(event: Ping) -> None:
        current_delivery()

    for handle in (await bus.dispatch(Ping()), bus.dispatch_nowait(Ping())):
        (error,) = handle.errors
        assert isinstance(error.error, RuntimeError)


async def test_an_inline_def_with_middleware_finds_its_own_delivery() -> None:
    class Middle:
        def around_call(self, delivery: Delivery, /) -> Iterator[None]:
            around.append(current_delivery())
            assert around[-1] is delivery
            yield

    around: list[Delivery] = []
    seen: list[Delivery] = []
    async with make() as bus:
        bus.subscribe(deliveries(seen), Ping, middleware=(Middle(),), name="it")
        handle = await bus.dispatch(Ping())
        assert handle.errors == ()
        assert seen == around
        assert seen[0].handle is handle
        with pytest.raises(RuntimeError):
            current_delivery()


def has_delivery() -> bool:
    try:
        current_delivery()
    except RuntimeError:
        return False
    return True


OUTER: dict[str, dict[str, Any]] = {
    "mailbox": {},
    "mailbox with context": {"context": True},
    "concurrent": {"concurrency": 2},
    "inline async": {"async_": False},
}


@pytest.mark.parametrize("how", ["dispatch", "dispatch_nowait"])
@pytest.mark.parametrize("kind", OUTER)
async def test_an_inline_def_called_from_within_another_listener_does_not_see_that_ones_delivery(
    bus: GoEvent, kind: str, how: str
) -> None:
    seen: list[tuple[str, bool]] = []

    @bus.listener(Ping, **OUTER[kind])
    async def outer(event: Ping) -> None:
        if how == "dispatch":
            await bus.dispatch(Pong())
        else:
            bus.dispatch_nowait(Pong())
        seen.append(("outer", current_delivery().event == event))

    @bus.listener(Pong)
    def inner(event: Pong) -> None:
        seen.append(("inner", has_delivery()))

    handle = await bus.dispatch(Ping())
    await handle.wait()
    assert handle.errors == ()
    assert seen == [("inner", False), ("outer", True)]


@pytest.mark.parametrize("options", [{}, {"when": always}])
async def test_an_inline_def_inside_one_with_middleware_does_not_see_its_delivery(
    bus: GoEvent, options: dict[str, Any]
) -> None:
    class Middle:
        def around_call(self, delivery: Delivery, /) -> Iterator[None]:
            yield

    seen: list[tuple[str, bool]] = []

    @bus.listener(Ping, middleware=(Middle(),))
    def outer(event: Ping) -> None:
        bus.dispatch_nowait(Pong())
        seen.append(("outer", has_delivery()))

    @bus.listener(Pong, **options)
    def inner(event: Pong) -> None:
        seen.append(("inner", has_delivery()))

    bus.dispatch_nowait(Ping())
    assert seen == [("inner", False), ("outer", True)]


async def test_nested_inline_async_listeners_find_their_own_deliveries(bus: GoEvent) -> None:
    seen: list[object] = []

    @bus.listener(Ping, async_=False)
    async def outer(event: Ping) -> None:
        seen.append(current_delivery().event)
        await bus.dispatch(Pong(2))
        seen.append(current_delivery().event)

    @bus.listener(Pong, async_=False)
    async def inner(event: Pong) -> None:
        await trio.sleep(0)
        seen.append(current_delivery().event)

    await bus.dispatch(Ping(1))
    assert seen == [Ping(1), Pong(2), Ping(1)]


@pytest.mark.parametrize("kind", OUTER)
async def test_child_tasks_of_a_listener_find_its_delivery(bus: GoEvent, kind: str) -> None:
    seen: list[object] = []

    async def child() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(grandchild)

    async def grandchild() -> None:
        await trio.sleep(0)
        seen.append(current_delivery().event)

    @bus.listener(Ping, **OUTER[kind])
    async def parent(event: Ping) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    handle = await bus.dispatch(Ping(5))
    await handle.wait()
    assert handle.errors == ()
    assert seen == [Ping(5)]


async def test_a_function_that_a_threaded_listener_runs_in_the_event_loop_finds_its_delivery(
    bus: GoEvent,
) -> None:
    seen: list[object] = []

    async def in_the_loop() -> None:
        seen.append(current_delivery().event)

    @bus.listener(Ping, thread=True)
    def blocking(event: Ping) -> None:
        trio.from_thread.run(in_the_loop)
        trio.from_thread.run_sync(lambda: seen.append(current_delivery().event))

    handle = await bus.dispatch(Ping(5))
    await handle.wait()
    assert handle.errors == ()
    assert seen == [Ping(5)] * 2


async def test_a_thread_that_a_listener_starts_by_itself_has_no_delivery(bus: GoEvent) -> None:
    seen: list[bool] = []

    @bus.listener(Ping)
    async def starts(event: Ping) -> None:
        await trio.to_thread.run_sync(lambda: seen.append(has_delivery()))

    await (await bus.dispatch(Ping())).wait()
    assert seen == [False]


async def test_a_delivery_has_a_telling_repr(bus: GoEvent) -> None:
    seen: list[str] = []

    @bus.listener(Ping, name="it")
    async def it(event: Ping) -> None:
        seen.append(repr(current_delivery()))

    await (await bus.dispatch(Ping())).wait()
    assert seen == ["<Delivery of 'test.ping' to it, attempt 1>"]


async def test_the_attempt_is_that_of_the_current_run(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    seen: dict[str, list[int]] = {"mailbox": [], "inline async": [], "thread": []}

    def note(name: str) -> None:
        seen[name].append(current_delivery().attempt)
        if len(seen[name]) < 3:
            raise ValueError("again")

    retry = Retry(attempts=3, jitter=0)

    @bus.listener(Ping, retry=retry)
    async def mailbox(event: Ping) -> None:
        note("mailbox")

    @bus.listener(Ping, retry=retry, async_=False)
    async def awaited(event: Ping) -> None:
        note("inline async")

    @bus.listener(Ping, retry=retry, thread=True)
    def thread(event: Ping) -> None:
        note("thread")

    for _ in range(2):
        await (await bus.dispatch(Ping())).wait()
    assert list(seen.values()) == [[1, 2, 3, 1]] * 3


async def test_a_task_that_a_listener_has_started_elsewhere_is_in_no_mailbox_listener(
    bus: GoEvent,
) -> None:
    seen: list[bool] = []

    async def background() -> None:
        seen.append(has_delivery())

    async with trio.open_nursery() as nursery:

        @bus.listener(Ping)
        async def starts(event: Ping) -> None:
            nursery.start_soon(background)

        await (await bus.dispatch(Ping())).wait()
    assert seen == [False]


async def test_a_listener_of_an_event_from_another_bus_finds_its_delivery() -> None:
    hub = MemoryHub()
    one, two = make(driver=MemoryDriver(hub)), make(driver=MemoryDriver(hub))
    seen: list[Delivery] = []
    async with one, two:

        @two.listener(Ping)
        async def far(event: Ping) -> None:
            seen.append(current_delivery())

        await two.ready()
        here = await one.dispatch(Ping(1))
        await one.close()
        await wait_all_tasks_blocked()
    (delivery,) = seen
    assert delivery.event == Ping(1)
    assert delivery.handle is not here


async def test_on_error_callbacks_and_factories_have_no_delivery(
    autojump_clock: MockClock,
) -> None:
    seen: dict[str, bool] = {}

    class Fragile:
        event_name = "test.ping"

        def __init__(self) -> None:
            seen["factory"] = has_delivery()

        async def on_event(self, event: Ping) -> None:
            raise ValueError("broken")

    async with make(listener=_restarting()) as bus:

        @bus.on_error
        def callback(error: EventError) -> None:
            seen["callback"] = has_delivery()

        bus.register_listener(Fragile)
        await bus.dispatch(Ping())
        await bus.wait()
        await trio.sleep(1)
        assert bus.snapshot().listeners[0].restarts == 1
        assert await bus.close() == Ledger(accepted=1, failed=1)
    assert seen == {"factory": False, "callback": False}


def _restarting() -> Any:
    from goevent import ListenerOptions

    return ListenerOptions(supervision=Supervision("restart"))


async def test_two_buses_do_not_mix_up_their_deliveries() -> None:
    one, two = make(), make()
    seen: list[object] = []
    async with one, two:

        @one.listener(Ping)
        async def bridge(event: Ping) -> None:
            await two.dispatch(Pong(event.n))
            seen.append(current_delivery().event)

        @two.listener(Pong, async_=False)
        async def other(event: Pong) -> None:
            seen.append(current_delivery().event)

        await (await one.dispatch(Ping(1))).wait()
    assert seen == [Pong(1), Ping(1)]
