"""The pytest plugin: the fixtures `bus`, `bus_config` and `recorder`.

pytest loads it by an entry point. It works with pytest-trio and its clocks; a test that uses `bus`
is a Trio test. The `bus` fixture fails the test if a listener failed and the test did not look at
the error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import pytest

from .. import Config, EventError, GoEvent
from ._conformance.runner import NotApplicable, unwrap_single
from ._recorder import Recorder, record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    def trio_fixture(function: Callable[..., Any]) -> Any: ...
else:
    try:
        from pytest_trio import trio_fixture
    except ImportError:
        # Without pytest-trio nothing can run the fixture. A test that asks for it fails with a
        # message that names the missing package.
        def trio_fixture(function):
            @pytest.fixture(name=function.__name__)
            def unavailable():
                pytest.fail(
                    "the `bus` fixture of goevent needs pytest-trio: pip install pytest-trio"
                )

            return unavailable


@pytest.fixture
def bus_config() -> Config:
    """The configuration of the `bus` fixture. Define a fixture of this name to change it.

    Example:
        >>> @pytest.fixture
        ... def bus_config() -> Config:
        ...     return Config(close_timeout=1.0)
    """
    return Config()


@trio_fixture
async def bus(bus_config: Config) -> AsyncGenerator[GoEvent]:
    """An open bus. At the end of the test it drains and closes.

    Example:
        >>> async def test_a_paid_order_gets_an_invoice(bus: GoEvent) -> None:
        ...     bus.subscribe(print, "order.paid")
        ...     handle = await bus.dispatch(Event("order.paid"))
        ...     await handle.wait()

    Raises:
        ExceptionGroup: A listener failed, and the test looked neither at the errors of the handle
            nor at `bus.errors`, and registered no `on_error` callback.
    """
    bus = GoEvent(bus_config)
    unhandled: list[EventError] = []
    bus._collect_unhandled(unhandled)  # pyright: ignore[reportPrivateUsage]
    async with bus:
        yield bus
    if unhandled:
        raise ExceptionGroup("errors on the bus that the test did not look at", unhandled)


@pytest.fixture
def recorder(bus: GoEvent) -> Recorder:
    """A recorder of the `bus` fixture, from the start of the test.

    Example:
        >>> async def test_an_order_is_paid(bus: GoEvent, recorder: Recorder) -> None:
        ...     await bus.dispatch(Event("order.paid"))
        ...     assert len(recorder.dispatched) == 1
    """
    return record(bus)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """Skip a case of the conformance suite that does not apply, with its reason.

    The skip leaves pytest-trio in the exception group of a nursery, which pytest does not know as a
    skip. So it is raised again without the group.
    """
    try:
        yield
    except ExceptionGroup as group:
        if group.split(NotApplicable)[1] is not None:
            raise
        pytest.skip(str(unwrap_single(group)))


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark of pytest-trio where pytest-trio is not installed."""
    if not config.pluginmanager.hasplugin("trio"):
        config.addinivalue_line("markers", "trio: an async test, which needs pytest-trio to run")
