"""RabbitMQ, with the quorum queue of a group."""

from benchmarks.brokers.rabbit_server import rabbit_ctl, rabbit_server


class RabbitServer:
    """A RabbitMQ node of one run."""

    def __init__(self) -> None:
        self.process = rabbit_server()

    @property
    def url(self) -> str:
        """The URL of a bus without a group."""
        return f"amqp://guest:guest@{self.process.addr}/?stream=chaos"

    def prepare(self) -> None:
        """Return at once: the buses create what they need."""

    def await_writes(self) -> None:
        """Return at once: a quorum queue writes an event before it confirms it."""

    def unsettled(self) -> int:
        """Return how many messages the queues hold, acknowledged ones not included."""
        lines = rabbit_ctl(self.process, "list_queues", "name", "messages").splitlines()
        queues = [line.split("\t") for line in lines]
        return sum(int(count) for name, count in queues if not name.endswith(":+dead"))
