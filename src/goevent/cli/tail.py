"""`goevent tail`: shows the events that pass through a broker, and takes none from anybody.

The bytes of an event are hostile: they are shown as JSON in ASCII or with escapes, so a terminal
obeys none of them.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any, cast

import click
import msgspec
import trio

from ..drivers import TailedEvent, inspected
from .asked_broker import asked, run_asking
from .failures import WrongUse
from .output import ascii_json, json_option, printable, write_json, write_line, write_note
from .targets import Target, TargetCommand, load_target, url_argument


@click.command("tail", cls=TargetCommand)
@url_argument
@click.argument("pattern", metavar="PATTERN")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N events.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End after so many seconds.",
)
@json_option
def command(
    target: str, pattern: str, count: int | None, timeout: float | None, as_json: bool
) -> None:
    """Show the events that pass from now on, whose names match PATTERN.

    It joins no group and takes no event from anybody. Each event is one line: time, name, id and
    payload. A broker that keeps no events does not wait for a slow reader; a line on stderr tells
    how many it has missed. The command ends by Ctrl-C with 130, and quietly with 0 if the reader of
    its output goes away.

    \b
    Example:
      goevent tail redis+streams://localhost 'order.*' --count 10
    """
    run_asking(show, load_target(target), pattern, count, timeout, as_json)


async def show(
    target: Target, pattern: str, count: int | None, timeout: float | None, as_json: bool
) -> None:
    """Print the events of a pattern until there were enough of them, or the time is over.

    Raises:
        WrongUse: It is not a pattern.
    """
    tail = inspected(target.bus.driver, "tail").tail
    shown = 0
    async with asked(target):
        with trio.move_on_after(trio_seconds(timeout)):
            try:
                passing = tail(pattern)
                async with passing as events:
                    async for event in events:
                        # A pipe that is full holds this up, and with it only this command.
                        write_event(event, as_json)
                        shown += 1
                        if shown == count:
                            break
            except ValueError as error:
                raise WrongUse(str(error)) from error


def trio_seconds(timeout: float | None) -> float:
    """Return a timeout for Trio; infinite for None."""
    return float("inf") if timeout is None else timeout


def write_event(event: TailedEvent, as_json: bool) -> None:
    """Write one event to stdout, and flush it: the reader wants it now.

    Events that were left out before it are told on stderr.
    """
    if event.missed:
        write_note(f"{event.missed} events before the next one are not shown: the reader is slow")
    envelope, payload = decoded(event.data)
    headers = {**event.headers, **headers_of(envelope)}
    time = event.time or time_of(envelope)
    if as_json:
        line: dict[str, Any] = {
            "time": None if time is None else shown_time(time),
            "event": event.event_name,
            "id": event.id,
            "headers": headers,
            "payload": payload,
            "missed": event.missed,
        }
        write_json(line, lines=True)
    else:
        parts = [
            shown_time(time or datetime.now(UTC)),
            printable(event.event_name),
            event.id or "-",
            payload if isinstance(payload, str) else ascii_json(payload),
        ]
        write_line(" ".join(parts))
    sys.stdout.flush()


def decoded(data: bytes) -> tuple[dict[str, Any], Any]:
    """Return the envelope of a message and the payload in it.

    A message that is JSON and no envelope is a payload of its own. Other bytes are shown as text,
    with escapes for those that are none.
    """
    try:
        value: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}, printable(data.decode("utf-8", "backslashreplace"))
    if not isinstance(value, dict):
        return {}, value
    fields = cast("dict[str, Any]", value)
    return (fields, fields["event_data"]) if "event_data" in fields else ({}, fields)


def headers_of(envelope: dict[str, Any]) -> dict[str, str]:
    """Return the headers in an envelope, which may be anything."""
    headers = envelope.get("headers")
    if not isinstance(headers, dict):
        return {}
    return {name: str(value) for name, value in cast("dict[str, Any]", headers).items()}


def time_of(envelope: dict[str, Any]) -> datetime | None:
    """Return the time in an envelope, which may be anything."""
    seconds = envelope.get("timestamp")
    if not isinstance(seconds, int) or not 0 < seconds < 1 << 36:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def shown_time(time: datetime) -> str:
    """Return a time as text, in UTC and milliseconds."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
