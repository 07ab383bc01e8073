"""Requests that wait for replies: one command, a pipeline, a subscription, or a callback.

The conversation keeps a request in its queue from the moment the request's bytes enter the write
buffer until the last reply has arrived. A cancelled request keeps its slot, because the server
replies in order: the reply to it is dropped, and the next reply belongs to the next request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_task_rescheduled

SUBSCRIBE_COMMANDS = frozenset(
    spelled
    for kind in ("", "P", "S")
    for name in (f"{kind}SUBSCRIBE", f"{kind}UNSUBSCRIBE")
    for spelled in (name, name.lower(), name.encode(), name.lower().encode())
)
"""The commands that the server answers with push frames."""

_NO_RESULT: Any = object()


class PendingRequest(Protocol):
    """A request in a conversation, as the conversation sees it."""

    answered_by_push: ClassVar[bool]
    """True if push frames are the answer, as for SUBSCRIBE."""

    def receive_reply(self, frame: Any, /) -> bool:
        """Take the next reply; return True if it was the last one."""
        ...

    def fail(self, error: Exception, /) -> None:
        """End the request with an error, in place of the replies that are still missing."""
        ...


class CommandRequest:
    """One command; its task waits for the reply.

    Attributes:
        result: The reply, or the exception in its place.
        task: The task that is parked in `wait`, if it has to wait.
    """

    __slots__ = ("result", "task")

    answered_by_push: ClassVar[bool] = False

    def __init__(self) -> None:
        self.result: Any = _NO_RESULT
        self.task: Task | None = None

    def receive_reply(self, frame: Any) -> bool:
        """Take the reply, which is the only one."""
        self._finish(frame)
        return True

    def fail(self, error: Exception) -> None:
        """End the wait with an error."""
        self._finish(error)

    async def wait(self) -> Any:
        """Return the result, or the exception that stands in its place."""
        if self.result is _NO_RESULT:
            self.task = current_task()
            await wait_task_rescheduled(self._abort)
        return self.result

    async def answer(self) -> Any:
        """Return the result, or raise the exception that stands in its place."""
        result = await self.wait()
        if isinstance(result, Exception):
            try:
                raise result
            finally:
                # The exception refers to this frame by its traceback. Without the two references
                # from the frame back to the exception there is no cycle for the collector.
                del result, self.result
        return result

    def _finish(self, result: Any) -> None:
        self.result = result
        task = self.task
        if task is not None:
            self.task = None
            reschedule(task)

    def _abort(self, raise_cancel: RaiseCancelT) -> Abort:
        # The request stays in the conversation; but no task is woken when the reply arrives.
        self.task = None
        return Abort.SUCCEEDED


class PipelineRequest(CommandRequest):
    """Several commands; their task waits for all replies."""

    __slots__ = ("_expected", "_replies")

    def __init__(self, expected: int) -> None:
        super().__init__()
        self._expected = expected
        self._replies: list[Any] = []

    def receive_reply(self, frame: Any) -> bool:
        """Take the next reply; return True if it was the last one."""
        self._replies.append(frame)
        if len(self._replies) < self._expected:
            return False
        self._finish(self._replies)
        return True


class SubscribeRequest(CommandRequest):
    """A SUBSCRIBE or its like: answered by one push frame for each channel, or by one error."""

    __slots__ = ("_expected",)

    answered_by_push: ClassVar[bool] = True

    def __init__(self, expected: int) -> None:
        super().__init__()
        self._expected = expected

    def receive_confirmation(self) -> bool:
        """Take the next push frame; return True if it was the last one."""
        self._expected -= 1
        if self._expected:
            return False
        self._finish(None)
        return True


class CallbackRequest:
    """One command with a callback for its reply; no task waits for it."""

    __slots__ = ("_callback",)

    answered_by_push: ClassVar[bool] = False

    def __init__(self, callback: Callable[[Any], None]) -> None:
        self._callback = callback

    def receive_reply(self, frame: Any) -> bool:
        """Call back with the reply, which is the only one."""
        # At most once, even if the callback raises and the conversation fails its requests then.
        callback, self._callback = self._callback, ignore_reply
        callback(frame)
        return True

    def fail(self, error: Exception) -> None:
        """Call back with an exception, because no reply will arrive."""
        self.receive_reply(error)


class CallbackPipelineRequest:
    """Several commands with one callback for all their replies; no task waits for them."""

    __slots__ = ("_callback", "_expected", "_replies")

    answered_by_push: ClassVar[bool] = False

    def __init__(self, expected: int, callback: Callable[[list[Any]], None]) -> None:
        self._expected = expected
        self._callback = callback
        self._replies: list[Any] = []

    def receive_reply(self, frame: Any) -> bool:
        """Take the next reply; call back after the last one."""
        return self.receive_replies([frame])

    def receive_replies(self, frames: list[Any]) -> bool:
        """Take the next replies, of which no more than `missing` may come."""
        self._replies += frames
        if self.missing:
            return False
        # At most once, as in `CallbackRequest`.
        callback, self._callback = self._callback, ignore_reply
        callback(self._replies)
        return True

    @property
    def missing(self) -> int:
        """The number of replies that have not come yet."""
        return self._expected - len(self._replies)

    def fail(self, error: Exception) -> None:
        """Call back with an exception in place of each reply that will not arrive."""
        self.receive_replies([error] * self.missing)


def ignore_reply(reply: Any) -> None:
    """Do nothing: the callback for replies that do not matter."""


def subscribe_command_error(command: object) -> ValueError:
    """Return the error for a SUBSCRIBE or its like that is sent as an ordinary command."""
    return ValueError(f"{command!r} is answered by push frames: use Link.subscribe")
