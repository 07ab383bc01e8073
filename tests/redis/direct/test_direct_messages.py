"""Direct messages over Redis, of both drivers, on real servers that fail.

The conformance suite has the cases that every broker passes; these are about Redis. The drivers do
not tell their buses that they carry direct messages, so all addresses here are those of the tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis
import trio
from tests.support.forks import in_child
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Bus, Paid, bus_on, until
from tests.support.redis_server import acl_user, fault_proxy, redis_server
from tests.support.streams_buses import StreamsBus

from goevent import DriverConnectionError, DriverError
from goevent.drivers import SendsDirectly
from goevent_redis import RedisConfig, RedisDriver, RedisStreamsDriver
from goevent_redis._link.link import Link

LOGIN = {"username": "shop", "password": "secret-word"}
CHANNEL = "goevent:$direct.inbox"
MakeBus = Callable[..., "Bus | StreamsBus"]


@pytest.fixture(autouse=True)
def hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no bus open an address of its own."""
    for driver in (RedisDriver, RedisStreamsDriver):
        promised = driver().capabilities
        monkeypatch.setattr(driver, "capabilities", replace(promised, replies=False))


def pubsub(addr: str, **config: Any) -> Bus:
    return Bus(RedisDriver(RedisConfig(addr=addr, **config)))


def streams(addr: str, **config: Any) -> StreamsBus:
    return StreamsBus(addr, config=config)


each_driver = pytest.mark.parametrize("make", [pubsub, streams])


class Post:
    """The direct messages that one bus has received, and the outcomes of those that it sent."""

    def __init__(self, bus: Bus | StreamsBus) -> None:
        self.driver: SendsDirectly = bus.driver
        self.received: list[bytes] = []
        self.outcomes: list[int | Exception | None] = []

    async def open(self, *addresses: str) -> None:
        with trio.fail_after(HANG_SECONDS):
            await self.driver.open_addresses(addresses, self.take)

    def take(self, address: str, data: bytes) -> None:
        self.received.append(data)

    def send(self, *messages: bytes, to: str = "inbox") -> None:
        for data in messages:
            self.driver.send_directly(to, data, self.outcomes.append)

    async def outcome(self, data: bytes = b"hello", to: str = "inbox") -> int | Exception | None:
        """Send one message, and return its outcome."""
        before = len(self.outcomes)
        self.send(data, to=to)
        await until(lambda: len(self.outcomes) > before, HANG_SECONDS)
        return self.outcomes[before]

    async def send_until_received(self, data: bytes) -> None:
        """Send a message until one has arrived here."""
        with trio.fail_after(HANG_SECONDS):
            while data not in self.received:
                await self.outcome(data)


def shard_channels(client: Any) -> list[str]:
    return sorted(each.decode() for each in client.pubsub_shardchannels())


async def kill_connection(client: Any, bus: Bus | StreamsBus) -> None:
    """Kill the connection of a bus, and wait until it has reported another one."""
    before = bus.says("connected to Redis again")
    client.client_kill_filter(_type="pubsub")
    await until(lambda: bus.says("connected to Redis again") > before, HANG_SECONDS)


# -- the place


@each_driver
async def test_no_pattern_and_no_tail_sees_a_direct_message(make: MakeBus) -> None:
    async with redis_server() as server:
        # The prefix of this bus, and so its patterns, match each channel of the server.
        watcher = pubsub(server.addr, channel_prefix="")
        bus = make(server.addr)
        watcher.seen("**")
        seen: list[Any] = []

        def keep(frames: list[Any]) -> None:
            seen.extend(frame for frame in frames if frame[0] == b"pmessage")

        async with (
            watcher,
            bus,
            Link(RedisConfig(addr=server.addr), on_push=keep).open() as link,
            watcher.driver.tail("**") as tail,
        ):
            await link.subscribe("PSUBSCRIBE", "*")
            post = Post(bus)
            assert await post.outcome() == 0
            await post.open("inbox")
            assert await post.outcome() == 1
            await (await watcher.dispatch(Paid(n=1))).wait()
            with trio.fail_after(HANG_SECONDS):
                assert (await tail.receive()).event_name == "order.paid"
            await link.drain()
            await until(lambda: post.received)
        assert post.received == [b"hello"]
        assert not [frame for frame in seen if b"direct" in frame[2]]
        assert not watcher.told


@pytest.mark.parametrize(("make", "further"), [(pubsub, 0), (streams, 1)])
async def test_a_bus_without_addresses_subscribes_to_nothing_and_opens_no_connection(
    make: MakeBus, further: int
) -> None:
    async with redis_server() as server:
        client: Any = redis.Redis(port=server.port)
        bus = make(server.addr)
        async with bus:
            connections = client.info("stats")["total_connections_received"]
            assert shard_channels(client) == []
            post = Post(bus)
            assert await post.outcome() == 0
            await bus.driver.close_addresses(["inbox"])
            assert client.info("stats")["total_connections_received"] == connections
            async with trio.open_nursery() as nursery:
                for address in ("other", "inbox"):
                    nursery.start_soon(post.open, address)
            await bus.driver.close_addresses(["other"])
            assert shard_channels(client) == [CHANNEL]
            await bus.driver.close_addresses(["inbox"])
            assert shard_channels(client) == []
            await post.open("inbox")
            # The link of Streams must not subscribe.
            opened = client.info("stats")["total_connections_received"] - connections
            assert opened == further
        with trio.fail_after(HANG_SECONDS):
            while shard_channels(client):
                await trio.sleep(0.01)
        client.close()


@each_driver
async def test_prefixes_are_apart(make: MakeBus) -> None:
    async with redis_server() as server:
        one, other = make(server.addr), make(server.addr, channel_prefix="other:")
        async with one, other:
            here, there = Post(one), Post(other)
            await here.open("inbox")
            assert await there.outcome() == 0
            await there.open("inbox")
            assert await there.outcome(b"there") == 1
            assert await here.outcome(b"here") == 1
            # The outcome and the message of Streams come over two connections.
            await until(lambda: here.received and there.received)
            assert (here.received, there.received) == ([b"here"], [b"there"])


@each_driver
async def test_thousands_of_addresses_are_opened_renewed_and_closed(make: MakeBus) -> None:
    addresses = [f"inbox.{n}" for n in range(2500)]
    async with redis_server() as server:
        client: Any = redis.Redis(port=server.port)
        bus = make(server.addr)
        async with bus:
            post = Post(bus)
            await post.open(*addresses)
            await post.open("inbox")
            assert len(shard_channels(client)) == 2501
            client.client_kill_filter(_type="pubsub")
            await post.send_until_received(b"again")
            assert len(shard_channels(client)) == 2501
            assert await post.outcome(to=addresses[-1]) == 1
            await bus.driver.close_addresses(addresses)
            assert shard_channels(client) == [CHANNEL]
        client.close()


# -- losses of the connection


@each_driver
async def test_messages_of_a_short_outage_are_kept_in_order(make: MakeBus) -> None:
    async with redis_server() as server:
        receiver, sender = make(server.addr), make(server.addr)
        async with receiver, sender:
            there, here = Post(receiver), Post(sender)
            await there.open("inbox")
            server.kill()
            await until(lambda: not sender.driver.snapshot().connected)
            here.send(*(b"%d" % n for n in range(100)))
            assert here.outcomes == []
            await server.start()
            await until(lambda: len(here.outcomes) == 100, HANG_SECONDS)
            assert set(here.outcomes) <= {0, 1}
            await there.send_until_received(b"last")
            numbers = [int(data) for data in there.received if data != b"last"]
            assert numbers == sorted(set(numbers))
            # The outcome tells which of them have arrived.
            assert len(numbers) == sum(each == 1 for each in here.outcomes)


@each_driver
async def test_messages_of_a_long_outage_fail_in_time_and_are_bounded(
    make: MakeBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goevent_redis._direct.KEPT_SECONDS", 0.5)
    monkeypatch.setattr("goevent_redis._direct.MAX_KEPT_BYTES", 10_000)
    async with redis_server() as server:
        bus = make(server.addr)
        async with bus:
            post = Post(bus)
            await post.open("inbox")
            server.kill()
            await until(lambda: not bus.driver.snapshot().connected)
            post.send(*[b"x" * 1000] * 100)
            refused = len(post.outcomes)
            assert 80 < refused < 100
            assert "wait for the connection already" in str(post.outcomes[0])
            await until(lambda: len(post.outcomes) == 100, HANG_SECONDS)
            assert {type(each) for each in post.outcomes} == {DriverConnectionError}
            with pytest.raises(DriverConnectionError):
                await post.open("another")
            await server.start()
            await post.send_until_received(b"again")
            # The address whose opening failed stays closed.
            assert await post.outcome(to="another") == 0


@each_driver
async def test_a_message_larger_than_the_write_buffer_holds_up_nothing(make: MakeBus) -> None:
    async with redis_server() as server:
        bus = make(server.addr)
        async with bus:
            post = Post(bus)
            await post.open("inbox")
            messages = [b"%d" % n + b"x" * 900_000 for n in range(20)]
            post.send(*messages)
            await until(lambda: len(post.outcomes) == 20, HANG_SECONDS)
            await until(lambda: len(post.received) == post.outcomes.count(1), HANG_SECONDS)
            # What exceeds the limit of waiting messages is refused; the others arrive in order.
            assert post.received == messages[: len(post.received)]
            assert len(post.received) > 4
            assert await post.outcome(b"y" * (1 << 20)) == 1
            assert "above max_event_size" in str(await post.outcome(b"y" * ((1 << 20) + 1)))


@each_driver
async def test_a_black_hole_is_found_and_the_messages_fail(make: MakeBus) -> None:
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        bus = make(proxy.addr, read_timeout=0.5)
        async with bus:
            post = Post(bus)
            await post.open("inbox")
            assert await post.outcome() == 1
            proxy.swallow()
            lost = await post.outcome(b"lost")
            assert isinstance(lost, DriverConnectionError)
            proxy.reset()
            proxy.pass_on()
            await post.send_until_received(b"again")


@each_driver
async def test_outcomes_are_known_when_the_server_dies_with_the_bus(make: MakeBus) -> None:
    async with redis_server() as server:
        bus = make(server.addr)
        async with bus:
            post = Post(bus)
            await post.open("inbox")
            server.freeze()
            post.send(*[b"x" * 1000] * 3000)
            with trio.fail_after(HANG_SECONDS):
                await bus.close(timeout=0)
        server.thaw()
        assert len(post.outcomes) == 3000
        assert {type(each) for each in post.outcomes} == {DriverConnectionError}
        # The bus is closed.
        assert isinstance(await post.outcome(), DriverConnectionError)
        with pytest.raises(DriverConnectionError):
            await post.open("inbox")


async def test_a_large_reply_passes_beside_open_addresses_on_streams() -> None:
    async with redis_server() as server:
        bus = streams(server.addr)
        async with bus:
            post = Post(bus)
            await post.open("inbox")
            # A server cuts off a subscriber that is 32 MB behind.
            await bus.driver.client.set("large", b"x" * 40_000_000)
            assert await bus.driver.client.get("large") == b"x" * 40_000_000
            assert await post.outcome() == 1


async def test_an_address_of_streams_cannot_be_opened_while_the_server_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("goevent_redis._direct.KEPT_SECONDS", 0.2)
    async with redis_server() as server:
        bus = streams(server.addr)
        async with bus:
            post = Post(bus)
            server.kill()
            await until(lambda: not bus.driver.snapshot().connected)
            with pytest.raises(DriverConnectionError):
                await post.open("inbox")
            await server.start()
            await until(lambda: bus.driver.snapshot().connected, HANG_SECONDS)
            await post.open("inbox")
            await post.send_until_received(b"hello")


# -- rights


@each_driver
async def test_a_missing_right_is_the_outcome_and_a_finding_and_events_go_on(
    make: MakeBus,
) -> None:
    rules = ("+@all", "~*", "resetchannels", "&goevent:order.*", "&goevent:$marks")
    rule = acl_user(LOGIN["username"], LOGIN["password"], *rules)
    async with redis_server(rule) as server:
        bus = make(server.addr, **LOGIN)
        got = bus.seen(Paid)
        async with bus:
            post = Post(bus)
            refused = await post.outcome()
            assert isinstance(refused, DriverError)
            assert "SPUBLISH for the channels goevent:$direct.*" in str(refused)
            with pytest.raises(DriverError, match=r"SSUBSCRIBE, .* goevent:\$direct\.\*"):
                await post.open("inbox", "other")
            found = await bus.driver.check(["order.paid"])
            direct = [each for each in found if "requests and replies" in each.text]
            (finding,) = direct
            assert finding.severity == "warning"
            assert "SSUBSCRIBE, SPUBLISH on goevent:$direct.check" in finding.text
            await (await bus.dispatch(Paid(n=1))).wait()
            await until(lambda: len(got) == 1)
            # The right is granted, and nothing is left of the refused opening.
            client: Any = redis.Redis(port=server.port)
            client.acl_setuser("shop", enabled=True, channels=["goevent:$direct.*"])
            await post.open("inbox")
            assert shard_channels(client) == [CHANNEL]
            assert await post.outcome() == 1
            assert all("requests" not in each.text for each in await bus.driver.check([]))
            client.close()


@each_driver
async def test_an_address_that_loses_its_right_is_reported_once_and_costs_no_other(
    make: MakeBus,
) -> None:
    rule = acl_user(LOGIN["username"], LOGIN["password"], "+@all", "~*", "&*")
    async with redis_server(rule) as server:
        bus = make(server.addr, **LOGIN)
        got = bus.seen(Paid)
        async with bus:
            client: Any = redis.Redis(port=server.port)
            post = Post(bus)
            await post.open("inbox", "other")
            # The server cuts the connections of a user that loses a channel.
            rights = ["goevent:$direct.inbox", "goevent:order.*", "goevent:$marks"]
            client.acl_setuser("shop", enabled=True, reset_channels=True, channels=rights)
            await post.send_until_received(b"again")
            for _ in range(2):
                await kill_connection(client, bus)
            assert bus.says("requests and replies need SSUBSCRIBE") == 1
            await (await bus.dispatch(Paid(n=1))).wait()
            await until(lambda: len(got) == 1)
            client.acl_setuser("shop", enabled=True, channels=["goevent:$direct.*"])
            client.client_kill_filter(_type="pubsub")
            with trio.fail_after(HANG_SECONDS):
                while await post.outcome(b"other", to="other") != 1:
                    await trio.sleep(0.01)
            client.close()


@each_driver
async def test_a_server_without_shard_channels_is_named_and_events_go_on(make: MakeBus) -> None:
    renamed = [f'rename-command {name} ""' for name in ("SSUBSCRIBE", "SPUBLISH")]
    async with redis_server(*renamed) as server:
        bus = make(server.addr)
        got = bus.seen(Paid)
        async with bus:
            post = Post(bus)
            assert "need Redis 7.0" in str(await post.outcome())
            with pytest.raises(DriverError, match=r"need Redis 7\.0"):
                await post.open("inbox")
            await (await bus.dispatch(Paid(n=1))).wait()
            await until(lambda: len(got) == 1)


# -- hostile and foreign messages


@each_driver
async def test_foreign_messages_arrive_as_they_are_or_not_at_all(make: MakeBus) -> None:
    async with redis_server() as server:
        client: Any = redis.Redis(port=server.port)
        bus = make(server.addr)
        bus.seen("order.*")
        async with bus:
            post = Post(bus)
            await post.open("inbox")
            for data in (b"", b"\xff\x00\r\n", b"x" * 3_000_000):
                client.execute_command("SPUBLISH", CHANNEL, data)
            # The same name in the other namespace is no address and no event.
            client.execute_command("PUBLISH", CHANNEL, b"no direct message")
            for channel in (b"goevent:$direct.inbox\xff", b"goevent:$direct.", b"", b"goevent:$di"):
                client.execute_command("SPUBLISH", channel, b"not ours")
            await post.outcome(b"last")
            await until(lambda: post.received[-1:] == [b"last"])
            assert post.received == [b"", b"\xff\x00\r\n", b"x" * 3_000_000, b"last"]
            # An address comes from another bus, so it may be anything.
            assert await post.outcome(to="a b\r\n\x00*") == 0
            assert isinstance(await post.outcome(to="\ud800"), DriverError)
            assert bus.told == []
        client.close()


async def test_a_queue_of_events_that_is_full_delays_no_direct_message() -> None:
    async with redis_server() as server:
        bus, sender = bus_on(server, prefetch_bytes=1000), bus_on(server)

        async def wait(event: Paid) -> None:
            await trio.sleep_forever()

        bus.subscribe(wait, Paid, mailbox=1)
        async with sender, bus:
            there, here = Post(bus), Post(sender)
            await there.open("inbox")
            await here.open("answers")
            await (
                await sender.dispatch_many([Paid(n=n, text="x" * 500) for n in range(50)])
            ).wait()
            await until(lambda: bus.says("the listeners are too slow"))
            assert await here.outcome() == 1
            await until(lambda: there.received == [b"hello"])
            there.send(b"answer", to="answers")
            await until(lambda: here.received == [b"answer"])
            await bus.close(timeout=0)


# -- the end


@each_driver
async def test_direct_messages_arrive_while_the_bus_drains(make: MakeBus) -> None:
    async with redis_server() as server:
        receiver, sender = make(server.addr), make(server.addr)
        async with receiver, sender:
            there, here = Post(receiver), Post(sender)
            await there.open("inbox")
            await receiver.driver.drain()
            assert await here.outcome() == 1
            await until(lambda: there.received == [b"hello"])
            # Also over a connection that is made meanwhile.
            client: Any = redis.Redis(port=server.port)
            client.client_kill_filter(_type="pubsub")
            await there.send_until_received(b"again")
            client.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@each_driver
async def test_a_fork_sends_nothing_and_the_parent_goes_on(make: MakeBus) -> None:
    async with redis_server() as server:
        bus = make(server.addr)
        async with bus:
            post = Post(bus)
            await post.open("inbox")

            def use() -> str:
                told: list[Any] = []
                for _ in range(3):
                    bus.driver.send_directly("inbox", b"of the child", told.append)
                opening = bus.driver.open_addresses(["other"], post.take)
                closing = bus.driver.close_addresses(["inbox"])
                for each in (opening, closing):
                    try:
                        each.send(None)
                    except Exception as error:
                        told.append(error)
                return " ".join(type(each).__name__ for each in told)

            told = in_child(use)
            assert told == " ".join(["DriverConnectionError"] * 3 + ["BusForked"] * 2)
            assert await post.outcome(b"of the parent") == 1
            await until(lambda: post.received)
            assert post.received == [b"of the parent"]


@each_driver
async def test_an_address_closed_while_the_link_connects_is_unsubscribed(
    make: MakeBus,
) -> None:
    addresses = [f"inbox.{n}" for n in range(3000)]
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        client: Any = redis.Redis(port=server.port)
        bus = make(proxy.addr)
        async with bus:
            post = Post(bus)
            await post.open("inbox", *addresses)
            # The confirmations come slowly, so the addresses are closed in between.
            proxy.trickle(2000, 0.01)
            proxy.reset()
            await until(lambda: not bus.driver.snapshot().connected)
            await until(lambda: len(shard_channels(client)) > 100, HANG_SECONDS)
            assert not bus.driver.snapshot().connected
            await bus.driver.close_addresses(addresses)
            proxy.pass_on()
            await post.send_until_received(b"again")
            await until(lambda: shard_channels(client) == [CHANNEL], HANG_SECONDS)
        client.close()
