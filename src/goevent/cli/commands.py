"""The commands of `goevent`, in the order of its help.

A command is the attribute `command` of the module of its name in this room. The group imports that
module when the command is used, and shows the help of this table without it.
"""

from __future__ import annotations

from typing import Final

COMMANDS: Final[dict[str, str]] = {
    "run": "Run the listeners of a bus until SIGTERM, in one or several processes.",
    "describe": "Show listeners, event types and driver, without a broker.",
    "asyncapi": "Print the AsyncAPI document, or check an older one against the code.",
    "check": "Reach the broker, and report what endangers its promises.",
    "trace": "Run a bus, dispatch an event, and show all that it causes there.",
    "publish": "Publish an event, or many from stdin.",
    "tail": "Show the events that pass, without taking them.",
    "lag": "Show the backlog of a consumer group.",
    "dead": "List, show, replay and discard dead letters.",
    "replay": "Deliver stored events to a group once more.",
    "top": "Show a bus, or a group at its broker, live in the terminal.",
}
"""The one-line help of each command, by its name."""
