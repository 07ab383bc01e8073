"""The listeners of a bus: registers them, and takes them away again at any moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio.lowlevel import enable_ki_protection

if TYPE_CHECKING:
    from ._actor import Actor
    from ._crew import Crew
    from ._dispatcher import Dispatcher
    from ._ledger import Books
    from ._routing import Router


class Listeners:
    """Who is registered on one bus."""

    def __init__(self, router: Router, crew: Crew, dispatcher: Dispatcher, books: Books) -> None:
        self._router = router
        self._crew = crew
        self._dispatcher = dispatcher
        self._books = books

    @enable_ki_protection
    def add(self, actor: Actor) -> None:
        self._dispatcher.check_thread()
        self._router.add(actor)
        self._fold()

    @enable_ki_protection
    def remove(self, actor: Actor) -> None:
        """Unregister; what is queued is dropped, what the listener works on it may finish."""
        self._dispatcher.check_thread()
        if not actor.active:
            return
        actor.active = False
        self._router.remove(actor)
        self._crew.surplus = not actor.inline
        self._books.depart(actor)
        self._drop(actor, actor.event_names)
        self._fold()

    @enable_ki_protection
    def remove_name(self, name: str) -> None:
        """Unregister everybody for one event; who has no other event left is gone."""
        self._dispatcher.check_thread()
        route = self._router.by_name.get(name)
        for actor in route.listeners if route is not None else ():
            if name not in actor.event_names:
                continue  # the kernel's own
            if actor.event_names == (name,):
                self.remove(actor)
            else:
                self._router.remove(actor, (name,))
                actor.event_names = tuple(other for other in actor.event_names if other != name)
                self._drop(actor, (name,))
        self._fold()

    def _drop(self, actor: Actor, names: tuple[str, ...]) -> None:
        queued = [handle for handle in actor.mail if handle.event_name in names]
        if len(queued) == len(actor.mail):
            actor.mail.clear()
        else:
            kept = [handle for handle in actor.mail if handle.event_name not in names]
            actor.mail.clear()
            actor.mail.extend(kept)
        for handle in queued:
            self._dispatcher.mailboxes.drop(handle, actor, "its listener was unregistered")
        self._dispatcher.reroute(actor, names)

    def _fold(self) -> None:
        if not self._dispatcher.busy:
            self._books.fold()
