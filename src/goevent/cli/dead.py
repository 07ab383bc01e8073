"""`goevent dead`: the dead letters of a consumer group, to list, show, replay and discard.

The commands work while the buses of the group run. The bytes of a dead letter are hostile, as those
of `goevent tail` are.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import click

from ..drivers import (
    DEAD_LETTERS_PER_CALL,
    DEAD_LETTERS_PER_PAGE,
    DeadLetter,
    DeadLetters,
)
from .asked_broker import (
    asked,
    dead_letters_of,
    group_of,
    group_option,
    require_dead_letters,
    run_asking,
)
from .failures import CommandFinding, WrongUse
from .output import (
    ascii_json,
    json_option,
    progress,
    write_json,
    write_line,
    write_note,
    write_table,
)
from .tail import decoded, shown_time
from .targets import Target, TargetCommand, load_target, url_argument

T = TypeVar("T")


@click.group("dead", no_args_is_help=True)
def command() -> None:
    """List, show, replay and discard the dead letters of a consumer group.

    \b
    Example:
      goevent dead list redis+streams://localhost --group billing
    """


@command.command("list", cls=TargetCommand)
@url_argument
@group_option
@click.option(
    "--count", type=click.IntRange(min=1), default=DEAD_LETTERS_PER_PAGE, show_default=True
)
@json_option
def list_letters(target: str, group: str | None, count: int, as_json: bool) -> None:
    """List the oldest dead letters.

    \b
    Example:
      goevent dead list redis+streams://localhost --group billing
    """
    found = _letters_target(target, group)

    async def ask(letters: DeadLetters) -> tuple[list[DeadLetter], int]:
        return await _listed(letters, count)

    letters, total = run_asking(_in_bus, found, ask)
    if as_json:
        write_json({"count": total, "letters": [_as_json(each) for each in letters]})
        return
    if not letters:
        write_note("there are no dead letters")
        return
    rows = [
        (each.id, each.event_name, each.deliveries, shown_time(each.time), each.reason)
        for each in letters
    ]
    write_table("", ("id", "event", "deliveries", "time", "reason"), rows)
    if total > len(letters):
        write_note(f"{total - len(letters)} more; see --count")


@command.command("show", cls=TargetCommand)
@url_argument
@click.argument("id", metavar="ID")
@group_option
@json_option
def show(target: str, id: str, group: str | None, as_json: bool) -> None:  # noqa: A002
    """Show a dead letter with its payload and its traceback.

    \b
    Example:
      goevent dead show redis+streams://localhost 1700000000000-0 --group billing
    """
    found = _letters_target(target, group)

    async def ask(letters: DeadLetters) -> DeadLetter | None:
        return await letters.get(id)

    letter = run_asking(_in_bus, found, ask)
    if letter is None:
        raise CommandFinding("there is no dead letter of this id")
    if as_json:
        write_json(_as_json(letter))
        return
    payload = decoded(letter.data)[1]
    facts = {
        "id": letter.id,
        "event": letter.event_name,
        "event id": letter.event_id,
        "time": shown_time(letter.time),
        "deliveries": str(letter.deliveries),
        "consumer": letter.consumer,
        "reason": letter.reason,
        "payload": payload if isinstance(payload, str) else ascii_json(payload),
    }
    for name, text in facts.items():
        write_line(f"{name + ':':12}{text}")
    for line in letter.details.splitlines():
        write_line(f"    {line}")


@command.command("replay", cls=TargetCommand)
@url_argument
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All that exist now.")
@group_option
@json_option
def replay(target: str, ids: Sequence[str], every: bool, group: str | None, as_json: bool) -> None:
    """Deliver the events of dead letters to the group again, each as if for the first time.

    \b
    Example:
      goevent dead replay redis+streams://localhost --all --group billing
    """
    _settle(target, ids, every, group, as_json, "replayed", lambda letters: letters.replay)


@command.command("discard", cls=TargetCommand)
@url_argument
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All that exist now.")
@click.option("--yes", is_flag=True, help="Do not ask before --all.")
@group_option
@json_option
def discard(
    target: str, ids: Sequence[str], every: bool, yes: bool, group: str | None, as_json: bool
) -> None:
    """Delete dead letters for good.

    \b
    Example:
      goevent dead discard redis+streams://localhost 1700000000000-0 --group billing
    """
    if every and not yes:
        if not sys.stdin.isatty():
            raise WrongUse("discard --all deletes for good: confirm it by --yes")
        click.confirm("Delete all dead letters of the group for good?", abort=True, err=True)
    _settle(target, ids, every, group, as_json, "discarded", lambda letters: letters.discard)


def _settle(
    target: str,
    ids: Sequence[str],
    every: bool,
    group: str | None,
    as_json: bool,
    done: str,
    method: Callable[[DeadLetters], Callable[..., Awaitable[int]]],
) -> None:
    if bool(ids) == every:
        raise WrongUse("give the ids of dead letters, or --all")
    found = _letters_target(target, group)

    async def settle(letters: DeadLetters) -> tuple[int, int]:
        chosen = await _all_ids(letters) if every else [*dict.fromkeys(ids)]
        count = 0
        with progress(done, len(chosen)) as bar:
            for first in range(0, len(chosen), DEAD_LETTERS_PER_CALL):
                part = chosen[first : first + DEAD_LETTERS_PER_CALL]
                count += await method(letters)(*part)
                bar.advance(len(part))
        return count, len(chosen)

    count, asked_for = run_asking(_in_bus, found, settle)
    if as_json:
        write_json({done: count})
    else:
        write_line(f"{count} dead letter(s) {done}")
    if count < asked_for and not every:
        raise CommandFinding(f"{asked_for - count} of these ids are no dead letters any more")


def _letters_target(target: str, group: str | None) -> Target:
    found = load_target(target, group=group)
    # First, so that a driver without dead letters says so, and not that a group is missing.
    require_dead_letters(found.bus.driver)
    group_of(found, group)
    return found


async def _in_bus(target: Target, work: Callable[[DeadLetters], Awaitable[T]]) -> T:
    letters = dead_letters_of(target.bus.driver)
    async with asked(target):
        return await work(letters)


async def _listed(letters: DeadLetters, count: int) -> tuple[list[DeadLetter], int]:
    found: list[DeadLetter] = []
    while len(found) < count:
        wanted = min(count - len(found), DEAD_LETTERS_PER_PAGE)
        page = await letters.list(wanted, after=found[-1].id if found else "")
        found += page
        if len(page) < wanted:
            break
    return found, await letters.count()


async def _all_ids(letters: DeadLetters) -> list[str]:
    """Return the ids of the dead letters that exist now.

    The number first: events that fail again meanwhile stand behind the others.
    """
    count = await letters.count()
    return [each.id for each in (await _listed(letters, count))[0]] if count else []


def _as_json(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "event": letter.event_name,
        "event_id": letter.event_id,
        "time": shown_time(letter.time),
        "deliveries": letter.deliveries,
        "consumer": letter.consumer,
        "partition": letter.partition,
        "reason": letter.reason,
        "details": letter.details,
        "payload": decoded(letter.data)[1],
    }
