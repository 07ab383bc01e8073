"""Pulls from JetStream: bounded in bytes, seldom while nothing comes, and watched."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import trio
from nats.js import api
from tests.faststream.nats.test_jetstream import bus_on
from tests.faststream.nats.test_losses import DURABLE, STREAM, add_consumer, on_js
from tests.support.faststream_buses import accepted
from tests.support.faststream_checks import gated_listener
from tests.support.nats_server import NatsServer, nats_server, with_client
from tests.support.redis_buses import Paid, numbers, opened, until

from goevent import DriverError, Event, GoEvent
from goevent_faststream._nats import pull_budget as pull_budget_module, pulls as pulls_module
from goevent_faststream._nats.pull_budget import MAX_PULL_SECONDS, MIN_PULL_SECONDS, PullBudget

BODY_BYTES = 30_000


async def dispatch_large(bus: GoEvent, *ns: int, size: int = BODY_BYTES) -> None:
    """Dispatch events of a size, and wait until the server has stored them."""
    handles = [await bus.dispatch(Paid(n=n, text="x" * size)) for n in ns]
    for handle in handles:
        await handle.wait()
        handle.raise_errors()


async def unsettled(server: NatsServer) -> int:
    """Return how many events the buses of the group hold."""

    async def read(js: Any) -> int:
        return int((await js.consumer_info(STREAM, DURABLE)).num_ack_pending)

    return int(await on_js(server, read))


async def test_events_that_wait_are_bounded_in_bytes() -> None:
    async with nats_server() as server:
        sender = bus_on(server, None)
        bus = bus_on(server, prefetch_bytes=6 * BODY_BYTES)
        gate, finished = gated_listener(bus)
        async with sender:
            await dispatch_large(sender, *range(40))
            async with bus:
                await until(lambda: [b.pending >= 5 for b in bus.backlogs()] == [True])
                await trio.sleep(1)  # the bus would pull all events meanwhile
                assert await unsettled(server) <= 8
                gate.set()
                await until(lambda: len(finished) == 40)
        assert not bus.reports


async def test_event_that_is_larger_than_the_limit_of_bytes_passes() -> None:
    async with nats_server() as server:
        bus = bus_on(server, prefetch_bytes=BODY_BYTES // 3)
        seen = bus.seen()
        async with bus:
            await dispatch_large(bus, 1, 2, 3)
            await accepted(bus, 4)
            await dispatch_large(bus, 5)
            await until(lambda: len(seen) == 5)
            await until(lambda: [(b.lag, b.pending) for b in bus.backlogs()] == [(0, 0)])
        assert sorted(numbers(seen)) == [1, 2, 3, 4, 5]
        assert not bus.reports


async def test_many_names_share_the_bytes() -> None:
    async with nats_server() as server:
        bus = bus_on(server, prefetch_bytes=4 * BODY_BYTES)
        gate = trio.Event()
        seen: list[str] = []

        async def wait(event: Event) -> None:
            await gate.wait()
            seen.append(event.event_name)

        names = [f"name.n{n}" for n in range(20)]
        bus.subscribe(wait, *names)
        async with bus:
            handles = [
                await bus.dispatch(Event(name, {"text": "x" * BODY_BYTES})) for name in names
            ]
            for handle in handles:
                await handle.wait()
            await until(lambda: sum(b.pending for b in bus.backlogs()) >= 4)
            await trio.sleep(1)  # the other consumers would pull their events meanwhile
            assert sum(b.pending for b in bus.backlogs()) <= 6
            gate.set()
            await until(lambda: sorted(seen) == sorted(names))
        assert not bus.reports


async def test_limit_of_bytes_for_pulls_is_honoured() -> None:
    async with nats_server() as server:
        bus = bus_on(server)
        seen = bus.seen()

        async def limit(client: Any) -> None:
            js = client.jetstream()
            await js.add_stream(name=STREAM, subjects=[f"{STREAM}.>"])
            config = (
                b'{"durable_name":"%b","ack_policy":"explicit","filter_subject":"%b.order.paid",'
                b'"max_bytes":20000}' % (DURABLE.encode(), STREAM.encode())
            )
            reply = await client.request(
                f"$JS.API.CONSUMER.DURABLE.CREATE.{STREAM}.{DURABLE}",
                b'{"stream_name":"%b","config":%b}' % (STREAM.encode(), config),
            )
            assert b"error" not in reply.data

        await with_client(server, limit)
        async with bus:
            await accepted(bus, 1)
            await dispatch_large(bus, 2, 3, size=15_000)
            await until(lambda: len(seen) == 3)
        assert not bus.reports


async def test_refused_pull_is_reported_once_with_the_setting_to_change() -> None:
    async with nats_server() as server:
        await add_consumer(server, max_waiting=1)
        buses = bus_on(server), bus_on(server)
        seen = [bus.seen() for bus in buses]
        async with opened(*buses):
            # One bus pulls, and the other one may not.
            text = "raise the consumer's max_waiting"
            await until(lambda: any(bus.count_reports(text) for bus in buses))
            await accepted(buses[0], *range(20))
            await until(lambda: sum(map(len, seen)) == 20)
            await trio.sleep(2)  # the other bus tries again meanwhile
        assert all(bus.count_reports(text) <= 1 for bus in buses)


async def test_server_that_answers_no_pull_is_reported_once_a_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pull_budget_module, "MIN_PULL_SECONDS", 0.2)
    monkeypatch.setattr(pulls_module, "READ_SILENCE_SECONDS", 3.0)
    async with nats_server() as server:
        bus = bus_on(server)
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1)
            await until(lambda: len(seen) == 1)
            adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
            trio_side: Any = bus.driver._trio_side  # pyright: ignore[reportPrivateUsage]
            (consumer,) = adapter._consumers.values()
            inbox, client = consumer._pulls.subscription, adapter._connection.client
            await trio.sleep(4)  # without events, expired pulls are answers
            assert not bus.reports
            # The server forgets the inbox, as if an operator had taken the right to it.
            await trio_side.call(client._send_unsubscribe, inbox._id)
            await trio_side.call(client.flush)  # behind the last answer
            await until(lambda: bus.count_reports("no successful fetch from the consumer"))
            await trio.sleep(2.5)  # the silence lasts
            assert len(bus.reports) == 1
            await trio_side.call(client._send_subscribe, inbox)
            await accepted(bus, 2)
            await until(lambda: len(seen) >= 2)


async def test_bus_that_holds_enough_events_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_budget_module, "MIN_PULL_SECONDS", 0.2)
    monkeypatch.setattr(pulls_module, "READ_SILENCE_SECONDS", 0.5)
    async with nats_server() as server:
        bus = bus_on(server, prefetch=1)
        gate, finished = gated_listener(bus)
        async with bus:
            await accepted(bus, 1, 2)
            await trio.sleep(1.5)
            gate.set()
            await until(lambda: len(finished) == 2)
        assert not bus.reports


async def test_idle_consumers_ask_the_server_seldom() -> None:
    async with nats_server() as server:
        bus = bus_on(server)
        bus.seen(*(f"name.n{n}" for n in range(100)))
        async with bus:
            await bus.ready()

            async def count(client: Any) -> int:
                requests = list[str]()

                async def note(message: Any) -> None:
                    requests.append(message.subject)

                await client.subscribe("$JS.API.CONSUMER.INFO.>", cb=note)
                await asyncio.sleep(2.5)
                return len(requests)

            # At most ten a second; one for each consumer would be 100 a second.
            assert await with_client(server, count) <= 40


@pytest.mark.parametrize("consumers", [1, 10, 160, 500, 1000])
def test_pulls_last_longer_if_there_are_many_consumers(consumers: int) -> None:
    budget = PullBudget(1 << 25)
    budget.consumers = consumers
    seconds = budget.seconds(is_first=False)
    assert MIN_PULL_SECONDS <= seconds <= MAX_PULL_SECONDS
    assert consumers / seconds <= 20


def test_budget_of_bytes_is_never_exceeded_by_much() -> None:
    budget = PullBudget(1_000_000)
    budget.consumers = 50
    total = 0
    for _ in range(50):
        size = budget.bytes()
        budget.take(size)
        total += size
    assert total <= 1_000_000 * 1.25
    assert budget.bytes() > 0


async def test_own_stream_may_have_more_consumers_than_the_servers_default() -> None:
    config = "jetstream { limits { default_max_consumers: 3 } }"
    async with nats_server(config=config) as server:
        bus = bus_on(server)
        names = [f"name.n{n}" for n in range(6)]
        bus.seen(*names)
        async with bus:
            await bus.ready()
        assert not bus.reports


async def test_too_many_names_are_refused_before_the_limit_of_the_stream_is_met() -> None:
    async with nats_server() as server:
        await on_js(
            server,
            lambda js: js.add_stream(
                api.StreamConfig(name=STREAM, max_consumers=3), subjects=[f"{STREAM}.>"]
            ),
        )
        async with bus_on(server) as bus:
            names = [f"name.n{n}" for n in range(5)]
            adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
            trio_side: Any = bus.driver._trio_side  # pyright: ignore[reportPrivateUsage]
            with pytest.raises(DriverError, match=r"5 more consumers .* limit of 3.*--max-consum"):
                await trio_side.call(adapter.subscribe, names)
            info = await on_js(server, lambda js: js.stream_info(STREAM))
            assert info.state.consumer_count == 0
            # The consumers that exist already need no room.
            await trio_side.call(adapter.subscribe, names[:3])
            await trio_side.call(adapter.unsubscribe, names[:3])
            await trio_side.call(adapter.subscribe, names[:3])


async def test_limit_of_consumers_that_the_server_does_not_announce_is_named() -> None:
    config = "jetstream { limits { default_max_consumers: 1 } }"
    async with nats_server(config=config) as server:
        await on_js(server, lambda js: js.add_stream(name=STREAM, subjects=[f"{STREAM}.>"]))
        async with bus_on(server) as bus:
            await bus.subscribe(lambda _: None, "name.n1").ready()
            with pytest.raises(DriverError, match=r"maximum consumers.*default_max_consumers"):
                await bus.subscribe(lambda _: None, "name.n2").ready()
