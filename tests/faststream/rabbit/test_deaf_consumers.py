"""Consumers that get nothing: each is reported with its cause, and the bus listens again."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from faststream.rabbit import RabbitBroker, RabbitQueue
from pamqp.commands import Basic
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.rabbit_node import RabbitNode
from tests.support.rabbit_server import RabbitSandbox
from tests.support.redis_buses import Paid, numbers, opened, until
from tests.support.redis_server import fault_proxy

from goevent import current_delivery
from goevent_faststream import BrokerConfig, FastStreamDriver


def bus_with_queue(sandbox: RabbitSandbox, prefetch: int, **arguments: object) -> FastStreamBus:
    """Return a bus whose queues have arguments."""
    url = f"amqp://guest:guest@127.0.0.1:{sandbox.port}/"
    stem = f"{sandbox.exchange}:shop"
    queue = RabbitQueue(stem, durable=True, arguments=arguments)  # type: ignore[call-overload]
    config = BrokerConfig(group="shop", stream=sandbox.exchange, backoff=0.02, prefetch=prefetch)
    return FastStreamBus(FastStreamDriver(RabbitBroker(url, logger=None), config, address=queue))


async def test_cancelled_consumer_of_a_queue_that_stays_is_replaced_and_nothing_runs_twice(
    node: RabbitNode,
) -> None:
    sandbox = node.sandbox()
    bus = sandbox.bus()
    gate = trio.Event()
    ran: list[int] = []

    async def listen(event: Paid) -> None:
        ran.append(event.n)
        await gate.wait()

    async def cancel_as_a_server_does() -> None:
        (queue,) = adapter._queues.values()
        await adapter._connection.consume_channel.basic_cancel(queue.consumer_tag)
        await adapter._on_consumer_cancelled(Basic.Cancel(queue.consumer_tag))

    bus.subscribe(listen, Paid, concurrency=10)
    async with bus:
        adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
        trio_side: Any = bus.driver._trio_side  # pyright: ignore[reportPrivateUsage]
        await accepted(bus, *range(5))
        await until(lambda: len(ran) == 5)
        await trio_side._loop_thread.call(cancel_as_a_server_does)
        await until(lambda: bus.count_reports("has cancelled the consumer of the queue"))
        await until(lambda: bus.count_reports("amqp again"))
        gate.set()
        await accepted(bus, 5)
        await until(lambda: 5 in ran)
        await until(lambda: [(b.lag, b.pending) for b in bus.backlogs()] == [(0, 0)])
    assert sorted(ran) == [*range(6)]
    assert bus.count_reports("has cancelled the consumer") == 1
    assert bus.count_reports("deleted") == 0


async def test_bus_that_another_consumer_keeps_from_the_queue_says_so(
    node: RabbitNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goevent_faststream._rabbit.work_queues.READ_SILENCE_SECONDS", 2.0)
    sandbox = node.sandbox()
    arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    first = bus_with_queue(sandbox, 1, **arguments)
    second = bus_with_queue(sandbox, 1, **arguments)
    gate = trio.Event()

    async def stuck(_: Paid) -> None:
        await gate.wait()

    first.subscribe(stuck, Paid)
    seen = second.seen()
    async with first, second:
        await accepted(first, 1, 2)
        await until(lambda: second.count_reports("x-single-active-consumer"))
        # The lag stays, and so does the silence: it is reported once.
        await trio.sleep(4)
        assert second.count_reports("no successful fetch from the queue") == 1
        assert not seen
        gate.set()
        await first.close()
        await accepted(second, 3)
        await until(lambda: 3 in numbers(seen))
    assert first.count_reports("no successful fetch") == 0


@asynccontextmanager
async def short_consumer_timeout(node: RabbitNode) -> AsyncGenerator[None]:
    """Let the server close channels with deliveries of more than a second inside a `with` block."""

    async def set_milliseconds(**settings: str) -> None:
        for name, value in settings.items():
            await node.ctl("eval", f"application:set_env(rabbit, {name}, {value}).")

    async def stored(name: str) -> str:
        found = await node.ctl("eval", f"application:get_env(rabbit, {name}).")
        return found.strip().removeprefix("{ok,").removesuffix("}")

    before = {name: await stored(name) for name in ("consumer_timeout", "channel_tick_interval")}
    await set_milliseconds(consumer_timeout="1000", channel_tick_interval="500")
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await set_milliseconds(**before)


async def test_listener_beyond_the_consumer_timeout_is_reported_and_runs_once(
    node: RabbitNode,
) -> None:
    sandbox = node.sandbox()
    bus = sandbox.bus()
    gate = trio.Event()
    ran: list[tuple[int, int]] = []

    async def listen(event: Paid) -> None:
        ran.append((event.n, current_delivery().deliveries))
        if event.n == 1:
            await gate.wait()

    bus.subscribe(listen, Paid, concurrency=2)
    async with short_consumer_timeout(node), bus:
        await accepted(bus, 1)
        await until(lambda: bus.count_reports("raise that"))
        await until(lambda: bus.count_reports("amqp again"))
        gate.set()
        await accepted(bus, 2)
        await until(lambda: len(ran) == 2)
        await until(lambda: [(b.lag, b.pending) for b in bus.backlogs()] == [(0, 0)])
    assert ran == [(1, 1), (2, 1)]


@pytest.mark.parametrize("group", [None, "shop"])
async def test_connection_that_is_dead_without_heartbeats_is_replaced(
    node: RabbitNode, monkeypatch: pytest.MonkeyPatch, group: str | None
) -> None:
    for module in ("link", "connection"):
        monkeypatch.setattr(f"goevent_faststream._rabbit.{module}.REPLY_SECONDS", 1.0)
    sandbox = node.sandbox()
    async with fault_proxy(sandbox.port) as proxy:
        bus, sender = sandbox.bus(group, port=proxy.port, heartbeat=0), sandbox.bus(None)
        seen = bus.seen()
        async with opened(bus, sender):
            await accepted(sender, 1)
            await until(lambda: seen)
            proxy.swallow()
            await until(lambda: bus.count_reports("amqp is lost: no answer within 1 s"))
            proxy.reset()
            proxy.pass_on()
            await until(lambda: bus.count_reports("amqp again"))
            await accepted(sender, 2)
            await until(lambda: 2 in numbers(seen))
    assert bus.count_reports("no answer within 1 s") <= 2


async def test_message_that_the_driver_fails_on_ends_the_bus(
    node: RabbitNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise LookupError("for the test")

    sandbox = node.sandbox()
    bus = sandbox.bus()
    bus.seen()
    with pytest.RaisesGroup(
        pytest.RaisesExc(Exception, match="for the test"),
        flatten_subgroups=True,
        allow_unwrapped=True,
    ):
        async with bus:
            monkeypatch.setattr("goevent_faststream._rabbit.receiver.count_deliveries", fail)
            await bus.dispatch(Paid(n=1))
            await trio.sleep_forever()
