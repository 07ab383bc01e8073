"""Limits of a NATS server and of JetStream: they are compared before anything is sent."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from faststream.nats import JStream, NatsBroker
from nats.js import api
from tests.faststream.nats.test_jetstream import bus_on, dead_letters
from tests.faststream.nats.test_losses import STREAM, on_js
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.faststream_checks import EnlargingMiddleware
from tests.support.nats_server import nats_server
from tests.support.redis_buses import Paid, numbers, opened, until

from goevent import EncodeError, Event, JsonCodec
from goevent_faststream import BrokerConfig, FastStreamDriver
from goevent_faststream._nats import core as core_module
from goevent_faststream._nats.client_patches import message_bytes
from goevent_faststream._nats.subjects import subject_matches

URLS = ["nats://{}", "nats+js://{}?group=shop"]


async def check_large_event_between_others(bus: FastStreamBus, size: int, text: str) -> None:
    """Assert that an event of a size fails with a text, and its neighbours arrive.

    Args:
        size: The length of the event's text.
        text: A part of the error.
    """
    seen = bus.seen()
    async with bus:
        await bus.ready()
        events = [Paid(n=1), Paid(n=2, text="x" * size), Paid(n=3)]
        handles = [await bus.dispatch(event) for event in events]
        for handle in handles:
            await handle.wait()
        assert [len(handle.errors) for handle in handles] == [0, 1, 0]
        assert text in str(handles[1].errors[0].error)
        await until(lambda: {1, 3} <= {*numbers(seen)})
    assert not bus.count_reports("is lost")


@pytest.mark.parametrize("url", URLS)
async def test_event_above_the_servers_limit_fails_alone(url: str) -> None:
    async with nats_server(config="max_payload: 4000") as server:
        bus = FastStreamBus(url.format(server.addr))
        await check_large_event_between_others(bus, 5000, "the limit of 4000")


@pytest.mark.parametrize("url", URLS)
async def test_headers_count_for_the_servers_limit(url: str) -> None:
    async with nats_server(config="max_payload: 4000") as server:
        bus = FastStreamBus(
            f"{url.format(server.addr)}{'&' if '?' in url else '?'}format=faststream"
        )
        async with bus:
            # The body alone is below the limit.
            body = b'{"n":1,"text":"' + b"x" * 3960 + b'"}'
            assert len(body) < 4000
            handle = await bus.dispatch(Paid(n=1, text="x" * 3960))
            await handle.wait()
            (error,) = handle.errors
            assert isinstance(error.error, EncodeError)
            assert "with the headers are above the limit of 4000" in str(error.error)
            await accepted(bus, 2)
        assert not bus.count_reports("is lost")


async def test_limit_above_the_default_is_used() -> None:
    async with nats_server(config="max_payload: 4MB") as server:
        bus = FastStreamBus(server.url, codec=JsonCodec(max_size=1 << 22))
        async with bus:
            handle = await bus.dispatch(Paid(n=1, text="x" * 3_000_000))
            await handle.wait()
            assert not handle.errors


async def test_limit_that_the_server_announces_later_is_used() -> None:
    async with nats_server(config="max_payload: 8000") as server:
        bus = FastStreamBus(server.url)
        async with bus:
            await accepted(bus, 1)
            # Servers announce a change of their cluster in this way.
            adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
            trio_side: Any = bus.driver._trio_side  # pyright: ignore[reportPrivateUsage]
            parse = adapter._connection.client._ps.parse
            await trio_side.call(parse, b'INFO {"max_payload": 4000}\r\n')
            handle = await bus.dispatch(Paid(n=2, text="x" * 6000))
            await handle.wait()
            assert "the limit of 4000" in str(handle.errors[0].error)
            await accepted(bus, 3)


@pytest.mark.parametrize("group", [None, "shop"])
async def test_message_that_a_middleware_makes_too_large_fails_alone(group: str | None) -> None:
    async with nats_server(config="max_payload: 4000") as server:
        broker = NatsBroker(server.url, middlewares=[EnlargingMiddleware], logger=None)
        bus = FastStreamBus(FastStreamDriver(broker, BrokerConfig(group=group)))
        async with bus:
            await accepted(bus, 1)
            handle = await bus.dispatch(Paid(n=2))
            await handle.wait()
            assert "the limit of 4000" in str(handle.errors[0].error)
            await accepted(bus, 3)
        assert not bus.count_reports("is lost")


async def test_event_above_the_streams_limit_fails_alone() -> None:
    async with nats_server() as server:

        async def add(js: Any) -> None:
            config = api.StreamConfig(name=STREAM, max_msg_size=2000)
            await js.add_stream(config, subjects=[f"{STREAM}.>"])

        await on_js(server, add)
        await check_large_event_between_others(bus_on(server), 3000, "the stream's max_msg_size")


async def test_dead_letter_of_an_event_near_the_limit_is_written_without_its_traceback() -> None:
    async with nats_server(config="max_payload: 4000") as server:
        bus = bus_on(server, max_deliveries=1)
        bus.tries(fail=lambda _: True)
        async with bus:
            handle = await bus.dispatch(Paid(n=1, text="x" * 3400))
            await handle.wait()
            handle.raise_errors()
            await until(lambda: bus.count_reports("is a dead letter"))
        ((_, _, headers),) = await dead_letters(server)
        assert headers["goevent-deliveries"] == "1"
        assert headers["goevent-details"] == ""
        assert not bus.count_reports("is lost")


@pytest.mark.parametrize("name", ["a.b", "a b", "a*", "a>", "a/b", "a\\b", "s" * 251, ""])
def test_name_of_a_stream_that_jetstream_refuses_is_refused_when_the_driver_is_made(
    name: str,
) -> None:
    broker = NatsBroker(logger=None)
    with pytest.raises(ValueError, match="stream"):
        FastStreamDriver(broker, BrokerConfig(group="shop"), address=JStream(name))


@pytest.mark.parametrize("query", ["group=a&stream=my.stream", "stream=my.stream"])
def test_name_of_a_stream_in_a_url_is_checked(query: str) -> None:
    with pytest.raises(ValueError, match="no dots"):
        FastStreamDriver.from_url(f"nats+js://localhost?{query}")


@pytest.mark.parametrize("url", ["nats://h?prefix={}", "nats+js://h?group=a&prefix={}"])
@pytest.mark.parametrize("prefix", [".a.", "a..b."])
def test_prefix_with_empty_parts_is_refused(url: str, prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        FastStreamDriver.from_url(url.format(prefix))


@pytest.mark.parametrize("subject", ["shop.*.>", "s" * 2001 + ".>"])
def test_prefix_of_an_address_that_no_subject_can_have_is_refused(subject: str) -> None:
    address = JStream("orders", subjects=[subject])
    with pytest.raises(ValueError, match="prefix"):
        FastStreamDriver(NatsBroker(logger=None), BrokerConfig(group="a"), address=address)


def test_prefix_of_jetstream_ends_with_a_dot() -> None:
    with pytest.raises(ValueError, match="dot at its end"):
        FastStreamDriver.from_url("nats+js://h?group=a&prefix=shop")


async def test_longest_names_work() -> None:
    async with nats_server() as server:
        group, stream = "g" * 200, "s" * 200
        sender, bus = bus_on(server, None, stream=stream), bus_on(server, group, stream=stream)
        seen = bus.seen()
        async with opened(sender, bus):
            await accepted(sender, 1)
            await until(lambda: seen)


@pytest.mark.parametrize(
    ("filter_", "subject", "matches"),
    [
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.*.c", "a.b.c", True),
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.b", "a.b.c", False),
    ],
)
def test_filters_match_as_the_server_does(filter_: str, subject: str, matches: bool) -> None:
    assert subject_matches(filter_, subject) is matches


def test_size_of_a_message_is_counted_as_the_server_counts_it() -> None:
    written = "NATS/1.0\r\na: é\r\nlonger: \r\n\r\n".encode()
    assert message_bytes(b"body", {"a": "é", "longer": ""}) == len(written) + 4
    assert message_bytes(b"body", {}) == 4


async def test_messages_that_wait_for_a_slow_bus_are_bounded_in_bytes_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body_bytes, limit = 30_000, 200_000
    monkeypatch.setattr(core_module, "MIN_PENDING_BYTES", limit)
    async with nats_server() as server:
        sender = FastStreamBus(server.url)
        bus = FastStreamBus(f"{server.url}?prefetch_bytes={limit}")
        gate = trio.Event()
        seen: list[str] = []

        async def wait(event: Event) -> None:
            await gate.wait()
            seen.append(event.event_name)

        names = [f"name.n{n}" for n in range(5)]
        bus.subscribe(wait, *names)
        async with opened(sender, bus):
            await bus.ready()
            for _ in range(20):
                for name in names:
                    await (await sender.dispatch(Event(name, {"text": "x" * body_bytes}))).wait()
            await until(lambda: bus.count_reports("are lost, since too many"))
            adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
            subscriptions = adapter._connection.client._subs.values()
            assert sum(each._pending_size for each in subscriptions) <= limit
            gate.set()
            await until(lambda: len(seen) >= limit // body_bytes)
            before = len(seen)
            await (await sender.dispatch(Event(names[0], {}))).wait()
            await until(lambda: len(seen) > before)


async def test_message_above_the_limit_of_bytes_passes_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(core_module, "MIN_PENDING_BYTES", 1000)
    async with nats_server() as server:
        bus = FastStreamBus(f"{server.url}?prefetch_bytes=1000")
        sender = FastStreamBus(server.url)
        seen = bus.seen()
        async with opened(sender, bus):
            await bus.ready()
            for n in range(3):
                await (await sender.dispatch(Paid(n=n, text="x" * 5000))).wait()
                await until(lambda n=n: len(seen) == n + 1)  # type: ignore[misc]
