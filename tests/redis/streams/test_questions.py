"""The questions of operators on Redis Streams: check, lag and tail, on real servers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Deep, OrderLost, Paid, User, until
from tests.support.redis_server import RedisServer, acl_user, redis_server
from tests.support.streams_buses import STREAM, StreamsBus, command_client, streams_server

from goevent import DriverError
from goevent.drivers import Finding, TailedEvent

LOGIN = {"username": "shop", "password": "secret-word"}
ALL = ("+@all", "~*", "&*")
EVERYTHING = ["order.paid", "order.*"]


async def take(channel: trio.abc.ReceiveChannel[TailedEvent], count: int) -> list[tuple[str, int]]:
    """Take events out of a tail, as names and numbers."""
    with trio.fail_after(HANG_SECONDS):
        events = [await channel.receive() for _ in range(count)]
    return [(each.event_name, json.loads(each.data)["event_data"].get("n")) for each in events]


@asynccontextmanager
async def restricted(*rules: str) -> AsyncGenerator[StreamsBus]:
    """Give an open bus of a user that has only some rights."""
    rule = acl_user(LOGIN["username"], LOGIN["password"], *rules)
    async with streams_server(rule) as server:
        bus = StreamsBus(server.addr, config=LOGIN)
        async with bus:
            yield bus


def texts(findings: Sequence[Finding], severity: str = "error") -> list[str]:
    return [each.text for each in findings if each.severity == severity]


# -- tail


async def test_a_tail_goes_on_behind_its_last_event_after_a_restart() -> None:
    async with streams_server() as server:
        watcher, sender = StreamsBus(server.addr, None), StreamsBus(server.addr, None)
        async with watcher, sender, watcher.driver.tail("order.*") as channel:
            await (await sender.dispatch(Paid(n=1))).wait()
            assert await take(channel, 1) == [("order.paid", 1)]
            server.kill()
            await server.restart()
            await (await sender.dispatch(Paid(n=2))).wait()
            await (await sender.dispatch(Paid(n=3))).wait()
            assert await take(channel, 2) == [("order.paid", 2), ("order.paid", 3)]


async def test_a_slow_reader_of_a_tail_misses_nothing() -> None:
    async with streams_server() as server:
        watcher, sender = StreamsBus(server.addr, None), StreamsBus(server.addr, None)
        async with watcher, sender, watcher.driver.tail("order.paid") as channel:
            await sender.dispatch_many([Paid(n=n) for n in range(5000)])
            await sender.wait()
            found = await take(channel, 5000)
    assert found == [("order.paid", n) for n in range(5000)]


async def test_a_tail_shows_names_and_partitions_that_appear_later() -> None:
    async with streams_server() as server:
        watcher = StreamsBus(server.addr, None)
        plain, parted = StreamsBus(server.addr, None), StreamsBus(server.addr, None, partitions=4)
        async with watcher, plain, parted:
            await (await plain.dispatch(Paid(n=1))).wait()
            async with (
                watcher.driver.tail("**") as channel,
                watcher.driver.tail("user.created") as exact,
            ):
                await (await plain.dispatch(Deep())).wait()
                await (await parted.dispatch(User())).wait()
                await (await plain.dispatch(Paid(n=2))).wait()
                names = sorted(name for name, _ in await take(channel, 3))
                assert names == ["order.item.added", "order.paid", "user.created"]
                assert [name for name, _ in await take(exact, 1)] == ["user.created"]
            # Now they are known, and a new tail begins at their ends.
            async with watcher.driver.tail("**") as channel:
                await (await parted.dispatch(User())).wait()
                assert [name for name, _ in await take(channel, 1)] == ["user.created"]


async def test_a_tail_shows_hostile_entries_as_bytes_and_goes_on() -> None:
    async with streams_server() as server, command_client(server) as ask:
        watcher = StreamsBus(server.addr, None)
        async with watcher, watcher.driver.tail("order.paid") as channel:
            await ask("XADD", STREAM, "*", "e", b"\xff\x00\x1b[2J")
            await ask("XADD", STREAM, "*", "other", "field")
            await ask("XADD", STREAM, "*", "e", bytes(5 << 20))
            await ask("XADD", STREAM, "18446744073709551615-1", "e", b"late")
            await ask("SADD", "goevent:names", b"\xff", "order paid", "**", "")
            with trio.fail_after(HANG_SECONDS):
                events = [await channel.receive() for _ in range(4)]
        data = [each.data for each in events]
        # An entry above the limit of events comes without its data, unless it woke the tail.
        assert data[:2] == [b"\xff\x00\x1b[2J", b""]
        assert data[2] in (b"", bytes(5 << 20))
        assert data[3] == b"late"
        assert events[3].time is None
        assert events[0].time is not None


async def test_a_tail_takes_nothing_from_a_group_and_changes_no_key() -> None:
    async with streams_server() as server, command_client(server) as ask:
        reader, sender = StreamsBus(server.addr), StreamsBus(server.addr, None)
        got = reader.seen()
        async with sender, reader:
            await (await sender.dispatch(Paid(n=0))).wait()
            await until(lambda: len(got) == 1)
            keys = sorted(await ask("KEYS", "*"))
            async with sender.driver.tail("order.paid") as channel:
                for n in (1, 2, 3):
                    await (await sender.dispatch(Paid(n=n))).wait()
                assert [n for _, n in await take(channel, 3)] == [1, 2, 3]
                await until(lambda: len(got) == 4)
            assert sorted(await ask("KEYS", "*")) == keys
            groups = await ask("XINFO", "GROUPS", STREAM)
            assert [group[b"name"] for group in groups] == [b"shop"]


async def test_a_tail_that_loses_its_rights_tells_its_reader() -> None:
    async with restricted(*ALL) as bus:
        await (await bus.dispatch(Paid(n=1))).wait()
        async with bus.driver.tail("order.paid") as channel:
            await bus.driver.client.execute_command("ACL", "SETUSER", "shop", "-xread")
            with trio.fail_after(HANG_SECONDS), pytest.raises(DriverError, match="xread") as error:
                await channel.receive()
        assert "secret-word" not in str(error.value)


async def test_a_tail_of_a_bus_that_is_not_open_is_refused() -> None:
    with pytest.raises(DriverError, match="open its bus first"):
        StreamsBus("localhost:1").driver.tail("**")


async def test_a_tail_of_many_names_finds_the_event_of_each() -> None:
    async with streams_server() as server, command_client(server) as ask:
        names = [f"many.n{n}" for n in range(3000)]
        parts = [names[at : at + 500] for at in range(0, len(names), 500)]

        async def add_to_each(entry_id: str, data: str) -> None:
            source = "for _, k in ipairs(KEYS) do redis.call('XADD', k, ARGV[1], 'e', ARGV[2]) end"
            for part in parts:
                keys = [f"goevent:stream:{each}" for each in part]
                await ask("EVAL", source, len(keys), *keys, entry_id, data)

        for part in parts:
            await ask("SADD", "goevent:names", *part)
        await add_to_each("1-1", "old")
        watcher = StreamsBus(server.addr, None)
        async with watcher, watcher.driver.tail("many.*") as channel:
            await add_to_each("*", "new")
            with trio.fail_after(HANG_SECONDS):
                events = [await channel.receive() for _ in names]
        assert sorted(each.event_name for each in events) == sorted(names)
        assert {each.data for each in events} == {b"new"}


# -- lag


async def test_the_lag_of_a_group_tells_what_waits_and_since_when() -> None:
    async with streams_server() as server, command_client(server) as ask:
        reader, sender = StreamsBus(server.addr), StreamsBus(server.addr, None)
        got = reader.seen(OrderLost, Paid)
        async with sender:
            async with reader:
                await (await sender.dispatch(Paid(n=0))).wait()
                await until(lambda: len(got) == 1)
            for n in range(3):
                await (await sender.dispatch(Paid(n=n))).wait()
            await ask("XREADGROUP", "GROUP", "shop", "dead", "COUNT", 1, "STREAMS", STREAM, ">")
            lost, paid = await sender.driver.lag("shop")
            assert await sender.driver.lag("unknown") == []
    # The group has subscribed to this one, and nobody has published it.
    assert (lost.event_name, lost.lag, lost.pending) == ("order.lost", 0, 0)
    assert (paid.event_name, paid.lag, paid.pending) == ("order.paid", 2, 1)
    assert paid.oldest_waiting is not None
    assert 0 <= paid.oldest_waiting <= paid.oldest_pending < HANG_SECONDS
    assert lost.oldest_waiting == 0.0


async def test_the_lag_counts_partitions_and_replayed_events() -> None:
    async with streams_server() as server:
        parted = StreamsBus(server.addr, partitions=4)
        got, sender = parted.seen(User), StreamsBus(server.addr, None, partitions=4)
        async with sender:
            async with parted:
                await (await sender.dispatch(User())).wait()
                await until(lambda: len(got) == 1)
            for _ in range(5):
                await (await sender.dispatch(User())).wait()
            asker = StreamsBus(server.addr, None)
            async with asker:
                (before,) = await asker.driver.lag("shop")
                assert await sender.driver.replay("user.created", "earliest", None, "shop") == 6
                (after,) = await asker.driver.lag("shop")
    assert (before.lag, after.lag) == (5, 11)


async def test_the_lag_of_ten_thousand_streams_takes_few_round_trips() -> None:
    async with streams_server() as server, command_client(server) as ask:
        names = [f"many.n{n}" for n in range(10_000)]
        for at in range(0, len(names), 500):
            part = names[at : at + 500]
            await ask("SADD", "goevent:names", *part)
            source = (
                "for _, k in ipairs(KEYS) do redis.call('XADD', k, '*', 'e', 'x') "
                "redis.call('XGROUP', 'CREATE', k, 'shop', '0') end"
            )
            await ask("EVAL", source, len(part), *(f"goevent:stream:{each}" for each in part))
        asker = StreamsBus(server.addr, None)
        async with asker:
            found = await asker.driver.lag("shop")
            stats = await ask("INFO", "commandstats")
            before = await asker.driver.lag("shop")
        assert len(found) == len(before) == 10_000
        assert {backlog.lag for backlog in found} == {1}
        # 200 scripts in one pipeline; a client that is served meanwhile waits for one of them.
        assert b"cmdstat_evalsha" in stats


async def test_a_running_consumer_knows_how_long_the_oldest_event_waits() -> None:
    async with streams_server() as server:
        bus, sender = StreamsBus(server.addr, prefetch=1), StreamsBus(server.addr, None)
        release = trio.Event()

        async def slow(event: Paid) -> None:
            await release.wait()

        bus.subscribe(slow, Paid)
        async with sender, bus:
            for n in range(3):
                await (await sender.dispatch(Paid(n=n))).wait()

            def waits() -> bool:
                return any(each.oldest_waiting for each in bus.backlogs())

            await until(waits, HANG_SECONDS)
            release.set()
            await until(lambda: not waits(), HANG_SECONDS)


# -- check


async def test_a_server_that_keeps_events_and_a_user_with_all_rights_have_no_findings() -> None:
    async with restricted(*ALL) as bus:
        assert await bus.driver.check(EVERYTHING) == []
        # The rehearsal has executed nothing.
        assert await bus.driver.client.execute_command("KEYS", "*") == []


async def test_settings_that_lose_events_are_warnings() -> None:
    memory = "maxmemory 100mb", "maxmemory-policy allkeys-lru"
    async with redis_server("appendonly no", *memory) as server:
        bus = StreamsBus(server.addr)
        async with bus:
            found = await bus.driver.check(EVERYTHING)
    assert texts(found) == []
    said = texts(found, "warning")
    assert len(said) == 2
    assert any("no append-only file" in text for text in said)
    assert any("allkeys-lru" in text for text in said)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (("-xadd",), ["publish 'order.paid' and 1 more", "XADD on goevent:stream:order.paid"]),
        (("-xreadgroup",), ["listen to 'order.paid'", "XREADGROUP"]),
        (("-xgroup|create",), ["listen to 'order.paid'", "XGROUP CREATE"]),
        (("-eval", "-evalsha"), ["listen to 'order.paid'", "EVAL"]),
        (("resetkeys", "~other:*"), ["publish 'order.paid'", "listen to 'order.paid'"]),
    ],
    ids=["publishing", "reading", "groups", "scripts", "keys"],
)
async def test_a_missing_right_is_an_error_that_names_it(
    rules: tuple[str, ...], said: list[str]
) -> None:
    # The user is restricted once the bus is open, so that it opens.
    async with restricted(*ALL) as bus:
        await bus.driver.client.execute_command("ACL", "SETUSER", "shop", *rules)
        found = " / ".join(texts(await bus.driver.check(EVERYTHING)))
    for words in said:
        assert words in found
    assert "ACL SETUSER" in found
    assert "secret-word" not in found


async def test_a_user_without_transactions_is_asked_for_by_dry_runs_or_not_at_all() -> None:
    async with restricted(*ALL) as bus:
        client = bus.driver.client
        await client.execute_command("ACL", "SETUSER", "shop", "-multi", "-xadd")
        found = await bus.driver.check(["order.paid"])
        assert all("XADD" in text for text in texts(found))
        assert len(found) == 2  # for events, and for dead letters
        await client.execute_command("ACL", "SETUSER", "shop", "-acl", "-config")
        assert await bus.driver.check(["order.paid"]) == []


async def test_a_server_that_takes_no_events_now_is_an_error() -> None:
    async with restricted(*ALL) as bus:
        client = bus.driver.client
        await client.execute_command("CONFIG", "SET", "min-replicas-to-write", "1")
        found = texts(await bus.driver.check(["order.paid"]))
    assert any("NOREPLICAS" in text for text in found)


async def test_another_number_of_partitions_is_an_error() -> None:
    async with streams_server() as server:
        parted, plain = StreamsBus(server.addr, partitions=4), StreamsBus(server.addr)
        async with parted, plain:
            await (await parted.dispatch(User())).wait()
            await (await plain.dispatch(Paid())).wait()
            (one,) = await plain.driver.check(["user.created", "order.paid"])
            (other,) = await parted.driver.check(["user.created", "order.paid"])
    assert "'user.created' is kept in 4 partitions" in one.text
    assert "'order.paid' is kept in a single stream" in other.text


async def test_a_bus_without_a_group_needs_no_right_to_listen() -> None:
    rights = ("+@connection", "+info", "+xadd", "+sadd", "+multi", "+discard", "~goevent:*")
    direct = ("+ssubscribe", "+sunsubscribe", "+spublish", "&goevent:$direct.*")
    rule = acl_user(LOGIN["username"], LOGIN["password"], *rights, *direct)
    async with streams_server(rule) as server:
        bus = StreamsBus(server.addr, None, config=LOGIN)
        async with bus:
            assert await bus.driver.check(["order.paid"]) == []


async def test_questions_without_a_connection_are_driver_errors() -> None:
    server: RedisServer
    async with streams_server() as server:
        bus = StreamsBus(server.addr)
        async with bus:
            server.kill()
            for question in (bus.driver.check(EVERYTHING), bus.driver.lag("shop")):
                with pytest.raises(DriverError, match="Redis: "):
                    await question
            with pytest.raises(DriverError, match="Redis: "):
                async with bus.driver.tail("**"):
                    pytest.fail("the tail has begun")
            await server.restart()
