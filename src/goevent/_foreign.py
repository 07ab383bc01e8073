"""Foreign objects: touches objects of the application without running their code unguarded.

The code of such an object may raise anything: the `__str__` of an exception, the `__setattr__` of a
frozen dataclass, a property `__traceback__`. An error there must neither hide the failure that is
reported nor leave the code that reports it. So the kernel reads and sets the parts of an exception
by the slots of `BaseException`, asks for the class of an object with `type`, compares with `is`,
and has texts and log records made here.

This module is below all others.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, NoReturn, TypeVar, cast

T = TypeVar("T", bound=BaseException)

# The descriptors of the C structures. A class may hide them behind others of the same names.
name_of: Callable[[type], str] = type.__dict__["__name__"].__get__
_QUALIFIED_NAME: Any = type.__dict__["__qualname__"]
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]
_CAUSE: Any = BaseException.__dict__["__cause__"]
_CONTEXT: Any = BaseException.__dict__["__context__"]
_MEMBERS: Any = BaseExceptionGroup.__dict__["exceptions"]
_SPLIT: Any = BaseExceptionGroup.__dict__["split"]


# -- texts


def plain(text: str) -> str:
    """Return a text as a true `str` that can be encoded.

    An instance of a subclass has methods of its own, and no codec takes a lone surrogate.
    """
    if type(text) is not str:
        text = "".join((text,))
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def type_name(value: object) -> str:
    """Return the name of the class of an object."""
    return plain(name_of(type(value)))


def qualified_name(value: object) -> str:
    """Return the qualified name of the class of an object."""
    return plain(_QUALIFIED_NAME.__get__(type(value)))


def text_of(error: BaseException) -> str:
    """Return the message of an exception, even if its `__str__` raises."""
    try:
        return plain(str(error))
    except Exception as broken:  # noqa: BLE001 - a hostile __str__ must not hide the failure
        return f"<its __str__ raised {type_name(broken)}>"


def describe(error: BaseException) -> str:
    """Return "Type: message" for an exception."""
    # Every failure passes here, so the parts are made in place.
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - `text_of` describes it
        message = text_of(error)
    if type(message) is not str:
        message = plain(message)
    name = name_of(type(error))
    if type(name) is not str:
        name = plain(name)
    text = f"{name}: {message}" if message else name
    return text if text.isascii() else plain(text)


def describe_value(value: object) -> str:
    """Return the `repr` of a value, even if its `__repr__` raises."""
    try:
        return plain(repr(value))
    except Exception as broken:  # noqa: BLE001 - a hostile __repr__ must not hide the failure
        return f"<a {type_name(value)}; its __repr__ raised {type_name(broken)}>"


def format_error(error: BaseException, *, chain: bool = True) -> str:
    """Return the traceback of an exception as text; with `chain`, those of its causes too."""
    try:
        lines = traceback.format_exception(*exc_info_of(error), chain=chain)
        return plain("".join(lines).rstrip())
    except Exception:  # noqa: BLE001 - raised by code of the exception, or of one that it refers to
        lines = ["Traceback (most recent call last):\n", *traceback.format_tb(traceback_of(error))]
        parts = leaves(error) if is_group(error) else ()
        return "".join([*lines, "\n".join(map(describe, (error, *parts)))])


# -- the parts of an exception


# Returns the traceback of an exception, and sets it. No functions of their own: every failure of a
# listener is to pass here, and each call would cost a thirtieth of it.
traceback_of: Callable[[BaseException], TracebackType | None] = _TRACEBACK.__get__
set_traceback: Callable[[BaseException, TracebackType | None], object] = (
    BaseException.with_traceback
)


def cause_of(error: BaseException) -> BaseException | None:
    """Return the cause of an exception."""
    found: BaseException | None = _CAUSE.__get__(error)
    return found


def forget_caller(error: BaseException) -> None:
    """Remove the frame that caught `error`, a frame of the kernel, from its traceback.

    This frame refers to the handle, and the handle refers to the error. Without this, error and
    handle would keep each other alive until the garbage collector runs.
    """
    entry = traceback_of(error)
    if entry is not None:
        set_traceback(error, entry.tb_next)


def raise_unchanged(error: BaseException) -> NoReturn:
    """Raise an exception that keeps the context that it has; Python would give it another one."""
    context = _CONTEXT.__get__(error)
    try:
        raise error
    finally:
        _CONTEXT.__set__(error, context)
        # This frame and the traceback would keep each other alive.
        del error


def exc_info_of(error: T) -> tuple[type[T], T, TracebackType | None]:
    """Return an exception as `sys.exc_info` does."""
    return type(error), error, traceback_of(error)


# -- groups


def is_group(error: BaseException) -> bool:
    """Tell whether an exception is a group."""
    return issubclass(type(error), BaseExceptionGroup)


def members_of(group: BaseException) -> tuple[BaseException, ...]:
    """Return the members of a group."""
    return cast("tuple[BaseException, ...]", _MEMBERS.__get__(group))


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group, or the exception itself."""
    if is_group(error):
        for each in members_of(error):
            yield from leaves(each)
    else:
        yield error


def leaf_ids(error: BaseException | None) -> set[int]:
    """Return the ids of the exceptions in a group, or of the exception itself.

    Copies of a group, as `split` and cancel scopes make them, contain the same exceptions.
    """
    return set() if error is None else {id(each) for each in leaves(error)}


def split(
    error: BaseException, kinds: type[BaseException] | tuple[type[BaseException], ...] = Exception
) -> tuple[BaseException | None, BaseException | None]:
    """Return the part of a group that is of some classes, and the rest.

    An exception that is no group is one or the other. If the group's class cannot make a group of
    a part, each part is a plain group.
    """
    if not is_group(error):
        return (error, None) if issubclass(type(error), kinds) else (None, error)
    try:
        parts: tuple[BaseException | None, BaseException | None] = _SPLIT(error, kinds)
    except Exception:  # noqa: BLE001 - raised by the `derive` of the group
        found = [each for each in leaves(error) if issubclass(type(each), kinds)]
        rest = [each for each in leaves(error) if not issubclass(type(each), kinds)]
        return group_of(found), group_of(rest)
    return parts


def group_of(errors: list[BaseException]) -> BaseException | None:
    """Return a plain group of exceptions; None if there are none."""
    return BaseExceptionGroup("parts of a group", errors) if errors else None


# -- the log


def log(
    logger: logging.Logger,
    level: int,
    text: str,
    *args: object,
    error: BaseException | None = None,
    extra: Mapping[str, object] | None = None,
) -> None:
    """Log a message, with the traceback of an exception if there is one.

    A handler or a filter of the application may raise an exception. It is printed, as those of
    handlers are.

    Args:
        logger: The logger.
        level: The level of the record.
        text: The message, with a place for each of `args`.
        args: The values for the message.
        error: The exception.
        extra: The attributes that the record gets.
    """
    try:
        if not logger.isEnabledFor(level):
            return
        exc_info = None
        if error is not None:
            try:
                # A handler that formats a traceback runs the code of the exception, and writes the
                # text to a file.
                "".join(traceback.format_exception(*exc_info_of(error))).encode()
                exc_info = exc_info_of(error)
            except Exception:  # noqa: BLE001 - then the record has the traceback as text
                text, args = f"{text}\n%s", (*args, format_error(error))
        logger.log(level, text, *args, exc_info=exc_info, stacklevel=2, extra=extra)
    except Exception as broken:  # noqa: BLE001 - it must not leave the code that reports
        if logging.raiseExceptions and sys.stderr is not None:
            sys.stderr.write(f"--- Logging error ---\n{format_error(broken)}\n")
