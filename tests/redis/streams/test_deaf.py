"""A bus that cannot read says so: with the reason if Redis gives one, else after a while."""

from __future__ import annotations

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.partition_buses import Moved, PartitionedBus
from tests.support.redis_buses import OrderLost, Paid, User, numbers, until
from tests.support.redis_server import acl_user, fault_proxy, redis_server
from tests.support.streams_buses import StreamsBus, command_client, publish, streams_server

from goevent import DriverConnectionError, DriverError
from goevent_redis._streams import reader

LOST, CREATED = "goevent:stream:order.lost", "goevent:stream:user.created"


async def test_second_connection_that_the_server_refuses_is_reported_once() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        seen = bus.seen()
        async with bus:
            await publish(bus, 1)
            await until(lambda: seen)
            clients = (await ask("CLIENT", "LIST")).decode().splitlines()
            # The link of the bus, its reader, and this connection.
            (blocked,) = [line for line in clients if "cmd=xreadgroup" in line]
            await ask("CONFIG", "SET", "maxclients", len(clients) - 1)
            await ask("CLIENT", "KILL", "ID", blocked.split()[0].removeprefix("id="))
            await until(lambda: bus.says("events are not read"))
            await trio.sleep(0.5)
            assert bus.says("events are not read") == len(bus.told) == 1
            assert isinstance(bus.told[0].__cause__, DriverConnectionError)
            assert bus.says("maximum number of clients")
            await ask("CONFIG", "SET", "maxclients", 1000)
            await publish(bus, 2)
            await until(lambda: numbers(seen) == [1, 2])


async def test_password_that_has_changed_is_reported_although_the_link_lives() -> None:
    rules = acl_user("app", "old", "~*", "&*", "+@all")
    async with redis_server(rules) as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, config={"username": "app", "password": "old"})
        seen = bus.seen()
        async with bus:
            await publish(bus, 1)
            await until(lambda: seen)
            await ask("ACL", "SETUSER", "app", "resetpass", ">new")
            clients = (await ask("CLIENT", "LIST")).decode().splitlines()
            (blocked,) = [line for line in clients if "cmd=xreadgroup" in line]
            await ask("CLIENT", "KILL", "ID", blocked.split()[0].removeprefix("id="))
            await until(lambda: bus.says("events are not read"))
            assert bus.driver.snapshot().connected


@pytest.mark.parametrize("partitions", [1, 4])
async def test_reads_that_never_succeed_are_reported_once(
    partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "READ_SILENCE_SECONDS", 1.0)
    # Many refused attempts within the silence: none of them ends it.
    monkeypatch.setattr(reader, "MAX_READ_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(reader, "READ_BLOCK_SECONDS", 0.2)
    monkeypatch.setattr("goevent_redis._streams.partitions.reader.READ_BLOCK_SECONDS", 0.2)
    rules = acl_user("app", "pw", "~*", "&*", "+@all")
    event = Paid() if partitions == 1 else Moved(account="a")
    async with redis_server(rules) as server, command_client(server) as ask:
        login = {"username": "app", "password": "pw"}
        bus = PartitionedBus(server.addr, config=login, partitions=partitions)
        seen = bus.seen(type(event))
        async with bus:
            await bus.dispatch(event)
            await until(lambda: seen)
            # An idle bus reads without a result, which is no silence.
            await trio.sleep(1.5)
            assert not bus.told
            await ask("ACL", "SETUSER", "app", "-xreadgroup", "-xread")
            await until(lambda: bus.says("no successful fetch"), HANG_SECONDS)
            await trio.sleep(1.2)
            assert bus.says("no successful fetch") == 1
            assert bus.says("the group 'shop'")
            await ask("ACL", "SETUSER", "app", "+xreadgroup", "+xread")
            await bus.dispatch(event)
            await until(lambda: len(seen) >= 2)


async def test_bus_whose_listeners_are_slow_is_not_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "READ_SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(reader, "READ_BLOCK_SECONDS", 0.1)
    async with streams_server() as server:
        bus = StreamsBus(server.addr, prefetch=1)
        gate, begun = trio.Event(), list[int]()

        @bus.listener(Paid)
        async def _(event: Paid) -> None:
            begun.append(event.n)
            await gate.wait()

        async with bus:
            await publish(bus, 1, 2)
            await until(lambda: begun)
            await trio.sleep(1.5)
            gate.set()
            await until(lambda: begun == [1, 2])
        assert not bus.told


async def test_each_key_of_another_type_is_reported() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        seen, lost, created = bus.seen(), bus.seen(OrderLost), bus.seen(User)
        async with bus:
            await publish(bus, 1)
            await until(lambda: seen)
            for key in (LOST, CREATED):
                await ask("SET", key, "not a stream")
            await until(lambda: bus.says("WRONGTYPE") == 2)
            await publish(bus, 2)
            await until(lambda: numbers(seen) == [1, 2])
            await trio.sleep(1.2)
            reported = [error.event_name for error in bus.told if "WRONGTYPE" in str(error)]
            assert sorted(reported) == ["order.lost", "user.created"]
            await ask("DEL", LOST, CREATED)
            for event in (OrderLost(), User()):
                await bus.dispatch(event)
            await until(lambda: lost and created)


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("min-replicas-to-write", "1", "NOREPLICAS"),
        ("maxmemory", "1", "maxmemory"),
    ],
)
async def test_server_that_refuses_writes_is_reported_and_used_again(
    setting: str, value: str, says: str
) -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, publish_timeout=0.5)
        seen = bus.seen()
        async with bus:
            await publish(bus, 1)
            await until(lambda: seen)
            await ask("CONFIG", "SET", setting, value)
            handle = await bus.dispatch(Paid(n=2))
            await handle.wait()
            (error,) = handle.errors
            assert says in str(error)
            await ask("CONFIG", "SET", setting, "0")
            await publish(bus, 3)
            await until(lambda: 3 in numbers(seen))


@pytest.mark.parametrize("partitions", [1, 4])
async def test_reader_follows_the_link_to_the_new_server(partitions: int) -> None:
    """The old server lives on: it lost its network, and does not know of its replacement."""
    event = Paid if partitions == 1 else Moved
    async with (
        streams_server() as old,
        streams_server() as new,
        fault_proxy(old.port) as proxy,
        command_client(old) as ask,
    ):
        bus = PartitionedBus(proxy.addr, partitions=partitions)
        seen = bus.seen(event)
        async with bus:
            await (await bus.dispatch(event(n=1))).wait()
            await until(lambda: seen)
            proxy.lead_to(new.port)
            # Only the link loses its connection.
            for line in (await ask("CLIENT", "LIST")).decode().splitlines():
                if "cmd=xread" not in line and "cmd=client" not in line:
                    await ask("CLIENT", "KILL", "ID", line.split()[0].removeprefix("id="))
            await until(lambda: bus.says("connected to Redis again"))
            handle = await bus.dispatch(event(n=2))
            await handle.wait()
            handle.raise_errors()
            await until(lambda: 2 in numbers(seen), HANG_SECONDS)
        assert not bus.causes(DriverError) or bus.says("had vanished")
