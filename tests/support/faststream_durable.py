"""The durable brokers of FastStream: a line for each, for tests that run on all of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from tests.support.nats_server import nats_server
from tests.support.rabbit_server import rabbit_sandbox


@asynccontextmanager
async def jetstream() -> AsyncGenerator[str]:
    async with nats_server() as server:
        yield f"nats+js://{server.addr}?backoff=0.02&claim_idle=1&max_deliveries=2"


@asynccontextmanager
async def rabbit_queues() -> AsyncGenerator[str]:
    async with rabbit_sandbox("shop", "mail") as sandbox:
        yield sandbox.url(max_deliveries=2)


DURABLE: dict[str, Callable[[], AbstractAsyncContextManager[str]]] = {
    "jetstream": jetstream,
    "rabbit": rabbit_queues,
}
"""Each runs a broker and yields a URL; tests append options to it."""

# The brokers that can show their dead letters.
SHOWS_DEAD_LETTERS = ("jetstream",)
