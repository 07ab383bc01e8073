"""The pool: a limited number of connections, each for one task, and only usable ones."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
from redis import exceptions as redis_errors
from tests.support.limits import HANG_SECONDS
from tests.support.redis_server import RedisServer, fault_proxy, free_port, redis_server
from tests.support.steps import cancel_at_every_step
from trio.testing import wait_all_tasks_blocked

from goevent_redis._link import pool as _pool
from goevent_redis._link.config import RedisConfig
from goevent_redis._link.errors import ConnectRefused, LinkClosed, PoolTimeout, RedisLinkError
from goevent_redis._link.pool import Pool


def config_of(server: RedisServer, **fields: Any) -> RedisConfig:
    return RedisConfig(addr=server.addr, **fields)


async def test_connections_are_reused() -> None:
    async with redis_server() as server, Pool(config_of(server)).open() as pool:
        async with pool.connection() as first:
            assert await first.call("PING") == b"PONG"
            assert (pool.idle, pool.in_use) == (0, 1)
        assert (pool.idle, pool.in_use) == (1, 0)
        async with pool.connection() as second:
            assert second is first
        async with pool.connection() as one, pool.connection() as other:
            assert one is not other


async def test_pool_never_exceeds_its_size() -> None:
    async with redis_server() as server:
        pool = Pool(config_of(server, pool_size=3, min_idle_conns=2))
        counts: list[int] = []

        async def use() -> None:
            async with pool.connection() as connection:
                counts.append((await connection.call("CLIENT", "LIST")).count(b"\n"))

        async with pool.open(), trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(use)
        assert max(counts) == 3


async def test_borrowers_are_served_in_order() -> None:
    async with redis_server() as server:
        pool = Pool(config_of(server, pool_size=1))
        came: list[int] = []
        order: list[int] = []

        async def use(number: int) -> None:
            came.append(number)
            async with pool.connection() as connection:
                order.append(number)
                await connection.call("PING")

        async with pool.open(), trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(use, number)
        assert order == came


async def test_waiting_for_a_connection_ends_in_time() -> None:
    async with redis_server() as server:
        async with Pool(config_of(server, pool_size=1)).open() as pool, pool.connection():
            with pytest.raises(PoolTimeout):
                async with pool.connection(patience=0.01):
                    raise AssertionError("not reached")
            with trio.move_on_after(0.01) as scope:
                async with pool.connection():
                    raise AssertionError("not reached")
            assert scope.cancelled_caught
        assert (pool.idle, pool.in_use) == (0, 0)


async def test_cancelled_request_closes_its_connection() -> None:
    async with redis_server() as server, Pool(config_of(server)).open() as pool:
        with trio.move_on_after(0.01):
            async with pool.connection() as connection:
                await connection.call("BLPOP", "list", 0, timeout=60)
        assert (pool.idle, pool.in_use) == (0, 0)
        async with pool.connection() as connection:
            # No connection is left that could take it.
            await connection.call("RPUSH", "list", "a")
            assert await connection.call("BLPOP", "list", 1) == [b"list", b"a"]
        with pytest.raises(redis_errors.ResponseError):
            async with pool.connection() as connection:
                await connection.call("NOSUCH")
        assert (pool.idle, pool.in_use) == (1, 0)


async def test_connections_are_opened_in_advance() -> None:
    async with redis_server() as server:
        pool = Pool(config_of(server, pool_size=4, min_idle_conns=2))
        async with pool.open():
            assert pool.idle == 2
            with pytest.raises(RuntimeError, match="running"):
                await pool.run()
            async with pool.connection(), pool.connection(), pool.connection():
                with trio.fail_after(HANG_SECONDS):
                    while pool.idle + pool.in_use < 4:
                        await trio.sleep(0.001)
                await wait_all_tasks_blocked(0.01)
                assert (pool.idle, pool.in_use) == (1, 3)
            assert pool.idle == 4
        assert (pool.idle, pool.in_use) == (0, 0)


async def test_opening_in_advance_fails_with_its_own_error() -> None:
    pool = Pool(RedisConfig(addr=f"127.0.0.1:{free_port()}", min_idle_conns=1))
    with pytest.raises(ConnectRefused):
        async with pool.open():
            raise AssertionError("not reached")
    with pytest.raises(LinkClosed):
        async with pool.connection():
            raise AssertionError("not reached")


async def test_opening_in_advance_continues_after_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_pool, "REFILL_PAUSE_SECONDS", 0.01)
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        pool = Pool(RedisConfig(addr=proxy.addr, min_idle_conns=1))
        async with pool.open():
            proxy.refuse()
            proxy.reset()
            with pytest.raises(RedisLinkError):
                async with pool.connection():
                    raise AssertionError("not reached")
            assert (pool.idle, pool.in_use) == (0, 0)
            await proxy.accept()
            with trio.fail_after(HANG_SECONDS):
                while not pool.idle:
                    await trio.sleep(0.001)


async def test_dead_connections_are_not_lent() -> None:
    async with redis_server() as server, Pool(config_of(server)).open() as pool:
        async with pool.connection(), pool.connection():
            pass
        assert pool.idle == 2
        await server.restart()
        async with pool.connection() as connection:
            assert await connection.call("PING") == b"PONG"
            assert (pool.idle, pool.in_use) == (0, 1)


async def test_long_idle_connections_must_answer_a_ping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_pool, "PING_AFTER_IDLE_SECONDS", 0.0)
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        pool = Pool(RedisConfig(addr=proxy.addr, read_timeout=0.05))
        async with pool.open():
            async with pool.connection() as first:
                pass
            async with pool.connection() as again:
                assert again is first
            proxy.swallow()

            async def help_later() -> None:
                await trio.sleep(0.1)
                proxy.pass_on()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(help_later)
                async with pool.connection() as other:
                    assert other is not first
                    assert await other.call("PING") == b"PONG"


async def test_connection_returned_after_the_end_is_closed() -> None:
    async with redis_server() as server:
        pool = Pool(config_of(server))
        async with pool.open():
            taken = pool.connection()
            connection = await taken.__aenter__()
        await taken.__aexit__(None, None, None)
        assert not connection.usable
        assert (pool.idle, pool.in_use) == (0, 0)


async def scenario(server: RedisServer) -> None:
    pool = Pool(config_of(server, pool_size=3, min_idle_conns=2))

    async def use() -> None:
        async with pool.connection() as connection:
            await connection.call("PING")

    async with pool.open(), trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(use)


async def test_cancelled_at_any_step_it_leaves_nothing_behind() -> None:
    async with redis_server() as server:
        assert await cancel_at_every_step(partial(scenario, server)) > 30
