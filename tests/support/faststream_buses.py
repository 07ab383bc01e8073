"""Buses on FastStream's brokers, for tests: they keep their reports."""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import replace
from functools import cached_property
from typing import Any

from goevent import (
    Backlog,
    Capabilities,
    Config,
    DispatchHandle,
    EventError,
    GoEvent,
    current_delivery,
)
from goevent_faststream import FastStreamDriver
from tests.support.redis_buses import REGISTRY, Paid


class FastStreamBus(GoEvent):
    """A bus on any broker.

    Args:
        driver: The driver, or its URL.
        config: Further settings of the bus.

    Attributes:
        reports: The errors that were reported to the supervisor.
    """

    def __init__(self, driver: FastStreamDriver | str, **config: Any) -> None:
        if isinstance(driver, str):
            driver = FastStreamDriver.from_url(driver)
        super().__init__(Config(driver=driver, registry=REGISTRY, slow_after=None, **config))
        self.reports: list[EventError] = []
        self.on_error(self.reports.append)

    @cached_property
    def driver(self) -> FastStreamDriver:
        """The driver."""
        driver = super().driver
        assert isinstance(driver, FastStreamDriver)
        return driver

    def count_reports(self, text: str) -> int:
        """Return how many reports contain a text."""
        return sum(text in str(error) for error in self.reports)

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return the work of the group."""
        return self.driver.snapshot().backlogs

    def seen(self, *events: str | type, **options: Any) -> list[Any]:
        """Listen, and return a list that gets every event."""
        arrived: list[Any] = []
        self.subscribe(lambda event: arrived.append(event), *(events or (Paid,)), **options)
        return arrived

    def tries(self, *, fail: Callable[[Any], bool]) -> list[tuple[int, int]]:
        """Listen, and return a list that gets (n, deliveries); fail where `fail` is true."""
        arrived: list[tuple[int, int]] = []

        async def note(event: Paid) -> None:
            arrived.append((event.n, current_delivery().deliveries))
            if fail(event):
                raise ValueError(f"no {event.n}")

        self.subscribe(note, Paid)
        return arrived


class EventsOnlyDriver(FastStreamDriver):
    """A driver without direct messages, for tests that count what a broker gets for events."""

    @property
    def capabilities(self) -> Capabilities:
        """The guarantees of the broker, without requests and replies."""
        return replace(super().capabilities, replies=False)


async def accepted(bus: GoEvent, *numbers: int) -> list[DispatchHandle]:
    """Dispatch events, and wait until the broker has accepted them."""
    handles = [await bus.dispatch(Paid(n=n)) for n in numbers]
    for handle in handles:
        await handle.wait()
        handle.raise_errors()
    return handles


def grown(arrived: Sized, by: int = 50) -> Callable[[], bool]:
    """Return a condition that is true once a collection has grown by so many items."""
    enough = len(arrived) + by
    return lambda: len(arrived) >= enough
