"""The bus's side of the driver contract: its guarantees to a driver, and the end of the bus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self

import pytest
import trio
from tests.support.checks import ignore_error
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Backlog,
    BusClosed,
    Capabilities,
    Config,
    DriverError,
    DriverSnapshot,
    EncodeError,
    Envelope,
    Event,
    EventRegistry,
    GoEvent,
    Inbox,
    JsonCodec,
    Message,
    Receipt,
    Settlement,
    current_delivery,
)

REGISTRY = EventRegistry()
Script = Callable[[Inbox], Awaitable[None]]


class Ping(Event, name="contract.ping", registry=REGISTRY):
    n: int = 0
    text: str = ""


class Pong(Event, name="contract.pong", registry=REGISTRY):
    n: int = 0


class Scripted:
    """A driver whose `run` is a given function."""

    schemes: tuple[str, ...] = ()

    def __init__(self, script: Script | None = None, **capabilities: Any) -> None:
        self.capabilities = Capabilities(**capabilities)
        self.script = script
        self.calls: list[str] = []
        self.sizes: list[int] = []
        self.gate = trio.Event()
        self.gate.set()
        self.refuses = False

    @classmethod
    def from_url(cls, url: str) -> Self:
        raise NotImplementedError

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        if self.script is None:
            await trio.sleep_forever()
        else:
            await self.script(inbox)

    async def subscribe(self, names: Sequence[str]) -> None:
        self.calls.append(f"subscribe {' '.join(names)}")
        await self.gate.wait()
        if self.refuses:
            raise DriverError("refused")

    async def unsubscribe(self, names: Sequence[str]) -> None:
        self.calls.append(f"unsubscribe {' '.join(names)}")
        if self.refuses:
            raise DriverError("refused")

    async def publish(self, message: Message) -> Receipt | None:
        self.sizes.append(len(message.encode()))
        return None


class Settlements:
    """The settlements of a driver's deliveries."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, ...]] = []

    def __call__(self, end: Settlement) -> None:
        self.outcomes.append(tuple(error.outcome for error in end.errors))


def make(driver: Scripted) -> GoEvent:
    bus = GoEvent(Config(registry=REGISTRY, driver=driver))
    bus.on_error(ignore_error)
    return bus


def arriving(n: int = 0) -> Envelope:
    return Envelope(event_name=Ping.event_name, event=Ping(n), origin="another")


# -- run


async def test_a_driver_that_stops_receiving_ends_its_bus(autojump_clock: MockClock) -> None:
    async def stop(inbox: Inbox) -> None:
        await trio.sleep(1)

    bus = make(Scripted(stop))
    with pytest.raises(DriverError, match=r"Scripted\.run has returned"):
        async with bus:
            await trio.sleep_forever()
    assert bus.snapshot().state == "closed"


async def test_a_driver_may_stop_when_its_bus_ends(autojump_clock: MockClock) -> None:
    ending = trio.Event()

    async def stop(inbox: Inbox) -> None:
        await ending.wait()

    class Draining(Scripted):
        async def drain(self) -> None:
            ending.set()
            await wait_all_tasks_blocked()

    async with make(Draining(stop)):
        pass


async def test_closing_waits_until_the_driver_has_ended(autojump_clock: MockClock) -> None:
    ended = False

    async def tidy(inbox: Inbox) -> None:
        nonlocal ended
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            ended = True

    async with make(Scripted(tidy)) as bus:
        await bus.close()
        assert ended


async def test_an_event_that_arrives_before_the_bus_is_open_waits(
    autojump_clock: MockClock,
) -> None:
    async def early(inbox: Inbox) -> None:
        await inbox.deliver(arriving(1))
        await trio.sleep_forever()

    for _ in range(20):  # Trio may run the tasks in any order
        bus = make(Scripted(early))
        seen: list[int] = []

        def answer(event: Ping, bus: GoEvent = bus) -> None:
            bus.dispatch_nowait(Pong(event.n))

        def note(event: Pong, seen: list[int] = seen) -> None:
            seen.append(event.n)

        bus.subscribe(answer, Ping)
        bus.subscribe(note, Pong)
        async with bus:
            await wait_all_tasks_blocked()
        assert (seen, bus.errors) == ([1], ())


# -- information from the broker


@pytest.mark.parametrize("filtered", [False, True])
async def test_a_listener_can_get_the_number_of_deliveries(
    autojump_clock: MockClock, filtered: bool
) -> None:
    seen: list[tuple[int, bool]] = []

    async def redeliver(inbox: Inbox) -> None:
        await inbox.deliver(arriving())
        await inbox.deliver(arriving(), deliveries=3)
        data = JsonCodec().encode(arriving())
        await inbox.receive(Ping.event_name, data, deliveries=2)
        await trio.sleep_forever()

    async def note(event: Ping) -> None:
        delivery = current_delivery()
        seen.append((delivery.deliveries, delivery.redelivered))

    bus = make(Scripted(redeliver))
    if filtered:
        bus.subscribe(note, Ping, when=lambda event: True)  # has a special route
    else:
        bus.subscribe(note, Ping)
    async with bus:
        await wait_all_tasks_blocked()
    assert seen == [(1, False), (3, True), (2, True)]


@pytest.mark.parametrize("options", [{}, {"mailbox": 1}, {"mailbox": 1, "when": bool}])
async def test_a_delivery_without_listeners_is_settled_as_not_started(
    autojump_clock: MockClock, options: dict[str, Any]
) -> None:
    ends: list[Settlement] = []
    gate = trio.Event()

    async def bring_four(inbox: Inbox) -> None:
        for n in range(1, 5):  # one is processed, one is in the mailbox, one waits for room
            await inbox.deliver(arriving(n), ends.append)
        await trio.sleep_forever()

    async def slow(event: Ping) -> None:
        await gate.wait()

    bus = make(Scripted(bring_four))
    registration = bus.subscribe(slow, Ping, **options)
    async with bus:
        await wait_all_tasks_blocked()
        registration.unregister()
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
    unheard = Settlement(started=False)
    assert ends.count(unheard) == (2 if options else 0)
    assert ends.count(Settlement()) == 1  # the one that was processed
    assert len(ends) == 4


async def test_a_local_event_has_one_delivery(
    autojump_clock: MockClock,
) -> None:
    seen: list[int] = []

    async def note(event: Ping) -> None:
        seen.append(current_delivery().deliveries)

    bus = make(Scripted())
    bus.subscribe(note, Ping)
    async with bus:
        await (await bus.dispatch(Ping())).wait()
    assert seen == [1]


async def test_a_snapshot_contains_that_of_the_driver(autojump_clock: MockClock) -> None:
    expected = DriverSnapshot(connected=False, backlogs=(Backlog(event_name="a", lag=3),))

    class Talkative(Scripted):
        def snapshot(self) -> DriverSnapshot:
            return expected

    async with make(Talkative()) as talkative, make(Scripted()) as silent:
        assert talkative.snapshot().driver is expected
        assert silent.snapshot().driver is None


# -- settling


@pytest.mark.parametrize("encoded", [True, False])
async def test_a_delivery_that_is_cancelled_is_settled(
    autojump_clock: MockClock, encoded: bool
) -> None:
    settled = Settlements()
    data = Scripted()

    async def impatient(inbox: Inbox) -> None:
        for _ in range(3):
            with trio.CancelScope() as scope:
                scope.cancel()
                if encoded:
                    wire = b'{"event_name":"contract.ping","event_type":"contract.ping"}'
                    wire = wire[:-1] + b',"event_data":{"n":1,"text":""}}'
                    await inbox.receive(Ping.event_name, wire, settled)
                else:
                    await inbox.deliver(arriving(), settled)
        await trio.sleep_forever()

    data.script = impatient
    bus = make(data)
    bus.subscribe(ignore_event, Ping)
    async with bus:
        await wait_all_tasks_blocked()
    assert settled.outcomes == [("abandoned",)] * 3


def ignore_event(event: Any) -> None:
    """A listener that does nothing."""


async def test_a_delivery_after_the_end_of_the_bus_is_settled(
    autojump_clock: MockClock,
) -> None:
    settled = Settlements()

    async def late(inbox: Inbox) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                for n in range(3):
                    await inbox.deliver(arriving(n), settled)

    bus = make(Scripted(late))
    seen: list[Ping] = []
    bus.subscribe(seen.append, Ping, async_=True)
    async with bus:
        pass
    assert (seen, settled.outcomes) == ([], [("abandoned",)] * 3)
    assert [error.outcome for error in bus.errors] == ["abandoned"] * 3


@pytest.mark.parametrize("timeout", [0, 10])
async def test_deliveries_are_settled_before_the_driver_is_cancelled(
    autojump_clock: MockClock, timeout: float
) -> None:
    story: list[str] = []

    async def receive(inbox: Inbox) -> None:
        def settle(end: Settlement) -> None:
            story.append("settled")

        try:
            await inbox.deliver(arriving(), settle)
            await trio.sleep_forever()
        finally:
            story.append("ended")

    bus = make(Scripted(receive))

    async def slow(event: Ping) -> None:
        await trio.sleep(1)

    bus.subscribe(slow, Ping)
    async with bus:
        await wait_all_tasks_blocked()
        await bus.close(timeout=timeout)
    assert story == ["settled", "ended"]


async def test_an_interrupt_in_a_listener_settles_the_delivery(autojump_clock: MockClock) -> None:
    settled = Settlements()

    async def receive(inbox: Inbox) -> None:
        await inbox.deliver(arriving(), settled)

    bus = make(Scripted(receive))

    def interrupt(event: Ping) -> None:
        raise KeyboardInterrupt

    bus.subscribe(interrupt, Ping)
    with pytest.raises(KeyboardInterrupt):
        async with bus:
            await trio.sleep_forever()
    assert settled.outcomes == [("abandoned",)]


async def test_a_settlement_that_raises_is_an_error_with_the_name(
    autojump_clock: MockClock,
) -> None:
    async def receive(inbox: Inbox) -> None:
        def settle(end: Settlement) -> None:
            raise LookupError("no such delivery")

        await inbox.deliver(arriving(), settle)
        await trio.sleep_forever()

    bus = make(Scripted(receive))
    async with bus:
        await wait_all_tasks_blocked()
    (error,) = bus.errors
    assert (error.event_name, error.listener) == ("contract.ping", "driver")
    assert error.reason == "LookupError: no such delivery"


# -- subscriptions


async def test_waiting_for_a_subscription_ends_with_the_bus(autojump_clock: MockClock) -> None:
    driver = Scripted()
    bus = make(driver)
    ends: list[type] = []

    async def wait() -> None:
        try:
            await bus.ready()
        except BusClosed as error:
            ends.append(type(error))

    async with trio.open_nursery() as nursery, bus:
        driver.gate = trio.Event()
        bus.subscribe(ignore_event, Ping)
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
    assert ends == [BusClosed]


async def test_a_subscription_in_progress_is_undone_when_the_bus_ends(
    autojump_clock: MockClock,
) -> None:
    driver = Scripted()
    bus = make(driver)
    bus.subscribe(ignore_event, Pong)
    async with bus:
        driver.gate = trio.Event()
        bus.subscribe(ignore_event, Ping)
        await wait_all_tasks_blocked()
    assert driver.calls == [
        "subscribe contract.pong",
        "subscribe contract.ping",
        "unsubscribe contract.pong contract.ping",
    ]


async def test_a_bus_does_not_open_if_a_subscription_is_refused(
    autojump_clock: MockClock,
) -> None:
    driver = Scripted()
    driver.refuses = True
    bus = make(driver)
    bus.subscribe(ignore_event, Ping)
    with pytest.raises(DriverError, match="refused"):
        async with bus:
            pytest.fail("it opened")


async def test_a_refused_subscription_is_reported_once_and_tried_again(
    autojump_clock: MockClock,
) -> None:
    driver = Scripted()
    bus = make(driver)
    async with bus:
        driver.refuses = True
        registration = bus.subscribe(ignore_event, Ping)
        with pytest.raises(DriverError, match="refused"):
            await registration.ready()
        await trio.sleep(10)
        driver.refuses = False
        await trio.sleep(30)
        await registration.ready()
        assert 4 <= len(driver.calls) <= 12
        assert [error.event_name for error in bus.errors] == ["contract.ping"]


async def test_a_failure_to_unsubscribe_is_reported(autojump_clock: MockClock) -> None:
    driver = Scripted()
    bus = make(driver)
    registration = bus.subscribe(ignore_event, Ping)
    async with bus:
        driver.refuses = True
        registration.unregister()
        await wait_all_tasks_blocked()
        assert [error.event_name for error in bus.errors] == ["contract.ping"]
    assert driver.calls == ["subscribe contract.ping", "unsubscribe contract.ping"]


# -- publishing


async def test_messages_above_the_limit_of_the_driver_are_refused(
    autojump_clock: MockClock,
) -> None:
    driver = Scripted(max_size=500)
    async with make(driver) as bus:
        handles = [await bus.dispatch(Ping(text="x" * size)) for size in (1, 500, 2)]
        for handle in handles:
            await handle.wait()
    causes = [error.__cause__ for handle in handles for error in handle.errors]
    assert len(causes) == 1
    assert isinstance(causes[0], EncodeError)
    assert "above the driver's limit of 500" in str(causes[0])
    assert len(driver.sizes) == 2


async def test_a_bus_recognises_its_earlier_origins(autojump_clock: MockClock) -> None:
    seen: list[bool] = []

    async def renew(inbox: Inbox) -> None:
        old = [inbox.origin, *(inbox.renew_origin() for _ in range(1500))]
        for origin in (old[-1], old[-900], old[0]):
            envelope = Envelope(event_name=Ping.event_name, event=Ping(), origin=origin)
            seen.append(inbox.is_own(envelope))
        await trio.sleep_forever()

    async with make(Scripted(renew)):
        await wait_all_tasks_blocked()
    assert seen == [True, True, False]


async def test_bytes_of_an_old_version_reach_the_listeners_of_the_new_one() -> None:
    registry = EventRegistry()

    class Old(Event, name="version.one", registry=registry):
        n: int

    class New(Event, name="version.two", registry=registry):
        n: int

    @registry.upcast(Old, to=New)
    def newer(event: Old) -> New:
        return New(event.n + 1)

    seen: list[object] = []
    bus = GoEvent(Config(registry=registry))
    bus.subscribe(seen.append, New)
    data = JsonCodec().encode(Envelope(event_name="version.one", event=Old(1)))
    async with bus:
        await bus._inbox.receive("version.one", data)  # pyright: ignore[reportPrivateUsage]
    assert seen == [New(2)]
    assert bus.errors == ()
