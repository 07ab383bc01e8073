"""The commands of `goevent`, in the order of its help.

A command is the attribute `command` of the module of its name in this room. The group imports that
module when the command is used, and shows the help of this table without it.
"""

from __future__ import annotations

from typing import Final

COMMANDS: Final[dict[str, str]] = {
    "describe": "Show listeners, event types and driver, without a broker.",
    "asyncapi": "Print the AsyncAPI document, or check an older one against the code.",
}
"""The one-line help of each command, by its name."""
