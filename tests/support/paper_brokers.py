"""Brokers of paper: in this process, and with what real ones have and the memory hub has not.

`EchoBroker` is a Redis of paper: bytes, an echo to the publisher, patterns, and outages after which
drivers reconnect. `GroupBroker` is a RabbitMQ of paper: groups of competing consumers, durable, and
an error for whoever acknowledges twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import trio

from goevent import DriverError, compile_pattern
from goevent.drivers import Capabilities, Inbox, Message, Receipt, Settlement

Arrived = tuple[str, bytes]
MAX_SIZE = 1 << 16


# -- fan-out, with an echo


class Link:
    """A connection to an EchoBroker."""

    def __init__(self) -> None:
        self.send, self.receive = trio.open_memory_channel[Arrived](math.inf)
        self.names: dict[str, Callable[[str], object]] = {}

    def wants(self, name: str) -> bool:
        return any(match(name) for match in self.names.values())


class EchoBroker:
    def __init__(self) -> None:
        self.links: dict[Link, None] = {}
        self.back = trio.Event()
        self.back.set()

    def connect(self) -> Link:
        if not self.back.is_set():
            raise DriverError("the broker is out of reach")
        link = Link()
        self.links[link] = None
        return link

    def fail(self) -> None:
        """Be out of reach from now on."""
        self.back = trio.Event()
        for link in self.links:
            link.send.close()
        self.links.clear()

    def publish(self, name: str, data: bytes) -> int:
        receivers = [link for link in self.links if link.wants(name)]
        for link in receivers:
            link.send.send_nowait((name, data))
        return len(receivers)


class EchoDriver:
    schemes: tuple[str, ...] = ("echo",)
    capabilities = Capabilities(counts_receivers=True, lossless=False, max_size=MAX_SIZE)

    def __init__(self, broker: EchoBroker) -> None:
        self.broker = broker
        self.names: set[str] = set()
        self.link: Link | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        raise NotImplementedError

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self.names.clear()
        self.link = self.broker.connect()
        task_status.started()
        try:
            while True:
                await self.receive(inbox, self.link)
                self.link = None
                inbox.report(DriverError("the connection was lost"))
                inbox.renew_origin()
                await self.broker.back.wait()
                self.link = self.broker.connect()
                self.subscribe_again(self.link)
        finally:
            if self.link is not None:
                self.broker.links.pop(self.link, None)
                self.link = None

    async def receive(self, inbox: Inbox, link: Link) -> None:
        async for name, data in link.receive:
            if link.wants(name):
                await inbox.receive(name, data)

    def subscribe_again(self, link: Link) -> None:
        link.names.update({name: compile_pattern(name) for name in self.names})

    async def subscribe(self, names: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        self.names.update(names)
        if self.link is not None:
            self.subscribe_again(self.link)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        self.names.difference_update(names)
        for name in names:
            if self.link is not None:
                self.link.names.pop(name, None)

    async def publish(self, message: Message) -> Receipt:
        data = message.encode()
        await trio.lowlevel.checkpoint()
        if self.link is None:
            raise DriverError("not connected")
        name = message.event_name
        return Receipt(receivers=self.broker.publish(name, data) - self.link.wants(name))


# -- groups of competing consumers, durable


@dataclass(frozen=True, slots=True)
class Entry:
    number: int
    name: str
    data: bytes


class Group:
    """What a broker keeps for one group of consumers."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.waiting: dict[int, Entry] = {}
        self.held: set[int] = set()
        self.news = trio.Event()

    def put(self, entry: Entry) -> None:
        self.waiting[entry.number] = entry
        self.stir()

    def stir(self) -> None:
        self.news.set()
        self.news = trio.Event()

    async def take(self, names: set[str]) -> Entry:
        """Wait for the oldest entry of these names; it is held until acknowledged."""
        await trio.lowlevel.checkpoint()
        while True:
            for number in sorted(self.waiting):
                if self.waiting[number].name in names:
                    self.held.add(number)
                    return self.waiting.pop(number)
            await self.news.wait()

    def acknowledge(self, entry: Entry) -> None:
        if entry.number not in self.held:
            raise LookupError(f"delivery {entry.number} is not outstanding")
        self.held.remove(entry.number)

    def give_back(self, entry: Entry) -> None:
        self.acknowledge(entry)
        self.put(entry)


class GroupBroker:
    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.count = 0

    def group(self, name: str) -> Group:
        return self.groups.setdefault(name, Group())

    def publish(self, name: str, data: bytes) -> int:
        self.count += 1
        for group in self.groups.values():
            if name in group.names:
                group.put(Entry(self.count, name, data))
        return self.count


class GroupDriver:
    schemes: tuple[str, ...] = ("group",)
    capabilities = Capabilities(fan_out=False, durable=True, patterns=False)

    def __init__(self, broker: GroupBroker, group: str) -> None:
        self.broker = broker
        self.group = broker.group(group)
        self.names: set[str] = set()
        self.held: dict[int, Entry] = {}

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
                await self.hand_over(inbox, entry)
        finally:
            for entry in self.held.values():
                self.group.give_back(entry)
            self.held.clear()

    async def hand_over(self, inbox: Inbox, entry: Entry) -> None:
        await inbox.receive(entry.name, entry.data, partial(self.settle, entry))

    def settle(self, entry: Entry, end: Settlement) -> None:
        if self.held.pop(entry.number, None) is None:
            return  # run has ended, and has given it back
        if any(error.outcome == "abandoned" for error in end.errors):
            self.group.give_back(entry)
        else:
            self.group.acknowledge(entry)

    async def subscribe(self, names: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        self.names.update(names)
        self.group.names.update(names)
        self.group.stir()

    async def unsubscribe(self, names: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        self.names.difference_update(names)

    async def publish(self, message: Message) -> Receipt:
        await trio.lowlevel.checkpoint()
        number = self.broker.publish(message.event_name, message.encode())
        return Receipt(id=str(number))
