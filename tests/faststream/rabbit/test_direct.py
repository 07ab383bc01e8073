"""Direct messages over RabbitMQ: outages, deleted objects, refusals, and reserved names."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from aiormq.exceptions import ChannelNotFoundEntity
from tests.faststream.rabbit.test_refusals import user_sandbox
from tests.support.direct_messages import DirectBus, check_reached, send_through_outage
from tests.support.faststream_buses import accepted
from tests.support.faststream_checks import gated_listener
from tests.support.rabbit_node import RabbitNode, rabbit_node
from tests.support.rabbit_server import RabbitSandbox, rabbit_sandbox, with_channel
from tests.support.redis_buses import numbers, opened, until
from tests.support.redis_server import fault_proxy

from goevent import DriverConnectionError, DriverError
from goevent_faststream._rabbit.names import MAX_EXCHANGE_BYTES, direct_exchange

ANSWER = "goevent.replies.a1"
REQUEST = "goevent.requests.price.asked"
each_kind = pytest.mark.parametrize("group", [None, "shop"])


def bus_on(sandbox: RabbitSandbox, group: str | None = None, **options: object) -> DirectBus:
    """Return a bus in a sandbox."""
    return DirectBus(sandbox.url(group, **options))


async def exchange_exists(sandbox: RabbitSandbox) -> bool:
    """Tell whether the exchange for direct messages exists."""

    async def find(channel: Any) -> bool:
        try:
            await channel.exchange_declare(direct_exchange(sandbox.exchange), passive=True)
        except ChannelNotFoundEntity:
            return False
        return True

    return await with_channel(sandbox.port, find)


@each_kind
async def test_result_is_0_where_no_bus_has_the_address(group: str | None) -> None:
    async with rabbit_sandbox() as sandbox:
        bus, other = bus_on(sandbox, group), bus_on(sandbox, group)
        async with opened(bus, other):
            # No bus has any address, and there is no exchange.
            assert await bus.send("nobody", b"0") == [0]
            await other.open_addresses(ANSWER)
            bus.post("nobody", b"1")
            bus.post(ANSWER, b"2")
            bus.post("nobody", b"3")
            bus.post(ANSWER, b"4")
            await until(lambda: len(bus.results) == 5)
            assert bus.results == [0, 0, None, 0, None]
            await until(lambda: other.taken == [(ANSWER, b"2"), (ANSWER, b"4")])
            await other.driver.close_addresses([ANSWER])
            assert await bus.send(ANSWER, b"5") == [0]
            assert not await exchange_exists(sandbox)
            await other.open_addresses(ANSWER)
            await check_reached(bus, other, ANSWER, b"6")
        assert not await exchange_exists(sandbox)
        assert bus.reports == other.reports == []


@each_kind
async def test_addresses_are_open_again_after_lost_connections(group: str | None) -> None:
    async with rabbit_sandbox() as sandbox, fault_proxy(sandbox.port) as proxy:
        sender = bus_on(sandbox, group)
        receiver = bus_on(sandbox, group, port=proxy.port)
        async with opened(sender, receiver):
            await receiver.open_addresses(ANSWER, "second")
            await receiver.driver.close_addresses(["second"])
            for number in range(3):
                await check_reached(sender, receiver, ANSWER, b"before %d" % number)
                proxy.reset()
                await until(lambda: not receiver.is_connected())
                await until(receiver.is_connected)
                await check_reached(sender, receiver, ANSWER, b"after %d" % number)
                assert await sender.send("second", b"none") == [0]
            await send_through_outage(receiver, ANSWER, b"own")
            await until(lambda: (ANSWER, b"own") in receiver.taken)


async def test_addresses_are_open_again_after_the_server_was_killed() -> None:
    with rabbit_node() as node:
        sandbox = RabbitSandbox(node.port)
        sender, receiver = bus_on(sandbox, publish_timeout=1), bus_on(sandbox, "shop")
        async with opened(sender, receiver):
            await receiver.open_addresses(ANSWER)
            await check_reached(sender, receiver, ANSWER, b"before")
            await trio.to_thread.run_sync(node.kill)
            (lost,) = await sender.send(ANSWER, b"lost")
            assert isinstance(lost, DriverConnectionError)
            await trio.to_thread.run_sync(node.start)
            await until(lambda: sender.is_connected() and receiver.is_connected(), 60)
            await send_through_outage(sender, ANSWER, b"after")
            await until(lambda: (ANSWER, b"after") in receiver.taken)


@each_kind
async def test_deleted_queue_and_exchange_are_made_again(group: str | None) -> None:
    async with rabbit_sandbox() as sandbox:
        sender, receiver = bus_on(sandbox, group), bus_on(sandbox, group)
        async with opened(sender, receiver):
            await receiver.open_addresses(ANSWER)
            await check_reached(sender, receiver, ANSWER, b"1")

            async def delete_exchange(channel: Any) -> None:
                await channel.exchange_delete(direct_exchange(sandbox.exchange))

            await with_channel(sandbox.port, delete_exchange)
            while await sender.send(ANSWER, b"2") == [0]:
                await trio.sleep(0.05)
            await until(lambda: (ANSWER, b"2") in receiver.taken)
            adapter: Any = receiver.driver._adapter  # pyright: ignore[reportPrivateUsage]
            queue, request = adapter.direct._queue, adapter._connection.request

            async def delete_queue(channel: Any) -> None:
                await channel.queue_delete(queue)

            await receiver.driver._call(request, delete_queue)  # pyright: ignore[reportPrivateUsage]
            while await sender.send(ANSWER, b"3") == [0]:
                await trio.sleep(0.05)
            await until(lambda: (ANSWER, b"3") in receiver.taken)
            assert adapter.direct._queue != queue


async def test_refused_messages_and_addresses_fail_and_events_go_on(node: RabbitNode) -> None:
    sandbox = await user_sandbox(node, write=r"^(?!.*\+direct).*$")
    other = await user_sandbox(node, read=r"^(?!.*\+direct).*$")
    other.exchange = sandbox.exchange
    mute, deaf = bus_on(sandbox), bus_on(other)
    seen = mute.seen()
    async with opened(deaf, mute):
        await mute.open_addresses(ANSWER)
        with pytest.raises(DriverError, match="ACCESS_REFUSED"):
            await deaf.open_addresses(ANSWER)
        (refused,) = await mute.send(ANSWER, b"1")
        assert "ACCESS_REFUSED" in str(refused)
        await check_reached(deaf, mute, ANSWER, b"2")
        await accepted(deaf, 3)
        await until(lambda: numbers(seen) == [3])
    assert mute.reports == deaf.reports == []


@each_kind
async def test_full_mailbox_holds_back_no_direct_message(group: str | None) -> None:
    async with rabbit_sandbox() as sandbox:
        sender, receiver = bus_on(sandbox, group), bus_on(sandbox, group, prefetch=2)
        gate, finished = gated_listener(receiver, mailbox=1)
        async with opened(sender, receiver):
            await receiver.ready()
            await receiver.open_addresses(ANSWER)
            await accepted(sender, *range(20))
            await check_reached(sender, receiver, ANSWER, b"1")
            await check_reached(receiver, receiver, ANSWER, b"2")
            assert finished == []
            gate.set()
            await until(lambda: len(finished) == 20)


async def test_messages_sent_at_the_end_arrive_and_have_results() -> None:
    async with rabbit_sandbox() as sandbox:
        receiver = bus_on(sandbox)
        async with receiver:
            await receiver.open_addresses(ANSWER)
            sender = bus_on(sandbox, "shop")
            async with sender:
                await check_reached(sender, receiver, ANSWER, b"0")
                sender.post(ANSWER, b"1", b"2")
            assert len(sender.results) == 3
            await until(lambda: len(receiver.taken) == 3)


async def test_patterns_of_a_group_drop_a_reserved_name_without_a_report() -> None:
    async with rabbit_sandbox("audit", "shop") as sandbox:
        audit, sender = bus_on(sandbox, "audit"), bus_on(sandbox, None)
        seen = audit.seen("**")
        async with opened(audit, sender):
            await audit.ready()
            await sandbox.publish(b"a request to another group", REQUEST)
            await accepted(sender, 2)
            await until(lambda: numbers(seen) == [2])
            await until(lambda: sum(each.pending for each in audit.backlogs()) == 0)
        assert audit.reports == []
        for queue in ("##", "+dead"):
            assert await sandbox.take_messages(sandbox.queue(queue, "audit")) == []


def test_exchange_of_direct_messages_has_an_allowed_name() -> None:
    assert direct_exchange("goevent") == "goevent:+direct"
    first, second = "x" * 126 + "a", "x" * 126 + "b"
    assert len(direct_exchange(first)) <= MAX_EXCHANGE_BYTES
    assert direct_exchange(first) != direct_exchange(second)
