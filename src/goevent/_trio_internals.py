"""The private parts of Trio that the kernel needs: task state, and parking a task cheaply.

A cancel scope or a nursery that is entered and never left stays on the *task*: the next listener
would run inside it. Trio has no public way to close them from outside, so this module, and only
this one, reads Trio's private attributes; `tests/dispatch/test_trio_internals.py` fails if Trio
renames one.

`wait_task_rescheduled` makes a request object and three coroutines for every park, which would be
a thirtieth of what an event costs its listener, and half of what the wait for one costs. A worker
parks after every batch and always in the same way, so it keeps the request. All who wait for
handles share one: cancelling tells nobody, so that they have to look themselves why they wake.
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


# Its `task` is the running one; `task._cancel_status.effectively_cancelled` tells whether the next
# checkpoint would raise `trio.Cancelled`, for a third of what asking Trio costs.
RUNNING = GLOBAL_RUN_CONTEXT


def turn() -> tuple[int, int]:
    """Return what is the same while the running task has not waited since."""
    task = RUNNING.task
    return (task._counter, task._schedule_points)


def cancel_status(task: Task) -> object:
    """Return an object that is the same exactly while `task` is in the same cancel scopes."""
    return task._cancel_status


async def close_leftovers(task: Task, status: object, error: Any) -> BaseException | None:
    """Leave every scope and nursery that was entered since `cancel_status` was `status`.

    Children of such a nursery are cancelled and waited for. Returns what is left of `error`, which
    is passed through the scopes on its way out, so that a scope takes the cancellation it caused.
    """
    while (left := task._cancel_status) is not status:
        scope = left._scope
        nursery = task.child_nurseries[-1] if task.child_nurseries else None
        if nursery is not None and nursery.cancel_scope is scope:
            nursery.cancel_scope.cancel()
            error = await nursery._nested_child_finished(error)
        error = scope._close(error)
        if task._cancel_status is left:
            break  # closing it had no effect: it is not ours to close
    return error if isinstance(error, BaseException) else None


def request_to_park(abort: Callable[[object], Abort]) -> object:
    """Return what `wait_task_rescheduled(abort)` asks Trio for."""
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
"""A request of any task: as it is cancelled, only its own `custom_sleep_data` changes, to None."""
