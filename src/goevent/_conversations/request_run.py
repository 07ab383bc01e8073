"""One request at the responder of a bus, from its arrival to the message that ends it.

`Requests` makes one for a request of this bus, and `RequestService` for a request of another bus.
The handle of the request refers to it, so that the wrapper around the responder's function finds
it.

A request ends in one of these ways: the responder has answered; it has failed, or the event was
dropped or abandoned; nobody waits for the answer any more, and the responder was cancelled; or the
request was refused, and no responder has completed it.
"""

# The internals of handles are for the kernel, the ports and the conversations, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from .._delivery import current_delivery
from .._errors import EventError, NestingError
from .._handle import HandleDetails
from .request_headers import MAX_CHAINED_REQUESTS

if TYPE_CHECKING:
    from .._handle import DispatchHandle
    from .._kernel.worker import Worker
    from .answers import AnswerCheck, AnswerCodec
    from .messages import RefusalReason

DEADLINE_PASSED = "the deadline of the request has passed"


class Requester(Protocol):
    """The side of a request that waits for the answer: of this bus, or of another one."""

    def answered(self, run: RequestRun, value: object) -> None:
        """Take the answer."""
        ...

    def failed(self, run: RequestRun, error: EventError) -> None:
        """Take the failure of the responder."""
        ...

    def refused(self, run: RequestRun, reason: RefusalReason, text: str) -> None:
        """Take a refusal. A responder has run only if the reason is `"late"`."""
        ...

    def keep(self, event_name: str, value: object, answers: AnswerCodec) -> object:
        """Return an answer in the form that `answered` takes.

        Raises:
            EncodeError: The answer cannot be sent.
        """
        ...


class WaitingRequest(Protocol):
    """A request of this bus that waits for its answer, as a search for deadlocks sees it."""

    @property
    def id(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def is_over(self) -> bool: ...
    @property
    def run(self) -> RequestRun | None: ...


class RequestRun:
    """One request at the responder of this bus.

    Attributes:
        id: The id of the request.
        event_name: The name of the requested event.
        requester: Waits for the answer.
        address: The address of the requesting bus; empty for this one.
        deadline: When the requester stops waiting, by Trio's clock.
        chain: The ids of the requests inside whose responders this one was made.
        is_cancelled: True once nobody waits for the answer any more.
        reason: The reason of that.
        is_refused: True once the request was refused.
        ended: Called once with the errors, when the responder is done.
        stop: Cancels the running responder; None while none can be cancelled.
        asks: The requests of the responder for whose answers it waits.
    """

    __slots__ = (
        "_has_value",
        "_value",
        "address",
        "asks",
        "chain",
        "deadline",
        "ended",
        "event_name",
        "id",
        "is_cancelled",
        "is_refused",
        "reason",
        "requester",
        "stop",
    )

    def __init__(
        self,
        request_id: str,
        event_name: str,
        requester: Requester,
        *,
        address: str = "",
        deadline: float = float("inf"),
        chain: tuple[str, ...] = (),
    ) -> None:
        self.id: str = request_id
        self.event_name: str = event_name
        self.requester: Requester = requester
        self.address: str = address
        self.deadline: float = deadline
        self.chain: tuple[str, ...] = chain
        self.is_cancelled: bool = False
        self.reason: str = ""
        self.is_refused: bool = False
        self.ended: Callable[[RequestRun, tuple[EventError, ...]], None] | None = None
        self.stop: Callable[[str], None] | None = None
        self.asks: set[WaitingRequest] | tuple[()] = ()
        self._value: object = None
        self._has_value = False

    def begin_to_wait(self, asked: WaitingRequest) -> None:
        """Note a request that the responder makes."""
        if isinstance(self.asks, set):
            self.asks.add(asked)
        else:
            self.asks = {asked}

    def end_wait(self, asked: WaitingRequest) -> None:
        """Forget a request that the responder has made."""
        if isinstance(self.asks, set):
            self.asks.discard(asked)

    def cancel(self, reason: str) -> None:
        """Cancel the responder, which need not have begun. A second call has no effect."""
        if not self.is_cancelled:
            self.is_cancelled, self.reason = True, reason
            if self.stop is not None:
                self.stop(reason)

    def may_begin(self, now: float) -> bool:
        """Tell whether somebody still waits for the answer."""
        if now >= self.deadline:
            self.cancel(DEADLINE_PASSED)
        return not self.is_cancelled

    def keep(self, value: object, check: AnswerCheck, answers: AnswerCodec) -> None:
        """Take the value that the responder has returned.

        Args:
            value: The value.
            check: Refuses values of another type than that of the responder.
            answers: Turns it into bytes.

        Raises:
            DecodeError: It is not of the type that the responder was registered with.
            EncodeError: It cannot be sent.
            TypeError: It is no instance of the class that the responder was registered with.
        """
        check.check(self.event_name, value)
        self._value = self.requester.keep(self.event_name, value, answers)
        self._has_value = True

    def chain_below(self, event_name: str) -> tuple[str, ...]:
        """Return the chain of a request that the responder makes.

        Raises:
            NestingError: Responders make requests too deep inside each other.
        """
        chain = (*self.chain, self.id)
        if len(chain) > MAX_CHAINED_REQUESTS:
            raise NestingError(
                f"the request of {event_name!r} is made inside {len(chain)} others, each by the "
                "responder of the one before"
            )
        return chain

    def refuse(self, reason: RefusalReason, text: str) -> None:
        """Tell the requester that the request is refused."""
        self.is_refused = True
        self.requester.refused(self, reason, text)

    def settle(self, errors: tuple[EventError, ...]) -> None:
        """Take the end of the delivery."""
        ended, self.ended = self.ended, None
        if ended is not None:
            ended(self, errors)

    def finish(self, errors: tuple[EventError, ...]) -> None:
        """Tell the requester how the request has ended."""
        if errors:
            self.requester.failed(self, errors[-1])
        elif self._has_value:
            # Even if it comes too late: the requester counts it.
            self.requester.answered(self, self._value)
        elif self.is_cancelled:
            if self.reason == DEADLINE_PASSED:
                self.refuse("late", DEADLINE_PASSED)
        elif not self.is_refused:
            self.refuse("no_responder", "the responder was unregistered before it ran")


def run_on(worker: Worker) -> RequestRun:
    """Return the request that the responder on a worker works on."""
    lane = worker.actor
    run = None if lane is None else run_of(lane.current)
    assert run is not None, "a responder runs with requests only"  # noqa: S101
    return run


def current_run() -> RequestRun:
    """Return the request that the running responder works on."""
    run = run_of(current_delivery().handle)
    assert run is not None, "a responder runs with requests only"  # noqa: S101
    return run


def run_of(handle: DispatchHandle | None) -> RequestRun | None:
    """Return the request of a handle; None for any other event."""
    details = None if handle is None else handle._details
    request = details.request if isinstance(details, HandleDetails) else None
    return request if isinstance(request, RequestRun) else None
