"""The command `goevent` as click sees it: a group that imports a command when it is used.

This room is built on click. `goevent --help` may take 150 ms: click is imported in 80 ms, typer and
cyclopts were measured at 380 ms. Neither this module nor those that it imports import Trio or rich.
"""

from __future__ import annotations

import importlib
from typing import Any, cast

import click

from .. import __version__
from .commands import COMMANDS
from .output import ReaderGone

EPILOG = """\b
A TARGET is module:bus, a factory module:make_bus(), or the URL of a broker.
Without one, a command uses GOEVENT_URL.

\b
The exit code is 0 if all is fine, 1 for a finding or a failure, 2 for wrong use.

\b
Example:
  goevent describe shop.app:bus
"""


class LazyGroup(click.Group):
    """A group of the commands in a table, each in a module of its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__package__}.{cmd_name}")
        return cast("click.Command", module.command)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command of the arguments."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the first argument, or suggest one that is alike."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from ..drivers import did_you_mean

            hint = did_you_mean(args[0], COMMANDS)
            raise click.UsageError(f"there is no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
)
@click.version_option(__version__, prog_name="goevent", message="%(prog)s %(version)s")
@click.option(
    "--traceback", is_flag=True, help="Show the whole traceback of a failure, for a report."
)
@click.option("-v", "--verbose", is_flag=True, help="Show the log of goevent and of its clients.")
@click.pass_context
def group(ctx: click.Context, traceback: bool, verbose: bool) -> None:
    """Run a bus, describe it, and ask its broker."""
    cast("dict[str, bool]", ctx.obj).update(traceback=traceback, verbose=verbose)
