"""The largest event of a topic: it is compared with the broker's own limit, and fails alone."""

from __future__ import annotations

import pytest
import trio
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.kafka_script import scripted_kafka
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Paid

from goevent import DriverConnectionError, DriverError, EncodeError
from goevent_faststream._adapter.contract import Outgoing
from goevent_faststream._kafka.limits import event_bytes, parse_limit

TOPIC = "goevent.order.paid"
LARGE = 3000

both_clients = pytest.mark.parametrize("scheme", ["kafka", "kafka+confluent"])


async def results(bus: FastStreamBus, *sizes: int) -> list[BaseException | None]:
    """Dispatch events with texts of these sizes at once, and return their errors."""
    with trio.fail_after(HANG_SECONDS):
        handles = [await bus.dispatch(Paid(n=n, text="x" * n)) for n in sizes]
        for handle in handles:
            await handle.wait()
    return [handle.errors[0].error if handle.errors else None for handle in handles]


@both_clients
async def test_event_above_the_limit_of_its_topic_fails_alone_and_unsent(scheme: str) -> None:
    async with scripted_kafka() as broker, broker.bus(scheme) as bus:
        first, large, *others = await results(bus, 10, LARGE, 600, 600, 600, 600, 10)
        assert [first, *others] == [None] * 6
        assert isinstance(large, EncodeError)
        assert f"above the max.message.bytes of the topic {TOPIC!r}, which is 2000" in str(large)
        assert "3287 bytes" in str(large)
        assert broker.refused == 0
        assert broker.limit_requests == [TOPIC]


@both_clients
@pytest.mark.parametrize("told", [None, "much", "-1", "100000"])
async def test_limit_that_is_not_told_or_wrong_costs_only_the_large_event(
    scheme: str, told: object
) -> None:
    async with scripted_kafka() as broker, broker.bus(scheme) as bus:
        broker.told_limit = told
        await accepted(bus, 1)
        first, large, *others = await results(bus, 10, LARGE, 600, 600, 600, 600, 10)
        assert [first, *others] == [None] * 6
        assert isinstance(large, DriverError)
        assert not isinstance(large, DriverConnectionError)
        assert "3287 bytes" in str(large)
        assert TOPIC in str(large)
        await accepted(bus, 2)


@both_clients
async def test_limit_that_is_lowered_is_asked_for_again_at_the_refusal(scheme: str) -> None:
    async with scripted_kafka() as broker, broker.bus(scheme) as bus:
        broker.max_message_bytes = 5000
        await accepted(bus, 1)
        broker.max_message_bytes = 2000
        first, large, last = await results(bus, 10, LARGE, 10)
        assert (first, last) == (None, None)
        assert isinstance(large, EncodeError)
        assert "which is 2000" in str(large)
        await accepted(bus, 2)
        assert [*dict.fromkeys(broker.limit_requests)] == [TOPIC]


@both_clients
async def test_limit_below_the_clients_batches_refuses_no_batch(scheme: str) -> None:
    async with scripted_kafka() as broker, broker.bus(scheme) as bus:
        assert await results(bus, *[500] * 40) == [None] * 40
        assert broker.refused == 0
        assert sum(broker.batches) == 40


@both_clients
async def test_publishes_go_on_after_a_batch_that_the_broker_refused(scheme: str) -> None:
    async with scripted_kafka() as broker, broker.bus(scheme) as bus:
        broker.told_limit = None
        await accepted(bus, 1)
        for _ in range(2):
            (error,) = await results(bus, LARGE)
            assert isinstance(error, DriverError)
            await accepted(bus, 2, 3)


@both_clients
async def test_counted_size_is_that_of_the_brokers_batch(scheme: str) -> None:
    async with scripted_kafka() as broker, broker.bus(scheme) as bus:
        for size in (1, 62, 63, 64, 100, 1500):
            broker.max_message_bytes = 10
            (error,) = await results(bus, size)
            assert isinstance(error, EncodeError)
            exact = int(error.reason.partition(" ")[0])
            for limit, told, refused in ((exact, "", 0), (exact - 1, exact, 1)):
                broker.max_message_bytes, broker.told_limit, before = limit, told, broker.refused
                async with broker.bus(scheme) as other:
                    (error,) = await results(other, size)
                # The broker refuses the batch, and then the event alone.
                assert (error is None, broker.refused - before) == (not refused, 2 * refused)
            broker.told_limit = ""


def _ignore(_: object) -> None:
    """Do nothing."""


@pytest.mark.parametrize(("key", "text"), [("\ud800", ""), ("a", "\udfff")])
def test_key_or_header_that_is_no_text_is_an_encode_error(key: str, text: str) -> None:
    outgoing = Outgoing("order", b"", {"h": text}, "", key, _ignore, _ignore)
    with pytest.raises(EncodeError, match="cannot be written as UTF-8"):
        event_bytes(outgoing)


@pytest.mark.parametrize(
    ("told", "limit"),
    [("1048588", 1048588), (2000, 2000), (None, None), ("", None), ("-1", None), ("0", None)],
)
def test_limit_is_read_from_the_brokers_answer(told: object, limit: int | None) -> None:
    assert parse_limit(told) == limit
