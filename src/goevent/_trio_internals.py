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
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

from trio._core._run import GLOBAL_RUN_CONTEXT
from trio.lowlevel import Abort, wait_task_rescheduled

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from outcome import Outcome
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


PARKED = request_to_park(_abort)
"""The request that any task may use to park.

Its abort function is told nothing, so it cannot take the task off a list of waiting tasks. A waker
has to look at `task.custom_sleep_data` instead: Trio sets it to None when the task is cancelled.
"""
