"""The tracking of a dispatch over all buses, for `wait(scope="all")`.

`GoEvent.dispatch` with `scope="all"` makes a `RemoteTracking` before the event leaves: its address
for answers travels with the event. Every bus that gets the event reports. A wait ends when all
reports are there, or when it is certain that the rest will not come, or at its timeout.

Theory of operation. How many reports are to come is known in one of three ways. The caller says
`expect`. Or the broker counts the receivers of the event; then the weights of the reports add up to
that number, because a broker may count a bus once for each of its subscriptions. Otherwise a *roll
call* asks all buses whether they listen to the event. No wait ends before `ROLL_SECONDS` after the
call. A bus that answers later is waited for only while the wait lasts for others, but its report
counts if it comes. Later dispatches of the event use the same roll for `ROLL_AGE_SECONDS`.
"""

# The internals of handles are for the kernel, the ports and the conversations, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import trio

from .._errors import UnsupportedError
from .._remote_report import RemoteOutcome, RemoteReport
from .addresses import ROLL_ADDRESS
from .messages import Done, Present, Received, Roll, remote_error

if TYPE_CHECKING:
    from collections.abc import Collection

    from .._handle import DispatchHandle
    from .._kernel.dispatcher import Dispatcher
    from ..drivers.contract import Driver
    from .link import ConversationLink

ROLL_SECONDS = 0.3
"""How long the other buses have for their answers to a roll call."""

ROLL_AGE_SECONDS = 3.0
"""How long the answers to a roll call are used."""

MAX_ROLLS = 1000
"""The events whose rolls are remembered."""

MAX_REPORTING_BUSES = 10_000
"""The buses whose reports on one event, or whose answers to a roll call, are kept."""

NOT_FINISHED = "its listeners have not finished in time"
NO_REPORT = "it has not reported: the event or the report was lost, or it is slow"
BUS_ENDED = "the bus has ended"
REPORT_LOST = "its report was lost on the way"
NO_ANSWER = (
    "no answer: it does not speak goevent's protocol, as a service in Go, or the event or its "
    "report was lost"
)
NOT_ACCEPTED = "the broker has not accepted the event in time"


class RosterOfListeners:
    """The buses that have answered the roll call for one event.

    Attributes:
        called: When the roll was called, by Trio's clock.
        present: The addresses of these buses.
    """

    __slots__ = ("called", "present")

    def __init__(self) -> None:
        self.called: float = trio.current_time()
        self.present: dict[str, None] = {}


class RemoteTracking:
    """The reports about one dispatch. Its handle owns it.

    Args:
        handle: The handle of the dispatch.
        roster: The answers to the roll call for it; None if the broker counts.
    """

    def __init__(self, handle: DispatchHandle, roster: RosterOfListeners | None) -> None:
        self._event_name = handle.event_name
        self._roster = roster
        self._expect: int | None = None
        self._reports: dict[str, RemoteReport] = {}
        # The buses that have the event and have not reported, each with its report so far.
        self._at_work: dict[str, RemoteReport] = {}
        self._changed = trio.Event()

    # -- what arrives

    def take_received(self, message: Received) -> None:
        """Note a bus whose listeners need time."""
        if message.address not in self._reports and len(self._at_work) < MAX_REPORTING_BUSES:
            weight = max(1, message.weight)
            self._at_work[message.address] = RemoteReport(bus=message.bus, weight=weight)

    def take_done(self, message: Done) -> None:
        """Note the report of a bus; a second one is ignored."""
        if message.address in self._reports and not self._reports[message.address].missing:
            return
        if len(self._reports) >= MAX_REPORTING_BUSES:
            return
        errors = [remote_error(self._event_name, each, message.bus) for each in message.errors]
        self._end(
            message.address,
            RemoteReport(
                bus=message.bus,
                completed=message.completed,
                failed=message.failed,
                dropped=message.dropped,
                abandoned=message.abandoned,
                errors=tuple(errors),
                weight=max(1, message.weight),
            ),
        )

    def lose(self, address: str, reason: str) -> None:
        """Note that the report of a bus will not come."""
        known = self._at_work.get(address)
        if known is not None:
            self._end(address, RemoteReport(bus=known.bus, weight=known.weight, missing=reason))

    def _end(self, address: str, report: RemoteReport) -> None:
        self._at_work.pop(address, None)
        self._reports[address] = report
        # Several tasks may wait for one event, so the next one is made here and not by a waiter.
        self._changed.set()
        self._changed = trio.Event()

    # -- the wait

    async def wait(self, handle: DispatchHandle, timeout: float, expect: int | None) -> None:
        """Wait for all listeners of all buses; see `DispatchHandle.wait`."""
        if expect is not None:
            self._expect = expect
        with trio.move_on_after(timeout):
            await handle.wait()
            if self._expected(handle) is None and self._roster is not None:
                await trio.sleep_until(self._roster.called + ROLL_SECONDS)
            while self._is_waiting(handle):
                await self._changed.wait()

    def _expected(self, handle: DispatchHandle) -> int | None:
        """Return the sum of the weights of all reports to come; None if it is not known."""
        return handle.receivers if self._expect is None else self._expect

    def _is_waiting(self, handle: DispatchHandle) -> bool:
        if self._at_work:
            return True
        expected = self._expected(handle)
        if expected is not None:
            return sum(report.weight for report in self._reports.values()) < expected
        return self._roster is not None and not self._roster.present.keys() <= self._reports.keys()

    # -- the results

    def remote(self, handle: DispatchHandle) -> tuple[RemoteReport, ...]:
        """Return the reports so far, and one for each bus or receiver whose report is missing."""
        found = [*self._reports.values()]
        for report in self._at_work.values():
            found.append(RemoteReport(bus=report.bus, weight=report.weight, missing=NOT_FINISHED))
        expected = self._expected(handle)
        if expected is not None:
            known = sum(report.weight for report in found)
            if known < expected:
                found.append(RemoteReport(missing=NO_ANSWER, weight=expected - known))
        elif self._roster is not None:
            silent = self._roster.present.keys() - self._reports.keys() - self._at_work.keys()
            found += [RemoteReport(missing=NO_REPORT) for _ in silent]
        else:
            found.append(RemoteReport(missing=NOT_ACCEPTED))
        return tuple(found)

    def outcome(self, handle: DispatchHandle) -> RemoteOutcome:
        """Return whether all reports are there."""
        return RemoteOutcome(sum(each.weight for each in self.remote(handle) if each.missing))


class AloneTracking:
    """The tracking of a dispatch on a bus that is alone: there are no reports to come."""

    async def wait(self, handle: DispatchHandle, timeout: float, expect: int | None) -> None:
        """Wait for the listeners of this bus."""
        with trio.move_on_after(timeout):
            await handle.wait()

    def remote(self, handle: DispatchHandle) -> tuple[RemoteReport, ...]:
        """Return no reports."""
        return ()

    def outcome(self, handle: DispatchHandle) -> RemoteOutcome:
        """Return that no report is missing."""
        return RemoteOutcome()


class Trackings:
    """The tracked dispatches of one bus.

    Attributes:
        link: The way to the other buses; None while there is none.
    """

    def __init__(self, dispatcher: Dispatcher, driver: Driver) -> None:
        self._dispatcher = dispatcher
        self._driver = driver
        self.link: ConversationLink | None = None
        # A handle that nobody keeps waits for no reports.
        self._by_id: WeakValueDictionary[str, RemoteTracking] = WeakValueDictionary()
        self._rosters: dict[str, RosterOfListeners] = {}

    async def begin(self, handle: DispatchHandle) -> None:
        """Begin to track a dispatch, before the event leaves.

        Raises:
            DriverError: The broker does not let answers arrive.
            UnsupportedError: The driver carries no replies, or does not reach all buses.
        """
        details = handle._ensure_details()
        link, capabilities = self.link, self._driver.capabilities
        if capabilities.alone:
            details.tracking = AloneTracking()
            return
        if link is None or not link.is_direct:
            kind = type(self._driver).__qualname__
            reason = (
                "carries no replies" if link is None else "takes an event to one bus of a group"
            )
            raise UnsupportedError(f'{kind} {reason}, so scope="all" makes no sense here')
        await link.ready()
        roster = None if capabilities.counts_receivers else self._call_roll(link, handle.event_name)
        tracking = RemoteTracking(handle, roster)
        details.reply_to, details.tracking = link.channel.address, tracking
        self._by_id[handle.id] = tracking

    def _call_roll(self, link: ConversationLink, event_name: str) -> RosterOfListeners:
        roster = self._rosters.get(event_name)
        if roster is None or trio.current_time() > roster.called + ROLL_AGE_SECONDS:
            if len(self._rosters) >= MAX_ROLLS:
                self._rosters.clear()
            roster = self._rosters[event_name] = RosterOfListeners()
            link.channel.send(ROLL_ADDRESS, Roll(event_name, link.channel.address))
        return roster

    # -- messages of other buses

    def has(self, dispatch_id: str) -> bool:
        """Tell whether the handle of a dispatch that asks for reports is alive."""
        return dispatch_id in self._by_id

    def answer_roll(self, link: ConversationLink, message: Roll) -> None:
        """Tell another bus whether this one listens to an event."""
        if message.reply_to == link.channel.address or self._dispatcher.state != "open":
            return
        if self._dispatcher.router.named(message.event_name).local.listener_count:
            link.channel.send(message.reply_to, Present(message.event_name, link.channel.address))

    def take_present(self, message: Present) -> None:
        """Note a bus that listens to an event."""
        roster = self._rosters.get(message.event_name)
        if roster is not None and len(roster.present) < MAX_REPORTING_BUSES:
            roster.present[message.address] = None

    def take_received(self, link: ConversationLink, message: Received) -> bool:
        """Note a bus whose listeners need time; return False if nobody waits for its report."""
        tracking = self._by_id.get(message.id)
        if tracking is None:
            return False
        tracking.take_received(message)
        link.peers.ask(message.address, message.id)
        return True

    def take_done(self, link: ConversationLink, message: Done) -> bool:
        """Note the report of a bus; return False if nobody waits for it."""
        link.peers.end(message.address, message.id)
        tracking = self._by_id.get(message.id)
        if tracking is None:
            return False
        tracking.take_done(message)
        return True

    def lose(self, link: ConversationLink, address: str, ids: Collection[str], reason: str) -> None:
        """Note that some reports of a bus will not come."""
        for request_id in ids:
            link.peers.end(address, request_id)
            if (tracking := self._by_id.get(request_id)) is not None:
                tracking.lose(address, reason)
