"""The table of drivers that the chaos run knows: what each promises, and what its broker cannot."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from benchmarks.chaos.servers.contract import ChaosServer
from benchmarks.chaos.servers.jetstream import JetStreamServer
from benchmarks.chaos.servers.kafka import noida, tansu
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
_KAFKA = {**_DURABLE, "claim_idle": 6.0}  # the shortest session that a Kafka broker accepts
_KAFKA_LIMITS = (
    "Kafka counts no deliveries: an event that a bus had after its last commit comes to the next "
    "bus without a mark; "
)
_NOIDA_LIMITS = (
    f"{_KAFKA_LIMITS}this broker loses its latest records and all commits at a `kill -9`, so it is "
    "ended with SIGTERM here; it accepts records until it has ended, but does not keep the last "
    "ones, also not those of plain clients, and gives their offsets to later records, so a loss at "
    "a restart proves nothing here; it forgets the sequences of producers; it refuses all commits "
    "of a group from the moment when a member joins, so each rebalance behind a restart repeats "
    "the work since the last commit; it may never answer members that join a group at the "
    "same moment, also those of plain clients, so the run starts it once more if nothing is "
    "settled for a while; it never removes a member that has died, so no consumer is killed"
)
_CLAIMING = {**_DURABLE, "claim_idle": CLAIM_IDLE_SECONDS}


@dataclass(frozen=True, kw_only=True)
class ChaosDriver:
    """One driver.

    Attributes:
        title: Its name in tables.
        server: Makes the broker; raises `NotHere` if it is not installed.
        options: The options of the URL for a bus of the group.
        publish_timeout: The option of that name, in seconds.
        durable: The driver promises that no accepted event is lost.
        keeps_accepted: The broker itself loses nothing that it has accepted when it ends.
        marks_repeats: A durable driver promises that all runs of an event but one are marked.
        few_repeats: The broker takes acknowledgements whenever it runs, so repeats have a bound.
        takes_all_commits: The broker takes acknowledgements also while members come and go, so
            restarts in order repeat nothing.
        counts_unseen: The broker may count a delivery that no consumer has seen, so an event that
            comes for the first time may be marked.
        joins_hang: The broker may leave a group without an answer until it is started again.
        ordered: The driver promises the order of each key.
        without: The kinds of interruption that the broker itself does not survive.
        limits: What the broker itself cannot do, for the table.
    """

    title: str
    server: Callable[[], ChaosServer]
    options: Mapping[str, object] = field(default_factory=lambda: _CLAIMING)
    publish_timeout: float = 10.0
    durable: bool = True
    keeps_accepted: bool = True
    marks_repeats: bool = True
    few_repeats: bool = True
    takes_all_commits: bool = True
    counts_unseen: bool = False
    joins_hang: bool = False
    ordered: bool = False
    without: Collection[str] = ()
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
            "and after either it may have forgotten acknowledgements: if the process that gave one "
            "was killed, too, the event comes to another bus without a mark"
        ),
    ),
    "rabbitmq": ChaosDriver(
        title="RabbitMQ, quorum queue",
        server=RabbitServer,
        options=_DURABLE,
        counts_unseen=True,
        limits=(
            "no order in a group; one node starts again in about ten seconds; a quorum queue "
            "counts a delivery that it takes back from a consumer that stops"
        ),
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
    "kafka": ChaosDriver(
        title="Kafka, aiokafka, on noida-db",
        server=partial(noida, "kafka"),
        options=_KAFKA,
        keeps_accepted=False,
        marks_repeats=False,
        few_repeats=False,
        takes_all_commits=False,
        joins_hang=True,
        ordered=True,
        without=("consumer",),
        limits=_NOIDA_LIMITS,
    ),
    "kafka+confluent": ChaosDriver(
        title="Kafka, librdkafka, on noida-db",
        server=partial(noida, "kafka+confluent"),
        options=_KAFKA,
        keeps_accepted=False,
        marks_repeats=False,
        few_repeats=False,
        takes_all_commits=False,
        joins_hang=True,
        # The client has several batches in flight. A broker that forgets the sequences of producers
        # may take one of them before an earlier one that it has lost.
        ordered=False,
        without=("consumer",),
        limits=_NOIDA_LIMITS,
    ),
    "kafka+confluent+tansu": ChaosDriver(
        title="Kafka, librdkafka, on tansu",
        server=partial(tansu, "kafka+confluent"),
        marks_repeats=False,
        ordered=True,
        without=("server", "outage"),
        limits=(
            f"{_KAFKA_LIMITS}this broker keeps everything in memory, so its process is never ended "
            "here; it drops the metadata of commits, and with it the number of deliveries; a "
            "reader may miss a batch while another producer writes to its partition; it tells the "
            "end of a partition too low, so the run waits until no more events arrive"
        ),
    ),
}
