"""A plain service of FastStream, in a process of its own, which knows nothing of goevent.

It says in JSON what it gets as `order.paid`, and answers each with an `order.lost`.
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


class Plain(NamedTuple):
    """One broker, as its users configure it.

    Attributes:
        subscriber: makes one for an event's name.
        publish: takes a message, an event's name, and the options of every broker.
        confirm: waits until the server has the subscription, if the start does not.
    """

    broker: Any
    subscriber: Callable[[str], Any]
    publish: Callable[..., Awaitable[Any]]
    confirm: Callable[[], Awaitable[None]] | None = None


def nats(url: str) -> Plain:
    broker: Any = NatsBroker(url, logger=None)

    def publish(message: object, name: str, **options: Any) -> Awaitable[Any]:
        published: Awaitable[Any] = broker.publish(message, f"goevent.{name}", **options)
        return published

    def subscriber(name: str) -> Any:
        return broker.subscriber(f"goevent.{name}")

    async def confirm() -> None:
        await broker.connection.flush()

    return Plain(broker, subscriber, publish, confirm)


def jetstream(url: str) -> Plain:
    broker: Any = NatsBroker(url, logger=None)
    stream = JStream("goevent-js", declare=False)

    def publish(message: object, name: str, **options: Any) -> Awaitable[Any]:
        published: Awaitable[Any] = broker.publish(
            message, f"goevent-js.{name}", stream=stream.name, **options
        )
        return published

    def subscriber(name: str) -> Any:
        return broker.subscriber(f"goevent-js.{name}", stream=stream, durable="plain")

    return Plain(broker, subscriber, publish)


def rabbit(url: str) -> Plain:
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

    return Plain(broker, subscriber, publish)


def mqtt(url: str) -> Plain:
    broker: Any = MQTTBroker(url, logger=None)

    def topic(name: str) -> str:
        return f"goevent/{name.replace('.', '/')}"

    def publish(message: object, name: str, **options: Any) -> Awaitable[Any]:
        published: Awaitable[Any] = broker.publish(message, topic(name), **options)
        return published

    def subscriber(name: str) -> Any:
        return broker.subscriber(topic(name))

    return Plain(broker, subscriber, publish)


def kafka(broker: Any) -> Plain:
    def publish(message: object, name: str, **options: Any) -> Awaitable[Any]:
        published: Awaitable[Any] = broker.publish(message, f"goevent.{name}", **options)
        return published

    def subscriber(name: str) -> Any:
        return broker.subscriber(f"goevent.{name}", group_id="plain", auto_offset_reset="earliest")

    return Plain(broker, subscriber, publish)


PLAIN: dict[str, Callable[[str], Plain]] = {
    "nats": nats,
    "jetstream": jetstream,
    "rabbit": rabbit,
    "mqtt": mqtt,
    "kafka": lambda url: kafka(KafkaBroker(url, logger=None)),
    # The cluster of the tests has no administrator, whom it would ask for topics that are there.
    "confluent": lambda url: kafka(
        confluent.KafkaBroker(url, allow_auto_create_topics=False, logger=None)
    ),
}


def say(**words: object) -> None:
    """Write a line, at once."""
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
