"""The listeners of a bus: registers them, and takes them away again at any moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from .._kernel.mailbox import KeyedMailbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._kernel.actor import Actor
    from .._kernel.dispatcher import Dispatcher
    from .._kernel.ledger import LedgerBook
    from .._kernel.routing import Router
    from .._kernel.scheduler import Scheduler


class Listeners:
    """Who is registered on one bus."""

    def __init__(
        self, router: Router, scheduler: Scheduler, dispatcher: Dispatcher, books: LedgerBook
    ) -> None:
        self._router = router
        self._scheduler = scheduler
        self._dispatcher = dispatcher
        self._books = books
        dispatcher.admission.unregister_once = self.unregister_once
        dispatcher.reentrancy.unregistered = lambda: books.unregistered

    @enable_ki_protection
    def add(self, actor: Actor) -> None:
        self._dispatcher.check_thread()
        self._router.add(actor)
        self._fold()

    @enable_ki_protection
    def remove(self, actor: Actor, reason: str = "its listener was unregistered") -> None:
        """Unregister; what is queued is dropped, what the listener works on it may finish."""
        self._dispatcher.check_thread()
        if not actor.active:
            return
        self._depart(actor)
        self._scheduler.surplus = not actor.inline
        if actor.recovery is not None:
            actor.recovery.wake()
        self._drop(actor, reason)
        self._fold()

    def stop(self, actor: Actor) -> None:
        """Unregister a listener by its supervision."""
        self.remove(actor, "its listener has failed, and was stopped")

    def unregister_once(self, actor: Actor) -> None:
        """Unregister a listener that has got the only event it takes."""
        if actor.active:
            self._depart(actor)
            self._dispatcher.backpressure.leave_out(actor)

    def _depart(self, actor: Actor) -> None:
        actor.active = False
        self._router.remove(actor)
        self._books.add_unregistered(actor)

    @enable_ki_protection
    def remove_name(self, name: str) -> None:
        """Unregister everybody for one event; who has no other event left is gone."""
        self._dispatcher.check_thread()
        for actor in self._router.registered_for(name):
            if actor.event_names == (name,):
                self.remove(actor)
            else:
                self._router.remove(actor, (name,))
                actor.event_names = tuple(other for other in actor.event_names if other != name)
                self._drop(actor, "its listener was unregistered")
        self._fold()

    async def ready(self, names: Iterable[str] | None = None) -> None:
        """Wait until the driver receives the events of these names, or all that are wanted."""
        self._dispatcher.check_thread()
        if self._router.interest is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._router.interest.ready(names)

    def replace_call(self, actor: Actor, call: Callable[[Any], Any]) -> None:
        """Have a listener's events brought to its successor from now on."""
        actor.call = call
        actor.call = self._router.watched(actor)
        if actor.inline and actor.active:
            self._router.renew(actor)

    def _drop(self, actor: Actor, reason: str) -> None:
        """Drop what is queued of events that the actor does not listen to any more."""
        queued = [handle for handle in actor.mail if not actor.listens_to(handle.event_name)]
        if queued:
            kept = [handle for handle in actor.mail if actor.listens_to(handle.event_name)]
            if isinstance(actor.mail, KeyedMailbox):
                actor.mail.retain(kept)
            else:
                actor.mail.clear()
                actor.mail.extend(kept)
        for handle in queued:
            self._dispatcher.admission.drop(handle, actor, reason)
        self._dispatcher.backpressure.leave_out(actor)

    def _fold(self) -> None:
        if not self._dispatcher.busy:
            self._books.fold()
