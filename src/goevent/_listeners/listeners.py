"""The listeners of a bus: registers actors, and unregisters them at any moment.

`GoEvent` and the registrations of its users call it on the thread of the bus, even while events are
dispatched and inside listeners. Unregistering takes effect in one step: the router drops the actor
from all routes, its queued events are settled as dropped, and dispatches that wait for room in its
mailbox wait on without it. The event that the listener processes at this moment is finished.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from .._kernel.stream_actor import StreamActor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._handle import DispatchHandle
    from .._kernel.actor import Actor
    from .._kernel.admission import Admission
    from .._kernel.intake import Intake
    from .._kernel.ledger import LedgerBook


class Listeners:
    """Registers and unregisters the listeners of one bus."""

    def __init__(self, intake: Intake, admission: Admission, ledger: LedgerBook) -> None:
        self._intake = intake
        self._admission = admission
        self._ledger = ledger
        self._router = intake.router
        self._scheduler = intake.scheduler
        self._backpressure = intake.backpressure
        admission.unregister_now = self.unregister_now
        intake.reentrancy.unregistered = lambda: ledger.unregistered

    @enable_ki_protection
    def add(self, actor: Actor) -> None:
        """Register an actor."""
        self._intake.check_thread()
        self._router.add(actor)
        self._fold_ledger()

    @enable_ki_protection
    def remove(self, actor: Actor, reason: str = "its listener was unregistered") -> None:
        """Unregister an actor and drop its queued events. A second call has no effect.

        Args:
            actor: The actor.
            reason: The reason on the handles of the dropped events.
        """
        self._intake.check_thread()
        if not actor.active:
            return
        self._deactivate(actor)
        if not actor.settles_on_arrival:
            # The scheduler may now have more workers than listeners.
            self._scheduler.surplus = not actor.inline
        if actor.recovery is not None:
            # A pause before a retry or a restart would delay the end of the current event.
            actor.recovery.wake()
        self._drop_unwanted(actor, reason)
        self._fold_ledger()

    def stop(self, actor: Actor) -> None:
        """Unregister an actor because its supervision says so."""
        self.remove(actor, "its listener failed and was stopped")

    def unregister_now(self, actor: Actor) -> None:
        """Unregister an actor that has got its last event, as with `once=True`; drop no event."""
        if actor.active:
            self._deactivate(actor)
            self._backpressure.leave_out(actor)
            self._scheduler.tidy = self._tidy
            if actor.inline:
                trio.lowlevel.current_trio_token().run_sync_soon(self._tidy, idempotent=True)

    def _deactivate(self, actor: Actor) -> None:
        actor.active = False
        self._router.remove(actor)
        if isinstance(actor, StreamActor):
            actor.end()
        # The ledger keeps counting the events that the actor still has.
        self._ledger.add_unregistered(actor)

    @enable_ki_protection
    def remove_name(self, name: str) -> None:
        """Unregister all listeners of one event name or pattern.

        A listener that has other names too stays registered for these.
        """
        self._intake.check_thread()
        for actor in self._router.registered_for(name):
            if len(actor.names) == 1:
                self.remove(actor)
            else:
                self._router.remove(actor, (name,))
                actor.forget_name(name)
                self._drop_unwanted(actor, "its listener was unregistered")
        self._fold_ledger()

    async def ready(self, names: Iterable[str] | None = None) -> None:
        """Wait until the driver receives the events of these names, or of all registered names.

        Always a checkpoint.

        Raises:
            DriverError: The broker has refused a name.
            BusClosed: The bus was closed before the broker confirmed all names.
        """
        self._intake.check_task()
        if self._router.interest is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._router.interest.ready(names)

    def replace_call(self, actor: Actor, call: Callable[[Any], Any]) -> None:
        """Have an actor run `call` from the next event on, after its listener was rebuilt."""
        actor.call = call
        actor.call = self._router.watched(actor)
        if actor.inline and actor.active:
            # Routes hold the calls of inline listeners directly.
            self._router.renew(actor)

    def _drop_unwanted(self, actor: Actor, reason: str) -> None:
        """Drop the queued events that the actor does not listen to any more."""
        dropped: list[DispatchHandle] = []
        if not actor.settles_on_arrival:
            dropped += [each for each in actor.mail if not actor.listens_to(each.event_name)]
        if dropped:
            kept = [handle for handle in actor.mail if actor.listens_to(handle.event_name)]
            actor.retain(kept)
        for handle in dropped:
            self._admission.drop(handle, actor, reason)
        self._backpressure.leave_out(actor)

    def _fold_ledger(self) -> None:
        # A dispatch in progress may still count on the routes that have just been dropped.
        if self._intake.busy:
            # It may be an inline call, after which no worker parks.
            trio.lowlevel.current_trio_token().run_sync_soon(self._tidy, idempotent=True)
        else:
            self._ledger.fold()
        self._scheduler.tidy = self._tidy if self._ledger.has_leftovers else None

    def _tidy(self) -> None:
        """Forget unregistered listeners that have finished, and the routes that led to them.

        Otherwise their functions and objects would live until the next registration.
        """
        if not self._intake.busy:
            self._ledger.fold()
        if not self._ledger.has_leftovers:
            self._scheduler.tidy = None
