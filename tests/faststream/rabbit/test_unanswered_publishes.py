"""Publishes without an answer: each ends in its time, and says if its event may have arrived."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from faststream.rabbit import RabbitBroker
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.faststream_checks import recording_middleware
from tests.support.limits import HANG_SECONDS
from tests.support.rabbit_node import RabbitNode
from tests.support.redis_buses import Paid, numbers, opened, until
from tests.support.redis_server import fault_proxy

from goevent import DriverConnectionError
from goevent_faststream import BrokerConfig, FastStreamDriver


@asynccontextmanager
async def frozen(node: RabbitNode) -> AsyncGenerator[None]:
    """Freeze the server inside a `with` block."""
    node.freeze()
    try:
        yield
    finally:
        node.thaw()


@pytest.mark.parametrize("with_middleware", [False, True])
async def test_event_without_an_answer_of_a_frozen_server_may_have_arrived(
    node: RabbitNode, with_middleware: bool
) -> None:
    sandbox = node.sandbox()
    middlewares = [recording_middleware()[0]] if with_middleware else []
    url = f"amqp://guest:guest@127.0.0.1:{node.port}/"
    broker = RabbitBroker(url, middlewares=middlewares, logger=None)
    config = BrokerConfig(stream=sandbox.exchange, publish_timeout=0.5)
    sender, receiver = FastStreamBus(FastStreamDriver(broker, config)), sandbox.bus(None)
    seen = receiver.seen()
    async with opened(sender, receiver):
        await accepted(sender, 1)
        await until(lambda: seen)
        async with frozen(node):
            handles = [await sender.dispatch(Paid(n=n)) for n in (2, 3)]
            with trio.fail_after(HANG_SECONDS):
                for handle in handles:
                    await handle.wait()
        for handle in handles:
            (error,) = handle.errors
            assert isinstance(error.error, DriverConnectionError)
            assert "no answer within 0.5 s; the event may have arrived" in str(error)
        # They have.
        await until(lambda: sorted(numbers(seen)) == [1, 2, 3])
        await accepted(sender, 4)


async def test_event_behind_one_without_an_answer_is_not_sent(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    sender, receiver = sandbox.bus(None, publish_timeout=1), sandbox.bus(None)
    seen = receiver.seen()
    async with opened(sender, receiver):
        await accepted(sender, 1)
        async with frozen(node):
            # A large event is written alone, so that it holds back the next one.
            large = await sender.dispatch(Paid(n=2, text="x" * 50_000))
            await trio.testing.wait_all_tasks_blocked()
            small = await sender.dispatch(Paid(n=3))
            with trio.fail_after(HANG_SECONDS):
                await large.wait()
                await small.wait()
        assert "may have arrived" in str(large.errors[0])
        assert "this one was not sent" in str(small.errors[0])
        await accepted(sender, 4)
        await until(lambda: 4 in numbers(seen))
    assert 3 not in numbers(seen)


async def test_channel_whose_confirms_were_lost_is_replaced(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    async with fault_proxy(sandbox.port) as proxy:
        # Without heartbeats nothing else reveals the dead connection.
        bus = sandbox.bus(None, port=proxy.port, publish_timeout=0.5, heartbeat=0)
        async with bus:
            await accepted(bus, 1)
            proxy.swallow()
            handle = await bus.dispatch(Paid(n=2))
            await handle.wait()
            assert "may have arrived" in str(handle.errors[0])
            proxy.pass_on()
            with trio.fail_after(HANG_SECONDS):
                await accepted(bus, 3)


async def test_dead_connection_for_publishes_is_replaced(
    node: RabbitNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goevent_faststream._rabbit.link.REPLY_SECONDS", 1.0)
    sandbox = node.sandbox()
    async with fault_proxy(sandbox.port) as proxy:
        bus = sandbox.bus(None, port=proxy.port, publish_timeout=0.5, heartbeat=0)
        async with bus:
            await accepted(bus, 1)
            proxy.swallow()
            handle = await bus.dispatch(Paid(n=2))
            await handle.wait()
            await until(lambda: bus.count_reports("no answer within 1 s"))
            proxy.pass_on()
            with trio.fail_after(HANG_SECONDS):
                errors = handle.errors
                while errors:
                    handle = await bus.dispatch(Paid(n=3))
                    await handle.wait()
                    errors = handle.errors


async def test_reconnect_that_gets_no_handshake_is_tried_again(
    node: RabbitNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goevent_faststream._rabbit.link.REPLY_SECONDS", 1.0)
    sandbox = node.sandbox()
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with fault_proxy(sandbox.port) as proxy:
        bus = sandbox.bus(None, port=proxy.port)
        async with bus:
            await accepted(bus, 1)
            proxy.lead_to(silent[0].socket.getsockname()[1])
            proxy.reset()
            await until(lambda: bus.count_reports("no answer within"))
            proxy.lead_to(sandbox.port)
            await until(lambda: bus.count_reports("amqp again"))
            await accepted(bus, 2)
    await silent[0].aclose()


async def test_client_writes_nothing_to_the_log_and_the_bus_reports_an_outage_once(
    node: RabbitNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sandbox = node.sandbox()
    async with fault_proxy(sandbox.port) as proxy:
        bus = sandbox.bus(port=proxy.port)
        bus.seen()
        async with bus:
            proxy.refuse()
            proxy.reset()
            await until(lambda: bus.count_reports("Connect call failed"))
            await until(lambda: bus.count_reports("is lost"))
            # Several attempts to connect.
            await trio.sleep(1.5)
            await proxy.accept()
            await until(lambda: bus.count_reports("amqp again"))
    assert bus.count_reports("Connect call failed") == 1
    assert not [each for each in caplog.records if each.name.startswith(("aio_pika", "aiormq"))]


async def test_client_logs_other_connections_as_before(caplog: pytest.LogCaptureFixture) -> None:
    broker = RabbitBroker("amqp://127.0.0.1:1/", logger=None)

    def dial() -> None:
        with pytest.raises(OSError, match="Connect call failed"):
            asyncio.run(broker.start())

    with pytest.raises(DriverConnectionError):
        async with FastStreamBus("amqp://127.0.0.1:1/"):
            pass
    assert not caplog.records
    await trio.to_thread.run_sync(dial)
    assert [each for each in caplog.records if each.name.startswith("aiormq")]
