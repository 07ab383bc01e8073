"""Servers that are no single master: the drivers say so when they connect."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Bus, Paid, until
from tests.support.redis_server import RedisServer, acl_user, free_port, redis_server
from tests.support.streams_buses import StreamsBus, command_client, publish

from goevent import DriverConnectionError, DriverError, GoEvent
from goevent_redis import Link, RedisConfig, RedisDriver, WrongServer


@asynccontextmanager
async def wrong_server(kind: str) -> AsyncGenerator[RedisServer]:
    """Run a node of a cluster, a replica or a sentinel while the body runs."""
    if kind == "cluster":
        async with redis_server("cluster-enabled yes") as server:
            yield server
    elif kind == "replica":
        async with (
            redis_server() as master,
            redis_server() as server,
            command_client(server) as ask,
        ):
            await ask("REPLICAOF", "127.0.0.1", master.port)
            yield server
    else:
        async with redis_server() as master, sentinel_of(master) as server:
            yield server


@asynccontextmanager
async def sentinel_of(master: RedisServer) -> AsyncGenerator[RedisServer]:
    """Run a sentinel that watches a master."""
    sentinel = RedisServer((f"sentinel monitor shop 127.0.0.1 {master.port} 1",), is_sentinel=True)
    try:
        await sentinel.start()
        yield sentinel
    finally:
        sentinel.remove()


KINDS = {"cluster": "node of a Redis Cluster", "replica": "is a replica", "sentinel": "a sentinel"}


@pytest.mark.parametrize("scheme", ["redis", "redis+streams"])
@pytest.mark.parametrize("query", ["", "?group=shop", "?db=3"])
@pytest.mark.parametrize("kind", KINDS)
async def test_server_that_is_no_single_master_is_named_at_opening(
    kind: str, scheme: str, query: str
) -> None:
    if scheme == "redis" and "group" in query:
        query = ""
    async with wrong_server(kind) as server:
        bus = GoEvent(f"{scheme}://{server.addr}{query}")
        with pytest.raises(DriverError, match=KINDS[kind]) as caught:
            async with bus:
                pass
        assert isinstance(caught.value.__cause__, WrongServer)
        assert server.addr in str(caught.value)
        assert "address of" in str(caught.value)


async def test_link_itself_reads_from_a_replica() -> None:
    async with (
        wrong_server("replica") as server,
        Link(RedisConfig(addr=server.addr)).open() as link,
    ):
        assert await link.execute("PING") == b"PONG"


async def test_pub_sub_leaves_a_master_that_becomes_a_replica(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("goevent_redis._pubsub.driver.MASTER_CHECK_SECONDS", 0.05)
    async with redis_server() as server, command_client(server) as ask:
        bus = Bus(RedisDriver(RedisConfig(addr=server.addr)))
        async with bus:
            await ask("REPLICAOF", "127.0.0.1", free_port())
            await until(lambda: bus.says("there is no connection to Redis"))
            assert not bus.driver.snapshot().connected
            await trio.sleep(0.3)
            reports = [e for e in bus.causes(DriverConnectionError) if "is a replica" in str(e)]
            # The loss, and once that there is no other server.
            assert len(reports) == 2
            await ask("REPLICAOF", "NO", "ONE")
            await until(lambda: bus.says("connected to Redis again"))
            with trio.fail_after(HANG_SECONDS):
                await (await bus.dispatch(Paid(n=1))).wait()


async def test_streams_refuse_a_master_that_becomes_a_replica_until_it_is_one_again() -> None:
    async with redis_server("appendonly yes") as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, publish_timeout=0.3)
        seen = bus.seen()
        async with bus:
            await publish(bus, 1)
            await ask("REPLICAOF", "127.0.0.1", free_port())
            handle = await bus.dispatch(Paid(n=2))
            await handle.wait()
            (error,) = handle.errors
            assert isinstance(error.error, DriverError)
            await until(lambda: bus.says("is a replica"))
            await ask("REPLICAOF", "NO", "ONE")
            await until(lambda: bus.driver.snapshot().connected)
            await publish(bus, 3)
            await until(lambda: {1, 3} <= {event.n for event in seen})


async def test_user_who_may_not_ask_keeps_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goevent_redis._pubsub.driver.MASTER_CHECK_SECONDS", 0.02)
    rules = acl_user("app", "pw", "~*", "&*", "+@all")
    async with redis_server(rules) as server, command_client(server) as ask:
        bus = Bus(RedisDriver(RedisConfig(addr=server.addr, username="app", password="pw")))
        async with bus:
            await ask("ACL", "SETUSER", "app", "-hello")
            await trio.sleep(0.2)
            assert bus.driver.snapshot().connected
            assert not bus.told
