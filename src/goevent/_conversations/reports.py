"""The reports of this bus about the events of other buses.

An event with an address for answers asks each bus that gets it for a report: the number of the
listeners there that have completed the event, and the failures of the others. The inbox begins an
`ArrivalReport` for such an event, and settles it in place of the delivery. So a report is sent
however the delivery ends.
"""

# The internals of handles are for the kernel, the ports and the conversations, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections import Counter
from math import inf
from typing import TYPE_CHECKING, cast

from .addresses import is_answerable
from .messages import (
    MAX_REPORTED_FAILURES,
    Done,
    ListenerFailure,
    Received,
    failure_texts,
    travelling_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from .._errors import EventError
    from .._handle import DispatchHandle
    from .._kernel.dispatcher import Dispatcher
    from .._kernel.route import Route
    from .._wire.envelope import Envelope
    from ..drivers.contract import Settle, Settlement
    from .link import ConversationLink

NOTICE_SECONDS = 0.1
"""How long listeners may take before the dispatcher is told that the bus has the event."""

MAX_OPEN_REPORTS = 10_000
"""The events at the listeners of this bus whose dispatchers wait; the others get no report."""


class ArrivalReport:
    """The report about one event; it is called in place of the settlement of its delivery."""

    __slots__ = (
        *("_envelope", "_is_settled", "_listeners", "_names", "_reports", "_settle"),
        "deadline",
    )

    def __init__(
        self, reports: ArrivalReports, envelope: Envelope, listeners: int, settle: Settle | None
    ) -> None:
        self._reports = reports
        self._envelope = envelope
        self._listeners = listeners
        self._names: tuple[str, ...] | None = None
        self._settle = settle
        self._is_settled = False
        self.deadline: float = inf

    def __call__(self, settlement: Settlement) -> None:
        """Take the end of the delivery: settle it, and send the report."""
        self._is_settled = True
        self._reports.forget_unfinished(self)
        try:
            if self._settle is not None:
                self._settle(settlement)
        finally:
            completed = self._completed(settlement.errors)
            self._reports.send_done(self._envelope, completed, settlement)

    def _completed(self, errors: tuple[EventError, ...]) -> int:
        """Return the number of listeners that have completed the event."""
        if self._names is None:
            return max(0, self._listeners - len(errors))
        # Filters and middleware fail, too, and are no listeners of the event.
        failed = Counter(error.listener for error in errors)
        return (Counter(self._names) - failed).total()

    def chosen(self, handle: DispatchHandle) -> None:
        """Take note of the listeners that filters and middleware have left."""
        actors = cast("Route", handle._route).listeners if handle.listeners else ()
        self._names = tuple(actor.name for actor in actors if actor.order)

    def delivered(self) -> None:
        """Note that the event is at its listeners, which may need time."""
        if not self._is_settled:
            self._reports.keep_unfinished(self)

    def expire(self) -> None:
        """Tell the dispatcher that the listeners need time."""
        self._reports.forget_unfinished(self)
        self._reports.send_received(self._envelope)


class ArrivalReports:
    """The reports of one bus.

    Attributes:
        link: The way to the other buses; None while there is none.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.link: ConversationLink | None = None
        # The ids of the events whose reports are still to come, each with the address.
        self._open: dict[str, str] = {}
        # The reports whose dispatchers know nothing of this bus yet.
        self._unfinished: dict[ArrivalReport, None] = {}

    def __len__(self) -> int:
        return len(self._open) + len(self._unfinished)

    def begin(self, envelope: Envelope, settle: Settle | None) -> ArrivalReport | None:
        """Return the report about an event that has arrived; None if there will be none."""
        if self.link is None or not is_answerable(envelope.handle_id, envelope.reply_to):
            return None
        route = self._dispatcher.router.named(envelope.event_name).local
        return ArrivalReport(self, envelope, route.listener_count, settle)

    @property
    def unfinished(self) -> Collection[ArrivalReport]:
        """The reports that wait until their listeners have needed `NOTICE_SECONDS`."""
        return self._unfinished

    def keep_unfinished(self, report: ArrivalReport) -> None:
        """Tell the dispatcher of an event soon that its listeners need time."""
        if len(self._unfinished) < MAX_OPEN_REPORTS:
            self._unfinished[report] = None
            self._dispatcher.scheduler.timeouts.watch_wait(report, NOTICE_SECONDS)

    def forget_unfinished(self, report: ArrivalReport) -> None:
        """Cancel the notice that the listeners need time: it was sent, or is not needed."""
        self._unfinished.pop(report, None)

    def send_received(self, envelope: Envelope) -> None:
        """Tell the dispatcher of an event that its listeners need time."""
        link, request_id = self.link, envelope.handle_id
        if link is None or len(self._open) >= MAX_OPEN_REPORTS:
            return
        self._open[request_id] = envelope.reply_to
        # The dispatcher's signs of life, and its end, arrive there.
        link.want()
        link.peers.serve(envelope.reply_to, request_id)
        link.channel.send(
            envelope.reply_to,
            Received(
                request_id,
                link.channel.address,
                bus=link.inbox.origin,
                weight=link.weight(envelope.event_name),
            ),
        )

    def send_done(self, envelope: Envelope, completed: int, settlement: Settlement) -> None:
        """Send the report about an event."""
        link = self.link
        self.forget([envelope.handle_id])
        if link is None:
            return
        errors = settlement.errors
        outcomes = [error.outcome for error in errors]
        link.channel.send(
            envelope.reply_to,
            Done(
                envelope.handle_id,
                link.channel.address,
                bus=link.inbox.origin,
                weight=link.weight(envelope.event_name),
                completed=completed,
                errors=[failure_of(error) for error in errors[:MAX_REPORTED_FAILURES]],
                failed=outcomes.count("failed"),
                dropped=outcomes.count("dropped"),
                abandoned=outcomes.count("abandoned"),
            ),
        )

    def has(self, request_id: str) -> bool:
        """Tell whether the report about an event is still to come."""
        return request_id in self._open

    def forget(self, ids: Collection[str]) -> None:
        """End the reports about some events: they were sent, or the dispatchers have ended."""
        for request_id in ids:
            address = self._open.pop(request_id, None)
            if address is not None and self.link is not None:
                self.link.peers.end(address, request_id)


def failure_of(error: EventError) -> ListenerFailure:
    """Return the failure of a listener as text."""
    error_type, text = failure_texts(error)
    return ListenerFailure(
        travelling_text(error.listener),
        travelling_text(error_type),
        travelling_text(text),
        error.outcome,
    )


def counted_subscriptions(driver: object) -> Callable[[str], int] | None:
    """Return the method of a driver that tells for how many receivers its bus counts."""
    found: Callable[[str], int] | None = getattr(driver, "matching_subscriptions", None)
    return found
