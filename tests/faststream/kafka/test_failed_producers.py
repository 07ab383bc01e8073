"""Producers that can send nothing more: they are replaced, and the events tell the truth."""

from __future__ import annotations

from typing import Any

import faststream.confluent
import faststream.kafka
import pytest
import trio
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.kafka_mock import (
    CLUSTER_FORBIDDEN,
    INIT_PRODUCER_ID,
    MESSAGE_TOO_LARGE,
    OUT_OF_ORDER_SEQUENCE,
    PRODUCE,
    PRODUCER_FENCED,
    STALE_PRODUCER_EPOCH,
    UNKNOWN_PRODUCER_ID,
    UNKNOWN_SERVER_ERROR,
    kafka_mock,
)
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Paid, until

from goevent import DriverConnectionError, DriverError
from goevent_faststream import BrokerConfig, FastStreamDriver

both_clients = pytest.mark.parametrize("scheme", ["kafka", "kafka+confluent"])


def kind_of(scheme: str) -> Any:
    return faststream.kafka if scheme == "kafka" else faststream.confluent


async def publish_error(bus: FastStreamBus, n: int) -> BaseException | None:
    """Dispatch an event, and return the error of its publish, or None."""
    with trio.fail_after(HANG_SECONDS):
        handle = await bus.dispatch(Paid(n=n))
        await handle.wait()
    return handle.errors[0].error if handle.errors else None


async def accepted_at_last(bus: FastStreamBus) -> None:
    """Dispatch events until the broker accepts one."""
    with trio.fail_after(HANG_SECONDS):
        while await publish_error(bus, 0) is not None:
            await trio.sleep(0.05)  # the pauses between renewals are longer


def aiokafka_producer(bus: FastStreamBus) -> Any:
    """Return the client's producer of a bus; it belongs to the loop's thread."""
    broker: Any = bus.driver.broker
    return broker.config.broker_config.producer._producer.producer


@both_clients
@pytest.mark.parametrize(
    "code", [OUT_OF_ORDER_SEQUENCE, STALE_PRODUCER_EPOCH, UNKNOWN_PRODUCER_ID, PRODUCER_FENCED]
)
async def test_producer_that_the_broker_does_not_accept_is_replaced(scheme: str, code: int) -> None:
    async with kafka_mock() as mock, FastStreamBus(f"{scheme}://{mock.addr}") as bus:
        await accepted(bus, 1, 2)
        mock.refuse(PRODUCE, code, 1)
        error = await publish_error(bus, 3)
        # librdkafka ends on some of these errors, and does not tell whether it has sent the event.
        if isinstance(error, DriverConnectionError):
            assert str(error).endswith("; the event may have arrived")
            # Once by the driver, and once by the handle.
            await until(lambda: bus.count_reports("the producer has failed") == 2)
        await accepted(bus, *range(4, 20))


@both_clients
async def test_producer_that_fails_again_says_so_on_each_event_until_it_works(scheme: str) -> None:
    async with kafka_mock() as mock, FastStreamBus(f"{scheme}://{mock.addr}") as bus:
        await accepted(bus, 1)
        mock.refuse(INIT_PRODUCER_ID, CLUSTER_FORBIDDEN)
        # Each client needs another producer id after its error.
        code = MESSAGE_TOO_LARGE if scheme == "kafka" else OUT_OF_ORDER_SEQUENCE
        mock.refuse(PRODUCE, code, 2)
        await publish_error(bus, 2)
        text = ""
        with trio.fail_after(HANG_SECONDS):
            # A new producer of librdkafka may have had the event before it failed.
            while not text.endswith("; the event was not sent"):
                error = await publish_error(bus, 3)
                assert isinstance(error, DriverError)
                text = str(error)
        assert "luster" in text
        assert "uthorization" in text
        mock.allow(INIT_PRODUCER_ID)
        mock.allow(PRODUCE)
        await accepted_at_last(bus)
        await accepted(bus, *range(10))


@both_clients
async def test_events_of_a_failed_producer_are_answered_and_dead_letters_wait(
    scheme: str,
) -> None:
    async with kafka_mock() as mock:
        options = "group=shop&claim_idle=1.2&max_deliveries=1"
        bus = FastStreamBus(f"{scheme}://{mock.addr}?{options}")
        gate = trio.Event()

        async def fail(event: Paid) -> None:
            await gate.wait()
            raise ValueError("no")

        bus.subscribe(fail, Paid)
        async with bus:
            await accepted(bus, 1)
            mock.refuse(INIT_PRODUCER_ID, CLUSTER_FORBIDDEN)
            mock.refuse(PRODUCE, OUT_OF_ORDER_SEQUENCE, 2)
            gate.set()
            await until(lambda: bus.count_reports("uthorization"))
            mock.allow(INIT_PRODUCER_ID)
            mock.allow(PRODUCE)
            await until(lambda: bus.count_reports("is a dead letter"))


@pytest.mark.parametrize("task", ["sender", "metadata"])
async def test_producer_whose_task_has_ended_is_replaced(task: str) -> None:
    async with kafka_mock() as mock, FastStreamBus(f"kafka://{mock.addr}") as bus:
        await accepted(bus, 1)
        producer = aiokafka_producer(bus)
        ended = producer._sender.sender_task if task == "sender" else producer.client._sync_task
        ended.get_loop().call_soon_threadsafe(ended.cancel)
        await until(lambda: bus.count_reports("the producer has failed: a task of it"))
        await accepted(bus, *range(2, 20))
        assert aiokafka_producer(bus) is not producer


async def test_broker_without_producer_ids_is_used_without_them_and_reported() -> None:
    async with kafka_mock() as mock:
        mock.refuse(INIT_PRODUCER_ID, UNKNOWN_SERVER_ERROR)
        async with FastStreamBus(f"kafka://{mock.addr}") as bus:
            await accepted(bus, 1, 2)
            await until(lambda: bus.count_reports("the broker gives no producer ids") == 1)
        broker = faststream.kafka.KafkaBroker(mock.addr, enable_idempotence=True, logger=None)
        with pytest.raises(DriverError, match="with enable_idempotence=False"):
            async with FastStreamBus(FastStreamDriver(broker)):
                pass


@both_clients
async def test_settings_of_a_broker_object_win(scheme: str) -> None:
    async with kafka_mock() as mock:
        mock.refuse(INIT_PRODUCER_ID, CLUSTER_FORBIDDEN)
        options: dict[str, Any] = {"enable_idempotence": False, "acks": 1}
        broker = kind_of(scheme).KafkaBroker(
            mock.addr, request_timeout_ms=7000, logger=None, **options
        )
        async with FastStreamBus(FastStreamDriver(broker)) as bus:
            await accepted(bus, 1, 2)
            if scheme == "kafka":
                producer = aiokafka_producer(bus)
                assert (producer._sender._acks, producer._request_timeout_ms) == (1, 7000)
            else:
                native = broker.config.broker_config.producer._producer.producer
                assert native.config["acks"] == 1
                assert native.config["request.timeout.ms"] == 7000
                assert not native.config["enable.idempotence"]
                assert native.config["max.in.flight.requests.per.connection"] == 1


@both_clients
async def test_unset_settings_of_a_broker_object_are_safe(scheme: str) -> None:
    async with kafka_mock() as mock:
        broker = kind_of(scheme).KafkaBroker(mock.addr, logger=None)
        async with FastStreamBus(FastStreamDriver(broker)) as bus:
            await accepted(bus, 1)
            if scheme == "kafka":
                assert aiokafka_producer(bus)._sender._acks == -1
            else:
                config = broker.config.broker_config.producer._producer.producer.config
                assert config["acks"] == -1


@both_clients
async def test_broker_object_that_needs_no_confirmations_gives_no_receipts(scheme: str) -> None:
    async with kafka_mock() as mock:
        broker = kind_of(scheme).KafkaBroker(mock.addr, acks=0, logger=None)
        async with FastStreamBus(FastStreamDriver(broker)) as bus:
            (handle,) = await accepted(bus, 1)
            assert not handle.receipt


async def test_error_callback_of_a_broker_object_is_called() -> None:
    told: list[Any] = []
    async with kafka_mock() as mock:
        broker = faststream.confluent.KafkaBroker(
            mock.addr, config={"error_cb": told.append}, logger=None
        )
        async with FastStreamBus(FastStreamDriver(broker, BrokerConfig(publish_timeout=1))) as bus:
            await accepted(bus, 1)
            mock.down()
            await until(lambda: told)
            mock.up()


@both_clients
def test_transactional_broker_object_is_refused(scheme: str) -> None:
    broker = kind_of(scheme).KafkaBroker("h", transactional_id="t", logger=None)
    with pytest.raises(ValueError, match="publishes in transactions only"):
        FastStreamDriver(broker)


def test_broker_object_that_cannot_publish_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot publish"):
        FastStreamDriver(faststream.kafka.KafkaBroker("h", consumer_only=True, logger=None))
