"""`goevent replay`: has stored events delivered to a group once more."""

from __future__ import annotations

import re
from datetime import datetime

import click

from .. import UnsupportedError
from .asked_broker import asked, group_of, group_option, run_asking
from .failures import WrongUse
from .output import json_option, progress, write_json, write_line
from .targets import Target, TargetCommand, load_target, url_argument

_DATE = re.compile(r"\d{4}-\d\d-\d\d(?!-)")


@click.command("replay", cls=TargetCommand)
@url_argument
@click.argument("name", metavar="NAME")
@group_option
@click.option(
    "--start",
    default="earliest",
    metavar="PLACE",
    show_default=True,
    help="The first event: a time with its zone, or the broker's id of an event.",
)
@click.option(
    "--end", metavar="PLACE", help="The last event: a time or an id; by default the newest."
)
@json_option
def command(
    target: str, name: str, group: str | None, start: str, end: str | None, as_json: bool
) -> None:
    """Deliver the stored events of NAME to a consumer group once more.

    \b
    Example:
      goevent replay redis+streams://localhost order.paid --group billing --start 2026-12-01T00:00Z
    """
    found = load_target(target, group=group)
    driver = found.bus.driver
    if not driver.capabilities.replay:
        raise UnsupportedError(f"{type(driver).__qualname__} keeps no events to replay")
    chosen = group_of(found, group)
    first = place_of(start)
    last = None if end is None else place_of(end)
    with progress(f"replaying {name}", None):
        count = run_asking(replayed, found, name, first, last, chosen)
    if as_json:
        write_json({"event": name, "group": chosen, "replayed": count})
    else:
        write_line(f"{count} event(s) of {name} go to {chosen} once more")


def place_of(text: str) -> str | datetime:
    """Return the place among the events that a text stands for: a time, an id or a word.

    Raises:
        WrongUse: It is a time without a zone, or cannot be read.
    """
    if _DATE.match(text) is None:
        return text
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise WrongUse(f"{text} is no time: write it as 2026-12-01T14:30:00Z") from error
    if time.tzinfo is None:
        raise WrongUse(f"{text} has no time zone: write {text}Z for UTC, for instance")
    return time


async def replayed(
    target: Target, name: str, start: str | datetime, end: str | datetime | None, group: str
) -> int:
    """Have the events delivered; return their number.

    Raises:
        WrongUse: The name is not an event name, or a place is none.
    """
    async with asked(target) as bus:
        try:
            return await bus.replay(name, start, end, group=group)
        except ValueError as error:
            raise WrongUse(str(error)) from error
