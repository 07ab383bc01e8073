"""Who waits for whom: finds, before a listener parks, that it would wait for itself.

An edge says: this listener cannot go on before those listeners have gone on. The edges live only
while something inside a listener waits, so an application that never does pays nothing.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ._errors import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ._actor import Actor

    Needs = Callable[[], list[Actor]]


class Waits:
    """The waits-for graph of one bus."""

    __slots__ = ("_edges",)

    def __init__(self) -> None:
        self._edges: list[tuple[Actor, Needs]] = []

    @contextmanager
    def edge(self, waiter: Actor, needs: Needs, what: str) -> Generator[None]:
        """Hold the edge from `waiter` to what it `needs` for the time of a wait.

        Raises:
            DeadlockError: the edge would close a cycle.
        """
        if cycle := self._path(needs(), waiter):
            names = " -> ".join(actor.name for actor in (waiter, *cycle))
            raise DeadlockError(f"{waiter.name} would wait forever for {what}: {names}")
        edge = (waiter, needs)
        self._edges.append(edge)
        try:
            yield
        finally:
            self._edges.remove(edge)

    def _path(self, start: list[Actor], goal: Actor) -> list[Actor]:
        """Return the chain of waits from `start` to `goal`, or nothing."""
        paths = [[actor] for actor in start]
        seen = set(map(id, start))
        while paths:
            path = paths.pop()
            if path[-1] is goal:
                return path
            for waiter, needs in self._edges:
                if waiter is path[-1]:
                    fresh = [actor for actor in needs() if id(actor) not in seen]
                    seen.update(map(id, fresh))
                    paths.extend([*path, actor] for actor in fresh)
        return []
