"""The events of the suite, and the record of the events that one listener has received."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ... import Event

MARKER_NUMBER = -1


class NumberedEvent(Event):
    """An event of the suite.

    An event with the number `MARKER_NUMBER` is a marker. When it arrives, all events that the same
    sender dispatched before it under this name have arrived.
    """

    n: int = 0
    sender: int = 0
    text: str = ""


class ReceivedEvents:
    """The events that one listener has received, in order, without the markers."""

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self.events: list[Any] = []
        self.markers: int = 0

    def record(self, event: Any) -> None:
        """Record an event. This is the listener, or is called by it."""
        if getattr(event, "n", None) == MARKER_NUMBER:
            self.markers += 1
        else:
            self.events.append(event)
        self._notify()

    @property
    def numbers(self) -> list[int]:
        """The numbers of the events."""
        return [event.n for event in self.events]

    def of(self, sender: int) -> list[int]:
        """Return the numbers of the events of one sender."""
        return [event.n for event in self.events if event.sender == sender]
