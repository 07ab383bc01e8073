"""The broker of a run, as the run sees it."""

from typing import Protocol

from benchmarks.brokers.server_process import ServerProcess

GROUP = "chaos"
"""The consumer group of a run."""

GRACE_SECONDS = 25.0
"""How long a consumer may drain after a SIGTERM."""

EVENT_NAME = "order.paid"
"""The name of all events of a run."""


class ChaosServer(Protocol):
    """A broker with the names of one run."""

    @property
    def process(self) -> ServerProcess:
        """The process, which the run kills, freezes and starts again."""
        ...

    @property
    def url(self) -> str:
        """The URL of a bus without a group; it has a query already."""
        ...

    def prepare(self) -> None:
        """Create what a bus does not create as the run needs it; called after the first start."""
        ...

    def await_writes(self) -> None:
        """Wait until the broker has written what it has accepted, if it delays its writes.

        Called before a `kill -9`. A broker that writes before it answers returns at once.
        """
        ...

    def unsettled(self) -> int | None:
        """Return how many events the group has not acknowledged.

        None if the broker keeps no count, so the run waits until no more events arrive.
        """
        ...
