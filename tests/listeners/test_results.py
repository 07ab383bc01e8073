"""Listeners that return an awaitable or a generator in place of running."""

from __future__ import annotations

import functools
import gc
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import pytest
import trio
from tests.support.checks import adds_up, ignore_error
from tests.support.events import REGISTRY, Ping
from tests.support.ways import WAYS, Owner, Way

from goevent import (
    Config,
    Delivery,
    Event,
    EventError,
    GoEvent,
    ListenerOptions,
    Retry,
    Supervision,
)
from goevent.middleware import Deduplicate
from goevent.testing import record


def make(**config: Any) -> GoEvent:
    bus = GoEvent(Config(registry=REGISTRY, **config))
    bus.on_error(ignore_error)
    return bus


async def never(event: Any) -> None:
    raise AssertionError("nobody should await this")


def generate(event: Any) -> Iterator[None]:
    raise AssertionError("nobody should iterate this")
    yield


async def generate_async(event: Any) -> AsyncIterator[None]:
    raise AssertionError("nobody should iterate this")
    yield


def returning(result: object) -> Callable[[Any], object]:
    """Return a listener that returns an object."""
    return lambda event: result


def adding(ran: list[int], number: int) -> Callable[[Any], None]:
    """Return a listener that adds a number to a list."""
    return lambda event: ran.append(number)


class FutureLike:
    """An awaitable that is no coroutine, and has no `close`."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield


class AroundCoroutine:
    """An awaitable that refers to a coroutine which nothing else closes."""

    def __init__(self) -> None:
        self.coroutine = never(None)

    def __await__(self) -> Generator[Any, Any, None]:
        return self.coroutine.__await__()


class RefusesToClose:
    """An awaitable whose `close` raises an error."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield

    def close(self) -> None:
        raise ValueError("not closable")


UNRUN: dict[str, tuple[Callable[[Any], object], str]] = {
    "coroutine": (never, "returned a coroutine"),
    "generator": (generate, "returned a generator"),
    "async generator": (generate_async, "returned an async generator"),
    "future": (lambda event: FutureLike(), "returned an awaitable FutureLike"),
    "around": (lambda event: AroundCoroutine(), "returned an awaitable AroundCoroutine"),
    "no close": (lambda event: RefusesToClose(), "returned an awaitable RefusesToClose"),
}


RESULTS_BY_WAY = [(way, "coroutine") for way in WAYS] + [
    (way, result)
    for way in ("inline", "inline async", "mailbox", "async", "thread")
    for result in UNRUN
    if result != "coroutine"
]


@pytest.mark.parametrize(("way", "result"), RESULTS_BY_WAY)
async def test_result_that_did_not_run_fails_the_event(way: str, result: str) -> None:
    function, text = UNRUN[result]
    bus = make()
    calls = 0

    def handler(event: Any) -> object:
        nonlocal calls
        calls += 1
        return function(event)

    WAYS[way].register(bus, handler)
    async with bus:
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
        ledger = await bus.close()
    [error] = handle.errors
    assert (error.listener, error.outcome) == ("listener", "failed")
    assert text in error.reason
    assert calls == error.attempts == WAYS[way].attempts
    assert adds_up(ledger)
    assert (ledger.accepted, ledger.failed, bus.error_count) == (1, 1, 1)
    # A coroutine that was not closed would warn here, and warnings are errors.
    gc.collect()


@pytest.mark.parametrize("way", WAYS)
async def test_any_other_result_is_ignored(way: str) -> None:
    results: tuple[Any, ...] = (7, "text", [1], {}, object(), map(str, ()), Ping, Ping(1))
    for expected in results:
        bus = make()
        WAYS[way].register(bus, returning(expected))
        async with bus:
            handle = await bus.dispatch(Ping(1))
            await handle.wait()
            ledger = await bus.close()
        assert (ledger.completed, handle.errors) == (1, ())


@pytest.mark.parametrize("failing", [0, 1, 2])
async def test_other_inline_listeners_run_beside_one_that_does_not(failing: int) -> None:
    bus = make()
    ran: list[int] = []
    for number in range(3):
        if number == failing:
            bus.subscribe(lambda event: never(event), Ping, name="lazy")
        else:
            bus.subscribe(adding(ran, number), Ping)
    async with bus:
        for dispatch in (bus.dispatch_nowait(Ping(1)), await bus.dispatch(Ping(2))):
            assert [error.listener for error in dispatch.errors] == ["lazy"]
        ledger = await bus.close()
    assert len(ran) == 4
    assert (ledger.completed, ledger.failed) == (4, 2)


async def test_hint_names_the_listener_and_what_to_write() -> None:
    bus = make()
    bus.subscribe(lambda event: never(event), Ping, name="charge")
    async with bus:
        handle = await bus.dispatch(Ping(1))
    assert str(handle.errors[0]) == (
        "charge failed on 'test.ping': TypeError: the listener returned a coroutine, and its code "
        "did not run: write an `async def` that awaits it"
    )
    assert isinstance(handle.errors[0].error, TypeError)


async def test_coroutine_that_runs_already_is_left_to_its_owner() -> None:
    bus = make()
    running: list[Coroutine[Any, Any, None]] = []

    async def begun() -> str:
        await trio.lowlevel.checkpoint()
        return "done"

    results: list[str] = []

    async def own() -> None:
        coroutine = begun()
        running.append(cast("Any", coroutine))
        results.append(await coroutine)

    bus.subscribe(lambda event: running[0], Ping)
    async with bus, trio.open_nursery() as nursery:
        nursery.start_soon(own)
        while not running:
            await trio.lowlevel.checkpoint()
        handle = await bus.dispatch(Ping(1))
        assert "returned a coroutine" in handle.errors[0].reason
    assert results == ["done"]


async def test_middleware_sees_the_failure_of_a_listener_that_did_not_run() -> None:
    seen: list[type[BaseException]] = []

    class Watch:
        def around_call(self, delivery: Delivery) -> Iterator[None]:
            try:
                yield
            except TypeError as error:
                seen.append(type(error))
                raise

    bus = make(middleware=(Watch(),))
    for options in ({}, {"async_": True}, {"thread": True}):
        bus.subscribe(lambda event: never(event), Ping, **cast("Any", options))

    @bus.listener(Ping, async_=False)
    async def inline(event: Ping) -> Any:
        return never(event)

    @bus.listener(Ping)
    async def mailbox(event: Ping) -> Any:
        return never(event)

    async with bus:
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
        assert len(handle.errors) == 5
    assert seen == [TypeError] * 5


class Yields:
    """Middleware that yields an object, and so does not await it."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        self.function = function

    def around_call(self, delivery: Delivery) -> Iterator[Any]:
        yield self.function(delivery)


class YieldsAsync(Yields):
    """Async middleware that does the same."""

    async def around_call(  # type: ignore[override]
        self, delivery: Delivery
    ) -> AsyncIterator[Any]:
        yield self.function(delivery)


class Returns(Yields):
    """Middleware that returns an object below its yield."""

    def around_call(self, delivery: Delivery) -> Generator[Any, Any, Any]:
        yield
        return self.function(delivery)


@pytest.mark.parametrize("middleware", [Yields, YieldsAsync, Returns])
@pytest.mark.parametrize("result", UNRUN)
async def test_code_that_middleware_does_not_await_fails_the_event(
    middleware: type[Yields], result: str
) -> None:
    function, text = UNRUN[result]
    bus = make(middleware=(cast("Any", middleware(function)),))
    ran: list[Ping] = []
    bus.subscribe(ran.append, Ping, async_=True)
    async with bus:
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
    [error] = handle.errors
    assert (error.listener, len(ran)) == (middleware.__name__, int(middleware is Returns))
    assert f"the hook {text}" in error.reason
    gc.collect()


@pytest.mark.parametrize("middleware", [Yields, YieldsAsync, Returns])
async def test_middleware_may_yield_and_return_other_objects(middleware: type[Yields]) -> None:
    bus = make(middleware=(cast("Any", middleware(lambda delivery: "x")),))
    ran: list[Ping] = []
    bus.subscribe(ran.append, Ping, async_=True)
    async with bus:
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
    assert (handle.errors, ran) == ((), [Ping(1)])


@pytest.mark.parametrize("suspends", [False, True])
async def test_recorder_sees_the_failure_of_a_listener_that_did_not_run(suspends: bool) -> None:
    bus = make()
    recorder = record(bus)
    Way({}, suspends=suspends).register(bus, lambda event: never(event))
    async with bus:
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
        assert len(handle.errors) == 1
    assert [type(run.error) for run in recorder.runs] == [TypeError]


# -- at registration


class Listeners:
    def method(self, event: Any) -> Iterator[None]:
        yield

    async def async_method(self, event: Any) -> AsyncIterator[None]:
        yield

    @classmethod
    def of_class(cls, event: Any) -> Iterator[None]:
        yield

    @staticmethod
    def static(event: Any) -> Iterator[None]:
        yield

    def with_more(self, more: int, event: Any) -> Iterator[None]:
        yield

    partly = functools.partialmethod(with_more, 7)


class CallableObject:
    def __call__(self, event: Any) -> Iterator[None]:
        yield


class AsyncCallableObject:
    async def __call__(self, event: Any) -> AsyncIterator[None]:
        yield


class CallableByStaticMethod:
    @staticmethod
    def __call__(event: Any) -> Iterator[None]:
        yield


class CallableByPartial:
    __call__ = functools.partialmethod(Listeners.with_more, 7)


class ObjectDecorator:
    def __init__(self, function: Callable[[Any], Any]) -> None:
        functools.update_wrapper(self, function)

    def __call__(self, event: Any) -> Any:
        return cast("Any", self).__wrapped__(event)


def decorated(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(function)
    def wrapper(event: Any) -> Any:
        return function(event)

    return wrapper


GENERATORS: dict[str, Callable[[Any], Any]] = {
    "function": generate,
    "async function": generate_async,
    "partial": functools.partial(generate),
    "nested partial": functools.partial(functools.partial(generate_async)),
    "method": Listeners().method,
    "async method": Listeners().async_method,
    "class method": Listeners.of_class,
    "static method": Listeners.static,
    "partial method": cast("Any", Listeners().partly),
    "object": CallableObject(),
    "async object": AsyncCallableObject(),
    "object with a static call": CallableByStaticMethod(),
    "object with a partial call": cast("Any", CallableByPartial()),
    "partial of an object": functools.partial(CallableObject()),
    "partial of a method": functools.partial(Listeners().method),
    "wrapper": decorated(generate),
    "wrapper of a wrapper": decorated(decorated(generate_async)),
    "wrapper of a partial": decorated(functools.partial(generate)),
    "wrapper of a method": decorated(Listeners().method),
    "wrapper of an object": decorated(CallableObject()),
    "object decorator": ObjectDecorator(generate),
    "cache": functools.cache(generate),
    "context manager": cast("Any", contextmanager)(generate),
    "async context manager": cast("Any", asynccontextmanager)(generate_async),
    "single dispatch": functools.singledispatch(generate),
}


@pytest.mark.parametrize("options", [{}, {"async_": True}, {"thread": True}], ids=str)
@pytest.mark.parametrize("kind", GENERATORS)
def test_generator_function_is_refused_at_registration(kind: str, options: dict[str, Any]) -> None:
    bus = make()
    with pytest.raises(TypeError, match=r"generator function.*without `yield`"):
        bus.subscribe(GENERATORS[kind], Ping, **options)
    with pytest.raises(TypeError, match="generator function"):
        bus.register_listener(ObjectListener(GENERATORS[kind]))
    assert bus.snapshot().listeners == ()


class ObjectListener:
    event_name = "test.ping"

    def __init__(self, handler: Callable[[Any], Any]) -> None:
        self.on_event = handler


def test_refused_generator_function_is_named() -> None:
    bus = make()
    with pytest.raises(TypeError) as refused:
        bus.subscribe(decorated(generate), Ping, name="charge")
    assert str(refused.value) == (
        "charge is or wraps a generator function, generate: calling it runs none of its code; "
        "write a `def` or an `async def` without `yield`"
    )


async def test_async_wrapper_may_iterate_a_generator() -> None:
    seen: list[int] = []

    async def numbers(event: Ping) -> AsyncIterator[int]:
        yield event.n

    @functools.wraps(numbers)
    async def wrapper(event: Ping) -> None:
        seen.extend([number async for number in numbers(event)])

    class Iterating:
        def __init__(self) -> None:
            functools.update_wrapper(self, numbers)

        async def __call__(self, event: Ping) -> None:
            await wrapper(event)

    bus = make()
    bus.subscribe(cast("Any", wrapper), Ping)
    bus.subscribe(Iterating(), Ping)
    async with bus:
        handle = await bus.dispatch(Ping(7))
        await handle.wait()
        handle.raise_errors()
    assert seen == [7, 7]


async def test_endless_chain_of_wrappers_is_no_generator() -> None:
    ran: list[object] = []

    def handler(event: Ping) -> None:
        ran.append(event)

    cast("Any", handler).__wrapped__ = handler

    class Endless:
        def __call__(self, event: Ping) -> None:
            ran.append(event)

        @property
        def __wrapped__(self) -> Endless:
            return Endless()

    bus = make()
    bus.subscribe(handler, Ping)
    bus.subscribe(functools.partial(Endless()), Ping)
    async with bus:
        await bus.dispatch(Ping(1))
    assert ran == [Ping(1), Ping(1)]


@pytest.mark.parametrize("function", [generate, generate_async, never])
def test_functions_that_must_answer_at_once_are_refused(function: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"when .*(cannot be async|generator function)"):
        ListenerOptions(when=function)
    with pytest.raises(TypeError, match=r"ordering_key .*(cannot be async|generator function)"):
        ListenerOptions(ordering_key=function)
    with pytest.raises(TypeError, match=r"on .*(cannot be async|generator function)"):
        Retry(on=function)


@pytest.mark.parametrize("function", [generate, generate_async])
def test_generator_function_is_no_error_callback(function: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="generator function"):
        make().on_error(function)


# -- other functions of the application


@pytest.mark.parametrize("result", UNRUN)
@pytest.mark.parametrize("options", [{}, {"async_": True}], ids=str)
async def test_filter_that_did_not_run_fails_the_event(
    options: dict[str, Any], result: str
) -> None:
    function, text = UNRUN[result]
    bus = make()
    ran: list[Ping] = []
    bus.subscribe(ran.append, Ping, when=lambda event: function(event), name="chosen", **options)
    async with bus:
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
        ledger = await bus.close()
    assert text in handle.errors[0].reason
    assert (ran, ledger.failed, ledger.completed) == ([], 1, 0)


@pytest.mark.parametrize("result", UNRUN)
async def test_ordering_key_that_did_not_run_fails_the_event(result: str) -> None:
    function, text = UNRUN[result]
    bus = make()
    ran: list[Ping] = []
    bus.subscribe(ran.append, Ping, async_=True, ordering_key=lambda event: function(event))
    async with bus:
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
        ledger = await bus.close()
    assert text in handle.errors[0].reason
    assert (ran, ledger.failed, ledger.completed) == ([], 1, 0)


@pytest.mark.parametrize("result", UNRUN)
async def test_retry_predicate_that_did_not_run_fails_the_event(result: str) -> None:
    function, text = UNRUN[result]
    bus = make()

    @bus.listener(Ping, async_=True, retry=Retry(attempts=3, on=lambda error: function(error)))
    def fail(event: Ping) -> None:
        raise ValueError(event.n)

    async with bus:
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
    [error] = handle.errors
    assert text in error.reason
    assert error.attempts == 1


@pytest.mark.parametrize("result", ["generator", "async generator"])
async def test_error_callback_that_did_not_run_is_logged(
    result: str, caplog: pytest.LogCaptureFixture
) -> None:
    function, text = UNRUN[result]
    bus = GoEvent(Config(registry=REGISTRY))

    @bus.on_error
    def returns_it(error: EventError) -> Any:
        return function(error)

    @bus.on_error
    async def awaits(error: EventError) -> Any:
        return function(error)

    Way({}).register(bus, lambda event: never(event))
    with caplog.at_level(logging.ERROR, "goevent"):
        async with bus:
            await bus.dispatch(Ping(1))
    assert caplog.text.count(text) == 2


@pytest.mark.parametrize("function", [never, generate])
async def test_factory_that_did_not_run_is_refused(function: Callable[[Any], Any]) -> None:
    bus = make()
    with pytest.raises(TypeError, match="the factory of the listener returned a"):
        bus.register_listener(lambda: function(None))
    gc.collect()


async def test_factory_that_does_not_run_at_a_restart_is_reported() -> None:
    bus = make()
    made: list[Owner] = []

    def fail(event: Ping) -> None:
        raise ValueError(event.n)

    def factory() -> Any:
        if made:
            return never(None)
        made.append(Owner(fail, ListenerOptions(supervision=Supervision("restart"))))
        return made[0]

    bus.register_listener(factory)

    async def run() -> None:
        async with bus:
            await bus.dispatch(Ping(1))

    with pytest.raises(EventError, match="the factory of the listener returned a coroutine"):
        await run()


@pytest.mark.parametrize("result", ["coroutine", "generator", "async generator"])
async def test_deduplication_key_that_did_not_run_fails_the_dispatch(result: str) -> None:
    function, _ = UNRUN[result]
    bus = make(middleware=(Deduplicate(cast("Any", functools.partial(function))),))
    ran: list[Ping] = []
    bus.subscribe(ran.append, Ping)
    async with bus:
        handle = await bus.dispatch(Ping(1))
    assert "key must be a `def`" in handle.errors[0].reason
    assert ran == []


async def test_dispatch_from_a_thread_reports_a_listener_that_did_not_run() -> None:
    bus = make()
    bus.subscribe(lambda event: never(event), Ping, name="lazy")
    async with bus:
        handle = await trio.to_thread.run_sync(bus.dispatch_from_thread, Ping(1))
    assert [error.listener for error in handle.errors] == ["lazy"]


async def test_forwarder_to_another_bus_completes() -> None:
    other, bus = make(), make()
    arrived: list[Event] = []
    other.subscribe(arrived.append, Ping)
    async with other, bus:
        bus.subscribe(other.dispatch_nowait, Ping)
        bus.subscribe(other.dispatch, Ping)
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
        handle.raise_errors()
    assert arrived == [Ping(1), Ping(1)]


async def test_forgotten_await_of_a_dispatch_is_an_error() -> None:
    bus = make()
    bus.subscribe(lambda event: bus.dispatch(Ping(2)), Ping)
    async with bus:
        handle = await bus.dispatch(Ping(1))
    assert "returned a coroutine" in handle.errors[0].reason
