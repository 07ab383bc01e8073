"""Clients of NATS that are broken: they are found and replaced, or the bus ends."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from faststream.nats import NatsBroker
from nats import errors
from tests.faststream.nats.test_jetstream import bus_on
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.nats_server import nats_server
from tests.support.redis_buses import Paid, numbers, until

from goevent import DriverError
from goevent_faststream import BrokerConfig, FastStreamDriver
from goevent_faststream._nats.client_tasks import TASK_NAMES
from goevent_faststream._nats.pull_consumer import JetStreamConsumer


def bus_with(broker: NatsBroker, **config: Any) -> FastStreamBus:
    """Return a bus on a broker object."""
    return FastStreamBus(FastStreamDriver(broker, BrokerConfig(**config)))


def client_of(bus: FastStreamBus) -> Any:
    """Return the client of nats-py."""
    adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
    return adapter._connection.client


async def on_loop(bus: FastStreamBus, work: Any) -> None:
    """Call a function on the loop of the driver."""

    async def call() -> None:
        work()

    await bus.driver._trio_side.call(call)  # type: ignore[union-attr]  # pyright: ignore


@pytest.mark.parametrize("attribute", TASK_NAMES)
async def test_task_of_the_client_that_has_ended_is_replaced(attribute: str) -> None:
    async with nats_server() as server:
        bus = FastStreamBus(server.url)
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1)
            # The client handles a cancellation like an exception that it does not expect.
            await on_loop(bus, lambda: getattr(client_of(bus), attribute).cancel())
            await until(lambda: bus.count_reports("connected to nats again"))
            await accepted(bus, 2)
            await until(lambda: len(seen) == 2)
        assert bus.count_reports(f"the client's {TASK_NAMES[attribute]} has ended") == 1


async def test_exception_while_connecting_again_does_not_end_the_attempts() -> None:
    async with nats_server() as server:
        bus = FastStreamBus(server.url)
        async with bus:
            await accepted(bus, 1)
            client, failures = client_of(bus), list[int]()
            connect_command = client._connect_command

            def fail_twice() -> Any:
                # As a function of the user does that gets a token from somewhere.
                if len(failures) < 2:
                    failures.append(1)
                    raise KeyError("no token")
                return connect_command()

            client._connect_command = fail_twice
            server.kill()
            await until(lambda: not bus.driver.snapshot().connected)
            await server.start()
            await until(lambda: bus.count_reports("connected to nats again"))
            await accepted(bus, 2)
        assert len(failures) == 2
        assert bus.count_reports("no token") == 1


@pytest.mark.parametrize("settings", [{"allow_reconnect": False}, {"max_reconnect_attempts": 1}])
@pytest.mark.parametrize("group", [None, "shop"])
async def test_client_that_may_not_connect_again_ends_the_bus(
    settings: dict[str, Any], group: str | None
) -> None:
    async with nats_server() as server:
        broker = NatsBroker(server.url, logger=None, reconnect_time_wait=0, **settings)

        async def lose_the_server() -> None:
            async with bus_with(broker, group=group) as bus:
                await accepted(bus, 1)
                server.kill()
                await trio.sleep_forever()

        with pytest.raises(DriverError, match="closed, as the broker's settings say"):
            await lose_the_server()


async def test_pause_of_the_broker_object_is_not_shortened() -> None:
    async with nats_server() as server:
        broker = NatsBroker(server.url, logger=None, reconnect_time_wait=60)
        async with bus_with(broker) as bus:
            await accepted(bus, 1)
            client = client_of(bus)
            server.kill()
            await until(lambda: not bus.driver.snapshot().connected)
            refusal = errors.Error("nats: 'Authorization Violation'")
            adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
            await bus.driver._trio_side.call(  # type: ignore[union-attr]  # pyright: ignore
                adapter._connection._on_error, refusal
            )
            assert client.options["reconnect_time_wait"] == 60


async def test_callback_of_the_user_that_fails_is_reported_and_ends_no_task() -> None:
    async with nats_server() as server:

        async def fail(_error: Exception) -> None:
            raise LookupError("a callback")

        broker = NatsBroker(server.url, logger=None, error_cb=fail)
        bus = bus_with(broker)
        seen = bus.seen()
        async with bus:
            adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
            deliver = adapter._connection.host.deliver
            calls = list[int]()

            async def fail_once(arrival: Any) -> None:
                calls.append(1)
                if len(calls) == 1:
                    raise ValueError("a delivery")
                await deliver(arrival)

            adapter._connection.host.deliver = fail_once
            other = FastStreamBus(server.url)
            async with other:
                await accepted(other, 1)
                await until(lambda: bus.count_reports("a callback of the broker object"))
                await accepted(other, 2)
                await until(lambda: numbers(seen) == [2])
        assert bus.count_reports("a delivery") == 1


async def test_client_leaves_a_frozen_server_although_its_buffer_is_full() -> None:
    async with nats_server() as frozen, nats_server() as other:
        broker = NatsBroker(
            [frozen.url, other.url],
            logger=None,
            dont_randomize=True,
            ping_interval=1,
            max_outstanding_pings=1,
            reconnect_time_wait=0,
        )
        async with bus_with(broker, publish_timeout=1) as bus:
            await accepted(bus, 1)
            frozen.freeze()
            for n in range(20):
                await bus.dispatch(Paid(n=n, text="x" * 900_000))
            await until(lambda: bus.count_reports("connected to nats again"))
            await accepted(bus, 30)


async def test_task_of_the_driver_that_fails_ends_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_consumer: JetStreamConsumer) -> None:
        raise KeyError("unexpected")

    async with nats_server() as server:

        async def run_until_it_fails() -> None:
            bus = bus_on(server)
            bus.seen()
            async with bus:
                await bus.ready()
                monkeypatch.setattr(JetStreamConsumer, "look", fail)
                await trio.sleep_forever()

        with pytest.raises(DriverError, match=r"a task of the driver has failed.*unexpected"):
            await run_until_it_fails()


async def test_options_of_the_broker_object_for_jetstream_are_used() -> None:
    async with nats_server(config="jetstream { domain: hub }") as server:
        broker = NatsBroker(server.url, logger=None, js_options={"domain": "hub"})
        bus = bus_with(broker, group="shop")
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1)
            await until(lambda: seen)
            adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
            (consumer,) = adapter._consumers.values()
            assert consumer._pulls.subject.startswith("$JS.hub.API.CONSUMER.MSG.NEXT.")
