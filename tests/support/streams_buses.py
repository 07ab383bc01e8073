"""Buses on Redis Streams, for tests: with a server of their own, and short patience."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from goevent import Backlog, Config, EventError, GoEvent, current_delivery
from goevent_redis import RedisConfig, RedisStreamsDriver, StreamsConfig
from goevent_redis._link.link import Link
from tests.support.redis_buses import REGISTRY, Paid
from tests.support.redis_server import RedisServer, redis_server

STREAM = "goevent:stream:order.paid"
KEPT = ("appendonly yes", "appendfsync everysec")


class StreamsBus(GoEvent):
    """A bus on Redis Streams that keeps what was reported to it."""

    def __init__(self, addr: str, group: str | None = "shop", **streams: Any) -> None:
        streams.setdefault("backoff", 0.02)
        self.driver = RedisStreamsDriver(
            RedisConfig(addr=addr, **streams.pop("config", {})),
            StreamsConfig(group=group, **streams),
        )
        super().__init__(Config(driver=self.driver, registry=REGISTRY, slow_after=None))
        self.told: list[EventError] = []
        self.on_error(self.told.append)

    def says(self, text: str) -> int:
        """Return how many reports hold a text."""
        return sum(text in str(error) for error in self.told)

    def causes(self, kind: type[Exception]) -> list[Any]:
        """Return the reported exceptions of a class."""
        return [error.__cause__ for error in self.told if isinstance(error.__cause__, kind)]

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return what the group has to do."""
        return self.driver.snapshot().backlogs

    def reads(self) -> list[str]:
        """Return the names that it reads."""
        return [backlog.event_name for backlog in self.backlogs()]

    def seen(self, *events: str | type, **options: Any) -> list[Any]:
        """Listen, and return the list to which every event comes."""
        arrived: list[Any] = []
        self.subscribe(arrived.append, *(events or (Paid,)), **options)
        return arrived

    def tries(self, *, fail: Callable[[Any], bool] = lambda _: False) -> list[tuple[int, int]]:
        """Listen, and return a list to which (n, deliveries) come; fail where told."""
        arrived: list[tuple[int, int]] = []

        async def note(event: Paid) -> None:
            arrived.append((event.n, current_delivery().deliveries))
            if fail(event):
                raise ValueError(f"no {event.n}")

        self.subscribe(note, Paid)
        return arrived


@asynccontextmanager
async def streams_server(*config: str) -> AsyncGenerator[RedisServer]:
    """Run a server that keeps what it has accepted."""
    async with redis_server(*KEPT, *config) as server:
        yield server


@asynccontextmanager
async def asking(server: RedisServer) -> AsyncGenerator[Callable[..., Any]]:
    """Return a function that sends a command to the server, also to one that is busy for long."""
    config = RedisConfig(addr=server.addr, read_timeout=30.0)
    async with Link(config, patience=10.0).open() as link:
        yield link.execute


async def pending(ask: Callable[..., Any], group: str = "shop", key: str = STREAM) -> int:
    """Return how many entries of a group are pending."""
    return int((await ask("XPENDING", key, group))[0])


async def quiet(ask: Callable[..., Any], group: str = "shop", seconds: float = 10.0) -> None:
    """Wait until everything of the stream is handed out and acknowledged."""
    with trio.fail_after(seconds):
        while await left(ask, STREAM, group):
            await trio.sleep(0.01)


async def left(ask: Callable[..., Any], key: str, group: str = "shop") -> int:
    """Return how much of a stream is pending; 1 if there is more that was not handed out."""
    newest = (await ask("XINFO", "STREAM", key))[b"last-generated-id"]
    for info in await ask("XINFO", "GROUPS", key):
        if info[b"name"].decode() == group:
            # Not the lag: a server that was restarted does not know it.
            return int(info[b"pending"]) or int(info[b"last-delivered-id"] != newest)
    return 1


async def publish(bus: GoEvent, *numbers: int) -> list[str]:
    """Dispatch events, wait until the server has them, and return their ids."""
    handles = [await bus.dispatch(Paid(n=n)) for n in numbers]
    for handle in handles:
        await handle.wait()
        handle.raise_errors()
    return [handle.receipt for handle in handles]
