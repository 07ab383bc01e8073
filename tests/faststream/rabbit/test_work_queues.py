"""RabbitMQ with a group: durable queues, redelivery, dead letters and lost connections."""

from __future__ import annotations

import asyncio
from typing import Any

import aiormq
import pytest
import trio
from faststream.rabbit import RabbitBroker, RabbitQueue
from pamqp.commands import Basic
from tests.support.faststream_buses import FastStreamBus, accepted, grown
from tests.support.faststream_checks import (
    check_backlog,
    check_growing_pauses,
    recording_middleware,
    under_load,
)
from tests.support.limits import HANG_SECONDS
from tests.support.rabbit_server import rabbit_sandbox, with_channel
from tests.support.redis_buses import Deep, Paid, User, numbers, opened, until
from tests.support.redis_server import fault_proxy

from goevent import current_delivery
from goevent_faststream import BrokerConfig, FastStreamDriver


async def test_failed_event_is_redelivered_until_it_is_a_dead_letter() -> None:
    async with rabbit_sandbox() as sandbox:
        bus = sandbox.bus(max_deliveries=3)
        tries = bus.tries(fail=lambda event: event.n == 13)
        async with bus:
            handles = await accepted(bus, *range(10, 16))
            await until(lambda: bus.count_reports("is a dead letter after 3 deliveries"))
        good = [(n, 1) for n in (10, 11, 12, 14, 15)]
        assert sorted(tries) == sorted([*good, (13, 1), (13, 2), (13, 3)])
        (message,) = await sandbox.take_messages(sandbox.queue("+dead"))
        headers = message.header.properties.headers
        assert b'"n":13' in message.body
        assert "no 13" in headers["goevent-reason"]
        assert "ValueError" in headers["goevent-details"]
        assert headers["goevent-deliveries"] == 3
        assert headers["goevent-name"] == "order.paid"
        assert headers["goevent-id"] == handles[3].id
        assert message.header.properties.delivery_mode == 2
        assert await sandbox.take_messages(sandbox.queue()) == []


async def test_failed_event_is_not_lost_if_acknowledgements_overtake_its_return(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The client's queue holds ten frames. A frame that waits for room may be overtaken.
    returned, acknowledged = list[int](), asyncio.Event()
    nack, ack = aiormq.Channel.basic_nack, aiormq.Channel.basic_ack

    async def late_nack(self: Any, tag: int, **options: Any) -> None:
        returned.append(tag)
        await acknowledged.wait()
        await nack(self, tag, **options)

    async def noted_ack(self: Any, tag: int, **options: Any) -> None:
        await ack(self, tag, **options)
        acknowledged.set()

    monkeypatch.setattr(aiormq.Channel, "basic_nack", late_nack)
    monkeypatch.setattr(aiormq.Channel, "basic_ack", noted_ack)
    async with rabbit_sandbox() as sandbox:
        bus, tries = sandbox.bus(backoff=0.001), list[tuple[int, int]]()

        async def work(event: Paid) -> None:
            deliveries = current_delivery().deliveries
            tries.append((event.n, deliveries))
            if (event.n, deliveries) == (1, 1):
                raise ValueError
            await until(lambda: returned)

        bus.subscribe(work, Paid, concurrency=3)
        async with bus:
            await accepted(bus, 1, 2, 3)
            await until(lambda: len(tries) == 4)
            await until(lambda: bus.backlogs()[0].pending == 0)
        assert sorted(tries) == [(1, 1), (1, 2), (2, 1), (3, 1)]
        assert [str(report.error) for report in bus.reports if report.listener == "driver"] == []


async def test_dead_letter_without_a_confirm_is_reported_and_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rabbit_sandbox() as sandbox, fault_proxy(sandbox.port) as proxy:
        bus = sandbox.bus(max_deliveries=1, port=proxy.port)
        begun, gate = trio.Event(), trio.Event()

        async def fail(event: Paid) -> None:
            begun.set()
            await gate.wait()
            raise ValueError(event.n)

        bus.subscribe(fail, Paid)
        async with bus:
            await accepted(bus, 1)
            await begun.wait()
            monkeypatch.setattr("goevent_faststream._rabbit.publish_channel.REPLY_SECONDS", 0.2)
            proxy.swallow()
            gate.set()
            await until(lambda: bus.count_reports("no answer within 0.2 s"))
            monkeypatch.undo()
            proxy.pass_on()
            await until(lambda: bus.count_reports("is a dead letter after"))
        assert await sandbox.take_messages(sandbox.queue("+dead"))


async def test_undecodable_event_is_a_dead_letter_at_once() -> None:
    async with rabbit_sandbox() as sandbox:
        bus = sandbox.bus()
        seen = bus.seen()
        async with bus:
            await sandbox.publish(b"{nonsense")
            await accepted(bus, 1)
            await until(lambda: seen and bus.reports)
        (message,) = await sandbox.take_messages(sandbox.queue("+dead"))
        assert message.body == b"{nonsense"
        assert message.header.properties.headers["goevent-deliveries"] == 1
        assert numbers(seen) == [1]


async def test_headers_arrive_as_text_and_are_the_same_at_each_delivery() -> None:
    given: dict[str, Any] = {"tenant": "zürich", "n": 7, "raw": bytearray(b"a\xff"), "flag": True}
    async with rabbit_sandbox() as sandbox:
        bus = sandbox.bus(format="faststream")
        seen: list[tuple[int, dict[str, str]]] = []

        async def fail_at_first(event: Paid) -> None:
            delivery = current_delivery()
            seen.append((delivery.deliveries, dict(delivery.headers)))
            if len(seen) == 1:
                raise ValueError("no")

        async def publish(channel: Any) -> None:
            properties = Basic.Properties(headers=given, correlation_id="request-7")
            await channel.basic_publish(
                b'{"n":1}',
                exchange=sandbox.exchange,
                routing_key="order.paid",
                properties=properties,
            )

        bus.subscribe(fail_at_first, Paid)
        async with bus:
            await with_channel(sandbox.port, publish)
            await until(lambda: len(seen) == 2)
        text = {"tenant": "zürich", "n": "7", "raw": "a\N{REPLACEMENT CHARACTER}", "flag": "True"}
        assert seen == [(n, {**text, "correlation_id": "request-7"}) for n in (1, 2)]


async def test_event_that_killed_every_process_is_not_run_again() -> None:
    async with rabbit_sandbox() as sandbox:
        bus = sandbox.bus(max_deliveries=2)
        bus.seen()
        async with bus:
            pass
        await sandbox.publish(b"{}")

        async def die(channel: Any) -> None:
            message = await channel.basic_get(sandbox.queue())
            assert message.delivery_tag

        for _ in range(2):
            await with_channel(sandbox.port, die)
        seen = bus.seen()
        async with bus:
            await until(lambda: bus.count_reports("is a dead letter after 3 deliveries"))
        assert not seen


async def test_unbegun_events_go_to_another_bus_uncounted_when_their_bus_closes() -> None:
    async with rabbit_sandbox() as sandbox:
        first, second = sandbox.bus(prefetch=15), sandbox.bus()
        gate = trio.Event()
        begun: list[int] = []

        async def stuck(event: Paid) -> None:
            begun.append(event.n)
            await gate.wait()

        first.subscribe(stuck, Paid, mailbox=3)
        tries = second.tries(fail=lambda _: False)
        async with first:
            await accepted(first, *range(20))
            await until(lambda: begun)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.close)
                async with second:
                    with trio.fail_after(HANG_SECONDS):
                        await until(lambda: len(tries) >= 15)
                    gate.set()
                    await until(lambda: len(tries) + len(begun) == 20)
        assert sorted([n for n, _ in tries] + begun) == [*range(20)]
        assert {deliveries for _, deliveries in tries} == {1}


async def test_prefetch_bounds_the_events_that_a_slow_listener_holds() -> None:
    async with rabbit_sandbox() as sandbox:
        bus = sandbox.bus(prefetch=2)
        backlog = await check_backlog(bus)
        assert backlog.oldest_pending > 0


async def test_group_gets_an_event_once_however_many_patterns_match() -> None:
    async with rabbit_sandbox() as sandbox:
        buses = [sandbox.bus() for _ in range(2)]
        exact: list[Any] = []
        pattern: list[Any] = []

        def note(bus: FastStreamBus, via: str) -> None:
            bus.subscribe(lambda _: pattern.append(via), via)

        for bus in buses:
            bus.subscribe(exact.append, Paid)
            for via in ("order.*", "order.**", "**"):
                note(bus, via)
        async with sandbox.bus(None) as sender, opened(*buses):
            await accepted(sender, *range(50))
            for event in (Deep(n=50), User(n=51)):
                await (await sender.dispatch(event)).wait()
            await until(lambda: len(exact) == 50 and len(pattern) == 150 + 2 + 1)
            # A second copy of any event would have arrived before this event.
            await accepted(sender, 99)
            await until(lambda: len(exact) == 51 and len(pattern) == 156)
        assert sorted(numbers(exact)) == [*range(50), 99]
        for via, most in (("order.*", 51), ("order.**", 52), ("**", 53)):
            assert pattern.count(via) == most


async def test_unregistered_name_still_reaches_a_pattern() -> None:
    async with rabbit_sandbox() as sandbox:
        bus = sandbox.bus()
        exact, pattern = bus.seen(), bus.seen("order.*")
        async with bus:
            await accepted(bus, 1)
            await until(lambda: exact and pattern)
            bus.unregister_listeners_for_event(Paid)
            await accepted(bus, 2)
            await until(lambda: len(pattern) == 2)
        assert numbers(exact) == [1]


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_unregistered_name_still_reaches_a_pattern_after_a_loss(is_deleted: bool) -> None:
    async with rabbit_sandbox() as sandbox, fault_proxy(sandbox.port) as proxy:
        bus = sandbox.bus(port=proxy.port)
        exact, pattern = bus.seen(), bus.seen("order.*")
        async with bus:
            bus.unregister_listeners_for_event(Paid)

            async def delete(channel: Any) -> None:
                await channel.queue_delete(sandbox.queue())

            if is_deleted:
                await with_channel(sandbox.port, delete)
                await until(lambda: bus.count_reports("was deleted"))
            else:
                proxy.reset()
                await until(lambda: bus.count_reports("amqp again"))
            await accepted(bus, 1)
            await until(lambda: pattern)
        assert (exact, numbers(pattern)) == ([], [1])


async def test_pause_before_a_redelivery_grows() -> None:
    async with rabbit_sandbox() as sandbox:
        bus = sandbox.bus(backoff=0.2, max_deliveries=4)
        await check_growing_pauses(bus)


async def test_failed_event_is_returned_at_once_when_its_bus_closes() -> None:
    async with rabbit_sandbox() as sandbox:
        first, second = sandbox.bus(backoff=30), sandbox.bus()
        tries = first.tries(fail=lambda _: True)
        async with first:
            await accepted(first, 1)
            await until(lambda: tries)
            await until(lambda: first.reports)
        again = second.tries(fail=lambda _: False)
        async with second:
            await until(lambda: again)
        assert (tries, again) == ([(1, 1)], [(1, 2)])


async def test_connection_cut_under_load_loses_nothing_and_runs_nothing_twice() -> None:
    async with rabbit_sandbox() as sandbox, fault_proxy(sandbox.port) as proxy:
        sender, receiver = sandbox.bus(None), sandbox.bus(port=proxy.port)
        seen: list[int] = []

        async def slow(event: Paid) -> None:
            await trio.sleep(0.01)
            seen.append(event.n)

        receiver.subscribe(slow, Paid, concurrency=20)
        async with opened(sender, receiver):
            async with under_load(sender, 4) as load:
                for n in range(1, 4):
                    await until(grown(seen))
                    proxy.reset()
                    await until(lambda n=n: receiver.count_reports("amqp again") == n)  # type: ignore[misc]
                await until(grown(seen))
            await until(lambda: load.accepted <= set(seen), 20)
        assert receiver.count_reports("connection to amqp is lost") == 3
        assert len(set(seen)) == len(seen)


async def test_deleted_queue_is_created_again_and_reported() -> None:
    async with rabbit_sandbox() as sandbox:
        bus = sandbox.bus()
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1)
            await until(lambda: seen)

            async def delete(channel: Any) -> None:
                await channel.queue_delete(sandbox.queue())

            await with_channel(sandbox.port, delete)
            await until(lambda: bus.count_reports("was deleted"))

            async def comes() -> None:
                n = 2
                # Until the queue is bound again, the server drops the event.
                while len(seen) < 2:
                    await accepted(bus, n)
                    n += 1

            with trio.fail_after(HANG_SECONDS):
                await comes()


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_given_queue_decides_the_type_of_the_groups_queues(kind: str) -> None:
    async with rabbit_sandbox() as sandbox:
        url = f"amqp://guest:guest@127.0.0.1:{sandbox.port}/"
        stem = f"{sandbox.exchange}:shop"
        queue = RabbitQueue(stem, durable=True, arguments={"x-queue-type": kind})  # type: ignore[call-overload]
        config = BrokerConfig(
            group="shop", stream=sandbox.exchange, backoff=0.02, max_deliveries=3, prefetch=10
        )
        driver = FastStreamDriver(RabbitBroker(url, logger=None), config, address=queue)
        bus = FastStreamBus(driver)
        tries = bus.tries(fail=lambda event: event.n == 2)
        async with bus:
            await accepted(bus, 1, 2)
            await until(lambda: bus.count_reports("is a dead letter after 3 deliveries"))
        assert sorted(tries) == [(1, 1), (2, 1), (2, 2), (2, 3)]

        async def declare(channel: Any) -> None:
            arguments = {
                "x-queue-type": kind,
                "x-dead-letter-exchange": f"{sandbox.exchange}:+dead",
                "x-dead-letter-routing-key": f"{stem}:+dead",
            }
            await channel.queue_declare(f"{stem}:order.paid", durable=True, arguments=arguments)

        # The server refuses to declare a queue with arguments that differ from its own.
        await with_channel(sandbox.port, declare)


@pytest.mark.parametrize("is_upgrade", [False, True])
async def test_queue_of_patterns_gets_only_events_that_they_match(is_upgrade: bool) -> None:
    async with rabbit_sandbox() as sandbox:
        bus, queue = sandbox.bus(), sandbox.queue("##")
        bus.seen("order.**", "**.paid")

        async def bind_as_before(channel: Any) -> None:
            for key in ("order.#", "#.paid"):
                await channel.queue_bind(queue, queue, key)
                await channel.exchange_bind(f"{sandbox.exchange}:shop", sandbox.exchange, key)

        async with bus:
            pass
        if is_upgrade:
            # The keys of goevent 0.2, where `#` may stand for no word.
            await with_channel(sandbox.port, bind_as_before)
            async with bus:
                pass
        keys = ["order", "paid", "order.paid", "order.item.added", "user.paid", "user"]
        for key in keys:
            await sandbox.publish(b"", key)
        taken = await sandbox.take_messages(queue)
        assert [each.delivery.routing_key for each in taken] == keys[2:5]


async def test_a_pattern_takes_no_binding_from_a_shorter_one() -> None:
    async with rabbit_sandbox() as sandbox:
        bus, queue = sandbox.bus(), sandbox.queue("##")
        bus.seen("**")
        async with bus:
            # Until goevent 0.2 this pattern had the key that the other one has now.
            bus.seen("*.**")
            await bus.ready()
        for key in ("order", "order.paid"):
            await sandbox.publish(b"", key)
        taken = await sandbox.take_messages(queue)
        assert [each.delivery.routing_key for each in taken] == ["order", "order.paid"]


async def test_event_of_an_abandoned_pattern_is_reported_as_a_dead_letter() -> None:
    async with rabbit_sandbox() as sandbox:
        old, new = sandbox.bus(), sandbox.bus(max_deliveries=2)
        old.seen("user.*")
        async with old:
            pass
        seen = new.seen("order.**")
        async with new:
            await (await new.dispatch(User(n=1))).wait()
            await (await new.dispatch(Deep(n=2))).wait()
            await until(lambda: seen and new.count_reports("no listener of the group matches it"))
        assert numbers(seen) == [2]
        (message,) = await sandbox.take_messages(sandbox.queue("+dead"))
        assert message.header.properties.headers["goevent-name"] == "user.created"


async def test_event_waits_for_the_bus_of_the_group_that_has_its_pattern() -> None:
    async with rabbit_sandbox() as sandbox:
        middleware, calls = recording_middleware()
        url = f"amqp://guest:guest@127.0.0.1:{sandbox.port}/"
        broker = RabbitBroker(url, middlewares=[middleware], logger=None)
        config = BrokerConfig(group="shop", stream=sandbox.exchange, backoff=0.02, max_deliveries=2)
        old = sandbox.bus(prefetch=1, max_deliveries=2)
        new = FastStreamBus(FastStreamDriver(broker, config))
        new.seen("order.**")
        begun, gate, ran = trio.Event(), trio.Event(), list[tuple[int, int]]()

        async def work(event: User) -> None:
            ran.append((event.n, current_delivery().deliveries))
            begun.set()
            await gate.wait()

        old.subscribe(work, "user.*")
        async with old:
            await (await old.dispatch(User(n=1))).wait()
            await begun.wait()
            async with new:
                # The old bus holds all that it may, so the new one gets this event each time.
                await (await old.dispatch(User(n=2))).wait()
                await until(lambda: calls.count("consume") == 3 or new.reports)
            assert new.reports == []
            gate.set()
            await until(lambda: len(ran) == 2)
        assert ran == [(1, 1), (2, 1)]


async def test_failed_event_goes_to_the_other_bus_of_the_group() -> None:
    async with rabbit_sandbox() as sandbox:
        buses = [sandbox.bus(backoff=0.05) for _ in range(2)]
        ran: list[tuple[int, int]] = []

        def fail_first(place: int) -> None:
            async def listen(event: Paid) -> None:
                count = current_delivery().deliveries
                ran.append((place, count))
                if count < 4:
                    raise ValueError(event.n)

            buses[place].subscribe(listen, Paid)

        for n in range(2):
            fail_first(n)
        async with opened(*buses):
            await accepted(buses[0], 1)
            await until(lambda: len(ran) == 4)
        assert [count for _, count in ran] == [1, 2, 3, 4]


async def test_channel_closed_by_the_server_is_opened_again_and_reported() -> None:
    async with rabbit_sandbox() as sandbox:
        bus = sandbox.bus()
        seen = bus.seen()

        async def acknowledge_what_never_was() -> None:
            await adapter._connection.consume_channel.basic_ack(12345)

        async with bus:
            await accepted(bus, 1)
            await until(lambda: seen)
            adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
            trio_side: Any = bus.driver._trio_side  # pyright: ignore[reportPrivateUsage]
            await trio_side._loop_thread.call(acknowledge_what_never_was)
            await until(lambda: bus.count_reports("amqp again"))
            await accepted(bus, 2)
            await until(lambda: len(seen) == 2)
        assert bus.count_reports("unknown delivery tag") == 1
        assert numbers(seen) == [1, 2]


async def test_events_of_a_bus_that_closes_during_an_outage_go_to_another() -> None:
    async with rabbit_sandbox() as sandbox, fault_proxy(sandbox.port) as proxy:
        first, second = sandbox.bus(port=proxy.port), sandbox.bus()
        begun: list[int] = []

        async def stuck(event: Paid) -> None:
            begun.append(event.n)
            await trio.sleep_forever()

        first.subscribe(stuck, Paid)
        tries = second.tries(fail=lambda _: False)
        async with first:
            await accepted(first, *range(10))
            await until(lambda: begun)
            proxy.refuse()
            proxy.reset()
            await until(lambda: not first.driver.snapshot().connected)
            with trio.fail_after(HANG_SECONDS):
                await first.close(timeout=0)
        async with second:
            await until(lambda: len(tries) == 10)
        assert sorted(n for n, _ in tries) == [*range(10)]


async def test_prefix_keeps_services_apart() -> None:
    async with rabbit_sandbox() as sandbox:
        one, other = sandbox.bus(prefix="one."), sandbox.bus(None, prefix="other.")
        seen, not_here = one.seen("order.**"), other.seen("**")
        async with opened(one, other):
            await accepted(one, 1)
            await until(lambda: seen)
        assert (numbers(seen), not_here) == ([1], [])
