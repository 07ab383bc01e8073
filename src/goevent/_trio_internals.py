"""The private parts of Trio that the kernel needs: the state of a task, and a cheap way to park it.

Only this module reads private attributes of Trio, with two exceptions for speed: the hot paths of
`_kernel/dispatcher` and `_kernel/scheduler` read `task._cancel_status` inline, once per event,
because a function call costs a tenth of such a path. `tests/dispatch/test_trio_internals.py` fails
if Trio renames an attribute, and if any other module reads one.

Why private attributes: a cancel scope or a nursery that is entered and never left stays on the
*task*, so the next listener would run inside it. Trio has no public way to close it from outside.

Why a park of its own: `wait_task_rescheduled` makes a request object and three coroutines for every
park. That is a thirtieth of the cost of delivering an event, and half of the cost of waiting for a
handle. A worker parks after every batch and always in the same way, so it makes its request once.
All tasks that wait for handles share a single request.

Why anything about forks: `os.fork` copies a run loop with all its tasks. Trio has no public way to
stop the copies without a step of their own, nor to separate the two loops.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import os
import select
import signal
import socket
import types
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import msgspec
import outcome
from trio._core._run import GLOBAL_RUN_CONTEXT
from trio.lowlevel import Abort, reschedule, wait_task_rescheduled

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from outcome import Outcome
    from trio import Nursery
    from trio.lowlevel import Task


RUNNING = GLOBAL_RUN_CONTEXT
"""Trio's run context. Its attribute `task` is the running task.

`task._cancel_status.effectively_cancelled` tells whether the next checkpoint would raise
`trio.Cancelled`, for a third of the price of asking Trio's public functions.
"""


def turn() -> tuple[int, int]:
    """Return a value that changes whenever the running task has waited."""
    task = RUNNING.task
    return (task._counter, task._schedule_points)


def cancel_status(task: Task) -> object:
    """Return an object that stays the same while `task` is in the same cancel scopes."""
    return task._cancel_status


def has_child_tasks(task: Task) -> bool:
    """Tell whether a nursery of `task` is open."""
    # `Task.child_nurseries` makes a list.
    return bool(task._child_nurseries)


async def close_leftovers(task: Task, status: object, error: Any) -> BaseException | None:
    """Leave every scope and nursery that was entered since `cancel_status` was `status`.

    Children of such a nursery are cancelled and waited for.

    Args:
        task: The running task.
        status: The earlier result of `cancel_status`.
        error: The exception that is on its way out, or None. It is passed through the scopes, so
            that each scope takes the cancellation that it has caused.

    Returns:
        The rest of `error`.
    """
    while (left := task._cancel_status) is not status:
        scope = left._scope
        nursery = task.child_nurseries[-1] if task.child_nurseries else None
        # A nursery has a scope of its own. It has to end before its scope is closed.
        if nursery is not None and nursery.cancel_scope is scope:
            nursery.cancel_scope.cancel()
            error = await nursery._nested_child_finished(error)
        error = scope._close(error)
        # Closing had no effect, so this scope belongs to another task. Without this the loop would
        # never end.
        if task._cancel_status is left:
            break
    return error if isinstance(error, BaseException) else None


def request_to_park(abort: Callable[[object], Abort]) -> object:
    """Return the request that `wait_task_rescheduled(abort)` makes to Trio's run loop."""
    waiting = wait_task_rescheduled(abort)  # noqa: ASYNC105 - only its request is wanted
    request: object = waiting.send(None)
    waiting.close()
    return request


@types.coroutine
def park(request: object) -> Generator[object, Outcome[None], None]:
    """Park the running task, as `wait_task_rescheduled` does."""
    (yield request).unwrap()


def _abort(_: object) -> Abort:
    return Abort.SUCCEEDED


def _abort_never(_: object) -> Abort:
    return Abort.FAILED


PARKED = request_to_park(_abort)
"""The request that any task may use to park.

Its abort function is told nothing, so it cannot take the task off a list of waiting tasks. A waker
has to look at `task.custom_sleep_data` instead: Trio sets it to None when the task is cancelled.
"""

PARKED_FOR_GOOD = request_to_park(_abort_never)


# -- forks


class FrozenCoroutine:
    """Takes the place of a task's coroutine, and never ends."""

    def __init__(self, coroutine: object) -> None:
        self._coroutine = coroutine

    def send(self, _: object) -> object:
        return PARKED_FOR_GOOD


class KeptForGood(msgspec.Struct, gc=False, eq=False):
    """Keeps objects for the rest of the process, without a global.

    It refers to itself, and the garbage collector does not see it.
    """

    kept: object
    itself: object = None


def freeze_tasks(nursery: Nursery) -> None:
    """Stop the tasks of a nursery for good, in a fork of their process.

    They would read and write the sockets that the parent process goes on using. Not even their
    `finally` blocks may run. The running task, in which the fork was made, and the tasks around it
    are left out.
    """
    left_out = {task for task, _ in _enclosing()}
    frozen: list[Task] = []
    nurseries = [nursery]
    while nurseries:
        for child in [*nurseries.pop().child_tasks]:
            nurseries += child.child_nurseries
            if child not in left_out:
                frozen.append(child)
    for child in frozen:
        child._runner.tasks.discard(child)
        if child.parent_nursery is not None:
            child.parent_nursery._children.discard(child)
        child._abort_func = None
        child.coro = cast("Any", FrozenCoroutine(child.coro))
        if child._next_send_fn is not None:  # it is about to run
            child._next_send_fn = child.coro.send
    keep_for_good(frozen)
    _forget_waiters(frozen)


def runs_inside(nursery: Nursery | None) -> bool:
    """Tell whether the running task is one of a nursery, or of a nursery within it."""
    return any(nursery is around for _, around in _enclosing() if around is not None)


def _enclosing() -> Generator[tuple[Task, Nursery | None]]:
    """Yield the running task, if there is one, and the tasks around it, each with its nursery."""
    task: Task | None = getattr(RUNNING, "task", None)
    while task is not None:
        yield task, task.parent_nursery
        task = None if task.parent_nursery is None else task.parent_nursery.parent_task


def fail_waits(chosen: Callable[[object], bool], error: Callable[[], Exception]) -> None:
    """Raise an error in parked tasks, in a fork of their process, because nothing would wake them.

    Args:
        chosen: Tells by the `custom_sleep_data` of a task whether to raise the error there.
        error: Makes the error for one task.
    """
    for task in [*RUNNING.runner.tasks]:
        if chosen(task.custom_sleep_data):
            reschedule(task, outcome.Error(error()))


def keep_for_good(kept: object) -> None:
    """Keep objects for the rest of the process, so that no finalizer of theirs runs."""
    keeper = KeptForGood(kept)
    keeper.itself = keeper


def own_run_loop() -> None:
    """Give the run loop of a forked process an epoll and wake-up sockets of its own.

    A fork shares these with its parent: each event of a socket would wake only one of them, and a
    change of a registration would take effect in the parent, too. The loop also forgets the async
    generators, because it would close those of frozen tasks at its end.
    """
    runner = getattr(RUNNING, "runner", None)
    if runner is None:
        # The fork was made in another thread, which is the main one from now on. Signals would
        # still wake the run loop of the parent.
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)
        return
    keep_for_good([*runner.asyncgens.alive])
    runner.asyncgens.alive.clear()
    manager: Any = runner.io_manager
    epoll = getattr(manager, "_epoll", None)
    if epoll is None:
        return  # a kqueue is not inherited
    for pair in (manager._force_wakeup, runner.entry_queue.wakeup):
        ends = socket.socketpair()
        for old, new in zip((pair.wakeup_sock, pair.write_sock), ends, strict=True):
            new.setblocking(False)
            os.dup2(new.fileno(), old.fileno(), inheritable=False)
            new.close()
    own = select.epoll()
    os.dup2(own.fileno(), epoll.fileno(), inheritable=False)
    own.close()
    epoll.register(manager._force_wakeup.wakeup_sock, select.EPOLLIN)
    for descriptor, waiters in [*manager._registered.items()]:
        waiters.current_flags = 0
        manager._update_registrations(descriptor)


def _forget_waiters(tasks: list[Task]) -> None:
    """Let no event of a socket wake these tasks."""
    runner = getattr(RUNNING, "runner", None)
    for waiters in getattr(getattr(runner, "io_manager", None), "_registered", {}).values():
        if waiters.read_task in tasks:
            waiters.read_task = None
        if waiters.write_task in tasks:
            waiters.write_task = None
