"""The questions of operators to RabbitMQ: check, lag and tail, on a real server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from pamqp.commands import Basic
from tests.support.limits import HANG_SECONDS
from tests.support.rabbit_node import rabbit_node
from tests.support.rabbit_server import RabbitSandbox, rabbit_sandbox, with_channel
from tests.support.redis_buses import Paid

from goevent import UnsupportedError
from goevent.drivers import TailedEvent


@pytest.fixture
async def rabbit() -> AsyncGenerator[RabbitSandbox]:
    async with rabbit_sandbox("shop", "watchers") as sandbox:
        yield sandbox


async def take(channel: trio.abc.ReceiveChannel[TailedEvent], count: int) -> list[TailedEvent]:
    with trio.fail_after(HANG_SECONDS):
        return [await channel.receive() for _ in range(count)]


@pytest.mark.parametrize("group", [None, "watchers"])
async def test_a_tail_shows_the_events_of_buses_with_and_without_a_group(
    rabbit: RabbitSandbox, group: str | None
) -> None:
    watcher, fan_out, grouped = rabbit.bus(group), rabbit.bus(None), rabbit.bus("shop")
    got = grouped.seen()
    async with watcher, fan_out, grouped, watcher.driver.tail("order.*") as channel:
        await (await fan_out.dispatch(Paid(n=1))).wait()
        await (await grouped.dispatch(Paid(n=2))).wait()
        shown = await take(channel, 2)
        with trio.fail_after(HANG_SECONDS):
            while len(got) < 2:
                await trio.sleep(0.01)
    assert [each.event_name for each in shown] == ["order.paid", "order.paid"]
    assert {event.n for event in got} == {1, 2}


async def test_the_lag_counts_the_queues_of_a_group_by_the_names_of_the_bus(
    rabbit: RabbitSandbox,
) -> None:
    first, asker, sender = rabbit.bus("shop"), rabbit.bus(None), rabbit.bus(None)
    first.seen()
    asker.seen()
    async with sender:
        async with first:
            pass
        for n in range(3):
            await (await sender.dispatch(Paid(n=n))).wait()
        with pytest.raises(UnsupportedError, match="module:bus"):
            await sender.driver.lag("shop")
        named = await sender.driver.lag("shop", ["order.paid", "order.*"])
        async with asker:
            found = await asker.driver.lag("shop")
            assert await asker.driver.lag("nobody") == []
    assert [(each.event_name, each.lag) for each in found if each.lag] == [("order.paid", 3)]
    assert found[0].oldest_waiting is None
    assert ("order.paid", 3) in [(each.event_name, each.lag) for each in named]


async def test_a_server_without_faults_has_no_findings(rabbit: RabbitSandbox) -> None:
    for group in (None, "shop"):
        bus = rabbit.bus(group)
        bus.seen()
        async with bus:
            assert await bus.driver.check(["order.paid", "order.*", "never.used"]) == []


async def test_a_queue_with_other_properties_is_a_warning(rabbit: RabbitSandbox) -> None:
    bus = rabbit.bus("shop")

    async def declare(channel: Any) -> None:
        await channel.queue_declare(f"{rabbit.exchange}:shop:order.paid", durable=True)

    await with_channel(rabbit.port, declare)
    async with bus:
        (finding,) = await bus.driver.check(["order.paid"])
    assert finding.severity == "warning"
    assert "other properties" in finding.text
    assert "\n" not in finding.text


async def test_a_tail_goes_on_after_a_restart_of_the_server() -> None:
    with rabbit_node() as node:
        bus = node.sandbox().bus(None)
        async with bus, bus.driver.tail("order.*") as channel:
            await (await bus.dispatch(Paid(n=1))).wait()
            await take(channel, 1)
            await trio.to_thread.run_sync(node.kill)
            await trio.to_thread.run_sync(node.start)
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    # An event that is sent before the tail is back is lost to it.
                    while True:
                        await (await bus.dispatch(Paid(n=2))).wait()
                        await trio.sleep(0.1)

                nursery.start_soon(send)
                (event,) = await take(channel, 1)
                nursery.cancel_scope.cancel()
    assert event.event_name == "order.paid"


async def test_a_tail_shows_hostile_messages_and_goes_on(rabbit: RabbitSandbox) -> None:
    watcher = rabbit.bus(None)
    properties: list[dict[str, Any]] = [
        {},
        {"headers": {"a": {"b": [1, None, bytearray(b"\xff")]}, "": "x"}, "message_id": "\x1b[31m"},
        {"timestamp": datetime.fromtimestamp(0, UTC), "content_type": "\x00"},
        {"headers": {"x-death": [{"count": 1}]}, "correlation_id": "é"},
    ]

    async def publish(channel: Any) -> None:
        for each in properties:
            for key in ("order.paid", "order.", "order.\x1b", "order.é"):
                await channel.basic_publish(
                    b"\xff\x00",
                    exchange=rabbit.exchange,
                    routing_key=key,
                    properties=Basic.Properties(**each),
                )

    async with watcher, watcher.driver.tail("order.*") as channel:
        await with_channel(rabbit.port, publish)
        await rabbit.publish(b"last")
        shown: list[TailedEvent] = []
        while not shown or shown[-1].data != b"last":
            shown += await take(channel, 1)
    assert [each.event_name for each in shown] == ["order.paid"] * 5
    for each in shown:
        assert isinstance(each.id, str)
        assert all(isinstance(text, str) for pair in each.headers.items() for text in pair)


async def test_a_slow_reader_of_a_tail_holds_up_nobody(rabbit: RabbitSandbox) -> None:
    watcher, reader = rabbit.bus(None), rabbit.bus("shop")
    got = reader.seen()
    async with reader, watcher, watcher.driver.tail("order.*") as channel:
        for n in range(1500):
            await (await reader.dispatch(Paid(n=n))).wait()
        with trio.fail_after(HANG_SECONDS):
            while len(got) < 1500:
                await trio.sleep(0.01)
        shown = await take(channel, 1500)
    assert b"1499" in shown[-1].data
