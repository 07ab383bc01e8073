"""The queue of requests that cannot enter the write buffer yet: first come, first served.

A request waits here while there is no connection, or while the write buffer is full. When there is
room, the link moves the first requests into the conversation itself, before their tasks run. So no
later request can overtake them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager

from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_task_rescheduled

from .conversation import Conversation
from .request import PendingRequest


class QueuedRequest:
    """A request and its place in the queue.

    Attributes:
        done: True if the request has been submitted, or could not be.
        error: The reason why it could not: its arguments cannot be encoded, or its hook raised.
    """

    __slots__ = ("_encode", "_remove", "_request", "_task", "done", "error")

    def __init__(
        self,
        remove: Callable[[QueuedRequest], None],
        encode: Callable[[], bytes],
        request: PendingRequest,
    ) -> None:
        self.done = False
        self.error: Exception | None = None
        self._remove = remove
        self._encode = encode
        self._request = request
        self._task: Task | None = None

    def submit(self, conversation: Conversation) -> None:
        """Put the request into a conversation, on behalf of its task."""
        try:
            conversation.submit(self._encode(), self._request)
        except Exception as error:  # noqa: BLE001 - the request's own task raises it
            self.error = error
        self.done = True
        self.wake()

    async def wait(self) -> None:
        """Wait until something has changed; cancellation gives up the place in the queue."""
        self._task = current_task()
        await wait_task_rescheduled(self._abort)

    def wake(self) -> None:
        """Let the request's task look again."""
        task, self._task = self._task, None
        if task is not None:
            reschedule(task)

    def _abort(self, raise_cancel: RaiseCancelT) -> Abort:
        self._task = None
        # At once, and not when the task runs: the link must not submit the request in between.
        self._remove(self)
        return Abort.SUCCEEDED


class RequestQueue:
    """Requests that wait, in order."""

    def __init__(self) -> None:
        # Not a deque: a request that is cancelled leaves from the middle.
        self._waiting: OrderedDict[QueuedRequest, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    @contextmanager
    def place(
        self, encode: Callable[[], bytes], request: PendingRequest
    ) -> Generator[QueuedRequest]:
        """Keep a request in the queue while the body runs."""
        queued = QueuedRequest(self._remove, encode, request)
        self._waiting[queued] = None
        try:
            yield queued
        finally:
            self._remove(queued)

    def pop(self) -> QueuedRequest:
        """Remove the first request and return it."""
        queued, _ = self._waiting.popitem(last=False)
        return queued

    def wake_all(self) -> None:
        """Let the tasks of all requests look again; the requests keep their places."""
        for queued in self._waiting:
            queued.wake()

    def _remove(self, queued: QueuedRequest) -> None:
        self._waiting.pop(queued, None)
