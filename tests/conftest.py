"""Settings and fixtures of all tests."""

import signal
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import settings

from goevent import Config, EventRegistry

# A busy machine is not a defect.
settings.register_profile("goevent", deadline=None)
settings.load_profile("goevent")


def pytest_configure() -> None:
    """Let SIGINT interrupt, in this process and in all processes that tests start.

    A shell starts a background job (`pytest &`) with SIGINT ignored, and processes inherit that.
    Each worker of pytest-xdist loads this file, too.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def bus_config(request: pytest.FixtureRequest, bus_config: Config) -> Config:
    """Let the `bus` fixture use the `REGISTRY` of the test's module, if there is one."""
    module = cast("object", request.module)  # pyright: ignore[reportUnknownMemberType]
    registry: EventRegistry | None = getattr(module, "REGISTRY", None)
    return bus_config if registry is None else replace(bus_config, registry=registry)
