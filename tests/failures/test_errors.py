"""Failures of listeners: one error each, on the handle and on the bus, and no other effect."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from tests.support.checks import ignore_error
from tests.support.limits import HANG_SECONDS
from trio.testing import wait_all_tasks_blocked

from goevent import Config, DispatchHandle, Event, EventAbandoned, EventError, GoEvent, Ledger


class Boom(Event, name="errors.boom"):
    n: int = 0


class WeaklyReferenced:
    """Something a weak reference can watch; handles have none."""


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class NoText(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


def cyclic_cause() -> Exception:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def cyclic_context() -> Exception:
    error = ValueError("its own context")
    other = KeyError("between")
    error.__context__, other.__context__ = other, error
    return error


def recursion() -> Exception:
    def deeper() -> None:
        deeper()

    try:
        deeper()
    except RecursionError as error:
        return error
    raise AssertionError


KINDS: dict[str, Callable[[], Exception]] = {
    "ValueError": lambda: ValueError("bad"),
    "no message": lambda: Exception(),
    "ExceptionGroup": lambda: ExceptionGroup("two", [ValueError(1), TypeError(2)]),
    "nested group": lambda: ExceptionGroup("o", [ExceptionGroup("i", [OSError(3)])]),
    "unprintable": Unprintable,
    "__str__ returns no str": NoText,
    "cycle of causes": cyclic_cause,
    "cycle of contexts": cyclic_context,
    "RecursionError": recursion,
    "huge message": lambda: ValueError("x" * 1_000_000),
    "StopAsyncIteration": StopAsyncIteration,
    "an EventError": lambda: EventError("other.event", "other", ValueError(1)),
    "TooSlowError": trio.TooSlowError,
    "WouldBlock": trio.WouldBlock,
    "MemoryError": MemoryError,
}
SHAPES = ["inline", "mailbox", "suspending", "def with a mailbox"]


def subscribe_failing(bus: GoEvent, shape: str, make: Callable[[], Exception]) -> None:
    def failing(event: Boom) -> None:
        raise make()

    async def failing_async(event: Boom) -> None:
        raise make()

    async def failing_later(event: Boom) -> None:
        await trio.lowlevel.checkpoint()
        raise make()

    if shape == "inline":
        bus.subscribe(failing, Boom, name="failing")
    elif shape == "mailbox":
        bus.subscribe(failing_async, Boom, name="failing")
    elif shape == "suspending":
        bus.subscribe(failing_later, Boom, name="failing")
    else:
        bus.subscribe(failing, Boom, name="failing", async_=True)


@contextmanager
def logged() -> Generator[list[logging.LogRecord]]:
    """Collect records of the goevent logger; unlike caplog, without keeping tracebacks alive."""
    records: list[logging.LogRecord] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.msg, record.args, record.exc_info = record.getMessage(), None, None
            records.append(record)

    logger, collector = logging.getLogger("goevent"), Collector()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(collector)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield records
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
        logger.propagate = propagate


@pytest.fixture
def log() -> Generator[list[logging.LogRecord]]:
    with logged() as records:
        yield records


# -- one error each


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
async def test_each_exception_becomes_exactly_one_event_error(
    bus: GoEvent, shape: str, kind: str
) -> None:
    raised: list[Exception] = []
    before: list[Boom] = []
    after: list[Boom] = []
    inline: list[Boom] = []

    def make() -> Exception:
        raised.append(KINDS[kind]())
        return raised[-1]

    async def neighbour_before(event: Boom) -> None:
        before.append(event)

    async def neighbour_after(event: Boom) -> None:
        await trio.lowlevel.checkpoint()
        after.append(event)

    bus.subscribe(neighbour_before, Boom)
    subscribe_failing(bus, shape, make)
    bus.subscribe(neighbour_after, Boom)
    bus.subscribe(inline.append, Boom, name="inline bystander")
    with trio.fail_after(HANG_SECONDS):
        handle = await bus.dispatch(Boom(1))
        await handle.wait()

    (error,) = handle.errors
    assert type(error) is EventError
    assert bus.errors == (error,)
    assert bus.error_count == 1
    assert error.__cause__ is error.error is raised[0]
    assert (error.event_name, error.listener) == ("errors.boom", "failing")
    assert type(raised[0]).__name__ in error.reason
    assert isinstance(str(error), str)
    assert before == after == inline == [Boom(1)]

    with trio.fail_after(HANG_SECONDS):  # all listeners still work
        again = await bus.dispatch(Boom(2))
        await again.wait()
    assert len(again.errors) == 1
    assert bus.error_count == 2
    assert before == after == inline == [Boom(1), Boom(2)]


@pytest.mark.parametrize("shape", SHAPES)
async def test_stop_iteration_is_reported_as_python_reports_it(bus: GoEvent, shape: str) -> None:
    subscribe_failing(bus, shape, StopIteration)
    handle = await bus.dispatch(Boom())
    await handle.wait()
    (error,) = handle.errors
    if shape == "inline":
        assert type(error.__cause__) is StopIteration
    else:  # a coroutine cannot raise it
        assert type(error.__cause__) is RuntimeError
        assert type(error.__cause__.__cause__) is StopIteration


async def test_endless_recursion_in_a_listener_is_one_error(bus: GoEvent) -> None:
    def forever(event: Boom) -> None:
        forever(event)

    bus.subscribe(forever, Boom)
    bus.subscribe(forever, Boom, async_=True)
    handle = await bus.dispatch(Boom())
    await handle.wait()
    assert [type(error.__cause__) for error in handle.errors] == [RecursionError, RecursionError]


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_traceback_begins_in_the_listener(bus: GoEvent, shape: str) -> None:
    subscribe_failing(bus, shape, lambda: ValueError("here"))
    handle = await bus.dispatch(Boom())
    await handle.wait()
    (error,) = handle.errors
    assert "/goevent/_kernel/scheduler.py" not in error.details
    assert "/goevent/_kernel/dispatcher.py" not in error.details
    assert "raise make()" in error.details


async def test_errors_of_several_listeners_are_told_apart(bus: GoEvent) -> None:
    for shape in SHAPES:
        subscribe_failing(bus, shape, lambda: ValueError("again"))
    handle = await bus.dispatch(Boom())
    await handle.wait()
    assert len(handle.errors) == len(bus.errors) == bus.error_count == len(SHAPES)
    assert set(handle.errors) == set(bus.errors)


async def test_an_unhashable_or_reraised_exception_object_is_still_one_error_per_event(
    bus: GoEvent,
) -> None:
    always = ValueError("the same object each time")

    class Unhashable(Exception):
        __hash__ = None  # type: ignore[assignment]  # pyright: ignore

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("do not compare me")

    odd = Unhashable()

    def same(event: Boom) -> None:
        raise always

    async def strange(event: Boom) -> None:
        raise odd

    bus.subscribe(same, Boom)
    bus.subscribe(strange, Boom)
    handles = [await bus.dispatch(Boom(n)) for n in range(3)]
    await bus.wait()
    assert [len(handle.errors) for handle in handles] == [2, 2, 2]
    assert bus.error_count == 6


async def test_a_snapshot_by_the_listener_after_a_failed_one_adds_up(bus: GoEvent) -> None:
    bus.on_error(ignore_error)
    ledgers: list[Ledger] = []

    @bus.listener(Boom)
    def fails(event: Boom) -> None:
        raise ValueError

    @bus.listener(Boom)
    def look(event: Boom) -> None:
        ledgers.append(bus.snapshot().ledger)

    bus.dispatch_nowait(Boom())
    assert ledgers == [Ledger(accepted=1, failed=1)]
    assert bus.snapshot().ledger == Ledger(accepted=2, completed=1, failed=1)


async def test_raise_errors_raises_a_group_of_the_failures(bus: GoEvent) -> None:
    subscribe_failing(bus, "inline", lambda: ValueError("one"))
    subscribe_failing(bus, "mailbox", lambda: KeyError("two"))
    handle = await bus.dispatch(Boom())
    await handle.wait()
    with pytest.raises(ExceptionGroup, match="2 listener") as caught:
        handle.raise_errors()
    assert caught.value.exceptions == handle.errors


async def test_raise_errors_raises_nothing_when_nothing_failed(bus: GoEvent) -> None:
    handle = await bus.dispatch(Boom())
    handle.raise_errors()


# -- on_error


async def test_on_error_gets_every_failure_in_order(bus: GoEvent) -> None:
    told: list[EventError] = []
    told_async: list[EventError] = []

    @bus.on_error
    def note(error: EventError) -> None:
        told.append(error)

    @bus.on_error
    async def note_async(error: EventError) -> None:
        await trio.lowlevel.checkpoint()
        told_async.append(error)

    subscribe_failing(bus, "inline", lambda: ValueError("one"))
    subscribe_failing(bus, "mailbox", lambda: KeyError("two"))
    for n in range(20):
        await bus.dispatch(Boom(n))
    await bus.wait()
    await wait_all_tasks_blocked()
    assert told == told_async == list(bus.errors)
    assert len(told) == 40


async def test_a_failing_on_error_is_logged_and_has_no_other_effect(
    bus: GoEvent, log: list[logging.LogRecord]
) -> None:
    told: list[EventError] = []

    @bus.on_error
    def broken(error: EventError) -> None:
        raise RuntimeError("broken callback")

    @bus.on_error
    async def broken_async(error: EventError) -> None:
        raise RuntimeError("broken async callback")

    bus.on_error(told.append)
    subscribe_failing(bus, "inline", lambda: ValueError("one"))
    await bus.dispatch(Boom())
    await wait_all_tasks_blocked()
    assert len(told) == bus.error_count == 1
    assert [record.levelno for record in log] == [logging.ERROR, logging.ERROR]
    assert all("on_error callback failed" in record.getMessage() for record in log)


async def test_a_slow_on_error_delays_no_listener(
    bus: GoEvent, autojump_clock: trio.testing.MockClock
) -> None:
    told: list[float] = []

    @bus.on_error
    async def slow(error: EventError) -> None:
        await trio.sleep(1)
        told.append(trio.current_time())

    subscribe_failing(bus, "mailbox", lambda: ValueError("one"))
    start = trio.current_time()
    handles = [await bus.dispatch(Boom(n)) for n in range(5)]
    for handle in handles:
        await handle.wait()
    assert trio.current_time() == start
    assert told == []
    await trio.sleep(5.5)
    assert told == [start + n for n in (1, 2, 3, 4, 5)]


async def test_on_error_may_dispatch_and_register(bus: GoEvent) -> None:
    seen: list[Boom] = []

    @bus.on_error
    async def recover(error: EventError) -> None:
        bus.unregister_listeners_for_event(Boom)
        bus.subscribe(seen.append, Boom, name="calm")
        handle = await bus.dispatch(Boom(2))
        await handle.wait()

    subscribe_failing(bus, "inline", lambda: ValueError("one"))
    await bus.dispatch(Boom(1))
    await wait_all_tasks_blocked()
    assert seen == [Boom(2)]


async def test_on_error_that_causes_the_next_failure_lets_other_tasks_run(bus: GoEvent) -> None:
    told: list[EventError] = []
    others_ran = False

    @bus.on_error
    async def again(error: EventError) -> None:
        told.append(error)
        if not others_ran and len(told) < 50_000:
            bus.dispatch_nowait(Boom(len(told)))

    subscribe_failing(bus, "inline", lambda: ValueError("again"))
    await bus.dispatch(Boom(0))
    await trio.sleep(0)
    await trio.sleep(0)
    others_ran = True
    await wait_all_tasks_blocked()
    assert 0 < len(told) < 50_000


async def test_on_error_gets_no_failure_from_before_its_registration(
    bus: GoEvent, log: list[logging.LogRecord]
) -> None:
    told: list[EventError] = []
    subscribe_failing(bus, "inline", lambda: ValueError("one"))
    first = await bus.dispatch(Boom())
    bus.on_error(told.append)
    second = await bus.dispatch(Boom())
    await wait_all_tasks_blocked()
    assert told == list(second.errors)
    assert len(first.errors) == 1
    assert log == []


# -- the log of the bus


async def test_the_log_keeps_the_newest_ten_thousand_and_counts_all(bus: GoEvent) -> None:
    def fail(event: Boom) -> None:
        raise ValueError(event.n)

    bus.subscribe(fail, Boom)
    bus.on_error(ignore_error)
    for n in range(12_345):
        bus.dispatch_nowait(Boom(n))
        if n % 500 == 0:
            await trio.lowlevel.checkpoint()
    errors = bus.errors
    assert bus.error_count == 12_345
    assert len(errors) == 10_000
    assert [error.reason for error in errors] == [f"ValueError: {n}" for n in range(2345, 12_345)]
    live = [error for error in errors if error.error is not None]
    assert live == list(errors[-100:])
    assert all("ValueError: 2345" in error.details for error in errors[:1])
    assert all("in fail" in error.details for error in errors)

    bus.clear_errors()
    assert list(bus.errors) == []
    assert bus.error_count == 12_345
    bus.dispatch_nowait(Boom(-1))
    assert [error.reason for error in bus.errors] == ["ValueError: -1"]
    assert bus.error_count == 12_346


async def test_an_old_error_keeps_its_kind_and_text_even_if_it_cannot_be_printed(
    bus: GoEvent,
) -> None:
    subscribe_failing(bus, "inline", Unprintable)
    handles = [await bus.dispatch(Boom()) for _ in range(101)]
    handle = handles[0]
    old, live = bus.errors[0], handle.errors[0]
    assert old.error is None
    assert live.error is not None
    assert old.reason == live.reason == "Unprintable: <its __str__ raised RuntimeError>"
    assert str(old) == str(live)
    assert (old.event_name, old.listener) == (live.event_name, live.listener)
    assert "in failing" in old.details


async def test_old_errors_do_not_keep_huge_messages(bus: GoEvent) -> None:
    subscribe_failing(bus, "inline", lambda: ValueError("x" * 100_000))
    bus.on_error(ignore_error)
    for _ in range(101):
        await bus.dispatch(Boom())
    old = bus.errors[0]
    assert old.error is None
    assert old.reason.startswith("ValueError: xxx")
    assert len(old.reason) < 2_000
    assert len(old.details) < 10_000


async def test_dropped_and_abandoned_events_are_text_from_the_start() -> None:
    with logged():
        async with GoEvent(Config(close_timeout=0)) as bus:

            async def stuck(event: Boom) -> None:
                await trio.sleep_forever()

            bus.subscribe(stuck, Boom)
            handle = await bus.dispatch(Boom())
    (error,) = handle.errors
    assert type(error) is EventAbandoned
    assert error.error is None
    assert error.details == error.reason
    assert error.outcome == "abandoned"


# -- errors that the application has not looked at


async def test_an_error_on_a_handle_that_is_dropped_unseen_is_logged_once(
    log: list[logging.LogRecord],
) -> None:
    async with GoEvent() as bus:
        subscribe_failing(bus, "inline", lambda: ValueError("unseen"))
        await bus.dispatch(Boom())
        assert len(log) == 1
        assert log[0].levelno == logging.ERROR
        assert log[0].name == "goevent"
        assert "unseen" in log[0].getMessage()
        assert "failing" in log[0].getMessage()
    assert len(log) == 1


async def test_an_unseen_error_on_a_kept_handle_is_logged_once_at_close(
    log: list[logging.LogRecord],
) -> None:
    async with GoEvent() as bus:
        subscribe_failing(bus, "mailbox", lambda: ValueError("unseen"))
        handle = await bus.dispatch(Boom())
        await handle.wait()
        assert handle.done
        assert log == []
    assert len(log) == 1
    del handle
    assert len(log) == 1


async def test_two_unseen_errors_on_one_handle_are_two_log_records(
    log: list[logging.LogRecord],
) -> None:
    async with GoEvent() as bus:
        subscribe_failing(bus, "inline", lambda: ValueError("one"))
        subscribe_failing(bus, "inline", lambda: ValueError("two"))
        await bus.dispatch(Boom())
    assert len(log) == 2


def look_at_the_handle(bus: GoEvent, handle: DispatchHandle) -> None:
    assert handle.errors


def look_at_the_bus(bus: GoEvent, handle: DispatchHandle) -> None:
    assert bus.errors


def raise_them(bus: GoEvent, handle: DispatchHandle) -> None:
    with pytest.raises(ExceptionGroup):
        handle.raise_errors()


def forget_them(bus: GoEvent, handle: DispatchHandle) -> None:
    bus.clear_errors()


@pytest.mark.parametrize("look", [look_at_the_handle, look_at_the_bus, raise_them, forget_them])
@pytest.mark.parametrize("shape", SHAPES)
async def test_errors_that_were_looked_at_are_not_logged(
    log: list[logging.LogRecord], shape: str, look: Callable[[GoEvent, DispatchHandle], None]
) -> None:
    async with GoEvent() as bus:
        subscribe_failing(bus, shape, lambda: ValueError("seen"))
        handle = await bus.dispatch(Boom())
        await handle.wait()
        look(bus, handle)
        del handle
    gc.collect()
    assert log == []


async def test_errors_that_on_error_got_are_not_logged(log: list[logging.LogRecord]) -> None:
    told: list[EventError] = []
    async with GoEvent() as bus:
        bus.on_error(told.append)
        subscribe_failing(bus, "mailbox", lambda: ValueError("seen"))
        handle = await bus.dispatch(Boom())
        await handle.wait()
    assert len(told) == 1
    assert log == []


async def test_looking_before_the_failure_does_not_count(log: list[logging.LogRecord]) -> None:
    async with GoEvent() as bus:
        subscribe_failing(bus, "mailbox", lambda: ValueError("later"))
        handle = await bus.dispatch(Boom())
        assert handle.errors == bus.errors == ()
    assert len(log) == 1


async def test_an_exception_that_cannot_be_printed_is_logged(log: list[logging.LogRecord]) -> None:
    async with GoEvent() as bus:
        subscribe_failing(bus, "inline", Unprintable)
        await bus.dispatch(Boom())
    assert "its __str__ raised" in log[0].getMessage()


async def test_a_failure_after_the_bus_gave_up_is_logged_although_there_is_an_on_error(
    autojump_clock: trio.testing.MockClock, log: list[logging.LogRecord]
) -> None:
    told: list[EventError] = []
    async with GoEvent(Config(close_timeout=0)) as bus:
        bus.on_error(told.append)

        async def stubborn(event: Boom) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(60)
            raise ValueError("late")

        bus.subscribe(stubborn, Boom)
        handle = await bus.dispatch(Boom())
        await wait_all_tasks_blocked()
    assert bus.error_count == 2
    del handle
    assert told == []
    assert len(log) == 2
    assert [type(error) for error in bus.errors] == [EventAbandoned, EventError]


async def test_errors_that_a_stuck_on_error_never_got_are_logged_at_close(
    autojump_clock: trio.testing.MockClock, log: list[logging.LogRecord]
) -> None:
    async with GoEvent(Config(close_timeout=0)) as bus:

        @bus.on_error
        async def stuck(error: EventError) -> None:
            await trio.sleep_forever()

        subscribe_failing(bus, "inline", lambda: ValueError("one"))
        for n in range(11_000):
            bus.dispatch_nowait(Boom(n))
    never = [record for record in log if "never reached" in record.getMessage()]
    assert len(never) == 1
    assert "1000 errors" in never[0].getMessage()


# -- memory


@pytest.fixture
def _no_garbage_collection() -> Generator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Heavy(Event, name="errors.heavy"):
    weak: Any = None


def subscribe_failing_heavily(bus: GoEvent, shape: str) -> None:
    def fail(event: Heavy) -> None:
        raise ValueError

    async def fail_async(event: Heavy) -> None:
        raise ValueError

    async def fail_later(event: Heavy) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError

    if shape == "suspending":
        bus.subscribe(fail_later, Heavy)
    elif shape == "mailbox":
        bus.subscribe(fail_async, Heavy)
    elif shape == "inline":
        bus.subscribe(fail, Heavy)
    else:
        bus.subscribe(fail, Heavy, async_=True)


@pytest.mark.usefixtures("_no_garbage_collection")
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_failed_dispatch_is_freed_as_soon_as_it_is_forgotten(shape: str) -> None:
    async with GoEvent() as bus:
        bus.on_error(ignore_error)
        subscribe_failing_heavily(bus, shape)
        weak = WeaklyReferenced()
        ref = weakref.ref(weak)
        handle = await bus.dispatch(Heavy(weak))
        del weak
        await handle.wait()
        assert len(handle.errors) == 1
        await bus.dispatch(Heavy())  # a listener keeps its newest error
        await bus.wait()
        await wait_all_tasks_blocked()  # on_error is told
        bus.clear_errors()
        assert ref() is not None
        del handle
        assert ref() is None


@pytest.mark.usefixtures("_no_garbage_collection")
async def test_an_event_with_an_unhashable_ordering_key_is_freed_as_soon_as_it_is_forgotten() -> (
    None
):
    def unhashable_key(event: Heavy) -> list[int]:
        return []

    async def listen(event: Heavy) -> None: ...

    async with GoEvent() as bus:
        bus.on_error(ignore_error)
        bus.subscribe(listen, Heavy, ordering_key=unhashable_key)
        weak = WeaklyReferenced()
        ref = weakref.ref(weak)
        handle = bus.dispatch_nowait(Heavy(weak))
        del weak
        assert len(handle.errors) == 1
        bus.dispatch_nowait(Heavy())  # a listener keeps its newest error
        await wait_all_tasks_blocked()  # on_error is told
        bus.clear_errors()
        assert ref() is not None
        del handle
        assert ref() is None


@pytest.mark.usefixtures("_no_garbage_collection")
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_failed_dispatch_without_handle_is_freed_without_on_error(
    shape: str,
) -> None:
    with logged():
        async with GoEvent() as bus:
            subscribe_failing_heavily(bus, shape)
            weak = WeaklyReferenced()
            ref = weakref.ref(weak)
            await bus.dispatch(Heavy(weak))
            del weak
            await bus.dispatch(Heavy())
            await bus.wait()
            bus.clear_errors()
            assert ref() is None


@pytest.mark.usefixtures("_no_garbage_collection")
@pytest.mark.parametrize("shape", SHAPES)
async def test_an_old_error_keeps_no_event_alive(shape: str) -> None:
    async with GoEvent() as bus:
        bus.on_error(ignore_error)
        subscribe_failing_heavily(bus, shape)
        weak = WeaklyReferenced()
        ref = weakref.ref(weak)
        await bus.dispatch(Heavy(weak))
        del weak
        for _ in range(100):
            await bus.dispatch(Heavy())
        await bus.wait()
        await wait_all_tasks_blocked()
        assert bus.error_count == 101
        assert len(bus.errors) == 101
        assert ref() is None
