"""`goevent asyncapi`: the AsyncAPI document of a bus, and the check of one that was published."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .failures import CommandFinding, WrongUse
from .output import json_option, write_json, write_line, write_note
from .targets import TargetCommand, load_target, target_argument


@click.command("asyncapi", cls=TargetCommand)
@target_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="The form of the document.",
)
@click.option("--output", metavar="FILE", help="Write the document to a file.")
@click.option("--check", metavar="FILE", help="Compare with an older document; 1 if readers break.")
@click.option("--title", help="The name of the application.")
@click.option("--version", help="The version of the application's interface.")
@click.option(
    "--publishes",
    multiple=True,
    metavar="NAME",
    help="An event that the program publishes; may be repeated. By default these are the event "
    "types without a listener.",
)
@json_option
def command(
    target: str,
    form: str,
    output: str | None,
    check: str | None,
    title: str | None,
    version: str | None,
    publishes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print the AsyncAPI 3 document of TARGET, without a broker.

    With --check FILE, the document in the file is that of the program that runs. Each change that
    breaks a reader is printed with its field, its reader and its writer, and the exit code is 1.

    \b
    Example:
      goevent asyncapi shop.app:bus --output asyncapi.yaml
      goevent asyncapi shop.app:bus --check asyncapi.yaml
    """
    if output is not None and check is not None:
        raise click.UsageError("--output and --check do not go together: check before you write")
    from ..asyncapi import document

    try:
        made = document(
            load_target(target).bus, title=title, version=version, publishes=publishes or None
        )
    except ValueError as error:
        raise WrongUse(str(error)) from error
    if check is not None:
        _check(check, made, as_json=as_json)
    else:
        _write(made, "json" if as_json else form, output)


def _write(made: dict[str, object], form: str, output: str | None) -> None:
    from ..asyncapi import as_json, as_yaml

    try:
        text = as_json(made) if form == "json" else as_yaml(made)
    except ImportError as error:
        raise WrongUse(str(error)) from error
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise WrongUse(f"{output} cannot be written: {error.strerror}") from error
    write_note(f"written to {output}")


def _check(file: str, made: dict[str, object], *, as_json: bool) -> None:
    from ..asyncapi import breaking_changes, read_document

    try:
        old = read_document(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongUse(f"{file} cannot be read: {error.strerror}") from error
    except (ImportError, ValueError) as error:
        raise WrongUse(f"{file}: {error}") from error
    changes = breaking_changes(old, made)
    if as_json:
        write_json([asdict(change) for change in changes])
    else:
        for change in changes:
            write_line(str(change))
    if changes:
        raise CommandFinding(f"{len(changes)} change(s) break a reader")
    if not as_json:
        write_line("no change breaks a reader")
