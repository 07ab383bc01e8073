"""A member of a Kafka group that gets nothing says why, once, with the option to change."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.kafka_mock import (
    FETCH,
    FIND_COORDINATOR,
    HEARTBEAT,
    JOIN_GROUP,
    LIST_OFFSETS,
    OFFSET_FETCH,
    SYNC_GROUP,
    KafkaMock,
    kafka_mock,
)
from tests.support.redis_buses import Paid, numbers, opened, until

from goevent import DriverError
from goevent_faststream._kafka import adapter, reading

TOPIC = "goevent.order.paid"
GROUP = f"'shop.{TOPIC}'"
UNKNOWN_MEMBER, NOT_COORDINATOR = 25, 16
both_clients = pytest.mark.parametrize("scheme", ["kafka", "kafka+confluent"])

# Refusals that do not get better: the request, the code, and two parts of the report.
LASTING = [
    (JOIN_GROUP, 23, "Inconsistent group protocol", "the option group"),
    (JOIN_GROUP, 24, "Invalid group id", "the option group"),
    (JOIN_GROUP, 26, "Invalid session timeout", "claim_idle is 1.2 s"),
    (JOIN_GROUP, 30, "Group authorization failed", f"right Read to the group {GROUP}"),
    (JOIN_GROUP, 35, "Unsupported version", "too old"),
    (JOIN_GROUP, 81, "Group max size", "group.max.size"),
    (JOIN_GROUP, 82, "Fenced instance id", "group.instance.id"),
    (JOIN_GROUP, -1, "Unknown server error", "log of the broker"),
    (SYNC_GROUP, 23, "Inconsistent group protocol", "the option group"),
    (SYNC_GROUP, 30, "Group authorization failed", f"right Read to the group {GROUP}"),
    (SYNC_GROUP, -1, "Unknown server error", "log of the broker"),
    (FIND_COORDINATOR, 24, "Invalid group id", "the option group"),
    (FIND_COORDINATOR, 30, "Group authorization failed", f"right Read to the group {GROUP}"),
    (FIND_COORDINATOR, 35, "Unsupported version", "too old"),
    (OFFSET_FETCH, 29, "Topic authorization failed", f"to the topic '{TOPIC}'"),
    (OFFSET_FETCH, 30, "Group authorization failed", f"right Read to the group {GROUP}"),
    (LIST_OFFSETS, 29, "Topic authorization failed", f"to the topic '{TOPIC}'"),
    (LIST_OFFSETS, 35, "Unsupported version", "too old"),
]
# Refusals that usually pass.
PASSING = [
    (JOIN_GROUP, 14, "Coordinator load in progress"),
    (JOIN_GROUP, 15, "Coordinator not available"),
    (SYNC_GROUP, 15, "Coordinator not available"),
    (FIND_COORDINATOR, 15, "Coordinator not available"),
    (OFFSET_FETCH, NOT_COORDINATOR, "Not coordinator"),
    (LIST_OFFSETS, 6, "Not leader for partition"),
    (LIST_OFFSETS, 56, "Storage error"),
]
# A group that refuses the request of a running member: it has to come back to the group. Each
# request, with each way in which the clients take a refusal: they name some codes, treat the right
# and a fenced member on their own, and all others alike.
RUNNING = [
    case
    for case in LASTING
    if case[:2]
    in {
        *((JOIN_GROUP, code) for code in (23, 30, 82, -1)),
        *((SYNC_GROUP, code) for code in (30, -1)),
        *((OFFSET_FETCH, code) for code in (29, 30)),
    }
]


def bus_on(mock: KafkaMock, scheme: str) -> FastStreamBus:
    options = "group=shop&claim_idle=1.2&publish_timeout=1"
    return FastStreamBus(f"{scheme}://{mock.addr}?{options}")


def has_reported(bus: FastStreamBus, text: str, count: int) -> bool:
    return bus.count_reports(text) == count


def has_seen(seen: list[Any], n: int) -> bool:
    return n in numbers(seen)


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, and report after a short time."""
    monkeypatch.setattr(adapter, "DISCOVERY_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(reading, "JOIN_SECONDS", 0.5)
    monkeypatch.setattr(reading, "READ_SILENCE_SECONDS", 2.0)


@both_clients
@pytest.mark.parametrize(("request_key", "code", "name", "remedy"), LASTING)
async def test_bus_with_a_lasting_refusal_does_not_open(
    scheme: str,
    request_key: int,
    code: int,
    name: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("goevent_faststream._kafka.consumer.JOIN_ATTEMPTS", 3)
    async with kafka_mock() as mock:
        mock.topic(TOPIC, 2)
        mock.refuse(request_key, code)
        bus = bus_on(mock, scheme)
        bus.seen()
        with pytest.raises(DriverError, match=name) as caught:
            async with bus:
                pass
        assert remedy in str(caught.value)


@both_clients
@pytest.mark.parametrize(("request_key", "code", "name", "remedy"), RUNNING)
async def test_running_member_reports_a_refusal_once_and_recovers(
    scheme: str, request_key: int, code: int, name: str, remedy: str
) -> None:
    async with kafka_mock() as mock:
        mock.topic(TOPIC, 2)
        bus = bus_on(mock, scheme)
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1)
            await until(lambda: seen)
            mock.refuse(request_key, code)
            mock.refuse(HEARTBEAT, UNKNOWN_MEMBER, 1)
            await until(lambda: bus.count_reports(name))
            await mock.asked_again(request_key)
            assert bus.count_reports(name) == 1
            assert bus.count_reports(remedy) == 1
            mock.allow(request_key)
            await accepted(bus, 2)
            await until(lambda: 2 in numbers(seen), 20)
            assert bus.count_reports(name) == 1


@both_clients
@pytest.mark.parametrize("code", [24, 30, -1])
async def test_member_whose_heartbeats_are_refused_reports_it_once(scheme: str, code: int) -> None:
    async with kafka_mock() as mock:
        mock.topic(TOPIC, 2)
        bus = bus_on(mock, scheme)
        bus.seen()
        async with bus:
            mock.refuse(HEARTBEAT, code)
            await until(lambda: bus.count_reports("refuses Heartbeat"), 20)
            await mock.asked_again(HEARTBEAT)
            assert bus.count_reports("refuses Heartbeat") == 1


@both_clients
@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize(("request_key", "code", "name"), PASSING)
async def test_passing_refusal_that_lasts_is_the_reason_of_one_report(
    scheme: str, request_key: int, code: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The bus opens while it waits for the group.
    monkeypatch.setattr("goevent_faststream._kafka.consumer.JOIN_WAIT_SECONDS", 0.1)
    async with kafka_mock() as mock:
        mock.topic(TOPIC, 2)
        mock.refuse(request_key, code)
        bus = bus_on(mock, scheme)
        seen = bus.seen()
        async with bus:
            await until(lambda: bus.count_reports("has given it no partitions"), 20)
            assert bus.count_reports(name) == 1
            mock.allow(request_key)
            await accepted(bus, 1)
            await until(lambda: seen, 20)
            assert bus.count_reports("no partitions") == 1


@both_clients
@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize(("code", "losses"), [(1, 1), (3, 1), (6, 1), (56, 2)])
async def test_partition_whose_records_do_not_come_is_reported_once(
    scheme: str, code: int, losses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "READ_SILENCE_SECONDS", 1.0)
    async with kafka_mock() as mock:
        mock.topic(TOPIC, 1)
        bus = bus_on(mock, scheme)
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1)
            await until(lambda: seen)
            for loss in range(1, losses + 1):
                mock.refuse(FETCH, code)
                await accepted(bus, 10 * loss)
                await until(partial(has_reported, bus, "no successful fetch", loss), 20)
                await trio.sleep(1.5)
                assert bus.count_reports("no successful fetch") == loss
                mock.allow(FETCH)
                await until(partial(has_seen, seen, 10 * loss), 20)


@both_clients
@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("code", [-1, 35])
async def test_fetch_that_is_refused_is_reported_at_once(scheme: str, code: int) -> None:
    async with kafka_mock() as mock:
        mock.topic(TOPIC, 2)
        bus = bus_on(mock, scheme)
        seen = bus.seen()
        async with bus:
            mock.refuse(FETCH, code)
            await accepted(bus, 1)
            await until(lambda: bus.count_reports("refuses Fetch"))
            mock.allow(FETCH)
            await until(lambda: seen)
            assert bus.count_reports("refuses Fetch:") == 1


@both_clients
@pytest.mark.usefixtures("_soon")
async def test_member_too_many_says_so_once(scheme: str) -> None:
    async with kafka_mock() as mock:
        mock.topic(TOPIC, 1)
        buses = [bus_on(mock, scheme) for _ in range(2)]
        seen = [bus.seen() for bus in buses]
        async with opened(*buses):
            text = "more members than the topic has partitions"
            await until(lambda: sum(bus.count_reports(text) for bus in buses), 20)
            await trio.sleep(1.5)
            assert sum(bus.count_reports(text) for bus in buses) == 1
            await accepted(buses[0], 1)
            await until(lambda: any(seen))


@both_clients
@pytest.mark.usefixtures("_soon")
async def test_idle_and_full_buses_report_nothing(scheme: str) -> None:
    async with kafka_mock() as mock:
        mock.topic(TOPIC, 2)
        bus = FastStreamBus(f"{scheme}://{mock.addr}?group=shop&claim_idle=1.2&prefetch=2")
        gate, begun = trio.Event(), list[int]()

        async def slow(event: Paid) -> None:
            begun.append(event.n)
            await gate.wait()

        bus.subscribe(slow, Paid, concurrency=1000)
        async with bus:
            # Longer than each limit.
            await trio.sleep(3)
            await accepted(bus, *range(600))
            await until(lambda: len(begun) == 2)
            await trio.sleep(3)
            assert not bus.reports
            gate.set()
            await until(lambda: len(begun) == 600, 20)
