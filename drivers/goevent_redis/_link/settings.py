"""The settings and the state of the server, as far as this user may read them.

The drivers' `check` reads them. `INFO` tells the most important settings even where a hosted server
forbids `CONFIG`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .link import Link
from .replies import is_map


async def read_settings(link: Link, names: Sequence[str], sections: Sequence[str]) -> Settings:
    """Read settings and sections of INFO; what the server forbids is missing.

    Raises:
        RedisLinkError: There is no connection.
    """
    asked = [("CONFIG", "GET", name) for name in names]
    *told, info = await link.pipeline([*asked, ("INFO", *sections)])
    found: dict[str, str] = {}
    if isinstance(info, bytes):
        for line in info.decode(errors="replace").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                found[name] = value
    for reply in told:
        # An error reply: the server forbids the question, or does not know it.
        if is_map(reply):
            found.update({_text(name): _text(value) for name, value in reply.items()})
    return Settings(found)


class Settings:
    """The settings that the server has told.

    Args:
        values: The values by the names of the settings and of the fields of INFO.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, name: str) -> str:
        """Return a value; empty if it is unknown."""
        return self._values.get(name, "")

    def number(self, name: str) -> int | None:
        """Return a value; None if it is unknown or no number."""
        try:
            return int(self._values[name])
        except (KeyError, ValueError):
            return None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
