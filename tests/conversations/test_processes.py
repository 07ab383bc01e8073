"""Conversations between processes that are killed, over servers that are killed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from tests.support.checks import ignore_error
from tests.support.conversation_worker import HELD_NAME, PASSED_NAME
from tests.support.limits import HANG_SECONDS
from tests.support.nats_server import NatsServer, nats_server
from tests.support.redis_server import RedisServer, redis_server
from tests.support.streams_buses import streams_server
from tests.support.worker_process import at_work

from goevent import (
    Config,
    DriverError,
    Event,
    EventRegistry,
    GoEvent,
    GoEventError,
    RemoteError,
    RequestLost,
    RequestTimeout,
)

FAN_OUT = ["redis", "nats"]
DURABLE = ["redis+streams", "nats+js"]
Server = RedisServer | NatsServer


@asynccontextmanager
async def server_of(scheme: str) -> AsyncGenerator[tuple[Server, str]]:
    """Run a server for a driver; the value has the URL of a bus of the group `shop`."""
    if scheme == "redis":
        async with redis_server() as redis:
            yield redis, f"redis://{redis.addr}"
    elif scheme == "redis+streams":
        async with streams_server() as redis:
            yield redis, f"redis+streams://{redis.addr}?group=shop&claim_idle=1"
    else:
        async with nats_server() as nats:
            options = "?group=shop&claim_idle=2" if scheme == "nats+js" else ""
            yield nats, f"{scheme}://{nats.addr}{options}"


def bus_at(url: str) -> GoEvent:
    bus = GoEvent(Config(driver=url, registry=EventRegistry(), slow_after=None))
    bus.on_error(ignore_error)
    return bus


def held(n: int, seconds: float = 60.0) -> Event:
    return Event(HELD_NAME, {"n": n, "seconds": seconds})


class Held:
    """A responder of this process that holds its requests."""

    def __init__(self) -> None:
        self.began = trio.Event()
        self.go = trio.Event()

    async def respond(self, event: Any) -> dict[str, object]:
        self.began.set()
        await self.go.wait()
        return {"n": event.payload()["n"]}


class Results:
    """The ends of requests, by their numbers."""

    def __init__(self, bus: GoEvent) -> None:
        self.bus = bus
        self.ends: dict[int, Any] = {}
        self.changed = trio.Event()

    async def ask(self, n: int, seconds: float = 60.0, timeout: float | None = None) -> None:
        try:
            answer = await self.bus.request(held(n, seconds), dict[str, Any], timeout=timeout)
            self.ends[n] = answer["n"]
        except GoEventError as error:
            self.ends[n] = error
        self.changed.set()

    async def wait_for(self, n: int) -> Any:
        with trio.fail_after(HANG_SECONDS):
            while n not in self.ends:
                self.changed = trio.Event()
                await self.changed.wait()
        return self.ends[n]


async def until_idle(*buses: GoEvent) -> None:
    """Wait until nothing of any conversation is left."""
    with trio.fail_after(HANG_SECONDS):
        while any(bus._conversations.under_way for bus in buses):  # pyright: ignore[reportPrivateUsage]
            await trio.sleep(0.02)


@pytest.mark.parametrize("scheme", FAN_OUT)
async def test_a_killed_responder_loses_its_requests(scheme: str) -> None:
    async with (
        server_of(scheme) as (_, url),
        at_work("conversation_worker", url, "answer") as worker,
        bus_at(url) as bus,
        trio.open_nursery() as nursery,
    ):
        results = Results(bus)
        nursery.start_soon(results.ask, 1)
        await worker.says("begun 1")
        worker.process.kill()
        assert isinstance(await results.wait_for(1), RequestLost)
        await until_idle(bus)


@pytest.mark.parametrize("scheme", DURABLE)
async def test_another_bus_gets_the_request_of_a_killed_responder(scheme: str) -> None:
    async with server_of(scheme) as (_, url), bus_at(url) as bus, trio.open_nursery() as nursery:
        results = Results(bus)
        async with at_work("conversation_worker", url, "answer") as killed:
            nursery.start_soon(results.ask, 1, 2.0)
            await killed.says("begun 1 1")
            killed.process.kill()
            async with at_work("conversation_worker", url, "answer") as heir:
                await heir.says("begun 1 2")
                assert await results.wait_for(1) == 1
        await until_idle(bus)


@pytest.mark.parametrize("scheme", FAN_OUT + DURABLE)
async def test_a_killed_requester_cancels_its_responder(scheme: str) -> None:
    async with (
        server_of(scheme) as (_, url),
        at_work("conversation_worker", url, "answer") as worker,
    ):
        async with at_work("conversation_worker", url, "ask") as asking:
            await worker.says("begun 1")
            asking.process.kill()
            killed = trio.current_time()
            await worker.says("cancelled 1")
            assert trio.current_time() - killed < 10
        async with bus_at(url) as bus:
            assert (await bus.request(held(2, 0.0), dict[str, Any], timeout=HANG_SECONDS))["n"] == 2


@pytest.mark.parametrize("scheme", FAN_OUT + DURABLE)
async def test_a_cancellation_crosses_to_another_process(scheme: str) -> None:
    async with (
        server_of(scheme) as (_, url),
        at_work("conversation_worker", url, "answer") as worker,
        bus_at(url) as bus,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Results(bus).ask, 1)
            await worker.says("begun 1")
            nursery.cancel_scope.cancel()
        await worker.says("cancelled 1")
        with pytest.raises(RequestTimeout):
            await bus.request(held(2), dict[str, Any], timeout=1)
        await worker.says("cancelled 2")
        await until_idle(bus)


@pytest.mark.parametrize("scheme", FAN_OUT + DURABLE)
async def test_deadlines_shrink_from_process_to_process(scheme: str) -> None:
    async with (
        server_of(scheme) as (_, url),
        at_work("conversation_worker", url, "answer"),
        at_work("conversation_worker", url.replace("shop", "passing"), "pass"),
        bus_at(url.replace("shop", "asking")) as bus,
    ):
        event = Event(PASSED_NAME, {"n": 1, "seconds": 0.5})
        answer = await bus.request(event, dict[str, Any], timeout=30)
    assert answer["n"] == 1
    # Its first responder has slept for a second, and the second one for a half.
    assert answer["left"] <= 28.6


@pytest.mark.parametrize("scheme", FAN_OUT + DURABLE)
async def test_mutual_requests_of_two_processes_are_a_deadlock(scheme: str) -> None:
    async with (
        server_of(scheme) as (_, url),
        at_work("conversation_worker", url.replace("shop", "first"), "first"),
        at_work("conversation_worker", url.replace("shop", "second"), "second"),
        bus_at(url.replace("shop", "asking")) as bus,
    ):
        with trio.fail_after(HANG_SECONDS), pytest.raises(RemoteError) as caught:
            await bus.request(Event("first.asked", {}), int, timeout=None)
    assert "works on a request that waits for this one" in str(caught.value)


@pytest.mark.parametrize("scheme", [*FAN_OUT, "redis+streams"])
async def test_a_server_that_is_killed_ends_no_bus(scheme: str) -> None:
    async with server_of(scheme) as (server, url):
        answering, bus = bus_at(url), bus_at(url.replace("shop", "asking"))
        responder = Held()
        answering.respond(responder.respond, HELD_NAME, concurrency=20)
        async with answering, bus, trio.open_nursery() as nursery:
            results = Results(bus)
            nursery.start_soon(results.ask, 1, 60.0, 20.0)
            await responder.began.wait()
            server.kill()
            responder.go.set()
            await server.start()
            # The answer is lost with the server, or it was kept until the server was back.
            end = await results.wait_for(1)
            assert end == 1 or isinstance(end, (RequestLost, RequestTimeout, DriverError))
            with trio.fail_after(HANG_SECONDS):
                while True:
                    await results.ask(2, 0.0, 2.0)
                    if results.ends[2] == 2:
                        break
            await until_idle(bus, answering)
