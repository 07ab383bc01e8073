"""The keeper: takes a fair share of the partitions, keeps it, and gives it away when it is time.

An actor of the driver. A few times a second it tells Redis, for each name, that this bus is alive
and what it has; Redis tells how much of the partitions is a fair share of those who are alive. What
is missing is taken as soon as it is free. What is too much is drained: nothing of it is begun with
any more, and when the listeners are done, the next one gets it.
"""

from __future__ import annotations

import secrets
from zlib import crc32

import trio
from redis import exceptions as redis_errors

from goevent import DriverError
from goevent.drivers import Inbox

from ..._link.errors import RedisLinkError
from ..._link.link import Link
from ..._link.resp import Encodable
from ..acknowledger import Desk
from ..config import StreamsConfig
from ..faults import Troubles
from ..keys import HEIR, Keys
from ..reader import Reader
from ..scripts import Call, call_many
from ..stream import Feed, text
from .key_order import Turns
from .lease import Lease, Partition
from .partitions import PartitionsDiffer
from .scripts import DROP, HAND_BACK, QUIT, TEND, fenced, fenced_by

EVERY = 0.3  # seconds between two signs of life, which are looks for what is free, too


class Share:
    """What this bus has of one name.

    Attributes:
        wanted: it is subscribed to.
        tended: it was asked for a first time.
    """

    def __init__(self, name: str, partitions: list[Partition]) -> None:
        self.name = name
        self.partitions = partitions
        self.wanted = True
        self.tended = trio.Event()

    @property
    def leases(self) -> list[Lease]:
        """What it has, and has not told Redis to give away."""
        found = [each.lease for each in self.partitions if each.lease is not None]
        return [lease for lease in found if not lease.leaving]


class Keeper:
    """The keeper of one open bus."""

    def __init__(
        self,
        link: Link,
        inbox: Inbox,
        desk: Desk,
        reader: Reader,
        turns: Turns,
        keys: Keys,
        config: StreamsConfig,
        consumer: str,
        troubles: Troubles,
    ) -> None:
        self._link = link
        self._inbox = inbox
        self._desk = desk
        self._reader = reader
        self._turns = turns
        self._keys = keys
        self._config = config
        self._consumer = consumer
        self._troubles = troubles
        self._mark = secrets.token_hex(4)  # in our fences, so that they are nobody else's
        self._shares: dict[str, Share] = {}
        self._stopped = False
        self._drains = False  # something is drained, or may be
        self._hurry = trio.Event()

    # -- what others tell

    async def add(self, name: str) -> list[Partition]:
        """Take part in the partitions of a name; returns when Redis was asked for some."""
        share = self._shares.get(name)
        if share is None:
            key = self._keys.leases(name)
            partitions = [Partition(key, name, n) for n in range(self._config.partitions)]
            share = self._shares[name] = Share(name, partitions)
        share.wanted = True
        for partition in share.partitions:
            key = self._keys.stream(name, partition.number)
            self._reader.add(key, name, partition=partition)
        share.tended = trio.Event()
        self._hurry.set()
        await share.tended.wait()
        return share.partitions

    def remove(self, name: str) -> None:
        """Leave the partitions of a name to others."""
        share = self._shares.get(name)
        if share is not None:
            share.wanted = False
            self._drain(share.leases)
            self._hurry.set()

    def stop(self) -> None:
        """Leave all partitions to others, each when its listeners are done."""
        self._stopped = True
        for share in self._shares.values():
            self._drain(share.leases)
        self._hurry.set()

    def freed(self) -> None:
        """Take note that an entry is held no more: something may be drained now."""
        if self._drains:
            leases = (lease for share in self._shares.values() for lease in share.leases)
            if any(lease.draining and lease.drained for lease in leases):
                self._hurry.set()

    # -- what it does

    async def run(self) -> None:
        """Keep leases, until cancelled."""
        every = min(EVERY, self._config.claim_idle / 4)
        while True:
            self._hurry = trio.Event()
            try:
                await self._round()
            except RedisLinkError:
                await self._link.ready()
                continue
            with trio.move_on_after(every):
                await self._hurry.wait()

    async def _round(self) -> None:
        asked = [(share, share.leases, share.tended) for share in self._shares.values()]
        began = trio.current_time()
        calls = [self._tending(share, leases) for share, leases, _ in asked]
        for (share, leases, tended), reply in zip(
            asked, await call_many(self._link, calls), strict=True
        ):
            if isinstance(reply, Exception):
                self._refused(share, reply)
            else:
                self._tended(share, leases, began, *reply)
            tended.set()
        await self._release()
        for name, share in list(self._shares.items()):
            if not share.wanted and not any(each.lease for each in share.partitions):
                del self._shares[name]

    def _tending(self, share: Share, leases: list[Lease]) -> Call:
        name = share.name
        keys = (self._keys.leases(name), self._keys.members(name), self._keys.stream(name))
        wants = share.wanted and not self._stopped
        args: list[Encodable] = [self._consumer, self._mark]
        args += [round(self._config.claim_idle * 1000), self._config.partitions]
        args += [int(wants), crc32(name.encode()) % 1024, name]
        for lease in leases:
            args += [lease.partition.number, lease.fence]
        return TEND, (*keys, self._keys.names), args

    def _tended(
        self,
        share: Share,
        asked: list[Lease],
        began: float,
        lost: list[tuple[int, bytes]],
        taken: list[tuple[int, bytes]],
        fair: int,
    ) -> None:
        until = began + self._config.claim_idle
        owners = {number: text(owner) for number, owner in lost}
        for lease in asked:
            if lease.leaving or lease.lost:
                continue
            owner = owners.get(lease.partition.number)
            if owner is not None:
                self._lost(lease, owner)
                continue
            was_open, lease.until = lease.open, until
            if lease.open and not was_open:
                self._turns.resume(lease.partition)
                self._reader.change()
        for number, fence in taken:
            partition = share.partitions[number]
            if partition.lease is not None:
                self._over(partition.lease)
            partition.held_by(Lease(partition, fence, until, self._turns))
        if not share.wanted or self._stopped:
            fair = 0
        if fair >= 0:
            self._balance(share, fair)
        if taken:
            self._reader.change()

    def _balance(self, share: Share, fair: int) -> None:
        """Drain what is too much, or go on with what others are not to have after all."""
        leases = share.leases
        going = [lease for lease in leases if not lease.draining]
        excess = len(going) - fair
        if excess > 0:
            going.sort(key=_load)
            self._drain(going[:excess])
        elif excess < 0:
            for lease in [each for each in leases if each.draining][:-excess]:
                lease.draining = False
                self._turns.resume(lease.partition)
                self._reader.change()

    def _drain(self, leases: list[Lease]) -> None:
        for lease in leases:
            lease.draining = True
        if leases:
            self._drains = True
            self._reader.change()

    async def _release(self) -> None:
        """Give away what is drained."""
        ready: list[Lease] = []
        self._drains = False
        for share in self._shares.values():
            for partition in share.partitions:
                lease = partition.lease
                if lease is not None and lease.draining:
                    self._drains = True
                    if lease.leaving or lease.drained:
                        lease.leaving = True
                        ready.append(lease)
        if not ready:
            return
        calls = [self._leaving(lease) for lease in ready]
        replies = iter(await call_many(self._link, [each for part in calls for each in part]))
        for lease, part in zip(ready, calls, strict=True):
            *_, dropped = [next(replies) for _ in part]
            if isinstance(dropped, Exception) and fenced_by(dropped) is None:
                self._troubles.refused(
                    dropped, f"give away a partition of {lease.partition.name!r}"
                )
            else:
                self._over(lease)

    def _leaving(self, lease: Lease) -> list[Call]:
        """Return the calls by which others get a partition, with what is pending of it."""
        calls = [self._handing_back(feed) for feed in lease.partition.feeds]
        calls.append((DROP, (), (lease.partition.number,)))
        return [fenced(call, lease) for call in calls]

    def _handing_back(self, feed: Feed) -> Call:
        args: list[Encodable] = [self._keys.group, self._consumer, HEIR]
        for entry in feed.held.values():
            if entry.started:
                args += [entry.id, "give"]
            elif entry.alone:
                args += [entry.id, "keep"]
        return HAND_BACK, (feed.key,), args

    def _lost(self, lease: Lease, owner: str) -> None:
        partition = lease.partition
        self._over(lease)
        who = f"the consumer {owner!r} has it" if owner else "nobody has it"
        self._inbox.report(
            DriverError(
                f"this bus has lost the partition {partition.number} of {partition.name!r}, as it "
                f"gave no sign of life for {self._config.claim_idle:g} s or its lease has "
                f"vanished: {who}"
            ),
            partition.name,
        )

    def _over(self, lease: Lease) -> None:
        """Forget what is held under a lease; listeners that run will be told that it is lost."""
        lease.lost = True
        partition = lease.partition
        for feed in partition.feeds:
            for entry in list(feed.held.values()):
                self._desk.forget(entry)
        if partition.lease is lease:
            partition.held_by(None)
        self._turns.lose(lease)
        self._reader.change()

    def _refused(self, share: Share, error: Exception) -> None:
        said = str(error)
        if isinstance(error, redis_errors.ResponseError) and said.startswith("PARTITIONS"):
            found = int(said.split()[1])
            error = PartitionsDiffer(share.name, self._config.partitions, found)
        self._troubles.refused(error, f"lend partitions of {share.name!r}")

    # -- the end

    async def leave(self) -> None:
        """Give everything away, as the bus ends."""
        calls: list[Call] = []
        for name, share in self._shares.items():
            for partition in share.partitions:
                if partition.lease is not None:
                    calls += self._leaving(partition.lease)
            keys = (self._keys.leases(name), self._keys.members(name))
            calls.append((QUIT, keys, (self._consumer, self._mark, self._config.partitions)))
        await call_many(self._link, calls)


def _load(lease: Lease) -> int:
    return sum(len(feed.held) for feed in lease.partition.feeds)
