"""Producers on noida-db: it checks sequence numbers, and forgets producers when it is killed."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    NewTopic,  # pyright: ignore[reportPrivateImportUsage]
)
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.kafka_server import KafkaServer, noida_server
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Paid, until

from goevent import DriverConnectionError, DriverError
from goevent_faststream._kafka.aiokafka_client import AiokafkaClient
from goevent_faststream._kafka.confluent_client import ConfluentClient

TOPIC = "goevent.order.paid"
both_clients = pytest.mark.parametrize("scheme", ["kafka", "kafka+confluent"])


def create_narrow_topic(server: KafkaServer) -> None:
    """Create a topic that takes batches of 2,000 bytes."""
    admin: Any = AdminClient({"bootstrap.servers": server.addr, "log_level": 0})
    topic = NewTopic(TOPIC, 1, 1, config={"max.message.bytes": "2000"})
    admin.create_topics([topic])[TOPIC].result(HANG_SECONDS)


async def publish_error(bus: FastStreamBus, n: int, text: str = "") -> BaseException | None:
    """Dispatch an event, and return the error of its publish, or None."""
    with trio.fail_after(HANG_SECONDS):
        handle = await bus.dispatch(Paid(n=n, text=text))
        await handle.wait()
    return handle.errors[0].error if handle.errors else None


async def until_accepted(bus: FastStreamBus) -> None:
    """Dispatch events until the broker accepts one."""
    with trio.fail_after(HANG_SECONDS):
        while (error := await publish_error(bus, 0)) is not None:
            assert isinstance(error, DriverError)
            await trio.sleep(0.05)  # the pauses between renewals are longer


@both_clients
async def test_events_behind_a_refused_one_are_accepted(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_told(*_: object) -> None:
        """Return None, as if the broker did not tell its limit."""

    for client in (AiokafkaClient, ConfluentClient):
        monkeypatch.setattr(client, "max_message_bytes", not_told)
    async with noida_server() as server:
        await trio.to_thread.run_sync(create_narrow_topic, server)
        async with FastStreamBus(f"{scheme}://{server.addr}") as bus:
            await accepted(bus, 1, 2)
            for n in range(3, 6):
                error = await publish_error(bus, n, "x" * 3000)
                assert isinstance(error, DriverError)
                assert not isinstance(error, DriverConnectionError)
                await accepted(bus, 10 * n, 10 * n + 1)


@both_clients
async def test_producer_goes_on_after_the_broker_was_killed(scheme: str) -> None:
    async with noida_server() as server:
        await trio.to_thread.run_sync(server.topic, TOPIC)
        async with FastStreamBus(f"{scheme}://{server.addr}?publish_timeout=2") as bus:
            await accepted(bus, *range(20))
            for _ in range(2):
                server.kill()
                await until(lambda: not bus.driver.snapshot().connected)
                await server.start()
                await until(lambda: bus.driver.snapshot().connected)
                await until_accepted(bus)
                await accepted(bus, *range(20))


@both_clients
async def test_event_that_a_frozen_broker_has_got_may_have_arrived(scheme: str) -> None:
    async with noida_server() as server:
        await trio.to_thread.run_sync(server.topic, TOPIC)
        async with FastStreamBus(f"{scheme}://{server.addr}?publish_timeout=1") as bus:
            await accepted(bus, 1)
            server.freeze()
            error = await publish_error(bus, 2)
            assert isinstance(error, DriverConnectionError)
            assert str(error).endswith("; the event may have arrived")
            await until(lambda: not bus.driver.snapshot().connected)
            # This one is never sent. Its own time counts, and not that of the loss.
            began = trio.current_time()
            error = await publish_error(bus, 3)
            assert trio.current_time() - began > 0.9
            assert isinstance(error, DriverConnectionError)
            assert "may have arrived" not in str(error)
            server.thaw()
            await until(lambda: bus.driver.snapshot().connected)
            await until_accepted(bus)
