"""JetStream servers that forget deliveries: a repeat must not look new, nor run again in vain."""

from __future__ import annotations

from typing import Any

from nats.js import api
from tests.faststream.nats.test_jetstream import bus_on
from tests.faststream.nats.test_losses import DURABLE, STREAM, delete_stream, on_js
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.nats_server import NatsServer, nats_server
from tests.support.redis_buses import Paid, opened, until

from goevent import current_delivery

Run = tuple[int, int, bool]


def runs_of(bus: FastStreamBus, *, fail: bool = False) -> list[Run]:
    """Listen, and return a list that gets (n, deliveries, redelivered) of each run."""
    runs: list[Run] = []

    async def note(event: Paid) -> None:
        delivery = current_delivery()
        runs.append((event.n, delivery.deliveries, delivery.redelivered))
        if fail:
            raise ValueError(event.n)

    bus.subscribe(note, Paid)
    return runs


async def restart(server: NatsServer, *buses: FastStreamBus) -> None:
    """Kill the server, and start it again with its store; returns when all buses are back."""
    server.kill()
    await until(lambda: not any(bus.driver.snapshot().connected for bus in buses))
    await server.start()
    await until(lambda: all(bus.driver.snapshot().connected for bus in buses))


async def recreate_consumer(server: NatsServer) -> None:
    """Delete the consumer, and create one that begins with the first event, as an operator does."""

    async def recreate(js: Any) -> None:
        config = (await js.consumer_info(STREAM, DURABLE)).config
        await js.delete_consumer(STREAM, DURABLE)
        config.deliver_policy, config.opt_start_seq = api.DeliverPolicy.ALL, None
        await js.add_consumer(STREAM, config)

    await on_js(server, recreate)


async def test_acknowledged_events_do_not_run_again_after_the_server_was_killed() -> None:
    async with nats_server() as server:
        bus = bus_on(server, claim_idle=1)
        runs = runs_of(bus)
        async with bus:
            await accepted(bus, *range(200))
            await until(lambda: len(runs) == 200)
            # The server has written few of the acknowledgements to its disk by now.
            await restart(server, bus)
            await accepted(bus, 200)
            await until(lambda: len(runs) > 200)
            await until(lambda: [(b.lag, b.pending) for b in bus.backlogs()] == [(0, 0)])
        assert sorted(n for n, _, _ in runs) == [*range(201)]
        assert runs[-1] == (200, 1, False)


async def test_event_that_another_bus_may_have_run_is_flagged_and_runs() -> None:
    async with nats_server() as server:
        # A repeat that counted as a second delivery would be given up without running.
        sender, bus = bus_on(server, None), bus_on(server, max_deliveries=1)
        async with opened(sender, bus):
            await accepted(sender, *range(5))
            await restart(server, sender, bus)
            runs = runs_of(bus)
            await until(lambda: len(runs) == 5)
            await accepted(sender, 5)
            await until(lambda: len(runs) == 6)
        assert sorted(runs[:5]) == [(n, 2, True) for n in range(5)]
        assert runs[5] == (5, 1, False)


async def test_bus_that_opens_after_the_server_came_back_flags_nothing() -> None:
    async with nats_server() as server:
        async with bus_on(server, None) as sender:
            await accepted(sender, *range(5))
            await restart(server, sender)
            bus = bus_on(server)
            runs = runs_of(bus)
            async with bus:
                await until(lambda: len(runs) == 5)
        assert sorted(runs) == [(n, 1, False) for n in range(5)]


async def test_consumer_that_an_operator_creates_anew_runs_its_events_again_flagged() -> None:
    async with nats_server() as server:
        bus = bus_on(server)
        runs = runs_of(bus)
        async with bus:
            await accepted(bus, *range(3))
            await until(lambda: len(runs) == 3)
            await recreate_consumer(server)
            await until(lambda: len(runs) == 6)
            await accepted(bus, 3)
            await until(lambda: len(runs) == 7)
        assert sorted(runs[3:6]) == [(n, 2, True) for n in range(3)]
        assert runs[6] == (3, 1, False)


async def test_deliveries_that_the_server_forgot_are_counted_on() -> None:
    async with nats_server() as server:
        # The event comes again only from the new consumer, which counts from one.
        bus = bus_on(server, backoff=600, max_backoff=600, max_deliveries=3)
        runs = runs_of(bus, fail=True)
        async with bus:
            await accepted(bus, 1)
            for deliveries in (1, 2, 3):
                await until(lambda n=deliveries: len(runs) == n)  # type: ignore[misc]
                if deliveries < 3:
                    await until(lambda: [b.pending for b in bus.backlogs()] == [1])
                    await recreate_consumer(server)
            await until(lambda: bus.count_reports("is a dead letter after 3 deliveries"))
        assert runs == [(1, 1, False), (1, 2, True), (1, 3, True)]


async def test_stream_that_was_deleted_begins_anew() -> None:
    async with nats_server() as server:
        bus = bus_on(server)
        runs = runs_of(bus)
        async with bus:
            await accepted(bus, 0, 1)
            await until(lambda: len(runs) == 2)
            await delete_stream(server)
            await until(lambda: bus.count_reports("was deleted, with the events in it"))
            # The new events have the sequences of the old ones.
            await accepted(bus, 2, 3)
            await until(lambda: len(runs) == 4)
        assert sorted(runs) == [(n, 1, False) for n in range(4)]
