"""JetStream: durable consumers, redelivery, dead letters and lost connections."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from faststream.nats import JStream, NatsBroker
from tests.support.faststream_buses import FastStreamBus, accepted, grown
from tests.support.faststream_checks import check_backlog, check_growing_pauses, under_load
from tests.support.nats_server import NatsServer, nats_server, with_client
from tests.support.redis_buses import Deep, Paid, User, numbers, opened, until

from goevent import UnsupportedError
from goevent_faststream import BrokerConfig, FastStreamDriver
from goevent_faststream._nats.subjects import consumer_name


def bus_on(server: NatsServer, group: str | None = "shop", **options: object) -> FastStreamBus:
    """Return a bus with a short backoff."""
    query_options = {"backoff": 0.02, **options}
    if group is not None:
        query_options["group"] = group
    query = "&".join(f"{name}={value}" for name, value in query_options.items())
    return FastStreamBus(f"nats+js://{server.addr}?{query}")


async def dead_letters(server: NatsServer) -> list[tuple[str, bytes, dict[str, str]]]:
    """Return the subject, body and headers of each dead letter."""

    async def read(client: Any) -> list[tuple[str, bytes, dict[str, str]]]:
        js = client.jetstream()
        count = (await js.stream_info("goevent-js-dead")).state.messages
        messages = [await js.get_msg("goevent-js-dead", n) for n in range(1, count + 1)]
        return [(each.subject, each.data, each.headers) for each in messages]

    return await with_client(server, read)


async def test_receipt_is_the_sequence_in_the_stream() -> None:
    async with nats_server() as server, bus_on(server, None) as bus:
        handles = await accepted(bus, 1, 2)
        assert [handle.receipt for handle in handles] == ["1", "2"]


async def test_bus_without_a_group_can_only_publish() -> None:
    async with nats_server() as server:
        bus = bus_on(server, None)
        registration = bus.subscribe(print, Paid)
        with pytest.raises(UnsupportedError, match="group"):
            async with bus:
                await registration.ready()


async def test_failed_event_is_redelivered_until_it_is_a_dead_letter() -> None:
    async with nats_server() as server:
        bus = bus_on(server, max_deliveries=3)
        tries = bus.tries(fail=lambda event: event.n == 13)
        async with bus:
            await accepted(bus, 12, 13)
            await until(lambda: bus.count_reports("is a dead letter after 3 deliveries"))
        assert sorted(tries) == [(12, 1), (13, 1), (13, 2), (13, 3)]
        ((subject, body, headers),) = await dead_letters(server)
        assert subject == "goevent-js-dead.shop.order.paid"
        assert b'"n":13' in body
        assert "no 13" in headers["goevent-reason"]
        assert headers["goevent-deliveries"] == "3"
        assert headers["goevent-id"] == "2"
        assert "ValueError" in headers["goevent-details"]


async def test_undecodable_event_is_a_dead_letter_at_once() -> None:
    async with nats_server() as server:
        bus = bus_on(server)
        seen = bus.seen()
        async with bus:

            async def publish(client: Any) -> None:
                await client.jetstream().publish("goevent-js.order.paid", b"{nonsense")

            await with_client(server, publish)
            await accepted(bus, 1)
            await until(lambda: seen and bus.reports)
        ((_, body, headers),) = await dead_letters(server)
        assert body == b"{nonsense"
        assert headers["goevent-deliveries"] == "1"
        assert numbers(seen) == [1]


async def test_event_of_a_long_listener_is_not_redelivered() -> None:
    async with nats_server() as server:
        bus, other = bus_on(server, claim_idle=1), bus_on(server, claim_idle=1)
        begun: list[int] = []
        gate = trio.Event()

        async def long(event: Paid) -> None:
            begun.append(event.n)
            await gate.wait()

        for each in (bus, other):
            each.subscribe(long, Paid)
        async with opened(bus, other):
            await accepted(bus, 1)
            await until(lambda: begun)
            # Without a sign of life, the event would be redelivered after one second.
            await trio.sleep(2.5)
            gate.set()
            await until(lambda: not any(b.pending for b in bus.backlogs() + other.backlogs()))
        assert begun == [1]


async def test_unbegun_events_go_to_another_bus_when_their_bus_closes() -> None:
    async with nats_server() as server:
        first, second = bus_on(server), bus_on(server)
        gate = trio.Event()
        begun: list[int] = []

        async def stuck(event: Paid) -> None:
            begun.append(event.n)
            await gate.wait()

        first.subscribe(stuck, Paid, mailbox=3)
        seen = second.seen()
        async with first:
            await accepted(first, *range(20))
            await until(lambda: begun)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.close)
                async with second:
                    await until(lambda: len(seen) >= 15)
                    gate.set()
                    await until(lambda: len(seen) + len(begun) == 20)
        assert sorted(numbers(seen) + begun) == [*range(20)]


async def stopped_in_the_middle(server: NatsServer, begun: list[int]) -> None:
    """Open a bus with a listener that never ends, and close it when it holds ten events."""
    bus = bus_on(server)
    before = len(begun)

    async def stuck(event: Paid) -> None:
        begun.append(event.n)
        await trio.sleep_forever()

    bus.subscribe(stuck, Paid, mailbox=3)
    async with bus:
        await until(lambda: [b.pending for b in bus.backlogs()] == [10])
        await until(lambda: len(begun) > before)
        await bus.close(timeout=0.1)


async def test_closing_a_bus_counts_a_delivery_only_for_begun_events() -> None:
    begun: list[int] = []
    async with nats_server() as server:
        async with bus_on(server, None) as sender:
            await accepted(sender, *range(10))
        for _ in range(3):
            await stopped_in_the_middle(server, begun)
        bus = bus_on(server)
        tries = bus.tries(fail=lambda event: False)
        async with bus:
            await until(lambda: len(tries) == 10)
            await until(lambda: [b.pending for b in bus.backlogs()] == [0])
    assert 1 <= len(begun) <= 3
    assert sorted(tries) == [(n, 1 + begun.count(n)) for n in range(10)]


async def test_snapshot_shows_the_backlog_of_the_group() -> None:
    async with nats_server() as server:
        bus = bus_on(server, prefetch=2)
        backlog = await check_backlog(bus)
        assert backlog.oldest_pending > 0


async def test_pattern_gets_existing_event_names_and_new_ones() -> None:
    async with nats_server() as server:
        bus = bus_on(server)
        exact, pattern = bus.seen("order.paid"), bus.seen("order.**")
        async with bus_on(server, None) as sender:
            await accepted(sender, 1)
            async with bus:
                await accepted(sender, 2)
                for event in (Deep(n=3), User(n=4), Deep(n=5)):
                    await (await sender.dispatch(event)).wait()
                await until(lambda: len(pattern) == 4)
                await until(lambda: not any(b.lag for b in bus.backlogs()))
        assert numbers(exact) == [1, 2]
        assert sorted(numbers(pattern)) == [1, 2, 3, 5]


async def test_group_that_starts_at_the_latest_misses_older_events() -> None:
    async with nats_server() as server:
        async with bus_on(server, None) as sender:
            await accepted(sender, 1)
            late = bus_on(server, "late", start="latest")
            seen = late.seen()
            async with late:
                await accepted(sender, 2)
                await until(lambda: seen)
        assert numbers(seen) == [2]


async def test_event_that_killed_every_bus_is_not_run_again() -> None:
    async with nats_server() as server:
        bus = bus_on(server, max_deliveries=2)
        bus.seen()
        async with bus:
            await bus.ready()

        async def die_twice(client: Any) -> None:
            durable = consumer_name("shop", "order.paid")
            js = client.jetstream()
            await js.publish("goevent-js.order.paid", b"{}")
            pull = await js.pull_subscribe_bind(durable, "goevent-js")
            for _ in range(2):
                (message,) = await pull.fetch(1)
                await message.nak()

        await with_client(server, die_twice)
        seen = bus.seen()
        async with bus:
            await until(lambda: bus.count_reports("is a dead letter after 3 deliveries"))
        assert not seen
        ((_, body, headers),) = await dead_letters(server)
        assert (body, headers["goevent-deliveries"]) == (b"{}", "3")


async def test_deleted_consumer_is_created_again_and_reported() -> None:
    async with nats_server() as server:
        bus = bus_on(server)
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1, 2)
            await until(lambda: len(seen) == 2)

            async def delete(client: Any) -> None:
                durable = consumer_name("shop", "order.paid")
                await client.jetstream().delete_consumer("goevent-js", durable)

            await with_client(server, delete)
            await until(lambda: bus.count_reports("was deleted"))
            await accepted(bus, 3)
            await until(lambda: len(seen) == 3)
        assert numbers(seen) == [1, 2, 3]


async def test_pause_before_a_redelivery_grows() -> None:
    async with nats_server() as server:
        bus = bus_on(server, backoff=0.2, max_deliveries=4)
        await check_growing_pauses(bus)


async def test_server_killed_and_restarted_under_load_loses_nothing() -> None:
    async with nats_server() as server:
        sender, receiver = bus_on(server, None), bus_on(server, claim_idle=2)
        seen = receiver.seen()
        async with opened(sender, receiver):
            async with under_load(sender, 4) as load:
                for _ in range(2):
                    await until(grown(load.accepted))
                    server.kill()
                    await until(lambda: not receiver.driver.snapshot().connected)
                    await server.start()
                    await until(grown(seen), 20)
            await until(lambda: load.accepted <= set(numbers(seen)), 20)
        assert receiver.count_reports("connection to nats+js is lost") == 2
        assert receiver.count_reports("connected to nats+js again") == 2


async def test_given_stream_decides_the_subjects_of_events() -> None:
    async with nats_server() as server:

        def bus(group: str) -> FastStreamBus:
            stream = JStream("orders", subjects=["shop.events.>"], max_msgs=1000)
            broker = NatsBroker(server.url, logger=None)
            config = BrokerConfig(group=group)
            return FastStreamBus(FastStreamDriver(broker, config, address=stream))

        one, other = bus("a"), bus("b")
        seen = [one.seen(), other.seen()]
        async with opened(one, other):
            await accepted(one, 1)
            await until(lambda: all(seen))

        async def subjects(client: Any) -> Any:
            info = await client.jetstream().stream_info("orders", subjects_filter=">")
            return info.config.max_msgs, info.state.subjects

        assert await with_client(server, subjects) == (1000, {"shop.events.order.paid": 1})


def test_no_two_names_share_a_consumer() -> None:
    names = ["a.b", "a-b", "a_b", "ab", "a.b.c", "x" * 255, "x" * 254]
    spelled = [consumer_name(group, name) for group in ("g", "g.h") for name in names]
    assert len(set(spelled)) == len(spelled)
    assert not any(set(each) & set(".*> /\\") for each in spelled)
    assert max(map(len, spelled)) <= 255
