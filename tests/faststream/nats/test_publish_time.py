"""Publishes to a NATS server that is frozen or gone: they end in time, with an honest error."""

from __future__ import annotations

from typing import Any

import pytest
from faststream.nats import NatsBroker
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.faststream_checks import recording_middleware
from tests.support.nats_server import NatsServer, nats_server
from tests.support.redis_buses import Paid, until
from tests.support.stopwatch import Stopwatch

from goevent import DispatchHandle, DriverConnectionError
from goevent_faststream import BrokerConfig, FastStreamDriver

URLS = ["nats://{}?publish_timeout=1", "nats+js://{}?publish_timeout=1"]


async def failures(handles: list[DispatchHandle]) -> list[str]:
    """Wait for handles, and return the texts of their errors, one for each."""
    texts: list[str] = []
    for handle in handles:
        await handle.wait()
        (error,) = handle.errors
        assert isinstance(error.error, DriverConnectionError)
        texts.append(str(error.error))
    return texts


def is_sent(bus: FastStreamBus) -> bool:
    """Tell whether the bus waits for the server's answer to an event."""
    adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
    if hasattr(adapter, "_publisher"):
        return bool(adapter._publisher._batches)
    return bool(adapter._confirming)


async def check_frozen_server(server: NatsServer, bus: FastStreamBus) -> None:
    """Assert that a publish to a frozen server ends after its time, and may have arrived."""
    async with bus:
        await accepted(bus, 1)
        server.freeze()
        began = Stopwatch()
        try:
            (text,) = await failures([await bus.dispatch(Paid(n=2))])
            assert began.unhindered_seconds < 4
            assert text.endswith("the event may have arrived")
            # Behind it, the client still waits for the server.
            (text,) = await failures([await bus.dispatch(Paid(n=3))])
            assert began.unhindered_seconds < 6
            assert text.endswith("the event may have arrived")
        finally:
            server.thaw()
        await until(lambda: bus.driver.snapshot().connected)
        await accepted(bus, 4)


@pytest.mark.parametrize("url", URLS)
async def test_publish_to_a_frozen_server_ends_in_time_and_may_have_arrived(url: str) -> None:
    async with nats_server() as server:
        await check_frozen_server(server, FastStreamBus(url.format(server.addr)))


@pytest.mark.parametrize("group", [None, "shop"])
async def test_middlewares_do_not_prolong_a_publish_to_a_frozen_server(group: str | None) -> None:
    middleware, _ = recording_middleware()
    async with nats_server() as server:
        broker = NatsBroker(server.url, middlewares=[middleware], logger=None)
        config = BrokerConfig(group=group, publish_timeout=1)
        await check_frozen_server(server, FastStreamBus(FastStreamDriver(broker, config)))


@pytest.mark.parametrize("url", URLS)
async def test_events_that_fill_the_buffers_of_a_frozen_server_end_in_time(url: str) -> None:
    async with nats_server() as server:
        bus = FastStreamBus(url.format(server.addr))
        async with bus:
            await accepted(bus, 1)
            server.freeze()
            began = Stopwatch()
            try:
                handles = [await bus.dispatch(Paid(n=n, text="x" * 900_000)) for n in range(20)]
                handles += [await bus.dispatch(Paid(n=n)) for n in range(5)]
                texts = await failures(handles)
                assert began.unhindered_seconds < 6
            finally:
                server.thaw()
            assert "may have arrived" in texts[0]
            await until(lambda: bus.driver.snapshot().connected)
            await accepted(bus, 30)


@pytest.mark.parametrize("url", URLS)
async def test_event_that_was_not_sent_cannot_have_arrived(url: str) -> None:
    async with nats_server() as server, FastStreamBus(url.format(server.addr)) as bus:
        await accepted(bus, 1)
        server.kill()
        await until(lambda: not bus.driver.snapshot().connected)
        (text,) = await failures([await bus.dispatch(Paid(n=2))])
        assert "there has been no connection for 1 s" in text
        assert "may have arrived" not in text


@pytest.mark.parametrize("url", URLS)
async def test_event_whose_answer_was_lost_with_the_server_may_have_arrived(url: str) -> None:
    async with nats_server() as server, FastStreamBus(url.format(server.addr)) as bus:
        await accepted(bus, 1)
        server.freeze()
        handle = await bus.dispatch(Paid(n=2))
        await until(lambda: is_sent(bus))
        server.kill()
        (text,) = await failures([handle])
        assert text.endswith("the event may have arrived")
