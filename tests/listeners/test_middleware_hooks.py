"""Hooks without a bus: the attribution of exceptions, and those that pass through a hook."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial, wraps
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from goevent import (
    Config,
    Delivery,
    Event,
    EventRegistry,
    GoEvent,
    Ledger,
    ListenerTimeout,
    Retry,
    Veto,
)
from goevent._errors import HookFailed, Vetoed
from goevent._options.middleware import check_middleware, hooks_of, within, within_async

REGISTRY = EventRegistry()
KINDS = pytest.mark.parametrize("kind", ["sync", "mixed", "async"])

SyncHook = Callable[[Any], Iterator[None]]


class Ping(Event, name="hooks.ping", registry=REGISTRY):
    pass


class Middleware:
    """Middleware whose hook is a given function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.around_call = function


class Outer(Middleware):
    pass


class Inner(Middleware):
    pass


def as_async(function: SyncHook) -> Callable[[Any], AsyncIterator[None]]:
    """Return an async hook that does the same as a sync one."""

    async def around(subject: Any) -> AsyncIterator[None]:
        generator: Any = function(subject)
        step: Callable[[], None] = partial(next, generator)
        try:
            while True:
                await trio.lowlevel.cancel_shielded_checkpoint()
                try:
                    step()
                except StopIteration:
                    return
                try:
                    yield
                    step = partial(next, generator)
                except (Exception, trio.Cancelled, KeyboardInterrupt, BaseExceptionGroup) as error:
                    step = partial(generator.throw, error)
        finally:
            generator.close()

    return around


async def run(kind: str, body: Callable[[], object], *hooks: SyncHook) -> None:
    """Run a body within one hook, or within two, the first of which belongs to `Outer`."""
    classes = (Outer, Inner) if len(hooks) > 1 else (Inner,)
    middleware = [
        cls(as_async(hook) if kind == "async" else hook)
        for cls, hook in zip(classes, hooks, strict=True)
    ]
    if kind == "sync":
        with within(hooks_of(middleware, "around_call"), "subject"):
            body()
    else:
        async with within_async(hooks_of(middleware, "around_call"), "subject"):
            body()


def ok() -> None:
    """A body that does nothing."""


def fails() -> None:
    raise ValueError("the listener's")


def quiet(subject: Any) -> Iterator[None]:
    yield


def swallow(subject: Any) -> Iterator[None]:
    try:
        yield
    except Exception:
        return


class RecordsExceptions:
    """A hook that records the exceptions raised at its yield."""

    def __init__(self) -> None:
        self.saw: list[object] = []

    def hook(self, subject: Any) -> Iterator[None]:
        self.saw.append(subject)
        try:
            yield
        except BaseException as error:
            self.saw.append(error)
            raise
        self.saw.append("left")


# -- hooks that succeed


@KINDS
async def test_hooks_are_entered_from_the_outside_in_and_left_from_the_inside_out(
    kind: str,
) -> None:
    log: list[str] = []

    def named(name: str) -> SyncHook:
        def hook(subject: Any) -> Iterator[None]:
            log.append(f"enter {name} with {subject}")
            yield
            log.append(f"leave {name}")

        return hook

    await run(kind, lambda: log.append("body"), named("outer"), named("inner"))
    assert log == [
        "enter outer with subject",
        "enter inner with subject",
        "body",
        "leave inner",
        "leave outer",
    ]


# -- failures of the code inside


@KINDS
async def test_a_failure_inside_passes_unchanged(kind: str) -> None:
    watch = RecordsExceptions()
    with pytest.raises(ValueError, match="the listener's") as caught:
        await run(kind, fails, watch.hook, quiet)
    error = caught.value
    assert watch.saw == ["subject", error]
    assert (error.__cause__, error.__context__) == (None, None)
    # No frame of the middleware's implementation is between the caller and the failing code.
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-2:] == ["run", "fails"]
    assert len(names) == 3


@KINDS
@pytest.mark.parametrize("hooks", [(swallow,), (quiet, swallow), (swallow, quiet)])
async def test_a_failure_that_a_hook_swallows_is_raised_again(
    kind: str, hooks: tuple[SyncHook, ...]
) -> None:
    with pytest.raises(ValueError, match="the listener's"):
        await run(kind, fails, *hooks)


@KINDS
@pytest.mark.parametrize("error", [StopAsyncIteration(), RuntimeError("no")])
async def test_exceptions_that_generators_treat_specially_pass_too(
    kind: str, error: Exception
) -> None:
    def body() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await run(kind, body, quiet, quiet)
    assert caught.value is error


def test_a_stop_iteration_of_an_inline_listener_passes_too() -> None:
    hooks = hooks_of([Outer(quiet), Inner(quiet)], "around_call")
    with pytest.raises(StopIteration), within(hooks, None):
        raise StopIteration


@KINDS
async def test_a_veto_raised_by_a_listener_is_a_failure(kind: str) -> None:
    def body() -> None:
        raise Veto("not mine to give")

    with pytest.raises(Veto):
        await run(kind, body, quiet)


@KINDS
async def test_a_failure_that_a_hook_puts_into_a_group_is_still_the_listeners(kind: str) -> None:
    def group(subject: Any) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise ExceptionGroup("as a nursery does", [ExceptionGroup("deep", [error])]) from None

    watch = RecordsExceptions()
    with pytest.raises(ValueError, match="the listener's") as caught:
        await run(kind, fails, watch.hook, group)
    assert watch.saw == ["subject", caught.value]


@KINDS
async def test_a_part_of_a_group_that_a_hook_swallows_is_raised_again_with_the_rest(
    kind: str,
) -> None:
    def part(subject: Any) -> Iterator[None]:
        try:
            yield
        except* ValueError:
            pass

    def body() -> None:
        raise ExceptionGroup("two", [ValueError(), KeyError()])

    with pytest.raises(ExceptionGroup) as caught:
        await run(kind, body, part)
    assert len(caught.value.exceptions) == 2


# -- failures of hooks


@KINDS
async def test_an_error_above_the_yield_is_the_hooks_and_nothing_inside_runs(kind: str) -> None:
    cause = KeyError("mine")
    inside: list[object] = []

    def hook(subject: Any) -> Iterator[None]:
        raise cause
        yield

    watch = RecordsExceptions()
    with pytest.raises(HookFailed) as caught:
        await run(kind, lambda: inside.append("body"), watch.hook, hook)
    assert (caught.value.middleware, caught.value.error) == ("Inner", cause)
    assert watch.saw == ["subject", cause]
    assert inside == []

    with pytest.raises(HookFailed) as caught:
        await run(kind, lambda: inside.append("body"), hook, RecordsExceptions().hook)
    assert caught.value.middleware == "Outer"
    assert inside == []


@KINDS
@pytest.mark.parametrize("body", [ok, fails])
async def test_an_error_below_the_yield_is_the_hooks(kind: str, body: Callable[[], None]) -> None:
    cause = KeyError("mine")

    def hook(subject: Any) -> Iterator[None]:
        try:
            yield
        finally:
            raise cause

    watch = RecordsExceptions()
    with pytest.raises(HookFailed) as caught:
        await run(kind, body, watch.hook, hook)
    assert (caught.value.middleware, caught.value.error) == ("Inner", cause)
    assert watch.saw == ["subject", cause]
    assert (cause.__context__ is None) == (body is ok)


@KINDS
async def test_the_traceback_of_a_hooks_error_begins_in_the_hook(kind: str) -> None:
    def hook(subject: Any) -> Iterator[None]:
        yield
        raise KeyError

    with pytest.raises(HookFailed) as caught:
        await run(kind, ok, hook)
    names = [frame.name for frame in traceback.extract_tb(caught.value.error.__traceback__)]
    assert names == ["around", "hook"] if kind == "async" else ["hook"]


@KINDS
@pytest.mark.parametrize("outer", [quiet, swallow])
async def test_an_exception_that_passes_an_outer_hook_is_not_its_own(
    kind: str, outer: SyncHook
) -> None:
    def hook(subject: Any) -> Iterator[None]:
        yield
        raise KeyError("mine")

    with pytest.raises(HookFailed) as caught:
        await run(kind, ok, outer, hook)
    assert caught.value.middleware == "Inner"
    assert isinstance(caught.value.error, KeyError)


@KINDS
async def test_of_two_errors_the_outer_one_counts_and_has_the_inner_one_as_context(
    kind: str,
) -> None:
    def hook(subject: Any) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise KeyError(str(error)) from error
        except KeyError as error:
            raise OSError(str(error)) from error

    with pytest.raises(HookFailed) as caught:
        await run(kind, fails, hook, hook)
    assert caught.value.middleware == "Outer"
    assert isinstance(caught.value.error, OSError)
    assert isinstance(caught.value.error.__cause__, KeyError)
    assert isinstance(caught.value.error.__cause__.__cause__, ValueError)


@KINDS
async def test_a_group_with_an_error_of_the_hook_in_it_is_the_hooks(kind: str) -> None:
    def hook(subject: Any) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise ExceptionGroup("both", [error, KeyError("mine")]) from None

    with pytest.raises(HookFailed) as caught:
        await run(kind, fails, hook)
    assert isinstance(caught.value.error, ExceptionGroup)


# -- vetoes


@KINDS
async def test_a_veto_above_the_yield_names_its_middleware_and_reason(kind: str) -> None:
    class NotToday(Veto):
        pass

    def hook(subject: Any) -> Iterator[None]:
        raise NotToday("a holiday")
        yield

    watch = RecordsExceptions()
    with pytest.raises(Vetoed) as caught:
        await run(kind, fails, watch.hook, hook)
    assert (caught.value.middleware, caught.value.reason) == ("Inner", "a holiday")
    assert isinstance(watch.saw[1], NotToday)


@KINDS
async def test_a_veto_holds_against_a_hook_that_swallows_it(kind: str) -> None:
    def hook(subject: Any) -> Iterator[None]:
        raise Veto("no")
        yield

    with pytest.raises(Vetoed) as caught:
        await run(kind, fails, swallow, hook)
    assert caught.value.middleware == "Inner"


@KINDS
async def test_a_veto_below_the_yield_comes_too_late(kind: str) -> None:
    def hook(subject: Any) -> Iterator[None]:
        yield
        raise Veto("too late")

    with pytest.raises(HookFailed) as caught:
        await run(kind, ok, hook)
    assert isinstance(caught.value.error, Veto)


@KINDS
async def test_a_hook_that_fails_on_the_veto_of_another_has_failed(kind: str) -> None:
    def deny(subject: Any) -> Iterator[None]:
        raise Veto("no")
        yield

    def hook(subject: Any) -> Iterator[None]:
        try:
            yield
        finally:
            raise KeyError("mine")

    with pytest.raises(HookFailed) as caught:
        await run(kind, ok, hook, deny)
    assert caught.value.middleware == "Outer"


# -- generators that do not yield once


@KINDS
async def test_a_hook_that_does_not_yield_has_failed_and_nothing_runs(kind: str) -> None:
    def hook(subject: Any) -> Iterator[None]:
        if subject == "another":
            yield

    with pytest.raises(HookFailed, match="didn't yield"):
        await run(kind, fails, hook)


@KINDS
@pytest.mark.parametrize("body", [ok, fails])
async def test_a_hook_that_yields_twice_has_failed_and_is_closed(
    kind: str, body: Callable[[], None]
) -> None:
    log: list[str] = []

    def hook(subject: Any) -> Iterator[None]:
        try:
            try:
                yield
            except ValueError:
                log.append("caught")
            yield
        finally:
            log.append("closed")

    with pytest.raises(HookFailed, match="didn't stop") as caught:
        await run(kind, body, quiet, hook)
    assert caught.value.middleware == "Inner"
    assert log == (["closed"] if body is ok else ["caught", "closed"])


# -- cancellation


def alone(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test by `trio.run`. With the plugin, a stray Cancelled would let the test pass."""

    @wraps(test)
    def run_alone(**arguments: Any) -> None:
        trio.run(partial(test, **arguments), clock=MockClock(autojump_threshold=0))

    return run_alone


@alone
async def test_a_cancellation_from_outside_passes_through() -> None:
    async def around(subject: Any) -> AsyncIterator[None]:
        async with trio.open_nursery():
            yield

    watch = RecordsExceptions()
    hooks = hooks_of([Outer(watch.hook), Inner(around)], "around_call")
    with trio.CancelScope() as scope:
        scope.cancel()
        async with within_async(hooks, None):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert len(watch.saw) == 2


@alone
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", ["mixed", "async"])
async def test_a_hook_whose_scope_cancels_the_code_inside_has_failed(
    kind: str, grouped: bool
) -> None:
    def around(subject: Any) -> Iterator[None]:
        with trio.move_on_after(1):
            yield

    async def around_async(subject: Any) -> AsyncIterator[None]:
        with trio.move_on_after(1):
            yield

    async def body() -> None:
        async with within_async(hooks, None):
            if grouped:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()

    watch = RecordsExceptions()
    hook = around if kind == "mixed" else around_async
    hooks = hooks_of([Outer(watch.hook), Inner(hook)], "around_call")
    with pytest.raises(HookFailed, match=r"trio\.fail_after") as caught:
        await body()
    assert caught.value.middleware == "Inner"
    # The cancellation is over, so no other code sees it.
    assert watch.saw == [None, caught.value.error]


@alone
async def test_other_exceptions_raised_when_a_hooks_scope_ends_are_not_the_hooks() -> None:
    def around(subject: Any) -> Iterator[None]:
        with trio.CancelScope() as scope:
            scope.cancel()
            yield

    async def stubborn() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("the listener's")

    async def body() -> None:
        hooks = hooks_of([Inner(around)], "around_call")
        async with within_async(hooks, None), trio.open_nursery() as nursery:
            nursery.start_soon(stubborn)
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await body()
    assert [str(error) for error in caught.value.exceptions] == ["the listener's"]


@alone
async def test_a_hook_that_swallows_a_cancellation_has_failed_and_the_scope_still_ends() -> None:
    def around(subject: Any) -> Iterator[None]:
        try:
            yield
        except BaseException:
            return

    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(HookFailed):
            async with within_async(hooks_of([Inner(around)], "around_call"), None):
                await trio.sleep_forever()
        await trio.sleep_forever()
    assert scope.cancelled_caught


@KINDS
async def test_an_error_of_a_hook_that_is_being_cancelled_is_the_hooks(kind: str) -> None:
    def hook(subject: Any) -> Iterator[None]:
        try:
            yield
        finally:
            raise KeyError("mine")

    def body() -> None:
        raise KeyboardInterrupt

    with pytest.raises(HookFailed) as caught:
        await run(kind, body, quiet, hook)
    assert isinstance(caught.value.error.__context__, KeyboardInterrupt)


@KINDS
@pytest.mark.parametrize("error", [KeyboardInterrupt(), BaseExceptionGroup("", [SystemExit()])])
async def test_an_interrupt_passes_every_hook(kind: str, error: BaseException) -> None:
    def hook(subject: Any) -> Iterator[None]:
        try:
            yield
        except BaseException:
            return

    def body() -> None:
        raise error

    watch = RecordsExceptions()
    with pytest.raises(type(error)) as caught:
        await run(kind, body, watch.hook, hook)
    assert caught.value is error
    assert watch.saw == ["subject", error]


@alone
async def test_an_async_hook_that_is_cancelled_above_its_yield_is_closed() -> None:
    log: list[str] = []

    async def around(subject: Any) -> AsyncIterator[None]:
        try:
            await trio.sleep_forever()
            yield
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0)
            log.append("closed")

    watch = RecordsExceptions()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with within_async(hooks_of([Outer(watch.hook), Inner(around)], "around_call"), 1):
            log.append("body")
    assert scope.cancelled_caught
    assert log == ["closed"]
    assert len(watch.saw) == 2


# -- on a bus: the scopes of hooks and those of the kernel


class Scope:
    """Sync middleware that keeps a cancel scope open."""

    def around_call(self, delivery: Delivery, /) -> Iterator[None]:
        with trio.CancelScope():
            yield


class Nursery:
    """Async middleware that keeps a nursery with a task open."""

    async def around_call(self, delivery: Delivery, /) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield
            nursery.cancel_scope.cancel()


class CancelsSlowRuns:
    """Async middleware that silently cancels runs that take a second."""

    async def around_call(self, delivery: Delivery, /) -> AsyncIterator[None]:
        with trio.move_on_after(1):
            yield


@alone
@pytest.mark.parametrize("async_", [None, False])
@pytest.mark.parametrize("middleware", [Scope(), Nursery()])
async def test_a_timeout_ends_inside_the_scopes_of_middleware(
    middleware: Any, async_: bool | None
) -> None:
    async with GoEvent(Config(registry=REGISTRY, middleware=(middleware,))) as bus:
        times = iter([5, 1, 5])

        @bus.listener(Ping, timeout=3, async_=async_, name="it")
        async def it(event: Ping) -> None:
            await trio.sleep(next(times))

        start = trio.current_time()
        for outcome in ("late", "in time", "late"):
            handle = await bus.dispatch(Ping())
            await handle.wait()
            assert [(error.listener, type(error.error)) for error in handle.errors] == (
                [("it", ListenerTimeout)] if outcome == "late" else []
            )
        assert trio.current_time() - start == 7
        ledger = await bus.close()
    assert ledger == Ledger(accepted=3, completed=1, failed=2)


@alone
@pytest.mark.parametrize("async_", [None, False])
async def test_a_run_that_middleware_cancels_is_its_failure_and_the_bus_goes_on(
    async_: bool | None,
) -> None:
    async with GoEvent(Config(registry=REGISTRY, middleware=(CancelsSlowRuns(),))) as bus:
        times = iter([5, 0.5])

        @bus.listener(Ping, async_=async_)
        async def it(event: Ping) -> None:
            await trio.sleep(next(times))

        handle = await bus.dispatch(Ping())
        await handle.wait()
        (error,) = handle.errors
        assert error.listener == "CancelsSlowRuns"
        handle = await bus.dispatch(Ping())
        await handle.wait()
        assert handle.errors == ()
        ledger = await bus.close()
    assert ledger == Ledger(accepted=2, completed=1, failed=1)


@pytest.mark.parametrize("async_", [None, False])
async def test_a_retry_recognises_a_failure_that_came_through_a_nursery(
    async_: bool | None, autojump_clock: MockClock
) -> None:
    async with GoEvent(Config(registry=REGISTRY, middleware=(Nursery(),))) as bus:
        runs: list[Event] = []

        @bus.listener(Ping, retry=Retry(on=OSError), async_=async_)
        async def it(event: Ping) -> None:
            runs.append(event)
            if len(runs) < 3:
                raise OSError

        handle = await bus.dispatch(Ping())
        await handle.wait()
        assert handle.errors == ()
    assert len(runs) == 3


# -- accepted and refused middleware


class Partial:
    def __init__(self) -> None:
        self.around_dispatch = partial(self._hook, "first")

    def _hook(self, name: str, subject: Any, /) -> Iterator[None]:
        yield


def test_a_hook_may_be_any_function_with_a_yield() -> None:
    middleware = check_middleware([Partial(), CancelsSlowRuns(), Scope()])
    assert [hook.suspends for hook in hooks_of(middleware, "around_call")] == [True, False]
    (hook,) = hooks_of(middleware, "around_dispatch")
    with within((hook,), "subject"):
        pass


@pytest.mark.parametrize(
    ("middleware", "why"),
    [
        (Scope, r"write Scope\(\)"),
        (object(), "is not middleware"),
        (Middleware(lambda subject: None), r"Middleware\.around_call has no `yield`"),
        (Middleware(trio.sleep), "has no `yield`"),
    ],
)
def test_an_object_that_is_not_middleware_is_refused(middleware: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        check_middleware([middleware])
