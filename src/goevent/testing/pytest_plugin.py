"""The pytest plugin: a `bus` fixture that fails the test on errors nobody looked at.

It works with pytest-trio and its clocks. Tests that use `bus` are Trio tests.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import pytest

from goevent import Config, EventError, GoEvent

from ._recorder import Recorder, record

if TYPE_CHECKING:
    from collections.abc import Callable
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
