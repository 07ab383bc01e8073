"""Buses on a Redis server of the test's own, and helpers to observe them."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cached_property
from typing import Any, TypeVar

import trio
import trustme

from goevent import (
    Config,
    DispatchHandle,
    Event,
    EventError,
    EventRegistry,
    GapDetected,
    GoEvent,
    JsonCodec,
)
from goevent_redis import RedisConfig, RedisDriver
from goevent_redis._link.link import Link
from tests.support.limits import HANG_SECONDS, PROMPT_SECONDS
from tests.support.redis_server import RedisServer

E = TypeVar("E", bound=Exception)

REGISTRY = EventRegistry()


class Paid(Event, name="order.paid", registry=REGISTRY):
    n: int = 0
    text: str = ""


class OrderLost(Event, name="order.lost", registry=REGISTRY):
    n: int = 0


class Deep(Event, name="order.item.added", registry=REGISTRY):
    n: int = 0


class User(Event, name="user.created", registry=REGISTRY):
    n: int = 0


def patient_config(port: int) -> RedisConfig:
    """Return the config for a server of this machine that may be too busy to answer soon."""
    return RedisConfig(
        addr=f"127.0.0.1:{port}",
        dial_timeout=HANG_SECONDS,
        read_timeout=HANG_SECONDS,
        write_timeout=HANG_SECONDS,
    )


async def until(check: Callable[[], object], seconds: float = PROMPT_SECONDS) -> None:
    """Wait until something is true; fail if that takes too long."""
    deadline = trio.current_time() + seconds
    while not check():
        if trio.current_time() > deadline:
            raise AssertionError(f"not within {seconds:g} s")
        await trio.sleep(0.002)


class Bus(GoEvent):
    """A bus that keeps its reports."""

    def __init__(self, driver: RedisDriver, codec: JsonCodec | None = None) -> None:
        super().__init__(
            Config(driver=driver, registry=REGISTRY, slow_after=None, codec=codec or JsonCodec())
        )
        self.told: list[EventError] = []
        self.on_error(self.told.append)

    @cached_property
    def driver(self) -> RedisDriver:
        """The driver."""
        driver = super().driver
        assert isinstance(driver, RedisDriver)
        return driver

    def causes(self, kind: type[E]) -> list[E]:
        """Return the reported exceptions of a class."""
        causes = [error.__cause__ for error in self.told]
        return [cause for cause in causes if isinstance(cause, kind)]

    def says(self, text: str) -> int:
        """Return how many reports contain a text."""
        return sum(text in str(error) for error in self.told)

    def missing(self) -> int:
        """Return how many events were reported as lost on the way."""
        return sum(gap.missing for gap in self.causes(GapDetected))

    def seen(self, *events: str | type, **options: Any) -> list[Any]:
        """Register a listener, and return the list of the events that it gets."""
        arrived: list[Any] = []
        self.subscribe(lambda event: arrived.append(event), *events, **options)
        return arrived


def bus_at(where: str, **config: Any) -> Bus:
    """Return a bus on the server at an address."""
    return Bus(RedisDriver(RedisConfig(addr=where, **config)))


def bus_on(server: RedisServer, **config: Any) -> Bus:
    """Return a bus on a server."""
    return bus_at(server.addr, **config)


@asynccontextmanager
async def opened(*buses: GoEvent) -> AsyncGenerator[None]:
    """Open buses while the body runs."""
    async with AsyncExitStack() as stack:
        for bus in buses:
            await stack.enter_async_context(bus)
        yield


@asynccontextmanager
async def plain_link(server: RedisServer) -> AsyncGenerator[Link]:
    """Run a link of the test's own, to send commands."""
    async with Link(RedisConfig(addr=server.addr)).open() as link:
        yield link


async def sent(bus: GoEvent, event: Event) -> DispatchHandle:
    """Dispatch an event, and wait until the server has it."""
    handle = await bus.dispatch(event)
    await handle.wait()
    return handle


def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return contexts for a server on localhost and for clients that trust it."""
    authority: Any = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


def numbers(events: list[Any]) -> list[int]:
    """Return the numbers of events."""
    return [event.n for event in events]


@asynccontextmanager
async def listening(
    server: RedisServer, payloads: list[bytes], channel: str = "goevent:order.paid"
) -> AsyncGenerator[None]:
    """Collect the messages of a channel while the body runs."""

    def keep(frames: list[Any]) -> None:
        payloads.extend(frame[2] for frame in frames if frame[0] == b"message")

    async with Link(RedisConfig(addr=server.addr), on_push=keep).open() as link:
        await link.subscribe("SUBSCRIBE", channel)
        yield
