"""Writes the reference of the command from its own help: `python docs/_command.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from goevent.cli.group import group

PAGE = Path(__file__).parent / "reference" / "command.md"
START = "<!-- commands -->"
WIDTH_CHARS = 88


def written(page: str) -> str:
    """Return the page with the help of every command behind its marker."""
    head = page.partition(START)[0]
    parts = [help_of(name, command) for name, command in commands(click.Context(group), "goevent")]
    return f"{head}{START}\n\n" + "\n".join(parts)


def commands(ctx: click.Context, path: str) -> Iterator[tuple[str, click.Command]]:
    """Return each command with its full name, and those of groups behind them."""
    yield path, ctx.command
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            command = ctx.command.get_command(ctx, name)
            if command is not None:
                inner = click.Context(command, info_name=name, parent=ctx)
                yield from commands(inner, f"{path} {name}")


def help_of(path: str, command: click.Command) -> str:
    """Return the section of a command."""
    parent = None
    *above, name = path.split()
    for each in above:
        parent = click.Context(click.Command(each), info_name=each, parent=parent)
    ctx = click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=WIDTH_CHARS,
        help_option_names=["-h", "--help"],
    )
    text = "\n".join(line.rstrip() for line in command.get_help(ctx).splitlines())
    return f"## {path}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
