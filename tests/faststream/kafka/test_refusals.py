"""Refusals of Kafka: each reaches the publish or `async with bus`, or is one report."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.kafka_mock import (
    CLUSTER_FORBIDDEN,
    FETCH,
    FIND_COORDINATOR,
    GROUP_FORBIDDEN,
    INIT_PRODUCER_ID,
    INVALID_TOPIC,
    JOIN_GROUP,
    MESSAGE_TOO_LARGE,
    OFFSET_COMMIT,
    OFFSET_FETCH,
    POLICY_VIOLATION,
    PRODUCE,
    TOPIC_FORBIDDEN,
    UNKNOWN_TOPIC,
    KafkaMock,
    kafka_mock,
    read_records,
)
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Paid, numbers, until

from goevent import DriverConnectionError, DriverError
from goevent_faststream import BrokerConfig, FastStreamDriver

TOPIC = "goevent.order.paid"

both_clients = pytest.mark.parametrize("scheme", ["kafka", "kafka+confluent"])


def bus_on(mock: KafkaMock, scheme: str) -> FastStreamBus:
    options = "group=shop&claim_idle=1.2&publish_timeout=1"
    return FastStreamBus(f"{scheme}://{mock.addr}?{options}")


async def until_reports(bus: FastStreamBus, text: str, count: int) -> None:
    await until(lambda: bus.count_reports(text) == count)


async def until_seen(seen: list[Any], number: int) -> None:
    await until(lambda: number in numbers(seen))


async def refused(bus: FastStreamBus) -> DriverError:
    """Dispatch an event, and return the error of its publish."""
    with trio.fail_after(HANG_SECONDS):
        handle = await bus.dispatch(Paid(n=1))
        await handle.wait()
    (error,) = handle.errors
    assert isinstance(error.error, DriverError)
    return error.error


@both_clients
@pytest.mark.parametrize(
    ("code", "text"),
    [
        (TOPIC_FORBIDDEN, "authorization"),
        (POLICY_VIOLATION, "policy"),
        (MESSAGE_TOO_LARGE, "size"),
        (INVALID_TOPIC, "topic"),
    ],
)
async def test_refused_publish_fails_at_once_with_the_reason(
    scheme: str, code: int, text: str
) -> None:
    async with kafka_mock() as mock, bus_on(mock, scheme) as bus:
        await accepted(bus, 1)
        mock.refuse(PRODUCE, code)
        error = await refused(bus)
        assert not isinstance(error, DriverConnectionError)
        assert text in str(error).lower()
        mock.allow(PRODUCE)
        await accepted(bus, 2)


@both_clients
async def test_user_without_the_right_to_publish_at_all_is_told_so(scheme: str) -> None:
    async with kafka_mock() as mock:
        mock.refuse(INIT_PRODUCER_ID, CLUSTER_FORBIDDEN)
        with pytest.raises(DriverError, match=r"(?i)cluster ?authorization"):
            async with bus_on(mock, scheme) as bus:
                raise await refused(bus)


@both_clients
@pytest.mark.parametrize(
    ("request_key", "code"),
    [
        (JOIN_GROUP, GROUP_FORBIDDEN),
        (FIND_COORDINATOR, GROUP_FORBIDDEN),
        (OFFSET_FETCH, TOPIC_FORBIDDEN),
    ],
)
async def test_bus_that_may_not_join_its_group_does_not_open(
    scheme: str, request_key: int, code: int
) -> None:
    async with kafka_mock() as mock:
        mock.refuse(request_key, code)
        bus = bus_on(mock, scheme)
        bus.seen()
        with pytest.raises(DriverError, match=r"(?i)authorization"):
            async with bus:
                pass


@both_clients
async def test_bus_that_may_not_see_its_topic_does_not_open(scheme: str) -> None:
    async with kafka_mock() as mock:
        mock.topic(TOPIC, 2)
        mock.refuse_topic(TOPIC, TOPIC_FORBIDDEN)
        bus = bus_on(mock, scheme)
        bus.seen()
        with pytest.raises(DriverError, match=r"(?i)authorization") as caught:
            async with bus:
                pass
        assert not isinstance(caught.value, DriverConnectionError)


async def test_missing_topic_that_no_broker_creates_is_a_clear_error() -> None:
    async with kafka_mock() as mock:
        mock.topic(TOPIC, 2)
        mock.refuse_topic(TOPIC, UNKNOWN_TOPIC)
        bus = bus_on(mock, "kafka")
        bus.seen()
        with pytest.raises(DriverError, match=f"no topic '{TOPIC}'"):
            async with bus:
                pass


@both_clients
@pytest.mark.parametrize(
    ("request_key", "code", "losses"),
    [(FETCH, TOPIC_FORBIDDEN, (1, 2)), (OFFSET_COMMIT, GROUP_FORBIDDEN, (1,))],
)
async def test_right_that_is_taken_away_is_reported_once_until_it_is_back(
    scheme: str, request_key: int, code: int, losses: tuple[int, ...]
) -> None:
    async with kafka_mock() as mock:
        bus = bus_on(mock, scheme)
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1)
            await until(lambda: seen)
            for loss in losses:
                mock.refuse(request_key, code)
                await accepted(bus, 10 * loss)
                await until_reports(bus, "uthorization", loss)
                await mock.asked_again(request_key)
                assert bus.count_reports("uthorization") == loss
                mock.allow(request_key)
                await until_seen(seen, 10 * loss)
                await accepted(bus, 10 * loss + 1)
                await until_seen(seen, 10 * loss + 1)


@both_clients
async def test_records_that_were_deleted_unread_are_reported(scheme: str) -> None:
    async with kafka_mock() as mock:
        mock.topic(TOPIC, 1)
        first = bus_on(mock, scheme)
        seen = first.seen()
        async with first:
            await accepted(first, 1)
            await until(lambda: seen)
        async with FastStreamBus(f"{scheme}://{mock.addr}") as sender:
            await accepted(sender, *range(2, 8))
        mock.delete_records(TOPIC, 0, 5)
        again = bus_on(mock, scheme)
        seen = again.seen()
        async with again:
            await until(lambda: numbers(seen) == [6, 7])
            assert again.count_reports("4 records of goevent.order.paid-0 were deleted") == 1


@both_clients
async def test_topic_that_collides_with_another_one_is_refused_with_its_name(scheme: str) -> None:
    async with kafka_mock() as mock, FastStreamBus(f"{scheme}://{mock.addr}") as bus:
        mock.topic("goevent.order_paid")
        mock.refuse_topic(TOPIC, INVALID_TOPIC)
        error = await refused(bus)
        assert "There is a topic 'goevent.order_paid'" in str(error)
        assert not isinstance(error, DriverConnectionError)


@both_clients
async def test_dead_letter_that_is_too_large_is_written_without_its_traceback(
    scheme: str,
) -> None:
    async with kafka_mock() as mock:
        mock.topic(TOPIC, 1)
        bus = FastStreamBus(f"{scheme}://{mock.addr}?group=shop&claim_idle=1.2&max_deliveries=1")
        gate = trio.Event()

        async def fail(event: Paid) -> None:
            await gate.wait()
            raise ValueError("no")

        bus.subscribe(fail, Paid)
        async with bus:
            await accepted(bus, 1)
            mock.refuse(PRODUCE, MESSAGE_TOO_LARGE, 1)
            gate.set()
            await until_reports(bus, "is a dead letter", 1)
            (letter,) = await read_records(mock, f"{TOPIC}..dead", 1)
            assert bus.count_reports("ize") == 0
        headers = dict(letter.headers())
        assert b"no" in headers["goevent-reason"]
        assert "goevent-details" not in headers


@both_clients
async def test_publish_finds_a_topic_again_that_was_deleted(scheme: str) -> None:
    async with kafka_mock() as mock, bus_on(mock, scheme) as bus:
        await accepted(bus, 1)
        mock.forget(TOPIC)
        with trio.fail_after(HANG_SECONDS):
            while True:
                handle = await bus.dispatch(Paid(n=2))
                await handle.wait()
                if not handle.errors:
                    break


@both_clients
@pytest.mark.parametrize(
    ("prefix", "text"),
    [
        ("shop@", "takes only letters"),
        ("s" * 200 + ".", "must be letters"),
        ("__shop.", "Kafka's own"),
        ("shop..", "marks dead letters"),
    ],
)
def test_prefix_that_kafka_refuses_is_refused_when_the_driver_is_made(
    scheme: str, prefix: str, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        FastStreamDriver.from_url(f"{scheme}://h?prefix={prefix}")
    assert BrokerConfig(prefix="shop-1_a.").prefix == "shop-1_a."
