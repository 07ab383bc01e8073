"""Where requests wait that cannot enter the write buffer: first come, first served.

There may be no room, or no connection. Whoever makes room lets the first ones in, in their place
and at once, so that no later request can slip in between.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager

from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_task_rescheduled

from .conversation import Conversation
from .request import Request


class Turn:
    """A request's place in the queue.

    Attributes:
        over: True if the request has entered, or failed to.
        error: Why it failed to: its arguments are no command, or its hook raised.
    """

    __slots__ = ("_leave", "_make", "_request", "_task", "error", "over")

    def __init__(
        self, leave: Callable[[Turn], None], make: Callable[[], bytes], request: Request
    ) -> None:
        self.over = False
        self.error: Exception | None = None
        self._leave = leave
        self._make = make
        self._request = request
        self._task: Task | None = None

    def enter(self, conversation: Conversation) -> None:
        """Put the request into a conversation, in place of its task."""
        try:
            conversation.enter(self._make(), self._request)
        except Exception as error:  # noqa: BLE001 - its task raises it
            self.error = error
        self.over = True
        self.wake()

    async def wait(self) -> None:
        """Wait until something has changed; cancellation gives up the place."""
        self._task = current_task()
        await wait_task_rescheduled(self._abort)

    def wake(self) -> None:
        """Let the task look what has changed."""
        task, self._task = self._task, None
        if task is not None:
            reschedule(task)

    def _abort(self, raise_cancel: RaiseCancelT) -> Abort:
        self._task = None
        # Now, not when the task runs: it must not be let in meanwhile.
        self._leave(self)
        return Abort.SUCCEEDED


class Queue:
    """Requests that wait, in order."""

    def __init__(self) -> None:
        # Not a deque: those that give up leave from the middle.
        self._turns: OrderedDict[Turn, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._turns)

    @contextmanager
    def turn(self, make: Callable[[], bytes], request: Request) -> Generator[Turn]:
        """Stand in the queue while the body runs."""
        turn = Turn(self._leave, make, request)
        self._turns[turn] = None
        try:
            yield turn
        finally:
            self._leave(turn)

    def pop(self) -> Turn:
        """Take the first one out."""
        turn, _ = self._turns.popitem(last=False)
        return turn

    def _leave(self, turn: Turn) -> None:
        self._turns.pop(turn, None)

    def wake(self) -> None:
        """Let all look what has changed; they keep their places."""
        for turn in self._turns:
            turn.wake()
