"""The screen of `goevent top`: shows frames on a terminal, in a pipe or as JSON.

On a terminal the frames replace each other; in a pipe they follow each other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import trio

from .meter import Frame
from .output import printable, rich_table, write_json, write_line, write_table

Draw = Callable[[Frame], None]
"""Shows one frame."""


def draw_json(frame: Frame) -> None:
    """Write a frame as one line of JSON."""
    value: dict[str, Any] = {"title": frame.title, **frame.facts}
    for title, columns, rows in frame.tables:
        name = title.partition(" ")[0].lower()
        value[name] = [dict(zip(columns, row, strict=True)) for row in rows]
    write_json(value, lines=True)
    sys.stdout.flush()


def draw_plain(frame: Frame) -> None:
    """Write a frame as lines."""
    write_line(frame.title)
    write_line(facts_line(frame))
    for title, columns, rows in frame.tables:
        write_table(title, columns, rows)
    write_line()
    sys.stdout.flush()


def facts_line(frame: Frame) -> str:
    """Return the facts of a frame in one line."""
    return "  ".join(f"{name} {value}" for name, value in frame.facts.items())


@contextmanager
def screen(live: bool) -> Generator[Draw]:
    """Take the whole terminal while the body runs, and give it back as it was.

    Args:
        live: False to write the frames one after another.
    """
    if not live:
        yield draw_plain
        return
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with keys_at_once(), Live(screen=True, auto_refresh=False) as picture:

        def draw(frame: Frame) -> None:
            parts = [rich_table(*each) for each in frame.tables]
            title = Text(printable(frame.title), style="bold")
            foot = Text("q ends", style="dim")
            picture.update(Group(title, Text(facts_line(frame)), *parts, foot), refresh=True)

        yield draw


@contextmanager
def keys_at_once() -> Generator[None]:
    """Have the terminal hand over each key without a line, and not show it."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def watch_keys(scope: trio.CancelScope) -> None:
    """End the frames by the key q."""
    descriptor = sys.stdin.fileno()
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        keys = os.read(descriptor, 64)
        if not keys or b"q" in keys.lower():
            scope.cancel()
            return
