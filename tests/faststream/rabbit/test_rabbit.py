"""RabbitMQ without a group: fan-out, lost connections, rejected logins and hostile messages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
import trio
from aio_pika.exceptions import InvalidFrameError
from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue
from pamqp import encode
from pamqp.commands import Basic
from tests.support.faststream_buses import FastStreamBus, accepted, grown
from tests.support.faststream_checks import (
    check_failing_publish,
    check_removed_name_takes_no_events,
    check_silent_server,
    check_single_delivery,
    driver_threads,
    gated_listener,
    recording_middleware,
    under_load,
)
from tests.support.limits import HANG_SECONDS
from tests.support.rabbit_server import rabbit_port, rabbit_sandbox, with_channel
from tests.support.redis_buses import Deep, Paid, User, numbers, opened, until
from tests.support.redis_server import fault_proxy, free_port

from goevent import DriverConnectionError, DriverError, Event
from goevent_faststream import BrokerConfig, FastStreamDriver
from goevent_faststream._rabbit.errors import to_driver_error
from goevent_faststream._rabbit.names import (
    MAX_SHORT_STRING_BYTES,
    RabbitNames,
    binding_key,
    earlier_binding_key,
)
from goevent_faststream._rabbit.receiver import count_deliveries


async def test_event_that_matches_a_name_and_three_patterns_arrives_once() -> None:
    async with rabbit_sandbox() as sandbox:
        sender, receiver = sandbox.bus(None), sandbox.bus(None)
        await check_single_delivery(sender, receiver)


async def test_double_star_needs_a_word_although_a_sharp_needs_none() -> None:
    async with rabbit_sandbox() as sandbox:
        sender, receiver = sandbox.bus(None), sandbox.bus(None)
        within, all_of_them = receiver.seen("order.paid.**"), receiver.seen("**")
        async with opened(sender, receiver):
            # The key order.paid.# would match order.paid, too.
            await accepted(sender, 1)
            await sender.dispatch(Deep(n=2))
            await until(lambda: len(all_of_them) == 2)
        assert within == []


async def test_one_exchange_serves_buses_with_and_without_a_group() -> None:
    async with rabbit_sandbox() as sandbox:
        alone, grouped = sandbox.bus(None), sandbox.bus("shop")
        own, theirs = alone.seen(), grouped.seen()
        async with opened(alone, grouped):
            await accepted(alone, 1)
            await accepted(grouped, 2)
            await until(lambda: len(own) == len(theirs) == 2)
        assert sorted(numbers(own)) == sorted(numbers(theirs)) == [1, 2]


async def test_event_without_any_listener_is_accepted() -> None:
    async with rabbit_sandbox() as sandbox, sandbox.bus(None) as bus:
        (handle,) = await accepted(bus, 1)
        assert handle.receipt == handle.id


@pytest.mark.parametrize("group", [None, "shop"])
async def test_middlewares_of_a_given_broker_run_in_both_directions(group: str | None) -> None:
    middleware, calls = recording_middleware()
    async with rabbit_sandbox() as sandbox:
        url = f"amqp://guest:guest@127.0.0.1:{sandbox.port}/"
        broker = RabbitBroker(url, middlewares=[middleware], logger=None)
        config = BrokerConfig(group=group, stream=sandbox.exchange, max_deliveries=2, backoff=0.02)
        bus, other = FastStreamBus(FastStreamDriver(broker, config)), sandbox.bus(None)
        back = bus.seen("user.created")
        there = other.seen()
        async with opened(bus, other):
            await accepted(bus, 1)
            await until(lambda: there)
            await other.dispatch(User(n=2))
            await until(lambda: back)
            assert sorted(calls) == ["consume", "publish"]
            await sandbox.publish(b"fail", "user.created")
            await until(
                lambda: bus.count_reports("a middleware of ours") == (1 if group is None else 2)
            )
            await other.dispatch(User(n=3))
            await until(lambda: len(back) == 2)
        dead_letters = [] if group is None else await sandbox.take_messages(sandbox.queue("+dead"))
        assert [message.body for message in dead_letters] == ([] if group is None else [b"fail"])


@pytest.mark.parametrize("group", [None, "shop"])
async def test_publish_during_an_outage_fails_in_time_with_a_connection_error(
    group: str | None,
) -> None:
    async with rabbit_sandbox() as sandbox, fault_proxy(sandbox.port) as proxy:
        bus = sandbox.bus(group, port=proxy.port, publish_timeout=1)
        async with bus:
            await accepted(bus, 1)
            proxy.refuse()
            proxy.reset()
            await check_failing_publish(bus)
            await until(lambda: not bus.driver.snapshot().connected)
        assert bus.count_reports("connection to amqp is lost") == 1


async def test_publish_to_a_silent_server_fails_in_time() -> None:
    async with rabbit_sandbox() as sandbox, fault_proxy(sandbox.port) as proxy:
        bus = sandbox.bus(None, port=proxy.port)
        await check_silent_server(bus, proxy, "amqp")


@pytest.mark.parametrize("with_middleware", [False, True])
@pytest.mark.parametrize(("options", "expected"), [({"app_id": "shop-7"}, "shop-7"), ({}, None)])
async def test_events_carry_the_app_id_that_was_given_to_the_broker(
    options: dict[str, str], expected: str | None, with_middleware: bool
) -> None:
    async with rabbit_sandbox() as sandbox:
        bus = sandbox.bus()
        bus.seen()
        async with bus:
            pass
        middlewares = [recording_middleware()[0]] if with_middleware else []
        url = f"amqp://guest:guest@127.0.0.1:{sandbox.port}/"
        broker: Any = cast("Any", RabbitBroker)(
            url, middlewares=middlewares, logger=None, **options
        )
        config = BrokerConfig(stream=sandbox.exchange)
        async with FastStreamBus(FastStreamDriver(broker, config)) as sender:
            await accepted(sender, 1)
        (message,) = await sandbox.take_messages(sandbox.queue())
    assert message.header.properties.app_id == expected


async def test_connection_cut_under_load_is_reported_once_and_used_again() -> None:
    async with rabbit_sandbox() as sandbox, fault_proxy(sandbox.port) as proxy:
        sender = sandbox.bus(None, port=proxy.port)
        receiver = sandbox.bus(None, port=proxy.port)
        seen = receiver.seen()

        async with opened(sender, receiver), under_load(sender, 8):
            for n in range(1, 4):
                await until(grown(seen))
                proxy.reset()
                for bus in (sender, receiver):
                    await until(lambda bus=bus, n=n: bus.count_reports("amqp again") == n)  # type: ignore[misc]
            await until(grown(seen))
        for bus in (sender, receiver):
            assert bus.count_reports("connection to amqp is lost") == 3
        assert len(set(numbers(seen))) == len(seen)


@pytest.mark.parametrize(
    ("kept", "removed"), [("order.paid", "order.*"), ("order.*", "order.paid")]
)
async def test_removed_name_takes_no_events_of_another_one(kept: str, removed: str) -> None:
    async with rabbit_sandbox() as sandbox:
        await check_removed_name_takes_no_events(
            sandbox.bus(None), sandbox.bus(None), kept, removed
        )


async def test_slow_listener_holds_back_the_server() -> None:
    async with rabbit_sandbox() as sandbox:
        sender, receiver = sandbox.bus(None), sandbox.bus(None, prefetch=10)
        gate, done = gated_listener(receiver, mailbox=5)
        async with opened(sender, receiver):
            await accepted(sender, *range(200))
            adapter: Any = receiver.driver._adapter  # pyright: ignore[reportPrivateUsage]
            await until(lambda: len(adapter._deliveries.waiting) == 10)
            gate.set()
            await until(lambda: len(done) == 200)
        assert done == [*range(200)]


@pytest.mark.parametrize(
    ("user", "vhost", "says"),
    [
        ("guest:s3cret", "", "rejects the login"),
        ("s3cret:s3cret", "", "rejects the login"),
        ("guest:guest", "nowhere", "virtual host"),
    ],
)
async def test_rejected_login_is_a_connection_error_without_the_password(
    user: str, vhost: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bus = FastStreamBus(f"amqp://{user}@127.0.0.1:{rabbit_port()}/{vhost}")
    with trio.fail_after(HANG_SECONDS), pytest.raises(DriverConnectionError, match=says) as caught:
        async with bus:
            pass
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r} {bus.driver!r}"
    assert "s3cret" not in caplog.text.replace("s3cret:******", "")


@pytest.mark.parametrize(
    ("got", "says"),
    [
        (
            "<Connection.Close NOT_ALLOWED - vhost x not found>",
            "this user has no access to the virtual host: NOT_ALLOWED - vhost x not found",
        ),
        (
            "<Connection.Close INTERNAL_ERROR - vhost '/' is down>",
            "the server refuses the connection: INTERNAL_ERROR - vhost '/' is down",
        ),
        ("<Basic.Ack>", "the server breaks the handshake: expected OpenOk, got <Basic.Ack>"),
    ],
)
def test_connection_that_is_refused_in_the_handshake_says_why(got: str, says: str) -> None:
    error = to_driver_error(InvalidFrameError(f"expected OpenOk, got {got}"))
    assert isinstance(error, DriverConnectionError)
    assert str(error) == f"RabbitMQ: {says}"


async def test_closed_port_and_silent_port_are_connection_errors() -> None:
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = silent[0].socket.getsockname()[1]
    try:
        for each in (free_port(), port):
            with (
                trio.fail_after(HANG_SECONDS),
                pytest.raises(DriverConnectionError, match="RabbitMQ"),
            ):
                async with FastStreamBus(f"amqp://guest:s3cret@127.0.0.1:{each}"):
                    pass
    finally:
        await silent[0].aclose()
    assert not driver_threads()


async def test_close_leaves_no_connection_and_no_thread() -> None:
    async with rabbit_sandbox() as sandbox, fault_proxy(sandbox.port) as proxy:
        for group in (None, "shop"):
            bus = sandbox.bus(group, port=proxy.port)
            bus.seen()
            async with bus:
                await accepted(bus, 1)
            clients = proxy._clients  # pyright: ignore[reportPrivateUsage]
            await until(lambda clients=clients: not clients)  # type: ignore[misc]
            assert not driver_threads()


def test_url_keeps_its_heartbeat_and_its_tls_scheme() -> None:
    def kwargs(url: str) -> dict[str, Any]:
        broker: Any = FastStreamDriver.from_url(url).broker
        found: dict[str, Any] = broker._connection_kwargs
        return found

    assert "heartbeat=7" in kwargs("amqp://host/?heartbeat=7&group=a")["url"]
    assert "heartbeat=3" in kwargs("amqp://host")["url"]
    assert kwargs("amqps://host")["url"].startswith("amqps://")


@pytest.mark.parametrize("rest", ["host:port", "host/?port=1", "host:99999999", "[host"])
def test_malformed_url_is_refused_without_its_password(rest: str) -> None:
    with pytest.raises(ValueError, match="RabbitMQ") as caught:
        FastStreamDriver.from_url(f"amqp://guest:s3cret@{rest}")
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_unsuitable_addresses_are_refused() -> None:
    broker = RabbitBroker(logger=None)
    with pytest.raises(ValueError, match="topic"):
        FastStreamDriver(broker, address=RabbitExchange("x", type=ExchangeType.FANOUT))
    with pytest.raises(TypeError, match="RabbitExchange"):
        FastStreamDriver(broker, address=RabbitQueue("x"))
    with pytest.raises(ValueError, match="start"):
        FastStreamDriver.from_url("amqp://h?group=a&start=2024-01-01T00:00:00Z")


def test_no_two_names_share_a_queue() -> None:
    names = ["a.b", "a-b", "a_b", "ab", "a.b.c", "x" * 255, "x" * 254]
    groups = [RabbitNames("e", f"e:{group}") for group in ("g", "g.h", "g.a")]
    spelled = [group.queue(name) for group in groups for name in names]
    spelled += [
        each
        for group in groups
        for each in (group.exact_exchange, group.patterns, group.dead_letter_queue)
    ]
    spelled += [
        group.patterns for group in (RabbitNames("e.g", "e.g:h"), RabbitNames("e", "e:g.h.i"))
    ]
    assert len(set(spelled)) == len(spelled)
    assert max(len(each) for each in spelled) <= MAX_SHORT_STRING_BYTES
    assert binding_key("a.*.**") == "a.*.*.#"
    # `*.#` is a key of today, that of `**`.
    earlier = {each: earlier_binding_key(each) for each in ("a.b", "a.*", "**", "a.**", "*.**")}
    assert earlier == {"a.b": None, "a.*": None, "**": "#", "a.**": "a.#", "*.**": None}
    assert earlier_binding_key("a.*.**") is None


def test_deliveries_are_the_counts_of_the_queue_and_of_goevent() -> None:
    def count(headers: dict[str, Any], redelivered: bool, queues_count: bool = True) -> int:
        return count_deliveries(headers, redelivered, queues_count=queues_count)

    assert count({}, False) == 1
    assert count({}, True) == 2
    assert count({"x-delivery-count": 3}, True) == 4
    assert count({"x-delivery-count": 3}, True, queues_count=False) == 2
    assert count({"x-delivery-count": 3, "goevent-deliveries": 5}, False) == 1
    assert count({"goevent-earlier-deliveries": 2}, False) == 3
    assert count({"x-delivery-count": 1, "goevent-earlier-deliveries": 2}, True) == 4
    assert count({"x-death": [{}], "goevent-earlier-deliveries": 2}, False) == 1


async def test_routing_key_that_is_too_long_is_refused() -> None:
    async with rabbit_sandbox() as sandbox, sandbox.bus(None, prefix="p" * 199 + ".") as bus:
        handle = await bus.dispatch(Event("x" * 60, {}))
        await handle.wait()
        assert isinstance(handle.errors[0].error, DriverError)
        await accepted(bus, 1)


@pytest.mark.parametrize("group", [None, "shop"])
@pytest.mark.parametrize(
    "properties",
    [
        {"message_id": "\udcff"},
        {"correlation_id": "\udcff" * 200},
        {"headers": {"raw": "table"}},
        {"timestamp": datetime.now(UTC)},
    ],
    ids=lambda properties: next(iter(properties)),
)
async def test_invalid_text_and_times_in_properties_do_not_close_the_connection(
    properties: dict[str, Any], group: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raw(text: str) -> bytes:
        data = text.encode(errors="surrogateescape")
        return bytes([len(data)]) + data

    async with rabbit_sandbox() as sandbox:
        bus = sandbox.bus(group, format="faststream", max_deliveries=2)
        seen: list[int] = []

        def fail(event: Paid) -> None:
            seen.append(event.n)
            raise ValueError(event.n)

        async def publish(channel: Any) -> None:
            spoilt: dict[str, Callable[[Any], bytes]] = {
                "shortstr": raw,
                "timestamp": lambda _: b"\xff" * 8,
                "table": lambda _: b"\0\0\0\x0a\x01\xffF\0\0\0\x03\x01\xfeV",
            }
            for kind, how in spoilt.items():
                monkeypatch.setitem(cast("Any", encode.METHODS), kind, how)
            try:
                await channel.basic_publish(
                    b'{"n":1}',
                    exchange=sandbox.exchange,
                    routing_key="order.paid",
                    properties=Basic.Properties(**properties),
                )
            finally:
                monkeypatch.undo()

        bus.subscribe(fail, Paid)
        async with bus:
            await with_channel(sandbox.port, publish)
            await (await bus.dispatch(Paid(n=2))).wait()
            await until(lambda: {*seen} == {1, 2})
            if group is not None:
                await until(lambda: bus.count_reports("is a dead letter after 2 deliveries") == 2)
        assert not bus.count_reports("is lost")


async def test_opening_that_is_cancelled_leaves_no_connection_for_the_next_one() -> None:
    broker = RabbitBroker(f"amqp://guest:guest@127.0.0.1:{rabbit_port()}/", logger=None)
    bus = FastStreamBus(FastStreamDriver(broker, BrokerConfig(group="shop")))
    for milliseconds in range(50):
        with trio.move_on_after(milliseconds / 1000):
            async with bus:
                pass
        # FastStream would use it again, and it belongs to the loop of the last opening.
        assert broker._connection is None  # pyright: ignore[reportPrivateUsage]
    async with bus:
        assert bus.driver.snapshot().connected
