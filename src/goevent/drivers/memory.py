"""The memory driver: the embedded default, and a hub that joins the buses of one process.

Without a hub the driver does nothing: the bus is alone and serves its own listeners. With a hub,
each driver has an inbox, a bounded channel. `publish` puts the envelope into the inbox of every
other bus that wants the event, and `run` delivers from its own inbox, in order.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import trio

from .._errors import DriverInUse, EncodeError, UnsupportedError, require_trio
from .._events.patterns import compile_pattern
from .._suggestions import suggest_options
from .contract import Capabilities, Receipt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from .._wire.envelope import Envelope
    from .contract import BatchReplied, Inbox, Message
    from .direct import DirectSent, TakeDirect
    from .inspection import Finding, TailedEvent
    from .tail_channel import TailChannel


@suggest_options
class MemoryHub:
    """Joins several buses of one process: an event dispatched on one of them reaches all.

    Each bus gets `Config(driver=MemoryDriver(hub))`. Every event arrives once at every other bus
    that has listeners for it, in the order in which its own bus dispatched it. A bus that is not
    open misses it. A full inbox makes its senders wait.

    Args:
        inbox: How many events may wait to be delivered to one bus.

    Example:
        >>> hub = MemoryHub()
        >>> orders = GoEvent(Config(driver=MemoryDriver(hub)))
        >>> billing = GoEvent(Config(driver=MemoryDriver(hub)))
    """

    def __init__(self, *, inbox: int = 1024) -> None:
        if isinstance(inbox, bool) or not isinstance(inbox, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"inbox must be a number of events, not {inbox!r}")
        if inbox < 1:
            raise ValueError(f"an inbox holds at least 1 event, not {inbox}")
        self._inbox = inbox
        self._members: dict[MemoryDriver, trio.MemorySendChannel[Envelope]] = {}
        # The open addresses of direct messages, with the functions of their members.
        self._addresses: dict[str, dict[MemoryDriver, TakeDirect]] = {}
        # The open tails, each with the test of its pattern.
        self._tails: dict[TailChannel, Callable[[str], object]] = {}

    def join(self, member: MemoryDriver) -> trio.MemoryReceiveChannel[Envelope]:
        """Return the inbox of a new member, to which the others send.

        Raises:
            DriverInUse: The member has joined already.
        """
        if member in self._members:
            raise DriverInUse("a MemoryDriver serves one bus at a time: give each its own")
        send, receive = trio.open_memory_channel["Envelope"](self._inbox)
        self._members[member] = send
        return receive

    def leave(self, member: MemoryDriver) -> None:
        """Send a member no more events; those in its inbox can still be received.

        Direct messages still reach it.
        """
        if (inbox := self._members.pop(member, None)) is not None:
            inbox.close()

    def forget(self, member: MemoryDriver) -> None:
        """Forget a member that has ended, or whose bus belongs to the parent of this process."""
        self._members.pop(member, None)
        self.close_addresses(member, [*self._addresses])

    def inboxes_of_others(
        self, member: MemoryDriver, name: str
    ) -> list[trio.MemorySendChannel[Envelope]]:
        """Return the inboxes of all members but one that want events of a name."""
        return [
            inbox
            for other, inbox in self._members.items()
            if other is not member and other.wants(name)
        ]

    def open_addresses(
        self, member: MemoryDriver, addresses: Sequence[str], take: TakeDirect
    ) -> None:
        """Give a member the direct messages to these addresses."""
        for address in addresses:
            self._addresses.setdefault(address, {})[member] = take

    def close_addresses(self, member: MemoryDriver, addresses: Sequence[str]) -> None:
        """Give a member the direct messages to these addresses no more."""
        for address in addresses:
            takers = self._addresses.get(address, {})
            takers.pop(member, None)
            if not takers:
                self._addresses.pop(address, None)

    def send_directly(self, address: str, data: bytes) -> int:
        """Hand a direct message to all members with this address; return their number."""
        takers = [*self._addresses.get(address, {}).values()]
        for take in takers:
            take(address, data)
        return len(takers)

    async def show_events(
        self, pattern: str, channel: TailChannel, started: Callable[[], None]
    ) -> None:
        """Show the events that the members publish, until cancelled.

        Args:
            pattern: An event name or a pattern.
            channel: Gets the events; those that find it full are counted as missed.
            started: Called at once.
        """
        self._tails[channel] = compile_pattern(pattern)
        started()
        try:
            await trio.sleep_forever()
        finally:
            del self._tails[channel]

    def show(self, message: Message) -> None:
        """Show an event to the tails whose pattern matches its name."""
        if not self._tails:
            return
        name = message.event_name
        channels = [channel for channel, matches in self._tails.items() if matches(name)]
        if not channels:
            return
        event = _as_tailed(message)
        for channel in channels:
            channel.put_nowait(event)


ALONE = Capabilities(alone=True)
JOINED = Capabilities(counts_receivers=True, across_processes=False, replies=True)


@suggest_options
class MemoryDriver:
    """Delivers events within the process: to the bus itself, and over a hub to other buses.

    Events are passed on as objects and never encoded.

    Args:
        hub: The hub that joins the bus with others; without one, the bus is alone.
    """

    schemes: tuple[str, ...] = ("memory",)

    def __init__(self, hub: MemoryHub | None = None) -> None:
        if hub is not None and not isinstance(hub, MemoryHub):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"hub must be a MemoryHub, not {hub!r}")
        self._hub = hub
        self._drained = trio.Event()
        self._names: set[str] = set()
        self._patterns: dict[str, Callable[[str], object]] = {}

    @property
    def capabilities(self) -> Capabilities:
        """The promises of the driver; it is alone without a hub."""
        return ALONE if self._hub is None else JOINED

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return a driver without a hub.

        Raises:
            ValueError: The URL has more than its scheme.
        """
        if url not in ("memory", "memory://"):
            raise ValueError("a memory URL is just memory://, with nothing behind it")
        return cls()

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Deliver the events of the other buses of the hub, until cancelled."""
        require_trio()
        if self._hub is None:
            raise RuntimeError("a MemoryDriver without a hub receives nothing")
        self._drained = trio.Event()
        self._names.clear()
        self._patterns.clear()
        with self._hub.join(self) as arriving:
            try:
                task_status.started()
                async for envelope in arriving:
                    # The bus may have unsubscribed while the event was in the inbox.
                    if self.wants(envelope.event_name):
                        await inbox.deliver(envelope)
                    del envelope  # an idle driver must not keep the last event alive
                self._drained.set()
                await trio.sleep_forever()
            finally:
                self._hub.leave(self)
                self._hub.forget(self)
                # Cancelled before the inbox was empty: each lost event is reported.
                while arriving.statistics().current_buffer_used:
                    name = arriving.receive_nowait().event_name
                    if self.wants(name):
                        inbox.lost(name)

    def fork(self) -> None:
        """Leave the hub: in a fork of the process no task takes events out of the inbox."""
        if self._hub is not None:
            self._hub.forget(self)

    async def drain(self) -> None:
        """Receive no more, and return when all events in the inbox are delivered."""
        require_trio()
        if self._hub is not None:
            self._hub.leave(self)
            await self._drained.wait()

    async def subscribe(self, names: Sequence[str]) -> None:
        """Receive events of these names and patterns from now on."""
        require_trio()
        await trio.lowlevel.checkpoint()
        for name in names:
            if "*" in name:
                self._patterns[name] = compile_pattern(name)
            else:
                self._names.add(name)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Receive them no more, not even those that are in the inbox."""
        require_trio()
        await trio.lowlevel.checkpoint()
        for name in names:
            self._names.discard(name)
            self._patterns.pop(name, None)

    def wants(self, name: str) -> bool:
        """Tell whether a name is subscribed to, itself or by a pattern."""
        return name in self._names or any(match(name) for match in self._patterns.values())

    async def publish(self, message: Message) -> Receipt:
        """Put an event into the inbox of every other bus that wants it; waits for room.

        If it is cancelled, some of these buses have the event and others do not.
        """
        require_trio()
        envelope = message.envelope()
        receivers = 0
        if self._hub is None:
            return Receipt(receivers=0)
        self._hub.show(message)
        for inbox in self._hub.inboxes_of_others(self, envelope.event_name):
            try:
                await inbox.send(envelope)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                # That bus has closed meanwhile.
                continue
            receivers += 1
        return Receipt(receivers=receivers)

    def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
        """Put events into the inboxes of the other buses, as long as all of these have room.

        Returns:
            The number of the events that were sent. A bus that wants the next one has a full inbox.
        """
        receipts: list[Receipt | Exception | None] = []
        for message in messages:
            inboxes = self._inboxes_with_room(message.event_name)
            if inboxes is None:
                break
            envelope = message.envelope()
            for inbox in inboxes:
                inbox.send_nowait(envelope)
            if self._hub is not None:
                self._hub.show(message)
            receipts.append(Receipt(receivers=len(inboxes)))
        if receipts:
            replied(receipts)
        return len(receipts)

    # -- direct messages

    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        """Receive the direct messages to more addresses; see `goevent.drivers.SendsDirectly`."""
        await trio.lowlevel.checkpoint()
        if self._hub is not None:
            self._hub.open_addresses(self, addresses, take)

    async def close_addresses(self, addresses: Sequence[str]) -> None:
        """Receive their direct messages no more."""
        await trio.lowlevel.checkpoint()
        if self._hub is not None:
            self._hub.close_addresses(self, addresses)

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        """Hand a direct message to the buses of the hub that have opened the address."""
        sent(0 if self._hub is None else self._hub.send_directly(address, data))

    # -- the questions of operators

    async def check(self, names: Sequence[str]) -> Sequence[Finding]:
        """Return nothing: there is no broker that could be set up wrongly."""
        await trio.lowlevel.checkpoint()
        return ()

    def tail(
        self, pattern: str
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[TailedEvent]]:
        """Show the events that the buses of the hub publish, while the block lasts.

        Their data is encoded for this; it is empty if the codec cannot encode the event.

        Raises:
            UnsupportedError: The driver has no hub.
            ValueError: The pattern makes no sense.
        """
        from .tail_channel import running_tail

        hub = self._hub
        if hub is None:
            raise UnsupportedError("a bus without a hub is alone: no events pass between buses")
        compile_pattern(pattern)
        return running_tail(lambda channel, started: hub.show_events(pattern, channel, started))

    def _inboxes_with_room(self, name: str) -> list[trio.MemorySendChannel[Envelope]] | None:
        """Return the inboxes that an event goes to; None if one of them is full."""
        found: list[trio.MemorySendChannel[Envelope]] = []
        for inbox in () if self._hub is None else self._hub.inboxes_of_others(self, name):
            state = inbox.statistics()
            # Without receivers, that bus has closed meanwhile.
            if state.open_receive_channels:
                if state.current_buffer_used >= state.max_buffer_size:
                    return None
                found.append(inbox)
        return found


def _as_tailed(message: Message) -> TailedEvent:
    """Return an event as a tail shows it."""
    from .inspection import TailedEvent

    try:
        data = message.encode()
    except EncodeError:
        # It travels as an object, so nothing is wrong with it here.
        data = b""
    return TailedEvent(
        event_name=message.event_name,
        data=data,
        id=message.handle_id,
        headers=message.headers,
        time=datetime.now(UTC),
    )
