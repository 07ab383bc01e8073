"""The metrics of buses on real brokers: connection, backlog, redeliveries, dead letters."""

from __future__ import annotations

import trio
from prometheus_client.parser import text_string_to_metric_families
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Paid
from tests.support.streams_buses import StreamsBus, publish, streams_server

from goevent.telemetry.health import Health
from goevent.telemetry.prometheus import SnapshotCollector


def metrics(collector: SnapshotCollector) -> dict[str, float]:
    """Return the value of each metric that has one series, and the sum of each other one."""
    return {
        family.name: sum(sample.value for sample in family.samples)
        for family in text_string_to_metric_families(collector.text().decode())
    }


async def until(collector: SnapshotCollector, expected: dict[str, float]) -> None:
    """Wait until metrics have these values; the backlog is up to a second old."""
    found: dict[str, float] = {}
    with trio.move_on_after(HANG_SECONDS):
        while not expected.items() <= found.items():
            await trio.sleep(0.05)
            found = metrics(collector)
    assert found | expected == found


async def test_a_group_on_redis_streams_shows_its_backlog() -> None:
    release = trio.Event()

    async def wait(event: Paid) -> None:
        await release.wait()

    async with streams_server() as server:
        bus = StreamsBus(server.addr, group="billing", prefetch=2)
        collector, health = SnapshotCollector(bus, name="orders"), Health(bus)
        bus.subscribe(wait, Paid, mailbox=1)
        async with bus:
            await publish(bus, *range(10))
            await until(collector, {"goevent_group_pending": 2, "goevent_group_lag": 8})
            text = collector.text().decode()
            assert 'goevent_group_lag{bus="orders",group="billing",event="order.paid"} 8' in text
            found = metrics(collector)
            assert found["goevent_driver_connected"] == 1
            assert found["goevent_events_dispatched"] == 10
            assert found["goevent_events_arrived"] <= 2
            assert found["goevent_group_oldest_pending_age_seconds"] > 0
            assert health.ready().healthy
            release.set()
            await until(collector, {"goevent_group_pending": 0, "goevent_group_lag": 0})
            assert metrics(collector)["goevent_redelivered_events"] == 0


async def test_redeliveries_and_dead_letters_of_redis_streams_are_counted() -> None:
    async with streams_server() as server:
        bus = StreamsBus(server.addr, max_deliveries=3)
        collector = SnapshotCollector(bus)
        bus.tries(fail=lambda event: event.n == 1)
        async with bus:
            await publish(bus, 0, 1, 2)
            await until(collector, {"goevent_dead_letters": 1})
            found = metrics(collector)
    assert found["goevent_redelivered_events"] == 2
    assert found["goevent_events_arrived"] == 5


async def test_a_server_that_is_gone_makes_the_bus_not_ready() -> None:
    async with streams_server() as server:
        bus = StreamsBus(server.addr)
        collector, health = SnapshotCollector(bus), Health(bus)
        bus.seen()
        async with bus:
            assert metrics(collector)["goevent_driver_connected"] == 1
            server.kill()
            await until(collector, {"goevent_driver_connected": 0})
            assert health.ready().reasons == ("the driver is not connected to its broker",)
            assert health.live().healthy
