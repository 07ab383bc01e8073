"""`goevent lag`: the backlog of a consumer group at the broker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

from .. import Backlog, UnsupportedError
from ..drivers import inspected
from .asked_broker import asked, group_of, group_option, listened_names, run_asking
from .failures import CommandFinding
from .output import json_option, write_json, write_note, write_table
from .targets import Target, TargetCommand, load_target, url_argument


@click.command("lag", cls=TargetCommand)
@url_argument
@group_option
@click.option(
    "--fail-over",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Exit with 1 if the oldest event that is not done is older.",
)
@json_option
def command(target: str, group: str | None, fail_over: float | None, as_json: bool) -> None:
    """Show how many events wait for a consumer group, and how old the oldest is.

    An event is waiting until a bus of the group has received it, and pending until that bus has
    acknowledged it. Ages are in seconds since the event was published.

    \b
    Example:
      goevent lag redis+streams://localhost --group billing --fail-over 60
    """
    found = load_target(target, group=group)
    chosen = group_of(found, group)
    backlogs = run_asking(backlogs_of, found, chosen)
    if as_json:
        write_json({"group": chosen, "backlogs": [asdict(each) for each in backlogs]})
    elif backlogs:
        write_table(
            f"Group {chosen}",
            ("event", "waiting", "pending", "oldest waiting", "oldest pending"),
            [
                (
                    each.event_name,
                    "?" if each.lag is None else each.lag,
                    each.pending,
                    "?" if each.oldest_waiting is None else round(each.oldest_waiting, 1),
                    round(each.oldest_pending, 1),
                )
                for each in backlogs
            ],
        )
    else:
        write_note(f"the broker knows no events that the group {chosen!r} reads")
    if fail_over is not None:
        judge(backlogs, fail_over, chosen)


async def backlogs_of(target: Target, group: str) -> Sequence[Backlog]:
    """Return the backlogs of a group."""
    ask = inspected(target.bus.driver, "lag").lag
    async with asked(target):
        return await ask(group, listened_names(target))


def judge(backlogs: Sequence[Backlog], limit: float, group: str) -> None:
    """Refuse a backlog that is too old.

    Raises:
        CommandFinding: An event is older than the limit in seconds, or there is no such group.
        UnsupportedError: The broker cannot tell how old the waiting events are.
    """
    if not backlogs:
        raise CommandFinding(f"there is no group {group!r} that reads events")
    for each in backlogs:
        oldest = max(each.oldest_pending, each.oldest_waiting or 0.0)
        if oldest > limit:
            raise CommandFinding(f"{each.event_name}: the oldest event is {oldest:.1f} s old")
    for each in backlogs:
        if each.oldest_waiting is None and each.lag != 0:
            raise UnsupportedError(
                f"{each.event_name}: the broker cannot tell how old its waiting events are"
            )
