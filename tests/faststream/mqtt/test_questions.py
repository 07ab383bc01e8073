"""The questions of operators to an MQTT server: check, lag and tail, on Mosquitto."""

from __future__ import annotations

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.mqtt_server import mqtt_server
from tests.support.redis_buses import Paid

from goevent import UnsupportedError
from goevent.drivers import TailedEvent


async def take(channel: trio.abc.ReceiveChannel[TailedEvent], count: int) -> list[TailedEvent]:
    with trio.fail_after(HANG_SECONDS):
        return [await channel.receive() for _ in range(count)]


async def test_a_tail_takes_nothing_from_a_shared_subscription() -> None:
    async with mqtt_server() as server:
        watcher, reader, sender = server.bus("watchers"), server.bus("shop"), server.bus()
        got = reader.seen()
        async with reader, watcher, sender, watcher.driver.tail("order.*") as channel:
            for n in range(20):
                await (await sender.dispatch(Paid(n=n))).wait()
            shown = await take(channel, 20)
            with trio.fail_after(HANG_SECONDS):
                while len(got) < 20:
                    await trio.sleep(0.01)
        assert [each.event_name for each in shown] == ["order.paid"] * 20
        assert sorted(event.n for event in got) == [*range(20)]


async def test_a_tail_goes_on_after_a_restart_of_the_server() -> None:
    async with mqtt_server() as server:
        bus = server.bus()
        async with bus, bus.driver.tail("order.paid") as channel:
            await (await bus.dispatch(Paid(n=1))).wait()
            await take(channel, 1)
            server.kill()
            await server.start()
            with trio.fail_after(HANG_SECONDS):
                async with trio.open_nursery() as nursery:

                    async def send() -> None:
                        while True:
                            await (await bus.dispatch(Paid(n=2))).wait()
                            await trio.sleep(0.1)

                    nursery.start_soon(send)
                    assert (await channel.receive()).event_name == "order.paid"
                    nursery.cancel_scope.cancel()


async def test_a_server_without_faults_has_no_findings_and_no_lag() -> None:
    async with mqtt_server() as server:
        bus = server.bus("shop")
        async with bus:
            assert await bus.driver.check(["order.paid", "order.*", "**"]) == []
            with pytest.raises(UnsupportedError, match="stores none"):
                await bus.driver.lag("shop")


async def test_limits_of_the_server_are_findings() -> None:
    async with mqtt_server("max_qos 0", "max_packet_size 20000") as server:
        bus = server.bus()
        async with bus:
            found = await bus.driver.check(["order.paid"])
    assert [each.severity for each in found] == ["error", "warning"]
    assert "Maximum QoS" in found[0].text
    assert "20,000 bytes" in found[1].text


async def test_a_slow_reader_of_a_tail_holds_up_nobody() -> None:
    async with mqtt_server() as server:
        watcher, reader = server.bus(), server.bus()
        got = reader.seen()
        async with reader, watcher, watcher.driver.tail("order.*") as channel:
            for n in range(2500):
                await (await reader.dispatch(Paid(n=n))).wait()
            with trio.fail_after(HANG_SECONDS):
                while len(got) < 2500:
                    await trio.sleep(0.01)
            assert len(await take(channel, 100)) == 100
