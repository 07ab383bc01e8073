"""Answers, failures and arguments that applications are not expected to use, and may."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

import msgspec
import pytest
import trio
from tests.support.conversing_buses import ConversingBus, PriceAsked
from tests.support.in_memory_brokers import GroupBroker, GroupDriver
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Config,
    DecodeError,
    EncodeError,
    Event,
    EventRegistry,
    GoEvent,
    MemoryDriver,
    MemoryHub,
    MsgpackCodec,
    NoResponder,
    RemoteError,
    RequestRefused,
    register_event_type,
)
from goevent._conversations.addresses import is_answerable
from goevent._conversations.messages import decode_message
from goevent._conversations.request_headers import CHAIN_HEADER, read_chain
from goevent.asyncapi import document
from goevent.cli.describe import description_of
from goevent.cli.targets import Target


class Offer(TypedDict):
    cents: int


class MuteError(Exception):
    def __str__(self) -> str:
        raise LookupError


class Pair:
    """A bus that asks, and one that answers; they may be one bus."""

    def __init__(self, *, same: bool) -> None:
        hub = MemoryHub()
        self.asking = ConversingBus(hub)
        self.answering = self.asking if same else ConversingBus(hub)

    async def ask(self, answer: Any) -> Any:
        async with self.answering:
            if self.asking is self.answering:
                return await self.asking.request(PriceAsked(n=1), answer, timeout=5)
            async with self.asking:
                return await self.asking.request(PriceAsked(n=1), answer, timeout=5)


@pytest.fixture(params=["one bus", "two buses"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(same=request.param == "one bus")


def returning(value: object) -> Callable[[Any], Any]:
    async def respond(event: Any) -> Any:
        return value

    return respond


@pytest.mark.parametrize(
    ("error", "text"),
    [(MuteError(), "<its __str__ raised LookupError>"), (ValueError("\ud800"), "\\ud800")],
    ids=["no text", "no Unicode"],
)
async def test_a_failure_without_a_proper_text_reaches_the_requester(
    pair: Pair, autojump_clock: MockClock, error: Exception, text: str
) -> None:
    async def fail(event: PriceAsked) -> int:
        raise error

    pair.answering.respond(fail, PriceAsked, name="pricing \ud800")
    with pytest.raises(RemoteError) as failed:
        await pair.ask(int)
    assert failed.value.text == text
    assert trio.current_time() < 1


async def test_a_report_names_failures_without_a_proper_text(autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    asking, answering = ConversingBus(hub), ConversingBus(hub)

    @answering.listener(PriceAsked, name="pricing \ud800")
    async def fail(event: PriceAsked) -> None:
        raise MuteError

    async with answering, asking:
        handle = await asking.dispatch(PriceAsked(n=1), scope="all")
        await handle.wait(scope="all")
        assert handle.outcome.complete
        [report] = handle.remote
        assert [error.text for error in report.errors] == ["<its __str__ raised LookupError>"]


@pytest.mark.parametrize(
    ("value", "answer"),
    [({"cents": 1}, Offer), ({"cents": [1]}, Any), (1, int | None), ([1, 2], list[int])],
    ids=["TypedDict", "Any", "union", "list"],
)
@pytest.mark.parametrize("registered", [True, False])
async def test_types_without_instances_are_answers(
    pair: Pair, value: object, answer: Any, registered: bool
) -> None:
    checked = answer if registered else None
    pair.answering.respond(returning(value), PriceAsked, checked)
    assert await pair.ask(answer) == value


async def test_a_responder_with_such_a_type_is_checked(pair: Pair) -> None:
    pair.answering.respond(returning(["a"]), PriceAsked, list[int])
    with pytest.raises(RemoteError, match=r"the answer is no list\[int\]"):
        await pair.ask(Any)


@pytest.mark.parametrize("answer", [5, "int"])
def test_a_responder_of_no_type_is_refused(answer: Any) -> None:
    bus = GoEvent()
    with pytest.raises(TypeError, match="no answer can be of the type"):
        bus.respond(returning(1), "price.asked", answer)


async def test_a_bool_is_no_int(pair: Pair) -> None:
    pair.answering.respond(returning(True), PriceAsked)
    with pytest.raises(DecodeError, match="Expected `int`, got `bool`"):
        await pair.ask(int)


async def test_nan_is_no_answer_that_travels(autojump_clock: MockClock) -> None:
    pair = Pair(same=False)
    pair.answering.respond(returning({"cents": math.nan, "sku": None}), PriceAsked)
    with pytest.raises(RemoteError, match="JSON has no number nan"):
        await pair.ask(dict)


async def test_a_filter_of_a_responder_refuses_a_request(
    pair: Pair, autojump_clock: MockClock
) -> None:
    pair.answering.respond(returning(1), PriceAsked, when=lambda event: event.n > 1)
    with pytest.raises(RequestRefused, match=r"has not accepted it \(when=\)"):
        await pair.ask(int)
    assert trio.current_time() < 1


async def test_several_tasks_wait_for_the_reports_on_one_event(autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    asking, answering = ConversingBus(hub), ConversingBus(hub)
    ends: list[float] = []

    @answering.listener(PriceAsked)
    async def slow(event: PriceAsked) -> None:
        await trio.sleep(1)

    async with answering, asking:
        handle = await asking.dispatch(PriceAsked(n=1), scope="all")

        async def wait() -> None:
            await handle.wait(scope="all", timeout=60)
            ends.append(trio.current_time())

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)
    assert len(ends) == 2
    assert max(ends) - began < 2


async def test_numbers_of_a_wait_and_of_tracing_are_checked() -> None:
    bus = GoEvent()
    wrong: Any = "1"
    async with bus:
        handle = await bus.dispatch(Event("order.paid"), scope="all")
        for number in (wrong, True):
            with pytest.raises(TypeError, match="timeout must be a number of seconds"):
                await handle.wait(timeout=number)
            with pytest.raises(TypeError, match="expect must be a number of reports"):
                await handle.wait(scope="all", expect=number)
            with pytest.raises(TypeError, match="max_events must be a number of events"):
                bus.tracing(max_events=number)
        with pytest.raises(TypeError, match="by its handle or by its id"):
            bus.trace(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="timeout must be at least 0"):
            await bus.request(Event("price.asked"), int, timeout=10**400)


async def test_a_report_counts_the_listeners_that_filters_have_left() -> None:
    hub = MemoryHub()
    asking, answering = ConversingBus(hub), ConversingBus(hub)

    async def listen(event: PriceAsked) -> None: ...

    def inline(event: PriceAsked) -> None: ...

    def fail(event: PriceAsked) -> bool:
        raise LookupError

    answering.listener(PriceAsked, when=lambda event: event.n > 1)(listen)
    answering.listener(PriceAsked, name="second")(listen)
    answering.listener(PriceAsked, name="third", when=fail)(inline)
    async with answering, asking:
        for n, completed in ((1, 1), (2, 2)):
            handle = await asking.dispatch(PriceAsked(n=n), scope="all")
            await handle.wait(scope="all")
            assert [(each.completed, each.failed) for each in handle.remote] == [(completed, 1)]


async def test_a_listener_asks_its_own_bus_while_that_closes() -> None:
    bus = GoEvent()
    bus.respond(returning(7), "price.asked")
    answers: list[int] = []
    closing = trio.Event()

    @bus.listener("order.paid")
    async def ask(event: Event) -> None:
        await closing.wait()
        answers.append(await bus.request(Event("price.asked"), int))

    async with bus, trio.open_nursery() as nursery:
        await bus.dispatch(Event("order.paid"))
        nursery.start_soon(bus.close)
        await wait_all_tasks_blocked()
        closing.set()
    assert answers == [7]


async def test_nobody_responds_after_a_refusal(autojump_clock: MockClock) -> None:
    pair = Pair(same=False)
    running = trio.Event()

    async def slow(event: PriceAsked) -> int:
        running.set()
        await trio.sleep(0.3)
        return 1

    pair.answering.respond(slow, PriceAsked, once=True)
    async with pair.answering, pair.asking, trio.open_nursery() as nursery:
        # Both are sent before the first one unregisters the responder.
        for _ in range(2):
            nursery.start_soon(expect_one_answer, pair.asking)
        await running.wait()
    counts = pair.asking.snapshot().requests
    assert (counts.answered, counts.failed, counts.timed_out) == (1, 0, 1)


async def expect_one_answer(bus: ConversingBus) -> None:
    with suppress(NoResponder):
        await bus.request(PriceAsked(n=1), int, timeout=0.5)


async def test_an_undecodable_request_in_messagepack_is_refused(autojump_clock: MockClock) -> None:
    registry = EventRegistry()

    @register_event_type(name="price.asked", registry=registry)
    @dataclass
    class Strict:
        sku: str

    hub = MemoryHub()
    asking = GoEvent(Config(driver=MemoryDriver(hub), codec=MsgpackCodec()))
    answering = GoEvent(Config(driver=MemoryDriver(hub), codec=MsgpackCodec(), registry=registry))
    answering.respond(returning(1), "price.asked")
    async with answering, asking:
        with pytest.raises(RequestRefused, match="cannot decode"):
            await asking.request(Event("price.asked", {"sku": 5}), int)


async def test_a_traced_request_of_the_own_bus_has_not_arrived() -> None:
    bus = GoEvent()
    bus.respond(returning(7), "price.asked")

    @bus.listener("order.paid")
    async def ask(event: Event) -> None:
        await bus.request(Event("price.asked"), int)

    async with bus:
        with bus.tracing():
            handle = await bus.dispatch(Event("order.paid"))
            await handle.wait()
    [request] = bus.trace(handle).children
    assert request.event_name == "price.asked"
    assert not request.arrived


@pytest.mark.parametrize("answer", [int | None, list[int], Literal["a"], Any, Offer])
def test_tools_describe_a_responder_of_any_type(answer: Any) -> None:
    bus = GoEvent()
    bus.respond(returning(1), "price.asked", answer)
    assert "price.asked" in str(document(bus))
    assert description_of(Target(bus=bus, is_url=False, name="app:bus"))["listeners"][0]["answer"]


@pytest.mark.parametrize("hostile", ["a\nb", "\0", "x" * 256, "\u202e"])
def test_ids_of_strangers_are_printable(hostile: str) -> None:
    assert read_chain({CHAIN_HEADER: f"first,{hostile},last"}) == ("first", "last")
    assert not is_answerable(hostile, "f" * 32)


@pytest.mark.parametrize("key", ["weight", "completed", "failed"])
def test_a_report_has_no_negative_counts(key: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="Expected `int` >= 0"):
        decode_message(f'{{"kind": "done", "id": "1", "address": "a", "{key}": -1}}'.encode())


class SmallGroupDriver(GroupDriver):
    capabilities = replace(GroupDriver.capabilities, max_size=1000)


async def test_a_request_that_is_too_large_for_a_broker_has_its_own_name() -> None:
    bus = GoEvent(SmallGroupDriver(GroupBroker(), "shop"))
    async with bus:
        with pytest.raises(EncodeError) as failed:
            await bus.request(Event("price.asked", {"sku": "x" * 1000}), int)
    assert failed.value.event_name == "price.asked"
