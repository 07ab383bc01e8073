"""Lifespan functions: entered before the bus opens, left after it has drained."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from goevent import Config, DriverError, Event, GoEvent, MemoryDriver, MemoryHub

steps: ContextVar[str] = ContextVar("steps", default="")


class Failing(MemoryDriver):
    """A driver that cannot connect."""

    async def run(self, inbox: object, *, task_status: object) -> None:  # type: ignore[override]
        raise DriverError("no broker here")


def noted(bus: GoEvent, said: list[str], name: str) -> None:
    """Register a function that notes its beginning and its end."""

    @bus.lifespan
    async def note() -> AsyncIterator[None]:
        said.append(f"+{name}")
        try:
            yield
        except BaseException as error:
            said.append(f"{type(error).__name__} in {name}")
            raise
        finally:
            said.append(f"-{name}")


async def test_functions_surround_the_work_of_listeners_on_every_opening() -> None:
    bus, said = GoEvent(), list[str]()
    noted(bus, said, "a")
    noted(bus, said, "b")

    @bus.listener("a.b")
    async def work(event: Event) -> None:
        await trio.lowlevel.checkpoint()
        said.append("work")

    for _ in range(2):
        async with bus:
            await bus.dispatch(Event("a.b"))
        assert said == ["+a", "+b", "work", "-b", "-a"]
        said.clear()


async def test_a_function_may_take_the_bus_and_is_returned_unchanged() -> None:
    bus, given = GoEvent(), list[GoEvent]()

    async def take(bus: GoEvent) -> AsyncIterator[None]:
        given.append(bus)
        yield

    assert bus.lifespan(take) is take
    async with bus:
        assert given == [bus]


async def test_context_manager_functions_classes_methods_and_partials_serve_too() -> None:
    bus, said = GoEvent(), list[str]()

    @bus.lifespan
    @asynccontextmanager
    async def made() -> AsyncGenerator[None]:
        said.append("made")
        yield

    @bus.lifespan
    class Pool(AbstractAsyncContextManager[None]):
        async def __aenter__(self) -> None:
            said.append("pool")

        async def __aexit__(self, *_: object) -> None: ...

    class Owner:
        async def hold(self, bus: GoEvent) -> AsyncIterator[None]:
            said.append(bus.snapshot().state)
            yield

    async def named(name: str) -> AsyncIterator[None]:
        said.append(name)
        yield

    bus.lifespan(Owner().hold)
    bus.lifespan(partial(named, "partial"))
    async with bus:
        assert said == ["made", "pool", "new", "partial"]


async def test_listeners_see_context_variables_of_a_function() -> None:
    bus, seen = GoEvent(), list[str]()

    @bus.lifespan
    async def set_variable() -> AsyncIterator[None]:
        steps.set("set")
        yield

    @bus.listener("a.b")
    async def look(event: Event) -> None:
        seen.append(steps.get())

    async with bus:
        await bus.dispatch(Event("a.b"))
    assert seen == ["set"]


async def test_a_failure_on_entry_ends_the_opening_and_leaves_the_earlier_ones() -> None:
    bus, said = GoEvent(), list[str]()
    noted(bus, said, "a")

    @bus.lifespan
    async def connect() -> AsyncIterator[None]:
        raise LookupError("no DSN")
        yield

    noted(bus, said, "c")
    for _ in range(2):
        with pytest.raises(LookupError, match="no DSN") as caught:
            async with bus:
                pytest.fail("the bus must not open")
        assert "connect" in caught.value.__notes__[0]
        assert len(caught.value.__notes__) == 1
        assert said == ["+a", "LookupError in a", "-a"]
        said.clear()
    assert bus.snapshot().state == "new"


async def test_a_driver_that_cannot_connect_leaves_the_functions() -> None:
    bus, said = GoEvent(Config(driver=Failing(MemoryHub()))), list[str]()
    noted(bus, said, "a")
    with pytest.raises(DriverError, match="no broker here"):
        async with bus:
            pytest.fail("the bus must not open")
    assert said == ["+a", "DriverError in a", "-a"]


async def test_a_cancelled_opening_leaves_the_functions(autojump_clock: object) -> None:
    bus, said = GoEvent(), list[str]()
    noted(bus, said, "a")

    @bus.lifespan
    async def hang() -> AsyncIterator[None]:
        await trio.sleep_forever()
        yield

    with trio.move_on_after(1) as scope:
        async with bus:
            pytest.fail("the bus must not open")
    assert scope.cancelled_caught
    assert said == ["+a", "Cancelled in a", "-a"]


async def test_a_failure_on_exit_leaves_after_all_others_have_ended() -> None:
    bus, said = GoEvent(), list[str]()
    noted(bus, said, "a")

    @bus.lifespan
    async def disconnect() -> AsyncIterator[None]:
        yield
        raise LookupError("still in use")

    with pytest.raises(LookupError, match="still in use") as caught:
        async with bus:
            pass
    assert "disconnect" in caught.value.__notes__[0]
    assert said == ["+a", "LookupError in a", "-a"]
    assert bus.snapshot().state == "closed"


async def test_several_failures_on_exit_leave_in_a_group() -> None:
    bus = GoEvent()
    for name in ("x", "y"):

        @bus.lifespan
        async def fail(name: str = name) -> AsyncIterator[None]:
            try:
                yield
            finally:
                raise LookupError(name)

    with pytest.raises(ExceptionGroup) as caught:
        async with bus:
            pass
    assert [str(each) for each in caught.value.exceptions] == ["y", "x"]


async def test_a_failure_on_exit_never_hides_the_error_of_the_body(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, said = GoEvent(), list[str]()
    noted(bus, said, "a")

    @bus.lifespan
    async def disconnect() -> AsyncIterator[None]:
        try:
            yield
        finally:
            raise LookupError("still in use")

    with caplog.at_level(logging.ERROR, "goevent"), pytest.raises(ZeroDivisionError):
        async with bus:
            _ = 1 / 0
    assert said == ["+a", "ZeroDivisionError in a", "-a"]
    assert "disconnect" in caplog.text
    assert "still in use" in caplog.text


async def test_a_function_that_catches_the_error_of_the_body_does_not_hide_it() -> None:
    bus, said = GoEvent(), list[str]()
    noted(bus, said, "a")

    @bus.lifespan
    async def catch() -> AsyncIterator[None]:
        try:
            yield
        except ZeroDivisionError:
            said.append("caught")

    with pytest.raises(ZeroDivisionError):
        async with bus:
            _ = 1 / 0
    assert said == ["+a", "caught", "ZeroDivisionError in a", "-a"]


async def test_a_nursery_in_a_function_puts_no_group_around_the_error_of_the_body() -> None:
    bus = GoEvent()

    @bus.lifespan
    async def beat() -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield
            nursery.cancel_scope.cancel()

    with pytest.raises(ZeroDivisionError):
        async with bus:
            _ = 1 / 0
    async with bus:
        pass


async def test_a_task_of_a_function_that_fails_ends_the_bus() -> None:
    bus, said = GoEvent(), list[str]()
    noted(bus, said, "a")

    @bus.lifespan
    async def watch() -> AsyncIterator[None]:
        async def fail() -> None:
            await wait_all_tasks_blocked()
            raise LookupError("the pool is gone")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            yield

    with pytest.raises(ExceptionGroup) as caught:
        async with bus:
            await trio.sleep_forever()
    assert [str(each) for each in caught.value.exceptions] == ["the pool is gone"]
    assert said == ["+a", "ExceptionGroup in a", "-a"]


async def test_a_cancel_scope_in_a_function_may_end_the_bus(autojump_clock: object) -> None:
    bus, said = GoEvent(), list[str]()
    noted(bus, said, "a")

    @bus.lifespan
    async def limit() -> AsyncIterator[None]:
        with trio.move_on_after(5):
            yield

    async with bus:
        await trio.sleep_forever()
    assert said == ["+a", "-a"]


async def test_a_scope_of_a_function_that_ends_the_opening_is_an_error() -> None:
    bus = GoEvent()

    @bus.lifespan
    async def limit() -> AsyncIterator[None]:
        with trio.CancelScope() as scope:
            scope.cancel()
            yield

    with pytest.raises(RuntimeError, match="cancelled the opening"):
        async with bus:
            pytest.fail("the bus must not open")


async def test_a_cancelled_body_leaves_the_functions_and_stays_cancelled(
    autojump_clock: object,
) -> None:
    bus, said = GoEvent(), list[str]()
    noted(bus, said, "a")
    with trio.move_on_after(1) as scope:
        async with bus:
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert (said[0], said[2]) == ("+a", "-a")


async def test_an_interrupt_while_a_function_is_left_goes_before_other_errors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, said = GoEvent(), list[str]()
    noted(bus, said, "a")

    @bus.lifespan
    async def interrupt() -> AsyncIterator[None]:
        try:
            yield
        finally:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with bus:
            _ = 1 / 0
    assert said == ["+a", "KeyboardInterrupt in a", "-a"]
    assert "ZeroDivisionError" in caplog.text


async def test_no_function_is_registered_on_an_open_or_an_opening_bus() -> None:
    bus = GoEvent()

    async def late() -> AsyncIterator[None]:
        yield

    @bus.lifespan
    async def early(bus: GoEvent) -> AsyncIterator[None]:
        with pytest.raises(RuntimeError, match="before the bus is opened"):
            bus.lifespan(late)
        with pytest.raises(RuntimeError, match="open already"):
            await bus.__aenter__()
        yield

    async with bus:
        with pytest.raises(RuntimeError, match="before the bus is opened"):
            bus.lifespan(late)
    bus.lifespan(late)


async def no_yield() -> None: ...


def a_def() -> Iterator[None]:
    yield


async def takes_two(bus: GoEvent, other: int) -> AsyncIterator[None]:
    yield


async def right() -> AsyncIterator[None]:
    yield


async def generates() -> AsyncGenerator[None]:
    yield


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (no_yield, "no_yield has no `yield`"),
        (a_def, "a_def is a `def`"),
        (takes_two, "takes_two takes (bus:"),
        (print, "print is neither"),
        (lambda: None, "is neither an async generator function"),
        (None, "None is no function"),
        (right(), "leave out the ()"),
        (asynccontextmanager(generates)(), "leave out the ()"),
        (int, "is no class of async context managers"),
    ],
)
def test_an_object_that_is_no_lifespan_function_is_refused(wrong: Any, message: str) -> None:
    bus = GoEvent()
    with pytest.raises(TypeError, match="a lifespan function surrounds the open bus") as caught:
        bus.lifespan(wrong)
    assert message in str(caught.value)
