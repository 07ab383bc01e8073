"""Patterns on a bus: matching listeners, their order, and the cached routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Config,
    DispatchHandle,
    Event,
    EventDropped,
    EventRegistry,
    GoEvent,
    Ledger,
    MemoryDriver,
    MemoryHub,
    Registration,
    current_delivery,
)

REGISTRY = EventRegistry()


class Created(Event, name="order.created", registry=REGISTRY):
    n: int = 0


class Paid(Event, name="order.paid", registry=REGISTRY):
    n: int = 0


class ItemAdded(Event, name="order.item.added", registry=REGISTRY):
    n: int = 0


class UserCreated(Event, name="user.created", registry=REGISTRY):
    n: int = 0


ALL = (Created(1), Paid(1), ItemAdded(1), UserCreated(1))


def make(**config: Any) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, **config))


class Seen(list[str]):
    """Makes listeners that record their own name and that of the event."""

    def by(self, name: str) -> Callable[[Event], None]:
        def listener(event: Event) -> None:
            self.append(f"{name}:{event.event_name}")

        return listener

    def later_by(self, name: str) -> Callable[[Event], Any]:
        async def listener(event: Event) -> None:
            self.append(f"{name}:{event.event_name}")

        return listener

    def take(self) -> list[str]:
        taken = [*self]
        self.clear()
        return taken


def routes(bus: GoEvent, *names: str) -> list[object]:
    """Return the routes of names. They stay the same objects until a registration changes them."""
    router = bus._router  # pyright: ignore[reportPrivateUsage]
    return [router.named(name) for name in names]


# -- matching


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("order.*", ["order.created", "order.paid"]),
        ("order.**", ["order.created", "order.paid", "order.item.added"]),
        ("*.created", ["order.created", "user.created"]),
        ("**", ["order.created", "order.paid", "order.item.added", "user.created"]),
        ("*.*", ["order.created", "order.paid", "user.created"]),
        ("*", []),
        ("order.*.added", ["order.item.added"]),
        ("**.added", ["order.item.added"]),
    ],
)
@pytest.mark.parametrize("ad_hoc", [False, True])
async def test_a_listener_gets_the_events_whose_names_match_its_pattern(
    pattern: str, names: list[str], ad_hoc: bool
) -> None:
    seen: list[str] = []
    async with GoEvent(Config(registry=EventRegistry() if ad_hoc else REGISTRY)) as bus:
        bus.subscribe(lambda event: seen.append(event.event_name), pattern)
        for event in ALL:
            await bus.dispatch(Event(event.event_name) if ad_hoc else event)
        ledger = await bus.close()
    assert seen == names
    assert ledger == Ledger(accepted=len(names), completed=len(names))


@pytest.mark.parametrize("mailbox", [False, True])
async def test_a_listener_that_matches_in_several_ways_gets_the_event_once(
    bus: GoEvent, mailbox: bool
) -> None:
    seen = Seen()
    listener = seen.later_by("it") if mailbox else seen.by("it")
    bus.subscribe(listener, "order.created", "order.*", "**", "*.created", Created)
    handle = await bus.dispatch(Created())
    await handle.wait()
    assert seen == ["it:order.created"]
    assert (await bus.close()) == Ledger(accepted=1, completed=1)


async def test_exact_names_and_patterns_run_in_the_order_of_registration(bus: GoEvent) -> None:
    seen = Seen()
    bus.subscribe(seen.by("1 pattern"), "order.*")
    bus.subscribe(seen.by("2 exact"), "order.created")
    bus.subscribe(seen.by("3 pattern"), "**")
    bus.subscribe(seen.by("4 both"), "order.created", "*.created")
    bus.subscribe(seen.by("5 pattern"), "order.*")
    bus.subscribe(seen.by("6 class"), Created)
    await bus.dispatch(Created())
    assert [each.split()[0] for each in seen] == ["1", "2", "3", "4", "5", "6"]


async def test_the_order_of_registration_survives_further_registrations(bus: GoEvent) -> None:
    seen = Seen()
    first = bus.subscribe(seen.by("1"), "**")
    bus.subscribe(seen.by("2"), Created)
    third = bus.subscribe(seen.by("3"), "order.*")
    bus.subscribe(seen.by("4"), Created)
    await bus.dispatch(Created())
    first.unregister()
    bus.subscribe(seen.by("5"), "order.*")
    third.unregister()
    bus.subscribe(seen.by("6"), Created)
    await bus.dispatch(Created())
    assert [each[0] for each in seen] == ["1", "2", "3", "4", "2", "4", "5", "6"]


async def test_an_ad_hoc_event_is_made_typed_for_listeners_by_pattern(bus: GoEvent) -> None:
    seen: list[object] = []
    bus.subscribe(seen.append, "order.*")
    await bus.dispatch(Event("order.created", {"n": 4}))
    await bus.dispatch(Event("order.unknown", {"n": 4}))
    assert seen == [Created(4), Event("order.unknown", {"n": 4})]


async def test_an_event_name_is_no_pattern_even_if_a_pattern_is_registered(bus: GoEvent) -> None:
    bus.subscribe(lambda event: None, "order.*")
    with pytest.raises(ValueError, match="order"):
        Event("order.*")


@pytest.mark.parametrize("pattern", ["order.*x", "***", "order..*", "*.", "a b.*"])
def test_a_bad_pattern_is_refused_at_registration(pattern: str) -> None:
    bus = make()
    with pytest.raises(ValueError, match="pattern"):
        bus.subscribe(lambda event: None, "order.*", pattern)
    assert bus.snapshot().listeners == ()


async def test_a_class_listener_may_listen_to_a_pattern(bus: GoEvent) -> None:
    seen: list[object] = []

    class Wide:
        event_name = "order.**"

        def on_event(self, event: Event) -> None:
            seen.append(event)

    bus.register_listener(Wide)
    await bus.dispatch(ItemAdded(2))
    assert seen == [ItemAdded(2)]


async def test_the_handle_and_the_delivery_have_the_name_of_the_event(bus: GoEvent) -> None:
    names: list[str] = []

    @bus.listener("order.*")
    async def it(event: Event) -> None:
        names.append(current_delivery().event_name)
        raise ValueError("broken")

    handle = await bus.dispatch(Created())
    await handle.wait()
    assert names == [handle.event_name] == ["order.created"]
    assert handle.errors[0].event_name == "order.created"


# -- registering and unregistering


async def test_unregistering_removes_a_pattern_from_all_its_names(bus: GoEvent) -> None:
    seen = Seen()
    registration = bus.subscribe(seen.by("it"), "order.*", "user.created")
    for event in ALL:
        await bus.dispatch(event)
    assert seen.take() == ["it:order.created", "it:order.paid", "it:user.created"]
    registration.unregister()
    for event in ALL:
        await bus.dispatch(event)
    assert seen == []
    assert bus.snapshot().listeners == ()


@pytest.mark.parametrize(
    "events",
    [
        ("order.created", "order.*"),
        ("order.*", "order.created"),
        ("order.*", "*.created", "**"),
        ("order.created", "order.paid", "**", "order.*"),
    ],
)
async def test_unregistering_removes_a_listener_from_routes_with_several_matches(
    bus: GoEvent, events: tuple[str, ...]
) -> None:
    seen = Seen()
    registration = bus.subscribe(seen.by("gone"), *events)
    bus.subscribe(seen.by("stays"), *events)
    await bus.dispatch(Created())
    registration.unregister()
    seen.clear()
    await bus.dispatch(Created())
    assert seen == ["stays:order.created"]
    assert len(bus.snapshot().listeners) == 1
    assert (await bus.close()) == Ledger(accepted=3, completed=3)


async def test_unregistering_a_name_keeps_its_listeners_by_pattern(bus: GoEvent) -> None:
    seen = Seen()
    bus.subscribe(seen.by("pattern"), "order.*")
    bus.subscribe(seen.by("exact"), Created)
    bus.subscribe(seen.by("both"), Created, "**")
    bus.unregister_listeners_for_event("order.created")
    await bus.dispatch(Created())
    assert seen == ["pattern:order.created", "both:order.created"]
    (pattern, both) = bus.snapshot().listeners
    assert pattern.event_names == ("order.*",)
    assert both.event_names == ("**",)


async def test_unregistering_a_pattern_keeps_other_patterns_and_names(bus: GoEvent) -> None:
    seen = Seen()
    bus.subscribe(seen.by("gone"), "order.*")
    bus.subscribe(seen.by("both"), "order.*", "order.paid")
    bus.subscribe(seen.by("wider"), "order.**")
    bus.subscribe(seen.by("exact"), Created)
    bus.unregister_listeners_for_event("order.*")
    bus.unregister_listeners_for_event("order.*")
    bus.unregister_listeners_for_event("nobody.*")
    await bus.dispatch(Created())
    assert seen.take() == ["wider:order.created", "exact:order.created"]
    await bus.dispatch(Paid())
    assert seen.take() == ["both:order.paid", "wider:order.paid"]


async def test_unregistering_a_pattern_drops_its_queued_events(bus: GoEvent) -> None:
    go = trio.Event()
    seen: list[Event] = []

    @bus.listener("order.*", "order.paid", "order.item.*")
    async def slow(event: Event) -> None:
        await go.wait()
        seen.append(event)

    handles = [await bus.dispatch(event) for event in (Created(1), Created(2), Paid(3))]
    handles.append(await bus.dispatch(ItemAdded(4)))
    await wait_all_tasks_blocked()
    bus.unregister_listeners_for_event("order.*")
    assert [handle.done for handle in handles] == [False, True, False, False]
    assert [type(error) for error in handles[1].errors] == [EventDropped]
    go.set()
    await bus.wait()
    assert seen == [Created(1), Paid(3), ItemAdded(4)]
    assert (await bus.close()) == Ledger(accepted=4, completed=3, dropped=1)


async def test_a_pattern_registered_between_events_gets_the_later_ones(bus: GoEvent) -> None:
    seen = Seen()
    registration: Registration | None = None
    for n in range(10):
        if n == 3:
            registration = bus.subscribe(seen.by("pattern"), "order.*")
        if n == 7:
            assert registration is not None
            registration.unregister()
        bus.dispatch_nowait(Created(n))
        bus.dispatch_nowait(Event(f"order.n{n}"))
    assert [each.removeprefix("pattern:") for each in seen] == [
        name for n in range(3, 7) for name in ("order.created", f"order.n{n}")
    ]
    assert (await bus.close()) == Ledger(accepted=8, completed=8)


async def test_a_listener_that_registers_and_unregisters_patterns_while_it_runs(
    bus: GoEvent,
) -> None:
    seen = Seen()

    @bus.listener("order.*")
    def outer(event: Event) -> None:
        registration = bus.subscribe(seen.by("inner"), "**")
        bus.dispatch_nowait(UserCreated())
        registration.unregister()
        bus.dispatch_nowait(UserCreated())

    await bus.dispatch(Created())
    assert seen == ["inner:user.created"]
    assert (await bus.close()) == Ledger(accepted=2, completed=2)


async def test_a_pattern_unregistered_while_dispatches_wait_for_its_room_lets_them_go_on(
    bus: GoEvent,
) -> None:
    go = trio.Event()
    seen: list[Event] = []
    handles: list[DispatchHandle] = []

    async def full(event: Event) -> None:
        await go.wait()

    registration = bus.subscribe(full, "order.*", mailbox=1)
    bus.subscribe(seen.append, "**")

    async def dispatch(event: Event) -> None:
        handles.append(await bus.dispatch(event))

    await bus.dispatch(Created(1))
    await wait_all_tasks_blocked()
    await bus.dispatch(Paid(2))
    seen.clear()
    async with trio.open_nursery() as nursery:
        for event in (Created(3), Paid(4), Event("order.ad_hoc")):
            nursery.start_soon(dispatch, event)
            await wait_all_tasks_blocked()
        assert seen == []
        with trio.fail_after(HANG_SECONDS):
            registration.unregister()
            await wait_all_tasks_blocked()
        assert len(handles) == 3
    assert len(seen) == 3
    assert all(handle.done for handle in handles)
    assert bus.errors  # the queued event was dropped
    go.set()
    ledger = await bus.close()
    assert ledger == Ledger(accepted=7, completed=6, dropped=1)


async def test_a_pattern_registered_while_a_dispatch_waits_for_room_gets_the_next_event(
    bus: GoEvent,
) -> None:
    go = trio.Event()
    seen: list[Event] = []

    @bus.listener(Created, mailbox=1)
    async def full(event: Created) -> None:
        await go.wait()

    await bus.dispatch(Created(1))
    await wait_all_tasks_blocked()
    await bus.dispatch(Created(2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Created(3))
        await wait_all_tasks_blocked()
        bus.subscribe(seen.append, "order.*")
        go.set()
    await bus.dispatch(Created(4))
    assert seen == [Created(4)]
    assert (await bus.close()) == Ledger(accepted=5, completed=5)


async def test_waiting_dispatches_keep_their_order_when_a_listener_is_unregistered(
    bus: GoEvent,
) -> None:
    go = trio.Event()
    seen: list[int] = []

    @bus.listener("order.*", mailbox=1)
    async def full(event: Any) -> None:
        await go.wait()
        seen.append(event.n)

    other = bus.subscribe(lambda event: None, "**")
    await bus.dispatch(Created(0))
    await wait_all_tasks_blocked()
    await bus.dispatch(Created(1))
    async with trio.open_nursery() as nursery:
        for n in range(2, 12):
            nursery.start_soon(bus.dispatch, Created(n))
            await wait_all_tasks_blocked()
        other.unregister()
        await wait_all_tasks_blocked()
        go.set()
    await bus.wait()
    assert seen == list(range(12))


# -- the router's cache


async def test_a_pattern_renews_exactly_the_routes_that_it_matches(bus: GoEvent) -> None:
    bus.subscribe(lambda event: None, Created)
    bus.subscribe(lambda event: None, UserCreated)
    for event in (*ALL, Event("order.ad_hoc"), Event("stock.ad_hoc")):
        await bus.dispatch(event)
    matched = ("order.created", "order.paid", "order.ad_hoc")
    others = ("order.item.added", "user.created", "stock.ad_hoc")
    before, untouched = routes(bus, *matched), routes(bus, *others)
    registration = bus.subscribe(lambda event: None, "order.*")
    between = routes(bus, *matched)
    assert not any(one is other for one, other in zip(before, between, strict=True))
    assert routes(bus, *others) == untouched
    registration.unregister()
    after = routes(bus, *matched)
    assert not any(one is other for one, other in zip(between, after, strict=True))
    assert routes(bus, *others) == untouched


async def test_an_exact_name_renews_its_own_route_only(bus: GoEvent) -> None:
    bus.subscribe(lambda event: None, "order.*")
    for event in ALL:
        await bus.dispatch(event)
    (created,) = routes(bus, "order.created")
    untouched = routes(bus, "order.paid", "order.item.added", "user.created")
    registration = bus.subscribe(lambda event: None, Created)
    (renewed,) = routes(bus, "order.created")
    assert renewed is not created
    registration.unregister()
    assert routes(bus, "order.created") != [renewed]
    assert routes(bus, "order.paid", "order.item.added", "user.created") == untouched


async def test_dispatching_renews_nothing(bus: GoEvent) -> None:
    bus.subscribe(lambda event: None, "order.*")
    await bus.dispatch(Created())
    await bus.dispatch(Event("order.ad_hoc"))
    before = routes(bus, "order.created", "order.ad_hoc")
    for n in range(100):
        await bus.dispatch(Created())
        await bus.dispatch(Event("order.ad_hoc"))
        await bus.dispatch(Event(f"order.n{n}"))
    assert routes(bus, "order.created", "order.ad_hoc") == before


@pytest.mark.parametrize("mailbox", [False, True])
@pytest.mark.parametrize("special", [False, True])
async def test_the_ledger_is_exact_after_50000_names_and_the_routes_are_bounded(
    bus: GoEvent, mailbox: bool, special: bool
) -> None:
    seen = 0

    def count(event: Event) -> None:
        nonlocal seen
        seen += 1

    options: dict[str, Any] = {"when": bool} if special else {}
    bus.subscribe(count, "load.*", async_=mailbox or None, **options)
    for n in range(50_000):
        event = Event(f"load.n{n}")
        if mailbox:
            await bus.dispatch(event)
        else:
            bus.dispatch_nowait(event)
    await bus.wait()
    assert seen == 50_000
    router = bus._router  # pyright: ignore[reportPrivateUsage]
    assert len(list(router._routes())) <= 20_002  # pyright: ignore[reportPrivateUsage]
    (listener,) = bus.snapshot().listeners
    assert listener.completed == 50_000
    assert (await bus.close()) == Ledger(accepted=50_000, completed=50_000)


async def test_the_ledger_is_exact_when_the_names_come_while_a_dispatch_waits(
    bus: GoEvent,
) -> None:
    go = trio.Event()

    @bus.listener(Created, mailbox=1)
    async def full(event: Created) -> None:
        await go.wait()

    bus.subscribe(lambda event: None, "load.*")
    await bus.dispatch(Created())
    await wait_all_tasks_blocked()
    await bus.dispatch(Created())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Created())
        await wait_all_tasks_blocked()
        for n in range(25_000):
            bus.dispatch_nowait(Event(f"load.n{n}"))
        go.set()
    assert (await bus.close()) == Ledger(accepted=25_003, completed=25_003)


async def test_names_that_come_from_inside_a_listener_are_counted(bus: GoEvent) -> None:
    bus.subscribe(lambda event: None, "load.*")

    @bus.listener(Created)
    def floods(event: Created) -> None:
        for n in range(25_000):
            bus.dispatch_nowait(Event(f"load.n{n}"))

    await bus.dispatch(Created())
    bus.dispatch_nowait(Event("load.last"))
    assert (await bus.close()) == Ledger(accepted=25_002, completed=25_002)


# -- annotations


def test_an_annotation_that_cannot_be_one_of_the_events_is_refused() -> None:
    bus = make()
    with pytest.raises(TypeError, match=r"order\.\*.*'order\.paid' \(Paid\).*Created"):

        @bus.listener("order.*")
        def narrow(event: Created) -> None: ...

    assert bus.snapshot().listeners == ()


def test_annotations_that_fit_all_the_events_are_accepted() -> None:
    bus = make()

    @bus.listener("order.*")
    def both(event: Created | Paid) -> None: ...

    @bus.listener("order.*")
    def any_event(event: Event) -> None: ...

    @bus.listener("user.*")
    def only(event: UserCreated) -> None: ...

    @bus.listener("nothing.known.*")
    def nothing(event: Created) -> None: ...

    assert len(bus.snapshot().listeners) == 4


# -- mailboxes and hubs


@pytest.mark.parametrize("options", [{}, {"timeout": 60.0}, {"context": True}, {"when": bool}])
async def test_the_mailbox_of_a_pattern_keeps_the_order_across_names(
    bus: GoEvent, autojump_clock: MockClock, options: dict[str, Any]
) -> None:
    seen: list[Any] = []

    @bus.listener("order.*", "user.created", mailbox=3, **options)
    async def slow(event: Event) -> None:
        await trio.sleep(1)
        seen.append(event)

    sent: list[Event] = []
    for n in range(10):
        for event in (Created(n), Paid(n), UserCreated(n), Event("order.ad_hoc", {"n": n})):
            sent.append(event)
            await bus.dispatch(event)
    await bus.wait()
    assert seen == sent


async def test_the_room_of_a_patterns_mailbox_is_shared_by_all_names(bus: GoEvent) -> None:
    go = trio.Event()

    @bus.listener("order.*", mailbox=3)
    async def slow(event: Event) -> None:
        await go.wait()

    bus.dispatch_nowait(Created())
    await wait_all_tasks_blocked()
    for event in (Created(), Paid(), Event("order.ad_hoc")):
        bus.dispatch_nowait(event)
    for event in (Created(), Paid(), Event("order.other")):
        with pytest.raises(trio.WouldBlock):
            bus.dispatch_nowait(event)
    go.set()
    assert (await bus.close()) == Ledger(accepted=4, completed=4)


async def test_a_pattern_with_a_key_orders_each_key_across_names(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    seen: list[tuple[str, int]] = []

    @bus.listener("order.*", ordering_key="n", concurrency=10)
    async def keyed(event: Any) -> None:
        await trio.sleep(3 if isinstance(event, Created) else 1)
        seen.append((event.event_name, event.n))

    for n in range(3):
        await bus.dispatch(Created(n))
        await bus.dispatch(Paid(n))
    await bus.wait()
    for n in range(3):
        assert [name for name, key in seen if key == n] == ["order.created", "order.paid"]


async def test_patterns_match_the_events_of_other_buses() -> None:
    hub = MemoryHub()
    one, two = make(driver=MemoryDriver(hub)), make(driver=MemoryDriver(hub))
    here, there = Seen(), Seen()
    async with one, two:
        one.subscribe(here.by("one"), "order.*")
        two.subscribe(there.by("inline"), "order.*")
        two.subscribe(there.later_by("mailbox"), "**")
        await two.ready()
        for event in (Created(), UserCreated(), Event("order.ad_hoc")):
            await one.dispatch(event)
        await one.close()
        await wait_all_tasks_blocked()
        ledger = await two.close()
    assert here == ["one:order.created", "one:order.ad_hoc"]
    assert [each for each in there if "inline" in each] == [
        "inline:order.created",
        "inline:order.ad_hoc",
    ]
    assert [each for each in there if "mailbox" in each] == [
        "mailbox:order.created",
        "mailbox:user.created",
        "mailbox:order.ad_hoc",
    ]
    assert ledger == Ledger(accepted=5, completed=5)


async def test_a_pattern_registered_before_the_bus_is_open_and_after_it_was_closed() -> None:
    bus = make()
    seen = Seen()
    bus.subscribe(seen.by("early"), "order.*")
    async with bus:
        await bus.dispatch(Created())
    bus.subscribe(seen.by("late"), "**")
    async with bus:
        await bus.dispatch(Paid())
        assert (await bus.close()) == Ledger(accepted=2, completed=2)
    assert seen == ["early:order.created", "early:order.paid", "late:order.paid"]


async def test_a_thousand_patterns_get_their_own_events(bus: GoEvent) -> None:
    seen: list[int] = []

    def add(n: int) -> None:
        bus.subscribe(lambda event: seen.append(n), f"area{n}.*")

    for n in range(1000):
        add(n)
    for n in range(0, 1000, 7):
        bus.dispatch_nowait(Event(f"area{n}.thing"))
    assert seen == list(range(0, 1000, 7))
