"""The mapping of exceptions at the driver's border: all that leaves a driver is a `GoEventError`.

The session, the ports and `DeadLetters` call every method of a driver inside `driver_errors`. A
driver raises `DriverError`s itself; anything else, and any group of errors, becomes one here. So
users need one `except DriverError`, and `async with bus` raises no groups of a driver's nurseries.

An exception that is no `Exception` (a cancellation, a KeyboardInterrupt) passes unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeVar, cast

import trio

from .._errors import (
    DriverConnectionError,
    DriverError,
    GoEventError,
    UnsupportedError,
)
from .._foreign import describe, leaves, raise_unchanged

ErrorT = TypeVar("ErrorT", bound=GoEventError)

# Raised by clients that cannot reach their broker: refused connections, unknown hosts, failures of
# TLS and timeouts are all OSErrors in Python.
UNREACHABLE = (OSError, trio.BrokenResourceError, trio.TooSlowError)
REPLAY = "replay events"
LOGIN_IN_URL = re.compile(r"://[^/\s@]*(?:/[^/\s@]*)?@")


@contextmanager
def driver_errors(driver: object, action: str) -> Generator[None]:
    """Map the exceptions of a driver's method; the body calls it.

    Args:
        driver: The driver, whose class the text names.
        action: The method's task, as in "the driver failed to ...".

    Raises:
        GoEventError: The method raised an exception; its cause if it was none of goevent.
    """
    failure: BaseException | None = None
    try:
        yield
    except GoEventError:
        raise
    except BaseException as error:
        failure = map_errors(error, driver, action)
        if failure is error:
            raise
    if failure is not None:
        raise_unchanged(failure)


def map_errors(error: BaseException, driver: object, action: str) -> BaseException:
    """Return the exception that takes the place of `error` at the driver's border.

    Exceptions beside a cancellation or a KeyboardInterrupt are one error in a group with it.
    """
    if not isinstance(error, BaseExceptionGroup):
        return map_error(error, driver, action) if isinstance(error, Exception) else error
    group = cast("BaseExceptionGroup[BaseException]", error)
    errors, rest = group.split(Exception)
    if errors is None:
        return sole_member(group)
    mapped = first_error([map_error(each, driver, action) for each in leaves(errors)])
    return mapped if rest is None else BaseExceptionGroup(group.message, [mapped, rest])


def map_error(error: BaseException, driver: object, action: str) -> GoEventError:
    """Return the error of goevent for one exception, which is its cause."""
    if isinstance(error, GoEventError):
        return error
    kind = DriverConnectionError if isinstance(error, UNREACHABLE) else DriverError
    # An argument that the driver does not take, as the start of a replay.
    if isinstance(error, ValueError) and action == REPLAY:
        kind = UnsupportedError
    text = describe(error)
    shown = LOGIN_IN_URL.sub("://***@", text)
    mapped = kind(f"{type(driver).__qualname__} failed to {action}: {shown}")
    # Python prints the cause, so it is left out if the client's text has a password in it.
    if shown == text:
        mapped.__cause__ = error
    return mapped


def first_error(errors: list[ErrorT]) -> ErrorT:
    """Return the first of several errors, with the others in its notes."""
    first, *others = errors
    for other in dict.fromkeys(map(describe, others)):
        if other != describe(first):
            first.add_note(f"also: {other}")
    return first


def sole_member(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the only member of a group, or the group itself."""
    if len(group.exceptions) != 1:
        return group
    (only,) = group.exceptions
    if isinstance(only, BaseExceptionGroup):
        return sole_member(cast("BaseExceptionGroup[BaseException]", only))
    return only
