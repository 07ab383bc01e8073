"""Who waits for whom: finds, before a listener parks, that it would wait for itself.

An edge says: this listener cannot go on before those listeners have gone on. The edges live only
while something inside a listener waits, so an application that never does pays nothing.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from .._errors import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from .actor import Actor, Lane

    # What a wait needs: of every group, at least one lane has to go on.
    Needs = Callable[[], Iterable[Sequence[Actor | Lane]]]


class WaitsForGraph:
    """The waits-for graph of one bus."""

    __slots__ = ("_edges",)

    def __init__(self) -> None:
        self._edges: list[tuple[Actor | Lane, Needs]] = []

    @contextmanager
    def edge(self, waiter: Actor | Lane, needs: Needs, what: str) -> Generator[None]:
        """Hold the edge from `waiter` to what it `needs` for the time of a wait.

        Raises:
            DeadlockError: the edge would close a cycle.
        """
        self.check(waiter, needs, what)
        edge = (waiter, needs)
        self._edges.append(edge)
        try:
            yield
        finally:
            self._edges.remove(edge)

    def check(self, waiter: Actor | Lane, needs: Needs, what: str) -> None:
        """Look whether `waiter` can ever get what it needs.

        Raises:
            DeadlockError: it cannot.
        """
        if cycle := self._path(waiter, needs()):
            names = " -> ".join(lane.name for lane in (waiter, *cycle))
            raise DeadlockError(f"{waiter.name} would wait forever for {what}: {names}")

    def _path(
        self, goal: Actor | Lane, groups: Iterable[Sequence[Actor | Lane]]
    ) -> list[Actor | Lane]:
        """Return the chain of waits that leads from the groups back to `goal`, or nothing."""
        edges = [(waiter, tuple(needs())) for waiter, needs in self._edges]
        edges.append((goal, tuple(groups)))
        # Who waits is stuck unless all it needs can go on: so the lanes of one listener, each of
        # which waits for any of them, are stuck together.
        stuck = {id(waiter) for waiter, _ in edges}
        while stuck != (still := {id(waiter) for waiter, needed in edges if dead(needed, stuck)}):
            stuck = still
        paths: list[list[Actor | Lane]] = [[lane] for lane in dead(edges[-1][1], stuck)]
        passed: set[int] = set()
        for path in paths:  # grows by longer ones, so the first to arrive is the shortest
            lane = path[-1]
            if lane is goal:
                return path
            if id(lane) not in passed:
                passed.add(id(lane))
                for waiter, needed in edges:
                    if waiter is lane:
                        paths += [[*path, further] for further in dead(needed, stuck)]
        return paths[0] if paths else []


def dead(groups: Iterable[Sequence[Actor | Lane]], stuck: set[int]) -> Sequence[Actor | Lane]:
    """Return the first group of which every lane is stuck, or nothing."""
    for group in groups:
        if group and all(id(lane) in stuck for lane in group):
            return group
    return ()
