"""The subscriptions of a bus: keeps what the driver receives in step with who listens.

An actor of the bus while a driver runs. Registering a listener only notes that its events are
wanted; this actor asks the driver, in batches, and tries again if that fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from .._errors import BusClosed, DriverConnectionError, DriverError
from .._options.retry import jittered_pause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..drivers.contract import Driver

BACKOFF = 0.5  # seconds before a failed subscription is tried again; doubles
MAX_BACKOFF = 30.0


class Subscriptions:
    """What one bus has asked its driver for."""

    def __init__(self, driver: Driver, report: Callable[[Exception, str], object]) -> None:
        self._driver = driver
        self._report = report
        self._wanted: dict[str, None] = {}
        self._confirmed: dict[str, None] = {}
        self._failed: dict[str, DriverError] = {}
        self._failures = 0
        self._underway: list[str] = []  # the driver is being asked about these
        self._changed = trio.Event()
        self._settled = trio.lowlevel.ParkingLot()
        self._ended = False

    def want(self, name: str) -> None:
        """Have events of a name or pattern received, soon."""
        if name not in self._wanted:
            self._wanted[name] = None
            self._failed.pop(name, None)
            self._changed.set()

    def forget(self, name: str) -> None:
        """Have them received no more, soon."""
        if self._wanted.pop(name, self) is None:
            self._failed.pop(name, None)
            self._changed.set()

    async def ready(self, names: Iterable[str] | None = None) -> None:
        """Wait until the broker has confirmed these names, or all that are wanted now.

        Raises:
            DriverError: it has refused one.
            BusClosed: the bus has ended before.
        """
        asked = list(self._wanted if names is None else names)
        await trio.lowlevel.checkpoint()
        while True:
            pending = [n for n in asked if n in self._wanted and n not in self._confirmed]
            for name in pending:
                if name in self._failed:
                    raise self._failed[name]
            if not pending:
                return
            if self._ended:
                await trio.lowlevel.checkpoint_if_cancelled()
                raise BusClosed("the bus was closed before its driver had subscribed")
            await self._settled.park()

    @enable_ki_protection
    async def run(self) -> None:
        """Ask the driver for what is wanted, until cancelled."""
        try:
            while True:
                await self._catch_up()
        finally:
            self._ended = True
            self._settled.unpark_all()

    async def _catch_up(self) -> None:
        """Ask for what has changed, and wait for the next change."""
        self._changed = trio.Event()
        wanted = [n for n in self._wanted if n not in self._confirmed]
        unwanted = [n for n in self._confirmed if n not in self._wanted]
        if wanted:
            await self._subscribe(wanted)
        if unwanted:
            await self._unsubscribe(unwanted)
        self._settled.unpark_all()
        pause = trio.CancelScope()
        if self._failed:
            seconds = jittered_pause(BACKOFF, MAX_BACKOFF, 0.5, self._failures)
            pause.deadline = trio.current_time() + seconds
        with pause:
            await self._changed.wait()

    async def _subscribe(self, names: list[str]) -> None:
        self._underway = names
        try:
            await self._driver.subscribe(names)
            self._underway = []
        except DriverError as error:
            self._underway = []
            if len(names) > 1 and not isinstance(error, DriverConnectionError):
                for name in names:  # one that is refused must not hold up the others
                    await self._subscribe([name])
                return
            self._failures += 1
            for name in names:
                if name not in self._failed:
                    self._report(error, name)
                self._failed[name] = error
        else:
            self._failures = 0
            self._confirmed.update(dict.fromkeys(names))
            for name in names:
                self._failed.pop(name, None)

    async def _unsubscribe(self, names: list[str]) -> None:
        self._underway = names
        for name in names:
            self._confirmed.pop(name, None)
        try:
            await self._driver.unsubscribe(names)
            self._underway = []
        except DriverError as error:  # the broker may go on sending; nobody listens
            self._underway = []
            for name in names:
                self._report(error, name)

    async def drop_all(self) -> None:
        """Unsubscribe from everything, as the bus ends."""
        names = [*dict.fromkeys((*self._confirmed, *self._underway))]
        if names:
            await self._unsubscribe(names)
