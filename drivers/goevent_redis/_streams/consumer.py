"""The consumer: one open bus as a member of its group, from its first read until it leaves.

It wires the actors and owns their start and their end. An entry takes this way:

    reader -> deliverer -> the bus -> acknowledger -> Redis

The subscriptions tell the reader which streams to read, and the monitor inspects the streams.
Two parts differ between competing consumers and partitions: the `DeliveryOrder`, and the owner,
which keeps the entries of this bus from other buses (`Claimer` or `LeaseKeeper`). With partitions,
the `KeyOrder` stands between the reader and the deliverer.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio
from redis import exceptions as redis_errors

from goevent.drivers import Backlog

from .acknowledger import Acknowledger
from .claimer import Claimer
from .context import ConsumerContext
from .deduplicator import Deduplicator
from .deliverer import Deliverer
from .monitor import StreamMonitor
from .order import CompetingOrder
from .partitions.key_order import KeyOrder
from .partitions.lease_keeper import LeaseKeeper
from .partitions.reader import PartitionReader
from .partitions.subscriptions import PartitionSubscriptions, sum_backlogs
from .reader import StreamReader
from .subscriptions import StreamSubscriptions


class StreamConsumer:
    """One open bus as a consumer."""

    def __init__(self, context: ConsumerContext) -> None:
        self._link = context.link
        self._deduplicator = Deduplicator(context)
        if context.config.partitions > 1:
            self._wire_partitions(context)
        else:
            self._wire_competing(context)

    def _wire_competing(self, context: ConsumerContext) -> None:
        order = CompetingOrder(context.config)
        self._acknowledger = acknowledger = Acknowledger(context, order, self._deduplicator)
        self._deliverer = Deliverer(context, acknowledger, order, self._deduplicator)
        self._reader = StreamReader(
            context, self._deliverer.enqueue, acknowledger.settled, acknowledger.acknowledge
        )
        self._monitor = StreamMonitor(context, self._reader)
        self._reader.on_wrong_type = self._monitor.inspect_all
        self._subscriptions = StreamSubscriptions(context, self._reader, self._monitor)
        self._owner: Claimer | LeaseKeeper = Claimer(context, self._reader, self._deliverer, order)
        self._tasks = [self._owner.run]

    def _wire_partitions(self, context: ConsumerContext) -> None:
        order = KeyOrder(context)
        self._acknowledger = acknowledger = Acknowledger(context, order, self._deduplicator)
        self._deliverer = Deliverer(context, acknowledger, order, self._deduplicator)
        # Set late, because the deliverer needs the order first.
        order.deliver = self._deliverer.enqueue
        reader = PartitionReader(
            context, order.enqueue, acknowledger.settled, acknowledger.acknowledge
        )
        self._reader = reader
        self._owner = keeper = LeaseKeeper(context, reader, order)
        context.held.on_forgotten += [reader.freed, keeper.freed]
        self._monitor = StreamMonitor(context, reader)
        reader.on_wrong_type = self._monitor.inspect_all
        self._subscriptions = PartitionSubscriptions(context, reader, self._monitor, keeper)
        self._tasks = [order.run, keeper.run]

    def start(self, nursery: trio.Nursery) -> None:
        """Start all actors in a nursery."""
        for task in (
            self._reader.run,
            self._reader.nudge,
            self._reader.watch,
            self._deliverer.run,
            self._acknowledger.run,
            self._monitor.run,
            self._subscriptions.run,
            *self._tasks,
        ):
            nursery.start_soon(task)

    async def subscribe(self, names: Sequence[str]) -> None:
        """Read the streams of names and patterns; returns when the groups exist."""
        await self._subscriptions.add(names)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Unsubscribe, and release the entries that no listener has got."""
        await self._subscriptions.remove(names)
        self._deliverer.release_inactive()

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return the backlogs of the group, as last seen; they include replayed events."""
        streams = self._reader.streams.values()
        return sum_backlogs([each.backlog for each in streams if each.backlog is not None])

    async def stop(self) -> None:
        """Read no more, and release the entries that no listener has got."""
        # The owner first: partitions that are drained from now on go to other buses soon.
        self._owner.stop()
        await self._reader.stop()
        await self._deliverer.stop()

    async def leave(self) -> None:
        """Send the last decisions, release the rest, and leave the group."""
        # From now on listeners that end change nothing: their entries are released as they are.
        self._acknowledger.closed = True
        if not self._reader.ever_read or not self._link.connected:
            return
        try:
            await self._acknowledger.flush()
            await self._owner.leave()
        except redis_errors.RedisError:
            # Other buses take over when our entries have been idle for long enough.
            pass
