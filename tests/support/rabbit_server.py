"""The RabbitMQ server at the default port: it is shared, so each test uses names of its own."""

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
class RabbitSandbox:
    """Names on the shared server for one test.

    Attributes:
        exchange: The name of the exchange, with which all other names begin.
    """

    port: int
    exchange: str = field(default_factory=lambda: f"goevent-test-{uuid.uuid4().hex[:12]}")

    def url(self, group: str | None = None, **options: object) -> str:
        """Return the URL for a bus."""
        query_options: dict[str, object] = {"stream": self.exchange, "backoff": 0.02, **options}
        if group is not None:
            query_options["group"] = group
        port = query_options.pop("port", self.port)
        query = "&".join(f"{name}={value}" for name, value in query_options.items())
        return f"amqp://guest:guest@127.0.0.1:{port}/?{query}"

    def bus(self, group: str | None = "shop", **options: object) -> FastStreamBus:
        """Return a bus in this sandbox."""
        return FastStreamBus(self.url(group, **options))

    def queue(self, name: str = "order.paid", group: str = "shop") -> str:
        """Return the name of a queue in RabbitMQ."""
        return f"{self.exchange}:{group}:{name}"

    async def take_messages(self, queue: str) -> list[Any]:
        """Take all messages that are ready in a queue."""

        async def take(channel: Any) -> list[Any]:
            taken: list[Any] = []
            while (message := await channel.basic_get(queue, no_ack=True)).delivery_tag:
                taken.append(message)
            return taken

        return await with_channel(self.port, take)

    async def publish(self, body: bytes, key: str = "order.paid") -> None:
        """Publish a message with this body."""

        async def publish(channel: Any) -> None:
            await channel.basic_publish(body, exchange=self.exchange, routing_key=key)

        await with_channel(self.port, publish)


async def with_channel(port: int, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Call a coroutine function with a channel, on an asyncio loop; return its result."""

    async def connect_and_work() -> T:
        connection = await aiormq.connect(f"amqp://guest:guest@127.0.0.1:{port}/")
        try:
            return await work(await connection.channel())
        finally:
            await connection.close()

    return await trio.to_thread.run_sync(lambda: asyncio.run(connect_and_work()))


@asynccontextmanager
async def rabbit_sandbox(*groups: str) -> AsyncGenerator[RabbitSandbox]:
    """Yield a sandbox, and delete its exchanges and queues afterwards.

    Args:
        groups: The groups that listen in it; "shop" by default.
    """
    sandbox = RabbitSandbox(rabbit_port())
    try:
        yield sandbox
    finally:
        with trio.CancelScope(shield=True):
            await delete_topology(sandbox.port, sandbox.exchange, groups or ("shop",))


EVENT_NAMES = ("order.paid", "order.lost", "order.item.added", "user.created")


async def delete_topology(
    port: int, exchange: str, groups: tuple[str, ...], names: tuple[str, ...] = EVENT_NAMES
) -> None:
    """Delete an exchange, and the exchanges and queues of its groups."""

    async def delete(channel: Any) -> None:
        for group in groups:
            group_names = RabbitNames(exchange, f"{exchange}:{group}")
            queues = [group_names.queue(name) for name in names]
            for queue in (*queues, group_names.patterns, group_names.dead_letter_queue):
                await channel.queue_delete(queue)
            for each in (
                group_names.exact_exchange,
                group_names.patterns,
                group_names.dead_letter_exchange,
            ):
                await channel.exchange_delete(each)
        await channel.exchange_delete(exchange)

    with suppress(OSError):
        await with_channel(port, delete)
