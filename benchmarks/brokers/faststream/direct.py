"""FastStream's brokers as their users configure them, with the same options as goevent uses."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from faststream import AckPolicy

from benchmarks.brokers.contender import Place

NAME = "bench.order"
PREFETCH = 500
MAX_BATCH = 50
AFTER = {"ack_policy": AckPolicy.NACK_ON_ERROR}
_options: dict[str, Any] = {"logger": None}


class Direct(NamedTuple):
    """One broker.

    Attributes:
        broker: The broker of FastStream.
        subscriber: Makes the one subscriber.
        publish: Publishes a message to it.
        prepare: Makes the stream or exchange, when connected.
        flush: Waits until the server has the published messages, if `publish` does not.
        publish_batch: Publishes several messages, where FastStream has a method for it.
    """

    broker: Any
    subscriber: Callable[[], Any]
    publish: Callable[[Any], Awaitable[Any]]
    prepare: Callable[[], Awaitable[Any]]
    flush: Callable[[], Awaitable[Any]]
    publish_batch: Callable[[Sequence[Any]], Awaitable[Any]] | None = None


def use_msgspec() -> None:
    """Let all brokers that are made from now on decode with msgspec."""
    from fast_depends.msgspec import MsgSpecSerializer

    _options["serializer"] = MsgSpecSerializer()


async def _nothing() -> None:
    """Prepare nothing."""


def nats(place: Place) -> Direct:
    from faststream.nats import NatsBroker

    subject = f"{place.tag}.{NAME}"
    broker: Any = NatsBroker(f"nats://{place.addr}", **_options)
    return Direct(
        broker,
        lambda: broker.subscriber(subject),
        lambda message: broker.publish(message, subject),
        _nothing,
        lambda: broker.connection.flush(),
    )


def jetstream(place: Place) -> Direct:
    from faststream.nats import JStream, NatsBroker

    subject = f"{place.tag}.{NAME}"
    stream = JStream(place.tag, declare=False)
    broker: Any = NatsBroker(f"nats://{place.addr}", **_options)

    async def prepare() -> None:
        await broker.connection.jetstream().add_stream(name=place.tag, subjects=[f"{place.tag}.>"])

    return Direct(
        broker,
        lambda: broker.subscriber(subject, stream=stream, durable="direct", **AFTER),
        lambda message: broker.publish(message, subject, stream=place.tag),
        prepare,
        _nothing,
    )


def rabbit(place: Place) -> Direct:
    from faststream.rabbit import (
        Channel,
        ExchangeType,
        QueueType,
        RabbitBroker,
        RabbitExchange,
        RabbitQueue,
    )

    broker: Any = RabbitBroker(
        f"amqp://guest:guest@{place.addr}/",
        default_channel=Channel(prefetch_count=PREFETCH),
        **_options,
    )
    exchange = RabbitExchange(place.tag, type=ExchangeType.TOPIC, durable=True)
    queue = RabbitQueue(
        f"{place.tag}-direct", queue_type=QueueType.QUORUM, durable=True, routing_key=NAME
    )
    return Direct(
        broker,
        lambda: broker.subscriber(queue, exchange, **AFTER),
        lambda message: broker.publish(message, exchange=exchange, routing_key=NAME, persist=True),
        lambda: broker.declare_exchange(exchange),
        _nothing,
    )


def mqtt(place: Place) -> Direct:
    from faststream.mqtt import MQTTBroker, QoS

    broker: Any = MQTTBroker(f"mqtt://{place.addr}", **_options)
    topic, once = f"{place.tag}/{NAME.replace('.', '/')}", {"qos": QoS.AT_LEAST_ONCE}
    return Direct(
        broker,
        lambda: broker.subscriber(topic, **once, **AFTER),
        lambda message: broker.publish(message, topic, **once),
        _nothing,
        _nothing,
    )


def kafka(place: Place) -> Direct:
    from faststream.kafka import KafkaBroker

    topic = f"{place.tag}.{NAME}"
    return _kafka(KafkaBroker(place.addr, **_options), topic, topic)


def confluent(place: Place) -> Direct:
    from faststream.confluent import KafkaBroker, Topic

    topic = f"{place.tag}.{NAME}"
    # The mock cluster does not answer requests for a new topic; FastStream waits a minute for it.
    read = Topic(topic, declare=False)
    return _kafka(KafkaBroker(place.addr, **_options), topic, read)


def _kafka(broker: Any, topic: str, read: Any) -> Direct:
    group = {"group_id": "direct", "auto_offset_reset": "earliest"}

    async def publish_batch(messages: Sequence[Any]) -> None:
        # More of them overflow the producer's batch of 16 KiB.
        parts = [messages[n : n + MAX_BATCH] for n in range(0, len(messages), MAX_BATCH)]
        await asyncio.gather(*(broker.publish_batch(*part, topic=topic) for part in parts))

    return Direct(
        broker,
        lambda: broker.subscriber(read, **group, **AFTER),
        lambda message: broker.publish(message, topic),
        _nothing,
        _nothing,
        publish_batch,
    )


DIRECT: dict[str, Callable[[Place], Direct]] = {
    "nats": nats,
    "jetstream": jetstream,
    "rabbit": rabbit,
    "mqtt": mqtt,
    "kafka": kafka,
    "confluent": confluent,
}
