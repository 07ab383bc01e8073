"""What one listener has got."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ... import Event

MARKER = -1


class Numbered(Event):
    """An event of the suite. One with the number -1 is a marker: all before it have arrived."""

    n: int = 0
    sender: int = 0
    text: str = ""


class Seen:
    """The events that a listener has got, in order, without the markers."""

    def __init__(self, stir: Callable[[], None]) -> None:
        self._stir = stir
        self.events: list[Any] = []
        self.markers: int = 0

    def note(self, event: Any) -> None:
        """Take note of an event; the listener itself, or called by it."""
        if getattr(event, "n", None) == MARKER:
            self.markers += 1
        else:
            self.events.append(event)
        self._stir()

    @property
    def numbers(self) -> list[int]:
        """The numbers of the events."""
        return [event.n for event in self.events]

    def of(self, sender: int) -> list[int]:
        """Return the numbers of the events of one sender."""
        return [event.n for event in self.events if event.sender == sender]
