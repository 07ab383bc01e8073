"""Thousands of listeners: the work to register or unregister one does not grow with their number.

The tests count executed instructions. Each scenario runs with few and with many listeners, and
compares the work per listener.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import trio
from tests.support.checks import adds_up, ignore_error
from tests.support.events import REGISTRY, Other, Ping
from tests.support.work import count_calls, count_instructions
from trio.testing import wait_all_tasks_blocked

from goevent import Config, Event, GoEvent, MemoryDriver, MemoryHub, Registration

FEW = 40
MANY = 160
# A quadratic part shows as a factor that nears MANY / FEW. Dicts that grow, and the first call of a
# kind, make small differences.
MAX_GROWTH = 1.3

Register = Callable[[GoEvent, int], list[Registration]]
Unregister = Callable[[GoEvent, list[Registration]], None]
Prepare = Callable[[GoEvent], Awaitable[None]]


async def listen(event: object) -> None:
    """Be a listener."""


def listen_inline(event: object) -> None:
    """Be an inline listener."""


class Listener:
    """A listener that its class makes."""

    event_name = "test.ping"

    async def on_event(self, event: Any) -> None:
        await listen(event)


def one_by_one(bus: GoEvent, registrations: list[Registration]) -> None:
    for registration in registrations:
        registration.unregister()


def last_one_first(bus: GoEvent, registrations: list[Registration]) -> None:
    one_by_one(bus, registrations[::-1])


def name_by_name(bus: GoEvent, registrations: list[Registration]) -> None:
    for name in registrations[0].event_names:
        bus.unregister_listeners_for_event(name)


async def dispatch_one(bus: GoEvent) -> None:
    """Have every listener keep an event in its mailbox."""
    await bus.dispatch(Ping())


async def dispatch_and_wait(bus: GoEvent) -> None:
    """Build the routes, and have every listener run once."""
    await (await bus.dispatch(Ping())).wait()
    await bus.dispatch(Other())
    for n in range(MANY):
        await bus.dispatch(Event(f"ad.hoc{n}"))
    await bus.wait()


@dataclass(frozen=True)
class Scenario:
    register: Register
    unregister: Unregister = one_by_one
    between: Prepare = dispatch_and_wait


SCENARIOS = {
    "one name": Scenario(lambda bus, n: [bus.subscribe(listen, Ping) for _ in range(n)]),
    "in reverse": Scenario(
        lambda bus, n: [bus.subscribe(listen, Ping) for _ in range(n)], last_one_first
    ),
    "inline, by priority": Scenario(
        lambda bus, n: [bus.subscribe(listen_inline, Ping, priority=i % 7) for i in range(n)]
    ),
    "with queued events": Scenario(
        lambda bus, n: [bus.subscribe(listen, Ping) for _ in range(n)], between=dispatch_one
    ),
    "once": Scenario(lambda bus, n: [bus.subscribe(listen, Ping, once=True) for _ in range(n)]),
    "classes": Scenario(lambda bus, n: [bus.register_listener(Listener) for _ in range(n)]),
    "many names": Scenario(lambda bus, n: [bus.subscribe(listen, f"ad.hoc{i}") for i in range(n)]),
    "many patterns": Scenario(lambda bus, n: [bus.subscribe(listen, f"ad{i}.*") for i in range(n)]),
    "many patterns of one name": Scenario(
        lambda bus, n: [
            bus.subscribe(listen, ("test.*", "*.ping", "test.**", "**")[i % 4]) for i in range(n)
        ]
    ),
    "one event of many listeners": Scenario(
        lambda bus, n: [bus.subscribe(listen, Ping) for _ in range(n)],
        lambda bus, _: bus.unregister_listeners_for_event(Ping),
    ),
    "one of two events": Scenario(
        lambda bus, n: [bus.subscribe(listen, Ping, Other) for _ in range(n)],
        lambda bus, _: bus.unregister_listeners_for_event(Ping),
    ),
    "one listener of many events": Scenario(
        lambda bus, n: [bus.subscribe(listen, *[f"ad.hoc{i}" for i in range(n)])],
        name_by_name,
    ),
}


async def work_per_listener(config: Config, scenario: Scenario, listeners: int) -> list[float]:
    """Return the instructions for one listener: to register it and to unregister it."""
    bus = GoEvent(config)
    bus.on_error(ignore_error)
    registrations: list[Registration] = []
    async with bus:
        # The first one pays for what is made once: the nodes of patterns, the routes.
        one_by_one(bus, scenario.register(bus, 1))
        await dispatch_and_wait(bus)
        registering = count_instructions(
            lambda: registrations.extend(scenario.register(bus, listeners))
        )
        await scenario.between(bus)
        unregistering = count_instructions(lambda: scenario.unregister(bus, registrations))
        assert bus.snapshot().listeners == () or scenario is SCENARIOS["one of two events"]
        ledger = await bus.close()
    assert adds_up(ledger)
    return [registering / listeners, unregistering / listeners]


@pytest.mark.parametrize("hub", [False, True])
@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_work_for_a_listener_does_not_grow_with_their_number(
    name: str, hub: bool
) -> None:
    config = Config(driver=MemoryDriver(MemoryHub()) if hub else MemoryDriver(), registry=REGISTRY)
    few = await work_per_listener(config, SCENARIOS[name], FEW)
    many = await work_per_listener(config, SCENARIOS[name], MANY)
    for one, other in zip(few, many, strict=True):
        assert other <= MAX_GROWTH * one


async def test_a_listener_registers_and_unregisters_others_with_the_same_work(
    bus: GoEvent,
) -> None:
    """While a dispatch is under way the dropped routes are kept, and none is built."""
    work: list[float] = []
    listeners = FEW

    def register_many(event: Ping) -> None:
        registrations: list[Registration] = []
        for _ in range(listeners):
            registrations.append(bus.subscribe(listen, Ping))
        work.append(count_instructions(lambda: one_by_one(bus, registrations)) / listeners)

    bus.subscribe(register_many, Ping)
    await bus.dispatch(Ping())
    listeners = MANY
    await bus.dispatch(Ping())
    assert work[1] <= MAX_GROWTH * work[0]


async def test_busy_listeners_are_unregistered_with_the_same_work(bus: GoEvent) -> None:
    work: list[float] = []
    for listeners in (FEW, MANY):
        go = trio.Event()

        async def wait(event: Ping, go: trio.Event = go) -> None:
            await go.wait()

        registrations = [bus.subscribe(wait, Ping) for _ in range(listeners)]
        await bus.dispatch(Ping())
        await wait_all_tasks_blocked()
        unregister = partial(one_by_one, bus, registrations)
        work.append(count_instructions(unregister) / listeners)
        go.set()
        await bus.wait()
    assert work[1] <= MAX_GROWTH * work[0]
    ledger = await bus.close()
    assert ledger.accepted == ledger.completed == FEW + MANY


async def test_listeners_that_dispatches_wait_for_are_unregistered_with_the_same_work(
    bus: GoEvent,
) -> None:
    bus.on_error(ignore_error)
    work: list[float] = []
    for listeners in (FEW, MANY):
        go = trio.Event()

        async def wait(event: Ping, go: trio.Event = go) -> None:
            await go.wait()

        registrations = [bus.subscribe(wait, Ping, mailbox=1) for _ in range(listeners)]
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(bus.dispatch, Ping())
                await wait_all_tasks_blocked()
            assert not bus.snapshot().ledger.failed
            unregister = partial(one_by_one, bus, registrations)
            work.append(count_instructions(unregister) / listeners)
            # The two dispatches that waited have reached nobody.
            assert bus.snapshot().ledger.accepted == 2 * sum((FEW, MANY)[: len(work)])
            go.set()
        await bus.wait()
    assert work[1] <= MAX_GROWTH * work[0]


async def test_a_new_name_is_subscribed_to_with_the_same_work_beside_many_others() -> None:
    """The task that keeps the subscriptions of a driver looks at the changed names only."""
    work: list[float] = []
    for listeners in (FEW, MANY):
        bus = GoEvent(Config(driver=MemoryDriver(MemoryHub()), registry=REGISTRY))
        for n in range(listeners):
            bus.subscribe(listen, f"ad.hoc{n}")
        async with bus:
            subscriptions = bus._session.subscriptions  # type: ignore[union-attr] # pyright: ignore
            assert subscriptions is not None
            await bus.ready()
            bus.subscribe(listen, "one.more")
            update = subscriptions._update()  # pyright: ignore[reportPrivateUsage]
            work.append(count_instructions(partial(update.send, None)))
            update.close()
    assert work[1] <= MAX_GROWTH * work[0]


async def test_the_route_is_built_by_the_next_dispatch_and_leads_to_all_listeners(
    bus: GoEvent,
) -> None:
    seen: list[int] = []
    bus.subscribe(lambda event: seen.append(1), Ping)
    await bus.dispatch(Ping())
    late = bus.subscribe(lambda event: seen.append(3), "test.*")
    bus.subscribe(lambda event: seen.append(2), Ping, priority=1)
    seen.clear()
    await bus.dispatch(Ping())
    assert seen == [2, 1, 3]
    late.unregister()
    bus.subscribe(lambda event: seen.append(4), "**")
    seen.clear()
    await bus.dispatch(Ping())
    assert seen == [2, 1, 4]
    assert [listener.completed for listener in bus.snapshot().listeners] == [3, 2, 1]


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("own_names", [True, False])
async def test_a_snapshot_runs_no_function_for_each_listener(
    bus: GoEvent, inline: bool, own_names: bool
) -> None:
    calls: list[int] = []
    events = [Event(f"ad.hoc{n}") if own_names else Ping() for n in range(MANY)]
    for n, event in enumerate(events):
        name = event.event_name
        bus.subscribe(listen_inline if inline else listen, name)
        if n + 1 in (FEW, MANY):
            for each in events if own_names else events[:1]:
                await bus.dispatch(each)
            await bus.wait()
            calls.append(count_calls(bus.snapshot))
            assert (
                sum(one.completed for one in bus.snapshot().listeners)
                == ((FEW, FEW + MANY)[len(calls) - 1])
            )
    # A dispatch has changed the counts of each route.
    routes = MANY - FEW if own_names else 0
    assert calls[1] - calls[0] <= routes


@pytest.mark.parametrize("hub", [False, True])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("inline", [True, False])
async def test_the_building_of_a_route_runs_no_function_for_each_listener(
    inline: bool, same: bool, hub: bool
) -> None:
    config = Config(driver=MemoryDriver(MemoryHub()) if hub else MemoryDriver(), registry=REGISTRY)

    def another() -> Callable[[Ping], object]:
        def function(event: Ping) -> None: ...

        return function

    calls: list[int] = []
    async with GoEvent(config) as bus:
        for n in range(MANY):
            bus.subscribe(
                listen_inline if same else another(), Ping, async_=None if inline else True
            )
            if n + 1 in (FEW, MANY):
                router = bus._router  # pyright: ignore[reportPrivateUsage]
                calls.append(count_calls(partial(router.find, Ping())))
                assert (await bus.dispatch(Ping())).listeners == n + 1
        # The first look-up prepares the search for patterns.
        assert calls[1] <= calls[0]
        await bus.wait()


async def test_each_of_many_equal_functions_is_called_and_fails_for_itself(bus: GoEvent) -> None:
    bus.on_error(ignore_error)
    turns = iter(range(3 * FEW))

    def third(event: Ping | Other) -> None:
        if next(turns) % 3 == 2:
            raise ValueError

    for n in range(FEW):
        bus.subscribe(third, Ping, name=f"listener {n}")
    await bus.dispatch(Ping())
    late = bus.subscribe(third, Ping, "test.other", name="late")
    await bus.dispatch(Ping())
    await bus.dispatch(Other())
    # It had the calls of 80 and of 81.
    assert [one.failed for one in bus.snapshot().listeners] == [
        *[(n % 3 == 2) + ((FEW + n) % 3 == 2) for n in range(FEW)],
        int(2 * FEW % 3 == 2) + int((2 * FEW + 1) % 3 == 2),
    ]
    late.unregister()
    assert [one.completed + one.failed for one in bus.snapshot().listeners] == [2] * FEW
    assert next(turns) == 2 * FEW + 2


async def test_a_slow_dispatch_names_some_of_its_many_listeners(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    bus = GoEvent(Config(slow_after=1e-9, registry=REGISTRY))
    for n in range(MANY):
        bus.subscribe(listen_inline, Ping, name=f"listener {n}")
    async with bus:
        await bus.dispatch(Ping())
    messages = {record.getMessage() for record in caplog.records if "held the" in record.msg}
    assert messages
    for message in messages:
        assert message.startswith("listener 0 or listener 1 or listener 2 or ")
        assert f" or {MANY - 5} others held the event loop for " in message


async def test_many_full_mailboxes_are_a_short_error(bus: GoEvent) -> None:
    bus.on_error(ignore_error)
    for n in range(MANY):
        bus.subscribe(listen, Ping, name=f"listener {n}", mailbox=1)
    bus.dispatch_nowait(Ping())
    with pytest.raises(trio.WouldBlock, match=r"listener 3, listener 4, 155 others$"):
        bus.dispatch_nowait(Ping())
