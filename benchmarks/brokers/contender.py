"""The functions of a contender over a broker; each is called in a process of its own."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

TASKS = 64
BATCH = 100
TEXT = "x" * 123
"""With this text, the JSON of an event has 150 bytes."""

Ready = Callable[[], None]
"""Called when the contender is subscribed, so that the sender may start."""


class Place(NamedTuple):
    """The broker of one figure.

    Attributes:
        broker: The kind of broker: "redis", or a row of `faststream.rows`.
        addr: Host and port of the server.
        tag: The beginning of all names of the run, on servers that several runs share.
    """

    broker: str
    addr: str
    tag: str = "bench"


class Measured(NamedTuple):
    """One figure.

    Attributes:
        figure: Events per second, or microseconds for a latency.
        cpu: Microseconds of CPU time of the contender's process for each event, where it is taken;
            the server's are not in it.
    """

    figure: float
    cpu: float | None = None


class Meter:
    """Measures the time and the CPU time from its creation on."""

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def read(self, count: int) -> Measured:
        """Return the rate and the CPU time of this many events."""
        wall = time.perf_counter() - self._wall
        return Measured(count / wall, 1e6 * (time.process_time() - self._cpu) / count)


class PubSubContender(Protocol):
    """A module with a contender of the suites over pub/sub and over FastStream's brokers.

    A contender of FastStream's brokers has no `listen` and no `speak`; a Redis contender also has
    the `CHANNEL` of its payloads.
    """

    def payloads(self, place: Place, count: int) -> Sequence[bytes]:
        """Return messages as the contender itself would send them."""
        ...

    def receive(self, place: Place, count: int, ready: Ready) -> float:
        """Run a listener for this many messages; return messages per second."""
        ...

    def publish(self, place: Place, seconds: float, tasks: int = TASKS) -> float:
        """Publish from some tasks, each waiting for the broker; return messages per second.

        A contender of FastStream's brokers always has 64 tasks.
        """
        ...

    def listen(self, place: Place, count: int, ready: Ready) -> float:
        """Listen to this many messages that carry their time; return the median age in us."""
        ...

    def speak(self, place: Place, count: int, pause: float) -> None:
        """Publish this many messages that carry their time, one after each pause."""
        ...


class StreamsContender(Protocol):
    """A module with a contender of the suite over Redis Streams."""

    def consume(self, place: Place, count: int) -> Measured:
        """Read this many entries, run a listener for each, and acknowledge them."""
        ...

    def wait(self, place: Place, count: int, tasks: int = TASKS) -> Measured:
        """Publish this many events from some tasks, each waiting for the server."""
        ...

    def batch(self, place: Place, count: int) -> Measured:
        """Publish this many events in batches of a hundred."""
        ...


def now() -> int:
    """Return the time in us, by a clock that all processes share."""
    return time.monotonic_ns() // 1000
