"""MQTT: fan-out, groups, filters, lost connections and rejected logins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from itertools import combinations, product
from random import Random
from typing import Any

import pytest
import trio
import zmqtt
from faststream.mqtt import MQTTBroker
from tests.support.faststream_buses import FastStreamBus, accepted, grown
from tests.support.faststream_checks import (
    check_failing_publish,
    check_pattern_that_leaves,
    check_removed_name_takes_no_events,
    check_restarts_under_load,
    check_silent_server,
    driver_threads,
    gated_listener,
    recording_middleware,
)
from tests.support.limits import HANG_SECONDS
from tests.support.mqtt_server import MqttServer, mqtt_server
from tests.support.redis_buses import Deep, Paid, User, numbers, opened, until
from tests.support.redis_server import fault_proxy, free_port
from tests.support.worker_process import at_work

from goevent import DriverConnectionError, DriverError, compile_pattern
from goevent_faststream import BrokerConfig, FastStreamDriver
from goevent_faststream._mqtt import publisher as publisher_module
from goevent_faststream._mqtt.arrivals import MessageQueue
from goevent_faststream._mqtt.filters import CoveringFilters, merge_filters, narrowest_filter
from goevent_faststream._mqtt.topics import event_name_of, topic_of

GROUPS = [None, "shop"]


async def test_event_that_matches_a_name_and_three_patterns_arrives_once() -> None:
    async with mqtt_server() as server:
        sender, receiver = server.bus(), server.bus()
        seen = [receiver.seen(via) for via in ("order.paid", "order.*", "*.paid", "**")]
        async with opened(sender, receiver):
            await accepted(sender, *range(100))
            await until(lambda: all(len(each) == 100 for each in seen))
            await sender.dispatch(User(n=7))
            await until(lambda: len(seen[3]) == 101)
        assert [sorted(numbers(each)) for each in seen[:3]] == [[*range(100)]] * 3


async def test_a_name_gets_each_event_once_while_a_pattern_leaves() -> None:
    async with mqtt_server() as server:
        # Each comes twice for a moment, and the server keeps 1,000 messages for a client.
        await check_pattern_that_leaves(server.bus(), server.bus(), count=400)


async def test_group_gets_an_event_once_however_many_patterns_match() -> None:
    async with mqtt_server() as server:
        sender, buses = server.bus(), [server.bus("shop") for _ in range(2)]
        exact: list[Any] = []
        crossing: list[Any] = []
        for bus in buses:
            bus.subscribe(exact.append, Paid)
            bus.subscribe(crossing.append, "*.paid")
            bus.subscribe(crossing.append, "order.*")
        async with opened(sender, *buses):
            await accepted(sender, *range(100))
            await until(lambda: len(exact) == 100 and len(crossing) == 200)
        assert sorted(numbers(exact)) == [*range(100)]


async def test_late_pattern_neither_repeats_nor_loses_events() -> None:
    async with mqtt_server() as server:
        sender, receiver = server.bus(), server.bus()
        seen = receiver.seen()
        async with opened(sender, receiver), trio.open_nursery() as nursery:
            stop, sent = False, 0

            async def load() -> None:
                nonlocal sent
                while not stop:
                    await accepted(sender, sent)
                    sent += 1

            nursery.start_soon(load)
            await until(grown(seen))
            receiver.seen("order.*")
            receiver.seen("*.paid")
            await receiver.ready()
            await until(grown(seen))
            receiver.unregister_listeners_for_event("*.paid")
            await until(grown(seen))
            stop = True
            await until(lambda: len(seen) >= sent)
        assert sorted(numbers(seen)) == [*range(sent)]


@pytest.mark.parametrize(
    ("kept", "removed"), [("order.paid", "order.*"), ("order.*", "order.paid")]
)
async def test_removed_name_takes_no_events_of_another_one(kept: str, removed: str) -> None:
    async with mqtt_server() as server:
        await check_removed_name_takes_no_events(server.bus(), server.bus(), kept, removed)


async def test_middlewares_of_a_given_broker_run_in_both_directions() -> None:
    middleware, calls = recording_middleware()
    async with mqtt_server() as server:
        broker = MQTTBroker(server.url(), middlewares=[middleware], logger=None)
        bus, other = FastStreamBus(FastStreamDriver(broker)), server.bus()
        back, there = bus.seen("user.created"), other.seen()
        async with opened(bus, other):
            await accepted(bus, 1)
            await until(lambda: there)
            await other.dispatch(User(n=2))
            await until(lambda: back)
            assert sorted(calls) == ["consume", "publish"]
            await publish_with_mosquitto(server, "goevent/user/created", b"fail")
            await until(lambda: bus.count_reports("a middleware of ours"))
            await other.dispatch(User(n=3))
            await until(lambda: len(back) == 2)


async def publish_with_mosquitto(server: MqttServer, where: str, body: bytes) -> None:
    """Publish a message with `mosquitto_pub`."""
    command = ["mosquitto_pub", "-p", str(server.port), "-t", where, "-m", body.decode(), "-q", "1"]
    await trio.run_process(command)


async def test_undecodable_events_and_foreign_topics_do_no_harm() -> None:
    async with mqtt_server() as server:
        bus = server.bus()
        seen = bus.seen("**")
        async with bus:
            for where in ("goevent/a.b", "goevent/order/paid", "goevent", "other/order/paid"):
                await publish_with_mosquitto(server, where, b"{nonsense")
            await until(lambda: bus.reports)
            await bus.dispatch(Paid(n=1))
            await until(lambda: seen)
        assert len(bus.reports) == 1
        assert numbers(seen) == [1]


@pytest.mark.parametrize("group", GROUPS)
async def test_server_killed_and_restarted_under_load_is_reported_and_used_again(
    group: str | None,
) -> None:
    async with mqtt_server() as server:
        sender, receiver = server.bus(), server.bus(group)
        seen, _ = await check_restarts_under_load(sender, receiver, server, "mqtt")
        assert len(set(seen)) == len(seen)


async def test_server_keeps_events_for_a_bus_without_a_group_during_an_outage() -> None:
    async with mqtt_server() as server, fault_proxy(server.port) as proxy:
        sender, receiver = server.bus(), server.bus(port=proxy.port)
        seen = receiver.seen()
        async with opened(sender, receiver):
            await accepted(sender, *range(10))
            await until(lambda: len(seen) == 10)
            proxy.refuse()
            proxy.reset()
            await until(lambda: not receiver.driver.snapshot().connected)
            await accepted(sender, *range(10, 20))
            await proxy.accept()
            await until(lambda: len(seen) >= 20 and receiver.count_reports("again"))
        assert sorted(numbers(seen)) == [*range(20)]
        assert receiver.count_reports("is lost") == receiver.count_reports("again") == 1


@pytest.mark.parametrize("group", GROUPS)
async def test_equal_messages_after_a_reconnect_are_not_taken_for_repetitions(
    group: str | None,
) -> None:
    async with mqtt_server() as server, fault_proxy(server.port) as proxy:
        bus = server.bus(group, port=proxy.port, format="faststream")
        seen = bus.seen()
        async with bus:
            for _ in range(3):
                await publish_with_mosquitto(server, "goevent/order/paid", b'{"n":7}')
            await until(lambda: len(seen) == 3)
            proxy.reset()
            await until(lambda: bus.count_reports("connected to mqtt again"))
            for body in (*[b'{"n":7}'] * 10, b'{"n":8}'):
                await publish_with_mosquitto(server, "goevent/order/paid", body)
            await until(lambda: numbers(seen)[-1] == 8)
        assert numbers(seen) == [7] * 13 + [8]


async def test_events_waiting_for_room_come_again_after_a_lost_connection() -> None:
    async with mqtt_server() as server, fault_proxy(server.port) as proxy:
        sender, receiver = server.bus(), server.bus(port=proxy.port, prefetch=2)
        gate, done = gated_listener(receiver, mailbox=1)
        async with opened(sender, receiver):
            await accepted(sender, *range(10))
            trio_side: Any = receiver.driver._trio_side  # pyright: ignore[reportPrivateUsage]
            await until(lambda: trio_side._loop_side._waiting)
            proxy.reset()
            await until(lambda: receiver.count_reports("connected to mqtt again"))
            gate.set()
            await until(lambda: len(done) >= 10)
        assert sorted(done) == [*range(10)]


async def test_killed_member_of_a_group_does_not_delay_the_others() -> None:
    async with mqtt_server() as server, server.bus() as sender:
        async with at_work("faststream_worker", server.url("shop")) as worker:
            await accepted(sender, *range(10))
            await worker.says("begun", 10)
            worker.process.kill()
        bus = server.bus("shop")
        tries = bus.tries(fail=lambda _: False)
        async with bus:
            await accepted(sender, *range(10, 20))
            await until(lambda: len(tries) == 10)
        # At most once: the events of the killed process are lost.
        assert sorted(tries) == [(n, 1) for n in range(10, 20)]


@pytest.mark.parametrize("group", GROUPS)
async def test_publish_during_an_outage_fails_in_time_with_a_connection_error(
    group: str | None,
) -> None:
    async with mqtt_server() as server:
        bus = server.bus(group, publish_timeout=1)
        async with bus:
            await accepted(bus, 1)
            server.kill()
            await check_failing_publish(bus)
            await until(lambda: bus.count_reports("is lost"))
            assert not bus.driver.snapshot().connected


async def test_publish_late_in_an_outage_waits_as_long_as_an_early_one() -> None:
    async with mqtt_server() as server:
        bus = server.bus(publish_timeout=3)
        async with bus:
            await accepted(bus, 1)
            server.kill()
            await check_failing_publish(bus)
            handle = await bus.dispatch(Paid(n=3))
            await server.start()
            await handle.wait()
            assert not handle.errors


@pytest.mark.parametrize("has_middlewares", [False, True])
async def test_event_without_an_answer_of_a_frozen_server_may_have_arrived(
    monkeypatch: pytest.MonkeyPatch, has_middlewares: bool
) -> None:
    monkeypatch.setattr(publisher_module, "REPLY_SECONDS", 0.5)
    middleware, _ = recording_middleware()
    async with mqtt_server() as server:
        middlewares = [middleware] if has_middlewares else []
        broker = MQTTBroker(server.url(), middlewares=middlewares, logger=None)
        config = BrokerConfig(publish_timeout=0.5)
        sender, receiver = FastStreamBus(FastStreamDriver(broker, config)), server.bus()
        seen = receiver.seen()
        async with opened(receiver), sender:
            await accepted(sender, 1)
            await until(lambda: seen)
            server.freeze()
            handle = await sender.dispatch(Paid(n=2))
            await handle.wait()
            assert "the event may have arrived" in str(handle.errors[0])
            # It has.
            server.thaw()
            await until(lambda: numbers(seen) == [1, 2])
            server.kill()
            await until(lambda: not sender.driver.snapshot().connected)
            unsent = await sender.dispatch(Paid(n=3))
            await unsent.wait()
            assert "no connection for 0.5 s" in str(unsent.errors[0])
            assert "may have" not in str(unsent.errors[0])


async def test_silent_server_is_noticed_and_the_connection_replaced() -> None:
    async with mqtt_server() as server, fault_proxy(server.port) as proxy:
        bus = server.bus(port=proxy.port)
        await check_silent_server(bus, proxy, "mqtt")


async def test_slow_listener_holds_back_the_loop_side() -> None:
    async with mqtt_server("max_queued_messages 0") as server:
        sender, receiver = server.bus(), server.bus(prefetch=10)
        gate, done = gated_listener(receiver, mailbox=5)
        async with opened(sender, receiver):
            await accepted(sender, *range(200))
            trio_side: Any = receiver.driver._trio_side  # pyright: ignore[reportPrivateUsage]
            await until(lambda: trio_side._loop_side.capacity() == 0)
            gate.set()
            await until(lambda: len(done) == 200)
        assert sorted(done) == [*range(200)]


async def test_flood_of_qos_0_is_held_back_and_not_lost() -> None:
    async with mqtt_server("max_queued_messages 0") as server:
        bus = server.bus(prefetch=10, format="faststream")
        gate, done = gated_listener(bus, mailbox=5)
        async with bus:
            lines = b"".join(b'{"n":%d}\n' % n for n in range(5000))
            where = ["-p", str(server.port), "-t", "goevent/order/paid", "-q", "0", "-l"]
            await trio.run_process(["mosquitto_pub", *where], stdin=lines)
            await until(lambda: transport_of(bus).is_paused)
            # What one read of the socket has brought.
            assert queue_of(bus).qsize() < 3000
            gate.set()
            await until(lambda: len(done) == 5000)
        assert done == [*range(5000)]


def queue_of(bus: FastStreamBus) -> Any:
    """Return the queue of the messages that wait for a bus."""
    adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
    return adapter._queue


def transport_of(bus: FastStreamBus) -> Any:
    """Return the transport of a bus."""
    adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
    return adapter._connection.client._protocol._transport


async def test_large_events_that_wait_are_bounded_in_bytes_and_the_connection_stays() -> None:
    async with mqtt_server("max_queued_messages 0") as server:
        sender = server.bus()
        receiver = server.bus(prefetch_bytes=1_000_000, keepalive=1)
        gate, done = gated_listener(receiver)
        async with opened(sender, receiver):
            handles = [await sender.dispatch(Paid(n=n, text="x" * 100_000)) for n in range(60)]
            for handle in handles:
                await handle.wait()
                handle.raise_errors()
            protocol = transport_of(receiver)
            heard = -1.0
            # It may pause several times before all queues are full.
            with trio.fail_after(HANG_SECONDS):
                while not protocol.is_paused or protocol.last_heard != heard:
                    heard = protocol.last_heard
                    await trio.sleep(0.3)
            # Longer than the server waits for a ping.
            await trio.sleep(2.5)
            assert protocol.is_paused
            assert protocol.last_heard == heard
            assert queue_of(receiver)._bytes < 400_000
            trio_side: Any = receiver.driver._trio_side  # pyright: ignore[reportPrivateUsage]
            assert trio_side._loop_side._free_bytes > -110_000
            gate.set()
            await until(lambda: len(done) == 60)
        assert sorted(done) == [*range(60)]
        assert not receiver.count_reports("is lost")


async def test_listener_that_awaits_its_own_publish_is_answered_while_the_bus_is_full() -> None:
    async with mqtt_server("max_queued_messages 0") as server:
        sender, bus = server.bus(), server.bus(prefetch_bytes=100_000)
        done: list[int] = []

        async def answer(event: Paid) -> None:
            handle = await bus.dispatch(User(n=event.n))
            await handle.wait()
            handle.raise_errors()
            done.append(event.n)

        bus.subscribe(answer, Paid)
        async with opened(sender, bus):
            for n in range(40):
                await sender.dispatch(Paid(n=n, text="x" * 50_000))
            await until(lambda: len(done) == 40)
        assert not bus.reports


async def test_messages_of_qos_0_beyond_the_bound_are_dropped_and_reported_once() -> None:
    dropped: list[Any] = []
    queue = MessageQueue(2, 100, dropped.append)
    queue.is_overrun = True

    def message(qos: zmqtt.QoS, size: int = 1) -> zmqtt.Message:
        return zmqtt.Message(topic="a", payload=b"x" * size, qos=qos, retain=False, properties=None)

    async def fill() -> None:
        for qos in (zmqtt.QoS.AT_LEAST_ONCE, *[zmqtt.QoS.AT_MOST_ONCE] * 4):
            await queue.put(message(qos))
        assert (queue.qsize(), len(dropped)) == (2, 1)
        # The window bounds messages of QoS 1, so none of them is dropped.
        await queue.put(message(zmqtt.QoS.AT_LEAST_ONCE, 200))
        room: list[int] = []
        queue.on_room = lambda: room.append(queue.qsize())
        assert [queue.get_nowait().qos.value for _ in range(3)] == [1, 0, 1]
        assert room == [0]
        await queue.put(message(zmqtt.QoS.AT_MOST_ONCE, 200))
        await queue.put(message(zmqtt.QoS.AT_MOST_ONCE))
        assert (queue.qsize(), len(dropped)) == (1, 2)
        # One read may bring several messages, and the queue may become full in between.
        queue.is_overrun = False
        await queue.put(message(zmqtt.QoS.AT_MOST_ONCE))
        assert (queue.qsize(), len(dropped)) == (2, 2)

    await trio.to_thread.run_sync(asyncio.run, fill())


async def test_rejected_login_is_a_connection_error_without_the_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with mqtt_server(user=("me", "right")) as server:
        for login in ("me:s3cret@", "s3cret:s3cret@", ""):
            bus = FastStreamBus(f"mqtt://{login}127.0.0.1:{server.port}")
            with (
                trio.fail_after(HANG_SECONDS),
                pytest.raises(DriverConnectionError, match="login") as caught,
            ):
                async with bus:
                    pass
            assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r} {bus.driver!r}"
        assert "s3cret" not in caplog.text
        async with FastStreamBus(f"mqtt://me:right@127.0.0.1:{server.port}") as bus:
            await accepted(bus, 1)


async def test_login_rejected_on_a_reconnect_is_reported_once() -> None:
    async with mqtt_server(user=("me", "right")) as server:
        bus = FastStreamBus(f"mqtt://me:right@127.0.0.1:{server.port}")

        def refusals() -> int:
            return sum("refuses us" in str(error) for error in bus.errors)

        async with bus:
            await accepted(bus, 1)
            server.kill()
            server.user = ("me", "other")
            await server.start()
            await until(refusals)
            server.kill()
            server.user = ("me", "right")
            await server.start()
            await until(lambda: any("again" in str(error) for error in bus.errors))
            await accepted(bus, 2)
            assert refusals() == 1


async def test_closed_port_and_silent_port_are_connection_errors() -> None:
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = silent[0].socket.getsockname()[1]
    try:
        for each in (free_port(), port):
            with trio.fail_after(HANG_SECONDS), pytest.raises(DriverConnectionError, match="MQTT"):
                async with FastStreamBus(f"mqtt://me:s3cret@127.0.0.1:{each}"):
                    pass
    finally:
        await silent[0].aclose()


async def test_close_leaves_no_connection_and_no_thread() -> None:
    async with mqtt_server() as server, fault_proxy(server.port) as proxy:
        for group in GROUPS:
            bus = server.bus(group, port=proxy.port)
            bus.seen()
            async with bus:
                await accepted(bus, 1)
            clients = proxy._clients  # pyright: ignore[reportPrivateUsage]
            await until(lambda clients=clients: not clients)  # type: ignore[misc]
            assert not driver_threads()


async def test_long_names_are_deep_topics() -> None:
    async with mqtt_server() as server:
        sender, receiver = server.bus(prefix="a.b."), server.bus(prefix="a.b.")
        elsewhere = server.bus()
        seen, not_here = receiver.seen("order.**.added"), elsewhere.seen("**")
        async with opened(sender, receiver, elsewhere):
            await sender.dispatch(Deep(n=2))
            await until(lambda: seen)
        assert not_here == []


@pytest.mark.parametrize("rest", ["host:port", "host/?port=1", "host/path", "h?version=4", "[host"])
def test_malformed_url_is_refused_without_its_password(rest: str) -> None:
    with pytest.raises(ValueError, match="MQTT") as caught:
        FastStreamDriver.from_url(f"mqtt://me:s3cret@{rest}")
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_settings_that_mqtt_lacks_are_refused() -> None:
    with pytest.raises(TypeError, match="topics"):
        FastStreamDriver(MQTTBroker(logger=None), address="orders")
    with pytest.raises(ValueError, match="streams"):
        FastStreamDriver(MQTTBroker(logger=None), BrokerConfig(stream="orders"))


def test_capabilities_promise_no_more_than_mqtt_guarantees() -> None:
    alone, grouped = (
        FastStreamDriver.from_url(url).capabilities for url in ("mqtt://h", "mqtt://h?group=a")
    )
    assert (alone.fan_out, grouped.fan_out) == (True, False)
    assert not any(
        [alone.durable, alone.lossless, alone.ordered, grouped.durable, grouped.lossless]
    )


NAMES = [".".join(words) for count in (1, 2, 3, 4) for words in product("ab", repeat=count)]
VIAS = ["a", "a.b", "*", "a.*", "*.b", "*.*", "a.**", "**", "*.**", "a.**.b", "**.b", "b.*.a"]


def matches(filter_: str, name: str) -> bool:
    levels, words = filter_.split("/"), topic_of(name).split("/")
    if levels[-1] == "#":
        levels = levels[:-1]
        words = words[: len(levels)]
    fits = (level in ("+", word) for level, word in zip(levels, words, strict=False))
    return len(levels) == len(words) and all(fits)


def covering_filters(vias: Iterable[str]) -> set[str]:
    """Return the filters for names and patterns."""
    filters = CoveringFilters()
    filters.add(dict.fromkeys(vias))
    return {*filters}


@pytest.mark.parametrize("vias", [*product(VIAS, repeat=2), *product(VIAS[:8], repeat=3)])
def test_covering_filters_match_each_topic_once(vias: tuple[str, ...]) -> None:
    filters = covering_filters(vias)
    tests = [compile_pattern(via) for via in vias]
    for name in NAMES:
        count = sum(matches(filter_, name) for filter_ in filters)
        assert count <= 1
        if any(test(name) for test in tests):
            assert count == 1


def overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    for left, right in zip(one, other, strict=False):
        if "#" in (left, right):
            return True
        if left != right and "+" not in (left, right):
            return False
    longer = max(one, other, key=len)
    return len(one) == len(other) or longer[min(len(one), len(other))] == "#"


def slow_covering_filters(vias: Iterable[str]) -> set[str]:
    """Compare all pairs."""
    filters = {narrowest_filter(via) for via in vias}
    while True:
        pairs = combinations(sorted(filters), 2)
        pair = next((pair for pair in pairs if overlap(*pair)), None)
        if pair is None:
            return {"/".join(levels) for levels in filters}
        filters -= {*pair}
        filters.add(merge_filters(*pair))


def test_filters_are_the_same_in_any_order_of_changes() -> None:
    random = Random(14)
    for _ in range(300):
        words = ["a", "b", "c", "*", "**"]
        pool = {".".join(random.choices(words, k=random.randint(1, 4))) for _ in range(10)}
        filters, there, at_server = CoveringFilters(), set[str](), set[str]()
        for _ in range(8):
            picked = random.sample(sorted(pool), random.randint(1, len(pool)))
            leaving = {each for each in picked if each in there and random.random() < 0.6}
            filters.remove(leaving)
            there -= leaving
            filters.add(each for each in picked if each not in there)
            there |= {*picked}
            assert {*filters} == slow_covering_filters(there)
            added, removed = filters.changes()
            if random.random() < 0.7:
                filters.commit()
                at_server = (at_server | {*added}) - {*removed}
                assert at_server == {*filters}


def test_filters_that_do_not_overlap_stay_narrow() -> None:
    assert covering_filters(["order.paid", "user.*", "order.lost"]) == {
        "order/paid",
        "user/+",
        "order/lost",
    }
    assert covering_filters(["order.paid", "order.*"]) == {"order/+"}
    assert (event_name_of("order/paid"), event_name_of("a.b/c")) == ("order.paid", "")


async def test_mqtt_3_events_without_headers_are_accepted() -> None:
    async with mqtt_server() as server:
        sender, receiver = server.bus(version="3.1.1"), server.bus(version="3.1.1")
        seen = receiver.seen("order.*")
        async with opened(sender, receiver):
            await accepted(sender, *range(10))
            await until(lambda: len(seen) == 10)
            assert not [error for error in sender.reports if isinstance(error.error, DriverError)]
