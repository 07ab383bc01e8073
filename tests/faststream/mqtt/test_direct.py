"""Direct messages over MQTT: outages, refusals, and a connection of their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import zmqtt
from tests.support.direct_messages import DirectBus, check_reached, send_through_outage
from tests.support.faststream_buses import accepted
from tests.support.faststream_checks import gated_listener
from tests.support.mqtt_server import MqttServer, mqtt_server
from tests.support.redis_buses import numbers, opened, until
from tests.support.redis_server import fault_proxy

from goevent import DriverConnectionError, DriverError

ANSWER = "goevent.replies.a1"
TOPIC = "goevent.direct/goevent/goevent/replies/a1"
each_kind = pytest.mark.parametrize("group", [None, "shop"])
each_version = pytest.mark.parametrize("version", ["5.0", "3.1.1"])


def bus_on(server: MqttServer, group: str | None = None, **options: object) -> DirectBus:
    """Return a bus on a server."""
    return DirectBus(server.url(group, **options))


@asynccontextmanager
async def buses(
    server: MqttServer, group: str | None = None, **options: object
) -> AsyncGenerator[tuple[DirectBus, DirectBus]]:
    """Open a sender, and a receiver that has opened `ANSWER`."""
    sender, receiver = bus_on(server, group, **options), bus_on(server, group, **options)
    async with opened(sender, receiver):
        await receiver.open_addresses(ANSWER)
        yield sender, receiver


async def until_reached(sender: DirectBus, receiver: DirectBus, data: bytes) -> None:
    """Send a message until it has arrived; the receiver may connect later than the sender."""
    while (ANSWER, data) not in receiver.taken:
        await send_through_outage(sender, ANSWER, data)
        await trio.sleep(0.02)


@each_kind
@each_version
async def test_messages_arrive_in_order_and_nowhere_else(group: str | None, version: str) -> None:
    async with mqtt_server() as server:
        listener = bus_on(server, None, prefix="")
        seen, foreign = listener.seen("**"), bus_on(server, prefix="foreign.")
        async with buses(server, group, version=version) as (sender, receiver), listener, foreign:
            await foreign.open_addresses(ANSWER)
            messages = [b"%d" % n for n in range(200)]
            sender.post(ANSWER, *messages)
            await until(lambda: len(receiver.taken) == len(messages))
            assert receiver.taken == [(ANSWER, each) for each in messages]
            await until(lambda: sender.results == [None] * len(messages))
            await accepted(listener, 7)
            await until(lambda: numbers(seen) == [7])
        assert foreign.taken == []
        assert listener.reports == sender.reports == receiver.reports == []


async def test_second_connection_is_opened_for_the_first_address() -> None:
    async with (
        mqtt_server() as server,
        fault_proxy(server.port) as proxy,
        # A bus of a group without a responder opens no address by itself.
        bus_on(server, "shop", port=proxy.port) as bus,
    ):
        assert isinstance(bus, DirectBus)
        await accepted(bus, 1)
        assert proxy.dials == 1
        await bus.open_addresses(ANSWER)
        await check_reached(bus, bus, ANSWER, b"1")
        assert proxy.dials == 2


@each_kind
@each_version
async def test_addresses_are_open_again_after_the_server_was_killed(
    group: str | None, version: str
) -> None:
    async with mqtt_server() as server, buses(server, group, version=version) as (one, two):
        await two.open_addresses("second")
        await two.driver.close_addresses(["second"])
        await check_reached(one, two, ANSWER, b"before")
        server.kill()
        await until(lambda: not one.is_connected() and not two.is_connected())
        (lost,) = await one.send(ANSWER, b"lost")
        assert isinstance(lost, DriverConnectionError)
        await server.start()
        await until(lambda: one.is_connected() and two.is_connected())
        await until_reached(one, two, b"after")
        await until_reached(two, two, b"own")
        assert (ANSWER, b"lost") not in two.taken
        if version == "5.0":
            assert await one.send("second", b"none") == [0]
        assert one.count_reports("requests and replies") == 0


async def test_lost_connection_of_direct_messages_is_reported_and_replaced() -> None:
    async with mqtt_server() as server, buses(server) as (sender, receiver):
        await check_reached(sender, receiver, ANSWER, b"before")
        adapter: Any = receiver.driver._adapter  # pyright: ignore[reportPrivateUsage]

        async def end() -> None:
            adapter.direct._connection.end_connection("the test ends it")

        await receiver.driver._call(end)  # pyright: ignore[reportPrivateUsage]
        await until_reached(sender, receiver, b"after")
        await until(lambda: receiver.is_connected())
        assert receiver.count_reports("connected to") == 0


async def test_opening_fails_while_the_server_cannot_be_reached() -> None:
    async with mqtt_server() as server, bus_on(server, publish_timeout=0.5) as bus:
        assert isinstance(bus, DirectBus)
        server.kill()
        with pytest.raises(DriverConnectionError):
            await bus.open_addresses(ANSWER)
        await server.start()
        await until(bus.is_connected)
        await bus.open_addresses(ANSWER)
        await check_reached(bus, bus, ANSWER, b"1")


async def test_refused_messages_fail_and_their_neighbours_arrive() -> None:
    rights = ("topic readwrite goevent/#", "topic readwrite goevent.direct/goevent/goevent/#")
    async with mqtt_server(rights=rights) as server, buses(server) as (sender, receiver):
        sender.post(ANSWER, b"1")
        sender.post("secret", b"2")
        sender.post(ANSWER, b"3")
        await until(lambda: len(sender.results) == 3 and len(receiver.taken) == 2)
        (refused,) = [each for each in sender.results if each is not None]
        assert "not authorized" in str(refused)
        assert isinstance(refused, DriverError)


async def test_retained_and_foreign_messages_are_dropped() -> None:
    async with mqtt_server() as server, buses(server) as (sender, receiver):

        async def publish() -> None:
            async with zmqtt.MQTTClient("127.0.0.1", server.port, client_id="foreign") as client:
                await client.publish(TOPIC, b"retained", qos=zmqtt.QoS.AT_LEAST_ONCE, retain=True)

        await receiver.driver.close_addresses([ANSWER])
        await sender.driver._call(publish)  # pyright: ignore[reportPrivateUsage]
        await receiver.open_addresses(ANSWER)
        await check_reached(sender, receiver, ANSWER, b"1")
        assert receiver.taken == [(ANSWER, b"1")]


@each_kind
async def test_full_mailbox_holds_back_no_direct_message(group: str | None) -> None:
    async with mqtt_server("max_queued_messages 0") as server:
        sender, receiver = bus_on(server, group), bus_on(server, group, prefetch=2)
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
    async with mqtt_server() as server, bus_on(server) as receiver:
        assert isinstance(receiver, DirectBus)
        await receiver.open_addresses(ANSWER)
        async with bus_on(server) as sender:
            assert isinstance(sender, DirectBus)
            await check_reached(sender, receiver, ANSWER, b"0")
            sender.post(ANSWER, b"1", b"2")
        assert len(sender.results) == 3
        await until(lambda: len(receiver.taken) == 3)
