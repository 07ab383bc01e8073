"""Brokers inside the test process, with features of real brokers that the memory hub does not have.

`EchoBroker` resembles Redis: it carries bytes, sends an echo to the publisher, knows patterns, and
has outages after which drivers reconnect. `GroupBroker` resembles RabbitMQ: it has durable groups
of competing consumers, and a second acknowledgement is an error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Self

import trio

from goevent import DriverConnectionError, DriverError, compile_pattern
from goevent.drivers import (
    Backlog,
    Capabilities,
    DirectSent,
    Inbox,
    Message,
    Receipt,
    Settlement,
    TailChannel,
    TailedEvent,
    TakeDirect,
    running_tail,
)

NamedBytes = tuple[str, bytes]
MAX_MESSAGE_BYTES = 1 << 16


# -- fan-out, with an echo


class EchoConnection:
    """A connection to an `EchoBroker`."""

    def __init__(self) -> None:
        self.send, self.receive = trio.open_memory_channel[NamedBytes](math.inf)
        self.names: dict[str, Callable[[str], object]] = {}
        self.addresses: dict[str, TakeDirect] = {}

    def wants(self, name: str) -> bool:
        return any(match(name) for match in self.names.values())


class EchoBroker:
    def __init__(self) -> None:
        self.connections: dict[EchoConnection, None] = {}
        self.reachable = trio.Event()
        self.reachable.set()

    def connect(self) -> EchoConnection:
        if not self.reachable.is_set():
            raise DriverConnectionError("the broker is out of reach")
        connection = EchoConnection()
        self.connections[connection] = None
        return connection

    def fail(self) -> None:
        """Close all connections and refuse new ones until `reachable` is set."""
        self.reachable = trio.Event()
        for connection in self.connections:
            connection.send.close()
        self.connections.clear()

    def publish(self, name: str, data: bytes) -> int:
        receivers = [connection for connection in self.connections if connection.wants(name)]
        for connection in receivers:
            connection.send.send_nowait((name, data))
        return len(receivers)

    def send_directly(self, address: str, data: bytes) -> int:
        takers = [each for each in self.connections if address in each.addresses]
        for connection in takers:
            connection.addresses[address](address, data)
        return len(takers)


class EchoDriver:
    schemes: tuple[str, ...] = ("echo",)
    capabilities = Capabilities(
        counts_receivers=True, lossless=False, max_size=MAX_MESSAGE_BYTES, replies=True
    )

    def __init__(self, broker: EchoBroker) -> None:
        self.broker = broker
        self.names: set[str] = set()
        self.addresses: dict[str, TakeDirect] = {}
        self.connection: EchoConnection | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        raise NotImplementedError

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self.names.clear()
        self.addresses.clear()
        self.connection = self.broker.connect()
        task_status.started()
        try:
            while True:
                await self.receive(inbox, self.connection)
                self.connection = None
                inbox.report(DriverError("the connection was lost"))
                inbox.renew_origin()
                await self.broker.reachable.wait()
                self.connection = self.broker.connect()
                self.subscribe_again(self.connection)
        finally:
            if self.connection is not None:
                self.broker.connections.pop(self.connection, None)
                self.connection = None

    async def receive(self, inbox: Inbox, connection: EchoConnection) -> None:
        async for name, data in connection.receive:
            if connection.wants(name):
                await inbox.receive(name, data)

    def subscribe_again(self, connection: EchoConnection) -> None:
        connection.names.update({name: compile_pattern(name) for name in self.names})
        connection.addresses.update(self.addresses)

    async def subscribe(self, names: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        self.names.update(names)
        if self.connection is not None:
            self.subscribe_again(self.connection)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        self.names.difference_update(names)
        for name in names:
            if self.connection is not None:
                self.connection.names.pop(name, None)

    async def publish(self, message: Message) -> Receipt:
        data = message.encode()
        await trio.lowlevel.checkpoint()
        if self.connection is None:
            raise DriverError("not connected")
        name = message.event_name
        return Receipt(receivers=self.broker.publish(name, data) - self.connection.wants(name))

    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        await trio.lowlevel.checkpoint()
        self.addresses.update(dict.fromkeys(addresses, take))
        if self.connection is not None:
            self.connection.addresses.update(self.addresses)

    async def close_addresses(self, addresses: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        for address in addresses:
            self.addresses.pop(address, None)
            if self.connection is not None:
                self.connection.addresses.pop(address, None)

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        if self.connection is None:
            sent(DriverConnectionError("not connected"))
        else:
            sent(self.broker.send_directly(address, data))


# -- groups of competing consumers, durable


@dataclass(frozen=True, slots=True)
class GroupEntry:
    number: int
    name: str
    data: bytes


class ConsumerGroup:
    """The state of one consumer group in a `GroupBroker`."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.waiting: dict[int, GroupEntry] = {}
        self.held: set[int] = set()
        self.changed = trio.Event()

    def put(self, entry: GroupEntry) -> None:
        self.waiting[entry.number] = entry
        self.notify()

    def notify(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def take(self, names: set[str]) -> GroupEntry:
        """Wait for the oldest entry of these names. The group holds it until it is acknowledged."""
        await trio.lowlevel.checkpoint()
        while True:
            for number in sorted(self.waiting):
                if self.waiting[number].name in names:
                    self.held.add(number)
                    return self.waiting.pop(number)
            await self.changed.wait()

    def acknowledge(self, entry: GroupEntry) -> None:
        if entry.number not in self.held:
            raise LookupError(f"delivery {entry.number} is not outstanding")
        self.held.remove(entry.number)

    def release(self, entry: GroupEntry) -> None:
        self.acknowledge(entry)
        self.put(entry)


class GroupBroker:
    def __init__(self) -> None:
        self.groups: dict[str, ConsumerGroup] = {}
        self.tails: dict[TailChannel, str] = {}
        self.addresses: dict[str, dict[GroupDriver, TakeDirect]] = {}
        self.count = 0

    def group(self, name: str) -> ConsumerGroup:
        return self.groups.setdefault(name, ConsumerGroup())

    def publish(self, name: str, data: bytes) -> int:
        self.count += 1
        for group in self.groups.values():
            if name in group.names:
                group.put(GroupEntry(self.count, name, data))
        for channel, wanted in self.tails.items():
            if wanted == name:
                channel.put_nowait(TailedEvent(event_name=name, data=data, id=str(self.count)))
        return self.count

    def send_directly(self, address: str, data: bytes) -> int:
        takers = [*self.addresses.get(address, {}).values()]
        for take in takers:
            take(address, data)
        return len(takers)


class GroupDriver:
    schemes: tuple[str, ...] = ("group",)
    capabilities = Capabilities(fan_out=False, durable=True, patterns=False, replies=True)

    def __init__(self, broker: GroupBroker, group: str) -> None:
        self.broker = broker
        self.group = broker.group(group)
        self.names: set[str] = set()
        self.held: dict[int, GroupEntry] = {}

    @classmethod
    def from_url(cls, url: str) -> Self:
        raise NotImplementedError

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self.names.clear()
        task_status.started()
        try:
            while True:
                entry = await self.group.take(self.names)
                self.held[entry.number] = entry
                await self.deliver(inbox, entry)
        finally:
            for entry in self.held.values():
                self.group.release(entry)
            self.held.clear()
            for takers in self.broker.addresses.values():
                takers.pop(self, None)

    async def deliver(self, inbox: Inbox, entry: GroupEntry) -> None:
        await inbox.receive(entry.name, entry.data, partial(self.settle, entry))

    def settle(self, entry: GroupEntry, end: Settlement) -> None:
        if self.held.pop(entry.number, None) is None:
            return  # `run` has ended and has released it
        is_unwanted = not (end.started or end.errors)
        if is_unwanted or any(error.outcome == "abandoned" for error in end.errors):
            self.group.release(entry)
        else:
            self.group.acknowledge(entry)

    async def subscribe(self, names: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        self.names.update(names)
        self.group.names.update(names)
        self.group.notify()

    async def unsubscribe(self, names: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        self.names.difference_update(names)

    async def publish(self, message: Message) -> Receipt:
        await trio.lowlevel.checkpoint()
        number = self.broker.publish(message.event_name, message.encode())
        return Receipt(id=str(number))

    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        await trio.lowlevel.checkpoint()
        for address in addresses:
            self.broker.addresses.setdefault(address, {})[self] = take

    async def close_addresses(self, addresses: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        for address in addresses:
            self.broker.addresses.get(address, {}).pop(self, None)

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        sent(self.broker.send_directly(address, data))

    def tail(
        self, pattern: str
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[TailedEvent]]:
        async def show(channel: TailChannel, started: Callable[[], None]) -> None:
            self.broker.tails[channel] = pattern
            started()
            try:
                await trio.sleep_forever()
            finally:
                del self.broker.tails[channel]

        return running_tail(show)

    async def lag(self, group: str, names: Sequence[str] = ()) -> Sequence[Backlog]:
        await trio.lowlevel.checkpoint()
        if (found := self.broker.groups.get(group)) is None:
            return ()
        waiting = Counter(entry.name for entry in found.waiting.values())
        return [
            Backlog(event_name=name, lag=waiting[name], pending=len(found.held))
            for name in sorted(found.names)
        ]
