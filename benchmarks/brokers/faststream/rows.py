"""The rows of the suite: the brokers, goevent's URL for each, and the goals beside FastStream."""

from dataclasses import dataclass, field

FASTSTREAM = "FastStream"
FLUSHING = "FastStream, flushing"


@dataclass(frozen=True, kw_only=True)
class BrokerRow:
    """One row.

    Attributes:
        title: The name in the report.
        goevent: The URL; `{addr}` and `{tag}` are filled in.
        direct: The function in `direct` that uses the broker without goevent.
        server: The function in `servers` that runs the server.
        durable: True if events are acknowledged and the URL takes a group.
        flushing: True if a publish of FastStream only fills a buffer, so it is measured twice.
        messages: The number of messages that a run receives.
        receive: The goal for receiving, as a ratio to FastStream with pydantic.
        publish: The goals for publishing, by contender.
        notes: The work of each side.
    """

    title: str
    goevent: str
    direct: str
    server: str
    durable: bool = True
    flushing: bool = False
    messages: int = 10_000
    receive: float = 0.8
    publish: dict[str, float] = field(default_factory=lambda: {FASTSTREAM: 0.9})
    notes: str = ""


ROWS = {
    "nats": BrokerRow(
        title="NATS",
        goevent="nats://{addr}?prefix={tag}.",
        direct="nats",
        server="nats",
        durable=False,
        flushing=True,
        messages=20_000,
        publish={FLUSHING: 0.9},
        notes=(
            "Nothing is acknowledged. A publish of goevent waits for the server's PONG, so the "
            "goal is set beside FastStream with a flush after each publish; without one, it only "
            "fills a buffer and learns of no loss."
        ),
    ),
    "jetstream": BrokerRow(
        title="JetStream",
        goevent="nats+js://{addr}?stream={tag}",
        direct="jetstream",
        server="nats",
        notes=(
            "+ACK after the listener. FastStream has a push consumer, its default and faster one; "
            "goevent pulls, 250 at a time. Publishes wait for the acknowledgement."
        ),
    ),
    "rabbit": BrokerRow(
        title="RabbitMQ",
        goevent="amqp://guest:guest@{addr}/?stream={tag}",
        direct="rabbit",
        server="rabbit",
        notes=(
            "Quorum queues, a prefetch of 500, basic.ack after the listener. Publishes are "
            "persistent and wait for the confirm."
        ),
    ),
    "mqtt": BrokerRow(
        title="MQTT",
        goevent="mqtt://{addr}?prefix={tag}.",
        direct="mqtt",
        server="mosquitto",
        durable=False,
        notes="Version 5, QoS 1 both ways: PUBACK after the handler, publishes wait for theirs.",
    ),
    "kafka": BrokerRow(
        title="Kafka, aiokafka",
        goevent="kafka://{addr}?prefix={tag}.",
        direct="kafka",
        server="kafka",
        messages=5_000,
        notes=(
            "librdkafka's mock cluster. FastStream commits after each message; goevent commits "
            "the settled prefix of a partition once for a batch. Publishes wait for the broker."
        ),
    ),
    "kafka+confluent": BrokerRow(
        title="Kafka, confluent",
        goevent="kafka+confluent://{addr}?prefix={tag}.",
        direct="confluent",
        server="kafka",
        messages=5_000,
        notes="As above.",
    ),
}
