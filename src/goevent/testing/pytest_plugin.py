"""The pytest plugin: a `bus` fixture that fails the test on errors nobody looked at.

It works with pytest-trio and its clocks. Tests that use `bus` are Trio tests.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import pytest

from .. import Config, EventError, GoEvent
from ._conformance.case import NotApplicable, alone
from ._recorder import Recorder, record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    def trio_fixture(function: Callable[..., Any]) -> Any: ...
else:
    try:
        from pytest_trio import trio_fixture
    except ImportError:
        # Without pytest-trio nothing can run the fixture; asking for it says what to install.
        def trio_fixture(function):
            @pytest.fixture(name=function.__name__)
            def unavailable():
                pytest.fail(
                    "the `bus` fixture of goevent needs pytest-trio: pip install pytest-trio"
                )

            return unavailable


@pytest.fixture
def bus_config() -> Config:
    """The configuration of the `bus` fixture; define your own to change it."""
    return Config()


@trio_fixture
async def bus(bus_config: Config) -> AsyncGenerator[GoEvent]:
    """An open bus; at the end of the test it drains and closes.

    Raises:
        ExceptionGroup: something failed, and the test looked neither at the handle's errors nor at
            `bus.errors`, and had no `on_error`.
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
    """What is dispatched on the `bus` fixture and what runs, from the start of the test."""
    return record(bus)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """Skip a case of the conformance suite that does not apply, with its reason.

    pytest-trio would lose the reason: to it, a skip comes in the group of a nursery.
    """
    try:
        yield
    except ExceptionGroup as group:
        if group.split(NotApplicable)[1] is not None:
            raise
        pytest.skip(str(alone(group)))


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark of pytest-trio known where that is not installed."""
    if not config.pluginmanager.hasplugin("trio"):
        config.addinivalue_line("markers", "trio: an async test, which needs pytest-trio to run")
