"""Drivers that are broken on purpose: the conformance suite catches each of them."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, cast
from unittest import SkipTest

import msgspec
import pytest
import trio
from tests.support.in_memory_brokers import (
    ConsumerGroup,
    EchoBroker,
    EchoConnection,
    EchoDriver,
    GroupBroker,
    GroupDriver,
    GroupEntry,
)
from trio.testing import MockClock

from goevent import (
    Capabilities,
    DriverConnectionError,
    DriverError,
    Envelope,
    Event,
    Inbox,
    MemoryDriver,
    MemoryHub,
    Message,
    Receipt,
    Settlement,
)
from goevent.drivers import (
    Backlog,
    BatchReplied,
    DirectSent,
    TailChannel,
    TailedEvent,
    TakeDirect,
    running_tail,
)
from goevent.testing import DriverConformance

CASES = [name for name in dir(DriverConformance) if name.startswith("test_")]
LEAKED: list[Any] = []


def altered(message: Message, **changes: Any) -> Message:
    return cast("Message", Altered(message, **changes))


class Altered:
    """A message with another envelope."""

    def __init__(self, message: Message, **changes: Any) -> None:
        self.message = message
        self.changes = changes

    def envelope(self) -> Envelope:
        return msgspec.structs.replace(self.message.envelope(), **self.changes)


# -- memory drivers


class DropsEverySeventh(MemoryDriver):
    count = 0

    async def publish(self, message: Message) -> Receipt:
        self.count += 1
        return Receipt(receivers=1) if self.count % 7 == 0 else await super().publish(message)


class DropsUntypedEvents(MemoryDriver):
    async def publish(self, message: Message) -> Receipt:
        if type(message.event).__name__ == "AdHocEvent":
            return Receipt(receivers=0)
        return await super().publish(message)


class DuplicatesEverySeventh(MemoryDriver):
    count = 0

    async def publish(self, message: Message) -> Receipt:
        self.count += 1
        if self.count % 7 == 0:
            await super().publish(message)
        return await super().publish(message)


class ReordersTwo(MemoryDriver):
    """Runs two publishes at the same time, and the later one may be faster."""

    count = 0

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, in_flight=2)

    async def publish(self, message: Message) -> Receipt:
        self.count += 1
        if self.count % 5 == 0:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
        return await super().publish(message)


class TakesBatches(MemoryDriver):
    """A correct driver; the batches of its base class have one event each."""

    def __init__(self, hub: MemoryHub | None = None) -> None:
        super().__init__(hub)
        self.order = trio.Lock()

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, in_flight=100)

    async def publish(self, message: Message) -> Receipt:
        async with self.order:
            return await super().publish(message)


class LosesTheEndOfBatches(TakesBatches):
    def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
        sent = super().publish_many_nowait(messages[:50], lambda results, first=0: None)
        replied([Receipt(receivers=1)] * len(messages))
        return max(sent, len(messages))


class SendsBatchesBackwards(TakesBatches):
    def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
        return super().publish_many_nowait(messages[::-1], replied)


class CountsTooFewOfABatch(TakesBatches):
    """Sends a whole batch and says that it has sent less, so the bus sends the rest again."""

    def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
        receipts: list[Receipt | Exception | None] = []
        taken = super().publish_many_nowait(
            messages, lambda results, first=0: receipts.extend(results)
        )
        replied(receipts[: taken - (taken > 1)])
        return taken - (taken > 1)


class AnswersBatchesWithoutReceipts(TakesBatches):
    def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
        return super().publish_many_nowait(
            messages, lambda results, first=0: replied([None] * len(results), first)
        )


class DeliversConcurrently(MemoryDriver):
    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with trio.open_nursery() as nursery:
            await super().run(as_inbox(Concurrently(inbox, nursery)), task_status=task_status)


def as_inbox(wrapped: Wrapped) -> Inbox:
    return cast("Inbox", wrapped)


class Wrapped:
    """The base of inboxes that change deliveries."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox

    async def deliver(self, envelope: Envelope, settle: Any = None) -> None:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inbox, name)


class Concurrently(Wrapped):
    count = 0

    def __init__(self, inbox: Inbox, nursery: trio.Nursery) -> None:
        super().__init__(inbox)
        self.nursery = nursery

    async def deliver(self, envelope: Envelope, settle: Any = None) -> None:
        self.count += 1
        self.nursery.start_soon(self.late, envelope, self.count % 3 * 10)

    async def late(self, envelope: Envelope, steps: int) -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        await self.inbox.deliver(envelope)


class LeaksATask(MemoryDriver):
    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
        await super().run(inbox, task_status=task_status)


class KeepsItsBus(MemoryDriver):
    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        LEAKED.append(inbox)
        await super().run(inbox, task_status=task_status)


class EndsEarly(MemoryDriver):
    """Receives ten events, and then no more."""

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.CancelScope() as scope:
            await super().run(as_inbox(Ending(inbox, scope)), task_status=task_status)


class Ending(Wrapped):
    def __init__(self, inbox: Inbox, scope: trio.CancelScope) -> None:
        super().__init__(inbox)
        self.left = 10
        self.scope = scope

    async def deliver(self, envelope: Envelope, settle: Any = None) -> None:
        await self.inbox.deliver(envelope, settle)
        self.left -= 1
        if not self.left:
            self.scope.cancel()


class StopsReceiving(MemoryDriver):
    """Receives ten events, and drops the others."""

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await super().run(as_inbox(Deaf(inbox)), task_status=task_status)


class Deaf(Wrapped):
    left = 10

    async def deliver(self, envelope: Envelope, settle: Any = None) -> None:
        self.left -= 1
        if self.left >= 0:
            await self.inbox.deliver(envelope, settle)


class DeliversAfterUnsubscribe(MemoryDriver):
    async def unsubscribe(self, names: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()


class DeliversUnsubscribedNames(MemoryDriver):
    def wants(self, name: str) -> bool:
        return True


class DeliversItsEcho(MemoryDriver):
    inbox: Inbox | None = None

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self.inbox = inbox
        await super().run(inbox, task_status=task_status)

    async def publish(self, message: Message) -> Receipt:
        receipt = await super().publish(message)
        if self.inbox is not None and self.wants(message.event_name):
            await self.inbox.deliver(altered(message, origin="").envelope())
        return receipt


class LosesHeaders(MemoryDriver):
    async def publish(self, message: Message) -> Receipt:
        return await super().publish(altered(message, headers={}))


class MixesUpHeaders(MemoryDriver):
    last: dict[str, str] | None = None

    async def publish(self, message: Message) -> Receipt:
        self.last = {**(self.last or {}), **message.headers}
        return await super().publish(altered(message, headers=self.last))


class LosesIds(MemoryDriver):
    async def publish(self, message: Message) -> Receipt:
        return await super().publish(altered(message, handle_id=""))


class ChangesPayloads(MemoryDriver):
    async def publish(self, message: Message) -> Receipt:
        event = message.event
        text = getattr(event, "text", "").replace("\r\n", "\n")
        if text:
            event = msgspec.structs.replace(event, text=text)
        return await super().publish(altered(message, event=event))


class MixesUpNames(MemoryDriver):
    """Sends every seventh event under the name of the previous one."""

    count = 0
    last: type[Event] | None = None

    async def publish(self, message: Message) -> Receipt:
        self.count += 1
        kind, self.last = self.last, type(message.event)
        if self.count % 7 or kind is None or not issubclass(kind, Event):
            return await super().publish(message)
        event = kind(**message.event.payload())
        return await super().publish(altered(message, event=event, event_name=kind.event_name))


class CountsItself(MemoryDriver):
    async def publish(self, message: Message) -> Receipt:
        receipt = await super().publish(message)
        return Receipt(receivers=(receipt.receivers or 0) + 1)


class AcceptsBeforeItSends(MemoryDriver):
    """Sends from a task of its own, which ends with the bus."""

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self.send, receive = trio.open_memory_channel[Message](1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.forward, receive)
            await super().run(inbox, task_status=task_status)

    async def forward(self, messages: trio.MemoryReceiveChannel[Message]) -> None:
        async for message in messages:
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            await super().publish(message)

    async def publish(self, message: Message) -> Receipt:
        await self.send.send(message)
        return Receipt(receivers=1)


class FailsOnReopening(MemoryDriver):
    opened = False

    async def subscribe(self, names: Sequence[str]) -> None:
        if not self.opened:
            await super().subscribe(names)
        self.opened = True


# -- echo drivers


class SwallowsPublishErrors(EchoDriver):
    async def publish(self, message: Message) -> Receipt:
        try:
            return await super().publish(message)
        except Exception:
            return Receipt(receivers=0)


class HangsWhilePublishing(EchoDriver):
    async def publish(self, message: Message) -> Receipt:
        while self.connection is None:
            await trio.sleep(1)
        return await super().publish(message)


class CutsOffLargeEvents(EchoDriver):
    async def receive(self, inbox: Inbox, connection: EchoConnection) -> None:
        async for name, data in connection.receive:
            await inbox.receive(name, data[:30_000])


class StaysDisconnected(EchoDriver):
    def subscribe_again(self, connection: EchoConnection) -> None:
        if self.connection in self.broker.connections and len(connection.names) < len(self.names):
            super().subscribe_again(connection)

    async def receive(self, inbox: Inbox, connection: EchoConnection) -> None:
        await super().receive(inbox, connection)
        self.names.clear()


class ReportsNoOutage(EchoDriver):
    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await super().run(as_inbox(SilentInbox(inbox)), task_status=task_status)


class SilentInbox(Wrapped):
    def report(self, error: Exception, event_name: str = "") -> None:
        pass


class DeliversOncePerSubscription(EchoDriver):
    async def receive(self, inbox: Inbox, connection: EchoConnection) -> None:
        async for name, data in connection.receive:
            for match in [*connection.names.values()]:
                if match(name):
                    await inbox.receive(name, data)


class TakesNamesForPatterns(EchoDriver):
    def subscribe_again(self, connection: EchoConnection) -> None:
        connection.names.update(
            {name: re.compile(name.replace("*", ".*"), re.IGNORECASE).match for name in self.names}
        )

    async def receive(self, inbox: Inbox, connection: EchoConnection) -> None:
        async for name, data in connection.receive:
            await inbox.receive(name, data)


class OpensWithoutABroker(EchoDriver):
    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        await self.broker.reachable.wait()
        await super().run(inbox)


class HidesThatTheBrokerIsUnreachable(EchoDriver):
    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            await super().run(inbox, task_status=task_status)
        except DriverConnectionError as error:
            raise DriverError("something is wrong") from error


# -- group drivers


class SettlesTwice(GroupDriver):
    def settle(self, entry: GroupEntry, end: Settlement) -> None:
        super().settle(entry, end)
        self.group.acknowledge(entry)


class NeverAsksForSettlement(GroupDriver):
    async def deliver(self, inbox: Inbox, entry: GroupEntry) -> None:
        await inbox.receive(entry.name, entry.data)


class NeverAcknowledges(GroupDriver):
    def settle(self, entry: GroupEntry, end: Settlement) -> None:
        pass


class AcknowledgesAtOnce(GroupDriver):
    async def deliver(self, inbox: Inbox, entry: GroupEntry) -> None:
        self.settle(entry, Settlement())
        await inbox.receive(entry.name, entry.data, lambda _: None)


class AcknowledgesTheAbandoned(GroupDriver):
    def settle(self, entry: GroupEntry, end: Settlement) -> None:
        super().settle(entry, Settlement())


class DeliversTwice(GroupDriver):
    async def deliver(self, inbox: Inbox, entry: GroupEntry) -> None:
        settle = partial(self.settle, entry)
        await inbox.receive(entry.name, entry.data, settle)
        await inbox.receive(entry.name, entry.data, settle)


class SharesWithinItsGroup(GroupDriver):
    """Gives every member of a group every event."""

    def __init__(self, broker: GroupBroker, group: str) -> None:
        super().__init__(broker, f"{group}-{id(self)}")


class UnsubscribesItsGroup(GroupDriver):
    async def unsubscribe(self, names: Sequence[str]) -> None:
        await super().unsubscribe(names)
        self.group.names.difference_update(names)


class HasNoReceipts(GroupDriver):
    async def publish(self, message: Message) -> Receipt:
        await super().publish(message)
        return Receipt()


# -- the suite, run on the mutants


# -- questions


class TailTakesEvents(GroupDriver):
    """Takes events of the sender's groups in order to show them."""

    def tail(self, pattern: str) -> AbstractAsyncContextManager[Any]:
        async def show(channel: TailChannel, started: Callable[[], None]) -> None:
            started()
            async with trio.open_nursery() as nursery:
                for group in [*self.broker.groups.values()]:
                    nursery.start_soon(self.take_from, group, pattern, channel)

        return running_tail(show)

    async def take_from(self, group: ConsumerGroup, name: str, channel: TailChannel) -> None:
        while True:
            entry = await group.take({name})
            group.acknowledge(entry)
            channel.put_nowait(TailedEvent(event_name=name, data=entry.data))


class TailDiscardsAnEvent(GroupDriver):
    """Shows every event. The groups never get one of those that a tail has shown."""

    async def publish(self, message: Message) -> Receipt:
        receipt = await super().publish(message)
        if self.broker.tails and message.event.payload()["n"] == 30:
            for group in self.broker.groups.values():
                group.waiting.pop(self.broker.count, None)
        return receipt


class TailShowsTwice(MemoryDriver):
    def tail(self, pattern: str) -> AbstractAsyncContextManager[Any]:
        async def show(channel: TailChannel, started: Callable[[], None]) -> None:
            async with super(TailShowsTwice, self).tail(pattern) as events:
                started()
                async for event in events:
                    channel.put_nowait(event)
                    channel.put_nowait(event)

        return running_tail(show)


class TailShowsEverything(MemoryDriver):
    def tail(self, pattern: str) -> AbstractAsyncContextManager[Any]:
        return super().tail("**")


class TailHoldsUpTheSender(MemoryDriver):
    """Has no bound for a reader that is slow but the sender's patience."""

    channels: ClassVar[list[TailChannel]] = []

    def tail(self, pattern: str) -> AbstractAsyncContextManager[Any]:
        async def show(channel: TailChannel, started: Callable[[], None]) -> None:
            self.channels.append(channel)
            started()
            try:
                await trio.sleep_forever()
            finally:
                self.channels.remove(channel)

        return running_tail(show, max_events=10)

    async def publish(self, message: Message) -> Receipt:
        for channel in self.channels:
            await channel.put(TailedEvent(event_name=message.event_name, data=message.encode()))
        return await super().publish(message)

    def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
        return 0


class TailLeavesATask(MemoryDriver):
    async def run(self, inbox: Inbox, **options: Any) -> None:
        async with trio.open_nursery() as self.nursery:
            await super().run(inbox, **options)

    def tail(self, pattern: str) -> AbstractAsyncContextManager[Any]:
        self.nursery.start_soon(trio.sleep_forever)
        return super().tail(pattern)


class LagCountsNothing(GroupDriver):
    async def lag(self, group: str, names: Sequence[str] = ()) -> Sequence[Backlog]:
        return [replace(each, lag=0, pending=0) for each in await super().lag(group, names)]


class LagCountsWhatIsDone(GroupDriver):
    async def lag(self, group: str, names: Sequence[str] = ()) -> Sequence[Backlog]:
        found = await super().lag(group, names)
        return [replace(each, lag=max(each.lag or 0, 10)) for each in found]


class LagCreatesTheGroup(GroupDriver):
    async def lag(self, group: str, names: Sequence[str] = ()) -> Sequence[Backlog]:
        self.broker.group(group).names.add("anything")
        return await super().lag(group, names)


# -- direct messages


class LosesSomeDirectMessages(MemoryDriver):
    count = 0

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        self.count += 1
        if self.count % 7:
            super().send_directly(address, data, sent)
        else:
            sent(1)


class StripsDirectMessages(MemoryDriver):
    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        super().send_directly(address, data.removesuffix(b"\r\n"), sent)


class LetsDirectMessagesOvertake(MemoryDriver):
    """Keeps one message of ten until the next one to its address has been sent."""

    count = 0
    kept: tuple[str, bytes, DirectSent] | None = None

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        self.count += 1
        if self.kept is None and self.count % 10 == 3:
            self.kept = (address, data, sent)
            return
        super().send_directly(address, data, sent)
        if self.kept is not None and self.kept[0] == address:
            kept, self.kept = self.kept, None
            super().send_directly(*kept)


class FoldsAddresses(MemoryDriver):
    """Takes addresses that differ by case for one."""

    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        def take_folded(folded: str, data: bytes) -> None:
            take(next(each for each in addresses if each.lower() == folded), data)

        await super().open_addresses([each.lower() for each in addresses], take_folded)

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        super().send_directly(address.lower(), data, sent)


class KeepsClosedAddresses(MemoryDriver):
    async def close_addresses(self, addresses: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()


class DropsItsOwnDirectMessages(MemoryDriver):
    sending = False

    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        await super().open_addresses(
            addresses, lambda address, data: None if self.sending else take(address, data)
        )

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        self.sending = True
        super().send_directly(address, data, sent)
        self.sending = False


class RefusesToSendInsideOfTake(MemoryDriver):
    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        def take_alone(address: str, data: bytes) -> None:
            self.taking = True
            take(address, data)
            self.taking = False

        await super().open_addresses(addresses, take_alone)

    taking = False

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        if self.taking:
            raise RuntimeError("busy")
        super().send_directly(address, data, sent)


class NeverTellsWhatBecameOfDirectMessages(MemoryDriver):
    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        super().send_directly(address, data, lambda outcome: None)


class TellsOutcomesOfDirectMessagesTwice(MemoryDriver):
    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        super().send_directly(address, data, sent)
        super().send_directly("nobody", b"", sent)


class ForgetsDirectMessagesAtTheEnd(MemoryDriver):
    """Sends from a task of its own, which ends with the bus."""

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self.queue, receive = trio.open_memory_channel[tuple[str, bytes, DirectSent]](1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.forward, receive)
            await super().run(inbox, task_status=task_status)

    async def forward(
        self, messages: trio.MemoryReceiveChannel[tuple[str, bytes, DirectSent]]
    ) -> None:
        async for message in messages:
            super().send_directly(*message)

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        self.queue.send_nowait((address, data, sent))


class KeepsAddressesOfAClosedBus(EchoDriver):
    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        kept = self.addresses
        self.addresses = {}
        async with trio.open_nursery() as nursery:
            await nursery.start(super().run, inbox)
            self.addresses = kept
            task_status.started()


class OpensAddressesTwice(EchoDriver):
    """Opens an address once more for each call."""

    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        known = [self.addresses.get(address) for address in addresses]

        def take_again(address: str, data: bytes) -> None:
            for each in (*known, take):
                if each is not None:
                    each(address, data)

        await super().open_addresses(addresses, take_again)


class OpensNoAddressAfterAnOutage(EchoDriver):
    def subscribe_again(self, connection: EchoConnection) -> None:
        super().subscribe_again(connection)
        connection.addresses.clear()


class LosesOutcomesInAnOutage(EchoDriver):
    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        if self.connection is not None:
            super().send_directly(address, data, sent)


class SendsDirectMessagesAsEvents(EchoDriver):
    """Has the same place for an address and for an event of that name."""

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        if self.connection is None:
            sent(DriverConnectionError("not connected"))
        else:
            sent(self.broker.publish(address, data) + self.broker.send_directly(address, data))


class QueuesDirectMessagesBehindEvents(EchoDriver):
    async def receive(self, inbox: Inbox, connection: EchoConnection) -> None:
        async for name, data in connection.receive:
            if name in connection.addresses:
                connection.addresses[name](name, data)
            else:
                await inbox.receive(name, data)

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        takers = [each for each in self.broker.connections if address in each.addresses]
        for connection in takers:
            connection.send.send_nowait((address, data))
        sent(len(takers))


# -- conversations


class LosesMessages(MemoryDriver):
    """Loses the direct messages of one kind."""

    kind: ClassVar[bytes]

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        if b'"kind":"%s"' % self.kind in data:
            sent(1)
        else:
            super().send_directly(address, data, sent)


class LosesReplies(LosesMessages):
    kind = b"reply"


class LosesFailures(LosesMessages):
    kind = b"failed"


class LosesReports(LosesMessages):
    kind = b"done"


class RepeatsDirectMessages(MemoryDriver):
    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        super().send_directly(address, data, lambda outcome: None)
        super().send_directly(address, data, sent)


class MixesUpAddresses(MemoryDriver):
    """Sends every fifth direct message to the address of the one before."""

    count = 0
    before = ""

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        self.count += 1
        place, self.before = (self.before if self.count % 5 == 0 else address), address
        super().send_directly(place, data, sent)


class CutsOffReplies(MemoryDriver):
    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        super().send_directly(address, data[:-1] if b'"reply"' in data else data, sent)


class ClosesAddressesFirst(EchoDriver):
    """Closes its addresses when its bus begins to drain."""

    async def drain(self) -> None:
        await self.unsubscribe([*self.names])
        await self.close_addresses([*self.addresses])


class CountsOneReceiverTooMany(MemoryDriver):
    async def publish(self, message: Message) -> Receipt:
        receipt = await super().publish(message)
        return Receipt(receivers=(receipt.receivers or 0) + 1)


class GivesRequestsToAllBuses(GroupDriver):
    """Has a group of its own for each bus."""

    count = 0

    def __init__(self, broker: GroupBroker, group: str) -> None:
        GivesRequestsToAllBuses.count += 1
        super().__init__(broker, f"{group}-{self.count}")


class MemorySuite(DriverConformance):
    def __init__(self, mutant: Callable[..., Any]) -> None:
        self.mutant = mutant

    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], Any]]:
        hub = MemoryHub()
        yield lambda group: self.mutant(hub)


class EchoSuite(DriverConformance):
    def __init__(self, mutant: Callable[..., Any]) -> None:
        self.mutant = mutant

    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], Any]]:
        self.echo_broker = EchoBroker()
        yield lambda group: self.mutant(self.echo_broker)

    @asynccontextmanager
    async def outage(self) -> AsyncGenerator[None]:
        self.echo_broker.fail()
        yield
        self.echo_broker.reachable.set()


class GroupSuite(DriverConformance):
    def __init__(self, mutant: Callable[..., Any]) -> None:
        self.mutant = mutant

    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], Any]]:
        group_broker = GroupBroker()
        yield lambda group: self.mutant(group_broker, group)


SUITES: dict[type, type] = {
    MemoryDriver: MemorySuite,
    EchoDriver: EchoSuite,
    GroupDriver: GroupSuite,
}

# The case that catches a mutant, and its message. Most mutants fail other cases, too.
MUTANTS: list[tuple[type, str, str]] = [
    (
        DropsEverySeventh,
        "everything_arrives_as_it_was_sent",
        "200 events .* of which 172 have arrived",
    ),
    (DropsEverySeventh, "fifty_can_publish_at_once", "1000 events to arrive"),
    (DropsUntypedEvents, "untyped_events_arrive", "10 events to arrive, of which 0 have"),
    (DuplicatesEverySeventh, "everything_arrives_as_it_was_sent", "200 events became 228"),
    (DuplicatesEverySeventh, "names_do_not_mix", "more than once"),
    (ReordersTwo, "order_is_kept_per_publisher_and_name", "in another order"),
    (LosesTheEndOfBatches, "batches_arrive", "events to arrive"),
    (SendsBatchesBackwards, "batches_arrive", "in another order"),
    (CountsTooFewOfABatch, "batches_arrive", "more than once"),
    (
        AnswersBatchesWithoutReceipts,
        "events_of_a_batch_have_their_receipts",
        "had 1 receivers, and those of a batch had {None}",
    ),
    (DeliversConcurrently, "order_is_kept_per_publisher_and_name", "in another order"),
    (LeaksATask, "no_task_is_left", "tasks are left .*: trio.sleep_forever"),
    (LeaksATask, "bus_can_be_cancelled_at_every_step", "tasks are left by a bus"),
    (KeepsItsBus, "closed_bus_is_freed", "still refers to a closed bus"),
    (EndsEarly, "everything_arrives_as_it_was_sent", "EndsEarly.run has returned"),
    (StopsReceiving, "everything_arrives_as_it_was_sent", "200 events .* of which 10 have arrived"),
    (DeliversAfterUnsubscribe, "unsubscribed_names_are_not_delivered", "after it was unsubscribed"),
    (
        DeliversAfterUnsubscribe,
        "unsubscribed_patterns_are_not_delivered",
        "after it was unsubscribed",
    ),
    (DeliversUnsubscribedNames, "unusual_names_are_kept_apart", "has not subscribed to"),
    (DeliversItsEcho, "own_listeners_get_each_event_once", "own listeners.* more than once"),
    (LosesHeaders, "headers_arrive", "traceparent.* arrived as {}"),
    (MixesUpHeaders, "headers_arrive", "headers {'a': .* arrived as {.*traceparent"),
    (LosesHeaders, "causes_arrive", "event 2 of a chain"),
    (LosesIds, "causes_arrive", "event 1 of a chain"),
    (ChangesPayloads, "everything_arrives_as_it_was_sent", "these events were not sent"),
    (MixesUpNames, "names_do_not_mix", "20 events to arrive|do not belong here"),
    (DuplicatesEverySeventh, "streams_miss_nothing", "in a stream: .* more than once"),
    (ReordersTwo, "streams_miss_nothing", "in another order"),
    (StopsReceiving, "streams_miss_nothing", "waiting for"),
    (CountsItself, "receivers_are_counted", r"counted as \[1, 2, 3\]"),
    (AcceptsBeforeItSends, "accepted_events_outlive_their_publisher", "60 events to arrive"),
    (FailsOnReopening, "bus_can_be_opened_again", "still waiting for the marker"),
    (SwallowsPublishErrors, "too_large_events_fail_alone", r"too large got \[\]"),
    (SwallowsPublishErrors, "unencodable_events_fail_alone", r"handle 1 got \[\]"),
    (SwallowsPublishErrors, "publishing_without_a_broker_fails", r"not be sent got \[\]"),
    (HangsWhilePublishing, "publishing_without_a_broker_fails", "waiting for a call to return"),
    (CutsOffLargeEvents, "large_events_arrive", "7 events to arrive"),
    (StaysDisconnected, "connection_is_made_again", "waiting for any marker"),
    (ReportsNoOutage, "connection_is_made_again", "without a report"),
    (OpensWithoutABroker, "bus_does_not_open_without_a_broker", "a bus was opened"),
    (
        HidesThatTheBrokerIsUnreachable,
        "bus_does_not_open_without_a_broker",
        "no DriverConnectionError",
    ),
    (DeliversOncePerSubscription, "patterns_match_segments", "more than once"),
    (TakesNamesForPatterns, "unusual_names_are_kept_apart", "has not subscribed to"),
    (SettlesTwice, "delivery_is_settled_once_when_all_are_done", "is not outstanding"),
    (SettlesTwice, "delivery_is_settled_once_when_dropped", "is not outstanding"),
    (
        NeverAsksForSettlement,
        "delivery_is_settled_once_when_all_are_done",
        "asks for no settlement",
    ),
    (NeverAcknowledges, "abandoned_events_are_delivered_again", "do not belong here"),
    (AcknowledgesAtOnce, "abandoned_events_are_delivered_again", "10 events to arrive"),
    (AcknowledgesTheAbandoned, "abandoned_events_are_delivered_again", "10 events to arrive"),
    (DeliversTwice, "delivery_is_settled_once_when_all_are_done", "16 were settled so"),
    (SharesWithinItsGroup, "each_group_gets_each_event_once", "more than once"),
    (UnsubscribesItsGroup, "events_wait_for_absent_buses", "19 events to arrive"),
    (HasNoReceipts, "accepted_events_have_receipts", "receipts of ten events"),
    (
        # Trio's order decides: the tail takes some events, and one of the two markers or none.
        TailTakesEvents,
        "tail_shows_each_event_once",
        "to show the marker|for the marker after|shown by a tail that began at 10: [0-9]+ missing",
    ),
    (
        TailDiscardsAnEvent,
        "tail_shows_each_event_once",
        r"received by a listener beside a tail: 1 missing, such as \[30\]",
    ),
    (TailShowsTwice, "tail_shows_each_event_once", "more than once"),
    (TailShowsEverything, "tail_shows_each_event_once", "do not belong|more than once|has shown"),
    (TailHoldsUpTheSender, "tail_leaves_nothing_behind", "waiting for"),
    (TailLeavesATask, "tail_leaves_nothing_behind", "tasks are left by a cancelled tail"),
    (LagCountsNothing, "lag_counts_what_waits", "10 events to wait for the group"),
    (LagCountsWhatIsDone, "lag_counts_what_waits", "0 events to wait for the group"),
    (LosesSomeDirectMessages, "direct_messages_arrive_unchanged", "10 became 9 messages"),
    (StripsDirectMessages, "direct_messages_arrive_unchanged", "arrived as b''"),
    (LetsDirectMessagesOvertake, "direct_messages_keep_their_order", "in another order"),
    (FoldsAddresses, "direct_addresses_do_not_mix", "to 1 buses were counted as"),
    (KeepsClosedAddresses, "direct_addresses_do_not_mix", "to 0 buses were counted as"),
    (DropsItsOwnDirectMessages, "all_buses_of_an_address_get_a_direct_message", "last direct"),
    (RefusesToSendInsideOfTake, "direct_messages_can_be_answered", "busy"),
    (SendsDirectMessagesAsEvents, "events_and_direct_messages_do_not_meet", "were counted as"),
    (QueuesDirectMessagesBehindEvents, "full_mailboxes_delay_no_direct_message", "waiting for"),
    (
        NeverTellsWhatBecameOfDirectMessages,
        "direct_messages_have_outcomes_when_the_bus_ends",
        "200 direct messages of a left bus have no outcome",
    ),
    (
        TellsOutcomesOfDirectMessagesTwice,
        "direct_messages_have_outcomes_when_the_bus_ends",
        r"`sent` was called \[2\] times",
    ),
    (
        ForgetsDirectMessagesAtTheEnd,
        "direct_messages_have_outcomes_when_the_bus_ends",
        "have no outcome",
    ),
    (KeepsAddressesOfAClosedBus, "addresses_end_with_the_bus", "has outlived its bus"),
    (OpensAddressesTwice, "opening_an_address_can_be_cancelled", r"b'once', b'once'"),
    (OpensNoAddressAfterAnOutage, "direct_messages_outlive_an_outage", "after an outage"),
    (LosesOutcomesInAnOutage, "direct_messages_outlive_an_outage", "outcomes of [0-9]+ direct"),
    (LosesReplies, "requests_are_answered", "lost on the way"),
    (LosesFailures, "failures_reach_the_requester", "lost on the way"),
    (LosesReports, "all_buses_report", "missing=3"),
    (LosesReports, "late_reports_complete_the_outcome", "missing=3"),
    (RepeatsDirectMessages, "requests_are_answered", "22 messages came for requests that"),
    (MixesUpAddresses, "requests_are_answered", "lost on the way"),
    (CutsOffReplies, "requests_are_answered", "lost on the way"),
    (ClosesAddressesFirst, "draining_buses_get_their_answers", "a bus that drains got .*Lost"),
    (CountsOneReceiverTooMany, "all_buses_report", "missing=1"),
    (CountsOneReceiverTooMany, "events_without_listeners_need_no_reports", "nobody listens, and"),
    (GivesRequestsToAllBuses, "requests_can_be_cancelled_at_any_time", "504 .* were served 10"),
    (GivesRequestsToAllBuses, "requests_of_an_ended_bus_end", "went to no other bus"),
    (AcknowledgesTheAbandoned, "requests_of_an_ended_bus_end", "went to no other bus"),
    (AcknowledgesAtOnce, "requests_of_an_ended_bus_end", "went to no other bus"),
    (SendsDirectMessagesAsEvents, "listeners_get_no_requests", "got requests or answers"),
    (LagCreatesTheGroup, "unknown_group_has_no_lag", "that nobody knows has the lag"),
]


async def failure(driver: type, case: str) -> str:
    """Run one case. Return its failure as text, or an empty string if it passes."""
    kind = next(base for base in SUITES if issubclass(driver, base))
    try:
        await getattr(SUITES[kind](driver), f"test_{case}")()
    except SkipTest:
        pass
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize(
    ("mutant", "case", "message"), MUTANTS, ids=[f"{m.__name__}-{c}" for m, c, _ in MUTANTS]
)
async def test_mutant_is_caught(
    autojump_clock: MockClock, mutant: type, case: str, message: str
) -> None:
    failed_with = await failure(mutant, case)
    assert re.search(message, failed_with, re.DOTALL), (
        f"{mutant.__name__} passed {case}: {failed_with}"
    )


@pytest.mark.parametrize("driver", SUITES)
async def test_a_correct_driver_passes_every_case(autojump_clock: MockClock, driver: type) -> None:
    failed_with = {case: await failure(driver, case.removeprefix("test_")) for case in CASES}
    assert {case: words for case, words in failed_with.items() if words} == {}


def test_every_case_in_the_table_exists() -> None:
    assert {f"test_{case}" for _, case, _ in MUTANTS} <= {*CASES}
