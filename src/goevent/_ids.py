"""Ids of dispatches: 64 random bits each, drawn from the system in blocks."""

from __future__ import annotations

from os import urandom

BLOCK = 256
"""Ids drawn at once: for each one alone, asking the system would cost half of a publish."""


class Ids:
    """Ids that nobody has drawn before. A forked process must not go on with those of another."""

    def __init__(self) -> None:
        self._drawn: list[str] = []

    def forget(self) -> None:
        """Draw anew, as this may be a fork of the process that drew."""
        self._drawn.clear()

    def draw(self) -> str:
        """Return 16 lower hex digits."""
        if not self._drawn:
            self._drawn = urandom(8 * BLOCK).hex(" ", 8).split()
        return self._drawn.pop()
