"""The waits-for graph: finds a deadlock before a listener parks.

Owned by `reentrancy`, which describes each wait that a listener is about to begin.

Theory of operation. The nodes are lanes; a listener without lanes is its own single lane. A waiting
lane has an edge for the time of its wait. The edge leads to *groups* of lanes: the wait ends only
when at least one lane of every group proceeds. For example, a dispatch that needs room in two
mailboxes has two groups, and each group holds the lanes that take events from one mailbox. So the
graph is one of AND over OR, and a cycle is not always a deadlock: another lane of the same group
may still proceed.

The check therefore computes the *stuck* lanes first. It begins with all waiting lanes. It removes
each lane whose groups all contain a lane that is not stuck, until nothing changes. A lane that is
left is in a deadlock. The path through stuck lanes back to it becomes the message.

A wait keeps a function that returns its groups, not the groups: listeners come and go meanwhile.
Edges exist only while something inside a listener waits. An application pays nothing if its
listeners never wait for their own bus.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from .._errors import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from .actor import Actor, Lane

    # Returns the groups of a wait: at least one lane of every group has to proceed.
    Needs = Callable[[], Iterable[Sequence[Actor | Lane]]]


class WaitsForGraph:
    """The waits-for graph of one bus."""

    __slots__ = ("_edges",)

    def __init__(self) -> None:
        self._edges: list[tuple[Actor | Lane, Needs]] = []

    @contextmanager
    def edge(self, waiter: Actor | Lane, needs: Needs, goal: str) -> Generator[None]:
        """Hold an edge for the time of a wait.

        Args:
            waiter: The lane of the listener that waits.
            needs: Returns the groups of the wait.
            goal: The object of the wait, for the message of the error.

        Raises:
            DeadlockError: The wait would never end.
        """
        self.check(waiter, needs, goal)
        edge = (waiter, needs)
        self._edges.append(edge)
        try:
            yield
        finally:
            self._edges.remove(edge)

    def check(self, waiter: Actor | Lane, needs: Needs, goal: str) -> None:
        """Raise an error if a wait can never end.

        Raises:
            DeadlockError: The wait can never end.
        """
        if cycle := self._path(waiter, needs()):
            names = " -> ".join(lane.name for lane in (waiter, *cycle))
            raise DeadlockError(f"{waiter.name} would wait forever for {goal}: {names}")

    def _path(
        self, goal: Actor | Lane, groups: Iterable[Sequence[Actor | Lane]]
    ) -> list[Actor | Lane]:
        """Return the chain of stuck lanes from the groups back to `goal`, or an empty list."""
        edges = [(waiter, tuple(needs())) for waiter, needs in self._edges]
        edges.append((goal, tuple(groups)))
        # All lanes of one listener may wait for any lane of that listener. No cycle of single
        # edges shows this, but the fixed point does: they are stuck together.
        stuck = {id(waiter) for waiter, _ in edges}
        while stuck != (
            still := {id(waiter) for waiter, needed in edges if stuck_group(needed, stuck)}
        ):
            stuck = still
        paths: list[list[Actor | Lane]] = [[lane] for lane in stuck_group(edges[-1][1], stuck)]
        passed: set[int] = set()
        # The list grows by longer paths while it is read, so the first one to arrive is a shortest.
        for path in paths:
            lane = path[-1]
            if lane is goal:
                return path
            if id(lane) not in passed:
                passed.add(id(lane))
                for waiter, needed in edges:
                    if waiter is lane:
                        paths += [[*path, further] for further in stuck_group(needed, stuck)]
        # The lane is stuck behind a cycle that it is not part of.
        return paths[0] if paths else []


def stuck_group(
    groups: Iterable[Sequence[Actor | Lane]], stuck: set[int]
) -> Sequence[Actor | Lane]:
    """Return the first group whose lanes are all stuck, or an empty one."""
    for group in groups:
        if group and all(id(lane) in stuck for lane in group):
            return group
    return ()
