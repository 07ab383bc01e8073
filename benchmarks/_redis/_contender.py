"""What a contender has to be able to do, in a process of its own."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Protocol

TASKS = 64
TEXT = "x" * 123
"""With it, the JSON of an event has 150 bytes."""

Ready = Callable[[], None]


class Contender(Protocol):
    """A module of contenders; each function is called in a process of its own."""

    NAME: str
    NOTE: str

    def payloads(self, count: int) -> tuple[str, Sequence[bytes]]:
        """Return a channel, and messages for it as the contender itself would send them."""
        ...

    def receive(self, address: str, count: int, ready: Ready) -> float:
        """Run a listener for so many messages; return them per second, from first to last."""
        ...

    def publish(self, address: str, seconds: float) -> float:
        """Publish from 64 tasks, each waiting for the broker; return messages per second."""
        ...

    def listen(self, address: str, count: int, ready: Ready) -> float:
        """Listen to so many messages that carry their time; return the median age in us."""
        ...

    def speak(self, address: str, count: int, pause: float) -> None:
        """Publish so many messages that carry their time, one after each pause."""
        ...


def now() -> int:
    """Return the time in us, by a clock that all processes share."""
    return time.monotonic_ns() // 1000


def report(figure: float) -> None:
    """Tell the parent."""
    print(json.dumps({"figure": figure}), flush=True)
