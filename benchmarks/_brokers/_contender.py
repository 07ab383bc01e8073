"""What a contender has to be able to do, in a process of its own."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

TASKS = 64
TEXT = "x" * 123
"""With it, the JSON of an event has 150 bytes."""

Ready = Callable[[], None]


class Scene(NamedTuple):
    """One run at one broker.

    Attributes:
        broker: the row of the table.
        addr: host and port of the server.
        tag: what all names of the run begin with.
    """

    broker: str
    addr: str
    tag: str


class Contender(Protocol):
    """A module of contenders; each function is called in a process of its own."""

    def payloads(self, scene: Scene, count: int) -> Sequence[bytes]:
        """Return messages as the contender itself would send them."""
        ...

    def receive(self, scene: Scene, count: int, ready: Ready) -> float:
        """Run a listener for so many messages; return them per second, from first to last."""
        ...

    def publish(self, scene: Scene, seconds: float) -> float:
        """Publish from 64 tasks; return messages per second."""
        ...
