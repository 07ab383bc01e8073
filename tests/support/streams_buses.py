"""Buses on Redis Streams for tests, each with short pauses, and servers for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

import trio

from goevent import Backlog, Config, EventError, GoEvent, current_delivery
from goevent_redis import RedisConfig, RedisStreamsDriver, StreamsConfig
from goevent_redis._link.link import Link
from tests.support.limits import PROMPT_SECONDS
from tests.support.redis_buses import REGISTRY, Paid
from tests.support.redis_server import RedisServer, redis_server

STREAM = "goevent:stream:order.paid"
DURABLE_SERVER = ("appendonly yes", "appendfsync everysec")


class StreamsBus(GoEvent):
    """A bus on Redis Streams that keeps its reports."""

    def __init__(self, addr: str, group: str | None = "shop", **streams: Any) -> None:
        streams.setdefault("backoff", 0.02)
        driver = RedisStreamsDriver(
            RedisConfig(addr=addr, **streams.pop("config", {})),
            StreamsConfig(group=group, **streams),
        )
        super().__init__(Config(driver=driver, registry=REGISTRY, slow_after=None))
        self.told: list[EventError] = []
        self.on_error(self.told.append)

    @cached_property
    def driver(self) -> RedisStreamsDriver:
        """The driver."""
        driver = super().driver
        assert isinstance(driver, RedisStreamsDriver)
        return driver

    def says(self, text: str) -> int:
        """Return how many reports contain a text."""
        return sum(text in str(error) for error in self.told)

    def causes(self, kind: type[Exception]) -> list[Any]:
        """Return the reported exceptions of a class."""
        return [error.__cause__ for error in self.told if isinstance(error.__cause__, kind)]

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return the backlog of each name, as last seen."""
        return self.driver.snapshot().backlogs

    def reads(self) -> list[str]:
        """Return the names that the bus reads."""
        return [backlog.event_name for backlog in self.backlogs()]

    def seen(self, *events: str | type, **options: Any) -> list[Any]:
        """Register a listener, and return the list of the events that it gets."""
        arrived: list[Any] = []
        self.subscribe(arrived.append, *(events or (Paid,)), **options)
        return arrived

    def tries(self, *, fail: Callable[[Any], bool] = lambda _: False) -> list[tuple[int, int]]:
        """Register a listener, and return its runs as (n, deliveries); it fails as told."""
        arrived: list[tuple[int, int]] = []

        async def note(event: Paid) -> None:
            arrived.append((event.n, current_delivery().deliveries))
            if fail(event):
                raise ValueError(f"no {event.n}")

        self.subscribe(note, Paid)
        return arrived


@asynccontextmanager
async def streams_server(*config: str) -> AsyncGenerator[RedisServer]:
    """Run a server that keeps accepted events over a restart."""
    async with redis_server(*DURABLE_SERVER, *config) as server:
        yield server


@asynccontextmanager
async def command_client(server: RedisServer) -> AsyncGenerator[Callable[..., Any]]:
    """Give a function that sends commands to the server, even if the server is busy for long."""
    config = RedisConfig(addr=server.addr, read_timeout=30.0)
    async with Link(config, patience=10.0).open() as link:
        yield link.execute


async def pending(ask: Callable[..., Any], group: str = "shop", key: str = STREAM) -> int:
    """Return how many entries of a group are pending."""
    return int((await ask("XPENDING", key, group))[0])


async def until_settled(
    ask: Callable[..., Any], group: str = "shop", seconds: float = PROMPT_SECONDS
) -> None:
    """Wait until all entries of the stream are delivered and acknowledged."""
    with trio.fail_after(seconds):
        while await unsettled_count(ask, STREAM, group):
            await trio.sleep(0.01)


async def unsettled_count(ask: Callable[..., Any], key: str, group: str = "shop") -> int:
    """Return how many entries are pending; 1 if none is, but some are not delivered yet."""
    newest = (await ask("XINFO", "STREAM", key))[b"last-generated-id"]
    for info in await ask("XINFO", "GROUPS", key):
        if info[b"name"].decode() == group:
            # The lag is of no use: a server that was restarted does not know it.
            return int(info[b"pending"]) or int(info[b"last-delivered-id"] != newest)
    return 1


async def publish(bus: GoEvent, *numbers: int) -> list[str]:
    """Dispatch events, wait until the server has them, and return their ids."""
    handles = [await bus.dispatch(Paid(n=n)) for n in numbers]
    for handle in handles:
        await handle.wait()
        handle.raise_errors()
    return [handle.receipt for handle in handles]
