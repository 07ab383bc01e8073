"""The conformance suite, run on the shipped drivers and on drivers made for these tests."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from runpy import run_path
from typing import Any

from tests.support.in_memory_brokers import EchoBroker, EchoDriver, GroupBroker, GroupDriver

from goevent import Driver, MemoryDriver, MemoryHub
from goevent.testing import DriverConformance

EXAMPLES = Path(__file__).parents[2] / "examples"


def load_toy_suite() -> Any:
    """Return the suite of the example, which imports the driver beside it."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return run_path(str(EXAMPLES / "toy_conformance.py"))["TestToyDriver"]
    finally:
        sys.path.remove(str(EXAMPLES))


TestToyDriver = load_toy_suite()


class TestMemoryDriver(DriverConformance):
    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], Driver]]:
        hub = MemoryHub()
        yield lambda group: MemoryDriver(hub)


class TestSmallMemoryHub(DriverConformance):
    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], Driver]]:
        hub = MemoryHub(inbox=1)
        yield lambda group: MemoryDriver(hub)


class TestEchoDriver(DriverConformance):
    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], Driver]]:
        self.echo_broker = EchoBroker()
        yield lambda group: EchoDriver(self.echo_broker)

    @asynccontextmanager
    async def outage(self) -> AsyncGenerator[None]:
        self.echo_broker.fail()
        yield
        self.echo_broker.reachable.set()


class TestGroupDriver(DriverConformance):
    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], Driver]]:
        group_broker = GroupBroker()
        yield lambda group: GroupDriver(group_broker, group)
