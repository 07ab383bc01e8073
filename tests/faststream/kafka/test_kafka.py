"""Durable events on Kafka with both clients of FastStream, on the mock and on real brokers."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import confluent_kafka
import faststream
import faststream.confluent
import faststream.kafka
import pytest
import trio
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.faststream_checks import check_backlog
from tests.support.kafka_brokers import KafkaBrokerKind, KafkaFeature, RunningKafka, on_the_mock
from tests.support.kafka_mock import read_records
from tests.support.limits import HANG_SECONDS, PROMPT_SECONDS
from tests.support.redis_buses import REGISTRY, Deep, Paid, User, numbers, opened, until
from tests.support.redis_server import free_port

from goevent import DriverConnectionError, Event, UnsupportedError, current_delivery
from goevent_faststream import BrokerConfig, FastStreamDriver

TOPIC = "goevent.order.paid"
both_clients = pytest.mark.parametrize("scheme", ["kafka", "kafka+confluent"])


class OrderMoved(Event, name="order.moved", key="order", registry=REGISTRY):
    order: str = ""
    n: int = 0


async def write_records(server: RunningKafka, topic: str, *bodies: bytes) -> None:
    """Write records as a foreign producer."""

    def write() -> None:
        producer = confluent_kafka.Producer({"bootstrap.servers": server.addr, "log_level": 0})
        for body in bodies:
            producer.produce(topic, body)
        assert producer.flush(5) == 0

    await trio.to_thread.run_sync(write)


async def commit_point(server: RunningKafka, group: str, topic: str) -> tuple[int, str]:
    """Return the committed offset and its metadata, of the first partition of a topic."""

    def ask() -> tuple[int, str]:
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": server.addr, "group.id": group, "log_level": 0}
        )
        (found,) = consumer.committed(
            [confluent_kafka.TopicPartition(topic, 0)], timeout=HANG_SECONDS
        )
        consumer.close()
        return found.offset, found.metadata or ""

    return await trio.to_thread.run_sync(ask)


@asynccontextmanager
async def worker(url: str, said: list[str]) -> AsyncGenerator[subprocess.Popen[bytes]]:
    """Run a consumer in a process of its own, which is killed at the end.

    Args:
        said: Gets the lines that it prints.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.kafka_worker", url], stdout=subprocess.PIPE
    )
    out = process.stdout
    assert out is not None

    def read() -> None:
        for line in out:
            said.append(line.decode().strip())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield process
    finally:
        process.kill()
        await trio.to_thread.run_sync(process.wait)
        await trio.to_thread.run_sync(reader.join)
        out.close()


def _has(seen: list[Any], n: int) -> bool:
    return n in numbers(seen)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Generator[None]:
    before = {*threading.enumerate()}
    yield
    # An earlier test's thread would fail all tests from here on.
    started = {*threading.enumerate()} - before
    assert not [each.name for each in started if "goevent" in each.name]


@both_clients
async def test_receipt_is_the_partition_and_offset_of_the_record(
    scheme: str, kind: KafkaBrokerKind
) -> None:
    async with kind.run() as server, server.bus(scheme, None) as bus:
        await server.topic(TOPIC)
        handles = await accepted(bus, 1, 2)
        assert [handle.receipt for handle in handles] == [f"{TOPIC}-0@0", f"{TOPIC}-0@1"]


@on_the_mock
@both_clients
async def test_bus_without_a_group_can_only_publish(scheme: str, kind: KafkaBrokerKind) -> None:
    async with kind.run() as server:
        bus = server.bus(scheme, None)
        registration = bus.subscribe(print, Paid)
        with pytest.raises(UnsupportedError, match="group"):
            async with bus:
                await registration.ready()


@both_clients
async def test_after_a_kill_the_unsettled_event_is_redelivered_and_the_settled_are_not(
    scheme: str, kind: KafkaBrokerKind
) -> None:
    kind.needs(KafkaFeature.GROUPS, KafkaFeature.COMMIT_METADATA, KafkaFeature.DEAD_MEMBERS_LEAVE)
    async with kind.run() as server:
        await server.topic(TOPIC)
        place = (f"shop.{TOPIC}", TOPIC)
        said: list[str] = []
        url = f"{scheme}://{server.addr}?group=shop&claim_idle={server.session_seconds}"
        async with server.bus(scheme, None) as sender, worker(url, said) as process:
            await until(lambda: "ready" in said, 20)
            await accepted(sender, *range(1, 10))
            await until(lambda: {f"done {n}" for n in range(2, 10)} <= {*said})
            with trio.fail_after(HANG_SECONDS):
                while await commit_point(server, *place) != (0, "goevent/1:1x1,8xs,"):
                    pass
            process.kill()
            assert await commit_point(server, *place) == (0, "goevent/1:1x1,8xs,")
            receiver = server.bus(scheme)
            tries = receiver.tries(fail=lambda event: False)
            async with receiver:
                await accepted(sender, 10)
                await until(lambda: (10, 1) in tries, 20)
                await until(lambda: not any(b.lag or b.pending for b in receiver.backlogs()))
        assert tries == [(1, 2), (10, 1)]
        assert await commit_point(server, *place) == (10, "")


@on_the_mock
@both_clients
async def test_failed_event_is_retried_until_it_is_a_dead_letter(
    scheme: str, kind: KafkaBrokerKind
) -> None:
    async with kind.run() as server:
        bus = server.bus(scheme, max_deliveries=3)
        tries = bus.tries(fail=lambda event: event.n == 13)
        async with bus:
            await accepted(bus, 12, 13)
            await until(lambda: bus.count_reports("is a dead letter after 3 deliveries"))
        assert sorted(tries) == [(12, 1), (13, 1), (13, 2), (13, 3)]
        (letter,) = await read_records(server, f"{TOPIC}..dead", 1)
        headers = {name: value.decode() for name, value in letter.headers()}
        assert b'"n":13' in letter.value()
        assert "no 13" in headers["goevent-reason"]
        assert "ValueError" in headers["goevent-details"]
        assert headers["goevent-deliveries"] == "3"
        assert headers["goevent-id"].startswith(f"{TOPIC}-")
        assert headers["goevent-group"] == "shop"
        assert ":" in headers["goevent-consumer"]


@on_the_mock
@both_clients
async def test_undecodable_record_is_a_dead_letter_at_once(
    scheme: str, kind: KafkaBrokerKind
) -> None:
    async with kind.run() as server:
        await server.topic(TOPIC)
        await write_records(server, TOPIC, b"{nonsense", b"")
        bus = server.bus(scheme)
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1)
            await until(lambda: seen and len(bus.reports) >= 2)
        letters = await read_records(server, f"{TOPIC}..dead", 2)
        assert sorted(letter.value() or b"" for letter in letters) == [b"", b"{nonsense"]
        assert numbers(seen) == [1]
        assert (await commit_point(server, f"shop.{TOPIC}", TOPIC))[0] == 3


@on_the_mock
@both_clients
async def test_failing_event_holds_back_its_key_and_no_other(
    scheme: str, kind: KafkaBrokerKind
) -> None:
    async with kind.run() as server:
        await server.topic("goevent.order.moved")
        bus = server.bus(scheme, backoff=0.2)
        ran: list[tuple[str, int]] = []

        async def move(event: OrderMoved) -> None:
            ran.append((event.order, event.n))
            if (event.order, event.n) == ("a", 0) and current_delivery().deliveries < 3:
                raise ValueError

        bus.subscribe(move, OrderMoved, concurrency=10)
        async with bus:
            for n in range(3):
                for order in "ab":
                    await (await bus.dispatch(OrderMoved(order=order, n=n))).wait()
            await until(lambda: ("a", 2) in ran)
        assert [n for order, n in ran if order == "a"] == [0, 0, 0, 1, 2]
        assert [n for order, n in ran if order == "b"] == [0, 1, 2]
        assert ran.index(("b", 2)) < ran.index(("a", 1))


@both_clients
async def test_two_buses_of_a_group_share_partitions_and_each_key_stays_in_order(
    scheme: str, kind: KafkaBrokerKind
) -> None:
    kind.needs(KafkaFeature.GROUPS, KafkaFeature.CONCURRENT_JOINS)
    async with kind.run() as server:
        buses = [server.bus(scheme) for _ in range(2)]
        seen = [bus.seen(OrderMoved) for bus in buses]
        async with server.bus(scheme, None) as sender, opened(*buses):
            await until(lambda: all(bus.backlogs() for bus in buses))

            async def send(first: int) -> None:
                for n in range(first, first + 100):
                    await (await sender.dispatch(OrderMoved(order=str(n % 20), n=n))).wait()

            await send(0)
            await until(lambda: sum(map(len, seen)) >= 100, 20)
            await buses[0].close()
            await send(100)
            await until(lambda: len({e.n for each in seen for e in each}) == 200, 20)
        for each in seen:
            for key in map(str, range(20)):
                of_key = [event.n for event in each if event.order == key]
                assert [*dict.fromkeys(of_key)] == sorted({*of_key})


@both_clients
async def test_snapshot_tells_the_backlog(scheme: str, kind: KafkaBrokerKind) -> None:
    kind.needs(KafkaFeature.GROUPS)
    async with kind.run() as server:
        await server.topic(TOPIC)
        bus = server.bus(scheme, prefetch=2)
        await check_backlog(bus)


@on_the_mock
@both_clients
async def test_slow_listener_pauses_reading_and_its_bus_stays_in_the_group(
    scheme: str, kind: KafkaBrokerKind
) -> None:
    async with kind.run() as server:
        await server.topic(TOPIC)
        bus = server.bus(scheme, prefetch=2)
        gate, begun = trio.Event(), list[int]()

        async def slow(event: Paid) -> None:
            begun.append(event.n)
            await gate.wait()

        bus.subscribe(slow, Paid, concurrency=100)
        async with bus:
            await accepted(bus, *range(100))
            await until(lambda: len(begun) == 2)
            await trio.sleep(3)  # longer than the session timeout of a silent member
            assert len(begun) == 2
            gate.set()
            await until(lambda: len(begun) == 100)
        assert begun == [*range(100)]


@both_clients
async def test_bus_that_ends_while_it_unsubscribes_leaves_its_groups(
    scheme: str, kind: KafkaBrokerKind
) -> None:
    kind.needs(KafkaFeature.GROUPS)
    async with kind.run() as server:
        await server.topic(TOPIC)
        bus, begun = server.bus(scheme), list[int]()

        async def hang(event: Paid) -> None:
            begun.append(event.n)
            await trio.sleep_forever()

        registration = bus.subscribe(hang, Paid)
        with trio.CancelScope() as scope:
            async with bus:
                await accepted(bus, 1)
                await until(lambda: begun)
                # The consumer now waits for its listener, which does not end.
                registration.unregister()
                await until(lambda: not bus.backlogs())
                scope.cancel()
        again = server.bus(scheme)
        seen = again.seen()
        async with again:
            await until(lambda: _has(seen, 1))


@both_clients
async def test_pattern_receives_from_existing_and_new_topics(
    scheme: str, kind: KafkaBrokerKind
) -> None:
    kind.needs(KafkaFeature.GROUPS)
    async with kind.run() as server:
        bus = server.bus(scheme)
        exact, pattern = bus.seen("order.paid"), bus.seen("order.**")
        async with server.bus(scheme, None) as sender:
            await accepted(sender, 1)
            async with bus:
                await accepted(sender, 2)
                for event in (Deep(n=3), User(n=4), Deep(n=5)):
                    await (await sender.dispatch(event)).wait()
                await until(lambda: len(pattern) == 4, 20)
        assert sorted(numbers(exact)) == [1, 2]
        assert sorted(numbers(pattern)) == [1, 2, 3, 5]


@both_clients
async def test_start_applies_to_a_new_group_only(scheme: str, kind: KafkaBrokerKind) -> None:
    kind.needs(KafkaFeature.GROUPS)
    async with kind.run() as server:
        await server.topic(TOPIC)
        async with server.bus(scheme, None) as sender:
            await accepted(sender, 1, 2, 3)
            soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
            wanted = {"earliest": [1, 2, 3], "latest": [], "2": [3], soon: []}
            for number, (start, before) in enumerate(wanted.items()):
                bus = server.bus(scheme, f"g{number}", start=start)
                seen = bus.seen()
                async with bus:
                    (handle,) = await accepted(sender, 10 + number)
                    assert handle.receipt
                    await until(partial(_has, seen, 10 + number))
                assert numbers(seen)[: len(before) + 1][: len(before)] == before
                await accepted(sender, 20)
                async with bus:
                    await until(partial(_has, seen, 20))
                assert numbers(seen).count(10 + number) == 1


@both_clients
async def test_outage_is_reported_once_and_no_accepted_event_is_lost(
    scheme: str, kind: KafkaBrokerKind
) -> None:
    kind.needs(KafkaFeature.GROUPS)
    async with kind.run() as server:
        await server.topic(TOPIC)
        bus = server.bus(scheme, publish_timeout=1)
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1)
            await until(lambda: seen)
            await server.down()
            await until(lambda: not bus.driver.snapshot().connected)
            with trio.fail_after(HANG_SECONDS):
                handle = await bus.dispatch(Paid(n=2))
                await handle.wait()
            assert isinstance(handle.errors[0].__cause__, DriverConnectionError)
            await server.up()
            await until(lambda: bus.driver.snapshot().connected)
            await accepted(bus, 3)
            await until(lambda: 3 in numbers(seen), 20)
        assert bus.count_reports(f"connection to {scheme} is lost") == 1
        assert bus.count_reports(f"connected to {scheme} again") == 1


@both_clients
async def test_wrong_address_fails_in_time_and_shows_no_password(scheme: str) -> None:
    url = f"{scheme}://me:geheim@127.0.0.1:{free_port()}?group=shop"
    driver = FastStreamDriver.from_url(url)
    with trio.fail_after(PROMPT_SECONDS), pytest.raises(DriverConnectionError) as caught:
        async with FastStreamBus(driver):
            pass
    assert "geheim" not in f"{caught.value!r} {driver!r} {driver.config!r}"


@on_the_mock
@both_clients
async def test_middlewares_of_the_broker_run_in_both_directions(
    scheme: str, kind: KafkaBrokerKind
) -> None:
    module = faststream.kafka if scheme == "kafka" else faststream.confluent
    ran: list[str] = []

    class RecordingMiddleware(faststream.BaseMiddleware):
        async def consume_scope(self, call_next: Any, msg: Any) -> Any:
            ran.append("consume")
            return await call_next(msg)

        async def publish_scope(self, call_next: Any, cmd: Any) -> Any:
            ran.append("publish")
            return await call_next(cmd)

    async with kind.run() as server:
        broker = module.KafkaBroker(server.addr, middlewares=[RecordingMiddleware], logger=None)
        config = BrokerConfig(group="shop", claim_idle=server.session_seconds)
        bus = FastStreamBus(FastStreamDriver(broker, config))
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1, 2)
            await until(lambda: len(seen) == 2)
        assert sorted(ran) == ["consume"] * 2 + ["publish"] * 2


@both_clients
async def test_address_sets_the_prefix_and_forbids_the_creation_of_topics(
    scheme: str, kind: KafkaBrokerKind
) -> None:
    module = faststream.kafka if scheme == "kafka" else faststream.confluent
    async with kind.run() as server:
        await server.topic("shop.order.paid", 3)
        address = module.Topic("shop.", declare=False)
        broker = module.KafkaBroker(server.addr, logger=None)
        driver = FastStreamDriver(broker, BrokerConfig(publish_timeout=2), address=address)
        async with FastStreamBus(driver) as bus:
            (handle,) = await accepted(bus, 1)
            assert handle.receipt.startswith("shop.order.paid-")
            handle = await bus.dispatch(User(n=1))
            await handle.wait()
            assert "its Topic has declare=False" in str(handle.errors[0].__cause__)


@both_clients
def test_url_that_makes_no_sense_is_refused(scheme: str) -> None:
    for rest in ("h:9092?colour=red", "h:x", "h?tls=2", "h?sasl=none", "h?stream=s"):
        with pytest.raises(ValueError, match=r"Kafka"):
            FastStreamDriver.from_url(f"{scheme}://{rest}")
