"""Events that a driver brings to inline `def` listeners: no handle, and the same ends as ever."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from tests.contract.test_driver_contract import (
    REGISTRY,
    Ping,
    Pong,
    Scripted,
    Settlements,
    arriving,
)
from tests.support.checks import adds_up, ignore_error
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import Config, Delivery, DispatchHandle, Envelope, GoEvent, Inbox, Settlement


class Bringing:
    """The `run` of a driver that brings one event when its bus is open."""

    def __init__(self, envelope: Envelope, settle: Any = None, **options: Any) -> None:
        self.done = trio.Event()
        self._envelope = envelope
        self._settle = settle
        self._nowait = options.pop("nowait", True)
        self._options = options

    async def __call__(self, inbox: Inbox) -> None:
        await wait_all_tasks_blocked()
        if self._nowait:
            assert inbox.deliver_nowait(self._envelope, self._settle, **self._options)
        else:
            await inbox.deliver(self._envelope, self._settle, **self._options)
        self.done.set()
        await trio.sleep_forever()


def make(script: Bringing) -> GoEvent:
    bus = GoEvent(Config(registry=REGISTRY, driver=Scripted(script)))
    bus.on_error(ignore_error)
    return bus


def handles_of(event: object) -> list[DispatchHandle]:
    """Return the handles of an event that exist now."""
    return [each for each in gc.get_referrers(event) if type(each) is DispatchHandle]


async def test_an_event_for_inline_listeners_has_no_handle(autojump_clock: MockClock) -> None:
    found: list[int] = []
    settled = Settlements()
    brings = Bringing(arriving(1), settled)
    bus = make(brings)

    def one(event: Ping) -> None:
        found.append(len(handles_of(event)))

    bus.subscribe(one, Ping)
    bus.subscribe(lambda event: one(event), Ping)
    async with bus:
        await brings.done.wait()
        assert found == [0, 0]
        assert settled.outcomes == [()]
        assert bus.snapshot().ledger.completed == 2


@pytest.mark.parametrize("nowait", [True, False])
async def test_a_failed_listener_stops_no_other_and_settles_once(
    autojump_clock: MockClock, nowait: bool
) -> None:
    settled = Settlements()
    story: list[str] = []
    brings = Bringing(arriving(1), settled, nowait=nowait)
    bus = make(brings)

    def fails(event: Ping) -> None:
        story.append("fails")
        raise ValueError("broken")

    bus.subscribe(lambda event: story.append("before"), Ping)
    bus.subscribe(fails, Ping, name="first")
    bus.subscribe(lambda event: story.append("after"), Ping)
    bus.subscribe(fails, Ping, name="second")
    async with bus:
        await brings.done.wait()
        assert story == ["before", "fails", "after", "fails"]
        assert settled.outcomes == [("failed", "failed")]
        assert [error.listener for error in bus.errors] == ["first", "second"]
        ledger = bus.snapshot().ledger
        assert (ledger.accepted, ledger.completed, ledger.failed) == (4, 2, 2)


async def test_the_handle_of_a_failed_event_has_its_headers_and_deliveries(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[dict[str, str], int]] = []
    event = Ping(1)
    envelope = Envelope(
        event_name=Ping.event_name, event=event, origin="another", headers={"trace": "ab"}
    )
    brings = Bringing(envelope, deliveries=3)
    bus = make(brings)
    bus.on_error(ignore_error)

    class Broken(Exception):
        """Looks at the handle when its text is made, as the failure is reported."""

        def __str__(self) -> str:
            for handle in handles_of(event):
                details: Any = vars(type(handle))["_details"].__get__(handle)
                seen.append((dict(handle.headers), details.deliveries))
            return "broken"

    def fails(event: Ping) -> None:
        raise Broken

    bus.subscribe(fails, Ping)
    async with bus:
        await brings.done.wait()
        assert bus.errors[0].reason == "Broken: broken"
    assert seen
    assert set(map(str, seen)) == {str(({"trace": "ab"}, 3))}


async def test_an_event_without_listeners_is_settled_as_such(autojump_clock: MockClock) -> None:
    ends: list[Settlement] = []
    brings = Bringing(arriving(1), ends.append)
    async with make(brings):
        await brings.done.wait()
    assert ends == [Settlement(started=False)]


async def test_an_interrupt_abandons_the_listeners_that_are_left(
    autojump_clock: MockClock,
) -> None:
    settled = Settlements()
    story: list[str] = []
    brings = Bringing(arriving(1), settled)
    bus = make(brings)

    def interrupt(event: Ping) -> None:
        raise KeyboardInterrupt

    bus.subscribe(lambda event: story.append("before"), Ping)
    bus.subscribe(interrupt, Ping)
    bus.subscribe(lambda event: story.append("after"), Ping)
    with pytest.raises(KeyboardInterrupt):
        async with bus:
            await trio.sleep_forever()
    assert story == ["before"]
    assert settled.outcomes == [("abandoned",)]
    ledger = bus.snapshot().ledger
    assert adds_up(ledger)
    assert (ledger.completed, ledger.abandoned) == (1, 2)


@pytest.mark.parametrize("fails", [False, True])
async def test_listeners_may_dispatch_while_the_bus_drains(
    autojump_clock: MockClock, fails: bool
) -> None:
    class DeliversLast(Scripted):
        async def run(self, inbox: Inbox, **options: Any) -> None:
            self.inbox = inbox
            await super().run(inbox, **options)

        async def drain(self) -> None:
            assert self.inbox.deliver_nowait(arriving(1))

    bus = GoEvent(Config(registry=REGISTRY, driver=DeliversLast()))
    bus.on_error(ignore_error)
    got: list[Pong] = []

    def first(event: Ping) -> None:
        if fails:
            raise ValueError("broken")

    bus.subscribe(first, Ping)
    bus.subscribe(lambda event: bus.dispatch_nowait(Pong(event.n)), Ping)
    bus.subscribe(got.append, Pong)
    async with bus:
        pass
    assert [event.n for event in got] == [1]
    assert [error.reason for error in bus.errors] == ["ValueError: broken"] * fails


@pytest.mark.parametrize("nowait", [True, False])
@pytest.mark.parametrize("fan_out", [True, False])
async def test_the_options_of_inline_listeners_hold_for_arrivals(
    autojump_clock: MockClock, fan_out: bool, nowait: bool
) -> None:
    log: list[Any] = []
    settled = Settlements()

    class Noting:
        def around_call(self, delivery: Delivery) -> Iterator[None]:
            assert isinstance(delivery.event, Ping)
            log.append(("around", delivery.event.n))
            yield

    async def bring(inbox: Inbox) -> None:
        await wait_all_tasks_blocked()
        for n in range(4):
            if not (nowait and inbox.deliver_nowait(arriving(n), settled)):
                await inbox.deliver(arriving(n), settled)
        await trio.sleep_forever()

    driver = Scripted(bring, fan_out=fan_out)
    bus = GoEvent(Config(registry=REGISTRY, driver=driver))
    bus.subscribe(lambda event: log.append(("even", event.n)), Ping, when=lambda e: e.n % 2 == 0)
    bus.subscribe(lambda event: log.append(("once", event.n)), Ping, once=True)
    bus.subscribe(lambda event: log.append(("inside", event.n)), Ping, middleware=(Noting(),))

    @bus.listener(Ping, async_=False)
    async def awaited(event: Ping) -> None:
        await trio.sleep(1)
        log.append(("awaited", event.n))

    async with bus:
        await trio.sleep(10)
        assert adds_up(bus.snapshot().ledger)
        assert not bus.errors
    every = ["around", "inside", "awaited"]
    assert log == [
        ("even", 0),
        ("once", 0),
        *((step, 0) for step in every),
        *((step, 1) for step in every),
        ("even", 2),
        *((step, 2) for step in every),
        *((step, 3) for step in every),
    ]
    assert settled.outcomes == [()] * 4


@pytest.mark.parametrize("fan_out", [True, False])
async def test_a_mailbox_filters_arrivals(autojump_clock: MockClock, fan_out: bool) -> None:
    seen: list[int] = []
    brings = Bringing(arriving(1), nowait=False)
    bus = GoEvent(Config(registry=REGISTRY, driver=Scripted(brings, fan_out=fan_out)))

    @bus.listener(Ping, when=lambda event: event.n != 1)
    async def note(event: Ping) -> None:
        seen.append(event.n)

    async with bus:
        await brings.done.wait()
        await bus.wait()
    assert seen == []


class NoteArrivals:
    """Middleware that notes the events around whose arrival it runs."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def around_delivery(self, handle: DispatchHandle) -> Iterator[None]:
        self.seen.append(handle.event.n)
        yield


def holding_bus(driver: Scripted, middleware: object) -> tuple[GoEvent, trio.Event]:
    """Return a bus whose listener takes one event at a time, has room for one more, and waits."""
    config = Config(registry=REGISTRY, driver=driver, middleware=(middleware,))  # type: ignore[arg-type]
    bus, go_on = GoEvent(config), trio.Event()
    bus.on_error(ignore_error)

    @bus.listener(Ping, mailbox=1)
    async def take(event: Ping) -> None:
        await go_on.wait()

    return bus, go_on


async def test_an_arrival_within_middleware_that_would_wait_has_done_nothing(
    autojump_clock: MockClock,
) -> None:
    note, settled = NoteArrivals(), Settlements()
    answers: list[bool] = []

    async def bring(inbox: Inbox) -> None:
        for n in range(3):
            await wait_all_tasks_blocked()
            answers.append(inbox.deliver_nowait(arriving(n), settled))
        assert note.seen == [0, 1]
        go_on.set()
        await inbox.deliver(arriving(2), settled)
        await trio.sleep_forever()

    bus, go_on = holding_bus(Scripted(bring), note)
    async with bus:
        await trio.sleep(1)
        assert adds_up(bus.snapshot().ledger)
        assert not bus.errors
    assert answers == [True, True, False]
    assert note.seen == [0, 1, 2]
    assert settled.outcomes == [()] * 3


async def test_an_arrival_is_not_lost_if_its_middleware_fills_the_mailbox(
    autojump_clock: MockClock,
) -> None:
    settled = Settlements()

    class Fills:
        def around_delivery(self, handle: DispatchHandle) -> Iterator[None]:
            bus.dispatch_nowait(Ping(9))
            yield

    async def bring(inbox: Inbox) -> None:
        await wait_all_tasks_blocked()
        assert inbox.deliver_nowait(arriving(1), settled)
        assert not inbox.deliver_nowait(arriving(2), settled)
        go_on.set()
        await trio.sleep_forever()

    bus, go_on = holding_bus(Scripted(bring), Fills())
    async with bus:
        await trio.sleep(1)
        ledger = bus.snapshot().ledger
        assert adds_up(ledger)
        assert not bus.errors
    assert settled.outcomes == [()]


async def test_an_interrupt_within_middleware_settles_the_arrival(
    autojump_clock: MockClock,
) -> None:
    settled = Settlements()

    async def bring(inbox: Inbox) -> None:
        await wait_all_tasks_blocked()
        inbox.deliver_nowait(arriving(1), settled)

    class Interrupt:
        def around_delivery(self, handle: DispatchHandle) -> Iterator[None]:
            raise KeyboardInterrupt
            yield

    bus, _ = holding_bus(Scripted(bring), Interrupt())
    with pytest.raises(KeyboardInterrupt):
        async with bus:
            await trio.sleep_forever()
    assert settled.outcomes == [("abandoned",)]
    assert adds_up(bus.snapshot().ledger)
