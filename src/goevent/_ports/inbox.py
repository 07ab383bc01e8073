"""What drivers bring: events of other buses, taken to the listeners of this one."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import checkpoint_if_cancelled

from .._errors import BusClosed, DecodeError, EventAbandoned, EventError, GoEventError
from .._handle import new_handle
from .._kernel.intake import bus_closed
from ..drivers.contract import Settlement

if TYPE_CHECKING:
    from .._events.registry import EventRegistry
    from .._handle import DispatchHandle
    from .._kernel.dispatcher import Dispatcher
    from .._kernel.routing import Route
    from .._kernel.supervisor import Supervisor
    from .._wire.envelope import Envelope
    from .._wire.json_codec import Codec
    from ..drivers.contract import Settle


COMPLETED = Settlement()
UNHEARD = Settlement(started=False)
ORIGINS = 1000  # whose echoes are still ours: one for each time that a connection was lost


class BusInbox:
    """The inbox of one bus, from `async with` until it closes."""

    def __init__(
        self, dispatcher: Dispatcher, registry: EventRegistry, codec: Codec, supervisor: Supervisor
    ) -> None:
        self._dispatcher = dispatcher
        self._registry = registry
        self._codec = codec
        self._supervisor = supervisor
        self._origins: dict[str, None] = {}
        self._routes = dispatcher.router.by_type
        self._hooked = bool(dispatcher.special_dispatch.arrival_hooks)
        self._opened = trio.Event()
        self._is_open = False
        self._ignores_own = True
        self.origin: str = self.renew_origin()

    def prepare(self, *, ignores_own: bool) -> None:
        """Let what arrives wait until `open`: listeners could not dispatch yet."""
        self._opened = trio.Event()
        self._is_open = False
        self._ignores_own = ignores_own
        self.renew_origin()

    def open(self) -> None:
        """Take what arrives to the listeners, and what has waited."""
        self._is_open = True
        self._opened.set()

    # -- whose events they are

    def renew_origin(self) -> str:
        """Draw another origin; echoes of the old one stay ours."""
        self.origin = secrets.token_hex(16)
        self._origins[self.origin] = None
        if len(self._origins) > ORIGINS:
            del self._origins[next(iter(self._origins))]
        return self.origin

    def is_own(self, envelope: Envelope) -> bool:
        """Tell whether an envelope comes from this bus."""
        return envelope.origin in self._origins

    # -- what arrives

    async def receive(
        self, name: str, data: bytes, settle: Settle | None = None, *, deliveries: int = 1
    ) -> None:
        """Bring bytes that arrived under a name to the listeners."""
        try:
            envelope = self.decode(name, data)
        except DecodeError as error:
            self._refuse(name, settle, error)
            await checkpoint_if_cancelled()
        else:
            await self.deliver(envelope, settle, deliveries=deliveries)

    def decode(self, name: str, data: bytes) -> Envelope:
        """Return the envelope in the bytes."""
        return self._codec.decode(data, event_name=name, registry=self._registry)

    async def deliver(
        self, envelope: Envelope, settle: Settle | None = None, *, deliveries: int = 1
    ) -> None:
        """Bring a decoded event to the listeners; it goes no further."""
        name = envelope.event_name
        if self._ignores_own and self.is_own(envelope):
            return self._finish(name, settle)
        handle = failure = None
        try:
            await checkpoint_if_cancelled()
            if not self._is_open:
                await self._opened.wait()
            handle = await self._brought(envelope, deliveries)
        except BusClosed:
            pass
        except (GoEventError, TypeError) as error:
            failure = error
        finally:
            if handle is None:  # it was cancelled, or a listener raised a KeyboardInterrupt, say
                self._refuse(name, settle, failure)
        if handle is not None and settle is not None:
            self._settle_when_done(handle, name, settle)
        return None

    def deliver_nowait(
        self, envelope: Envelope, settle: Settle | None = None, *, deliveries: int = 1
    ) -> bool:
        """Bring a decoded event to the listeners, or return False if that takes waiting."""
        name = envelope.event_name
        if self._ignores_own and envelope.origin in self._origins:
            self._finish(name, settle)
            return True
        if not (self._dispatcher.home_thread and self._is_open):
            return False
        try:
            route, event = self._found(envelope)
            if route.special or self._hooked:
                return False
            route = route.local_only or route
            handle = new_handle(route, event)
            if envelope.headers or deliveries > 1:
                self._note(handle, envelope, deliveries)
            if route.actors and not self._dispatcher.admission.commit(route, handle):
                return False
        except (GoEventError, TypeError) as error:
            self._refuse(name, settle, error)
            return True
        ran = False
        try:
            self._dispatcher.run_inline(route, handle)
            ran = True
        finally:
            if not ran:  # a listener raised a KeyboardInterrupt, say
                self._finish(name, settle, self.lost(name))
        if settle is not None:
            self._settle_when_done(handle, name, settle)
        return True

    async def _brought(self, envelope: Envelope, deliveries: int) -> DispatchHandle:
        dispatcher = self._dispatcher
        if not dispatcher.home_thread:
            raise bus_closed()
        route, event = self._found(envelope)
        handle = new_handle(route.local, event)
        self._note(handle, envelope, deliveries)
        if route.special or self._hooked:
            return await dispatcher.special_dispatch.dispatch(handle, arrived=True)
        return await dispatcher.bring(route.local, handle, arrived=True)

    def _found(self, envelope: Envelope) -> tuple[Route, object]:
        """Return the route of an event, and the event."""
        event: object = envelope.event
        route = self._routes.get(type(event))
        if route is None:
            route, event = self._dispatcher.router.find(event)
        # What was decoded may be upcast to a version of another name; its type says what it was.
        if (held := envelope.event_type or route.name) != envelope.event_name:
            raise DecodeError(envelope.event_name, f"it holds an event of the type {held!r}")
        return route, event

    def _note(self, handle: DispatchHandle, envelope: Envelope, deliveries: int) -> None:
        if headers := envelope.headers:
            handle.headers.update(headers)
        if deliveries > 1:
            handle.ensure_details().deliveries = deliveries

    # -- what goes wrong

    def report(self, error: Exception, event_name: str = "") -> None:
        """Tell the supervisor of something that went wrong, or was lost."""
        self._supervisor.record_loose(EventError(event_name, "driver", error))

    def lost(self, event_name: str) -> EventError:
        """Report an event that has arrived and cannot be delivered, as the bus ends."""
        reason = "the bus ended before it could be delivered"
        failure = EventAbandoned(event_name, "driver", reason=reason, started=False)
        self._supervisor.record_loose(failure)
        return failure

    def _refuse(self, name: str, settle: Settle | None, error: Exception | None) -> None:
        """Settle what cannot be delivered: for an error, or as the bus ends."""
        if error is None:
            failure: EventError = self.lost(name)
        else:
            failure = EventError(name, "driver", error)
            self._supervisor.record_loose(failure)
        self._finish(name, settle, failure)

    def _settle_when_done(self, handle: DispatchHandle, name: str, settle: Settle) -> None:
        if handle.route.unheard:
            self._finish(name, settle, of=0)
        elif handle.details is None and handle.left <= 0:
            self._finish(name, settle)
        else:
            # Not the handle, which will refer to this.
            listeners = len(handle.route.listeners)
            handle.when_done(lambda errors: self._finish(name, settle, *errors, of=listeners))

    def _finish(self, name: str, settle: Settle | None, *errors: EventError, of: int = 1) -> None:
        """Tell the driver of the end of a delivery to so many listeners; none is no end for it."""
        if settle is None:
            return
        end = COMPLETED if of else UNHEARD
        if errors:
            unstarted = [e for e in errors if isinstance(e, EventAbandoned) and not e.started]
            end = Settlement(errors, started=len(unstarted) < max(of, len(errors)))
        try:
            settle(end)
        except Exception as error:  # noqa: BLE001 - a driver's own, which must not hurt a listener
            self.report(error, name)
