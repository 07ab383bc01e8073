"""The questions of operators to RabbitMQ: check, lag and tail, on a real server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
from tests.support.limits import HANG_SECONDS
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
        async with asker:
            found = await asker.driver.lag("shop")
            assert await asker.driver.lag("nobody") == []
    assert [(each.event_name, each.lag) for each in found if each.lag] == [("order.paid", 3)]
    assert found[0].oldest_waiting is None


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
