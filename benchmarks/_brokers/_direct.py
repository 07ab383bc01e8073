"""FastStream's brokers as their users configure them, with the options that goevent uses, too."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from faststream import AckPolicy

from benchmarks._brokers._contender import Scene

NAME = "bench.order"
PREFETCH = 500
AFTER = {"ack_policy": AckPolicy.NACK_ON_ERROR}
_options: dict[str, Any] = {"logger": None}


class Direct(NamedTuple):
    """One broker.

    Attributes:
        subscriber: makes the one subscriber.
        publish: publishes a message to it.
        prepare: makes what a subscriber or a publish needs, when connected.
        flush: waits until the server has what was published, if publish does not.
    """

    broker: Any
    subscriber: Callable[[], Any]
    publish: Callable[[Any], Awaitable[Any]]
    prepare: Callable[[], Awaitable[Any]]
    flush: Callable[[], Awaitable[Any]]


def use_msgspec() -> None:
    """Have the brokers that are made from now on decode with msgspec."""
    from fast_depends.msgspec import MsgSpecSerializer

    _options["serializer"] = MsgSpecSerializer()


async def _nothing() -> None:
    """Prepare nothing."""


def nats(scene: Scene) -> Direct:
    from faststream.nats import NatsBroker

    subject = f"{scene.tag}.{NAME}"
    broker: Any = NatsBroker(f"nats://{scene.addr}", **_options)
    return Direct(
        broker,
        lambda: broker.subscriber(subject),
        lambda message: broker.publish(message, subject),
        _nothing,
        lambda: broker.connection.flush(),
    )


def jetstream(scene: Scene) -> Direct:
    from faststream.nats import JStream, NatsBroker

    subject = f"{scene.tag}.{NAME}"
    stream = JStream(scene.tag, declare=False)
    broker: Any = NatsBroker(f"nats://{scene.addr}", **_options)

    async def prepare() -> None:
        await broker.connection.jetstream().add_stream(name=scene.tag, subjects=[f"{scene.tag}.>"])

    return Direct(
        broker,
        lambda: broker.subscriber(subject, stream=stream, durable="direct", **AFTER),
        lambda message: broker.publish(message, subject, stream=scene.tag),
        prepare,
        _nothing,
    )


def rabbit(scene: Scene) -> Direct:
    from faststream.rabbit import (
        Channel,
        ExchangeType,
        QueueType,
        RabbitBroker,
        RabbitExchange,
        RabbitQueue,
    )

    broker: Any = RabbitBroker(
        f"amqp://guest:guest@{scene.addr}/",
        default_channel=Channel(prefetch_count=PREFETCH),
        **_options,
    )
    exchange = RabbitExchange(scene.tag, type=ExchangeType.TOPIC, durable=True)
    queue = RabbitQueue(
        f"{scene.tag}-direct", queue_type=QueueType.QUORUM, durable=True, routing_key=NAME
    )
    return Direct(
        broker,
        lambda: broker.subscriber(queue, exchange, **AFTER),
        lambda message: broker.publish(message, exchange=exchange, routing_key=NAME, persist=True),
        lambda: broker.declare_exchange(exchange),
        _nothing,
    )


def mqtt(scene: Scene) -> Direct:
    from faststream.mqtt import MQTTBroker, QoS

    broker: Any = MQTTBroker(f"mqtt://{scene.addr}", **_options)
    topic, once = f"{scene.tag}/{NAME.replace('.', '/')}", {"qos": QoS.AT_LEAST_ONCE}
    return Direct(
        broker,
        lambda: broker.subscriber(topic, **once, **AFTER),
        lambda message: broker.publish(message, topic, **once),
        _nothing,
        _nothing,
    )


def kafka(scene: Scene) -> Direct:
    from faststream.kafka import KafkaBroker

    topic = f"{scene.tag}.{NAME}"
    return _kafka(KafkaBroker(scene.addr, **_options), topic, topic)


def confluent(scene: Scene) -> Direct:
    from faststream.confluent import KafkaBroker, Topic

    topic = f"{scene.tag}.{NAME}"
    # The mock cluster does not answer who would make a topic, and FastStream waits a minute for it.
    read = Topic(topic, declare=False)
    return _kafka(KafkaBroker(scene.addr, **_options), topic, read)


def _kafka(broker: Any, topic: str, read: Any) -> Direct:
    group = {"group_id": "direct", "auto_offset_reset": "earliest"}
    return Direct(
        broker,
        lambda: broker.subscriber(read, **group, **AFTER),
        lambda message: broker.publish(message, topic),
        _nothing,
        _nothing,
    )


DIRECT: dict[str, Callable[[Scene], Direct]] = {
    "nats": nats,
    "jetstream": jetstream,
    "rabbit": rabbit,
    "mqtt": mqtt,
    "kafka": kafka,
    "confluent": confluent,
}
