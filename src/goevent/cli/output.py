"""Output of the commands: lines, JSON, tables and progress bars.

The result of a command goes to stdout, and everything else to stderr. On a terminal, tables are
drawn by rich, which honours NO_COLOR. In a pipe they are plain columns without colour, and there is
no progress bar. Texts from a broker are hostile: `printable` takes the characters out of them that
a terminal would obey. rich is imported only for a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

if TYPE_CHECKING:
    from rich.table import Table

F = TypeVar("F", bound="Callable[..., Any] | click.Command")

COLUMN_GAP = "  "


class ReaderGone(Exception):
    """The reader of the output has gone away; click would end with 1 for the error itself."""


def json_option(function: F) -> F:
    """Give a command the option `--json`, its argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def printable(text: str) -> str:
    """Return a text in which each character that is not printable is written as an escape."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def write_line(text: str = "") -> None:
    """Write one line to stdout; the text is made printable."""
    sys.stdout.write(f"{printable(text)}\n")


def write_json(value: Any, *, lines: bool = False) -> None:
    """Write a value to stdout as JSON.

    Only ASCII is written, so that no text in the value reaches the terminal as it is.

    Args:
        value: A value of JSON. A time becomes text in ISO 8601, bytes become text as in a literal.
        lines: Write it in one line, because others follow.
    """
    sys.stdout.write(f"{ascii_json(value, indent=None if lines else 2)}\n")


def ascii_json(value: Any, *, indent: int | None = None) -> str:
    """Return a value as JSON in printable ASCII."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, indent=indent, separators=separators, default=_as_json)
    return text.replace("\x7f", "\\u007f")


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)


def write_note(text: str) -> None:
    """Write one line to stderr: something to know that is not the result."""
    sys.stderr.write(f"{printable(text)}\n")


def on_terminal() -> bool:
    """Tell whether stdout is a terminal."""
    return sys.stdout.isatty()


def write_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table to stdout.

    Args:
        title: The heading; empty for none.
        columns: The heading of each column.
        rows: The cells, as values; None is an empty cell. Numbers stand to the right.
    """
    if on_terminal():
        from rich.console import Console

        Console().print(rich_table(title, columns, rows))
        return
    cells, numeric = _cells(columns, rows)
    widths = [
        max([len(column), *(len(row[place]) for row in cells)])
        for place, column in enumerate(columns)
    ]
    if title:
        write_line(title)
    for row in [[*columns], *cells]:
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ]
        write_line(COLUMN_GAP.join(padded).rstrip())


def _cells(
    columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> tuple[list[list[str]], list[bool]]:
    """Return the cells as printable texts, and for each column whether it holds numbers."""
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    numeric = [
        bool(rows) and all(isinstance(row[place], int | float | None) for row in rows)
        for place in range(len(columns))
    ]
    return cells, numeric


def rich_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table for a terminal; it takes the arguments of `write_table`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    cells, numeric = _cells(columns, rows)
    # Text objects, so that a bracket in a name is no markup.
    table = Table(
        title=Text(printable(title), style="bold") if title else None,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for column, right in zip(columns, numeric, strict=True):
        table.add_column(Text(column), justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    return table


class Progress(Protocol):
    """The progress of long work."""

    def advance(self, count: int = 1) -> None:
        """Add to the number of things that are done."""
        ...


class _Hidden:
    def advance(self, count: int = 1) -> None:
        pass


@contextmanager
def progress(label: str, total: int | None) -> Generator[Progress]:
    """Show a progress bar while the body runs; nothing unless stderr is a terminal.

    Args:
        label: The name of the work.
        total: The number of things to do; None if it is not known.
    """
    if not sys.stderr.isatty():
        yield _Hidden()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress as Bar,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)

        class Shown:
            def advance(self, count: int = 1) -> None:
                bar.advance(task, count)

        yield Shown()
