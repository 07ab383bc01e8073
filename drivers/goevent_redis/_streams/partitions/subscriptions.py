"""Subscriptions to names with partitions: each name stands for several streams."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from goevent.drivers import Backlog

from ..context import ConsumerContext
from ..monitor import StreamMonitor
from ..scripts import JOIN, ScriptCall, call_many
from ..stream import Stream
from ..subscriptions import StreamSubscriptions
from .lease_keeper import LeaseKeeper
from .partition import PartitionsDiffer, establishing
from .reader import PartitionReader


class PartitionSubscriptions(StreamSubscriptions):
    """The subscriptions of one open bus whose names have partitions."""

    def __init__(
        self,
        context: ConsumerContext,
        reader: PartitionReader,
        monitor: StreamMonitor,
        keeper: LeaseKeeper,
    ) -> None:
        super().__init__(context, reader, monitor)
        self._keeper = keeper

    async def remove(self, names: Iterable[str]) -> None:
        """Unsubscribe; returns when no entry can come any more."""
        before = set(self._streams)
        await super().remove(names)
        for name in before - self._streams.keys():
            self._keeper.remove(name)

    async def _join(self, names: Sequence[str], begin: str) -> None:
        """Create the groups of all partitions where they do not exist, and ask for a share."""
        new = [name for name in names if name not in self._streams]
        keys, refused = self._keys, None
        alike: list[str] = []
        found = await call_many(self._link, [establishing(keys, name) for name in new])
        for name, number in zip(new, found, strict=True):
            if isinstance(number, Exception):
                raise number
            if number == keys.partitions:
                alike.append(name)
            else:
                refused = PartitionsDiffer(name, keys.partitions, number)
        await self._create_groups(alike, begin)
        # The keeper adds the streams of the partitions to the reader. The streams below only mark
        # the names as subscribed to.
        await self._keeper.add(alike)
        self._streams.update({name: Stream(keys.stream(name), name) for name in alike})
        if refused is not None:
            raise refused

    async def _create_groups(self, names: Sequence[str], begin: str) -> None:
        calls: list[ScriptCall] = [
            (JOIN, (self._keys.stream(name, number), self._keys.marks), (self._keys.group, begin))
            for name in names
            for number in self._keys.numbers
        ]
        for reply in await call_many(self._link, calls):
            if isinstance(reply, Exception):
                raise reply


def sum_backlogs(parts: Sequence[Backlog]) -> tuple[Backlog, ...]:
    """Return the backlog of each name, given the backlogs of its streams."""
    names: dict[str, list[Backlog]] = {}
    for part in parts:
        names.setdefault(part.event_name, []).append(part)
    return tuple(
        Backlog(
            event_name=name,
            lag=_sum_lags([each.lag for each in found]),
            pending=sum(each.pending for each in found),
            oldest_pending=max(each.oldest_pending for each in found),
            oldest_waiting=_longest([each.oldest_waiting for each in found]),
        )
        for name, found in names.items()
    )


def _sum_lags(lags: Sequence[int | None]) -> int | None:
    """Return the sum; None if one of them is unknown."""
    known = [lag for lag in lags if lag is not None]
    return sum(known) if len(known) == len(lags) else None


def _longest(ages: Sequence[float | None]) -> float | None:
    """Return the longest of some times; None if one of them is unknown."""
    known = [age for age in ages if age is not None]
    return max(known) if len(known) == len(ages) else None
