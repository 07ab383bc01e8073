"""JetStream's streams and consumers that are deleted or changed while buses use them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio
from faststream.nats import JStream, NatsBroker
from nats.js import api, errors as js_errors
from tests.faststream.nats.test_jetstream import bus_on, dead_letters
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.faststream_checks import gated_listener
from tests.support.nats_server import NatsServer, nats_server, with_client
from tests.support.redis_buses import Deep, Paid, User, numbers, opened, until

from goevent import DriverError
from goevent_faststream import BrokerConfig, FastStreamDriver
from goevent_faststream._nats.stream import create_or_find
from goevent_faststream._nats.subjects import consumer_name

STREAM = "goevent-js"
DURABLE = consumer_name("shop", "order.paid")


async def on_js(server: NatsServer, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """Call a coroutine function with a JetStream context, and return its result."""

    async def with_js(client: Any) -> Any:
        return await work(client.jetstream())

    return await with_client(server, with_js)


async def delete_stream(server: NatsServer, name: str = STREAM) -> None:
    """Delete a stream, as an operator does."""
    await on_js(server, lambda js: js.delete_stream(name))


async def add_consumer(server: NatsServer, **settings: Any) -> None:
    """Create the stream, and the consumer of the group `shop` with settings of the test's own."""

    async def add(js: Any) -> None:
        await js.add_stream(name=STREAM, subjects=[f"{STREAM}.>"])
        options: dict[str, Any] = {"filter_subject": f"{STREAM}.order.paid", **settings}
        await js.add_consumer(STREAM, api.ConsumerConfig(durable_name=DURABLE, **options))

    await on_js(server, add)


async def test_deleted_stream_is_created_again_and_reported_once_by_each_bus() -> None:
    async with nats_server() as server:
        sender, receiver, other = bus_on(server, None), bus_on(server), bus_on(server, "mail")
        seen, mailed = receiver.seen(), other.seen(Paid, User)
        patterns = receiver.seen("user.*")
        async with opened(sender, receiver, other):
            for round_ in range(3):
                first = round_ * 10
                await accepted(sender, *range(first, first + 3))
                await (await sender.dispatch(User(n=first))).wait()
                await until(lambda n=3 * (round_ + 1): len(seen) == n)  # type: ignore[misc]
                await until(lambda n=4 * (round_ + 1): len(mailed) == n)  # type: ignore[misc]
                await until(lambda n=round_ + 1: len(patterns) == n)  # type: ignore[misc]
                if round_ < 2:
                    await delete_stream(server)
        assert sorted(numbers(seen)) == [0, 1, 2, 10, 11, 12, 20, 21, 22]
        for bus in (receiver, other):
            assert bus.count_reports("was deleted, with the events in it") == 2
            assert len(bus.reports) == 2
        # The sender sees only a stream that is missing when it publishes.
        assert len(sender.reports) <= 2


async def test_publishing_bus_creates_a_deleted_stream_again_at_once() -> None:
    async with nats_server() as server, bus_on(server, None) as bus:
        await accepted(bus, 1)
        await delete_stream(server)
        handles = await accepted(bus, 2, 3)
        # JetStream promises no order of events that are published again.
        assert sorted(str(handle.receipt) for handle in handles) == ["1", "2"]
        assert len(bus.reports) == 1


async def test_stream_keeps_the_settings_that_somebody_chose() -> None:
    async with nats_server() as server:
        chosen = api.StreamConfig(
            name=STREAM,
            storage=api.StorageType.MEMORY,
            max_msgs=7,
            max_age=3600,
            discard=api.DiscardPolicy.NEW,
            metadata={"owner": "shop"},
        )
        await on_js(server, lambda js: js.add_stream(chosen, subjects=[f"{STREAM}.>"]))
        sender, bus = bus_on(server, None), bus_on(server)
        seen = bus.seen()
        async with opened(sender, bus):
            await accepted(sender, 1)
            await until(lambda: len(seen) == 1)
            server.kill()
            await until(lambda: not bus.driver.snapshot().connected)
            # The events in memory are gone now, and the stream with them.
            await server.start()
            await until(lambda: sender.driver.snapshot().connected)
            await accepted(sender, 2)
            await until(lambda: len(seen) == 2)
            config = (await on_js(server, lambda js: js.stream_info(STREAM))).config
        assert (config.storage, config.max_msgs, config.max_age) == ("memory", 7, 3600)
        assert (config.discard, config.metadata["owner"]) == ("new", "shop")


async def test_stream_that_another_bus_creates_meanwhile_is_used() -> None:
    refusal = js_errors.BadRequestError(code=400, err_code=10058, description="in use")

    async def refuse() -> str:
        raise refusal

    async def find() -> str:
        return "found"

    async def find_nothing() -> str:
        raise js_errors.NotFoundError

    async def check() -> None:
        assert await create_or_find(refuse, find) == "found"
        with pytest.raises(js_errors.BadRequestError):
            await create_or_find(refuse, find_nothing)
        with pytest.raises(js_errors.NotFoundError):
            await create_or_find(find_nothing, find)

    await trio.to_thread.run_sync(lambda: asyncio.run(check()))


async def test_purged_stream_goes_on_and_a_sealed_one_refuses_events() -> None:
    async with nats_server() as server:
        bus = bus_on(server)
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1)
            await on_js(server, lambda js: js.purge_stream(STREAM))
            await accepted(bus, 2)
            await until(lambda: sorted(numbers(seen)) == [1, 2])

            async def seal(js: Any) -> None:
                config = (await js.stream_info(STREAM)).config
                config.sealed = True
                await js.update_stream(config)

            await on_js(server, seal)
            handle = await bus.dispatch(Paid(n=3))
            await handle.wait()
            assert "sealed stream" in str(handle.errors[0])
        assert len(bus.reports) == 1


async def test_server_that_comes_back_empty_is_filled_again() -> None:
    async with nats_server() as server:
        sender, receiver = bus_on(server, None), bus_on(server)
        seen = receiver.seen(Paid, "user.*")
        async with opened(sender, receiver):
            await accepted(sender, *range(5))
            await until(lambda: len(seen) == 5)
            server.kill()
            await until(lambda: not receiver.driver.snapshot().connected)
            server.wipe()
            await server.start()
            await until(lambda: sender.driver.snapshot().connected)
            await accepted(sender, 5)
            await (await sender.dispatch(User(n=6))).wait()
            await until(lambda: len(seen) == 7)
        assert sorted(numbers(seen)) == [*range(7)]
        assert receiver.count_reports("was deleted, with the events in it") == 1
        assert len(receiver.reports) == 3  # with the loss of the connection, and its return


async def test_event_of_a_deleted_stream_cannot_acknowledge_an_event_of_the_new_one() -> None:
    async with nats_server() as server:
        sender, receiver = bus_on(server, None), bus_on(server, claim_idle=1, prefetch=1)
        gate, done = gated_listener(receiver)
        async with opened(sender, receiver):
            await accepted(sender, 1)
            await until(lambda: [b.pending for b in receiver.backlogs()] == [1])
            await delete_stream(server)
            await accepted(sender, 2)
            await until(lambda: receiver.count_reports("was deleted"))
            # The new event has the number that the old one had.
            gate.set()
            await until(lambda: done == [1, 2])

            async def acknowledged(js: Any) -> int:
                info = await js.consumer_info(STREAM, DURABLE)
                return int(info.ack_floor.stream_seq)

            while await on_js(server, acknowledged) != 1:
                await trio.sleep(0.05)


async def test_failed_event_of_a_deleted_stream_becomes_a_dead_letter() -> None:
    async with nats_server() as server:
        bus = bus_on(server)
        gate = trio.Event()
        begun: list[int] = []

        async def fail(event: Paid) -> None:
            begun.append(event.n)
            await gate.wait()
            raise ValueError(event.n)

        bus.subscribe(fail, Paid)
        async with bus:
            await accepted(bus, 1)
            await until(lambda: begun)
            await delete_stream(server)
            await until(lambda: bus.count_reports("was deleted"))
            gate.set()
            await until(lambda: bus.count_reports("is a dead letter"))
        ((_, body, headers),) = await dead_letters(server)
        assert b'"n":1' in body
        assert "stream was deleted" in headers["goevent-reason"]


async def test_dead_letters_of_two_streams_of_one_name_are_all_kept() -> None:
    async with nats_server() as server:
        bus = bus_on(server, max_deliveries=1)
        bus.tries(fail=lambda _: True)
        async with bus:
            await accepted(bus, 1)
            await until(lambda: bus.count_reports("is a dead letter") == 1)
            await delete_stream(server)
            await accepted(bus, 2)
            await until(lambda: bus.count_reports("is a dead letter") == 2)
        assert len(await dead_letters(server)) == 2


async def test_deleted_stream_of_dead_letters_is_created_again_and_reported_once() -> None:
    async with nats_server() as server:
        bus = bus_on(server, max_deliveries=1)
        bus.tries(fail=lambda _: True)
        async with bus:
            await accepted(bus, 1)
            await until(lambda: bus.count_reports("is a dead letter") == 1)
            await delete_stream(server, f"{STREAM}-dead")
            await accepted(bus, 2, 3)
            await until(lambda: bus.count_reports("is a dead letter") == 3)
        assert bus.count_reports("with the dead letters in it") == 1
        assert len(await dead_letters(server)) == 2


async def test_dead_letters_are_replayed_into_a_stream_that_was_deleted() -> None:
    async with nats_server() as server:
        bus = bus_on(server, max_deliveries=1)
        tries = bus.tries(fail=lambda _: len(tries) < 2)
        async with bus:
            await accepted(bus, 1)
            await until(lambda: bus.count_reports("is a dead letter") == 1)
            await delete_stream(server)
            store = bus.driver.dead_letters
            (letter,) = await store.list()
            assert await store.replay(letter) == 1
            await until(lambda: len(tries) == 2)


async def test_dead_letter_that_cannot_be_written_is_reported_once_and_written_later() -> None:
    async with nats_server() as server:
        dead = f"{STREAM}-dead"
        await on_js(server, lambda js: js.add_stream(name="other", subjects=[f"{dead}.>"]))
        bus = bus_on(server, max_deliveries=1)
        bus.tries(fail=lambda _: True)
        async with bus:
            await accepted(bus, 1)
            await until(lambda: bus.count_reports("overlap"))
            await trio.sleep(2.5)  # the bus tries again meanwhile
            assert bus.count_reports("overlap") == 1
            assert bus.count_reports(f"the stream {dead!r} takes no dead letters") == 1
            await delete_stream(server, "other")
            await until(lambda: bus.count_reports("is a dead letter"))
        # The server has delivered the event several times; its listener ran once.
        assert bus.count_reports("is a dead letter after 1 deliveries") == 1
        ((_, _, headers),) = await dead_letters(server)
        assert "no 1" in headers["goevent-reason"]
        assert headers["goevent-deliveries"] == "1"


async def test_consumer_that_begins_at_the_latest_misses_nothing_after_its_loss() -> None:
    async with nats_server() as server:
        sender, bus = bus_on(server, None), bus_on(server, start="latest")
        seen = bus.seen()
        async with sender:
            await accepted(sender, 1)
            async with bus:
                await on_js(server, lambda js: js.delete_consumer(STREAM, DURABLE))
                await accepted(sender, 2)
                await until(lambda: seen)
        assert numbers(seen) == [2]


async def test_consumer_that_began_with_an_empty_stream_misses_nothing_after_its_loss() -> None:
    async with nats_server() as server:
        sender, bus = bus_on(server, None), bus_on(server, start="latest")
        seen = bus.seen()
        async with opened(sender, bus):

            async def lose_the_consumer(js: Any) -> None:
                await js.delete_consumer(STREAM, DURABLE)
                # Before the bus can notice it.
                await js.publish(f"{STREAM}.order.lost", b"{}")
                await js.publish(f"{STREAM}.order.paid", b"{}")

            await on_js(server, lose_the_consumer)
            await until(lambda: bus.count_reports("start='earliest'"))
            await until(lambda: bus.count_reports("DecodeError"))
            await accepted(sender, 1)
            await until(lambda: seen)


async def test_event_that_is_held_runs_once_when_its_consumer_is_deleted() -> None:
    async with nats_server() as server:
        bus = bus_on(server)
        gate, done = gated_listener(bus)
        async with bus:
            await accepted(bus, 1)
            await until(lambda: [b.pending for b in bus.backlogs()] == [1])
            await on_js(server, lambda js: js.delete_consumer(STREAM, DURABLE))
            await until(lambda: bus.count_reports("was deleted; it is created again"))
            await accepted(bus, 2)
            gate.set()
            await until(lambda: sorted(done) == [1, 2])
            await until(lambda: [(b.lag, b.pending) for b in bus.backlogs()] == [(0, 0)])
        assert sorted(done) == [1, 2]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"filter_subject": f"{STREAM}.user.created"}, "filter_subject='goevent-js.user.created'"),
        ({"ack_policy": api.AckPolicy.NONE}, "ack_policy"),
        ({"ack_policy": api.AckPolicy.ALL}, "ack_policy"),
        ({"deliver_subject": "elsewhere"}, "deliver_subject='elsewhere'"),
        ({"headers_only": True}, "headers_only"),
    ],
)
async def test_consumer_with_other_settings_fails_ready_with_the_setting(
    settings: dict[str, Any], text: str
) -> None:
    async with nats_server() as server:
        await add_consumer(server, **settings)
        async with bus_on(server) as bus:
            with pytest.raises(DriverError, match=text):
                await bus.subscribe(lambda _: None, Paid).ready()
            await accepted(bus, 1)


async def test_settings_that_hold_events_back_or_drop_them_are_reported_once() -> None:
    async with nats_server() as server:
        await add_consumer(server, max_deliver=2)
        bus = bus_on(server)
        seen = bus.seen()
        async with bus:
            await until(lambda: bus.count_reports("has max_deliver=2"))
            await on_js(
                server, lambda js: js.pause_consumer(STREAM, DURABLE, "2100-01-01T00:00:00Z")
            )
            await until(lambda: bus.count_reports("is paused until 2100"))
            await accepted(bus, 1)
            await trio.sleep(2.5)  # two more looks at the consumer
            await on_js(server, lambda js: js.resume_consumer(STREAM, DURABLE))
            await until(lambda: seen)
        assert len(bus.reports) == 2


async def test_limits_of_pulls_are_honoured() -> None:
    async with nats_server() as server:
        bus = bus_on(server)
        seen = bus.seen()

        async def limit(client: Any) -> None:
            js = client.jetstream()
            await js.add_stream(name=STREAM, subjects=[f"{STREAM}.>"])
            subject = f"$JS.API.CONSUMER.DURABLE.CREATE.{STREAM}.{DURABLE}"
            config = (
                b'{"durable_name":"%b","ack_policy":"explicit","filter_subject":"%b.order.paid",'
                b'"max_batch":3,"max_expires":2000000000}' % (DURABLE.encode(), STREAM.encode())
            )
            reply = await client.request(
                subject, b'{"stream_name":"%b","config":%b}' % (STREAM.encode(), config)
            )
            assert b"error" not in reply.data

        await with_client(server, limit)
        async with bus:
            await accepted(bus, *range(10))
            await until(lambda: len(seen) == 10)
        assert not bus.reports


async def test_stream_without_the_subjects_of_events_fails_them_with_its_subjects() -> None:
    async with nats_server() as server:
        await on_js(server, lambda js: js.add_stream(name=STREAM, subjects=["elsewhere.>"]))
        async with bus_on(server, None) as bus:
            handle = await bus.dispatch(Paid(n=1))
            await handle.wait()
            (error,) = handle.errors
            assert "stores elsewhere.>" in str(error)
            assert "'goevent-js.order.paid'" in str(error)


async def test_overlapping_stream_is_named_when_the_bus_opens() -> None:
    async with nats_server() as server:
        await on_js(server, lambda js: js.add_stream(name="other", subjects=["goevent-js.order.>"]))
        with pytest.raises(DriverError, match=r"overlap.*for the stream 'goevent-js'"):
            async with bus_on(server):
                pass


async def test_stream_that_cannot_be_created_again_is_reported_once() -> None:
    async with nats_server() as server:
        bus = bus_on(server)
        bus.seen()
        async with bus:
            await accepted(bus, 1)

            async def replace(js: Any) -> None:
                await js.delete_stream(STREAM)
                await js.add_stream(name="other", subjects=["goevent-js.order.>"])

            await on_js(server, replace)
            await until(lambda: bus.count_reports("overlap"))
            await trio.sleep(2)  # the bus tries again meanwhile
            assert bus.count_reports("overlap") == 1
            await delete_stream(server, "other")
            await until(lambda: bus.count_reports("it is created again"))
            await accepted(bus, 2)


async def test_undeclared_stream_that_is_deleted_is_not_created() -> None:
    async with nats_server() as server:
        await on_js(server, lambda js: js.add_stream(name="orders", subjects=["shop.>"]))
        stream = JStream("orders", subjects=["shop.>"], declare=False)
        broker = NatsBroker(server.url, logger=None)
        driver = FastStreamDriver(broker, BrokerConfig(group="shop"), address=stream)
        async with FastStreamBus(driver) as bus:
            await accepted(bus, 1)
            await delete_stream(server, "orders")
            handle = await bus.dispatch(Deep(n=2))
            await handle.wait()
            assert "declare=False" in str(handle.errors[0])


async def test_full_stream_fails_an_event_at_once_and_alone() -> None:
    async with nats_server() as server:
        await on_js(
            server,
            lambda js: js.add_stream(
                name=STREAM, subjects=[f"{STREAM}.>"], max_msgs=3, discard=api.DiscardPolicy.NEW
            ),
        )
        async with bus_on(server, None) as bus:
            handles = [await bus.dispatch(Paid(n=n)) for n in range(5)]
            for handle in handles:
                await handle.wait()
            assert [bool(handle.errors) for handle in handles] == [0, 0, 0, 1, 1]
            assert "maximum messages exceeded" in str(handles[4].errors[0])
