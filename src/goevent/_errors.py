"""The errors of the bus: one root, one branch per thing that can go wrong.

Wrong *use* raises the standard library's `TypeError`, `ValueError` and `RuntimeError`; what is here
goes wrong while a correct program runs.
"""

from __future__ import annotations

import traceback
from types import CodeType
from typing import ClassVar, Literal, cast

import trio

Outcome = Literal["failed", "dropped", "abandoned"]
MAX_FRAMES = 20
MAX_REASON = 1000  # characters of an error that is kept as text


class GoEventError(Exception):
    """The root of goevent's own errors."""


class EventError(GoEventError):
    """One listener did not complete one event, as Go's `goevent.EventError`.

    Its `__cause__` is what the listener raised. The bus keeps the newest 10,000 of these, but only
    the newest 100 with their live exception: a traceback pins every frame and event in it. The
    older ones keep the text, so `details` works for all.

    Attributes:
        event_name: the event that was not completed.
        listener: the name of the listener, or of the part of the bus that failed.
        reason: what happened, in one line.
        outcome: the column of the ledger that counted the delivery.
        attempts: how often the listener has tried; above 1 with `ListenerOptions.retry` only.
    """

    # Ten thousand of these are kept: no instance dictionaries.
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
        """What the listener raised; None if it raised nothing, or if only the text was kept."""
        return self.__cause__

    @property
    def causes(self) -> tuple[BaseException, ...]:
        """What every attempt raised, in order; `error` is the last of them."""
        return self._earlier if self.__cause__ is None else (*self._earlier, self.__cause__)

    @property
    def reason(self) -> str:
        if self._reason or self.__cause__ is None:
            return self._reason
        return describe(self.__cause__)

    @property
    def details(self) -> str:
        """The traceback as text, ending with the reason."""
        if self.__cause__ is not None:
            return "".join(traceback.format_exception(self.__cause__)).rstrip()
        frames = [(code.co_filename, line, code.co_name, None) for code, line in self._frames]
        return "".join([*traceback.StackSummary.from_list(frames).format(), self.reason])

    def as_text(self) -> EventError:
        """Return this error without its live exception, which may pin megabytes."""
        if self.__cause__ is None:
            return self
        reason = self.reason
        if len(reason) > MAX_REASON:  # it may well quote the event
            reason = f"{reason[:MAX_REASON]}..."
        text = type(self)(self.event_name, self.listener, reason=reason)
        text.attempts = self.attempts
        frames: list[tuple[CodeType, int]] = []
        entry = self.__cause__.__traceback__
        while entry is not None and len(frames) < MAX_FRAMES:
            frames.append((entry.tb_frame.f_code, entry.tb_lineno))
            entry = entry.tb_next
        text._frames = tuple(frames)
        return text

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def __str__(self) -> str:
        tries = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        return f"{self.listener} {self.outcome} on {self.event_name!r}{tries}: {self.reason}"


class EventDropped(EventError):
    """A mailbox's overflow policy, or unregistering, took the event before its listener ran."""

    __slots__ = ()
    outcome: ClassVar[Outcome] = "dropped"


class EventVetoed(EventDropped):
    """Middleware kept the event from its listeners, or from one of them.

    It is on the event's handle, but as nothing has failed, in no log of errors.
    """

    __slots__ = ()


class EventAbandoned(EventError):
    """The bus ended before the listener had run, or while it was running.

    Attributes:
        started: False if the listener has surely not begun with the event.
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
    """Raised by middleware, above its `yield`, to keep an event from what it stands around.

    Args:
        reason: why, in one line.
    """


class Vetoed(Exception):
    """What becomes of a `Veto` outside the middleware; knows who raised it."""

    def __init__(self, middleware: str, reason: str) -> None:
        super().__init__(middleware, reason)
        self.middleware = middleware
        self.reason = reason


class HookFailed(Exception):
    """Tells that an error was raised by middleware, and not by the listener."""

    def __init__(self, middleware: str, error: Exception) -> None:
        super().__init__(middleware, error)
        self.middleware = middleware
        self.error = error


def failure_of(
    event_name: str, listener: str, error: BaseException, earlier: tuple[BaseException, ...] = ()
) -> EventError:
    """Return the EventError for what a run of a listener raised, with the right culprit."""
    if isinstance(error, Vetoed):
        return EventVetoed(event_name, listener, reason=f"{error.middleware}: {error.reason}")
    if isinstance(error, HookFailed):
        return EventError(event_name, error.middleware, error.error, earlier=earlier)
    return EventError(event_name, listener, error, earlier=earlier)


def forget_caller(error: BaseException) -> None:
    """Take the frame that caught `error` off its traceback.

    It is the kernel's and holds the handle, which holds the error: they would keep each other.
    """
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next


def leaf_ids(error: BaseException | None) -> set[int]:
    """Return the ids of the exceptions in a group, which copies of it share."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return {leaf for part in group.exceptions for leaf in leaf_ids(part)}
    return {id(error)}


def describe(error: BaseException) -> str:
    """Return "Type: message", also for an exception whose `__str__` raises."""
    kind = type(error).__name__
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - a hostile __str__ must not hide the failure
        message = f"<its __str__ raised {type(broken).__name__}>"
    return f"{kind}: {message}" if message else kind


class BusClosed(GoEventError, trio.ClosedResourceError):
    """The bus is closed or closing, and the event was not taken."""


class DeadlockError(GoEventError, RuntimeError):
    """The wait could never end, because what it waits for waits for the caller."""


class NestingError(GoEventError, RuntimeError):
    """Sync listeners dispatch inside each other deeper than `Config.max_nesting`."""


class MailboxFull(GoEventError):
    """A mailbox with `overflow="error"` had no room; the event was delivered to no listener."""


class DecodeError(GoEventError, ValueError):
    """Bytes or a payload that are not the event they claim to be.

    Attributes:
        event_name: the name under which the data arrived.
        reason: what is wrong, in one sentence.
        excerpt: the first bytes of the data, escaped, at most 120 characters.
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
    """An event that cannot be written as bytes, or becomes more bytes than the limit allows.

    Attributes:
        event_name: the name of the event.
        reason: what is wrong, in one sentence.
    """

    def __init__(self, event_name: str, reason: str) -> None:
        super().__init__(event_name, reason)
        self.event_name = event_name
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot encode {self.event_name!r}: {self.reason}"


class DriverError(GoEventError):
    """A driver could not do its work."""


class DriverConnectionError(DriverError):
    """A driver has no connection to its broker, or has lost one or got it back."""


class GapDetected(DriverError):
    """Events of another bus were lost on the way to this one.

    Attributes:
        origin: the id of the bus that sent them.
        channel: where they were sent to.
        missing: how many; below zero for one that has come after it was counted as lost.
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
    """The bus was asked for something that its driver cannot do."""


class UnknownDriverError(DriverError, ValueError):
    """No installed driver answers to the scheme or name that was asked for."""
