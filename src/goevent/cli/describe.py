"""`goevent describe`: the listeners, the event types and the driver of a bus, without a broker."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from .output import json_option, write_json, write_line, write_table
from .targets import Target, TargetCommand, load_target, target_argument


@click.command("describe", cls=TargetCommand)
@target_argument
@json_option
def command(target: str, as_json: bool) -> None:
    """Show listeners, event types and driver of TARGET, without a broker.

    \b
    Example:
      goevent describe shop.app:bus
    """
    description = description_of(load_target(target))
    if as_json:
        write_json(description)
        return
    write_line(f"{description['target']}: {description['driver']['class']}")
    rows = [
        (each["name"], ", ".join(each["events"]), each["runs"]) for each in description["listeners"]
    ]
    write_table("Listeners", ("listener", "events", "runs"), rows)


def description_of(target: Target) -> dict[str, Any]:
    """Return the description of a bus as a value of JSON, without secrets."""
    bus = target.bus
    return {
        "target": target.name,
        "driver": {
            "class": type(bus.driver).__qualname__,
            "capabilities": asdict(bus.driver.capabilities),
        },
        "listeners": [
            {
                "name": each.name,
                "events": [*each.event_names],
                "runs": "inline" if each.inline else "mailbox",
            }
            for each in bus.snapshot().listeners
        ],
    }
