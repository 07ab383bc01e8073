"""Requests and responders, within one bus and between the buses of a hub."""

# The tables of conversations are looked at.
# pyright: reportPrivateUsage=false
from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import pytest
import trio
from tests.support.hostile import with_code
from trio.testing import MockClock

from goevent import (
    BusClosed,
    Capabilities,
    Config,
    DeadlockError,
    DecodeError,
    Delivery,
    DriverError,
    EncodeError,
    Event,
    EventError,
    EventRegistry,
    GoEvent,
    ListenerOptions,
    MemoryDriver,
    MemoryHub,
    NoResponder,
    RemoteError,
    RequestTimeout,
    Retry,
    UnsupportedError,
    current_delivery,
)
from goevent._conversations.directory import MAX_OFFERS_PER_EVENT
from goevent.drivers import TakeDirect, direct_sender

REGISTRY = EventRegistry()


class PriceAsked(Event, name="price.asked", registry=REGISTRY):
    sku: str


class Price(Event, name="price", registry=REGISTRY):
    cents: int


@dataclass
class Offer:
    cents: int
    sku: str


def first(number: int, _: object) -> int:
    return number


class Buses:
    """A bus that asks and a bus that answers; one bus may do both."""

    def __init__(self, *, same: bool) -> None:
        hub = MemoryHub()
        self.asking = self._bus(hub)
        self.answering = self.asking if same else self._bus(hub)

    def _bus(self, hub: MemoryHub) -> GoEvent:
        return GoEvent(Config(driver=MemoryDriver(hub), registry=REGISTRY))

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        async with self.answering:
            if self.asking is self.answering:
                yield
            else:
                async with self.asking:
                    yield


@pytest.fixture(params=["one bus", "two buses"])
def buses(request: pytest.FixtureRequest) -> Buses:
    return Buses(same=request.param == "one bus")


async def test_an_async_responder_answers(buses: Buses) -> None:
    @buses.answering.responder(PriceAsked, Price)
    async def price(event: PriceAsked) -> Price:
        await trio.lowlevel.checkpoint()
        return Price(len(event.sku))

    async with buses.opened():
        assert await buses.asking.request(PriceAsked("abc"), Price) == Price(3)
    counts = buses.asking.snapshot().requests
    assert (counts.asked, counts.answered) == (1, 1)


@pytest.mark.parametrize("thread", [False, True])
async def test_a_plain_responder_answers(buses: Buses, thread: bool) -> None:
    def offer(event: PriceAsked) -> Offer:
        assert current_delivery().event == event
        return Offer(250, event.sku)

    buses.answering.respond(offer, PriceAsked, Offer, thread=thread)
    async with buses.opened():
        assert await buses.asking.request(PriceAsked("a"), Offer) == Offer(250, "a")


async def test_an_answer_of_built_in_values_has_the_asked_type(buses: Buses) -> None:
    @buses.answering.responder("numbers.asked")
    def numbers(event: Event) -> list[int]:
        return [1, 2]

    async with buses.opened():
        assert await buses.asking.request(Event("numbers.asked"), list[int]) == [1, 2]
        with pytest.raises(DecodeError, match="the answer is no"):
            await buses.asking.request(Event("numbers.asked"), list[str])


async def test_a_failure_of_the_responder_reaches_the_requester(buses: Buses) -> None:
    failures: list[EventError] = []
    buses.answering.on_error(failures.append)

    @buses.answering.responder(PriceAsked, name="prices")
    async def price(event: PriceAsked) -> Price:
        raise KeyError("no such")

    async with buses.opened():
        with pytest.raises(RemoteError) as caught:
            await buses.asking.request(PriceAsked("abc"), Price)
    error = caught.value
    assert (error.event_name, error.listener) == ("price.asked", "prices")
    assert (error.error_type, error.text, error.outcome) == ("KeyError", "'no such'", "failed")
    assert [each.listener for each in failures] == ["prices"]


async def test_a_failure_without_a_text_reaches_the_requester(buses: Buses) -> None:
    @buses.answering.responder(PriceAsked)
    async def price(event: PriceAsked) -> Price:
        raise with_code("__str__")

    async with buses.opened():
        with trio.fail_after(1), pytest.raises(RemoteError) as caught:
            await buses.asking.request(PriceAsked("abc"), Price, timeout=None)
    error = caught.value
    assert (error.error_type, error.text) == (
        "HostileStr",
        "<its __str__ raised ZeroDivisionError>",
    )


async def test_an_answer_of_another_class_fails_the_responder(buses: Buses) -> None:
    @buses.answering.responder(PriceAsked, Price)
    async def price(event: PriceAsked) -> Price:
        return PriceAsked("wrong")  # type: ignore[return-value]

    async with buses.opened():
        with pytest.raises(RemoteError, match="has to return Price"):
            await buses.asking.request(PriceAsked("abc"), Price)


async def test_nobody_responds(buses: Buses) -> None:
    async with buses.opened():
        with trio.fail_after(1), pytest.raises(NoResponder):
            await buses.asking.request(PriceAsked("abc"), Price, timeout=None)


async def test_a_timeout_cancels_the_responder(buses: Buses, autojump_clock: MockClock) -> None:
    ended: list[float] = []

    @buses.answering.responder(PriceAsked)
    async def price(event: PriceAsked) -> Price:
        try:
            await trio.sleep(60)
        finally:
            ended.append(trio.current_time())
        return Price(1)

    async with buses.opened():
        start = trio.current_time()
        with pytest.raises(RequestTimeout):
            await buses.asking.request(PriceAsked("abc"), Price, timeout=2)
        await trio.testing.wait_all_tasks_blocked()
        assert [each - start for each in ended] == [pytest.approx(2, abs=0.01)]
        assert buses.answering.errors == ()
        assert buses.answering.snapshot().requests.served_cancelled == 1


async def test_a_cancelled_requester_cancels_the_responder(
    buses: Buses, autojump_clock: MockClock
) -> None:
    began, ended = trio.Event(), trio.Event()

    @buses.answering.responder(PriceAsked)
    async def price(event: PriceAsked) -> Price:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with buses.opened(), trio.open_nursery() as nursery:
        nursery.start_soon(buses.asking.request, PriceAsked("abc"), Price)
        await began.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True), trio.fail_after(1):
            await ended.wait()
    assert buses.asking.snapshot().requests.cancelled == 1


async def test_a_nested_request_has_the_rest_of_the_time(
    buses: Buses, autojump_clock: MockClock
) -> None:
    left: list[float] = []

    @buses.answering.responder(PriceAsked)
    async def price(event: PriceAsked) -> Price:
        await trio.sleep(1)
        return Price(await buses.answering.request(Event("cents.asked"), int, timeout=100))

    @buses.asking.responder("cents.asked")
    async def cents(event: Event) -> int:
        left.append(trio.current_effective_deadline() - trio.current_time())
        return 5

    async with buses.opened():
        assert await buses.asking.request(PriceAsked("abc"), Price, timeout=3) == Price(5)
    assert left == [pytest.approx(2, abs=0.01)]


async def test_mutual_requests_are_a_deadlock(buses: Buses) -> None:
    @buses.answering.responder(PriceAsked)
    async def price(event: PriceAsked) -> Price:
        return await buses.answering.request(Event("cents.asked"), Price, timeout=60)

    @buses.asking.responder("cents.asked")
    async def cents(event: Event) -> Price:
        return await buses.asking.request(PriceAsked("again"), Price, timeout=60)

    async with buses.opened():
        with trio.fail_after(5), pytest.raises(RemoteError) as caught:
            await buses.asking.request(PriceAsked("abc"), Price, timeout=None)
    assert "works on a request that waits for this one" in str(caught.value)
    assert any(isinstance(each.error, DeadlockError) for each in buses.asking.errors)


async def test_the_end_of_the_asking_bus_ends_its_requests(buses: Buses) -> None:
    began = trio.Event()

    @buses.answering.responder(PriceAsked)
    async def price(event: PriceAsked) -> Price:
        began.set()
        await trio.sleep_forever()

    errors: list[Exception] = []

    async def ask() -> None:
        try:
            await buses.asking.request(PriceAsked("abc"), Price, timeout=None)
        except (BusClosed, RemoteError) as error:
            errors.append(error)

    async with trio.open_nursery() as nursery, buses.opened():
        nursery.start_soon(ask)
        await began.wait()
        await buses.asking.close(timeout=0.0)
    assert len(errors) == 1


async def test_a_second_responder_is_refused() -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    registration = bus.respond(lambda event: 1, PriceAsked)
    with pytest.raises(ValueError, match=r"'price\.asked' has a responder on this bus"):
        bus.respond(lambda event: 2, "price.asked")
    registration.unregister()
    bus.respond(lambda event: 2, "price.asked")
    async with bus:
        assert await bus.request(PriceAsked("a"), int) == 2


def test_a_pattern_has_no_responder() -> None:
    with pytest.raises(ValueError, match="not the pattern"):
        GoEvent().respond(lambda event: 1, "price.*")


def test_a_responder_needs_a_mailbox() -> None:
    with pytest.raises(ValueError, match="has a mailbox"):
        GoEvent().respond(lambda event: 1, "price.asked", async_=False)


@pytest.mark.parametrize("name", ["goevent.replies", "goevent.requests.a", "goevent.**"])
def test_reserved_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is reserved"):
        GoEvent().subscribe(lambda event: None, name)


async def test_listeners_get_no_requests(buses: Buses) -> None:
    seen: list[Event] = []
    buses.answering.subscribe(seen.append, "**")
    buses.asking.subscribe(seen.append, "price.asked")
    buses.answering.respond(lambda event: 1, PriceAsked)
    async with buses.opened():
        assert await buses.asking.request(PriceAsked("a"), int) == 1
    assert seen == []


async def test_requests_take_turns_among_the_buses() -> None:
    hub = MemoryHub()
    asking, *answering = (
        GoEvent(Config(driver=MemoryDriver(hub), registry=REGISTRY)) for _ in range(4)
    )
    for number, bus in enumerate(answering):
        bus.respond(partial(first, number), PriceAsked)
    async with asking, answering[0], answering[1], answering[2]:
        answers = [await asking.request(PriceAsked("a"), int) for _ in range(9)]
    assert sorted(answers) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


async def test_a_bus_that_closes_hands_its_requests_to_another_one() -> None:
    hub = MemoryHub()
    asking, first, second = (
        GoEvent(Config(driver=MemoryDriver(hub), registry=REGISTRY)) for _ in range(3)
    )
    first.respond(lambda event: 1, PriceAsked)
    second.respond(lambda event: 2, PriceAsked)
    async with asking, second:
        async with first:
            assert {await asking.request(PriceAsked("a"), int) for _ in range(4)} == {1, 2}
        assert {await asking.request(PriceAsked("a"), int) for _ in range(4)} == {2}


async def test_an_answer_that_is_too_large_is_a_failure_of_the_responder(buses: Buses) -> None:
    buses.answering.respond(lambda event: "x" * 2_000_000, PriceAsked)
    async with buses.opened():
        if buses.asking is buses.answering:
            assert len(await buses.asking.request(PriceAsked("a"), str)) == 2_000_000
            return
        with pytest.raises(RemoteError) as caught:
            await buses.asking.request(PriceAsked("a"), str)
    assert caught.value.error_type == EncodeError.__name__


async def test_a_full_mailbox_holds_the_requester_back(
    buses: Buses, autojump_clock: MockClock
) -> None:
    @buses.answering.responder(PriceAsked, mailbox=1)
    async def price(event: PriceAsked) -> int:
        await trio.sleep(1)
        return 1

    answers: list[int] = []

    async def ask() -> None:
        answers.append(await buses.asking.request(PriceAsked("a"), int, timeout=60))

    async with buses.opened():
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert trio.current_time() == pytest.approx(5, abs=0.1)
    assert answers == [1] * 5


async def test_retries_are_one_request(buses: Buses) -> None:
    attempts: list[int] = []

    @buses.answering.responder(PriceAsked, retry=Retry(attempts=3, backoff=0.0))
    async def price(event: PriceAsked) -> int:
        attempts.append(current_delivery().attempt)
        if len(attempts) < 3:
            raise OSError("not yet")
        return len(attempts)

    async with buses.opened():
        assert await buses.asking.request(PriceAsked("a"), int) == 3
    assert attempts == [1, 2, 3]


async def test_a_driver_without_replies_refuses_both() -> None:
    class Silent(MemoryDriver):
        @property
        def capabilities(self) -> Capabilities:
            return replace(super().capabilities, replies=False)

    bus = GoEvent(Config(driver=Silent(MemoryHub()), registry=REGISTRY))
    with pytest.raises(UnsupportedError, match="carries no replies"):
        bus.respond(lambda event: 1, PriceAsked)
    async with bus:
        with pytest.raises(UnsupportedError, match="carries no replies"):
            await bus.request(PriceAsked("a"), int)
        with pytest.raises(UnsupportedError, match="carries no replies"):
            await bus.dispatch(PriceAsked("a"), scope="all")


async def test_middleware_around_calls_sees_the_request(buses: Buses) -> None:
    seen: list[str] = []

    class Note:
        def around_call(self, delivery: Delivery) -> Iterator[None]:
            seen.append(type(delivery.event).__name__)
            yield

    buses.answering.respond(lambda event: 1, PriceAsked, middleware=(Note(),), concurrency=2)
    async with buses.opened():
        assert await buses.asking.request(PriceAsked("a"), int) == 1
    assert seen == ["PriceAsked"]


def test_default_options_of_the_bus_apply_to_responders() -> None:
    bus = GoEvent(Config(registry=REGISTRY, listener=ListenerOptions(timeout=3.0)))
    bus.respond(lambda event: 1, PriceAsked)
    [listener] = bus.registered_listeners()
    assert listener.kind == "sync_mailbox"


async def test_a_request_that_is_asked_again_is_asked_once_more(autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    asking, first_bus, second_bus = (
        GoEvent(Config(driver=MemoryDriver(hub), registry=REGISTRY)) for _ in range(3)
    )
    first_bus.respond(lambda event: 1, PriceAsked)

    @second_bus.responder(PriceAsked)
    async def slow(event: PriceAsked) -> int:
        await trio.sleep_forever()
        return 2

    async with asking:
        async with first_bus:
            assert await asking.request(PriceAsked("a"), int) == 1
        async with second_bus:
            # The first bus is still known, and has not got the request.
            with pytest.raises(RequestTimeout):
                await asking.request(PriceAsked("a"), int, timeout=2.0)
            await trio.testing.wait_all_tasks_blocked()
            assert second_bus.snapshot().requests.served == 1


async def test_a_flood_of_offers_is_bounded() -> None:
    hub = MemoryHub()
    asking, answering, stranger = (
        GoEvent(Config(driver=MemoryDriver(hub), registry=REGISTRY)) for _ in range(3)
    )
    answering.respond(lambda event: 1, PriceAsked)
    addresses: list[str] = []
    async with asking, answering, stranger:
        sender = direct_sender(stranger.driver)
        assert sender is not None

        def note(address: str, data: bytes) -> None:
            addresses.append(json.loads(data)["reply_to"])

        await sender.open_addresses(["requests.price.asked"], note)
        assert await asking.request(PriceAsked("a"), int) == 1
        for number in range(3_000):
            offer = {"kind": "offer", "event_name": "price.asked", "address": f"x{number}"}
            sender.send_directly(addresses[0], json.dumps(offer).encode(), lambda result: None)
        link = asking._conversations.get().requests.link
        assert link is not None
        assert len(link.directory) <= MAX_OFFERS_PER_EVENT
        # Each forged address is forgotten when the hub says that nobody has it.
        assert await asking.request(PriceAsked("a"), int) == 1


async def test_responders_that_ask_each_other_are_a_deadlock(buses: Buses) -> None:
    """Each responder works on a request of somebody else, and asks the other one."""
    began = {"price": trio.Event(), "cents": trio.Event()}

    @buses.answering.responder(PriceAsked)
    async def price(event: PriceAsked) -> int:
        if event.sku == "inner":
            return 1
        began["price"].set()
        await began["cents"].wait()
        return await buses.answering.request(Event("cents.asked", {"sku": "inner"}), int)

    @buses.asking.responder("cents.asked")
    async def cents(event: Event) -> int:
        if event.payload()["sku"] == "inner":
            return 2
        began["cents"].set()
        await began["price"].wait()
        return await buses.asking.request(PriceAsked("inner"), int)

    results: list[object] = []

    async def ask(event: Event) -> None:
        try:
            results.append(await buses.asking.request(event, int, timeout=None))
        except RemoteError as error:
            results.append(error.error_type)

    async with buses.opened():
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, PriceAsked("outer"))
                nursery.start_soon(ask, Event("cents.asked", {"sku": "outer"}))
        assert await buses.asking.request(PriceAsked("inner"), int) == 1
        assert await buses.asking.request(Event("cents.asked", {"sku": "inner"}), int) == 2
    # One of them fails, and so the other one gets its answer.
    assert sorted(map(str, results)) in (["1", "DeadlockError"], ["2", "DeadlockError"])


async def test_a_queue_behind_a_responder_that_waits_is_no_deadlock(buses: Buses) -> None:
    go = trio.Event()

    @buses.answering.responder(PriceAsked)
    async def price(event: PriceAsked) -> int:
        return await buses.answering.request(Event("cents.asked"), int)

    @buses.asking.responder("cents.asked")
    async def cents(event: Event) -> int:
        await go.wait()
        return 2

    @buses.asking.responder("total.asked")
    async def total(event: Event) -> int:
        return await buses.asking.request(PriceAsked("a"), int)

    results: list[int] = []

    async def ask(event: Event) -> None:
        results.append(await buses.asking.request(event, int))

    async with buses.opened(), trio.open_nursery() as nursery:
        nursery.start_soon(ask, PriceAsked("a"))
        nursery.start_soon(ask, Event("total.asked"))
        await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert results == [2, 2]


async def test_a_bus_opens_without_the_right_for_its_address() -> None:
    class Forbidding(MemoryDriver):
        @property
        def capabilities(self) -> Capabilities:
            # Then other buses ask who listens.
            return replace(super().capabilities, counts_receivers=False)

        async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
            raise DriverError("no right for addresses")

    hub = MemoryHub()
    bus = GoEvent(Config(driver=Forbidding(hub), registry=REGISTRY))
    async with bus:  # without listeners, nobody needs the address
        assert not bus.errors
    bus.subscribe(lambda event: None, PriceAsked)
    other = GoEvent(Config(driver=MemoryDriver(hub), registry=REGISTRY))
    async with bus, other:
        await bus.ready()
        handle = await other.dispatch(PriceAsked("a"))
        await handle.wait()
        assert handle.receivers == 1
        with pytest.raises(DriverError, match="no right"):
            await bus.request(Event("cents.asked"), int)
    assert [error.event_name for error in bus.errors] == ["goevent.replies"]
