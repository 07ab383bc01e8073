"""A plain FastStream service, in a process of its own, which knows nothing of goevent.

It prints each `order.paid` that it gets as JSON, and answers it with an `order.lost`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NamedTuple

from faststream import Context, confluent
from faststream.kafka import KafkaBroker
from faststream.mqtt import MQTTBroker
from faststream.nats import JStream, NatsBroker
from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue
from pydantic import BaseModel


class Paid(BaseModel):
    n: int
    text: str = ""


class PlainBroker(NamedTuple):
    """One broker, as a plain service configures it.

    Attributes:
        subscriber: Returns a subscriber for an event name.
        publish: Publishes a message under an event name.
        confirm: Waits until the server has the subscription, if the broker's start does not.
    """

    broker: Any
    subscriber: Callable[[str], Any]
    publish: Callable[..., Awaitable[Any]]
    confirm: Callable[[], Awaitable[None]] | None = None


def nats(url: str) -> PlainBroker:
    broker: Any = NatsBroker(url, logger=None)

    def publish(message: object, name: str, **options: Any) -> Awaitable[Any]:
        published: Awaitable[Any] = broker.publish(message, f"goevent.{name}", **options)
        return published

    def subscriber(name: str) -> Any:
        return broker.subscriber(f"goevent.{name}")

    async def confirm() -> None:
        await broker.connection.flush()

    return PlainBroker(broker, subscriber, publish, confirm)


def jetstream(url: str) -> PlainBroker:
    broker: Any = NatsBroker(url, logger=None)
    stream = JStream("goevent-js", declare=False)

    def publish(message: object, name: str, **options: Any) -> Awaitable[Any]:
        published: Awaitable[Any] = broker.publish(
            message, f"goevent-js.{name}", stream=stream.name, **options
        )
        return published

    def subscriber(name: str) -> Any:
        return broker.subscriber(f"goevent-js.{name}", stream=stream, durable="plain")

    return PlainBroker(broker, subscriber, publish)


def rabbit(url: str) -> PlainBroker:
    server, _, stream = url.partition("?stream=")
    broker: Any = RabbitBroker(server, logger=None)
    exchange = RabbitExchange(stream, type=ExchangeType.TOPIC, durable=True)

    def publish(message: object, name: str, **options: Any) -> Awaitable[Any]:
        published: Awaitable[Any] = broker.publish(
            message, exchange=exchange, routing_key=name, **options
        )
        return published

    def subscriber(name: str) -> Any:
        queue = RabbitQueue(f"{stream}:plain", routing_key=name, auto_delete=True)
        return broker.subscriber(queue, exchange)

    return PlainBroker(broker, subscriber, publish)


def mqtt(url: str) -> PlainBroker:
    broker: Any = MQTTBroker(url, logger=None)

    def topic(name: str) -> str:
        return f"goevent/{name.replace('.', '/')}"

    def publish(message: object, name: str, **options: Any) -> Awaitable[Any]:
        published: Awaitable[Any] = broker.publish(message, topic(name), **options)
        return published

    def subscriber(name: str) -> Any:
        return broker.subscriber(topic(name))

    return PlainBroker(broker, subscriber, publish)


def kafka(broker: Any) -> PlainBroker:
    def publish(message: object, name: str, **options: Any) -> Awaitable[Any]:
        published: Awaitable[Any] = broker.publish(message, f"goevent.{name}", **options)
        return published

    def subscriber(name: str) -> Any:
        return broker.subscriber(f"goevent.{name}", group_id="plain", auto_offset_reset="earliest")

    return PlainBroker(broker, subscriber, publish)


PLAIN: dict[str, Callable[[str], PlainBroker]] = {
    "nats": nats,
    "jetstream": jetstream,
    "rabbit": rabbit,
    "mqtt": mqtt,
    "kafka": lambda url: kafka(KafkaBroker(url, logger=None)),
    # The mock of the cluster has no administrator, which the broker would ask for existing topics.
    "confluent": lambda url: kafka(
        confluent.KafkaBroker(url, allow_auto_create_topics=False, logger=None)
    ),
}


def say(**words: object) -> None:
    """Write a line and flush it."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


async def main(kind: str, url: str) -> None:
    plain = PLAIN[kind.partition(" ")[0]](url)

    async def work(event: Paid, message: Annotated[Any, Context("message")]) -> None:
        say(
            n=event.n,
            text=event.text,
            correlation_id=message.correlation_id,
            content_type=message.content_type,
            headers={key: str(value) for key, value in message.headers.items()},
        )
        await plain.publish(
            {"n": event.n + 100},
            "order.lost",
            headers={"tenant": "zürich"},
            correlation_id=f"answer-to-{message.correlation_id}",
        )

    plain.subscriber("order.paid")(work)
    async with plain.broker:
        await plain.broker.start()
        if plain.confirm is not None:
            await plain.confirm()
        say(ready=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
