"""The errors of goevent: one root, `GoEventError`, and one class for each kind of failure.

Wrong *use* raises `TypeError`, `ValueError` or `RuntimeError` of the standard library. The classes
here stand for failures that happen while a correct program runs. This module is below all others,
so every room may raise and catch them.
"""

from __future__ import annotations

import traceback
from types import CodeType
from typing import ClassVar, Literal, cast

import trio
from trio.lowlevel import in_trio_task

Outcome = Literal["failed", "dropped", "abandoned"]
# Limits of an error that is kept as text: the frames of its traceback, and its reason.
MAX_KEPT_FRAMES = 20
MAX_REASON_CHARS = 1000
# The beginning of the reason of an `EventError` whose exception is a `DeadLettered`.
DEAD_LETTER_REASON = "DeadLettered: "

NEEDS_TRIO = (
    "goevent runs on Trio: start the program with `trio.run(main)` or "
    '`anyio.run(main, backend="trio")`; from a thread without Trio, call '
    "`bus.dispatch_from_thread(event)` of an open bus"
)
"""The message for a caller that is not a Trio task, such as a task of asyncio."""


def require_trio() -> None:
    """Refuse a caller that is not a Trio task.

    Raises:
        RuntimeError: No Trio task is running on this thread.
    """
    if not in_trio_task():
        raise RuntimeError(NEEDS_TRIO)


class GoEventError(Exception):
    """The base class of all errors of goevent."""


class EventError(GoEventError):
    """One listener did not complete one event, as Go's `goevent.EventError`.

    Its `__cause__` is the exception that the listener raised. The bus keeps the newest 10,000
    errors, but only the newest 100 with their live exception, because a traceback keeps all its
    frames and their events in memory. The older ones keep the text, so `details` works for all.

    Example:
        >>> bus = GoEvent()
        >>> @bus.on_error
        ... def log(error: EventError) -> None:
        ...     print(error.listener, error.outcome, "on", error.event_name, error.reason)
        >>> @bus.listener("order.paid", name="invoices")
        ... def fail(event: Event) -> None:
        ...     raise ValueError("no address")
        >>> async with bus:
        ...     handle = await bus.dispatch(Event("order.paid"))
        ...     await handle.wait()
        invoices failed on order.paid ValueError: no address

    Attributes:
        event_name: The name of the event that was not completed.
        listener: The name of the listener, or of the part of the bus that failed.
        outcome: The column of the ledger that counts the delivery.
        attempts: The number of attempts; above 1 only with `ListenerOptions.retry`.
    """

    # Ten thousand of these are kept, so they have no instance dictionaries.
    __slots__ = ("_earlier", "_frames", "_reason", "attempts", "event_name", "listener")

    outcome: ClassVar[Outcome] = "failed"

    def __init__(
        self,
        event_name: str,
        listener: str,
        error: BaseException | None = None,
        *,
        reason: str = "",
        earlier: tuple[BaseException, ...] = (),
    ) -> None:
        super().__init__(event_name, listener)
        self.event_name: str = event_name
        self.listener: str = listener
        self.attempts: int = len(earlier) + 1
        self.__cause__ = error
        self._reason = reason
        self._earlier = earlier
        self._frames: tuple[tuple[CodeType, int], ...] = ()

    @property
    def error(self) -> BaseException | None:
        """The exception of the listener. None if it raised none, or if only the text was kept."""
        return self.__cause__

    @property
    def causes(self) -> tuple[BaseException, ...]:
        """The exceptions of all attempts, in order. `error` is the last of them."""
        return self._earlier if self.__cause__ is None else (*self._earlier, self.__cause__)

    @property
    def reason(self) -> str:
        """The reason in one line, "Type: message" for an exception."""
        if self._reason or self.__cause__ is None:
            return self._reason
        return describe(self.__cause__)

    @property
    def details(self) -> str:
        """The traceback as text, followed by the reason."""
        if self.__cause__ is not None:
            return "".join(traceback.format_exception(self.__cause__)).rstrip()
        frames = [(code.co_filename, line, code.co_name, None) for code, line in self._frames]
        return "".join([*traceback.StackSummary.from_list(frames).format(), self.reason])

    def as_text(self) -> EventError:
        """Return this error without its live exception, which may keep megabytes in memory."""
        if self.__cause__ is None:
            return self
        reason = self.reason
        # The reason may quote the whole event.
        if len(reason) > MAX_REASON_CHARS:
            reason = f"{reason[:MAX_REASON_CHARS]}..."
        text = type(self)(self.event_name, self.listener, reason=reason)
        text.attempts = self.attempts
        # Code objects and line numbers, and not frames: a frame keeps its local variables alive.
        frames: list[tuple[CodeType, int]] = []
        entry = self.__cause__.__traceback__
        while entry is not None and len(frames) < MAX_KEPT_FRAMES:
            frames.append((entry.tb_frame.f_code, entry.tb_lineno))
            entry = entry.tb_next
        text._frames = tuple(frames)
        return text

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def __str__(self) -> str:
        reason = self.reason
        if reason.startswith(DEAD_LETTER_REASON):
            # The driver has not failed. By the reason, because the exception may be gone by now.
            return reason.removeprefix(DEAD_LETTER_REASON)
        tries = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        return f"{self.listener} {self.outcome} on {self.event_name!r}{tries}: {reason}"


class EventDropped(EventError):
    """An event was dropped before its listener ran, by the overflow policy or by unregistering."""

    __slots__ = ()
    outcome: ClassVar[Outcome] = "dropped"


class EventVetoed(EventDropped):
    """Middleware kept an event from all its listeners, or from one of them.

    The error is on the handle of the event. It is not in `bus.errors`, because nothing has failed.
    """

    __slots__ = ()


class EventAbandoned(EventError):
    """The bus ended before the listener ran, or while it ran.

    Attributes:
        started: False if the listener has certainly not started with the event.
    """

    __slots__ = ("started",)
    outcome: ClassVar[Outcome] = "abandoned"

    def __init__(
        self,
        event_name: str,
        listener: str,
        error: BaseException | None = None,
        *,
        reason: str = "",
        earlier: tuple[BaseException, ...] = (),
        started: bool = True,
    ) -> None:
        super().__init__(event_name, listener, error, reason=reason, earlier=earlier)
        self.started: bool = started


class ListenerTimeout(GoEventError, trio.TooSlowError):
    """A run of a listener took longer than its `timeout`."""


class Veto(Exception):
    """Middleware raises it above its `yield` to keep an event from the listeners.

    Example:
        >>> class OnlyOrders:
        ...     def around_dispatch(self, handle: DispatchHandle):
        ...         if not handle.event_name.startswith("order."):
        ...             raise Veto("not an order")
        ...         yield

    Args:
        reason: The reason in one line. It appears on the handle of the event.
    """


class Vetoed(Exception):
    """A `Veto` on its way out of the middleware, with the name of the middleware that raised it."""

    def __init__(self, middleware: str, reason: str) -> None:
        super().__init__(middleware, reason)
        self.middleware = middleware
        self.reason = reason


class HookFailed(Exception):
    """An exception of middleware on its way out; it is not reported as the listener's."""

    def __init__(self, middleware: str, error: Exception) -> None:
        super().__init__(middleware, error)
        self.middleware = middleware
        self.error = error


def failure_of(
    event_name: str, listener: str, error: BaseException, earlier: tuple[BaseException, ...] = ()
) -> EventError:
    """Return the `EventError` for an exception of a run, naming the listener or the middleware."""
    if isinstance(error, Vetoed):
        return EventVetoed(event_name, listener, reason=f"{error.middleware}: {error.reason}")
    if isinstance(error, HookFailed):
        return EventError(event_name, error.middleware, error.error, earlier=earlier)
    return EventError(event_name, listener, error, earlier=earlier)


def forget_caller(error: BaseException) -> None:
    """Remove the frame that caught `error`, a frame of the kernel, from its traceback.

    This frame refers to the handle, and the handle refers to the error. Without this, error and
    handle would keep each other alive until the garbage collector runs.
    """
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next


def leaf_ids(error: BaseException | None) -> set[int]:
    """Return the ids of the exceptions in a group, or of the exception itself.

    Copies of a group, as `split` and cancel scopes make them, contain the same exceptions.
    """
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return {leaf for part in group.exceptions for leaf in leaf_ids(part)}
    return {id(error)}


def describe(error: BaseException) -> str:
    """Return "Type: message", even if the `__str__` of the exception raises."""
    kind = type(error).__name__
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - a hostile __str__ must not hide the failure
        message = f"<its __str__ raised {type(broken).__name__}>"
    return f"{kind}: {message}" if message else kind


class BusClosed(GoEventError, trio.ClosedResourceError):
    """The bus is closed or closing, and did not accept the event."""


class DeadlockError(GoEventError, RuntimeError):
    """The wait could never end, because it would wait for the caller itself."""


class NestingError(GoEventError, RuntimeError):
    """Inline listeners dispatch inside each other deeper than `Config.max_nesting`."""


class MailboxFull(GoEventError):
    """A mailbox with `overflow="error"` was full; no listener got the event."""


class DecodeError(GoEventError, ValueError):
    """Bytes or a payload do not form the event that they should.

    Attributes:
        event_name: The name under which the data arrived.
        reason: The reason, in one sentence.
        excerpt: The first bytes of the data, escaped, in at most 120 characters.
    """

    def __init__(self, event_name: str, reason: str, *, excerpt: str = "") -> None:
        super().__init__(event_name, reason)
        self.event_name = event_name
        self.reason = reason
        self.excerpt = excerpt

    def __str__(self) -> str:
        seen = f" in {self.excerpt}" if self.excerpt else ""
        return f"cannot decode {self.event_name!r}: {self.reason}{seen}"


class EncodeError(GoEventError, ValueError):
    """An event cannot be written as bytes, or becomes larger than the limit.

    Attributes:
        event_name: The name of the event.
        reason: The reason, in one sentence.
    """

    def __init__(self, event_name: str, reason: str) -> None:
        super().__init__(event_name, reason)
        self.event_name = event_name
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot encode {self.event_name!r}: {self.reason}"


class DriverError(GoEventError):
    """A driver failed, or its broker refused a request."""


class DriverConnectionError(DriverError):
    """A driver has no connection to its broker.

    A driver also reports it when a connection is lost and when it is restored.
    """


class DeadLettered(DriverError):
    """A consumer group has given an event up; the broker keeps it among the dead letters.

    A durable driver reports it once for each such event, when the dead letter is written. It is the
    `error` of an `EventError`.

    Example:
        >>> bus = GoEvent()
        >>> @bus.on_error
        ... def alert(error: EventError) -> None:
        ...     if isinstance(error.error, DeadLettered):
        ...         print(error.error.event_name, error.error.id, error.error.reason)

    Attributes:
        event_name: The name of the event.
        id: The broker's id of the event.
        reason: Why the event was given up, in one line.
        deliveries: How often the event was delivered.
    """

    def __init__(self, event_name: str, id: str, reason: str, deliveries: int) -> None:  # noqa: A002
        super().__init__(event_name, id, reason, deliveries)
        self.event_name = event_name
        self.id = id
        self.reason = reason
        self.deliveries = deliveries

    def __str__(self) -> str:
        return (
            f"the event {self.id} of {self.event_name!r} is a dead letter after {self.deliveries} "
            f"deliveries: {self.reason}"
        )


class GapDetected(DriverError):
    """Events of another bus were lost on their way to this one.

    Attributes:
        origin: The id of the sending bus.
        channel: The channel of the broker.
        missing: The number of lost events. It is negative for an event that arrived after it was
            counted as lost.
    """

    def __init__(self, origin: str, channel: str, missing: int) -> None:
        super().__init__(origin, channel, missing)
        self.origin = origin
        self.channel = channel
        self.missing = missing

    def __str__(self) -> str:
        if self.missing < 0:
            return f"an event on {self.channel} that was counted as lost has arrived late"
        return f"{self.missing} event(s) on {self.channel} were lost on the way"


class UnsupportedError(DriverError, ValueError):
    """The driver of the bus does not support the requested operation."""


class UnknownDriverError(DriverError, ValueError):
    """No installed driver has the requested name or URL scheme."""
