"""The middleware that comes with goevent: LogEvents, Deduplicate and RateLimit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Config,
    Delivery,
    DispatchHandle,
    Event,
    EventRegistry,
    EventVetoed,
    GoEvent,
    Ledger,
    ListenerOptions,
    MailboxFull,
    MemoryDriver,
    MemoryHub,
    Middleware,
    Retry,
    Veto,
    register_event_type,
)
from goevent._handle import HandleDetails
from goevent.middleware import Deduplicate, LogEvents, RateLimit

REGISTRY = EventRegistry()
LOGGER = logging.getLogger("tests.shipped")


class Paid(Event, name="shipped.paid", registry=REGISTRY):
    order: str = "A"


class Sent(Event, name="shipped.sent", registry=REGISTRY):
    order: str = "A"


class Plain(Event, name="shipped.plain", registry=REGISTRY):
    pass


def make(*middleware: Middleware, **config: Any) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, middleware=middleware, **config))


def reasons(handle: DispatchHandle) -> list[str]:
    return [error.reason for error in handle.errors]


# -- LogEvents


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """The records on LOGGER, at all levels."""
    kept: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record)

    handler = Keep()
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False
    yield kept
    LOGGER.removeHandler(handler)


def facts(record: logging.LogRecord, *names: str) -> list[Any]:
    return [getattr(record, name) for name in names]


async def test_a_dispatch_and_each_run_are_logged_when_they_have_ended(
    records: list[logging.LogRecord], autojump_clock: MockClock
) -> None:
    async with make(LogEvents(logger=LOGGER)) as bus:

        @bus.listener(Paid, name="book")
        async def book(event: Paid) -> None:
            await trio.sleep(2)

        @bus.listener(Paid, name="count")
        def count(event: Paid) -> None: ...

        handle = await bus.dispatch(Paid())
        await handle.wait()
    names = (
        *("stage", "event_name", "listener", "handle_id", "attempt", "duration", "outcome"),
        *("correlation_id", "causation_id"),
    )
    paid = "shipped.paid"
    assert [facts(record, *names) for record in records] == [
        ["call", paid, "count", handle.id, 1, 0.0, "completed", handle.id, ""],
        ["dispatch", paid, None, handle.id, None, 0.0, "completed", handle.id, ""],
        ["call", paid, "book", handle.id, 1, 2.0, "completed", handle.id, ""],
    ]
    assert {record.levelno for record in records} == {logging.DEBUG}
    assert [record.getMessage() for record in records] == [
        "shipped.paid: count completed in 0.000 s",
        "shipped.paid: dispatch completed in 0.000 s",
        "shipped.paid: book completed in 2.000 s",
    ]


async def test_a_failed_attempt_is_logged_as_a_warning_without_a_traceback(
    records: list[logging.LogRecord], autojump_clock: MockClock
) -> None:
    async with make(LogEvents(logger=LOGGER, level=logging.INFO)) as bus:

        @bus.listener(Paid, name="book", retry=Retry(attempts=3, backoff=1, jitter=0))
        async def book(event: Paid) -> None:
            if len(records) < 3:
                await trio.sleep(0.5)
                raise ConnectionError("no answer")

        handle = await bus.dispatch(Paid())
        await handle.wait()
    runs = [record for record in records if record.stage == "call"]  # type: ignore[attr-defined]
    names = ("levelname", "attempt", "duration", "outcome", "reason", "exc_info")
    failed = "ConnectionError: no answer"
    assert [facts(record, *names) for record in runs] == [
        ["WARNING", 1, 0.5, "failed", failed, None],
        ["WARNING", 2, 0.5, "failed", failed, None],
        ["INFO", 3, 0.0, "completed", "", None],
    ]
    assert runs[1].getMessage() == f"shipped.paid: book failed in 0.500 s (attempt 2): {failed}"


async def test_failures_keep_a_level_above_warning(records: list[logging.LogRecord]) -> None:
    async with make(LogEvents(logger=LOGGER, level=logging.CRITICAL)) as bus:

        @bus.listener(Paid)
        def fail(event: Paid) -> None:
            raise ValueError

        assert len((await bus.dispatch(Paid())).errors) == 1
    assert [record.levelno for record in records] == [logging.CRITICAL, logging.CRITICAL]


async def test_a_veto_is_logged_with_its_reason_wherever_it_is_raised(
    records: list[logging.LogRecord],
) -> None:
    class Gate:
        def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
            if handle.event_name == "shipped.sent":
                raise Veto("closed")
            yield

        def around_call(self, delivery: Delivery, /) -> Iterator[None]:
            raise Veto("not now")
            yield

    async with make(LogEvents(logger=LOGGER), Gate()) as bus:
        bus.subscribe(print, Paid, Sent, name="it")
        await bus.dispatch(Paid())
        await bus.dispatch(Sent())
    assert [facts(record, "levelname", "stage", "outcome", "reason") for record in records] == [
        ["DEBUG", "call", "vetoed", "not now"],
        ["DEBUG", "dispatch", "completed", ""],
        ["DEBUG", "dispatch", "vetoed", "closed"],
    ]


async def test_a_run_interrupted_by_the_end_of_the_bus_is_logged_as_cancelled(
    records: list[logging.LogRecord], autojump_clock: MockClock
) -> None:
    async with make(LogEvents(logger=LOGGER)) as bus:

        @bus.listener(Paid, name="book")
        async def book(event: Paid) -> None:
            await trio.sleep_forever()

        handle = await bus.dispatch(Paid())
        await bus.close(timeout=3)
        assert len(handle.errors) == 1
    assert facts(records[-1], "listener", "outcome", "reason") == ["book", "cancelled", ""]
    assert facts(records[-1], "duration", "levelno") == [3.0, logging.DEBUG]


async def test_a_dispatch_that_is_refused_is_logged_as_failed(
    records: list[logging.LogRecord],
) -> None:
    async with make(LogEvents(logger=LOGGER)) as bus:

        @bus.listener(Paid, mailbox=1, overflow="error")
        async def book(event: Paid) -> None: ...

        bus.dispatch_nowait(Paid())
        with pytest.raises(MailboxFull):
            bus.dispatch_nowait(Paid())
    assert facts(records[1], "stage", "outcome", "levelname") == ["dispatch", "failed", "WARNING"]
    assert "MailboxFull" in records[1].getMessage()


async def test_an_arrival_from_another_bus_is_logged(records: list[logging.LogRecord]) -> None:
    hub = MemoryHub()
    here = make(driver=MemoryDriver(hub))
    there = make(LogEvents(logger=LOGGER), driver=MemoryDriver(hub))
    arrived = trio.Event()

    @there.listener(Paid, name="book")
    async def book(event: Paid) -> None:
        arrived.set()

    async with here, there:
        await here.dispatch(Paid())
        with trio.fail_after(HANG_SECONDS):
            await arrived.wait()
    assert [facts(record, "stage", "listener", "outcome") for record in records] == [
        ["delivery", None, "completed"],
        ["call", "book", "completed"],
    ]
    assert len({record.handle_id for record in records}) == 1  # type: ignore[attr-defined]


@register_event_type(name="shipped.foreign", registry=REGISTRY)
@dataclass(frozen=True)
class DataclassEvent:
    order: str


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        (Paid("B"), {"order": "B"}),
        (DataclassEvent("C"), {"order": "C"}),
        (Event("shipped.adhoc", {"order": "D"}), {"order": "D"}),
    ],
)
async def test_the_payload_is_logged_on_request_only(
    event: Event, payload: dict[str, Any], records: list[logging.LogRecord]
) -> None:
    for asked in (False, True):
        async with make(LogEvents(logger=LOGGER, payload=asked)) as bus:
            await bus.dispatch(event)
    plain, full = records
    assert not hasattr(plain, "payload")
    assert repr(payload) not in plain.getMessage()
    assert full.payload == payload  # type: ignore[attr-defined]
    assert full.getMessage().endswith(f": {payload!r}")


class ErrorWithoutText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("level", [logging.WARNING, logging.CRITICAL])
async def test_no_record_is_built_for_a_disabled_level(
    level: int, records: list[logging.LogRecord]
) -> None:
    async with make(LogEvents(logger=LOGGER, payload=True)) as bus:
        LOGGER.setLevel(level)

        @bus.listener(Paid)
        def ok(event: Paid) -> None: ...

        handle = await bus.dispatch(Paid())
        # An id is drawn on first use, and only the log record uses it.
        details = handle._details  # pyright: ignore[reportPrivateUsage]
        assert not isinstance(details, HandleDetails) or not details.id
    assert records == []


async def test_failures_are_logged_when_the_level_of_other_outcomes_is_disabled(
    records: list[logging.LogRecord],
) -> None:
    async with make(LogEvents(logger=LOGGER)) as bus:
        LOGGER.setLevel(logging.WARNING)

        @bus.listener(Paid)
        def fail(event: Paid) -> None:
            raise ValueError("no")

        assert len((await bus.dispatch(Paid())).errors) == 1
    assert [facts(record, "stage", "outcome") for record in records] == [["call", "failed"]]


async def test_an_error_whose_text_raises_is_logged_and_stays_the_listeners(
    records: list[logging.LogRecord],
) -> None:
    async with make(LogEvents(logger=LOGGER)) as bus:

        @bus.listener(Paid, name="it")
        def fail(event: Paid) -> None:
            raise ErrorWithoutText

        (error,) = (await bus.dispatch(Paid())).errors
        assert error.listener == "it"
        assert isinstance(error.error, ErrorWithoutText)
    assert "its __str__ raised" in records[0].reason  # type: ignore[attr-defined]


def test_the_default_logger_is_below_goevent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with make(LogEvents(level=logging.INFO)) as bus:
            await bus.dispatch(Paid())

    with caplog.at_level(logging.INFO, "goevent.middleware"):
        trio.run(main)
    assert [record.name for record in caplog.records] == ["goevent.middleware"]


def test_a_level_is_a_number() -> None:
    with pytest.raises(TypeError, match=r"logging\.INFO"):
        LogEvents(level="INFO")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


# -- Deduplicate


async def test_a_second_event_with_the_same_key_is_vetoed_with_the_key_in_the_reason() -> None:
    seen: list[Event] = []
    async with make(Deduplicate("order")) as bus:
        bus.subscribe(seen.append, Paid, Sent)
        for event in (Paid("A"), Paid("B"), Sent("A")):
            assert (await bus.dispatch(event)).errors == ()
        for again in (await bus.dispatch(Paid("A")), bus.dispatch_nowait(Sent("A"))):
            (error,) = again.errors
            assert type(error) is EventVetoed
            assert error.listener == "Deduplicate"
            assert "'A'" in error.reason
        assert bus.errors == ()
        ledger = await bus.close()
    assert seen == [Paid("A"), Paid("B"), Sent("A")]
    assert ledger == Ledger(accepted=3, completed=3)


async def test_a_key_may_be_a_function_and_none_means_no_key() -> None:
    seen: list[Event] = []

    def key(event: Paid) -> str | None:
        return event.order.lower() or None

    async with make(Deduplicate(key)) as bus:
        bus.subscribe(seen.append, Paid)
        for order in ("A", "a", "", "", "B"):
            await bus.dispatch(Paid(order))
    assert seen == [Paid("A"), Paid(""), Paid(""), Paid("B")]


async def test_events_without_the_attribute_are_never_duplicates() -> None:
    seen: list[Event] = []
    async with make(Deduplicate("order")) as bus:
        bus.subscribe(seen.append, Plain, "shipped.adhoc")
        for _ in range(2):
            await bus.dispatch(Plain())
            await bus.dispatch(Event("shipped.adhoc", {"other": 1}))
    assert len(seen) == 4


async def test_events_of_all_kinds_have_keys() -> None:
    seen: list[object] = []
    async with make(Deduplicate("order")) as bus:
        bus.subscribe(seen.append, "shipped.adhoc", DataclassEvent)
        for order in ("A", "A", "B"):
            await bus.dispatch(Event("shipped.adhoc", {"order": order}))
            await bus.dispatch(DataclassEvent(order))
    assert len(seen) == 4


async def test_the_window_keeps_the_keys_that_were_seen_last() -> None:
    seen: list[str] = []
    async with make(Deduplicate("order", window=2)) as bus:

        @bus.listener(Paid)
        def note(event: Paid) -> None:
            seen.append(event.order)

        for order in "ABACAB":
            await bus.dispatch(Paid(order))
    # The second A makes B the oldest, which C pushes out.
    assert seen == ["A", "B", "C", "B"]


async def test_a_key_may_come_again_after_its_time(autojump_clock: MockClock) -> None:
    times: list[float] = []
    async with make(Deduplicate("order", ttl=10)) as bus:

        @bus.listener(Paid)
        def note(event: Paid) -> None:
            times.append(trio.current_time() - start)

        start = trio.current_time()
        for _ in range(5):
            await bus.dispatch(Paid())
            await trio.sleep(4)
    # A duplicate does not extend the time to live: otherwise the third would be vetoed too.
    assert times == [0, 12]


async def test_a_key_that_came_again_after_its_time_is_the_newest(
    autojump_clock: MockClock,
) -> None:
    async with make(Deduplicate("order", window=2, ttl=10)) as bus:
        for order in "AB":
            await bus.dispatch(Paid(order))
        await trio.sleep(10)
        for order in "AC":  # C displaces B and not A
            assert reasons(await bus.dispatch(Paid(order))) == []
        assert len(reasons(await bus.dispatch(Paid("A")))) == 1


def test_a_time_to_live_by_the_clock_of_an_earlier_run_is_over() -> None:
    async def main(seconds: float) -> None:
        await trio.sleep(seconds)
        async with bus:
            await bus.dispatch(Paid())

    seen: list[Event] = []
    bus = make(Deduplicate("order", ttl=10))
    bus.subscribe(seen.append, Paid)
    for seconds in (1000, 0):
        trio.run(main, seconds, clock=MockClock(autojump_threshold=0))
    assert len(seen) == 2


async def test_an_event_for_which_there_was_no_room_may_come_again() -> None:
    seen: list[str] = []
    async with make(Deduplicate("order")) as bus:

        @bus.listener(Paid, mailbox=1)
        async def note(event: Paid) -> None:
            seen.append(event.order)

        bus.dispatch_nowait(Paid("A"))
        with pytest.raises(trio.WouldBlock):
            bus.dispatch_nowait(Paid("B"))
        await bus.wait()
        assert reasons(bus.dispatch_nowait(Paid("B"))) == []
        await bus.wait()
        assert len(bus.dispatch_nowait(Paid("B")).errors) == 1
    assert seen == ["A", "B"]


async def test_an_event_that_a_full_mailbox_refused_may_come_again() -> None:
    seen: list[str] = []
    async with make(Deduplicate("order")) as bus:

        @bus.listener(Paid, mailbox=1, overflow="error")
        async def note(event: Paid) -> None:
            seen.append(event.order)

        bus.dispatch_nowait(Paid("A"))
        with pytest.raises(MailboxFull):
            bus.dispatch_nowait(Paid("B"))
        await bus.wait()
        assert reasons(await bus.dispatch(Paid("B"))) == []
    assert seen == ["A", "B"]


async def test_an_event_whose_dispatch_was_cancelled_before_it_went_may_come_again() -> None:
    seen: list[str] = []
    go = trio.Event()
    async with make(Deduplicate("order")) as bus:

        @bus.listener(Paid, mailbox=1)
        async def note(event: Paid) -> None:
            await go.wait()
            seen.append(event.order)

        for order in ("in progress", "in the mailbox"):
            await bus.dispatch(Paid(order))
            await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.dispatch, Paid("B"))
            await wait_all_tasks_blocked()
            # An event whose dispatch is in progress is remembered.
            assert len(bus.dispatch_nowait(Paid("B")).errors) == 1
            nursery.cancel_scope.cancel()
        go.set()
        await bus.wait()
        assert reasons(await bus.dispatch(Paid("B"))) == []
    assert seen == ["in progress", "in the mailbox", "B"]


async def test_an_event_that_other_middleware_vetoed_may_come_again() -> None:
    class Gate:
        closed = True

        def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
            if self.closed:
                raise Veto("closed")
            yield

    seen: list[Event] = []
    gate = Gate()
    async with make(Deduplicate("order"), gate) as bus:
        bus.subscribe(seen.append, Paid)
        assert reasons(await bus.dispatch(Paid())) == ["closed"]
        gate.closed = False
        assert reasons(await bus.dispatch(Paid())) == []
    assert seen == [Paid()]


async def test_an_event_whose_listener_failed_may_not_come_again() -> None:
    runs: list[Event] = []
    async with make(Deduplicate("order")) as bus:

        @bus.listener(Paid)
        def fail(event: Paid) -> None:
            runs.append(event)
            raise ValueError

        assert len((await bus.dispatch(Paid())).errors) == 1
        (error,) = (await bus.dispatch(Paid())).errors
        assert isinstance(error, EventVetoed)
    assert len(runs) == 1


async def test_a_listener_that_dispatches_its_own_event_again_is_refused() -> None:
    runs: list[Event] = []
    async with make(Deduplicate("order")) as bus:

        @bus.listener(Paid)
        def again(event: Paid) -> None:
            runs.append(event)
            assert len(bus.dispatch_nowait(event).errors) == 1

        assert reasons(await bus.dispatch(Paid())) == []
    assert len(runs) == 1


async def test_a_failed_dispatch_does_not_remove_the_entry_of_a_later_one() -> None:
    class Fail:
        def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
            event = handle.event
            if handle.headers.get("nested") or not fail:
                yield
                return
            fail.clear()
            # With a window of one key, these two displace the outer event's key and reuse it.
            for order in ("other", "A"):
                assert isinstance(event, Paid)
                bus.dispatch_nowait(Paid(order))
            raise ValueError
            yield

    fail = [True]
    seen: list[Event] = []
    async with make(Deduplicate("order", window=1), Fail()) as bus:
        bus.subscribe(seen.append, Paid)
        assert len((await bus.dispatch(Paid("A"))).errors) == 1
        assert len((await bus.dispatch(Paid("A"))).errors) == 1
        assert len(bus.errors) == 1
    assert seen == [Paid("other"), Paid("A")]


async def test_dispatches_and_arrivals_are_duplicates_of_each_other() -> None:
    hub = MemoryHub()
    here = make(driver=MemoryDriver(hub))
    there = make(Deduplicate("order"), driver=MemoryDriver(hub))
    seen: list[str] = []

    @there.listener(Paid)
    def note(event: Paid) -> None:
        seen.append(event.order)

    async with here, there:
        await there.dispatch(Paid("A"))
        for order in ("A", "B", "B", "C"):
            await here.dispatch(Paid(order))
        with trio.fail_after(HANG_SECONDS):
            while seen[-1] != "C":
                await wait_all_tasks_blocked()
        assert len((await there.dispatch(Paid("B"))).errors) == 1
        assert there.errors == ()
    assert seen == ["A", "B", "C"]


async def test_a_key_that_cannot_be_found_fails_the_dispatch_and_names_the_middleware() -> None:
    seen: list[Event] = []

    def key(event: Paid) -> Any:
        return [event.order]

    async with make(Deduplicate(key)) as bus:
        bus.subscribe(seen.append, Paid)
        (error,) = (await bus.dispatch(Paid())).errors
        assert error.listener == "Deduplicate"
        assert "unhashable" in error.reason
    assert seen == []


async def test_a_long_key_is_cut_short_in_the_reason() -> None:
    async with make(Deduplicate("order")) as bus:
        await bus.dispatch(Paid("x" * 10_000))
        (reason,) = reasons(await bus.dispatch(Paid("x" * 10_000)))
    assert len(reason) < 100


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        ({"key": 3}, TypeError, "key must be"),
        ({"window": 0}, ValueError, "window must be at least 1"),
        ({"window": 1.5}, TypeError, "window must be a number"),
        ({"window": True}, TypeError, "window must be a number"),
        ({"ttl": 0}, ValueError, "ttl must be more than 0"),
    ],
)
def test_deduplication_refuses_invalid_settings(
    arguments: dict[str, Any], error: type[Exception], why: str
) -> None:
    settings: dict[str, Any] = {"key": "order", **arguments}
    with pytest.raises(error, match=why):
        Deduplicate(**settings)


def test_deduplication_is_refused_as_middleware_of_a_listener() -> None:
    with pytest.raises(TypeError, match=r"around_call.*Config\.middleware"):
        ListenerOptions(middleware=(Deduplicate("order"),))


# -- RateLimit


def watch(times: list[float], start: float) -> Callable[[Event], Any]:
    """Return a listener that records the times of its runs."""

    async def run(event: Event) -> None:
        times.append(trio.current_time() - start)

    return run


async def test_a_listener_runs_a_burst_at_once_and_then_at_even_intervals(
    autojump_clock: MockClock,
) -> None:
    times: list[float] = []
    async with make() as bus:
        limit = RateLimit(4, per=2, burst=3)
        bus.subscribe(watch(times, trio.current_time()), Paid, middleware=(limit,))
        for _ in range(6):
            await bus.dispatch(Paid())
        await bus.wait()
        assert times == [0, 0, 0, 0.5, 1, 1.5]
        # After 0.75 s it has one and a half tokens, after 60 s no more than three.
        for pause, more in ((0.75, [2.25, 2.5]), (60, [62.5, 62.5, 62.5, 63.0])):
            await trio.sleep(pause)
            times.clear()
            for _ in more:
                await bus.dispatch(Paid())
            await bus.wait()
            assert times == more
        assert bus.errors == ()


@pytest.mark.parametrize(("rate", "first"), [(3, [0, 0, 0]), (0.5, [0, 2, 4]), (2.5, [0, 0, 0.4])])
async def test_a_burst_is_as_large_as_the_rate_unless_told_otherwise(
    rate: float, first: list[float], autojump_clock: MockClock
) -> None:
    times: list[float] = []
    async with make(RateLimit(rate)) as bus:
        bus.subscribe(watch(times, trio.current_time()), Paid)
        for _ in range(3):
            await bus.dispatch(Paid())
        await bus.wait()
    assert times == pytest.approx(first)


async def test_each_listener_has_its_own_limit(autojump_clock: MockClock) -> None:
    times: dict[str, list[float]] = {"one": [], "two": []}
    async with make(RateLimit(1)) as bus:
        for name, noted in times.items():
            bus.subscribe(watch(noted, trio.current_time()), Paid, name=name)
        for _ in range(3):
            await bus.dispatch(Paid())
        await bus.wait()
    assert times == {"one": [0, 1, 2], "two": [0, 1, 2]}


async def test_listeners_of_one_name_share_a_limit_but_not_those_of_different_objects(
    autojump_clock: MockClock,
) -> None:
    times: list[float] = []
    others: list[float] = []
    async with make() as bus:
        start = trio.current_time()
        api = RateLimit(1)
        for event in (Paid, Sent):
            bus.subscribe(watch(times, start), event, name="api", middleware=(api,))
        bus.subscribe(watch(others, start), Paid, name="api", middleware=(RateLimit(1),))
        await bus.dispatch(Paid())
        await bus.dispatch(Sent())
        await bus.wait()
    assert times == [0, 1]
    assert others == [0]


async def test_waiting_runs_of_a_concurrent_listener_begin_in_order_at_their_times(
    autojump_clock: MockClock,
) -> None:
    runs: list[tuple[str, float]] = []
    async with make() as bus:
        start = trio.current_time()

        @bus.listener(Paid, concurrency=5, middleware=(RateLimit(1),))
        async def run(event: Paid) -> None:
            runs.append((event.order, trio.current_time() - start))
            await trio.sleep(100)

        for order in "ABCD":
            await bus.dispatch(Paid(order))
        await bus.wait()
    assert runs == [("A", 0), ("B", 1), ("C", 2), ("D", 3)]


async def test_no_run_overtakes_a_waiting_one_at_the_moment_of_its_token(
    mock_clock: MockClock,
) -> None:
    runs: list[tuple[str, float]] = []
    async with make(RateLimit(1)) as bus:
        start = trio.current_time()

        @bus.listener(Paid, async_=False)
        async def run(event: Paid) -> None:
            runs.append((event.order, trio.current_time() - start))

        await bus.dispatch(Paid("A"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.dispatch, Paid("B"))
            await wait_all_tasks_blocked()
            await bus.dispatch(Sent())  # yields, so that the next one need not
            mock_clock.jump(1)
            mock_clock.autojump_threshold = 0
            await bus.dispatch(Paid("C"))
    assert runs == [("A", 0), ("B", 1), ("C", 2)]


async def test_a_run_cancelled_while_it_waits_takes_no_token(autojump_clock: MockClock) -> None:
    times: list[float] = []
    async with make(RateLimit(1)) as bus:
        bus.subscribe(watch(times, trio.current_time()), Paid, async_=False)
        await bus.dispatch(Paid())
        async with trio.open_nursery() as nursery:
            hasty = trio.CancelScope(deadline=trio.current_time() + 0.5)

            async def dispatch_hastily() -> None:
                with hasty:
                    await bus.dispatch(Paid())

            nursery.start_soon(dispatch_hastily)
            await wait_all_tasks_blocked()
            for _ in range(2):
                nursery.start_soon(bus.dispatch, Paid())
        assert hasty.cancelled_caught
        assert len(bus.errors) == 1
    assert times == [0, 1, 2]


async def test_excess_is_vetoed_for_inline_listeners_and_those_with_mailboxes(
    autojump_clock: MockClock,
) -> None:
    async with make(RateLimit(2, excess="veto")) as bus:
        bus.subscribe(lambda event: None, Paid, name="inline")
        bus.subscribe(watch([], 0), Paid, name="mailbox")
        handles: list[DispatchHandle] = []
        for _ in range(6):
            handles.append(await bus.dispatch(Paid()))
            await bus.wait()
            await trio.sleep(0.25)
        vetoed = [sorted(error.listener for error in handle.errors) for handle in handles]
        assert vetoed == [[], [], [], ["inline", "mailbox"], [], ["inline", "mailbox"]]
        assert reasons(handles[3]) == ["RateLimit: above the limit of 2 in 1 s"] * 2
        assert isinstance(handles[3].errors[0], EventVetoed)
        assert bus.errors == ()
        ledger = await bus.close()
    assert ledger == Ledger(accepted=12, completed=8, dropped=4)


async def test_a_retry_is_a_run_like_any_other(autojump_clock: MockClock) -> None:
    times: list[float] = []
    async with make(RateLimit(1)) as bus:
        start = trio.current_time()

        @bus.listener(Paid, retry=Retry(attempts=3, backoff=0, jitter=0), timeout=0.5)
        async def fail(event: Paid) -> None:
            times.append(trio.current_time() - start)
            raise ValueError

        handle = await bus.dispatch(Paid())
        await handle.wait()
        (error,) = handle.errors
        assert isinstance(error.error, ValueError)
    assert times == [0, 1, 2]


async def test_waiting_is_refused_around_an_inline_def_when_it_is_registered() -> None:
    async with make(RateLimit(1)) as bus:
        with pytest.raises(ValueError, match=r"RateLimit\.around_call is async"):
            bus.subscribe(lambda event: None, Paid)
        bus.subscribe(lambda event: None, Paid, async_=True)


@pytest.mark.parametrize("rate", [3, 7, 10, 1000, 1e6, 1e7])
async def test_rounding_of_floats_costs_no_run(rate: float, mock_clock: MockClock) -> None:
    burst = 25
    mock_clock.jump(1234.5678)
    async with make(RateLimit(rate, burst=burst, excess="veto")) as bus:
        bus.subscribe(lambda event: None, Paid)
        assert sum(len(bus.dispatch_nowait(Paid()).errors) for _ in range(burst)) == 0
        assert len(bus.dispatch_nowait(Paid()).errors) == 1
        mock_clock.jump(burst / rate)
        assert sum(len(bus.dispatch_nowait(Paid()).errors) for _ in range(burst)) == 0
        assert len(bus.dispatch_nowait(Paid()).errors) == 1


def test_a_limit_survives_the_clock_of_an_earlier_run() -> None:
    async def main(seconds: float) -> None:
        await trio.sleep(seconds)
        start = trio.current_time()
        async with bus:
            for _ in range(2):
                await bus.dispatch(Paid())
            await bus.wait()
        spans.append(trio.current_time() - start)

    spans: list[float] = []
    bus = make(RateLimit(1))
    bus.subscribe(watch([], 0), Paid)
    for seconds in (1000, 0):
        trio.run(main, seconds, clock=MockClock(autojump_threshold=0))
    # In the worst case the bucket counts as just emptied.
    assert spans == [1, 2]


async def test_limits_of_unregistered_listeners_are_forgotten(
    autojump_clock: MockClock,
) -> None:
    limit = RateLimit(1, excess="veto")
    buckets: Callable[[], int] = lambda: len(vars(limit)["_buckets"])  # noqa: E731
    async with make() as bus:

        def come_and_go(number: int) -> None:
            registration = bus.subscribe(
                lambda event: None, Paid, name=f"session {number}", middleware=(limit,)
            )
            assert reasons(bus.dispatch_nowait(Paid())) == []
            registration.unregister()

        for number in range(1000):
            come_and_go(number)
        assert buckets() == 1000
        await trio.sleep(1)
        come_and_go(1000)
        assert buckets() == 1


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        ({"rate": 0}, ValueError, "rate must be more than 0"),
        ({"rate": float("inf")}, ValueError, "rate must be more than 0"),
        ({"rate": "2"}, TypeError, "rate must be a number"),
        ({"per": -1}, ValueError, "per must be more than 0"),
        ({"per": True}, TypeError, "per must be a number"),
        ({"burst": 0}, ValueError, "burst must be at least 1"),
        ({"burst": 1.5}, TypeError, "burst must be a number"),
        ({"excess": "drop"}, ValueError, "excess must be 'wait' or 'veto'"),
    ],
)
def test_a_rate_limit_refuses_invalid_settings(
    arguments: dict[str, Any], error: type[Exception], why: str
) -> None:
    settings: dict[str, Any] = {"rate": 1, **arguments}
    with pytest.raises(error, match=why):
        RateLimit(**settings)
