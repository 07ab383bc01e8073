"""Buses on FastStream's brokers, for tests: they keep what is reported to them."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any

from goevent import Backlog, Config, DispatchHandle, EventError, GoEvent, current_delivery
from goevent_faststream import FastStreamDriver
from tests.support.redis_buses import REGISTRY, Paid


class FastStreamBus(GoEvent):
    """A bus on any broker.

    Args:
        driver: or a URL.
        config: of the bus.
    """

    def __init__(self, driver: FastStreamDriver | str, **config: Any) -> None:
        if isinstance(driver, str):
            driver = FastStreamDriver.from_url(driver)
        self.driver = driver
        super().__init__(Config(driver=driver, registry=REGISTRY, slow_after=None, **config))
        self.told: list[EventError] = []
        self.on_error(self.told.append)

    def says(self, text: str) -> int:
        """Return how many reports hold a text."""
        return sum(text in str(error) for error in self.told)

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return what the group has to do."""
        return self.driver.snapshot().backlogs

    def seen(self, *events: str | type, **options: Any) -> list[Any]:
        """Listen, and return the list to which every event comes."""
        arrived: list[Any] = []
        self.subscribe(lambda event: arrived.append(event), *(events or (Paid,)), **options)
        return arrived

    def tries(self, *, fail: Callable[[Any], bool]) -> list[tuple[int, int]]:
        """Listen, and return a list to which (n, deliveries) come; fail where told."""
        arrived: list[tuple[int, int]] = []

        async def note(event: Paid) -> None:
            arrived.append((event.n, current_delivery().deliveries))
            if fail(event):
                raise ValueError(f"no {event.n}")

        self.subscribe(note, Paid)
        return arrived


async def accepted(bus: GoEvent, *numbers: int) -> list[DispatchHandle]:
    """Dispatch events, and wait until the broker has them."""
    handles = [await bus.dispatch(Paid(n=n)) for n in numbers]
    for handle in handles:
        await handle.wait()
        handle.raise_errors()
    return handles


def grown(arrived: Sized, by: int = 50) -> Callable[[], bool]:
    """Return a test that is true when so much has come on top of what is there now."""
    enough = len(arrived) + by
    return lambda: len(arrived) >= enough
