"""The inbox: takes the events of other buses to the listeners of this one.

The driver calls it while it runs: `deliver_nowait` for speed, `deliver` if that would have to wait,
or `receive` with bytes. The inbox decodes, ignores the bus's own echoes, finds the route and
dispatches the event to the listeners of this bus. It does not publish the event again.

A delivery ends with exactly one call of its `settle` function. If all listeners are done when the
event has been dispatched, the inbox calls it at once; otherwise the handle calls it when its last
listener is done. Every path out of a delivery must lead there, even errors and cancellations: a
durable driver would otherwise wait for ever, or deliver the event again.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio
from trio.lowlevel import checkpoint_if_cancelled

from .._delivery import SettledEvent
from .._errors import (
    BusClosed,
    DeadLettered,
    DecodeError,
    EventAbandoned,
    EventError,
    GapDetected,
    GoEventError,
    HookFailed,
    Vetoed,
)
from .._events.names import RESERVED_PREFIX, requested_name
from .._handle import HandleDetails, arrived_handle
from .._kernel.intake import bus_closed
from .._options.middleware import within
from ..drivers.contract import Settlement

if TYPE_CHECKING:
    from .._events.registry import EventRegistry
    from .._handle import DispatchHandle
    from .._kernel.dispatcher import Dispatcher
    from .._kernel.route import Route
    from .._kernel.supervisor import Supervisor
    from .._wire.codec import Codec
    from .._wire.envelope import Envelope
    from ..drivers.contract import Settle


COMPLETED = Settlement()
NO_LISTENER = Settlement(started=False)
# A driver draws a new origin each time that it has lost its connection. Echoes of events that were
# sent before may arrive much later.
MAX_REMEMBERED_ORIGINS = 1000


class Report(Protocol):
    """The report about an event, called in place of the settlement of its delivery."""

    def __call__(self, settlement: Settlement, /) -> None: ...
    def chosen(self, handle: DispatchHandle, /) -> None:
        """Take note of the listeners that filters and middleware have left."""
        ...

    def delivered(self) -> None:
        """Take note that the event is at its listeners."""
        ...


class RequestTaker(Protocol):
    """Takes the requests that the broker brings, and reports on events to their dispatchers."""

    def begin_report(self, envelope: Envelope, settle: Settle | None) -> Report | None:
        """Return the report about an event that has arrived; None if there will be none."""
        ...

    async def deliver(self, envelope: Envelope, settle: Settle | None, deliveries: int) -> None:
        """Take one request, and see to it that it is settled."""
        ...


class BusInbox:
    """The inbox of one bus.

    Attributes:
        requests: Takes requests; None for a bus without any.
        origin: The id by which other buses know this one.
        redelivered: The events that arrived with more than one delivery, since the bus was made.
        dead_lettered: The events that the driver has reported as dead letters, since then.
        missing: The events of other buses that the driver has reported as lost, since then.
    """

    def __init__(
        self, dispatcher: Dispatcher, registry: EventRegistry, codec: Codec, supervisor: Supervisor
    ) -> None:
        self._dispatcher = dispatcher
        self._registry = registry
        self._codec = codec
        self._supervisor = supervisor
        self._origins: dict[str, None] = {}
        self._routes = dispatcher.router.by_type
        self._settle_hooks = dispatcher.special_dispatch.settle_hooks
        self._hooked = bool(dispatcher.special_dispatch.arrival_hooks or self._settle_hooks)
        self._opened = trio.Event()
        self._is_open = False
        self._is_forked = False
        self._ignores_own = True
        self.requests: RequestTaker | None = None
        self.origin: str = self.renew_origin()
        self.redelivered: int = 0
        self.dead_lettered: int = 0
        self.missing: int = 0

    def prepare(self, *, ignores_own: bool) -> None:
        """Start a new session: draw an origin, and let deliveries wait until `open`.

        The driver runs before the bus is open, and until then listeners could not dispatch.

        Args:
            ignores_own: True if the driver delivers the bus's own events as echoes (`fan_out`).
        """
        self._opened = trio.Event()
        self._is_open = False
        self._ignores_own = ignores_own
        self.renew_origin()

    def open(self) -> None:
        """Dispatch deliveries from now on, including those that have waited."""
        self._is_open = True
        self._opened.set()

    def fork(self) -> None:
        """Dispatch and settle nothing: this process is a fork of the one that owns the bus.

        The parent settles all deliveries. One that the driver hands over here waits for ever.
        """
        self._is_open = False
        self._is_forked = True
        self._opened = trio.Event()

    # -- origins

    def renew_origin(self) -> str:
        """Draw and return a new origin. Echoes with an earlier origin are still recognised."""
        self.origin = secrets.token_hex(16)
        self._origins[self.origin] = None
        if len(self._origins) > MAX_REMEMBERED_ORIGINS:
            # The oldest one: a dict keeps the order of insertion.
            del self._origins[next(iter(self._origins))]
        return self.origin

    def is_own(self, envelope: Envelope) -> bool:
        """Tell whether this bus has sent an envelope."""
        return envelope.origin in self._origins

    # -- deliveries

    async def receive(
        self, name: str, data: bytes, settle: Settle | None = None, *, deliveries: int = 1
    ) -> None:
        """Decode bytes and deliver the event; see `Inbox.receive`."""
        try:
            envelope = self.decode(name, data)
        except DecodeError as error:
            if deliveries > 1:
                self.redelivered += 1
            self._refuse(name, settle, error)
            await checkpoint_if_cancelled()
        else:
            await self.deliver(envelope, settle, deliveries=deliveries)

    def decode(self, name: str, data: bytes) -> Envelope:
        """Return the envelope in the bytes; see `Inbox.decode`."""
        return self._codec.decode(data, event_name=name, registry=self._registry)

    async def deliver(
        self, envelope: Envelope, settle: Settle | None = None, *, deliveries: int = 1
    ) -> None:
        """Deliver a decoded event; see `Inbox.deliver`."""
        name = envelope.event_name
        if self._ignores_own and self.is_own(envelope):
            return self._settle(name, settle)
        if deliveries > 1:
            self.redelivered += 1
        if name.startswith(RESERVED_PREFIX):
            return await self._deliver_request(envelope, settle, deliveries)
        report = None
        if envelope.reply_to and self.requests is not None:
            report = self.requests.begin_report(envelope, settle)
            settle = settle if report is None else report
        handle = failure = None
        try:
            await checkpoint_if_cancelled()
            if not self._is_open:
                await self._opened.wait()
            handle = await self._dispatch(envelope, deliveries)
        except BusClosed:
            # Reported as lost below.
            pass
        except (GoEventError, TypeError) as error:
            failure = error
        finally:
            # There is also no handle if the delivery was cancelled, or if an inline listener raised
            # a KeyboardInterrupt.
            if handle is None:
                self._refuse(name, settle, failure)
        if handle is not None and settle is not None:
            if report is not None:
                report.chosen(handle)
            self._settle_special(handle, name, settle)
        if report is not None:
            report.delivered()
        return None

    async def _deliver_request(
        self, envelope: Envelope, settle: Settle | None, deliveries: int
    ) -> None:
        """Deliver an event with a reserved name: a request."""
        name, taken = envelope.event_name, False
        try:
            await checkpoint_if_cancelled()
            if not self._is_open:
                await self._opened.wait()
            taken = True
        finally:
            if not taken:
                self._refuse(name, settle, None)
        if self.requests is None or not requested_name(name):
            self.tell(name, settle, NO_LISTENER)
        else:
            await self.requests.deliver(envelope, settle, deliveries)

    def deliver_nowait(
        self, envelope: Envelope, settle: Settle | None = None, *, deliveries: int = 1
    ) -> bool:
        """Deliver a decoded event if that takes no waiting; see `Inbox.deliver_nowait`."""
        name = envelope.event_name
        if self._ignores_own and envelope.origin in self._origins:
            self._settle(name, settle)
            return True
        report = None
        if envelope.reply_to and self.requests is not None:
            report = self.requests.begin_report(envelope, settle)
            settle = settle if report is None else report
        dispatcher, handle = self._dispatcher, None
        if not (dispatcher.home_thread and self._is_open):
            return False
        try:
            # The usual case of `_find_route` is found here without a call.
            event: object = envelope.event
            route = self._routes.get(type(event))
            if route is None or not name == route.name == envelope.event_type:
                if name.startswith(RESERVED_PREFIX):
                    return False
                route, event = self._find_route(envelope)
            # Without `fan_out`, only the local route has the listeners and their options.
            route = route.local_only or route
            if dispatcher.tracer is not None:
                return False
            if route.special or self._hooked:
                if not self._deliver_special_nowait(
                    route, event, envelope, settle, deliveries, report
                ):
                    return False
                if report is not None:
                    report.delivered()
                return True
            if route.actors:
                handle = arrived_handle(
                    route, event, envelope.handle_id, envelope.headers, deliveries
                )
                if not dispatcher.admission.commit(route, handle):
                    return False
        except (GoEventError, TypeError) as error:
            self._refuse(name, settle, error)
            return True
        ran = False
        try:
            if handle is None:
                handle = dispatcher.run_arrived(route, event, envelope, deliveries)
            else:
                dispatcher.run_inline(route, handle)
            ran = True
        finally:
            # An inline listener raised a KeyboardInterrupt, for example.
            if not ran:
                self._settle(name, settle, self.lost(name))
        if settle is not None:
            # Here, because events of a driver that repeats none need not pay for it.
            if deliveries > 1:
                self.redelivered += 1
            if handle is None:
                self._tell(name, settle, NO_LISTENER if route.unheard else COMPLETED)
            else:
                self._settle_when_done(handle, name, settle)
            if report is not None:
                report.delivered()
        return True

    async def _dispatch(self, envelope: Envelope, deliveries: int) -> DispatchHandle:
        dispatcher = self._dispatcher
        if not dispatcher.home_thread:
            raise bus_closed()
        route, event = self._find_route(envelope)
        route = route.local
        handle = arrived_handle(route, event, envelope.handle_id, envelope.headers, deliveries)
        tracer = dispatcher.tracer
        started = 0.0 if tracer is None else tracer.now()
        if route.special or self._hooked:
            await dispatcher.special_dispatch.dispatch(handle, arrived=True)
        else:
            await dispatcher.bring(route, handle, arrived=True)
        if tracer is not None:
            tracer.note(handle, started, arrived=True)
        return handle

    def _deliver_special_nowait(
        self,
        route: Route,
        event: object,
        envelope: Envelope,
        settle: Settle | None,
        deliveries: int,
        report: Report | None,
    ) -> bool:
        """Deliver an event with middleware or on a special route, if that takes no waiting."""
        special_dispatch, name = self._dispatcher.special_dispatch, envelope.event_name
        if special_dispatch.may_wait(route):
            return False
        if deliveries > 1:
            self.redelivered += 1
        handle = arrived_handle(route, event, envelope.handle_id, envelope.headers, deliveries)
        failure, brought = None, False
        try:
            special_dispatch.bring_arrived(route, handle)
            brought = True
        except (GoEventError, TypeError) as error:
            failure = error
        finally:
            # Without a failure, an inline listener raised a KeyboardInterrupt, for example.
            if not brought:
                self._refuse(name, settle, failure)
        if brought and settle is not None:
            if report is not None:
                report.chosen(handle)
            self._settle_special(handle, name, settle)
        return True

    def _find_route(self, envelope: Envelope) -> tuple[Route, object]:
        """Return the route of a delivered event, and the event."""
        event: object = envelope.event
        route = self._routes.get(type(event))
        if route is None:
            route, event = self._dispatcher.router.find(event)
        # An upcast event may have a new class with another name. The event type is that of the data
        # before the upcast, so it must be the name of the channel.
        if (event_type := envelope.event_type or route.name) != envelope.event_name:
            reason = f"the envelope contains an event of the type {event_type!r}"
            raise DecodeError(envelope.event_name, reason)
        return route, event

    # -- failures

    def report(self, error: Exception, event_name: str = "") -> None:
        """Report a failure or a loss to the supervisor."""
        if isinstance(error, DeadLettered):
            self.dead_lettered += 1
        # A negative number is an event that was counted and has arrived late; counters only rise.
        elif isinstance(error, GapDetected) and error.missing > 0:
            self.missing += error.missing
        self._supervisor.record_loose(EventError(event_name, "driver", error))

    def lost(self, event_name: str) -> EventError:
        """Report an event that has arrived but cannot be delivered because the bus ends."""
        reason = "the bus ended before it could be delivered"
        failure = EventAbandoned(event_name, "driver", reason=reason, started=False)
        self._supervisor.record_loose(failure)
        return failure

    def _refuse(self, name: str, settle: Settle | None, error: Exception | None) -> None:
        """Settle a delivery that reached no listener. Without an error, the bus has ended."""
        if self._is_forked:
            return
        if error is None:
            failure: EventError = self.lost(name)
        else:
            failure = EventError(name, "driver", error)
            self._supervisor.record_loose(failure)
        self._settle(name, settle, failure)

    # -- settlements

    def _settle_special(self, handle: DispatchHandle, name: str, settle: Settle) -> None:
        """Settle an event when it is done, with the middleware around settlements."""
        if self._settle_hooks:
            settle = partial(self._settle_within_hooks, handle, settle)
        self._settle_when_done(handle, name, settle)

    def _settle_when_done(self, handle: DispatchHandle, name: str, settle: Settle) -> None:
        if handle._route.unheard:
            self._settle(name, settle, listeners=0)
        elif handle._left <= 0 and not isinstance(handle._details, HandleDetails):
            self._settle(name, settle)
        else:
            # The lambda must not refer to the handle, because the handle refers to the lambda.
            count = len(handle._route.listeners)
            handle._when_done(lambda errors: self._settle(name, settle, *errors, listeners=count))

    def _settle(
        self, name: str, settle: Settle | None, *errors: EventError, listeners: int = 1
    ) -> None:
        """Tell the driver that all listeners are done with an event.

        Args:
            name: The name of the event.
            settle: The function of the driver, or None.
            errors: The failures of the listeners.
            listeners: The number of listeners of the event. Without any, a durable driver must give
                the event to another bus.
        """
        if settle is None:
            return
        settlement = COMPLETED if listeners else NO_LISTENER
        if errors:
            unstarted = [e for e in errors if isinstance(e, EventAbandoned) and not e.started]
            started = len(unstarted) < max(listeners, len(errors))
            settlement = Settlement(errors, started=started)
        self._tell(name, settle, settlement)

    def _settle_within_hooks(
        self, handle: DispatchHandle, settle: Settle, settlement: Settlement
    ) -> None:
        """Call the function of the driver for one delivery, within the middleware around it.

        The driver is told in any case; a failure of middleware is reported on the handle.
        """
        told = False
        settled = SettledEvent(handle, settlement.errors, started=settlement.started)
        try:
            with within(self._settle_hooks, settled):
                told = True
                settle(settlement)
        except (Vetoed, HookFailed) as error:
            failure = error.__cause__ if isinstance(error.__cause__, Exception) else error
            self._supervisor.record_loose(EventError(handle.event_name, error.middleware, failure))
            if not told:
                settle(settlement)

    def tell(self, name: str, settle: Settle | None, settlement: Settlement) -> None:
        """Tell the driver how a delivery has ended, if it wants to know."""
        if settle is not None:
            self._tell(name, settle, settlement)

    def _tell(self, name: str, settle: Settle, settlement: Settlement) -> None:
        """Call the function of the driver for one delivery."""
        if self._is_forked:
            return
        try:
            settle(settlement)
        except Exception as error:  # noqa: BLE001 - a fault of the driver must not reach a listener
            self.report(error, name)
