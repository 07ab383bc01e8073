"""The memory driver: the embedded default, and a hub that joins the buses of one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._driver import Deliver, Lost

    Parcel = tuple[Any, Mapping[str, str]]


class MemoryHub:
    """Joins several buses of one process: an event dispatched on one reaches all.

    Each bus gets `Config(driver=MemoryDriver(hub))`. Every event arrives once at every other open
    bus, in the order in which its own bus dispatched it; a bus that is not open misses it. A full
    inbox holds its senders back.

    Args:
        inbox: how many events may wait to be delivered to one bus.
    """

    def __init__(self, *, inbox: int = 1024) -> None:
        if inbox < 1:
            raise ValueError(f"an inbox holds at least 1 event, not {inbox}")
        self._inbox = inbox
        self._members: dict[MemoryDriver, trio.MemorySendChannel[Parcel]] = {}

    def join(self, member: MemoryDriver) -> trio.MemoryReceiveChannel[Parcel]:
        """Return the inbox through which `member` gets the events of the others."""
        if member in self._members:
            raise RuntimeError("a MemoryDriver serves one bus at a time: give each its own")
        send, receive = trio.open_memory_channel["Parcel"](self._inbox)
        self._members[member] = send
        return receive

    def leave(self, member: MemoryDriver) -> None:
        """Send `member` nothing any more; it still gets what is in its inbox."""
        if (inbox := self._members.pop(member, None)) is not None:
            inbox.close()

    def others(self, member: MemoryDriver) -> list[trio.MemorySendChannel[Parcel]]:
        """Return the inboxes of all members but one."""
        return [inbox for other, inbox in self._members.items() if other is not member]


class MemoryDriver:
    """Delivers within the process: to the bus itself, and over a hub to others.

    Args:
        hub: what joins the bus with others; without it, the bus is alone.
    """

    def __init__(self, hub: MemoryHub | None = None) -> None:
        self._hub = hub

    @property
    def connected(self) -> bool:
        """True with a hub."""
        return self._hub is not None

    async def run(
        self,
        deliver: Deliver,
        lost: Lost,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Deliver what the other buses of the hub dispatch, until stopped or cancelled."""
        if self._hub is None:
            raise RuntimeError("a MemoryDriver without a hub receives nothing")
        with self._hub.join(self) as inbox:
            arrived: list[Parcel] = []
            try:
                task_status.started()
                async for parcel in inbox:
                    arrived = [parcel]
                    await deliver(*parcel)
                    arrived = []
            finally:
                self._hub.leave(self)
                while inbox.statistics().current_buffer_used:
                    arrived.append(inbox.receive_nowait())
                for event, _ in arrived:
                    lost(event)

    def stop(self) -> None:
        """Receive no more; `run` returns when what has arrived is delivered."""
        if self._hub is not None:
            self._hub.leave(self)

    async def publish(self, event: Any, headers: Mapping[str, str]) -> None:
        """Put the event into the inbox of every other open bus, waiting for room."""
        for inbox in self._hub.others(self) if self._hub is not None else ():
            try:
                await inbox.send((event, headers))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                continue  # that bus has closed meanwhile
