"""The connection for publishes: the server may block it or close it, and deliveries go on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from faststream.rabbit import RabbitBroker
from faststream.security import SASLPlaintext
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.faststream_checks import recording_middleware
from tests.support.limits import HANG_SECONDS
from tests.support.rabbit_node import RabbitNode
from tests.support.redis_buses import Paid, numbers, opened, until

from goevent_faststream import BrokerConfig, FastStreamDriver


@asynccontextmanager
async def blocked(node: RabbitNode, bus: FastStreamBus) -> AsyncGenerator[None]:
    """Let the server block publishers inside a `with` block; the bus has published by then."""
    await node.block_publishers()
    try:
        # The server blocks a connection as soon as it publishes.
        await bus.dispatch(Paid(n=99))
        await until(lambda: bus.count_reports("the server has blocked publishers: low on memory"))
        yield
    finally:
        with trio.CancelScope(shield=True):
            await node.block_publishers(blocked=False)


async def test_bus_whose_publishes_are_blocked_acknowledges_what_it_receives(
    node: RabbitNode,
) -> None:
    sandbox = node.sandbox()
    bus, sender = sandbox.bus(prefetch=5, publish_timeout=1), sandbox.bus(None)
    seen: list[int] = []
    gate = trio.Event()

    async def listen(event: Paid) -> None:
        await gate.wait()
        seen.append(event.n)

    bus.subscribe(listen, Paid)
    async with opened(bus, sender):
        await accepted(sender, *range(50))
        async with blocked(node, bus):
            gate.set()
            await until(lambda: sorted(seen) == [*range(50)])
            await until(lambda: [(b.lag, b.pending) for b in bus.backlogs()] == [(0, 0)])
        await until(lambda: bus.count_reports("the server takes events again"))
        await until(lambda: 99 in seen)
    assert bus.count_reports("the server takes events again") == 1
    assert bus.count_reports("publishers: low on memory") in (1, 2)  # one may be the event's own
    assert bus.count_reports("is lost") == 0


@pytest.mark.parametrize("with_middleware", [False, True])
async def test_blocked_publishes_fail_in_their_time_and_say_so(
    node: RabbitNode, with_middleware: bool
) -> None:
    sandbox = node.sandbox()
    config = BrokerConfig(stream=sandbox.exchange, publish_timeout=1)
    middlewares = [recording_middleware()[0]] if with_middleware else []
    url = f"amqp://guest:guest@127.0.0.1:{node.port}/"
    broker = RabbitBroker(url, middlewares=middlewares, logger=None)
    bus = FastStreamBus(FastStreamDriver(broker, config))
    async with bus:
        await accepted(bus, 1)
        async with blocked(node, bus):
            with trio.fail_after(HANG_SECONDS):
                handles = [await bus.dispatch(Paid(n=n)) for n in range(3)]
                for handle in handles:
                    await handle.wait()
            for handle in handles:
                (error,) = handle.errors
                assert "blocked publishers: low on memory" in str(error)
        await until(lambda: bus.count_reports("takes events again"))
        await accepted(bus, 4)


async def test_dead_letters_under_a_block_are_stored_once_after_it(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    bus, sender = sandbox.bus(max_deliveries=1, publish_timeout=1), sandbox.bus(None)
    gate = trio.Event()

    async def fail(event: Paid) -> None:
        await gate.wait()
        raise ValueError(event.n)

    bus.subscribe(fail, Paid, concurrency=100)
    async with opened(bus, sender):
        await accepted(sender, *range(20))
        async with blocked(node, bus):
            gate.set()
            await until(lambda: bus.count_reports("ValueError") >= 20)
            # Nothing is lost or written twice meanwhile, and no report repeats itself.
            await trio.sleep(3)
            assert bus.count_reports("is a dead letter") == 0
        await until(lambda: bus.count_reports("is a dead letter") >= 20)
        await until(lambda: bus.backlogs()[0].pending == 0)
    stored = await sandbox.take_messages(sandbox.queue("+dead"))
    bodies = [message.body for message in stored if b'"n":99' not in message.body]
    assert len(bodies) == len({*bodies}) == 20
    assert bus.count_reports("the server has blocked") <= 2


async def test_blocked_bus_closes_soon(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    bus = sandbox.bus(publish_timeout=1)
    bus.seen()
    async with bus:
        await accepted(bus, 1)
        async with blocked(node, bus):
            with trio.fail_after(HANG_SECONDS):
                await bus.close(timeout=1)


async def test_lost_connection_for_publishes_is_reported_and_events_still_arrive(
    node: RabbitNode,
) -> None:
    sandbox = node.sandbox()
    bus, sender = sandbox.bus(name="watched"), sandbox.bus(None)
    seen = bus.seen()
    async with opened(bus, sender):
        await accepted(sender, 1)
        await accepted(bus, 2)
        await until(lambda: len(seen) == 2)
        await close_publishing_connection(node, "watched")
        await until(lambda: bus.count_reports("the connection for publishes is lost"))
        await until(lambda: bus.count_reports("the connection for publishes is back"))
        await accepted(bus, 3)
        await accepted(sender, 4)
        await until(lambda: sorted(numbers(seen)) == [1, 2, 3, 4])
    assert bus.count_reports("closed by the test") == 1
    assert bus.count_reports("connection to amqp is lost") == 0


async def close_publishing_connection(node: RabbitNode, name: str) -> None:
    """Let the server close the connection of a bus on which it does not consume."""
    told = await node.ctl("list_channels", "connection", "consumer_count")
    counts = dict.fromkeys((line.split("\t")[0] for line in told.splitlines()), 0)
    for line in told.splitlines():
        pid, count = line.split("\t")
        counts[pid] += int(count)
    for line in (await node.ctl("list_connections", "pid", "client_properties")).splitlines():
        pid = line.split("\t")[0]
        if name in line and not counts[pid]:
            await node.ctl("close_connection", pid, "closed by the test")


async def test_second_connection_has_the_settings_of_the_given_broker(node: RabbitNode) -> None:
    vhost, user = "goevent test/of settings", "only here"
    await node.ctl("add_vhost", vhost)
    await node.ctl("add_user", user, "s3 cret")
    await node.ctl("set_permissions", "--vhost", vhost, user, ".*", ".*", ".*")
    sandbox = node.sandbox()
    broker = RabbitBroker(
        host="127.0.0.1",
        port=node.port,
        virtualhost=vhost,
        security=SASLPlaintext(username=user, password="s3 cret"),
        client_properties={"name": "the application"},  # type: ignore[arg-type]  # pyright: ignore
        logger=None,
    )
    bus = FastStreamBus(FastStreamDriver(broker, BrokerConfig(stream=sandbox.exchange)))
    seen = bus.seen()
    async with bus:
        await accepted(bus, 1)
        await until(lambda: seen)
        told = await node.ctl("list_connections", "user", "vhost", "client_properties")
        lines = [line for line in told.splitlines() if user in line and vhost in line]
        assert len(lines) == 2
        assert all("the application" in line for line in lines)
