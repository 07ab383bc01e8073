"""RedisClient: the commands of the redis package, with the results that its users expect."""

from __future__ import annotations

import datetime
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio
import trio
from redis import exceptions as redis_errors
from tests.support.limits import HANG_SECONDS
from tests.support.redis_server import RedisServer, redis_server

from goevent_redis._link.client import REFUSED_COMMANDS, RedisClient
from goevent_redis._link.config import RedisConfig
from goevent_redis._link.link import Link
from goevent_redis._link.pool import Pool

# RedisClient or redis.asyncio.Redis: the same calls; pyright knows only half of their types.
Client = Any


@asynccontextmanager
async def connected(**options: Any) -> AsyncGenerator[tuple[RedisServer, Client]]:
    async with redis_server() as server:
        config = RedisConfig(addr=server.addr, db=2)
        async with Link(config).open() as link, Pool(config).open() as pool:
            yield server, RedisClient(link, pool, **options)


async def strings(client: Client) -> list[Any]:
    return [
        await client.set("k", "v"),
        await client.get("k"),
        await client.set("k", "w", nx=True),
        await client.set("k", "w", get=True),
        await client.set("t", 1, ex=datetime.timedelta(seconds=100)),
        await client.ttl("t"),
        await client.mset({"a": 1, "b": 2.5}),
        await client.mget("a", "b", "none"),
        await client.incrby("a", 5),
        await client.incrbyfloat("b", 0.5),
        await client.append("k", b"\xc3\xa4"),
        await client.getrange("k", 0, 0),
        await client.strlen("k"),
        await client.setbit("bits", 7, 1),
        await client.bitcount("bits"),
        await client.getdel("k"),
        await client.execute_command("SETEX", "s", 10, "x"),
        await client.execute_command("psetex", "s", 10_000, "x"),
    ]


async def keys(client: Client) -> list[Any]:
    await client.mset({"a": 1, "b": 2})
    return [
        await client.exists("a", "b", "c"),
        await client.delete("a"),
        await client.expire("b", 100),
        await client.persist("b"),
        await client.type("b"),
        await client.rename("b", "c"),
        await client.renamenx("c", "d"),
        sorted(await client.keys("*")),
        sorted([key async for key in client.scan_iter(count=2)]),
        (await client.scan(0))[0],
        await client.copy("d", "e"),
        await client.object("encoding", "d"),
        await client.unlink("d", "e"),
        await client.dbsize(),
        await client.randomkey(),
    ]


async def hashes(client: Client) -> list[Any]:
    return [
        await client.hset("h", mapping={"a": 1, "b": "x"}),
        await client.hget("h", "a"),
        await client.hgetall("h"),
        await client.hmget("h", "a", "none"),
        await client.hincrby("h", "a", 2),
        await client.hincrbyfloat("h", "a", 1.5),
        await client.hexists("h", "a"),
        await client.hkeys("h"),
        await client.hvals("h"),
        await client.hlen("h"),
        await client.hsetnx("h", "a", 1),
        await client.hscan("h"),
        sorted([item async for item in client.hscan_iter("h")]),
        len(await client.hrandfield("h", 2, True)),
        await client.hdel("h", "a", "none"),
    ]


async def lists(client: Client) -> list[Any]:
    return [
        await client.rpush("l", 1, 2, 3),
        await client.lpush("l", 0),
        await client.lrange("l", 0, -1),
        await client.lpop("l"),
        await client.lpop("l", 2),
        await client.llen("l"),
        await client.lset("l", 0, "x"),
        await client.linsert("l", "BEFORE", "x", "w"),
        await client.lindex("l", 0),
        await client.lpos("l", "x"),
        await client.lmove("l", "m", "LEFT", "RIGHT"),
        await client.ltrim("l", 0, 0),
        await client.rpop("none"),
        await client.sort("l", alpha=True),
    ]


async def sets(client: Client) -> list[Any]:
    return [
        await client.sadd("s", "a", "b"),
        await client.sadd("u", "b", "c"),
        sorted(await client.smembers("s")),
        type(await client.smembers("s")).__name__,
        await client.sismember("s", "a"),
        await client.smismember("s", "a", "z"),
        sorted(await client.sinter("s", "u")),
        sorted(await client.sunion("s", "u")),
        await client.scard("s"),
        await client.smove("s", "u", "a"),
        await client.srem("s", "b"),
        sorted([item async for item in client.sscan_iter("u")]),
    ]


async def sorted_sets(client: Client) -> list[Any]:
    return [
        await client.zadd("z", {"a": 1, "b": 2.5, "c": 3}),
        await client.zadd("z", {"a": 1}, incr=True),
        await client.zrange("z", 0, -1),
        await client.zrange("z", 0, -1, withscores=True),
        await client.zrevrange("z", 0, 0, withscores=True),
        await client.zrangebyscore("z", "-inf", "(3", withscores=True),
        await client.zscore("z", "a"),
        await client.zscore("z", "none"),
        await client.zmscore("z", ["a", "none"]),
        await client.zrank("z", "b"),
        await client.zincrby("z", 2, "a"),
        await client.zpopmin("z"),
        await client.zpopmax("z", 1),
        await client.zcount("z", "-inf", "+inf"),
        await client.zscan("z"),
        await client.zrem("z", "a"),
    ]


async def streams(client: Client) -> list[Any]:
    await client.xadd("x", {"a": 1, "b": 2}, id="1-1")
    return [
        await client.xadd("x", {"c": 3}, id="1-2"),
        await client.xlen("x"),
        await client.xrange("x"),
        await client.xrevrange("x", count=1),
        await client.xread({"x": "0"}, count=1),
        await client.xread({"x": "1-2"}, block=10),
        await client.xgroup_create("x", "g", id="0"),
        await client.xreadgroup("g", "me", {"x": ">"}, count=1),
        await client.xpending("x", "g"),
        await client.xpending_range("x", "g", "-", "+", 10)
        and (await client.xpending_range("x", "g", "-", "+", 10))[0]["times_delivered"],
        await client.xack("x", "g", "1-1"),
        await client.xautoclaim("x", "g", "other", 0),
        await client.xclaim("x", "g", "other", 0, ["1-1"]),
        (await client.xinfo_stream("x"))["length"],
        [group["name"] for group in await client.xinfo_groups("x")],
        await client.xtrim("x", maxlen=1, approximate=False),
        await client.xdel("x", "1-2"),
    ]


async def scripts(client: Client) -> list[Any]:
    script = client.register_script("return {KEYS[1], ARGV[1]}")
    sha = await client.script_load("return 1")
    return [
        await client.eval("return redis.call('SET', KEYS[1], ARGV[1])", 1, "k", "v"),
        await client.evalsha(sha, 0),
        await client.script_exists(sha, "0" * 40),
        await script(keys=["a"], args=["b"]),
        await client.script_flush(),
        await script(keys=["a"], args=["b"]),
    ]


async def server(client: Client) -> list[Any]:
    info = await client.info("server")
    await client.config_set("maxmemory-policy", "noeviction")
    return [
        await client.ping(),
        await client.echo("hi"),
        type(info["redis_version"]).__name__,
        type(info["tcp_port"]).__name__,
        await client.config_get("maxmemory-policy"),
        type((await client.client_list())[0]["addr"]).__name__,
        type(await client.client_id()).__name__,
        await client.client_setname("me"),
        await client.client_getname(),
        await client.command_count() > 100,
        type(await client.time()).__name__,
        type(await client.lastsave()).__name__,
        await client.acl_whoami(),
        (await client.acl_getuser("default"))["enabled"],
        await client.memory_usage("none"),
        (await client.slowlog_get()) is not None,
        await client.flushdb(),
    ]


async def others(client: Client) -> list[Any]:
    return [
        await client.geoadd("geo", (13.361389, 38.115556, "Palermo")),
        [round(part, 3) for part in (await client.geopos("geo", "Palermo"))[0]],
        await client.geosearch("geo", member="Palermo", radius=10, unit="km"),
        await client.pfadd("hll", "a", "b"),
        await client.pfcount("hll"),
        await client.publish("nobody", "hears"),
        await client.pubsub_channels(),
        await client.pubsub_numsub("a"),
        await client.pubsub_numpat(),
        await client.wait(0, 10),
    ]


async def blocking(client: Client) -> list[Any]:
    await client.rpush("l", "a", "b", "c", "d")
    await client.zadd("z", {"a": 1, "b": 2})
    return [
        await client.blpop("l", timeout=1),
        await client.brpop(["none", "l"], timeout=1),
        await client.blmove("l", "m", 1),
        await client.brpoplpush("l", "m", timeout=1),
        await client.blpop("l", timeout=0.01),
        await client.bzpopmin("z", timeout=1),
        await client.bzpopmax("z", timeout=1),
        await client.blmpop(0.01, 1, "m", direction="LEFT"),
    ]


KINDS = [
    *(strings, keys, hashes, lists, sets, sorted_sets, streams, scripts, server, others),
    blocking,
]


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_results_are_those_of_redis_asyncio(
    kind: Callable[[Client], Awaitable[list[Any]]], decode: bool
) -> None:
    async with connected(decode_responses=decode) as (server, client):
        ours = await kind(client)

        async def ask() -> list[Any]:
            make: Client = redis.asyncio.Redis
            async with make(port=server.port, db=3, decode_responses=decode) as theirs:
                return await kind(theirs)

        assert ours == await trio.to_thread.run_sync(run_on_asyncio, ask)


def run_on_asyncio(ask: Callable[[], Any]) -> Any:
    import asyncio

    return asyncio.run(ask())


async def test_errors_are_those_of_the_redis_package() -> None:
    async with connected() as (_, client):
        await client.set("k", "v")
        with pytest.raises(redis_errors.ResponseError, match="WRONGTYPE"):
            await client.lpush("k", 1)
        with pytest.raises(redis_errors.NoScriptError):
            await client.evalsha("0" * 40, 0)
        for bad in (None, True, ["a"], object()):
            with pytest.raises(redis_errors.DataError):
                await client.set("k", bad)


@pytest.mark.parametrize("name", sorted(REFUSED_COMMANDS))
async def test_commands_that_change_the_shared_connection_are_refused(name: str) -> None:
    async with connected() as (_, client):
        for spelled in (name, name.lower(), name.encode()):
            with pytest.raises(redis_errors.RedisError, match=name):
                await client.execute_command(spelled, "a")
        with pytest.raises(redis_errors.RedisError, match="CLIENT REPLY"):
            await client.client_reply("OFF")
        assert await client.ping()


async def test_blocking_commands_do_not_delay_other_commands() -> None:
    async with connected() as (_, client), trio.open_nursery() as nursery:
        got: list[Any] = []

        async def pop() -> None:
            got.append(await client.blpop("list", timeout=30))

        nursery.start_soon(pop)
        for _ in range(10):
            assert await client.ping()
        await client.rpush("list", "a")
        with trio.fail_after(HANG_SECONDS):
            while not got:
                await client.ping()
        assert got == [(b"list", b"a")]


async def test_blocking_commands_need_the_pool() -> None:
    async with redis_server() as server:
        config = RedisConfig(addr=server.addr)
        async with Link(config).open() as link:
            client: Client = RedisClient(link)
            with pytest.raises(redis_errors.RedisError, match="pool"):
                await client.blpop("list")
            with pytest.raises(redis_errors.RedisError, match="pool"):
                await client.xread({"x": "$"}, block=0)
            with pytest.raises(redis_errors.RedisError, match="hold up"):
                await client.pipeline([("BLPOP", "list", 0)])
            assert await client.xread({"x": "0"}) == []


async def test_cancelled_blocking_command_loses_no_entry() -> None:
    async with connected() as (_, client):
        with trio.move_on_after(0.05):
            await client.blpop("list", timeout=0)
        await client.rpush("list", "a")
        assert await client.llen("list") == 1


async def test_pipelines_and_transactions() -> None:
    async with connected(decode_responses=True) as (_, client):
        assert await client.pipeline([("SET", "a", 1), ("GET", "a"), ("config get", "port")]) == [
            "OK",
            "1",
            {"port": (await client.config_get("port"))["port"]},
        ]
        replies = await client.pipeline([("INCR", "a"), ("LPUSH", "a", 1)], transaction=True)
        assert replies[0] == 2
        assert isinstance(replies[1], redis_errors.ResponseError)
        with pytest.raises(redis_errors.ExecAbortError):
            await client.pipeline([("INCR", "a"), ("NOSUCH",)], transaction=True)
        assert await client.get("a") == "2"
        with pytest.raises(redis_errors.RedisError, match="MULTI"):
            await client.pipeline([("MULTI",)])
        assert await client.pipeline([]) == []


async def test_response_callbacks_may_be_set() -> None:
    async with connected() as (_, client):

        def mine(reply: Any, **_: Any) -> Any:
            return "mine", reply

        client.set_response_callback("GET", mine)
        await client.set("k", bytearray(b"v"))
        assert await client.get("k") == ("mine", b"v")


async def test_dump_and_restore_are_never_decoded() -> None:
    async with connected(decode_responses=True) as (_, client):
        await client.set("k", "v")
        dumped = await client.dump("k")
        assert isinstance(dumped, bytes)
        assert await client.restore("copy", 0, dumped)
        assert await client.get("copy") == "v"
