"""The subscriptions of a bus: keeps the driver's subscriptions in step with the listeners.

The router calls `want` and `forget` when the first listener of a name or pattern comes and when the
last one goes. `Subscriptions.run` is a task of the bus while a driver runs. `bus.ready()` and
`Registration.ready()` wait here.

Theory of operation. Registering a listener is synchronous, but subscribing takes a round trip to
the broker. So `want` and `forget` change only the set of *wanted* names, and the task compares it
with the set of *confirmed* names and asks the driver for the difference, in one batch each. A name
moves to the confirmed ones when the driver has returned. The calls may come in any order during a
round trip: the next comparison finds the remaining difference. It looks only at the names that have
changed since the last one, so that a new name costs the same beside thousands of others.

If the driver raises, the names stay wanted and become *failed*; the task tries all of them again
after a pause that doubles, unless the driver supports none of them. A batch may have failed because
of one refused name, so its halves are tried, unless the connection was lost. `ready` raises the
error of a failed name and otherwise waits until the names it was asked for are confirmed or no
longer wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from .._errors import BusClosed, DriverConnectionError, GoEventError, UnsupportedError
from .._events.names import REPLIES_NAME
from .._options.retry import jittered_pause
from ..drivers.error_mapping import driver_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..drivers.contract import Driver

FIRST_RETRY_PAUSE_SECONDS = 0.5
MAX_RETRY_PAUSE_SECONDS = 30.0
RETRY_JITTER = 0.5


class AddressBook(Protocol):
    """Opens addresses of direct messages in place of a subscription to events."""

    @property
    def answers_rolls(self) -> bool:
        """True if other buses ask this one which events it listens to."""
        ...

    def opens(self, name: str) -> bool:
        """Tell whether a name stands for addresses, and not for events."""
        ...

    async def open(self, names: Sequence[str]) -> None: ...
    async def close(self, names: Sequence[str]) -> None: ...


class Subscriptions:
    """The names and patterns that one bus receives, or wants to receive, from its driver.

    Args:
        driver: The driver.
        report: Reports an error and the name of its event to the supervisor.
    """

    def __init__(self, driver: Driver, report: Callable[[Exception, str], object]) -> None:
        self._driver = driver
        self._addresses: AddressBook | None = None
        self._report = report
        # Dicts in place of sets keep the order of registration.
        self._wanted: dict[str, None] = {}
        self._confirmed: dict[str, None] = {}
        self._failed: dict[str, GoEventError] = {}
        # The names whose wanted state may differ from the confirmed one.
        self._unsettled: dict[str, None] = {}
        # Failed requests since the last successful one, for the length of the pause.
        self._failures = 0
        # The names of the request that the driver is working on. If the task is cancelled
        # meanwhile, it is unknown whether the broker has them, so `drop_all` unsubscribes from them
        # too.
        self._in_flight: list[str] = []
        self._changed = trio.Event()
        self._updated = trio.lowlevel.ParkingLot()
        self._ended = False

    def use(self, addresses: AddressBook) -> None:
        """Have the addresses that some names stand for opened in place of subscriptions."""
        self._addresses = addresses

    def want(self, name: str) -> None:
        """Ask the driver soon to receive the events of a name or pattern."""
        if name not in self._wanted:
            self._wanted[name] = None
            self._failed.pop(name, None)
            self._unsettled[name] = None
            self._changed.set()
            if self._addresses is not None and self._addresses.answers_rolls:
                # A bus without listeners has nothing to answer, and needs no right for it.
                self.want(REPLIES_NAME)

    def forget(self, name: str) -> None:
        """Ask the driver soon to stop receiving the events of a name or pattern."""
        # The default `self` tells a name that was not wanted from one with the value None.
        if self._wanted.pop(name, self) is None:
            self._failed.pop(name, None)
            self._unsettled[name] = None
            self._changed.set()

    async def ready(self, names: Iterable[str] | None = None) -> None:
        """Wait until the broker has confirmed these names, or all that are wanted now.

        Always a checkpoint. A name that is forgotten meanwhile is not waited for. The address of
        the bus may be refused, unless it is asked for: listeners need it for reports only.

        Raises:
            DriverError: The broker has refused a name; the task tries again later.
            BusClosed: The bus has ended before the broker confirmed all names.
        """
        asked = list(self._wanted if names is None else names)
        await trio.lowlevel.checkpoint()
        while True:
            pending = [n for n in asked if n in self._wanted and n not in self._confirmed]
            if names is None and REPLIES_NAME in self._failed and REPLIES_NAME in pending:
                pending.remove(REPLIES_NAME)
            for name in pending:
                if name in self._failed:
                    # Each caller gets the same error, which must not collect the frames of all.
                    raise self._failed[name].with_traceback(None)
            if not pending:
                return
            if self._ended:
                await trio.lowlevel.checkpoint_if_cancelled()
                raise BusClosed("the bus was closed before its driver had subscribed")
            await self._updated.park()

    @enable_ki_protection
    async def run(self) -> None:
        """Keep the driver's subscriptions up to date until cancelled."""
        try:
            while True:
                await self._update()
        finally:
            self._ended = True
            self._updated.unpark_all()

    async def _update(self) -> None:
        """Ask the driver for the difference, and wait for the next change or the next attempt."""
        # Before the comparison: a change during the requests below sets the new event.
        self._changed = trio.Event()
        changed = self._unsettled | dict.fromkeys(self._failed)
        self._unsettled = {}
        wanted = [n for n in changed if n in self._wanted and n not in self._confirmed]
        unwanted = [n for n in changed if n in self._confirmed and n not in self._wanted]
        if wanted:
            await self._subscribe(wanted)
        if unwanted:
            await self._unsubscribe(unwanted)
        self._updated.unpark_all()
        pause = trio.CancelScope()
        if not all(isinstance(error, UnsupportedError) for error in self._failed.values()):
            seconds = jittered_pause(
                FIRST_RETRY_PAUSE_SECONDS, MAX_RETRY_PAUSE_SECONDS, RETRY_JITTER, self._failures
            )
            pause.deadline = trio.current_time() + seconds
        with pause:
            await self._changed.wait()

    async def _subscribe(self, names: list[str]) -> None:
        self._in_flight = names
        try:
            with driver_errors(self._driver, "subscribe"):
                events, addressed = self._divide(names)
                if events:
                    await self._driver.subscribe(events)
                if addressed and self._addresses is not None:
                    await self._addresses.open(addressed)
            self._in_flight = []
        except GoEventError as error:
            self._in_flight = []
            if len(names) > 1 and not isinstance(error, DriverConnectionError):
                # One refused name must not keep the others from being subscribed. Halves, because a
                # request for each of thousands of names would take long.
                middle = len(names) // 2
                await self._subscribe(names[:middle])
                await self._subscribe(names[middle:])
                return
            self._failures += 1
            for name in names:
                # The first failure of a name is reported, its repetitions are not.
                if name not in self._failed:
                    self._report(error, name)
                self._failed[name] = error
        else:
            self._failures = 0
            self._confirmed.update(dict.fromkeys(names))
            for name in names:
                self._failed.pop(name, None)

    async def _unsubscribe(self, names: list[str]) -> None:
        self._in_flight = names
        # Before the request: a name that is wanted again meanwhile must be subscribed to anew.
        for name in names:
            self._confirmed.pop(name, None)
        try:
            with driver_errors(self._driver, "unsubscribe"):
                events, addressed = self._divide(names)
                if events:
                    await self._driver.unsubscribe(events)
                if addressed and self._addresses is not None:
                    await self._addresses.close(addressed)
            self._in_flight = []
        except GoEventError as error:
            # The broker may go on sending these events, but no listener gets them.
            self._in_flight = []
            for name in names:
                self._report(error, name)

    def _divide(self, names: list[str]) -> tuple[list[str], list[str]]:
        """Divide names into those of events, and those that stand for addresses."""
        addresses = self._addresses
        if addresses is None:
            return names, []
        addressed = [name for name in names if addresses.opens(name)]
        return [name for name in names if name not in addressed], addressed

    async def drop_all(self) -> None:
        """Unsubscribe from all events, because the bus ends.

        Its addresses stay open: the listeners that drain wait for answers, and other buses for
        theirs. They end with the driver.
        """
        names, _ = self._divide([*dict.fromkeys((*self._confirmed, *self._in_flight))])
        if names:
            await self._unsubscribe(names)
