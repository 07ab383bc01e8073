"""The RabbitMQ of this machine, which others use, too: names of one's own, deleted in the end."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiormq
import trio

from goevent_faststream._rabbit.names import RabbitNames
from tests.support.brokers import missing
from tests.support.faststream_buses import FastStreamBus

T = TypeVar("T")

URL = os.environ.get("GOEVENT_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672")


def rabbit_port() -> int:
    """Return the port of the server."""
    at = urlsplit(URL)
    port = at.port or 5672
    try:
        socket.create_connection((at.hostname or "127.0.0.1", port), timeout=5).close()
    except OSError:
        missing(f"no RabbitMQ answers at port {port}")
    return port


@dataclass
class Rabbit:
    """A place for one test.

    Attributes:
        exchange: what its exchange is called, and all other names begin with.
    """

    port: int
    exchange: str = field(default_factory=lambda: f"goevent-test-{uuid.uuid4().hex[:12]}")

    def url(self, group: str | None = None, **options: object) -> str:
        """Return the URL of a bus here."""
        said: dict[str, object] = {"stream": self.exchange, "backoff": 0.02, **options}
        if group is not None:
            said["group"] = group
        port = said.pop("port", self.port)
        query = "&".join(f"{name}={value}" for name, value in said.items())
        return f"amqp://guest:guest@127.0.0.1:{port}/?{query}"

    def bus(self, group: str | None = "shop", **options: object) -> FastStreamBus:
        """Return a bus here."""
        return FastStreamBus(self.url(group, **options))

    def queue(self, name: str = "order.paid", group: str = "shop") -> str:
        """Return the name of a queue."""
        return f"{self.exchange}:{group}:{name}"

    async def letters(self, queue: str) -> list[Any]:
        """Take all that is ready in a queue."""

        async def take(channel: Any) -> list[Any]:
            taken: list[Any] = []
            while (message := await channel.basic_get(queue, no_ack=True)).delivery_tag:
                taken.append(message)
            return taken

        return await asked(self.port, take)

    async def publish(self, body: bytes, key: str = "order.paid") -> None:
        """Publish a body."""

        async def publish(channel: Any) -> None:
            await channel.basic_publish(body, exchange=self.exchange, routing_key=key)

        await asked(self.port, publish)


async def asked(port: int, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Return what a coroutine makes of a channel of its own, on a loop of its own."""

    async def ask() -> T:
        connection = await aiormq.connect(f"amqp://guest:guest@127.0.0.1:{port}/")
        try:
            return await work(await connection.channel())
        finally:
            await connection.close()

    return await trio.to_thread.run_sync(lambda: asyncio.run(ask()))


@asynccontextmanager
async def rabbit(*groups: str) -> AsyncGenerator[Rabbit]:
    """Give a test a place, and remove it in the end.

    Args:
        groups: the groups that listen there, if not "shop".
    """
    place = Rabbit(rabbit_port())
    try:
        yield place
    finally:
        with trio.CancelScope(shield=True):
            await removed(place.port, place.exchange, groups or ("shop",))


NAMES = ("order.paid", "order.lost", "order.item.added", "user.created")


async def removed(
    port: int, exchange: str, groups: tuple[str, ...], names: tuple[str, ...] = NAMES
) -> None:
    """Delete the exchanges and queues of an exchange."""

    async def delete(channel: Any) -> None:
        for group in groups:
            called = RabbitNames(exchange, f"{exchange}:{group}")
            queues = [called.queue(name) for name in names]
            for queue in (*queues, called.patterns, called.dead_letter_queue):
                await channel.queue_delete(queue)
            for each in (called.exact_exchange, called.patterns, called.dead_letter_exchange):
                await channel.exchange_delete(each)
        await channel.exchange_delete(exchange)

    with suppress(OSError):
        await asked(port, delete)
