"""Callers that are not Trio tasks: the link, the pool and the client name Trio and send nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from goevent_redis import Link, Pool, RedisClient, RedisConfig, RedisDriver, RedisStreamsDriver

NEEDS_TRIO = (
    "goevent_redis runs on Trio: start the program with `trio.run(main)` or "
    '`anyio.run(main, backend="trio")`; redis.asyncio is the client for asyncio'
)
# Nothing is connected: every call is refused before that.
CONFIG = RedisConfig(addr="localhost:1")


async def open_link() -> None:
    async with Link(CONFIG).open():
        pass


async def open_pool() -> None:
    async with Pool(CONFIG).open():
        pass


async def borrow() -> None:
    async with Pool(CONFIG).connection():
        pass


CALLS: dict[str, Callable[[], Awaitable[object]]] = {
    "Link.open": open_link,
    "Link.run": lambda: Link(CONFIG).run(),
    "Link.ready": lambda: Link(CONFIG).ready(),
    "Link.execute": lambda: Link(CONFIG).execute("GET", "k"),
    "Link.pipeline": lambda: Link(CONFIG).pipeline([("GET", "k")]),
    "Link.subscribe": lambda: Link(CONFIG).subscribe("SUBSCRIBE", "c"),
    "Link.drain": lambda: Link(CONFIG).drain(),
    "Pool.open": open_pool,
    "Pool.run": lambda: Pool(CONFIG).run(),
    "Pool.connection": borrow,
    "RedisClient.get": lambda: RedisClient(Link(CONFIG)).get("k"),
    "RedisClient.pipeline": lambda: RedisClient(Link(CONFIG)).pipeline([("GET", "k")]),
    "RedisClient.blpop": lambda: RedisClient(Link(CONFIG), Pool(CONFIG)).blpop(["k"], 1),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_entry_point_names_trio(call: Callable[[], Awaitable[object]]) -> None:
    async def main() -> None:
        await call()

    with pytest.raises(RuntimeError) as caught:
        asyncio.run(main())
    assert str(caught.value) == NEEDS_TRIO


@pytest.mark.parametrize("make", [RedisDriver, RedisStreamsDriver])
def test_the_drivers_name_trio(make: Callable[[RedisConfig], RedisDriver]) -> None:
    class NoInbox: ...

    async def main() -> None:
        await make(CONFIG).run(NoInbox())  # type: ignore[arg-type]

    with pytest.raises(RuntimeError) as caught:
        asyncio.run(main())
    assert str(caught.value) == NEEDS_TRIO
