"""The lease keeper: takes a fair share of the partitions, renews it, and gives away the rest.

An actor of the driver, for names with partitions.

Theory of operation
-------------------

A few times a second the keeper runs one script for each event name. If there are hundreds of names,
those whose partitions are shared out have their turn less often, but within a quarter of
`claim_idle`; the others are asked for in each round. The script notes that this bus
is alive and renews its leases. Then it shares the partitions evenly among the live members of the
group, and grants free ones to this bus, up to its share. It returns the leases that are lost, the
new leases and the fair share.

If this bus has more than its share, the keeper drains the least loaded partitions: no listener
begins with another event of them. When the listeners have ended, and Redis knows of it, the pending
entries are released, the lease is dropped, and the next bus takes the partition. So two buses never
work on one key at the same time, unless a bus loses its lease while it works.

A bus loses a lease when it shows no sign of life for `claim_idle`. `Lease.until` ends before the
server's record does, because it is counted from before the request. From then on no listener begins
with an event of the partition, and the fence of the lease stops every script of a bus that was
frozen in between. A renewal that comes late, but before another bus took the partition, opens the
lease again.
"""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Sequence
from zlib import crc32

import trio
from redis import exceptions as redis_errors

from goevent import DriverError

from ..._link.errors import RedisLinkError
from ..._link.resp import Encodable
from ..context import ConsumerContext
from ..keys import RELEASED
from ..lease import Lease, fenced, fenced_by
from ..scripts import (
    PARTITION_DROP_LEASE,
    PARTITION_QUIT,
    PARTITION_RELEASE,
    PARTITION_RENEW,
    ScriptCall,
    call_many,
)
from ..stream import Stream, as_text
from .key_order import KeyOrder
from .partition import Partition, PartitionsDiffer
from .reader import PartitionReader

RENEW_INTERVAL_SECONDS = 0.3
"""How often leases are renewed and free partitions are looked for."""

SETTLED_NAMES_PER_SECOND = 100
"""For how many names whose partitions are shared out this is done per second, if time is enough."""


class PartitionShare:
    """The partitions of one event name.

    Attributes:
        wanted: The name is subscribed to.
        renew_at: When its leases are renewed again.
        renewed: Set when Redis has been asked for partitions.
    """

    def __init__(self, name: str, partitions: list[Partition]) -> None:
        self.name = name
        self.partitions = partitions
        self.wanted = True
        self.renew_at = -math.inf
        self.renewed = trio.Event()

    @property
    def leases(self) -> list[Lease]:
        """The leases of this bus that Redis was not told to give away."""
        found = [each.lease for each in self.partitions if each.lease is not None]
        return [lease for lease in found if not lease.leaving]

    def partition(self, lease: Lease) -> Partition:
        """Return the partition of a lease."""
        return self.partitions[lease.number]


class LeaseKeeper:
    """The lease keeper of one open bus."""

    def __init__(self, context: ConsumerContext, reader: PartitionReader, order: KeyOrder) -> None:
        self._link = context.link
        self._inbox = context.inbox
        self._keys = context.keys
        self._config = context.config
        self._consumer = context.consumer
        self._held = context.held
        self._faults = context.faults
        self._reader = reader
        self._order = order
        # A part of our fences, so that no other bus has the same ones.
        self._mark = secrets.token_hex(4)
        self._shares: dict[str, PartitionShare] = {}
        self._stopped = False
        # Some lease is drained, or may be.
        self._draining = False
        self._woken = trio.Event()

    # -- from the others

    async def add(self, names: Sequence[str]) -> None:
        """Take part in the partitions of names; returns when Redis was asked for some of each."""
        renewed = [self._add(name) for name in names]
        self._woken.set()
        for each in renewed:
            await each.wait()

    def _add(self, name: str) -> trio.Event:
        share = self._shares.get(name)
        if share is None:
            partitions = [Partition(name, number) for number in range(self._config.partitions)]
            share = self._shares[name] = PartitionShare(name, partitions)
        share.wanted = True
        share.renew_at = -math.inf
        for partition in share.partitions:
            self._reader.add_partition(self._keys.stream(name, partition.number), partition)
        share.renewed = trio.Event()
        return share.renewed

    def remove(self, name: str) -> None:
        """Leave the partitions of a name to other buses."""
        share = self._shares.get(name)
        if share is not None:
            share.wanted = False
            share.renew_at = -math.inf
            self._drain(share.leases)
            self._woken.set()

    def stop(self) -> None:
        """Leave all partitions to other buses, each when its listeners have ended."""
        self._stopped = True
        for share in self._shares.values():
            share.renew_at = -math.inf
            self._drain(share.leases)
        self._woken.set()

    def freed(self) -> None:
        """Note that an entry is no longer held: a partition may be drained now."""
        if self._draining and any(
            lease.draining and share.partition(lease).drained(lease)
            for share in self._shares.values()
            for lease in share.leases
        ):
            self._woken.set()

    # -- rounds

    async def run(self) -> None:
        """Keep leases, until cancelled."""
        interval = min(RENEW_INTERVAL_SECONDS, self._config.claim_idle / 4)
        while True:
            self._woken = trio.Event()
            try:
                await self._round()
            except RedisLinkError:
                await self._link.ready()
                # The replies are lost.
                for share in self._shares.values():
                    share.renew_at = -math.inf
                continue
            with trio.move_on_after(interval):
                await self._woken.wait()

    async def _round(self) -> None:
        # Before the request: the server's record of a lease then ends later than `until`.
        now = trio.current_time()
        until = now + self._config.claim_idle
        settled_seconds = min(
            self._config.claim_idle / 4, len(self._shares) / SETTLED_NAMES_PER_SECOND
        )
        asked: list[tuple[PartitionShare, list[Lease], trio.Event]] = []
        for share in self._shares.values():
            if now >= share.renew_at:
                # Spread, so that they do not come all at once again. Reset if there is a change.
                share.renew_at = now + settled_seconds * random.uniform(0.8, 1.0)  # noqa: S311
                asked.append((share, share.leases, share.renewed))
        calls = [self._renewing(share, leases) for share, leases, _ in asked]
        for (share, leases, renewed), reply in zip(
            asked, await call_many(self._link, calls), strict=True
        ):
            if isinstance(reply, Exception):
                share.renew_at = -math.inf
                self._refused(share, reply)
            else:
                self._renewed(share, leases, until, *reply)
            renewed.set()
        await self._give_away_drained()
        for name, share in list(self._shares.items()):
            if not share.wanted and not any(each.lease for each in share.partitions):
                del self._shares[name]

    def _renewing(self, share: PartitionShare, leases: list[Lease]) -> ScriptCall:
        name = share.name
        keys = (self._keys.leases(name), self._keys.members(name), self._keys.stream(name))
        wants = share.wanted and not self._stopped
        args: list[Encodable] = [self._consumer, self._mark]
        args += [round(self._config.claim_idle * 1000), self._config.partitions]
        args += [int(wants), crc32(name.encode()) % 1024, name]
        for lease in leases:
            args += [lease.number, lease.fence]
        return PARTITION_RENEW, (*keys, self._keys.names), args

    def _renewed(
        self,
        share: PartitionShare,
        asked: list[Lease],
        until: float,
        lost: list[tuple[int, bytes]],
        taken: list[tuple[int, bytes]],
        fair: int,
    ) -> None:
        owners = {number: as_text(owner) for number, owner in lost}
        for lease in asked:
            if lease.leaving or lease.lost:
                continue
            owner = owners.get(lease.number)
            if owner is not None:
                self._lost(share.partition(lease), lease, owner)
                continue
            was_open, lease.until = lease.open, until
            if lease.open and not was_open:
                self._order.resume(lease)
                self._reader.change()
        leases_key = self._keys.leases(share.name)
        for number, fence in taken:
            partition = share.partitions[number]
            # An earlier lease of ours that Redis does not know any more.
            if partition.lease is not None:
                self._end(partition, partition.lease)
            partition.hold_by(Lease(leases_key, number, fence, until))
        if not share.wanted or self._stopped:
            fair = 0
        if lost or taken or len(share.leases) != fair:
            # Partitions move between the buses: look again in the next round.
            share.renew_at = -math.inf
        # Below 0: the server is out of memory and cannot tell.
        if fair >= 0:
            self._balance(share, fair)
        if taken:
            self._reader.change()

    def _balance(self, share: PartitionShare, fair: int) -> None:
        """Drain the partitions above a fair share, or keep some that were to be drained."""
        leases = share.leases
        kept = [lease for lease in leases if not lease.draining]
        excess = len(kept) - fair
        if excess > 0:
            # The least loaded first: they are drained soonest.
            kept.sort(key=lambda lease: share.partition(lease).held_count)
            self._drain(kept[:excess])
        elif excess < 0:
            for lease in [each for each in leases if each.draining][:-excess]:
                lease.draining = False
                self._order.resume(lease)
                self._reader.change()

    def _drain(self, leases: list[Lease]) -> None:
        for lease in leases:
            lease.draining = True
        if leases:
            self._draining = True
            self._reader.change()

    async def _give_away_drained(self) -> None:
        if not self._draining:
            return
        ready: list[tuple[Partition, Lease]] = []
        self._draining = False
        for share in self._shares.values():
            for partition in share.partitions:
                lease = partition.lease
                if lease is not None and lease.draining:
                    self._draining = True
                    # `leaving` from an earlier round whose reply was lost: it is told again.
                    if lease.leaving or partition.drained(lease):
                        lease.leaving = True
                        ready.append((partition, lease))
        if not ready:
            return
        calls = [self._leaving(partition, lease) for partition, lease in ready]
        replies = iter(await call_many(self._link, [each for part in calls for each in part]))
        for (partition, lease), part in zip(ready, calls, strict=True):
            *_, dropped = [next(replies) for _ in part]
            if isinstance(dropped, Exception) and fenced_by(dropped) is None:
                self._faults.refused(dropped, f"give away a partition of {partition.name!r}")
            else:
                self._end(partition, lease)

    def _leaving(self, partition: Partition, lease: Lease) -> list[ScriptCall]:
        """Return the calls that give a partition away, with its pending entries."""
        calls = [self._releasing(stream) for stream in partition.streams]
        # The lease last: the next bus finds all entries released.
        calls.append((PARTITION_DROP_LEASE, (), (lease.number,)))
        return [fenced(call, lease) for call in calls]

    def _releasing(self, stream: Stream) -> ScriptCall:
        args: list[Encodable] = [self._keys.group, self._consumer, RELEASED]
        for entry in stream.held.values():
            if entry.started:
                args += [entry.id, "give"]
            elif entry.isolated:
                args += [entry.id, "keep"]
        return PARTITION_RELEASE, (stream.key,), args

    def _lost(self, partition: Partition, lease: Lease, owner: str) -> None:
        self._end(partition, lease)
        now = f"the consumer {owner!r} has it" if owner else "no consumer has it"
        self._inbox.report(
            DriverError(
                f"this bus has lost the partition {partition.number} of {partition.name!r}: it "
                f"gave no sign of life for {self._config.claim_idle:g} s or its lease has "
                f"vanished; {now}"
            ),
            partition.name,
        )

    def _end(self, partition: Partition, lease: Lease) -> None:
        """Forget the entries of a lease; its running listeners will be reported as `Lost`."""
        lease.lost = True
        for stream in partition.streams:
            for entry in list(stream.held.values()):
                self._held.forget(entry)
        if partition.lease is lease:
            partition.hold_by(None)
        if (share := self._shares.get(partition.name)) is not None:
            share.renew_at = -math.inf
        self._order.drop(lease)
        self._reader.change()

    def _refused(self, share: PartitionShare, error: Exception) -> None:
        said = str(error)
        if isinstance(error, redis_errors.ResponseError) and said.startswith("PARTITIONS"):
            found = int(said.split()[1])
            error = PartitionsDiffer(share.name, self._config.partitions, found)
        self._faults.refused(error, f"grant partitions of {share.name!r}")

    # -- the end

    async def leave(self) -> None:
        """Give all partitions away, because the bus ends."""
        calls: list[ScriptCall] = []
        for name, share in self._shares.items():
            for partition in share.partitions:
                if partition.lease is not None:
                    calls += self._leaving(partition, partition.lease)
            keys = (self._keys.leases(name), self._keys.members(name))
            args = (self._consumer, self._mark, self._config.partitions)
            calls.append((PARTITION_QUIT, keys, args))
        await call_many(self._link, calls)
