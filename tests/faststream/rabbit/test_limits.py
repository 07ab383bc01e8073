"""The limits of AMQP and of a server: only the culprit gets the error."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import pytest
from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue
from pamqp.commands import Basic
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.rabbit_node import RabbitNode
from tests.support.rabbit_server import with_channel
from tests.support.redis_buses import Paid, numbers, opened, until

from goevent import DriverError, Event
from goevent.drivers import Message
from goevent_faststream import BrokerConfig, FastStreamDriver, FastStreamFormat


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"group": "g" * 60, "stream": "s" * 66}, "has 130 bytes, and at most 127"),
        ({"group": "g" * 125}, "exchange 'goevent:g"),
        ({"group": "g" * 200, "stream": "s" * 20}, "choose a shorter `stream` or `group`"),
        ({"stream": "s" * 128}, "has 128 bytes, and at most 127"),
    ],
)
def test_composed_name_that_is_too_long_is_refused_when_the_driver_is_made(
    options: dict[str, str], says: str
) -> None:
    query = "&".join(f"{name}={text}" for name, text in options.items())
    with pytest.raises(ValueError, match=says):
        FastStreamDriver.from_url(f"amqp://localhost/?{query}")


@pytest.mark.parametrize(
    "address",
    [
        RabbitExchange("ü" * 64, type=ExchangeType.TOPIC),
        RabbitExchange("é", type=ExchangeType.TOPIC),
        RabbitQueue("q" * 125),
        RabbitQueue("q" * 300),
        RabbitQueue("zürich"),
        RabbitQueue("a\nb"),
    ],
    ids=lambda address: address.name[:8],
)
def test_given_name_that_the_client_refuses_is_refused_when_the_driver_is_made(
    address: object,
) -> None:
    group = "shop" if isinstance(address, RabbitQueue) else None
    with pytest.raises(ValueError, match=r"RabbitMQ: the name of the (exchange|queue)"):
        FastStreamDriver(RabbitBroker(logger=None), BrokerConfig(group=group), address=address)


def test_virtual_host_and_prefetch_beyond_the_limits_are_refused_when_the_driver_is_made() -> None:
    with pytest.raises(ValueError, match="virtual host"):
        FastStreamDriver.from_url(f"amqp://localhost/{'v' * 128}")
    with pytest.raises(ValueError, match="virtual host"):
        FastStreamDriver(RabbitBroker(virtualhost="v" * 200, logger=None))
    for group in ("", "&group=shop"):
        with pytest.raises(ValueError, match="prefetch is at most 65535, not 65536"):
            FastStreamDriver.from_url(f"amqp://localhost/?prefetch=65536{group}")


async def test_longest_names_work(node: RabbitNode) -> None:
    exchange, group = f"longest-{node.port}-" + "s" * 40, "g"
    group += "g" * (127 - len(exchange) - len(":g:##"))
    url = f"amqp://guest:guest@127.0.0.1:{node.port}/?stream={exchange}&group={group}"
    bus = FastStreamBus(f"{url}&prefetch=65535&max_deliveries=1")
    name = "n" * 255
    event = Event(name, {})
    seen: list[Any] = []

    async def listen(event: Event) -> None:
        seen.append(event)
        raise ValueError("no")

    bus.subscribe(listen, name)
    bus.subscribe(listen, "**")
    async with bus:
        handle = await bus.dispatch(event)
        await handle.wait()
        handle.raise_errors()
        await until(lambda: bus.count_reports("is a dead letter"))


async def test_message_beyond_the_servers_limit_fails_alone(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    bus, receiver = sandbox.bus(None), sandbox.bus(None)
    seen = receiver.seen()
    large = "x" * (node.max_message_bytes + 1)
    async with opened(bus, receiver):
        for first in (0, 20):
            handles = [
                await bus.dispatch(Paid(n=n, text=large if n % 10 == 5 else ""))
                for n in range(first, first + 20)
            ]
            for handle in handles:
                await handle.wait()
            for n, handle in enumerate(handles):
                if n % 10 == 5:
                    (error,) = handle.errors
                    assert str(node.max_message_bytes) in str(error)
                else:
                    handle.raise_errors()
            expected = [n for n in range(first + 20) if n % 10 != 5]
            await until(lambda expected=expected: numbers(seen) == expected)  # type: ignore[misc]
        # The largest size that the server takes.
        (handle,) = [await bus.dispatch(Paid(n=40, text="x" * (node.max_message_bytes - 500)))]
        await handle.wait()
        handle.raise_errors()
        await until(lambda: 40 in numbers(seen))
    assert not [each for each in bus.reports if "max" not in str(each) and "takes" not in str(each)]


class StampingFormat(FastStreamFormat):
    """A format of a user's own, which does not check the headers that it adds."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__()
        self.headers = headers

    def write(self, message: Message) -> tuple[bytes, Mapping[str, str]]:
        body, headers = super().write(message)
        is_culprit = message.event.n == 4
        return body, {**headers, **self.headers} if is_culprit else headers


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"h" * 129: "x"}, "has 129 bytes, and at most 128"),
        ({"ü" * 65: "x"}, "has 130 bytes, and at most 128"),
        ({"correlation_id": "c" * 256}, "AMQP cannot carry"),
        ({"correlation_id": "ü" * 128}, "AMQP cannot carry"),
        ({"content-type": "c" * 256}, "AMQP cannot carry"),
        ({f"h{n}": "x" * 10_000 for n in range(14)}, "headers of the message have"),
    ],
    ids=["name", "bytes of a name", "id", "bytes of an id", "content type", "size"],
)
async def test_headers_that_amqp_cannot_carry_fail_alone(
    node: RabbitNode, headers: dict[str, str], says: str
) -> None:
    sandbox = node.sandbox()
    broker = RabbitBroker(f"amqp://guest:guest@127.0.0.1:{node.port}/", logger=None)
    config = BrokerConfig(stream=sandbox.exchange, group="shop")
    bus = FastStreamBus(FastStreamDriver(broker, config, format=StampingFormat(headers)))
    receiver = sandbox.bus(format="faststream")
    seen = receiver.seen()
    async with opened(bus, receiver):
        handles = [await bus.dispatch(Paid(n=n)) for n in range(9)]
        for n, handle in enumerate(handles):
            await handle.wait()
            if n == 4:
                (error,) = handle.errors
                assert isinstance(error.error, DriverError)
                assert says in str(error)
            else:
                handle.raise_errors()
        await until(lambda: sorted(numbers(seen)) == [0, 1, 2, 3, 5, 6, 7, 8])
    assert bus.count_reports("is lost") == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"large": "x" * 120_000},
        {"double": 1e300, "name": "n" * 128},
        {"nested": {"deep": [1.5, {"deeper": None}]}, "big": 2**63 - 1},
    ],
    ids=["large", "double", "nested"],
)
async def test_dead_letter_of_a_message_with_hostile_headers_is_stored(
    node: RabbitNode, headers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = node.sandbox()
    bus = sandbox.bus(max_deliveries=2)
    bus.tries(fail=lambda _: True)

    async def publish(channel: Any) -> None:
        # The client would write a double as a float, which is too small for this one.
        if "double" in headers:
            monkeypatch.setattr("pamqp.encode.floating_point", encode_double)
            monkeypatch.setattr("pamqp.encode.encode_table_value", encode_table_value)
        await channel.basic_publish(
            b"{nonsense",
            exchange=sandbox.exchange,
            routing_key="order.paid",
            properties=Basic.Properties(headers=headers),
        )
        monkeypatch.undo()

    async with bus:
        await with_channel(sandbox.port, publish)
        await until(lambda: bus.reports and bus.backlogs() and bus.backlogs()[0].pending == 0)
        await accepted(bus, 1)
        await until(lambda: bus.count_reports("is a dead letter"))
    assert len(await sandbox.take_messages(sandbox.queue("+dead"))) == 2
    assert bus.count_reports("is lost") == 0


def encode_table_value(value: Any) -> bytes:
    return b"d" + encode_double(value) if isinstance(value, float) else b"S" + encode_text(value)


def encode_double(value: float) -> bytes:
    return struct.pack(">d", value)


def encode_text(value: str) -> bytes:
    return struct.pack(">I", len(value)) + value.encode()
