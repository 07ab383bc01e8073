"""The drivers that tests of telemetry run on, each with a broker of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

from goevent import Config, GoEvent, MemoryDriver, MemoryHub
from tests.support.kafka_mock import kafka_mock
from tests.support.mqtt_server import mqtt_server
from tests.support.nats_server import nats_server
from tests.support.rabbit_server import rabbit_sandbox
from tests.support.redis_buses import REGISTRY
from tests.support.redis_server import redis_server
from tests.support.streams_buses import streams_server

MakeBus = Callable[..., GoEvent]


class TracedBroker(NamedTuple):
    """A broker for tests of telemetry.

    Attributes:
        server: A context manager that runs the broker and yields its address.
        url: The URL of the driver, with the placeholder `{addr}`.
        system: The name of the broker in spans.
        durable: Whether deliveries are settled.
    """

    server: Callable[[], AbstractAsyncContextManager[str]]
    url: str
    system: str
    durable: bool = False


@asynccontextmanager
async def redis_addr() -> AsyncGenerator[str]:
    async with redis_server() as server:
        yield server.addr


@asynccontextmanager
async def streams_addr() -> AsyncGenerator[str]:
    async with streams_server() as server:
        yield server.addr


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


BROKERS = {
    "redis": TracedBroker(redis_addr, "redis://{addr}", "redis"),
    "streams": TracedBroker(streams_addr, "redis+streams://{addr}?group=shop", "redis", True),
    "nats": TracedBroker(nats_addr, "nats://{addr}", "nats"),
    "jetstream": TracedBroker(nats_addr, "nats+js://{addr}?group=shop", "nats", True),
    "rabbit": TracedBroker(rabbit_addr, "amqp://{addr}", "rabbitmq"),
    "rabbit with a group": TracedBroker(rabbit_addr, "amqp://{addr}&group=shop", "rabbitmq", True),
    "mqtt": TracedBroker(mqtt_addr, "mqtt://{addr}", "mqtt"),
    "kafka": TracedBroker(kafka_addr, "kafka://{addr}?group=shop&claim_idle=6", "kafka", True),
    "confluent": TracedBroker(
        kafka_addr, "kafka+confluent://{addr}?group=shop&claim_idle=6", "kafka", True
    ),
}


@asynccontextmanager
async def making_buses(kind: str) -> AsyncGenerator[MakeBus]:
    """Run a broker, and yield a function that makes buses on it; "hub" needs no broker."""
    if kind == "hub":
        hub = MemoryHub()

        def make(**config: Any) -> GoEvent:
            return bus_of(MemoryDriver(hub), **config)

        yield make
        return
    broker = BROKERS[kind]
    async with broker.server() as addr:
        yield partial(bus_of, broker.url.format(addr=addr))


def bus_of(driver: Any, **config: Any) -> GoEvent:
    """Return a bus with the registry of the tests."""
    return GoEvent(Config(driver=driver, registry=REGISTRY, slow_after=None, **config))
