"""The addresses that a bus on Redis opens by itself, and conversations over them."""

from __future__ import annotations

from typing import Any

import pytest
import redis
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Bus, Paid, bus_on, until
from tests.support.redis_server import acl_user, redis_server
from tests.support.streams_buses import StreamsBus

from goevent import DriverError


def shard_channels(client: Any) -> int:
    return len(client.pubsub_shardchannels())


async def test_a_bus_on_pubsub_opens_its_address_with_the_first_conversation() -> None:
    async with redis_server() as server:
        client: Any = redis.Redis(port=server.port)
        asking, other = bus_on(server), bus_on(server)
        release = trio.Event()

        async def wait(event: Paid) -> None:
            await release.wait()

        # The server counts this bus twice, for the name and for the pattern.
        other.subscribe(wait, Paid)
        got = other.seen("order.*")
        async with other, asking:
            await (await asking.dispatch(Paid(n=1))).wait()
            await until(lambda: got)
            assert shard_channels(client) == 0
            handle = await asking.dispatch(Paid(n=2), scope="all")
            assert shard_channels(client) >= 1
            # The other bus needs one to hear whether the first one still waits.
            await until(lambda: shard_channels(client) == 2, HANG_SECONDS)
            release.set()
            with trio.fail_after(HANG_SECONDS):
                await handle.wait(scope="all")
            assert handle.outcome.complete
        client.close()


async def test_a_user_without_the_rights_has_all_but_conversations() -> None:
    rights = ("+@all", "-ssubscribe", "-spublish", "~*", "&*")
    async with redis_server(acl_user("shop", "pw", *rights)) as server:
        login = {"username": "shop", "password": "pw"}
        buses: list[Bus | StreamsBus] = [
            bus_on(server, **login),
            StreamsBus(server.addr, config=login),
        ]
        for bus in buses:
            got = bus.seen(Paid)
            async with bus:
                await (await bus.dispatch(Paid(n=1))).wait()
                await until(got.__len__)
                assert bus.told == []
                with pytest.raises(DriverError, match="requests and replies need SSUBSCRIBE"):
                    await bus.request(Paid(n=2), int, timeout=HANG_SECONDS)


@pytest.mark.parametrize("durable", [False, True], ids=["pubsub", "streams"])
async def test_a_request_is_answered_and_no_pattern_sees_it(durable: bool) -> None:
    async with redis_server() as server:

        def make(group: str) -> Bus | StreamsBus:
            return StreamsBus(server.addr, group=group) if durable else bus_on(server)

        asking, answering, watching = make("asking"), make("answering"), make("watching")
        answering.respond(lambda event: event.n + 1, Paid)
        seen = watching.seen("**")
        async with watching, answering, asking:
            for n in range(20):
                with trio.fail_after(HANG_SECONDS):
                    assert await asking.request(Paid(n=n), int) == n + 1
            await (await asking.dispatch(Paid(n=-1))).wait()
            await until(lambda: seen)
            assert [event.n for event in seen] == [-1]
            if isinstance(watching, StreamsBus):
                # The stream of a reserved name belongs to no pattern, although it is a known name.
                ask = watching.driver.client.execute_command
                assert b"goevent.requests.order.paid" in await ask("SMEMBERS", "goevent:names")
                stream = "goevent:stream:goevent.requests.order.paid"
                groups = await ask("XINFO", "GROUPS", stream)
                assert [each[b"name"] for each in groups] == [b"answering"]
            assert not asking.told + answering.told + watching.told
