"""What waits for replies: a request of a task, several at once, a subscription, or a callback.

A request stands in its conversation's line from the moment its bytes enter the write buffer until
its last reply. A cancelled one stays there, because the server replies in order; its reply is
dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_task_rescheduled

SUBSCRIBING = frozenset(
    spelled
    for kind in ("", "P", "S")
    for name in (f"{kind}SUBSCRIBE", f"{kind}UNSUBSCRIBE")
    for spelled in (name, name.lower(), name.encode(), name.lower().encode())
)
"""The commands that are answered by push frames."""

_UNSETTLED: Any = object()


class Awaited(Protocol):
    """What stands in a conversation's line."""

    confirms: ClassVar[bool]
    """True if push frames are the answer, as for SUBSCRIBE."""

    def take(self, frame: Any, /) -> bool:
        """Take the next reply; return True if it was the last one."""
        ...

    def settle(self, result: Any, /) -> None:
        """Take what is the end of it: most often what says that there will be no reply."""
        ...


class Request:
    """One command, whose task waits for the one reply."""

    __slots__ = ("result", "task")

    confirms: ClassVar[bool] = False

    def __init__(self) -> None:
        self.result: Any = _UNSETTLED
        self.task: Task | None = None

    def take(self, frame: Any) -> bool:
        """Take the next reply; return True if it was the last one."""
        self.settle(frame)
        return True

    def settle(self, result: Any) -> None:
        """End the wait: with what was asked for, or with an exception that says why not."""
        self.result = result
        task = self.task
        if task is not None:
            self.task = None
            reschedule(task)

    async def wait(self) -> Any:
        """Return the result, or the exception that stands in its place."""
        if self.result is _UNSETTLED:
            self.task = current_task()
            await wait_task_rescheduled(self._abort)
        return self.result

    async def answer(self) -> Any:
        """Return the result, or raise what stands in its place."""
        result = await self.wait()
        if isinstance(result, Exception):
            try:
                raise result
            finally:
                del result, self.result  # else the exception and this frame keep each other
        return result

    def _abort(self, raise_cancel: RaiseCancelT) -> Abort:
        self.task = None
        return Abort.SUCCEEDED


class Batch(Request):
    """Several commands, whose task waits for all their replies."""

    __slots__ = ("_replies", "_want")

    def __init__(self, want: int) -> None:
        super().__init__()
        self._want = want
        self._replies: list[Any] = []

    def take(self, frame: Any) -> bool:
        """Take the next reply; return True if it was the last one."""
        self._replies.append(frame)
        if len(self._replies) < self._want:
            return False
        self.settle(self._replies)
        return True


class Confirmation(Request):
    """A SUBSCRIBE or its like: answered by one push frame for each channel, or by one error."""

    __slots__ = ("_want",)

    confirms = True

    def __init__(self, want: int) -> None:
        super().__init__()
        self._want = want

    def confirm(self) -> bool:
        """Take the next push frame; return True if it was the last one."""
        self._want -= 1
        if self._want:
            return False
        self.settle(None)
        return True


class Posted(Request):
    """One command whose reply goes to a callback; no task waits."""

    __slots__ = ("_then",)

    def __init__(self, then: Callable[[Any], None]) -> None:
        super().__init__()
        self._then = then

    def take(self, frame: Any) -> bool:
        """Take the reply, which is the only one."""
        then, self._then = self._then, ignore  # once, even if it raises
        then(frame)
        return True

    def settle(self, result: Any) -> None:
        """Call back: with an exception, as there will be no reply."""
        self.take(result)


def ignore(reply: Any) -> None:
    """Be the callback of a request whose reply tells nothing."""


def no_reply(command: object) -> ValueError:
    """Return the error for a command that is sent as if it had a reply."""
    return ValueError(f"{command!r} is answered by push frames: use Link.subscribe")
