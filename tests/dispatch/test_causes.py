"""Causes: an event that a listener dispatches has the ids of the chain that it belongs to."""

from __future__ import annotations

import gc
import logging
import pickle
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
from tests.contract.test_arrivals import Bringing
from tests.contract.test_driver_contract import Scripted
from tests.support.checks import ignore_error
from tests.support.events import REGISTRY, Ping, Pong
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Config,
    Delivery,
    DispatchHandle,
    Envelope,
    Event,
    GoEvent,
    MemoryDriver,
    MemoryHub,
    Retry,
    current_delivery,
)


class Last(Event, name="causes.last", registry=REGISTRY):
    n: int = 0


def make(**settings: Any) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, **settings))


class Hook:
    """Middleware around the runs of listeners, which makes inline ones special."""

    def around_call(self, delivery: Delivery) -> Iterator[None]:
        yield


def is_child(child: DispatchHandle, parent: DispatchHandle, first: DispatchHandle) -> bool:
    return (child.correlation_id, child.causation_id) == (first.id, parent.id)


def takes_the_hot_path(bus: GoEvent) -> bool:
    """Tell whether a dispatch outside of listeners looks for no cause."""
    dispatcher = bus._dispatcher  # pyright: ignore[reportPrivateUsage]
    return dispatcher._owner == dispatcher.home_thread  # pyright: ignore[reportPrivateUsage]


# -- who dispatches

Ways = dict[str, Callable[[GoEvent, list[DispatchHandle]], None]]
WAYS: Ways = {}


def way(register: Callable[[GoEvent, list[DispatchHandle]], None]) -> Any:
    WAYS[register.__name__] = register
    return register


@way
def inline(bus: GoEvent, found: list[DispatchHandle]) -> None:
    bus.subscribe(lambda _: found.append(bus.dispatch_nowait(Pong(1))), Ping)


@way
def mailbox(bus: GoEvent, found: list[DispatchHandle]) -> None:
    async def listener(_: Ping) -> None:
        found.append(await bus.dispatch(Pong(1)))
        await trio.lowlevel.checkpoint()
        found.append(bus.dispatch_nowait(Pong(2)))

    bus.subscribe(listener, Ping)


@way
def lanes(bus: GoEvent, found: list[DispatchHandle]) -> None:
    async def listener(_: Ping) -> None:
        await trio.lowlevel.checkpoint()
        found.append(await bus.dispatch(Pong(1)))

    bus.subscribe(listener, Ping, concurrency=3)


@way
def child_task(bus: GoEvent, found: list[DispatchHandle]) -> None:
    async def listener(_: Ping) -> None:
        async def child() -> None:
            await trio.lowlevel.checkpoint()
            found.append(await bus.dispatch(Pong(1)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(child)

    bus.subscribe(listener, Ping)


@way
def retried(bus: GoEvent, found: list[DispatchHandle]) -> None:
    async def listener(_: Ping) -> None:
        found.append(await bus.dispatch(Pong(1)))
        if current_delivery().attempt < 3:
            raise ValueError("again")

    bus.subscribe(listener, Ping, retry=Retry(attempts=3, backoff=0.001))


@way
def awaited(bus: GoEvent, found: list[DispatchHandle]) -> None:
    async def listener(_: Ping) -> None:
        async def child() -> None:
            found.append(await bus.dispatch(Pong(1)))

        await trio.lowlevel.checkpoint()
        found.append(await bus.dispatch(Pong(1)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    bus.subscribe(listener, Ping, async_=False)


@way
def a_filter(bus: GoEvent, found: list[DispatchHandle]) -> None:
    def when(_: Ping) -> bool:
        found.append(bus.dispatch_nowait(Pong(1)))
        return True

    bus.subscribe(ignore, Ping, when=when)


@way
def batch(bus: GoEvent, found: list[DispatchHandle]) -> None:
    async def listener(_: Ping) -> None:
        found.extend(await bus.dispatch_many([Pong(1), Pong(2)]))
        found.extend(bus.dispatch_many_nowait([Pong(1), Pong(2)]))

    bus.subscribe(listener, Ping)


@way
def thread(bus: GoEvent, found: list[DispatchHandle]) -> None:
    def listener(_: Ping) -> None:
        found.append(bus.dispatch_from_thread(Pong(1)))

    bus.subscribe(listener, Ping, thread=True)


@way
def thread_with_timeout(bus: GoEvent, found: list[DispatchHandle]) -> None:
    def listener(_: Ping) -> None:
        found.append(bus.dispatch_from_thread(Pong(1)))

    bus.subscribe(listener, Ping, thread=True, timeout=60.0)


def ignore(_: object) -> None:
    """Take an event."""


@pytest.mark.parametrize("middleware", [(), (Hook(),)], ids=["plain", "hooked"])
@pytest.mark.parametrize("register", WAYS.values(), ids=WAYS)
async def test_a_dispatch_inside_a_listener_has_the_event_as_its_cause(
    register: Callable[[GoEvent, list[DispatchHandle]], None], middleware: tuple[Hook, ...]
) -> None:
    bus, found = make(middleware=middleware), list[DispatchHandle]()
    bus.on_error(ignore_error)
    register(bus, found)
    grandchildren: list[DispatchHandle] = []

    async def follow(_: Pong) -> None:
        grandchildren.append(await bus.dispatch(Last()))

    bus.subscribe(follow, Pong)
    async with bus:
        with trio.fail_after(30):
            first = await bus.dispatch(Ping(1))
            await first.wait()
            await bus.wait()
            await bus.wait()
            await bus.wait()
        assert found
        assert all(is_child(each, first, first) for each in found)
        assert len(grandchildren) == len(found)
        assert {each.causation_id for each in grandchildren} == {each.id for each in found}
        assert {each.correlation_id for each in grandchildren} == {first.id}
        assert takes_the_hot_path(bus)
        after = await bus.dispatch(Last())
        assert (after.correlation_id, after.causation_id, after.headers) == (after.id, "", {})


async def test_a_dispatch_beside_a_listener_with_child_tasks_has_no_cause(
    autojump_clock: MockClock,
) -> None:
    bus = make()

    async def listener(_: Ping) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 10)

    bus.subscribe(listener, Ping)
    async with bus:
        await bus.dispatch(Ping(1))
        await wait_all_tasks_blocked()
        assert not takes_the_hot_path(bus)
        beside = await bus.dispatch(Pong(1))
        assert (beside.causation_id, beside.headers) == ("", {})
        await bus.wait()
        assert takes_the_hot_path(bus)


async def test_a_callback_of_the_event_loop_has_no_cause(
    autojump_clock: MockClock,
) -> None:
    bus = make()

    async def listener(_: Ping) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 10)

    found: list[DispatchHandle] = []
    bus.subscribe(listener, Ping)
    async with bus:
        await bus.dispatch(Ping(1))
        await wait_all_tasks_blocked()
        token = trio.lowlevel.current_trio_token()
        token.run_sync_soon(lambda: found.append(bus.dispatch_nowait(Pong(1))))
        await wait_all_tasks_blocked()
        assert [each.causation_id for each in found] == [""]


async def test_a_listener_of_a_closing_bus_has_the_event_as_its_cause(
    autojump_clock: MockClock,
) -> None:
    bus = make()
    found: list[DispatchHandle] = []

    async def listener(_: Ping) -> None:
        await trio.sleep(1)
        found.append(await bus.dispatch(Pong(1)))

    bus.subscribe(listener, Ping)
    bus.subscribe(lambda _: found.append(bus.dispatch_nowait(Last())), Pong)
    async with bus:
        first = await bus.dispatch(Ping(1))
    last, pong = found
    assert is_child(pong, first, first)
    assert is_child(last, pong, first)


async def test_siblings_share_one_cause() -> None:
    bus = make()
    found: list[DispatchHandle] = []
    bus.subscribe(lambda _: found.extend(bus.dispatch_nowait(Pong(n)) for n in range(9)), Ping)
    async with bus:
        await bus.dispatch(Ping(1))
    details: Any = vars(DispatchHandle)["_details"].__get__
    assert len({id(details(each)) for each in found}) == 1


async def test_an_endless_chain_keeps_no_handle(autojump_clock: MockClock) -> None:
    bus = make()
    counts: list[int] = []

    async def listener(event: Ping) -> None:
        if event.n % 500 == 0:
            gc.collect()
            counts.append(sum(type(each) is DispatchHandle for each in gc.get_objects()))
        if event.n < 2000:
            await bus.dispatch(Ping(event.n + 1))

    bus.subscribe(listener, Ping)
    async with bus:
        await bus.dispatch(Ping(0))
        await bus.wait()
        while len(counts) < 5:
            await trio.sleep(1)
    assert max(counts) - min(counts) < 10


# -- headers


async def test_a_header_of_the_application_wins() -> None:
    class OwnIds:
        def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
            if isinstance(handle.event, Ping):
                handle.headers["correlation_id"] = "order-7"
            yield

    bus, found = make(middleware=(OwnIds(),)), list[DispatchHandle]()
    bus.subscribe(lambda _: found.append(bus.dispatch_nowait(Pong(1))), Ping)
    async with bus:
        first = await bus.dispatch(Ping(1))
    assert first.correlation_id == "order-7"
    assert [each.correlation_id for each in found] == ["order-7"]
    assert found[0].headers == {"correlation_id": "order-7", "causation_id": first.id}


@pytest.mark.parametrize("mail", [False, True])
async def test_middleware_finds_the_causes_among_the_headers(mail: bool) -> None:
    seen: list[dict[str, str]] = []

    class Watch:
        def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
            seen.append({**handle.headers})
            yield

    bus = make(middleware=(Watch(),))

    async def listener(_: Ping) -> None:
        await bus.dispatch(Pong(1))

    if mail:
        bus.subscribe(listener, Ping)
    else:
        bus.subscribe(lambda _: ignore(bus.dispatch_nowait(Pong(1))), Ping)
    async with bus:
        first = await bus.dispatch(Ping(1))
        await bus.wait()
    assert seen == [{}, {"correlation_id": first.id, "causation_id": first.id}]


# -- to other buses, and from them


Dispatch = Callable[[GoEvent], Awaitable[object]]
SENDS: dict[str, Dispatch] = {
    "one": lambda bus: bus.dispatch(Pong(1)),
    "a batch": lambda bus: bus.dispatch_many([Pong(1), Pong(2)]),
}


@pytest.mark.parametrize("send", SENDS.values(), ids=SENDS)
async def test_the_causes_of_an_event_travel_with_it(
    autojump_clock: MockClock, send: Dispatch
) -> None:
    hub = MemoryHub()
    one, two = (make(driver=MemoryDriver(hub)) for _ in range(2))
    seen: list[tuple[str, str]] = []

    async def answer(_: Ping) -> None:
        await send(one)

    async def take(_: Pong) -> None:
        delivery = current_delivery()
        seen.append((delivery.correlation_id, delivery.causation_id))
        assert delivery.headers == {
            "correlation_id": delivery.correlation_id,
            "causation_id": delivery.causation_id,
        }

    one.subscribe(answer, Ping)
    two.subscribe(take, Pong)
    async with one, two:
        first = await one.dispatch(Ping(1))
        await one.wait()
        await wait_all_tasks_blocked()
        await two.wait()
    assert set(seen) == {(first.id, first.id)}


KNOWN = "0123456789abcdef"
HOSTILE = ("", "x" * 256, "line\nbreak", "\ud800", "ü" * 200)


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("handle_id", [KNOWN, *HOSTILE])
@pytest.mark.parametrize("correlation", [None, "order-7", *HOSTILE])
async def test_an_event_of_another_bus_is_a_cause(
    autojump_clock: MockClock, handle_id: str, correlation: str | None, inline: bool
) -> None:
    envelope = Envelope(
        event_name=Ping.event_name,
        event=Ping(1),
        origin="another",
        handle_id=handle_id,
        headers={} if correlation is None else {"correlation_id": correlation},
    )
    brings = Bringing(envelope)
    bus = make(driver=Scripted(brings))
    found: list[DispatchHandle] = []
    if inline:
        bus.subscribe(lambda _: found.extend(bus.dispatch_nowait(Pong(n)) for n in (1, 2)), Ping)
    else:

        async def listener(_: Ping) -> None:
            found.extend([await bus.dispatch(Pong(1)), await bus.dispatch(Pong(2))])

        bus.subscribe(listener, Ping)
    async with bus:
        await brings.done.wait()
        await bus.wait()
    one, two = found
    assert one.headers == two.headers
    if handle_id == KNOWN:
        assert one.causation_id == KNOWN
    else:
        assert one.causation_id not in HOSTILE
    expected = correlation if correlation == "order-7" else one.causation_id
    assert one.correlation_id == expected


async def test_the_error_of_an_event_of_another_bus_has_the_id_that_it_caused_with(
    autojump_clock: MockClock,
) -> None:
    envelope = Envelope(event_name=Ping.event_name, event=Ping(1), origin="another")
    brings = Bringing(envelope)
    bus = make(driver=Scripted(brings))
    found: list[DispatchHandle] = []

    def listener(_: Ping) -> None:
        found.append(bus.dispatch_nowait(Pong(1)))
        raise ValueError("broken")

    bus.subscribe(listener, Ping)
    async with bus:
        await brings.done.wait()
        assert [error.event_id for error in bus.errors] == [found[0].causation_id]


# -- reports


def fail(_: object) -> None:
    raise ValueError("broken")


async def test_an_error_has_the_ids_of_its_event() -> None:
    bus = make()
    found: list[DispatchHandle] = []
    bus.subscribe(lambda _: found.append(bus.dispatch_nowait(Pong(1))), Ping)
    bus.subscribe(fail, Ping)
    bus.subscribe(fail, Pong)
    async with bus:
        first = await bus.dispatch(Ping(1))
        pong, ping = bus.errors
        assert (ping.event_id, ping.correlation_id, ping.causation_id) == (first.id, first.id, "")
        ids = (found[0].id, first.id, first.id)
        for error in (pong, pong.as_text(), pickle.loads(pickle.dumps(pong))):
            assert (error.event_id, error.correlation_id, error.causation_id) == ids
        # Older errors are kept as text.
        for _ in range(200):
            bus.dispatch_nowait(Pong(2))
        kept = bus.errors[0]
        assert kept.error is None
        assert (kept.event_id, kept.correlation_id, kept.causation_id) == ids


async def test_a_log_record_of_a_failure_has_the_ids(caplog: pytest.LogCaptureFixture) -> None:
    bus = make()
    bus.subscribe(lambda _: ignore(bus.dispatch_nowait(Pong(1))), Ping)
    bus.subscribe(fail, Pong)
    with caplog.at_level(logging.ERROR, logger="goevent"):
        async with bus:
            first = await bus.dispatch(Ping(1))
    (record,) = caplog.records
    attributes = vars(record)
    assert attributes["event_name"] == Pong.event_name
    assert attributes["correlation_id"] == attributes["causation_id"] == first.id
    assert len(attributes["handle_id"]) == 16


# -- conversations


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
async def test_a_request_inside_a_listener_has_the_event_as_its_cause(
    autojump_clock: MockClock, elsewhere: bool
) -> None:
    hub = MemoryHub()
    asker, other = (make(driver=MemoryDriver(hub)) for _ in range(2))
    answerer = other if elsewhere else asker
    seen: list[Delivery] = []
    found: list[DispatchHandle] = []

    @answerer.responder(Pong)
    async def answer(_: Pong) -> int:
        seen.append(current_delivery())
        found.append(await answerer.dispatch(Last()))
        return 7

    async def ask(_: Ping) -> None:
        assert await asker.request(Pong(1), int, timeout=5) == 7

    asker.subscribe(ask, Ping)
    async with asker, other:
        first = await asker.dispatch(Ping(1))
        await first.wait()
        first.raise_errors()
    (delivery,), (last,) = seen, found
    assert (delivery.correlation_id, delivery.causation_id) == (first.id, first.id)
    assert (last.correlation_id, last.causation_id) == (first.id, delivery.id)


async def test_a_tracked_dispatch_inside_a_listener_has_the_event_as_its_cause(
    autojump_clock: MockClock,
) -> None:
    hub = MemoryHub()
    one, two = (make(driver=MemoryDriver(hub)) for _ in range(2))
    seen: list[Delivery] = []

    async def follow(_: Ping) -> None:
        handle = await one.dispatch(Pong(1), scope="all")
        await handle.wait(scope="all", timeout=5)

    async def take(_: Pong) -> None:
        seen.append(current_delivery())

    one.subscribe(follow, Ping)
    two.subscribe(take, Pong)
    async with one, two:
        first = await one.dispatch(Ping(1))
        await first.wait()
        first.raise_errors()
    assert [(each.correlation_id, each.causation_id) for each in seen] == [(first.id, first.id)]
