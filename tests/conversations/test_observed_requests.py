"""Requests, as middleware, traces, errors and tools see them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import trio
from tests.support.nats_server import nats_server
from tests.support.redis_buses import REGISTRY, OrderLost, Paid
from tests.support.traces import Seen, Telemetry

from goevent import (
    Config,
    DispatchHandle,
    GoEvent,
    MemoryDriver,
    MemoryHub,
    Middleware,
    RemoteError,
    RequestRefused,
    Veto,
    current_delivery,
)
from goevent.cli.meter import Meter, Sample

REQUEST, PROCESS = "request order.paid", "process order.paid"
WAYS = pytest.mark.parametrize("way", ["here", "direct", "by broker"])


class TwoBuses(NamedTuple):
    """A bus that asks and a bus that answers; one bus may do both."""

    asking: GoEvent
    answering: GoEvent


@asynccontextmanager
async def buses_of(way: str, *middleware: Middleware) -> AsyncGenerator[TwoBuses]:
    def bus(driver: MemoryDriver | str) -> GoEvent:
        return GoEvent(Config(driver=driver, registry=REGISTRY, middleware=middleware))

    if way == "here":
        both = bus(MemoryDriver())
        yield TwoBuses(both, both)
    elif way == "direct":
        hub = MemoryHub()
        yield TwoBuses(bus(MemoryDriver(hub)), bus(MemoryDriver(hub)))
    else:
        async with nats_server() as server:
            url = f"nats+js://{server.addr}?group=shop"
            yield TwoBuses(bus(url), bus(url))


@asynccontextmanager
async def opened(buses: TwoBuses) -> AsyncGenerator[None]:
    async with buses.answering:
        if buses.asking is buses.answering:
            yield
        else:
            async with buses.asking:
                yield


@WAYS
async def test_the_trace_goes_on_from_the_requester_to_the_responder(way: str) -> None:
    telemetry = Telemetry()
    async with buses_of(way, telemetry.middleware()) as buses:

        @buses.answering.responder(Paid)
        async def answer(event: Paid) -> int:
            await buses.answering.dispatch(OrderLost())
            return 1

        async with opened(buses):
            with telemetry.tracer.start_as_current_span("web"):
                assert await buses.asking.request(Paid(), int) == 1
    assert telemetry.seen(telemetry.only(REQUEST)) == Seen(REQUEST, "PRODUCER", "web")
    assert telemetry.seen(telemetry.only(PROCESS)) == Seen(PROCESS, "CONSUMER", links=(REQUEST,))
    caused = next(each for each in telemetry.spans if each.name.endswith("order.lost"))
    assert telemetry.seen(caused).parent == PROCESS
    attributes = telemetry.only(REQUEST).attributes or {}
    assert attributes["messaging.operation.type"] == "send"
    assert attributes["messaging.operation.name"] == "request"
    assert attributes["messaging.destination.name"] == "order.paid"
    assert not [each for each in telemetry.spans if "goevent." in each.name]


@pytest.mark.parametrize("way", ["here", "direct"])
async def test_the_span_of_a_request_without_an_answer_has_failed(way: str) -> None:
    telemetry = Telemetry()
    async with buses_of(way, telemetry.middleware()) as buses:

        @buses.answering.responder(Paid)
        async def answer(event: Paid) -> int:
            raise KeyError("none")

        async with opened(buses):
            with pytest.raises(RemoteError):
                await buses.asking.request(Paid(), int)
        assert len(buses.answering.errors) == 1
    assert telemetry.seen(telemetry.only(REQUEST)).error == "goevent.RemoteError"
    assert telemetry.seen(telemetry.only(PROCESS)).error == "KeyError"


@WAYS
async def test_middleware_around_dispatches_can_refuse_a_request(way: str) -> None:
    class Closed:
        def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
            assert (handle.event_name, handle.is_request) == ("order.paid", True)
            if handle.event_name == "order.paid":
                raise Veto("closed on Sundays")
            yield

    async with buses_of(way, Closed()) as buses:
        buses.answering.respond(lambda event: 1, Paid)
        async with opened(buses):
            with pytest.raises(RequestRefused, match="closed on Sundays"):
                await buses.asking.request(Paid(), int)
        assert buses.asking.errors == buses.answering.errors == ()


@WAYS
async def test_a_responder_and_its_failures_have_the_name_of_the_event(way: str) -> None:
    async with buses_of(way) as buses:

        @buses.answering.responder(Paid, name="till")
        async def answer(event: Paid) -> int:
            assert current_delivery().event_name == "order.paid"
            assert current_delivery().handle.is_request
            raise KeyError("none")

        async with opened(buses):
            with pytest.raises(RemoteError):
                await buses.asking.request(Paid(), int)
        [error] = buses.answering.errors
    assert (error.event_name, error.listener) == ("order.paid", "till")
    assert str(error) == "till failed on 'order.paid': KeyError: 'none'"


@WAYS
@pytest.mark.parametrize("is_hooked", [False, True])
async def test_a_full_mailbox_with_the_overflow_error_refuses_the_request(
    way: str, is_hooked: bool
) -> None:
    class Passing:
        def around_delivery(self, handle: DispatchHandle) -> Iterator[None]:
            yield

    middleware: tuple[Middleware, ...] = (Passing(),) if is_hooked else ()
    async with buses_of(way, *middleware) as buses:
        refused = trio.Event()

        @buses.answering.responder(Paid, mailbox=1, overflow="error")
        async def answer(event: Paid) -> int:
            await refused.wait()
            return 1

        answers: list[int] = []
        reasons: set[str] = set()

        async def ask() -> None:
            try:
                answers.append(await buses.asking.request(Paid(), int, timeout=None))
            except RequestRefused as error:
                reasons.add(error.reason)
                refused.set()

        async with opened(buses), trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask)
    assert answers
    assert all("is full" in reason for reason in reasons)
    assert reasons


async def test_a_snapshot_and_a_registered_listener_name_the_event_of_a_responder() -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    bus.respond(lambda event: 1, Paid, int, name="till")
    bus.subscribe(lambda event: None, Paid)
    till, listener = bus.registered_listeners()
    assert (till.responds_to, till.answer) == ("order.paid", int)
    assert (listener.responds_to, listener.answer) == ("", None)
    assert [each.responds_to for each in bus.snapshot().listeners] == ["order.paid", ""]


async def test_the_frame_of_top_shows_responders_and_requests() -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    bus.respond(lambda event: 1, Paid, name="till")
    async with bus:
        assert await bus.request(Paid(), int) == 1
        frame = Meter("shop").frame(Sample(state="open", snapshot=bus.snapshot()), 1.0)
    assert frame.tables[0][2][0][0] == "till (responds to order.paid)"
    assert (frame.facts["asked"], frame.facts["served"]) == (1, 1)
