"""goevent beside plain services of FastStream: `format="faststream"`, on every broker."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

import pytest
from faststream import BaseMiddleware
from faststream.nats import NatsBroker
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.kafka_mock import kafka_mock
from tests.support.mqtt_server import mqtt_server
from tests.support.nats_server import NatsServer, nats_server, with_client
from tests.support.rabbit_server import rabbit_sandbox
from tests.support.redis_buses import OrderLost, Paid, numbers, opened, until
from tests.support.worker_process import WorkerProcess, running

from goevent import (
    DecodeError,
    DispatchHandle,
    EncodeError,
    Event,
    JsonCodec,
    MsgpackCodec,
    current_delivery,
)
from goevent_faststream import BrokerConfig, EnvelopeFormat, FastStreamDriver, FastStreamFormat


class InteropBroker(NamedTuple):
    """A broker for these tests.

    Attributes:
        server: A context manager that runs the broker and yields its address.
        url: The URL of goevent's driver, with the placeholder `{addr}`.
        service: The URL of the plain service.
        fan_out: Whether every bus gets every event.
    """

    server: Callable[[], AbstractAsyncContextManager[str]]
    url: str
    service: str
    fan_out: bool


@asynccontextmanager
async def nats_addr() -> AsyncGenerator[str]:
    async with nats_server() as server:
        yield server.addr


@asynccontextmanager
async def rabbit_addr() -> AsyncGenerator[str]:
    async with rabbit_sandbox() as sandbox:
        yield f"guest:guest@127.0.0.1:{sandbox.port}/?stream={sandbox.exchange}"


@asynccontextmanager
async def mqtt_addr() -> AsyncGenerator[str]:
    async with mqtt_server() as server:
        yield f"127.0.0.1:{server.port}"


@asynccontextmanager
async def kafka_addr() -> AsyncGenerator[str]:
    async with kafka_mock() as mock:
        yield mock.addr


# To add a broker: a line here, and its plain service in faststream_service.py, under the first word
# of the key here.
INTEROP_BROKERS = {
    "nats": InteropBroker(nats_addr, "nats://{addr}?format=faststream", "nats://{addr}", True),
    "jetstream": InteropBroker(
        nats_addr, "nats+js://{addr}?format=faststream&group=shop", "nats://{addr}", False
    ),
    "rabbit": InteropBroker(rabbit_addr, "amqp://{addr}&format=faststream", "amqp://{addr}", True),
    "rabbit with a group": InteropBroker(
        rabbit_addr, "amqp://{addr}&format=faststream&group=shop", "amqp://{addr}", False
    ),
    "mqtt": InteropBroker(mqtt_addr, "mqtt://{addr}?format=faststream", "mqtt://{addr}", True),
    "mqtt with a group": InteropBroker(
        mqtt_addr, "mqtt://{addr}?format=faststream&group=shop", "mqtt://{addr}", False
    ),
    "kafka": InteropBroker(
        kafka_addr, "kafka://{addr}?format=faststream&group=shop&claim_idle=6", "{addr}", False
    ),
    "confluent": InteropBroker(
        kafka_addr,
        "kafka+confluent://{addr}?format=faststream&group=shop&claim_idle=6",
        "{addr}",
        False,
    ),
}
every_broker = pytest.mark.parametrize("kind", INTEROP_BROKERS)


class HeaderMiddleware:
    """Middleware that adds headers to every dispatch."""

    def __init__(self, **headers: str) -> None:
        self.headers = headers

    def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
        handle.headers.update(self.headers)
        yield


@asynccontextmanager
async def service(kind: str, addr: str) -> AsyncGenerator[WorkerProcess]:
    """Run the plain service on a broker."""
    url = INTEROP_BROKERS[kind].service.format(addr=addr)
    async with running("faststream_service", kind, url) as worker:
        await worker.says('"ready"')
        yield worker


@pytest.mark.parametrize("hosted", [(), (BaseMiddleware,)], ids=["alone", "in a middleware"])
@every_broker
async def test_plain_service_and_bus_receive_each_others_messages(
    kind: str, hosted: tuple[type[BaseMiddleware], ...]
) -> None:
    place = INTEROP_BROKERS[kind]
    async with place.server() as addr:
        tenant = HeaderMiddleware(tenant="zürich")
        bus = FastStreamBus(place.url.format(addr=addr), middleware=(tenant,))
        broker: Any = bus.driver.broker
        for middleware in hosted:
            broker.add_middleware(middleware)
        answers: list[tuple[int, dict[str, str]]] = []

        async def take(event: OrderLost) -> None:
            answers.append((event.n, dict(current_delivery().headers)))

        bus.subscribe(take, OrderLost)
        # The service of JetStream needs the stream, which the first bus makes.
        async with bus, service(kind, addr) as plain:
            handles = await accepted(bus, 1, 2, 3)
            await plain.says('"n"', 3)
            await until(lambda: len(answers) == 3)
        printed = sorted((json.loads(line) for line in plain.said[1:]), key=lambda each: each["n"])
    assert [each["n"] for each in printed] == [1, 2, 3]
    assert [each["correlation_id"] for each in printed] == [handle.id for handle in handles]
    # FastStream's publish to MQTT sends no content type, and its services then try JSON.
    silent = bool(hosted) and kind.startswith("mqtt")
    assert {each["content_type"] for each in printed} == {None if silent else "application/json"}
    assert {each["headers"]["tenant"] for each in printed} == {"zürich"}
    for n, headers in answers:
        assert headers == {
            "tenant": "zürich",
            "correlation_id": f"answer-to-{handles[n - 101].id}",
        }
    assert sorted(n for n, _ in answers) == [101, 102, 103]
    assert not bus.reports


@every_broker
async def test_buses_with_the_faststream_format_receive_each_event_once(kind: str) -> None:
    place = INTEROP_BROKERS[kind]
    async with place.server() as addr:
        url = place.url.format(addr=addr)
        one, other = FastStreamBus(url), FastStreamBus(url)
        seen = one.seen(), other.seen()
        async with opened(one, other):
            await accepted(one, *range(10))
            await accepted(other, *range(10, 20))
            each = 20 if place.fan_out else 10
            await until(lambda: sum(map(len, seen)) >= 2 * each)
        expected = [*range(20)] * (2 if place.fan_out else 1)
        assert sorted(numbers(seen[0]) + numbers(seen[1])) == sorted(expected)
        assert not one.reports + other.reports


@every_broker
async def test_untyped_events_arrive_in_the_faststream_format(kind: str) -> None:
    place = INTEROP_BROKERS[kind]
    payloads = [{"ref": "main", "commits": [{"id": 1}, None]}, {}]
    async with place.server() as addr:
        url = place.url.format(addr=addr)
        one, other = FastStreamBus(url), FastStreamBus(url)
        seen: list[Any] = []
        other.subscribe(seen.append, "github.push")
        async with opened(one, other):
            for payload in payloads:
                handle = await one.dispatch(Event("github.push", payload))
                await handle.wait()
            await until(lambda: len(seen) >= len(payloads))
        assert [event.event_name for event in seen] == ["github.push"] * 2
        assert sorted((event.payload() for event in seen), key=len) == payloads[::-1]
        assert not one.reports + other.reports


# -- messages that the format refuses; the same on every broker


async def publish_plainly(server: NatsServer, body: bytes, **headers: str) -> None:
    """Publish bytes as a plain client."""

    async def publish(client: Any) -> None:
        await client.publish("goevent.order.paid", body, headers=headers or None)

    await with_client(server, publish)


def nested(levels: int) -> bytes:
    return b'{"n":1,"x":' + b"[" * levels + b"]" * levels + b"}"


HOSTILE = {
    "nothing": b"",
    "no JSON": b"{nonsense",
    "no object": b"[1]",
    "another type": b'{"n":"one"}',
    "more than one value": b'{"n":1},"headers":{"a":"b"}',
    "a bracket too many": b'{"n":1}}',
    "no UTF-8": b'{"text":"\xff"}',
    "a byte order mark": b'\xef\xbb\xbf{"n":1}',
    "a number too long": b'{"n":1,"x":' + b"1" * 500 + b"}",
    "no number": b'{"n":NaN}',
    "too deep": nested(100),
    "far too deep": nested(100_000),
    "beyond int64": b'{"n":9223372036854775808}',
    "too large": b'{"text":"' + b"x" * 300_000 + b'"}',
}


async def test_each_hostile_body_is_one_error_and_the_next_message_arrives() -> None:
    async with nats_server() as server:
        url = f"{server.url}?format=faststream"
        bus = FastStreamBus(url, codec=JsonCodec(max_size=250_000))
        seen = bus.seen()
        async with bus:
            for what, body in HOSTILE.items():
                before = len(bus.reports)
                await publish_plainly(server, body)
                await publish_plainly(server, b'{"n":7,"unknown":1}')
                await until(lambda: seen)
                assert len(bus.reports) == before + 1, what
                error = bus.reports[-1].error
                assert isinstance(error, DecodeError), what
                assert error.event_name == "order.paid"
                assert len(error.excerpt) <= 120
                assert numbers(seen) == [7]
                seen.clear()


async def test_other_content_types_are_refused_and_a_missing_one_means_json() -> None:
    async with nats_server() as server:
        bus = FastStreamBus(f"{server.url}?format=faststream")
        seen = bus.seen()
        async with bus:
            await publish_plainly(server, b'{"n":1}', **{"content-type": "text/plain"})
            await publish_plainly(server, b'{"n":2}', **{"content-type": "application/msgpack"})
            await publish_plainly(server, b'{"n":3}')
            await publish_plainly(server, b'{"n":4}', **{"content-type": ""})
            await publish_plainly(
                server, b'{"n":5}', **{"content-type": "application/json; charset=utf-8"}
            )
            await until(lambda: len(seen) == 3)
        assert numbers(seen) == [3, 4, 5]
        assert bus.count_reports("the content type 'text/plain' is not application/json") == 1
        assert (
            bus.count_reports("the content type 'application/msgpack' is not application/json") == 1
        )
        assert len(bus.reports) == 2


BAD_HEADERS = {
    "a line": {"tenant": "a\r\nNats-Msg-Id: 1"},
    "blanks": {"tenant": " a"},
    "a name with a colon": {"ten:ant": "a"},
    "no name": {"": "a"},
    "a name too long": {"n" * 129: "a"},
    "an id too long": {"correlation_id": "ü" * 128},
    "too much": {f"tenant-{n}": "x" * 999 for n in range(60)},
    "a name of NATS": {"Nats-Msg-Id": "1"},
    "a name of RabbitMQ": {"CC": "order.lost"},
    "a name of ours": {"goevent-name": "order.lost"},
}


@pytest.mark.parametrize("what", BAD_HEADERS)
async def test_header_that_would_arrive_changed_is_refused(what: str) -> None:
    async with nats_server() as server:
        bus = FastStreamBus(
            f"{server.url}?format=faststream", middleware=(HeaderMiddleware(**BAD_HEADERS[what]),)
        )
        async with bus:
            handle = await bus.dispatch(Paid(n=1))
            await handle.wait()
        assert isinstance(handle.errors[0].error, EncodeError)


async def test_correlation_id_of_the_dispatch_replaces_the_id_of_the_handle() -> None:
    async with nats_server() as server:
        url = f"{server.url}?format=faststream"
        sender = FastStreamBus(url, middleware=(HeaderMiddleware(correlation_id="request-7"),))
        receiver = FastStreamBus(url)
        seen: list[tuple[str, dict[str, str]]] = []

        async def take(event: Paid) -> None:
            seen.append((current_delivery().id, dict(current_delivery().headers)))

        receiver.subscribe(take, Paid)
        async with opened(sender, receiver):
            (handle,) = await accepted(sender, 1)
            await until(lambda: seen)
        # The id of the event is another one.
        assert seen == [(handle.id, {"correlation_id": "request-7"})]


async def test_faststream_format_refuses_a_codec_that_is_not_json() -> None:
    async with nats_server() as server:
        bus = FastStreamBus(f"{server.url}?format=faststream", codec=MsgpackCodec())
        async with bus:
            handle = await bus.dispatch(Paid(n=1))
            await handle.wait()
        assert "needs a codec of JSON" in str(handle.errors[0].error)


async def test_empty_prefix_gives_the_names_of_other_services() -> None:
    async with nats_server() as server:
        bus = FastStreamBus(f"{server.url}?format=faststream&prefix=")
        seen = bus.seen()
        async with bus:

            async def publish(client: Any) -> None:
                await client.publish("order.paid", b'{"n":5}')

            await with_client(server, publish)
            await until(lambda: seen)
        assert numbers(seen) == [5]


def test_format_is_a_known_name_or_an_object() -> None:
    def driver(**options: Any) -> FastStreamDriver:
        return FastStreamDriver(NatsBroker(logger=None), **options)

    driver(format="goevent")
    driver(format=FastStreamFormat())
    driver(config=BrokerConfig(format="faststream"), format=EnvelopeFormat())
    with pytest.raises(ValueError, match="format is 'goevent' or 'faststream', not 'xml'"):
        driver(format="xml")
    with pytest.raises(ValueError, match="not 'xml'"):
        driver(config=BrokerConfig(format="xml"))
    with pytest.raises(ValueError, match="not 'xml'"):
        FastStreamDriver.from_url("nats://localhost?format=xml")


def test_jetstream_without_a_prefix_needs_an_address() -> None:
    with pytest.raises(ValueError, match="needs an address"):
        FastStreamDriver.from_url("nats+js://localhost?prefix=")
