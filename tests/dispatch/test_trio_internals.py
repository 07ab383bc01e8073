"""Listeners that leave a shared worker dirty: the bus names them, and no other one is affected."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import decimal
import inspect
import re
import select
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.support.checks import ignore_error
from tests.support.limits import HANG_SECONDS
from trio._core._run import GLOBAL_RUN_CONTEXT
from trio.testing import MockClock, wait_all_tasks_blocked

import goevent
import goevent._trio_internals
from goevent import Config, DispatchHandle, Event, EventRegistry, GoEvent, Ledger

REGISTRY = EventRegistry()
VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="clean")
SECOND: ContextVar[str] = ContextVar("SECOND", default="clean")
PRIVATE_PARTS_OF_TRIO = re.compile(
    r"trio\._|\b\w+\._(cancel_status|counter|schedule_points|nested_child_finished)\b"
    r"|scope\._close\b|effectively_cancelled"
)


class Do(Event, name="trio_internals.do", registry=REGISTRY):
    n: int = 0


class Look(Event, name="trio_internals.look", registry=REGISTRY):
    n: int = 0


async def sets_a_variable(event: Do) -> None:
    VARIABLE.set("dirty")


async def sets_a_variable_and_suspends(event: Do) -> None:
    VARIABLE.set("dirty")
    await trio.lowlevel.checkpoint()


async def sets_a_variable_and_fails(event: Do) -> None:
    VARIABLE.set("dirty")
    raise ValueError("on top of it")


async def leaves_a_scope_open(event: Do) -> None:
    trio.CancelScope().__enter__()


async def leaves_many_scopes_open(event: Do) -> None:
    for deadline in (1, 2, 3):
        trio.CancelScope(deadline=trio.current_time() + deadline).__enter__()
        trio.CancelScope(shield=True).__enter__()


async def leaves_a_scope_open_and_fails(event: Do) -> None:
    trio.CancelScope().__enter__()
    raise ValueError("on top of it")


async def leaves_a_cancelled_scope_open(event: Do) -> None:
    scope = trio.CancelScope()
    scope.__enter__()
    scope.cancel()


async def leaves_a_cancelled_scope_open_and_suspends(event: Do) -> None:
    scope = trio.CancelScope()
    scope.__enter__()
    scope.cancel()
    await trio.lowlevel.checkpoint()


async def leaves_an_expired_scope_open_and_suspends(event: Do) -> None:
    trio.CancelScope(deadline=-1).__enter__()
    await trio.sleep_forever()


async def leaves_a_nursery_open(event: Do) -> None:
    await trio.open_nursery().__aenter__()


async def leaves_a_nursery_open_with_children(event: Do) -> None:
    nursery = await trio.open_nursery().__aenter__()
    for _ in range(3):
        nursery.start_soon(trio.sleep_forever)
    await trio.lowlevel.checkpoint()


async def leaves_a_nursery_open_with_a_failing_child(event: Do) -> None:
    async def fail() -> None:
        raise KeyError("child")

    nursery = await trio.open_nursery().__aenter__()
    nursery.start_soon(fail)


async def leaves_a_nursery_open_whose_child_has_failed(event: Do) -> None:
    async def fail() -> None:
        raise KeyError("child")

    nursery = await trio.open_nursery().__aenter__()
    nursery.start_soon(fail)
    await wait_all_tasks_blocked()  # and the nursery cancels it here
    await trio.sleep_forever()


async def leaves_a_nursery_open_and_fails(event: Do) -> None:
    nursery = await trio.open_nursery().__aenter__()
    nursery.start_soon(trio.sleep_forever)
    raise ValueError("on top of it")


async def leaves_a_cancelled_nursery_open_and_suspends(event: Do) -> None:
    nursery = await trio.open_nursery().__aenter__()
    nursery.start_soon(trio.sleep_forever)
    nursery.cancel_scope.cancel()
    await trio.sleep_forever()


async def leaves_nurseries_and_scopes_open_in_turn(event: Do) -> None:
    for _ in range(3):
        trio.CancelScope().__enter__()
        nursery = await trio.open_nursery().__aenter__()
        nursery.start_soon(trio.sleep_forever)


async def leaves_everything(event: Do) -> None:
    VARIABLE.set("dirty")
    scope = trio.CancelScope()
    scope.__enter__()
    nursery = await trio.open_nursery().__aenter__()
    nursery.start_soon(trio.sleep_forever)
    VARIABLE.set("dirtier")
    scope.cancel()
    await trio.sleep_forever()


DIRTY_LISTENERS: list[Callable[[Do], Awaitable[None]]] = [
    sets_a_variable,
    sets_a_variable_and_suspends,
    sets_a_variable_and_fails,
    leaves_a_scope_open,
    leaves_many_scopes_open,
    leaves_a_scope_open_and_fails,
    leaves_a_cancelled_scope_open,
    leaves_a_cancelled_scope_open_and_suspends,
    leaves_an_expired_scope_open_and_suspends,
    leaves_a_nursery_open,
    leaves_a_nursery_open_with_children,
    leaves_a_nursery_open_with_a_failing_child,
    leaves_a_nursery_open_whose_child_has_failed,
    leaves_a_nursery_open_and_fails,
    leaves_a_cancelled_nursery_open_and_suspends,
    leaves_nurseries_and_scopes_open_in_turn,
    leaves_everything,
]
dirty_listeners = pytest.mark.parametrize("dirty", DIRTY_LISTENERS, ids=lambda one: one.__name__)


class TaskStateRecorder:
    """A listener that records the state of its task."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float, bool, int]] = []

    async def __call__(self, event: Do | Look) -> None:
        await trio.lowlevel.checkpoint()
        shielded = trio.current_effective_deadline()
        children = len(trio.lowlevel.current_task().child_nurseries)
        self.seen.append((VARIABLE.get(), shielded, event.n >= 0, children))

    @property
    def clean(self) -> bool:
        return set(self.seen) <= {("clean", float("inf"), True, 0)}


@asynccontextmanager
async def checked(bus: GoEvent) -> AsyncGenerator[TaskStateRecorder]:
    """Check at the end that the bus still works and its workers are clean."""
    recorder = TaskStateRecorder()
    bus.subscribe(recorder, Look)
    with trio.fail_after(HANG_SECONDS):
        yield recorder
        for n in range(20):
            handle = await bus.dispatch(Look(n))
            await handle.wait()
            handle.raise_errors()
        await bus.wait()
    assert recorder.clean
    assert len(recorder.seen) >= 20


def names_the_listener(handle: DispatchHandle, dirty: str) -> bool:
    (error,) = handle.errors
    assert error.listener == dirty
    assert "the listener left a" in str(error)
    return True


@dirty_listeners
async def test_one_error_names_the_dirty_listener_and_the_next_one_is_not_affected(
    bus: GoEvent, autojump_clock: MockClock, dirty: Callable[[Do], Awaitable[None]]
) -> None:
    async with checked(bus):
        neighbour = TaskStateRecorder()
        bus.subscribe(dirty, Do, name="dirty")
        bus.subscribe(neighbour, Do, name="neighbour")
        handle = await bus.dispatch(Do())
        await handle.wait()
        assert names_the_listener(handle, "dirty")
        assert bus.error_count == 1
        assert neighbour.clean
        assert len(neighbour.seen) == 1


@dirty_listeners
async def test_a_listener_that_is_dirty_twenty_times_in_a_row(
    bus: GoEvent, autojump_clock: MockClock, dirty: Callable[[Do], Awaitable[None]]
) -> None:
    async with checked(bus) as recorder:
        bus.subscribe(dirty, Do, name="dirty", mailbox=1)
        handles = list[DispatchHandle]()
        for n in range(20):
            handles.append(await bus.dispatch(Do(n)))
            await bus.dispatch(Look(n))
        await bus.wait()
        assert all(names_the_listener(handle, "dirty") for handle in handles)
        assert len(recorder.seen) == 20
    assert bus.snapshot().ledger == Ledger(accepted=60, completed=40, failed=20)


async def test_all_dirty_listeners_at_once(bus: GoEvent, autojump_clock: MockClock) -> None:
    async with checked(bus):
        for dirty in DIRTY_LISTENERS:
            bus.subscribe(dirty, Do)
            bus.subscribe(TaskStateRecorder(), Do)
        handles = [await bus.dispatch(Do(n)) for n in range(20)]
        await bus.wait()
    for handle in handles:
        assert len(handle.errors) == len(DIRTY_LISTENERS)
        assert {error.listener for error in handle.errors} == {
            getattr(dirty, "__qualname__", "") for dirty in DIRTY_LISTENERS
        }
    ledger = await bus.close()
    assert ledger.failed == 20 * len(DIRTY_LISTENERS)
    assert ledger.accepted == ledger.completed + ledger.failed


async def test_the_exception_of_a_dirty_listener_is_the_cause(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    bus.subscribe(leaves_a_scope_open_and_fails, Do)
    handle = await bus.dispatch(Do())
    await handle.wait()
    (error,) = handle.errors
    assert error.error is not None
    assert isinstance(error.error.__cause__, ValueError)
    assert "on top of it" in error.details


async def test_children_of_a_nursery_that_was_left_open_are_cancelled(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    ended: list[str] = []

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("child")

    @bus.listener(Do)
    async def leave_open(event: Do) -> None:
        nursery = await trio.open_nursery().__aenter__()
        nursery.start_soon(child)
        await wait_all_tasks_blocked()

    handle = await bus.dispatch(Do())
    await handle.wait()
    assert ended == ["child"]
    assert len(handle.errors) == 1


async def test_a_def_with_a_mailbox_is_checked_too(bus: GoEvent) -> None:
    async with checked(bus):

        @bus.listener(Do, async_=True, name="dirty")
        def dirty(event: Do) -> None:
            VARIABLE.set("dirty")
            trio.CancelScope(shield=True).__enter__()

        for _ in range(5):
            handle = await bus.dispatch(Do())
            await handle.wait()
            assert names_the_listener(handle, "dirty")


async def test_a_listener_that_cleans_up_after_itself_is_not_dirty(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    async def child() -> None:
        VARIABLE.set("its own")
        await trio.sleep(0.1)

    @bus.listener(Do)
    async def careful(event: Do) -> None:
        token = VARIABLE.set("dirty")
        with trio.move_on_after(5) as scope, trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
            scope.cancel()
            await trio.lowlevel.checkpoint()
        VARIABLE.reset(token)
        copy_context().run(VARIABLE.set, "elsewhere")

    async with checked(bus):
        for _ in range(20):
            handle = await bus.dispatch(Do())
            await handle.wait()
            handle.raise_errors()


def test_decimal_arithmetic_does_not_make_a_worker_dirty() -> None:
    """The first use of decimal in a context sets a context variable."""
    prices: list[decimal.Decimal] = []

    async def main() -> None:
        async with GoEvent(Config(registry=REGISTRY)) as bus:

            @bus.listener(Do)
            async def price(event: Do) -> None:
                prices.append(decimal.Decimal(event.n) / decimal.Decimal(3))

            for n in range(5):
                handle = await bus.dispatch(Do(n))
                await handle.wait()
                handle.raise_errors()

    Context().run(trio.run, main)
    assert len(prices) == 5


async def test_workers_start_from_the_context_in_which_the_bus_was_opened() -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    seen: list[str] = []

    @bus.listener(Do)
    async def note(event: Do) -> None:
        seen.append(f"{VARIABLE.get()} {SECOND.get()}")

    opened = VARIABLE.set("of the bus")
    try:
        async with bus:
            later = SECOND.set("of the dispatcher")
            await (await bus.dispatch(Do())).wait()
            SECOND.reset(later)
    finally:
        VARIABLE.reset(opened)
    assert seen == ["of the bus clean"]


async def test_inline_listeners_run_in_the_context_of_the_dispatcher(bus: GoEvent) -> None:
    seen: list[str] = []
    bus.subscribe(lambda event: seen.append(VARIABLE.get()), Do)
    token = VARIABLE.set("of the dispatcher")
    bus.dispatch_nowait(Do())
    VARIABLE.reset(token)
    assert seen == ["of the dispatcher"]


async def test_listeners_that_are_dirty_while_the_bus_closes(
    autojump_clock: MockClock,
) -> None:
    for dirty in DIRTY_LISTENERS:
        bus = GoEvent(Config(registry=REGISTRY))
        bus.on_error(ignore_error)

        async def late(event: Do, dirty: Callable[[Do], Awaitable[None]] = dirty) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.lowlevel.checkpoint()
                await dirty(event)

        with trio.fail_after(60):
            async with bus:
                bus.subscribe(late, Do)
                handles = [await bus.dispatch(Do()) for _ in range(3)]
                await wait_all_tasks_blocked()
                ledger = await bus.close(timeout=1)
        assert all(handle.done for handle in handles)
        assert ledger.accepted == 3
        assert ledger.completed + ledger.failed + ledger.abandoned == 3


async def test_trio_still_has_the_private_attributes_that_the_kernel_reads() -> None:
    """If Trio renames one of these, `_trio_internals` and the files that it names need a change."""
    task: Any = trio.lowlevel.current_task()
    assert GLOBAL_RUN_CONTEXT.task is task
    assert isinstance(task._counter, int)
    assert isinstance(task._schedule_points, int)
    before = task._cancel_status
    assert before.effectively_cancelled is False
    with trio.CancelScope() as scope:
        inner = task._cancel_status
        assert inner is not before
        assert inner._scope is scope
        assert callable(scope._close)
        scope.cancel()
        assert inner.effectively_cancelled is True
        assert before.effectively_cancelled is False
    assert task._cancel_status is before
    async with trio.open_nursery() as nursery:
        assert task.child_nurseries[-1] is nursery
        assert task._cancel_status._scope is nursery.cancel_scope
        assert callable(nursery._nested_child_finished)
    assert task._cancel_status is before


async def test_trio_still_has_the_private_attributes_that_forks_need() -> None:
    """If Trio renames one of these, `freeze_tasks` and `own_run_loop` need a change."""
    runner: Any = GLOBAL_RUN_CONTEXT.runner
    task: Any = trio.lowlevel.current_task()
    assert task._runner is runner
    assert task in runner.tasks
    assert task._next_send_fn is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await wait_all_tasks_blocked()
        (child,) = nursery.child_tasks
        assert child in nursery._children
        assert callable(getattr(child, "_abort_func"))  # noqa: B009
        assert callable(child.coro.send)
        nursery.cancel_scope.cancel()
    assert len(runner.asyncgens.alive) >= 0
    pair = runner.entry_queue.wakeup
    assert pair.wakeup_sock.fileno() != pair.write_sock.fileno()
    if hasattr(select, "epoll"):
        manager = runner.io_manager
        assert isinstance(manager._epoll, select.epoll)
        assert manager._force_wakeup.wakeup_sock.fileno() == manager._force_wakeup_fd
        assert callable(manager._update_registrations)
        one, other = socket.socketpair()
        with one, other:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.wait_readable, one)
                await wait_all_tasks_blocked()
                waiters = manager._registered[one.fileno()]
                assert waiters.read_task in nursery.child_tasks
                assert waiters.write_task is None
                assert waiters.current_flags == select.EPOLLIN
                nursery.cancel_scope.cancel()


def test_only_the_files_named_in_trio_internals_read_private_parts_of_trio() -> None:
    root = Path(goevent.__file__).parent
    readers = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if PRIVATE_PARTS_OF_TRIO.search(path.read_text())
    }
    assert readers == {"_trio_internals.py", "_kernel/dispatcher.py", "_kernel/scheduler.py"}
    named = inspect.getdoc(goevent._trio_internals) or ""
    for reader in readers - {"_trio_internals.py"}:
        assert f"`{reader.removesuffix('.py')}`" in named


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise ValueError("not with me")

    __hash__ = object.__hash__


async def test_context_values_that_refuse_to_be_compared_fail_only_their_listener() -> None:
    variable: ContextVar[Incomparable | None] = ContextVar("variable", default=None)
    variable.set(Incomparable())
    async with GoEvent(Config(registry=REGISTRY)) as bus:

        @bus.listener(Do)
        async def change(event: Do) -> None:
            variable.set(Incomparable())

        handle = await bus.dispatch(Do())
        await handle.wait()
        assert [error.listener for error in handle.errors] == [change.__name__]
