"""goevent with and without each option of a listener, by its public API only.

An option that this goevent does not know ends in `NotAvailable`, so older commits run, too.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeAlias

import trio

import goevent
from benchmarks.core.measure import Effort, measure_async
from benchmarks.core.scenario import NotAvailable, Scenario, Scenarios
from goevent import Config, Event, GoEvent

# The largest burst must fit without back-pressure.
MAILBOX = 200_000
LISTENS_TO = "a.b.c"

# Type checkers know the options of one version, and older versions run these, too.
Options: TypeAlias = dict[str, Any]
Handler: TypeAlias = Callable[["Keyed"], Awaitable[None] | None]


class Keyed(Event, name="bench.keyed"):
    """The event of all options except patterns."""

    key: int


class AroundDispatch:
    """Middleware that does nothing, once per event."""

    def around_dispatch(self, handle: object) -> Generator[None, None, None]:
        """Let the dispatch happen."""
        yield


class AroundDelivery:
    """Middleware that does nothing, once per delivery."""

    def around_delivery(self, handle: object) -> Generator[None, None, None]:
        """Let the delivery happen."""
        yield


class AroundCall:
    """Middleware that does nothing, once per call of a listener."""

    def around_call(self, delivery: object) -> Generator[None, None, None]:
        """Let the call happen."""
        yield


async def _at_once(event: Keyed) -> None:
    pass


async def _suspending(event: Keyed) -> None:
    await trio.lowlevel.checkpoint()


def _blocking(event: Keyed) -> None:
    pass


def _always(event: Keyed) -> bool:
    return True


def _inline_listener() -> Callable[[Keyed], None]:
    def listener(event: Keyed) -> None:
        pass

    return listener


@contextmanager
def _may_be_unknown(options: Options) -> Generator[None, None, None]:
    """Raise `NotAvailable` for an option that this goevent does not know."""
    try:
        yield
    except NotImplementedError as error:
        raise NotAvailable(str(error)) from error
    except TypeError as error:
        for name in options:
            if f"unexpected keyword argument {name!r}" in str(error):
                raise NotAvailable(f"this goevent knows no {name}=") from error
        raise


def _subscribe(bus: GoEvent, handler: Handler, options: Options) -> None:
    with _may_be_unknown(options):
        bus.subscribe(handler, Keyed, **options)


def _bus_with(middleware: object) -> GoEvent:
    options: Options = {"middleware": (middleware,)}
    with _may_be_unknown(options):
        return GoEvent(Config(**options))


def _check(bus: GoEvent) -> None:
    """Fail if a delivery failed, or if there was none."""
    ledger = bus.snapshot().ledger
    if bus.error_count or not ledger.completed:
        raise RuntimeError(f"nothing was measured: {bus.error_count} errors, {ledger}")


async def _queued(bus: GoEvent, events: Sequence[Event], effort: Effort) -> float:
    """Return ns per event of `events`, fired in one burst and drained."""
    async with bus:
        dispatch_nowait, drain = bus.dispatch_nowait, bus.wait

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                for event in events:
                    dispatch_nowait(event)
                await drain()
            return perf_counter() - start

        figure = await measure_async(body, effort)
        _check(bus)
    return figure / len(events)


async def _inline(bus: GoEvent, event: Event, effort: Effort) -> float:
    """Return ns per dispatch."""
    async with bus:
        dispatch_nowait = bus.dispatch_nowait

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                dispatch_nowait(event)
            return perf_counter() - start

        figure = await measure_async(body, effort)
        _check(bus)
    return figure


def _listener(handler: Handler, **options: Any) -> Scenario:
    def scenario(_: int, effort: Effort) -> float:
        bus = GoEvent()
        _subscribe(bus, handler, {"mailbox": MAILBOX, **options})
        return trio.run(_queued, bus, [Keyed(key=7)] * effort.burst, effort)

    return scenario


def _retry(size: int, effort: Effort) -> float:
    make: Callable[..., object] | None = getattr(goevent, "Retry", None)
    if make is None:
        raise NotAvailable("this goevent has no Retry")
    return _listener(_at_once, retry=make(attempts=3))(size, effort)


def _middleware(make: Callable[[], object]) -> Scenario:
    def scenario(_: int, effort: Effort) -> float:
        bus = _bus_with(make())
        _subscribe(bus, _at_once, {"mailbox": MAILBOX})
        return trio.run(_queued, bus, [Keyed(key=7)] * effort.burst, effort)

    return scenario


def _keys(*, one_key: bool, **options: Any) -> Scenario:
    def scenario(size: int, effort: Effort) -> float:
        bus = GoEvent()
        _subscribe(bus, _at_once, {"mailbox": MAILBOX, **options})
        # As many event objects with one key: only the keys differ.
        events = [Keyed(key=7 if one_key else number) for number in range(size)]
        return trio.run(_queued, bus, events, effort)

    return scenario


def _inline_listeners(**options: Any) -> Scenario:
    def scenario(size: int, effort: Effort) -> float:
        bus = GoEvent()
        # The first listener has no priority, so the others go before it.
        _subscribe(bus, _inline_listener(), {})
        for _ in range(size - 1):
            _subscribe(bus, _inline_listener(), options)
        return trio.run(_inline, bus, Keyed(key=7), effort) / size

    return scenario


def _exact(_: int, effort: Effort) -> float:
    return _over_patterns([LISTENS_TO], effort)


def _patterns(size: int, effort: Effort) -> float:
    shapes = ("a{}.*.c", "a.b{}.**", "*.b.c{}", "**.c{}")
    others = [shapes[number % len(shapes)].format(number) for number in range(size - 1)]
    return _over_patterns(["a.*.c", *others], effort)


def _over_patterns(patterns: Sequence[str], effort: Effort) -> float:
    bus = GoEvent()

    # One function for all: only the table of patterns differs.
    def listener(event: Event) -> None:
        pass

    for number, pattern in enumerate(patterns):
        try:
            bus.subscribe(listener, pattern)
        except ValueError as error:
            # Before there were patterns, `*` was refused in names.
            if number or "*" not in pattern:
                raise
            raise NotAvailable("this goevent knows no patterns") from error
    return trio.run(_inline, bus, Event(LISTENS_TO, {}), effort)


OPTION_SCENARIOS: Scenarios = {
    "option_none": _listener(_at_once),
    "option_concurrency": _listener(_at_once, concurrency=8),
    "option_context": _listener(_at_once, context=True),
    "option_retry": _retry,
    "option_when": _listener(_at_once, when=_always),
    "option_timeout": _listener(_at_once, timeout=5.0),
    "option_dispatch_middleware": _middleware(AroundDispatch),
    "option_delivery_middleware": _middleware(AroundDelivery),
    "option_call_middleware": _middleware(AroundCall),
    "option_none_suspends": _listener(_suspending),
    "option_timeout_suspends": _listener(_suspending, timeout=5.0),
    "option_none_def": _listener(_blocking, async_=True),
    "option_thread": _listener(_blocking, thread=True),
    "option_none_burst": _keys(one_key=False),
    "option_one_key": _keys(one_key=True, ordering_key="key"),
    "option_keys": _keys(one_key=False, ordering_key="key"),
    "option_none_inline": _inline_listeners(),
    "option_priority": _inline_listeners(priority=1),
    "option_exact": _exact,
    "option_patterns": _patterns,
}
