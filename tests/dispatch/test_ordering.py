"""Order per key: events of one key run one after another, and delay no other key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import pytest
import trio
from hypothesis import given, settings, strategies as st
from tests.support.checks import adds_up, ignore_error
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Config,
    DispatchHandle,
    Event,
    EventRegistry,
    GoEvent,
    Ledger,
    MailboxFull,
    Retry,
    current_delivery,
)
from goevent._kernel.actor import Lane
from goevent._kernel.mailbox import KeyedMailbox
from goevent._options.options import Overflow

REGISTRY = EventRegistry()


class Job(Event, name="ordering.job", registry=REGISTRY):
    n: int = 0
    key: Any = 0
    seconds: float = 0
    failures: int = 0


class Order(Event, name="ordering.order", key="customer", registry=REGISTRY):
    n: int = 0
    customer: Any = 0


class Other(Event, name="ordering.other", registry=REGISTRY):
    n: int = 0
    key: Any = 0


def the_customer(event: Any) -> Any:
    return event.customer


def raises(event: Any) -> Any:
    return 1 // (event.n - 1)


def cannot_be_hashed(event: Any) -> Any:
    return [] if event.n == 1 else event.n


def is_missing(event: Any) -> Any:
    return event.missing if event.n == 1 else event.n


class Sequences:
    """A listener that records the order per key, and every overlap of two events of one key."""

    def __init__(self, key: Callable[[Any], Any] = lambda event: event.key) -> None:
        self.by_key: dict[Any, list[int]] = {}
        self.running: Counter[Any] = Counter()
        self.most = 0
        self.overlaps = 0
        self._key = key

    async def __call__(self, event: Any) -> None:
        key = self._key(event)
        self.overlaps += self.running[key] > 0
        self.running[key] += 1
        self.most = max(self.most, sum(self.running.values()))
        self.by_key.setdefault(key, []).append(event.n)
        try:
            await trio.sleep(getattr(event, "seconds", 0.1))
            if current_delivery().attempt <= getattr(event, "failures", 0):
                raise ValueError
        finally:
            self.running[key] -= 1


def mailbox_of(bus: GoEvent) -> KeyedMailbox[Lane]:
    (actor,) = bus._router.listeners()  # pyright: ignore[reportPrivateUsage]
    mail = actor.mail
    assert isinstance(mail, KeyedMailbox)
    return cast("KeyedMailbox[Lane]", mail)


def is_empty(mail: KeyedMailbox[Lane]) -> bool:
    """Tell whether the mailbox holds no event and no key."""
    return not (mail._keys or mail._order or len(mail))  # pyright: ignore[reportPrivateUsage]


# -- by example


async def test_a_slow_key_delays_no_other_key(bus: GoEvent, autojump_clock: MockClock) -> None:
    sequences = Sequences()
    bus.subscribe(sequences, Job, ordering_key="key", concurrency=2)
    began = trio.current_time()
    for n in range(10):
        bus.dispatch_nowait(Job(n, key="slow", seconds=10))
    quick = [bus.dispatch_nowait(Job(n, key=n % 3, seconds=1)) for n in range(9)]
    for handle in quick:
        await handle.wait()
    assert trio.current_time() == began + 9
    assert sequences.by_key == {"slow": [0], 0: [0, 3, 6], 1: [1, 4, 7], 2: [2, 5, 8]}
    await bus.wait()
    assert trio.current_time() == began + 100
    assert sequences.by_key["slow"] == list(range(10))
    assert not sequences.overlaps


async def test_without_a_concurrency_many_keys_run_at_once(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    sequences = Sequences()
    bus.subscribe(sequences, Job, ordering_key="key")
    began = trio.current_time()
    for n in range(200):
        bus.dispatch_nowait(Job(n, key=n % 50, seconds=1))
    await bus.wait()
    assert trio.current_time() == began + 4
    assert sequences.most == 50
    assert not sequences.overlaps


async def test_events_of_one_key_run_one_at_a_time(bus: GoEvent, autojump_clock: MockClock) -> None:
    sequences = Sequences()
    bus.subscribe(sequences, Job, ordering_key=lambda event: None, concurrency=10)
    for n in range(20):
        bus.dispatch_nowait(Job(n, seconds=0.1 * (n % 3)))
    await bus.wait()
    assert sequences.by_key == {0: list(range(20))}
    assert sequences.most == 1


@pytest.mark.parametrize("key", [None, "customer", the_customer])
async def test_the_key_of_the_class_is_the_default(
    bus: GoEvent, autojump_clock: MockClock, key: Any
) -> None:
    sequences = Sequences(lambda event: event.customer)
    bus.subscribe(sequences, Order, concurrency=8, ordering_key=key)
    for n in range(16):
        bus.dispatch_nowait(Order(n, customer=n % 4))
    await bus.wait()
    assert sequences.most == 4
    assert not sequences.overlaps


async def test_false_turns_the_order_off(bus: GoEvent, autojump_clock: MockClock) -> None:
    sequences = Sequences(lambda event: event.customer)
    bus.subscribe(sequences, Order, concurrency=8, ordering_key=False)
    for n in range(8):
        bus.dispatch_nowait(Order(n, customer=1))
    await bus.wait()
    assert sequences.most == 8


async def test_events_of_a_class_without_a_key_have_no_order(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    """One class of the two has a key."""
    sequences = Sequences(lambda event: getattr(event, "customer", "none"))
    bus.subscribe(sequences, Order, Other, concurrency=8)
    for n in range(4):
        bus.dispatch_nowait(Other(n))
        bus.dispatch_nowait(Order(n, customer=1))
    await wait_all_tasks_blocked()
    assert sequences.running == {"none": 4, 1: 1}
    await bus.wait()


async def test_the_key_of_an_ad_hoc_event_is_in_its_payload(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    running: Counter[str] = Counter()
    seen: dict[str, list[int]] = {}
    most = 0

    @bus.listener("ordering.ad_hoc", ordering_key="user")
    async def listen(event: Event) -> None:
        nonlocal most
        payload = event.payload()
        running[payload["user"]] += 1
        assert running[payload["user"]] == 1
        most = max(most, sum(running.values()))
        seen.setdefault(payload["user"], []).append(payload["n"])
        await trio.sleep(1)
        running[payload["user"]] -= 1

    for n in range(9):
        bus.dispatch_nowait(Event("ordering.ad_hoc", {"user": "abc"[n % 3], "n": n}))
    missing = bus.dispatch_nowait(Event("ordering.ad_hoc", {"n": 9}))
    await bus.wait()
    assert seen == {"a": [0, 3, 6], "b": [1, 4, 7], "c": [2, 5, 8]}
    assert most == 3
    (error,) = missing.errors
    assert isinstance(error.error, KeyError)


# -- keys that are none


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (raises, ZeroDivisionError),
        (cannot_be_hashed, TypeError),
        (is_missing, AttributeError),
    ],
)
async def test_an_event_whose_key_fails_is_one_error_of_the_listener(
    bus: GoEvent, autojump_clock: MockClock, key: Any, kind: type[Exception]
) -> None:
    sequences = Sequences(lambda event: event.n)
    bus.subscribe(sequences, Job, concurrency=2, ordering_key=key, name="keyed")
    others: list[int] = []
    bus.subscribe(lambda event: others.append(event.n), Job, async_=True)
    handles = [bus.dispatch_nowait(Job(n)) for n in range(4)]
    await bus.wait()
    assert sorted(sequences.by_key) == [0, 2, 3]
    assert others == [0, 1, 2, 3]
    assert [len(handle.errors) for handle in handles] == [0, 1, 0, 0]
    (error,) = handles[1].errors
    assert (error.listener, error.outcome) == ("keyed", "failed")
    assert error.reason.startswith("its ordering_key raised")
    assert isinstance(error.error, kind)
    assert bus.snapshot().ledger == Ledger(accepted=8, completed=7, failed=1)
    assert is_empty(mailbox_of_first(bus))


def mailbox_of_first(bus: GoEvent) -> KeyedMailbox[Lane]:
    mail = bus._router.listeners()[0].mail  # pyright: ignore[reportPrivateUsage]
    assert isinstance(mail, KeyedMailbox)
    return cast("KeyedMailbox[Lane]", mail)


class IncomparableKey:
    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError


async def test_a_key_that_cannot_be_compared_fails_its_event_and_not_the_dispatch(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    ran: list[int] = []

    @bus.listener(Job, ordering_key=lambda event: IncomparableKey(), name="keyed")
    async def listen(event: Job) -> None:
        ran.append(event.n)

    handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
    await bus.wait()
    assert ran == [0]
    assert not handles[0].errors
    (error,) = handles[1].errors
    assert isinstance(error.error, ZeroDivisionError)
    assert bus.snapshot().ledger == Ledger(accepted=2, completed=1, failed=1)


async def test_a_missing_attribute_fails_every_event(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    sequences = Sequences()
    bus.subscribe(sequences, Job, ordering_key="no_such_attribute")
    handle = await bus.dispatch(Job())
    await handle.wait()
    (error,) = handle.errors
    assert isinstance(error.error, AttributeError)
    assert not sequences.by_key


async def test_an_event_without_key_takes_no_room(bus: GoEvent, autojump_clock: MockClock) -> None:
    sequences = Sequences()

    def key(event: Job) -> Any:
        if event.n > 2:
            raise ValueError
        return event.key

    bus.subscribe(sequences, Job, concurrency=2, ordering_key=key, mailbox=1)
    bus.dispatch_nowait(Job(0, seconds=1))
    await wait_all_tasks_blocked()
    bus.dispatch_nowait(Job(1))
    async with trio.open_nursery() as nursery:  # they wait for room all the same
        for n in (3, 4, 2, 5):
            nursery.start_soon(bus.dispatch, Job(n))
            await wait_all_tasks_blocked()
    await bus.wait()
    assert sequences.by_key == {0: [0, 1, 2]}
    assert bus.error_count == len(bus.errors) == 3


# -- memory


async def test_keys_are_forgotten_with_their_last_event(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    bus.subscribe(Sequences(), Job, ordering_key="key", mailbox=10_000)
    for n in range(3000):
        bus.dispatch_nowait(Job(n, key=n % 1500))
    mail = mailbox_of(bus)
    assert len(mail) == 3000
    await bus.wait()
    await wait_all_tasks_blocked()
    assert is_empty(mail)


@pytest.mark.parametrize("end", ["unregister", "close", "unregister the event"])
async def test_keys_are_forgotten_when_the_bus_ends(
    bus: GoEvent, autojump_clock: MockClock, end: str
) -> None:
    bus.on_error(ignore_error)
    registration = bus.subscribe(Sequences(), Job, concurrency=3, ordering_key="key")
    for n in range(30):
        bus.dispatch_nowait(Job(n, key=n % 5, seconds=1))
    await wait_all_tasks_blocked()
    mail = mailbox_of(bus)
    assert len(mail) == 27
    if end == "close":
        await bus.close(timeout=2)
    elif end == "unregister":
        registration.unregister()
    else:
        bus.unregister_listeners_for_event(Job)
    await bus.wait()
    await wait_all_tasks_blocked()
    assert is_empty(mail)


# -- unregistering


async def test_the_key_function_is_called_once_for_each_event(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    asked: list[int] = []

    def key(event: Job | Other) -> object:
        asked.append(event.n)
        return event.key

    sequences = Sequences()
    bus.subscribe(sequences, Job, Other, concurrency=2, ordering_key=key)
    for n in range(10):
        bus.dispatch_nowait((Job if n % 2 else Other)(n, key=n % 3))
    await wait_all_tasks_blocked()
    bus.unregister_listeners_for_event(Other)
    await bus.wait()
    assert asked == list(range(10))
    assert not sequences.overlaps
    assert bus.error_count == len(bus.errors) == 3


async def test_unregistering_one_event_uses_the_keys_that_were_computed_before(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    shift = 0
    sequences = Sequences(lambda event: event.n)
    bus.subscribe(
        sequences, Job, Other, concurrency=4, ordering_key=lambda event: event.key + shift
    )
    for n in range(6):
        bus.dispatch_nowait((Job if n % 2 else Other)(n, key=0))
    await wait_all_tasks_blocked()
    shift = 1
    bus.unregister_listeners_for_event(Other)
    with trio.fail_after(50):
        await bus.wait()
    assert list(sequences.by_key) == [0, 1, 3, 5]
    assert sequences.most == 1
    assert bus.error_count == len(bus.errors) == 2


# -- at random


@dataclass(frozen=True)
class Step:
    key: int
    tenths: int
    failures: int
    pause: int


STEPS = st.lists(
    st.builds(
        Step,
        key=st.integers(0, 4),
        tenths=st.sampled_from([0, 0, 1, 2, 7]),
        failures=st.sampled_from([0, 0, 0, 1, 2, 9]),
        pause=st.sampled_from([0, 0, 0, 1, 5]),
    ),
    min_size=1,
    max_size=25,
)


def run(program: Callable[[], Any]) -> None:
    trio.run(program, clock=MockClock(autojump_threshold=0))


@settings(max_examples=250, deadline=None)
@given(
    steps=STEPS,
    concurrency=st.integers(2, 5),
    capacity=st.sampled_from([1, 2, 5, 1024]),
    attempts=st.sampled_from([None, 2, 3]),
)
def test_every_key_keeps_its_order_under_random_steps(
    steps: list[Step], concurrency: int, capacity: int, attempts: int | None
) -> None:
    async def program() -> None:
        bus = GoEvent(Config(registry=REGISTRY))
        bus.on_error(ignore_error)
        sequences = Sequences()
        retry = None if attempts is None else Retry(attempts=attempts, backoff=0.3)
        handles: list[DispatchHandle] = []
        with trio.fail_after(1000):
            async with bus:
                bus.subscribe(
                    sequences,
                    Job,
                    concurrency=concurrency,
                    ordering_key="key",
                    mailbox=capacity,
                    retry=retry,
                )
                for n, step in enumerate(steps):
                    job = Job(n, step.key, step.tenths / 10, step.failures)
                    handles.append(await bus.dispatch(job))
                    if step.pause:
                        await trio.sleep(step.pause / 10)
                await bus.wait()
                assert is_empty(mailbox_of(bus))
        expected: dict[int, list[int]] = {}
        for n, step in enumerate(steps):
            tries = min(step.failures + 1, attempts or 1)
            expected.setdefault(step.key, []).extend([n] * tries)
            assert len(handles[n].errors) == (step.failures >= (attempts or 1))
            assert all(error.attempts == tries for error in handles[n].errors)
        assert sequences.by_key == expected
        assert not sequences.overlaps
        assert sequences.most <= concurrency
        failed = sum(bool(handle.errors) for handle in handles)
        total = len(steps)
        assert bus.snapshot().ledger == Ledger(total, total - failed, failed)

    run(program)


@settings(max_examples=250, deadline=None)
@given(
    steps=STEPS,
    concurrency=st.integers(2, 4),
    capacity=st.sampled_from([1, 2, 5]),
    overflow=st.sampled_from(["error", "drop_new", "drop_old"]),
    end=st.sampled_from(["close", "abandon", "unregister", "event", "cancel"]),
    moment=st.integers(0, 25),
    keyed=st.booleans(),
)
def test_every_event_has_one_outcome_at_any_moment_of_the_end(
    steps: list[Step],
    concurrency: int,
    capacity: int,
    overflow: Overflow,
    end: str,
    moment: int,
    keyed: bool,
) -> None:
    async def program() -> None:
        bus = GoEvent(Config(registry=REGISTRY))
        bus.on_error(ignore_error)
        sequences = Sequences()
        handles: list[DispatchHandle] = []
        with trio.fail_after(1000), trio.CancelScope() as scope:
            async with bus:
                registration = bus.subscribe(
                    sequences,
                    Job,
                    concurrency=concurrency,
                    ordering_key="key" if keyed else False,
                    mailbox=capacity,
                    overflow=overflow,
                    retry=Retry(attempts=2, backoff=0.3),
                )
                for n, step in enumerate(steps):
                    if n == moment:
                        if end == "unregister":
                            registration.unregister()
                        elif end == "event":
                            bus.unregister_listeners_for_event(Job)
                        elif end == "cancel":
                            scope.cancel()
                        else:
                            await bus.close(0.5 if end == "close" else 0)
                            break
                    job = Job(n, step.key, step.tenths / 10, step.failures)
                    with suppress(MailboxFull):
                        handles.append(bus.dispatch_nowait(job))
                    await trio.sleep(step.pause / 10)
        ledger = bus.snapshot().ledger
        assert adds_up(ledger)
        assert all(handle._left == 0 for handle in handles)  # pyright: ignore[reportPrivateUsage]
        errors = [error for handle in handles for error in handle.errors]
        assert max((len(handle.errors) for handle in handles), default=0) <= 1
        outcomes = Counter(error.outcome for error in errors)
        assert outcomes["failed"] == ledger.failed
        assert outcomes["dropped"] == ledger.dropped
        assert outcomes["abandoned"] == ledger.abandoned
        assert sequences.most <= concurrency
        if keyed:
            assert not sequences.overlaps
            for numbers in sequences.by_key.values():
                assert numbers == sorted(numbers)

    run(program)
