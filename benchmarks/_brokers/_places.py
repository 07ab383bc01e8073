"""The rows: brokers, how goevent reaches them, and what it has to reach beside FastStream."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Place:
    """One row.

    Attributes:
        title: what the table calls it.
        goevent: the URL; `{addr}` and `{tag}` are filled in.
        direct: what knows the broker without goevent, in `_direct`.
        server: what runs it, in `_servers`.
        flood: what sends it messages that are made already, in `_flood`.
        durable: its events are acknowledged, and its URL takes a group.
        flushing: a publish of FastStream only fills a buffer, so it is measured twice.
        messages: how many a run receives.
        receive: goal for receiving, as a ratio to FastStream with pydantic.
        publish: goal for publishing, by contender.
        notes: what each side does.
    """

    title: str
    goevent: str
    direct: str
    server: str
    flood: str
    durable: bool = True
    flushing: bool = False
    messages: int = 10_000
    receive: float = 0.8
    publish: dict[str, float] = field(default_factory=lambda: {"FastStream": 0.9})
    notes: str = ""


FLUSHING = "FastStream, flushing"

PLACES = {
    "nats": Place(
        title="NATS",
        goevent="nats://{addr}?prefix={tag}.",
        direct="nats",
        server="nats",
        flood="nats",
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
    "jetstream": Place(
        title="JetStream",
        goevent="nats+js://{addr}?stream={tag}",
        direct="jetstream",
        server="nats",
        flood="nats",
        notes=(
            "+ACK after the listener. FastStream has a push consumer, its default and faster one; "
            "goevent pulls, 250 at a time. Publishes wait for the acknowledgement."
        ),
    ),
    "rabbit": Place(
        title="RabbitMQ",
        goevent="amqp://guest:guest@{addr}/?stream={tag}",
        direct="rabbit",
        server="rabbit",
        flood="rabbit",
        notes=(
            "Quorum queues, a prefetch of 500, basic.ack after the listener. Publishes are "
            "persistent and wait for the confirm."
        ),
    ),
    "mqtt": Place(
        title="MQTT",
        goevent="mqtt://{addr}?prefix={tag}.",
        direct="mqtt",
        server="mosquitto",
        flood="mqtt",
        durable=False,
        notes="Version 5, QoS 1 both ways: PUBACK after the handler, publishes wait for theirs.",
    ),
    "kafka": Place(
        title="Kafka, aiokafka",
        goevent="kafka://{addr}?prefix={tag}.",
        direct="kafka",
        server="kafka",
        flood="kafka",
        messages=5_000,
        notes=(
            "librdkafka's mock cluster. FastStream commits after each message; goevent commits "
            "the settled prefix of a partition once for a batch. Publishes wait for the broker."
        ),
    ),
    "kafka+confluent": Place(
        title="Kafka, confluent",
        goevent="kafka+confluent://{addr}?prefix={tag}.",
        direct="confluent",
        server="kafka",
        flood="kafka",
        messages=5_000,
        notes="As above.",
    ),
}
