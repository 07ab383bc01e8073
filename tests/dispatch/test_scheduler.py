"""Workers, as Trio and the listeners see them, and the checks of the configuration."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.tasks import descendants
from trio.testing import wait_all_tasks_blocked

from goevent import Config, DriverError, Event, EventRegistry, GoEvent, UnknownDriverError

REGISTRY = EventRegistry()


class Ping(Event, name="scheduler.ping", registry=REGISTRY):
    n: int = 0


class ForeignAwaitable:
    """An awaitable of another event loop."""

    def __await__(self) -> Generator[str, None, None]:
        yield "a message that Trio does not know"


async def test_awaiting_a_foreign_object_fails_only_the_listener(
    bus: GoEvent,
) -> None:
    seen: list[int] = []

    @bus.listener(Ping)
    async def stranger(event: Ping) -> None:
        if event.n == 0:
            await ForeignAwaitable()
        await trio.lowlevel.checkpoint()
        seen.append(event.n)

    handles = [await bus.dispatch(Ping(n)) for n in range(3)]
    with trio.fail_after(HANG_SECONDS):
        await bus.wait()
    (error,) = handles[0].errors
    assert isinstance(error.error, TypeError)
    assert seen == [1, 2]


async def test_a_listener_may_catch_the_error_of_a_foreign_await(bus: GoEvent) -> None:
    seen: list[str] = []

    @bus.listener(Ping)
    async def stranger(event: Ping) -> None:
        try:
            await ForeignAwaitable()
        except TypeError:
            seen.append("caught")
        await trio.lowlevel.checkpoint()
        seen.append("went on")

    handle = await bus.dispatch(Ping())
    with trio.fail_after(HANG_SECONDS):
        await handle.wait()
    assert not handle.errors
    assert seen == ["caught", "went on"]


async def test_a_suspended_listener_is_in_the_stack_of_its_task(bus: GoEvent) -> None:
    @bus.listener(Ping)
    async def deep_in_thought(event: Ping) -> None:
        await trio.sleep_forever()

    await bus.dispatch(Ping())
    await wait_all_tasks_blocked()
    root = trio.lowlevel.current_root_task()
    assert root is not None
    names = [
        frame.f_code.co_name for task in descendants(root) for frame, _ in task.iter_await_frames()
    ]
    assert "deep_in_thought" in names
    await bus.close(timeout=0)
    assert [error.outcome for error in bus.errors] == ["abandoned"]


def test_an_object_that_is_no_driver_is_refused() -> None:
    with pytest.raises(TypeError, match="driver is a URL, a name or a driver object"):
        GoEvent(Config(driver=7))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("driver", ["nosuch://localhost", "nothing", "://"])
def test_a_driver_that_is_not_installed_is_named(driver: str) -> None:
    with pytest.raises(UnknownDriverError, match=r"there is: .*memory") as caught:
        GoEvent(driver)
    assert isinstance(caught.value, DriverError)


@pytest.mark.parametrize("timeout", [-1.0, float("nan")])
def test_a_close_timeout_is_seconds_from_zero_up(timeout: float) -> None:
    with pytest.raises(ValueError, match="close_timeout"):
        Config(close_timeout=timeout)


@pytest.mark.parametrize("bound", [0, 151])
def test_a_nesting_bound_that_python_could_not_keep_is_refused(bound: int) -> None:
    with pytest.raises(ValueError, match="max_nesting"):
        Config(max_nesting=bound)
