"""Failures of the command: the one line and the exit code for each error.

`main` calls `run` with the group. A command raises; nobody else prints a failure. An
error of wrong use ends with 2: a target that is none, an option that does not exist, an event that
its class refuses. A broker that cannot be reached or refuses, and a program that fails, end with 1.
Ctrl-C ends with 130, as shells say it. A reader of the output that goes away, as `head` does, is no
failure: it has all that it wanted.

The texts of goevent's own errors hold no secrets. The errors of other programs may quote a URL, so
its login is hidden here.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple

import click

from .._foreign import leaves
from .output import ReaderGone, printable

FINDING = 1
WRONG_USE = 2
INTERRUPTED = 130
MAX_LINE_CHARS = 2000

# The login of a URL, up to the last at sign before a blank: a password may hold slashes. The login
# of an example in a message is shown.
_LOGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?!user:password@)[^\s'\"]*@")


class TargetError(Exception):
    """A target that stands for no bus; the text is the reason in one line."""


class WrongUse(Exception):
    """Input that a command refuses; the text is the reason in one line."""


class CommandFinding(Exception):
    """The command has printed its result, and it is one to act on: exit 1.

    Args:
        text: A line for stderr; may be empty.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(text)


class Failure(NamedTuple):
    """The end of a command that failed; `line` may be empty."""

    code: int
    line: str


def run(command: click.Command, arguments: Sequence[str]) -> int:
    """Run the command, report its failure, and return the exit code."""
    # Python has no object for a stream that the shell has closed, as by `>&-`.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A text that the terminal's encoding lacks must not end the command.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    settings: dict[str, object] = {}
    try:
        code = command.main([*arguments], prog_name="goevent", standalone_mode=False, obj=settings)
        sys.stdout.flush()
    # Every error is reported here, and the exit code that is returned ends the process.
    except (KeyboardInterrupt, BaseExceptionGroup, Exception) as error:  # noqa: BLE001
        failure = failure_of(error)
        if settings.get("traceback") and not isinstance(
            error, click.ClickException | CommandFinding
        ):
            write_traceback(error)
        if failure.line:
            sys.stderr.write(f"goevent: {failure.line}\n")
        leave_broken_pipe()
        return failure.code
    return code if isinstance(code, int) else 0


def write_traceback(error: BaseException) -> None:
    """Write a traceback to stderr, without logins and without characters that move a cursor."""
    from .output import write_note

    for text in traceback.format_exception(error):
        for line in text.splitlines():
            write_note(_LOGIN.sub(r"\1***@", line))


def leave_broken_pipe() -> None:
    """Flush the output, or give it up if its reader is gone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def failure_of(error: BaseException) -> Failure:
    """Return the exit code and the line for an error.

    Args:
        error: An error, or a group of them; the worst of a group counts.
    """
    each = [*leaves(error)]
    if any(isinstance(leaf, KeyboardInterrupt | click.Abort) for leaf in each):
        return Failure(INTERRUPTED, "")
    others = [leaf for leaf in each if not isinstance(leaf, BrokenPipeError | ReaderGone)]
    if not others:
        return Failure(0, "")
    code, line = _failure_of_one(others[0])
    return Failure(code, one_line(line))


def _failure_of_one(error: BaseException) -> Failure:
    if isinstance(error, click.exceptions.Exit):
        return Failure(error.exit_code, "")
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return Failure(WRONG_USE, f"a command is missing{_help_hint(error.ctx)}")
    if isinstance(error, click.UsageError):
        return Failure(WRONG_USE, f"{error.format_message()}{_help_hint(error.ctx)}")
    if isinstance(error, click.ClickException):
        return Failure(WRONG_USE, error.format_message())
    if isinstance(error, TargetError | WrongUse):
        return Failure(WRONG_USE, str(error))
    if isinstance(error, CommandFinding):
        return Failure(FINDING, str(error))
    from goevent import (
        DecodeError,
        EncodeError,
        EventError,
        GoEventError,
        UnknownDriverError,
        UnknownEventError,
        UnsupportedError,
    )

    if isinstance(error, EventError) and isinstance(error.error, GoEventError):
        # The driver has refused an event; its own error says it without the words around it.
        return _failure_of_one(error.error)
    wrong_use = DecodeError, EncodeError, UnknownDriverError, UnknownEventError, UnsupportedError
    if isinstance(error, wrong_use):
        return Failure(WRONG_USE, str(error))
    if isinstance(error, GoEventError):
        return Failure(FINDING, str(error))
    # Notes tell where it happened, such as the lifespan function that was entered.
    notes = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    return Failure(FINDING, f"{describe(error)}{notes}{_place_of(error)}")


def describe(error: BaseException) -> str:
    """Return the class and the text of an error."""
    kind, text = type(error).__name__, str(error)
    return f"{kind}: {text}" if text else kind


def one_line(text: str) -> str:
    """Return a text in one line, without logins and without characters that move a cursor."""
    shown = printable(_LOGIN.sub(r"\1***@", " ".join(text.split())))
    return shown if len(shown) <= MAX_LINE_CHARS else f"{shown[:MAX_LINE_CHARS]}…"


def _place_of(error: BaseException) -> str:
    """Return the line of the program that raised an error, for those who can mend it."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _help_hint(ctx: click.Context | None) -> str:
    return "" if ctx is None else f" (see {ctx.command_path} --help)"
