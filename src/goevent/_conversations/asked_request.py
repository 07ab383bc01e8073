"""One request of this bus that waits for its answer, and the errors that end it.

`Requests` makes one for each call of `GoEvent.request`, and wakes the caller through it. It ends
once: with an answer, with an error, or because the caller stops waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import Task, current_task, reschedule

from .._errors import (
    DeadlockError,
    EventError,
    NoResponder,
    RemoteError,
    RequestRefused,
    RequestTimeout,
)
from .._handle import WAKE_UP
from .._trio_internals import PARKED, park
from .messages import failure_texts

if TYPE_CHECKING:
    from .answers import AnswerCodec
    from .messages import RefusalReason
    from .request_run import RequestRun


class AskedRequest:
    """One request that waits for its answer; the `Requester` of a responder of this bus.

    Attributes:
        id: The id of the request.
        event_name: The name of the requested event.
        address: The address of the bus that works on it; empty if none is known.
        ends_with_bus: True if no other bus gets the request if that one ends.
        is_over: True once it has an answer or an error.
        unsent: True if the request has certainly reached no responder, and another one may get it.
        was_taken: True if a responder is known to have the request.
        is_late: True if the deadline has passed.
        deadline: The deadline, by the clock of the scheduler.
        run: The request at the responder of this bus; None at any other one.
    """

    __slots__ = (
        "_answer",
        "_answers",
        "_error",
        "_task",
        "address",
        "deadline",
        "ends_with_bus",
        "event_name",
        "id",
        "is_late",
        "is_over",
        "run",
        "unsent",
        "was_taken",
    )

    def __init__(
        self, request_id: str, event_name: str, answers: AnswerCodec, *, ends_with_bus: bool
    ) -> None:
        self.id: str = request_id
        self.event_name: str = event_name
        self.address: str = ""
        self.ends_with_bus: bool = ends_with_bus
        self.is_over: bool = False
        self.unsent: bool = False
        self.was_taken: bool = False
        self.is_late: bool = False
        self.deadline: float = inf
        self.run: RequestRun | None = None
        self._answers = answers
        self._task: Task | None = None
        self._answer: Callable[[Any], Any] | None = None
        self._error: Exception | None = None

    # -- the end of the request

    def answer(self, read: Callable[[Any], Any]) -> None:
        """End the request with an answer.

        Args:
            read: Returns the answer as a value of the type that it is given.
        """
        if not self.is_over:
            self._answer = read
            self._wake()

    def fail(self, error: Exception) -> None:
        """End the request with an error."""
        if not self.is_over:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        self.is_over = True
        self.wake()

    def wake(self) -> None:
        """Wake the waiting task, if it waits."""
        task, self._task = self._task, None
        # Trio sets `custom_sleep_data` to None when it cancels the task, which wakes by itself.
        if task is not None and task.custom_sleep_data is self:
            reschedule(task, WAKE_UP)

    def expire(self) -> None:
        """Stop the wait: the deadline has passed."""
        if not self.is_over:
            self.is_late = True
            self.wake()

    async def wait(self) -> None:
        """Wait until the request is over or late, or has to be sent again."""
        if self.is_over or self.unsent:
            await trio.lowlevel.checkpoint()
            return
        self._task = task = current_task()
        task.custom_sleep_data = self
        try:
            await park(PARKED)
        finally:
            self._task = None

    def result(self, answer: Any) -> Any:
        """Return the answer.

        Raises:
            Exception: The error with which the request has ended.
        """
        # These refer to the request, which would keep itself alive.
        read, self._answer = self._answer, None
        if read is not None:
            return read(answer)
        self.raise_failure()
        raise AssertionError("a request that is over has an answer or an error")

    def raise_failure(self) -> None:
        """Raise the error with which the request has ended; return if there is none."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error

    # -- the `Requester` of a responder of this bus

    def keep(self, event_name: str, value: object, answers: AnswerCodec) -> object:
        """Return the answer itself: it stays in this process."""
        return value

    def answered(self, run: RequestRun, value: object) -> None:
        """End the request with the answer of a responder of this bus."""
        self.answer(lambda answer: self._answers.convert(self.event_name, value, answer))

    def failed(self, run: RequestRun, error: EventError) -> None:
        """End the request with the failure of a responder of this bus."""
        error_type, text = failure_texts(error)
        remote = RemoteError(
            self.event_name, error.listener, error_type, text, outcome=error.outcome, bus=""
        )
        remote.__cause__ = error.error
        self.fail(remote)

    def refused(self, run: RequestRun, reason: RefusalReason, text: str) -> None:
        """End the request with the refusal of this bus."""
        self.fail(refusal(self.event_name, reason, text))


def refusal(event_name: str, reason: str, text: str) -> Exception:
    """Return the error for a refused request.

    Args:
        event_name: The name of the requested event.
        reason: A `RefusalReason`, or any other text from another bus.
        text: More about the reason.
    """
    if reason == "deadlock":
        return DeadlockError(f"the request of {event_name!r} would never end: {text}")
    if reason == "no_responder":
        return NoResponder(event_name, text or "the bus has no responder any more")
    if reason == "late":
        return RequestTimeout(event_name, "the responder was cancelled at the deadline")
    return RequestRefused(event_name, text or f"the other bus has refused it: {reason}")
