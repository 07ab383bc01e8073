"""The table of drivers that the chaos run knows: what each promises, and what its broker cannot."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.chaos.servers.contract import ChaosServer
from benchmarks.chaos.servers.jetstream import JetStreamServer
from benchmarks.chaos.servers.mqtt import MqttServer
from benchmarks.chaos.servers.rabbitmq import RabbitServer
from benchmarks.chaos.servers.streams import StreamsServer

CLAIM_IDLE_SECONDS = 3.0
MAX_DELIVERIES = 1000
"""More than any event gets, since a dead letter would count as lost."""

_DURABLE = {
    "backoff": 0.1,
    "max_deliveries": MAX_DELIVERIES,
}
_CLAIMING = {**_DURABLE, "claim_idle": CLAIM_IDLE_SECONDS}


@dataclass(frozen=True, kw_only=True)
class ChaosDriver:
    """One driver.

    Attributes:
        title: Its name in tables.
        server: Makes the broker; raises `NotHere` if it is not installed.
        options: The options of the URL for a bus of the group.
        publish_timeout: The option of that name, in seconds.
        durable: The driver promises that no accepted event is lost, and marks repeats.
        ordered: The driver promises the order of each key.
        limits: What the broker itself cannot do, for the table.
    """

    title: str
    server: Callable[[], ChaosServer]
    options: Mapping[str, object] = field(default_factory=lambda: _CLAIMING)
    publish_timeout: float = 10.0
    durable: bool = True
    ordered: bool = False
    limits: str


DRIVERS: dict[str, ChaosDriver] = {
    "streams": ChaosDriver(
        title="Redis Streams, `everysec`",
        server=StreamsServer,
        publish_timeout=60.0,
        limits="a power loss may take the last second of what the server accepted",
    ),
    "streams+always": ChaosDriver(
        title="Redis Streams, `always`",
        server=lambda: StreamsServer("always"),
        publish_timeout=60.0,
        limits="without a replica, the disk of one machine holds everything",
    ),
    "streams+partitions": ChaosDriver(
        title="Redis Streams, `everysec`, 8 partitions",
        server=lambda: StreamsServer(partitions=8),
        publish_timeout=60.0,
        ordered=True,
        limits="as without partitions",
    ),
    "jetstream": ChaosDriver(
        title="NATS JetStream",
        server=JetStreamServer,
        limits=(
            "no order in a group; by default (`sync_interval`) the server syncs its files every "
            "two minutes, so a power loss, unlike a `kill -9`, takes what it acknowledged since, "
            "and after either it may have forgotten acknowledgements"
        ),
    ),
    "rabbitmq": ChaosDriver(
        title="RabbitMQ, quorum queue",
        server=RabbitServer,
        options=_DURABLE,
        limits="no order in a group; one node starts again in about ten seconds",
    ),
    "mqtt": ChaosDriver(
        title="MQTT, Mosquitto",
        server=MqttServer,
        options={},
        durable=False,
        limits=(
            "at most once: a bus acknowledges an event when it has it, before its listeners run; "
            "without persistence a `kill -9` takes the events and sessions of the server, too"
        ),
    ),
}
