"""`goevent trace`: dispatches one event on a bus of a program, and shows all that it causes there.

The listeners run in this process, as `goevent run` runs them, and the event goes to the broker as
any other. The tree is that of this process: what other programs do with the event is not in it.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

import click
import trio

from .. import DispatchHandle, Event, EventError, EventTrace, GoEvent
from .failures import FINDING, CommandFinding, WrongUse
from .output import json_option, write_json, write_line, write_note
from .publish import event_of
from .targets import TargetCommand, load_bus, target_argument

TIMEOUT_SECONDS = 30.0
MAX_TRACED_EVENTS = 10_000


@click.command("trace", cls=TargetCommand)
@target_argument
@click.argument("name", metavar="NAME")
@click.argument("data", metavar="JSON")
@click.option(
    "--timeout",
    type=float,
    default=TIMEOUT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="The time for everything to finish.",
)
@click.option("--ad-hoc", is_flag=True, help="Allow a name that the program has no event type for.")
@json_option
def command(target: str, name: str, data: str, timeout: float, ad_hoc: bool, as_json: bool) -> int:
    """Run the bus TARGET, dispatch an event NAME, and show the tree of what it causes.

    The listeners run here, with their effects. JSON is the payload of the event, an object. The
    exit code is 1 if a listener failed, or if something was not done in time.

    \b
    Example:
      goevent trace shop.app:bus order.placed '{"order_id": 7}'
    """
    if "://" in target:
        raise WrongUse("a URL has no listeners to trace: give module:bus or module:make_bus()")
    if not timeout > 0:
        raise WrongUse(f"--timeout must be above 0 seconds, not {timeout:g}")
    bus = load_bus(target)
    registry = bus.config.registry
    if not ad_hoc and not registry.is_registered(name):
        raise WrongUse(f"{registry.unknown(name)} (--ad-hoc dispatches it all the same)")
    event = event_of(name, data, registry)
    # A listener may print, and the result must stand alone on stdout.
    with redirect_stdout(sys.stderr):
        found = trio.run(traced, bus, event, timeout)
    if as_json:
        write_json(as_value(found))
    else:
        for line in str(found).splitlines():
            write_line(line)
    if not found.done:
        write_note(f"goevent: not everything was done within {timeout:g} s")
    return FINDING if found.failed or not found.done else 0


async def traced(bus: GoEvent, event: Event, timeout: float) -> EventTrace:
    """Return the trace of an event that is dispatched now.

    Raises:
        CommandFinding: The dispatch itself has not returned in time.
    """
    # The tree shows each failure, so nothing else need report it.
    bus.on_error(ignore)
    handle: DispatchHandle | None = None
    with bus.tracing(max_events=MAX_TRACED_EVENTS):
        async with bus:
            with trio.move_on_after(timeout) as scope:
                handle = await bus.dispatch(event)
                await bus._wait_traced(handle)  # pyright: ignore[reportPrivateUsage]
            found = None if handle is None else bus.trace(handle)
            if scope.cancelled_caught:
                await bus.close(timeout=0.0)
    if found is None:
        raise CommandFinding(f"the dispatch has not returned within {timeout:g} s")
    return found


def ignore(error: EventError) -> None:
    """Leave an error to the trace, which shows it."""


def as_value(trace: EventTrace) -> dict[str, Any]:
    """Return a trace as a value of JSON."""
    values: dict[int, dict[str, Any]] = {}
    events = [event for _, event in trace.walk()]
    for event in reversed(events):
        values[id(event)] = {
            "event": event.event_name,
            "id": event.id,
            "correlation_id": event.correlation_id,
            "causation_id": event.causation_id,
            "time": event.time,
            "after": event.after,
            "duration": event.duration,
            "arrived": event.arrived,
            "listeners": [
                {
                    "name": each.name,
                    "outcome": each.outcome,
                    "reason": each.reason,
                    "attempts": each.attempts,
                }
                for each in event.listeners
            ],
            "omitted": event.omitted,
            "children": [values[id(child)] for child in event.children],
        }
    return values[id(trace)]
