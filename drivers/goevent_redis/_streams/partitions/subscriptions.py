"""Names that have partitions: what is subscribed to is as many streams each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from goevent.drivers import Backlog

from ..._link.link import Link
from ..config import StreamsConfig
from ..faults import Troubles
from ..keys import Keys
from ..monitor import Guard
from ..reader import Reader
from ..scripts import JOIN, Call, call_many
from ..stream import Feed
from ..subscriptions import Names
from .lease_keeper import Keeper
from .partitions import PartitionsDiffer, establishing


class PartitionedNames(Names):
    """What one open bus is subscribed to, if names have partitions."""

    def __init__(
        self,
        link: Link,
        reader: Reader,
        guard: Guard,
        keeper: Keeper,
        keys: Keys,
        config: StreamsConfig,
        troubles: Troubles,
    ) -> None:
        super().__init__(link, reader, guard, keys, config, troubles)
        self._keeper = keeper

    async def remove(self, names: Iterable[str]) -> None:
        """Unsubscribe; returns when nothing can come any more."""
        before = set(self._feeds)
        await super().remove(names)
        for name in before - self._feeds.keys():
            self._keeper.remove(name)

    async def _join(self, names: Sequence[str], begin: str) -> None:
        """Create the groups of all partitions where they do not exist, and ask for a share."""
        new = [name for name in names if name not in self._feeds]
        keys, refused = self._keys, None
        found = await call_many(self._link, [establishing(keys, name) for name in new])
        for name, number in zip(new, found, strict=True):
            try:
                if isinstance(number, Exception):
                    raise number
                if number != keys.partitions:
                    raise PartitionsDiffer(name, keys.partitions, number)
                await self._create(name, begin)
            except PartitionsDiffer as error:
                refused = error
                continue
            await self._keeper.add(name)
            self._feeds[name] = Feed(keys.stream(name), name)
        if refused is not None:
            raise refused

    async def _create(self, name: str, begin: str) -> None:
        calls: list[Call] = [
            (JOIN, (self._keys.stream(name, number), self._keys.marks), (self._keys.group, begin))
            for number in self._keys.numbers
        ]
        for reply in await call_many(self._link, calls):
            if isinstance(reply, Exception):
                raise reply


def whole(parts: Sequence[Backlog]) -> tuple[Backlog, ...]:
    """Return what there is to do of each name, given that of each partition."""
    names: dict[str, list[Backlog]] = {}
    for part in parts:
        names.setdefault(part.event_name, []).append(part)
    return tuple(
        Backlog(
            event_name=name,
            lag=_sum([each.lag for each in found]),
            pending=sum(each.pending for each in found),
            oldest_pending=max(each.oldest_pending for each in found),
        )
        for name, found in names.items()
    )


def _sum(lags: Sequence[int | None]) -> int | None:
    known = [lag for lag in lags if lag is not None]
    return sum(known) if len(known) == len(lags) else None
