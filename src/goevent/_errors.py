"""The errors of goevent: one root, `GoEventError`, and one class for each kind of failure.

Wrong *use* raises `TypeError`, `ValueError` or `RuntimeError` of the standard library. The classes
here stand for failures that happen while a correct program runs. This module is below all others,
so every room may raise and catch them.

Errors go to other processes by `pickle`. Python's own exceptions lose their cause on this way, and
a class whose `__init__` takes other arguments than `args` cannot be read back. So `PortableError`
writes the state of an error part by part. A part that cannot be written or read, such as a cause
with a socket in it, becomes text, and the rest of the error arrives whole.
"""

# The functions of this module work on the private parts of its classes.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import copy
import traceback
from types import CodeType, TracebackType
from typing import Any, ClassVar, Literal, Self, TypeAlias, TypeVar, cast

import trio
from trio.lowlevel import in_trio_task

from ._foreign import describe, describe_value, format_error, traceback_of

Outcome = Literal["failed", "dropped", "abandoned"]
# Limits of an error that is kept as text: the frames of its traceback, and its reason.
MAX_KEPT_FRAMES = 20
MAX_KEPT_REASON_CHARS = 1000
# The beginning of the reason of an `EventError` whose exception is a `DeadLettered`.
DEAD_LETTER_REASON = "DeadLettered: "

FrameLine: TypeAlias = tuple[str, int, str]
"""The file, the line and the function of a frame."""
KeptFrame: TypeAlias = tuple[CodeType, int]
"""The code of a frame and the offset of its instruction, from which its line can be found later."""
ErrorIds: TypeAlias = str | tuple[str, str, str]
"""The id, the correlation id and the causation id of an event; only the id of a first event."""
ErrorText: TypeAlias = tuple[str, str, int, str, tuple[KeptFrame, ...], ErrorIds]
"""The event name, the listener, the attempts, the reason, the frames and the ids of an error.

Thousands of them are kept. The garbage collector does not track a tuple of such values, so they
cost its passes nothing.
"""

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


class PortableError(Exception):
    """An exception that `pickle` and `copy` keep whole, with its cause and its notes."""

    def __reduce__(self) -> tuple[Any, ...]:
        parts = {name: pack(value) for name, value in self._state().items()}
        cause = None if self.__cause__ is None else pack(self.__cause__)
        arguments = (type(self), pack(self.args), parts, cause, self.__suppress_context__)
        return restore_error, arguments

    def _state(self) -> dict[str, object]:
        """Return the attributes to pickle, by name."""
        return attributes_of(self)

    def __copy__(self) -> Self:
        return self._clone(self.args, attributes_of(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        attributes = attributes_of(self)
        copied = {name: deep_copy(value, memo) for name, value in attributes.items()}
        return self._clone(deep_copy(self.args, memo), copied)

    def _clone(self, args: tuple[Any, ...], attributes: dict[str, Any]) -> Self:
        # Even a deep copy shares these: a copy of an exception would lose its own traceback.
        shared = ("__cause__", "__context__", "__suppress_context__", "__traceback__")
        attributes |= {name: getattr(self, name) for name in shared}
        return make_error(type(self), args, attributes)


class GoEventError(PortableError):
    """The base class of all errors of goevent.

    All of them can be pickled and copied. They keep their text, their attributes, their notes and
    their `__cause__`; a cause that cannot be pickled becomes text.
    """


class EventError(GoEventError):
    """One listener did not complete one event, as Go's `goevent.EventError`.

    Its `__cause__` is the exception that the listener raised. The bus keeps the newest 10,000
    errors, but only the newest 100 with their live exception, because a traceback keeps all its
    frames and their events in memory. The older ones keep the text, so `details` works for all. It
    also works for an error that was pickled.

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
    __slots__ = (
        *("_earlier", "_frames", "_ids", "_reason", "_text"),
        *("attempts", "event_name", "listener"),
    )

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
        # Set when the failure is recorded; the code that makes the error need not have the handle.
        self._ids: ErrorIds = ""
        self._frames: tuple[FrameLine, ...] = ()
        # The result of `text_of`, because two parts of the bus may ask for it.
        self._text: ErrorText | None = None

    @property
    def event_id(self) -> str:
        """The id of the event, as `DispatchHandle.id`; empty for a failure without a handle."""
        ids = self._ids
        return ids if isinstance(ids, str) else ids[0]

    @property
    def correlation_id(self) -> str:
        """The id of the first event of the chain, as `DispatchHandle.correlation_id`."""
        ids = self._ids
        return ids if isinstance(ids, str) else ids[1]

    @property
    def causation_id(self) -> str:
        """The id of the event that has caused this one, as `DispatchHandle.causation_id`."""
        ids = self._ids
        return "" if isinstance(ids, str) else ids[2]

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
        cause = self.__cause__
        if cause is not None and (traceback_of(cause) is not None or not self._frames):
            return format_error(cause)
        frames = [(file, line, function, None) for file, line, function in self._frames]
        lines = traceback.StackSummary.from_list(frames).format()
        if cause is None:
            return "".join([*lines, self.reason])
        # The error was pickled, and its cause has arrived without its traceback.
        last = format_error(cause, chain=False)
        return "".join(["Traceback (most recent call last):\n", *lines, last])

    def as_text(self) -> EventError:
        """Return this error without its live exception, which may keep megabytes in memory."""
        if self.__cause__ is None:
            return self
        reason = self.reason
        # The reason may quote the whole event.
        if len(reason) > MAX_KEPT_REASON_CHARS:
            reason = f"{reason[:MAX_KEPT_REASON_CHARS]}..."
        text = type(self)(self.event_name, self.listener, reason=reason)
        text.attempts = self.attempts
        text._ids = self._ids
        text._frames = frame_lines(kept_frames(traceback_of(self.__cause__)), {})
        return text

    def _state(self) -> dict[str, object]:
        state = super()._state()
        # The text stays the same, even if the cause does not arrive.
        state["_reason"] = self.reason
        state["_text"] = None  # code cannot be pickled
        if self.__cause__ is not None and traceback_of(self.__cause__) is not None:
            state["_frames"] = frame_lines(kept_frames(traceback_of(self.__cause__)), {})
        return state

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


class Veto(PortableError):
    """Middleware raises it above its `yield` to keep an event from the listeners.

    Its argument is the reason in one line, which appears on the handle of the event.

    Example:
        >>> class OnlyOrders:
        ...     def around_dispatch(self, handle: DispatchHandle):
        ...         if not handle.event_name.startswith("order."):
        ...             raise Veto("not an order")
        ...         yield
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


# -- copies of errors

# The types that every pickle can hold.
PLAIN_TYPES = frozenset((type(None), bool, int, float, str, bytes))


def pack(value: object) -> tuple[Any, ...]:
    """Return a value in a form that can be pickled for certain.

    The parts of a list or tuple are packed each by itself. Any other value becomes its own pickle
    as bytes, beside its text. So a value that cannot be pickled, or that the other process cannot
    read, fails alone.
    """
    kind = type(value)
    if kind in PLAIN_TYPES:
        return ("plain", value)
    if kind is tuple or kind is list:
        return (kind.__name__, [pack(part) for part in cast("list[object]", value)])
    if issubclass(kind, BaseException):
        name, text = "error", describe(cast("BaseException", value))
    else:
        name, text = "value", describe_value(value)
    import pickle  # imported here, because a program that pickles has loaded it by then

    try:
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001 - its own code runs, and may raise anything
        data = b""
    return (name, data, text)


def unpack(packed: tuple[Any, ...]) -> Any:
    """Return the value that was packed; for one that cannot be read, its text.

    The text of an exception is in an `Exception`, so that it can be a cause.
    """
    kind, content, *text = packed
    if kind == "plain":
        return content
    if kind in ("tuple", "list"):
        parts = [unpack(part) for part in content]
        return tuple(parts) if kind == "tuple" else parts
    value, is_read = load(content)
    if kind == "error":
        return value if isinstance(value, BaseException) else Exception(*text)
    return value if is_read else text[0]


def load(data: bytes) -> tuple[Any, bool]:
    """Return the value in a pickle, and whether it could be read."""
    import pickle

    try:
        # As trusted as the pickle around it. An unpickler that restricts `find_class` must not
        # allow `restore_error`.
        return pickle.loads(data), True  # noqa: S301
    except Exception:  # noqa: BLE001 - its own code runs, and may raise anything
        return None, False


def restore_error(
    cls: type[PortableError],
    args: tuple[Any, ...],
    parts: dict[str, tuple[Any, ...]],
    cause: tuple[Any, ...] | None,
    suppress_context: bool,
) -> PortableError:
    """Return a pickled error again; `pickle` calls it."""
    attributes = {name: unpack(part) for name, part in parts.items()}
    attributes["__suppress_context__"] = suppress_context
    if cause is not None:
        original, _ = load(cause[1])
        if isinstance(original, BaseException):
            attributes["__cause__"] = original
        elif not issubclass(cls, EventError):  # which has the text as its reason
            attributes["__cause__"] = Exception(cause[2])
    # The cause first, because to set it sets `__suppress_context__`.
    return make_error(cls, unpack(args), dict(sorted(attributes.items())))


E = TypeVar("E", bound=BaseException)


def make_error(cls: type[E], args: tuple[Any, ...], attributes: dict[str, Any]) -> E:
    """Return an exception with these attributes, without a call of its `__init__`.

    The `__init__` of a subclass may have any signature.
    """
    builtin: Any = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    error: E = builtin.__new__(cls, *args)
    for name, value in attributes.items():
        object.__setattr__(error, name, value)
    return error


def attributes_of(error: BaseException) -> dict[str, Any]:
    """Return the values in the instance dictionary and in the slots of an exception, by name."""
    attributes: dict[str, Any] = {**object.__getattribute__(error, "__dict__")}
    if "__notes__" in attributes:
        attributes["__notes__"] = [*attributes["__notes__"]]  # a copy gets notes of its own
    for cls in type(error).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            private = slot.startswith("__") and not slot.endswith("__")
            name = f"_{cls.__name__.lstrip('_')}{slot}" if private else slot
            try:
                attributes[name] = object.__getattribute__(error, name)
            except AttributeError:
                continue  # the slot is empty
    return attributes


def deep_copy(value: Any, memo: dict[int, Any]) -> Any:
    """Return a deep copy of a value, or the value itself if it cannot be copied."""
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # noqa: BLE001 - its own code runs, and may raise anything
        return value


# -- errors as text


def text_of(error: EventError) -> EventError | ErrorText:
    """Return an error without its live exception; `error_from` makes an error of it again.

    Every failure of a listener becomes text sooner or later, and few of them are ever looked at. So
    this does only the work that needs the live exception.
    """
    text = error._text
    if text is None:
        cause = error.__cause__
        if cause is None or type(error) is not EventError:
            return error.as_text()
        reason = error._reason or describe(cause)
        if len(reason) > MAX_KEPT_REASON_CHARS:
            reason = f"{reason[:MAX_KEPT_REASON_CHARS]}..."
        entry = traceback_of(cause)
        frames: tuple[KeptFrame, ...]
        if entry is not None and entry.tb_next is None:
            # A listener that raises by itself; written out, as most failures pass here.
            frames = ((entry.tb_frame.f_code, entry.tb_lasti),)
        else:
            frames = kept_frames(entry)
        name, listener, attempts = error.event_name, error.listener, error.attempts
        text = error._text = (name, listener, attempts, reason, frames, error._ids)
    return text


def error_from(text: EventError | ErrorText, lines: dict[tuple[int, int], FrameLine]) -> EventError:
    """Return the error that `text_of` has made text of.

    Args:
        text: The text, or the error itself if it never had a live exception.
        lines: The lines that were found for earlier errors, and are not searched again.
    """
    if isinstance(text, EventError):
        return text
    event_name, listener, attempts, reason, frames, ids = text
    error = EventError(event_name, listener, reason=reason)
    error.attempts = attempts
    error._ids = ids
    error._frames = frame_lines(frames, lines)
    return error


def kept_frames(entry: TracebackType | None) -> tuple[KeptFrame, ...]:
    """Return the code and the instruction of the outermost frames of a traceback.

    A frame itself would keep its local variables alive. A line is searched in a table, so that is
    left to `frame_lines`.
    """
    frames: list[KeptFrame] = []
    while entry is not None and len(frames) < MAX_KEPT_FRAMES:
        frames.append((entry.tb_frame.f_code, entry.tb_lasti))
        entry = entry.tb_next
    return tuple(frames)


def frame_lines(
    frames: tuple[KeptFrame, ...], lines: dict[tuple[int, int], FrameLine]
) -> tuple[FrameLine, ...]:
    """Return the file, line and function of frames; those in `lines` are not searched again."""
    found: list[FrameLine] = []
    for code, offset in frames:
        # By its id, because the hash of code is made of all its instructions.
        line = lines.get((id(code), offset))
        if line is None:
            line = lines[id(code), offset] = (
                code.co_filename,
                line_at(code, offset),
                code.co_name,
            )
        found.append(line)
    return tuple(found)


def line_at(code: CodeType, offset: int) -> int:
    """Return the line of an instruction, as `tb_lineno` of a traceback tells it."""
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return line
    return code.co_firstlineno


# -- reports


def failure_of(
    event_name: str, listener: str, error: BaseException, earlier: tuple[BaseException, ...] = ()
) -> EventError:
    """Return the `EventError` for an exception of a run, naming the listener or the middleware."""
    kind = type(error)
    if kind is Vetoed:
        vetoed = cast("Vetoed", error)
        return EventVetoed(event_name, listener, reason=f"{vetoed.middleware}: {vetoed.reason}")
    if kind is HookFailed:
        failed = cast("HookFailed", error)
        return EventError(event_name, failed.middleware, failed.error, earlier=earlier)
    return listener_failed(event_name, listener, error, earlier)


# Python's own, because the constructor of a class has no such attribute for type checkers.
_new_error: Any = BaseException.__new__


def listener_failed(
    event_name: str, listener: str, error: BaseException, earlier: tuple[BaseException, ...] = ()
) -> EventError:
    """Return the same as the constructor of `EventError`, which takes twice as long."""
    # `__new__` sets `args`, so this needs no `__init__` of BaseException.
    failure: EventError = _new_error(EventError, event_name, listener)
    failure.event_name = event_name
    failure.listener = listener
    failure.attempts = len(earlier) + 1 if earlier else 1
    failure.__cause__ = error
    failure._reason = ""
    failure._earlier = earlier
    failure._ids = ""
    failure._frames = ()
    failure._text = None
    return failure


class BusClosed(GoEventError, trio.ClosedResourceError):
    """The bus is closed or closing, and did not accept the event."""


class BusForked(GoEventError, RuntimeError):
    """The bus belongs to the parent process: it was open when this process was forked."""

    def __str__(self) -> str:
        return super().__str__() or (
            "this bus belongs to the parent process, because it was open when this process was "
            "forked: make a bus of its own in this process"
        )


class DeadlockError(GoEventError, RuntimeError):
    """The wait could never end, because it would wait for the caller itself."""


class NestingError(GoEventError, RuntimeError):
    """Calls are nested too deep, and probably without an end.

    Inline listeners dispatch inside each other deeper than `Config.max_nesting`, or more than 32
    responders make requests inside each other.
    """


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


class RequestError(GoEventError):
    """A request has ended without an answer.

    Attributes:
        event_name: The name of the requested event.
        reason: The reason, in one sentence.
    """

    def __init__(self, event_name: str, reason: str) -> None:
        super().__init__(event_name, reason)
        self.event_name = event_name
        self.reason = reason

    def __str__(self) -> str:
        return f"no answer to {self.event_name!r}: {self.reason}"


class NoResponder(RequestError):
    """No bus responds to the event: the broker says so, or none has come forward in time."""


class RequestTimeout(RequestError, trio.TooSlowError):
    """The answer did not come within the `timeout` of the request.

    An `async def` responder is cancelled; it may have done part of its work.
    """


class RequestLost(RequestError):
    """The request or its answer was lost, or the bus that worked on it has ended.

    The responder may have run.
    """


class RequestRefused(RequestError):
    """The request was not taken, so no responder has run with it.

    The bus of the responder has refused it, or middleware around the dispatch has vetoed it. A veto
    of middleware on the bus of the responder is a `RemoteError` with the outcome `"dropped"`.
    """


class RemoteError(RequestError):
    """A listener of another bus, or the responder of a request, did not complete an event.

    The exception itself stays in its process. If that is this process, it is the `__cause__`.

    Attributes:
        event_name: The name of the event.
        listener: The name of the listener.
        error_type: The class of its exception, as text.
        text: The text of the exception.
        outcome: `"failed"`, `"dropped"` or `"abandoned"`.
        bus: The id of the bus of the listener.
    """

    def __init__(
        self,
        event_name: str,
        listener: str,
        error_type: str,
        text: str,
        *,
        outcome: str = "failed",
        bus: str = "",
    ) -> None:
        super().__init__(event_name, f"{error_type}: {text}" if error_type else text)
        self.listener = listener
        self.error_type = error_type
        self.text = text
        self.outcome = outcome
        self.bus = bus

    def __str__(self) -> str:
        return f"{self.listener} {self.outcome} on {self.event_name!r}: {self.reason}"


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


class DriverInUse(DriverError, RuntimeError):
    """The driver object serves another open bus; give each bus a driver of its own."""


class UnknownDriverError(DriverError, ValueError):
    """No installed driver has the requested name or URL scheme."""
