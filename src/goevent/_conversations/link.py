"""The link: the parts of the conversations of one session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .._events.names import REPLIES_NAME

if TYPE_CHECKING:
    from .._ports.inbox import BusInbox
    from .channel import DirectChannel
    from .directory import OfferedBuses, ResponderDirectory
    from .peers import Peers


class AddressSubscriptions(Protocol):
    """The subscriptions of a session, which keep the addresses of its channel open."""

    def use(self, addresses: DirectChannel) -> None:
        """Have a channel open the addresses that reserved names stand for."""
        ...

    def want(self, name: str) -> None: ...
    async def ready(self, names: Iterable[str]) -> None: ...


@dataclass(slots=True)
class ConversationLink:
    """The way to the other buses while a bus is open.

    Attributes:
        channel: Sends direct messages, and hands on those that arrive.
        peers: The buses with which conversations are under way.
        directory: The buses that respond to events.
        inbox: Decodes requests, and settles those that the broker has brought.
        subscriptions: Keep the address of this bus open.
        spawn: Runs a function in a task of the bus.
        weight: Returns for how many receivers of an event the broker counts this bus.
        offered: The buses that know the responders of this one.
        is_direct: True if requests travel as direct messages.
        is_durable: True if the broker gives a request to another bus when its bus ends.
        is_ready: True once messages arrive at the address of this bus.
    """

    channel: DirectChannel
    peers: Peers
    directory: ResponderDirectory
    inbox: BusInbox
    subscriptions: AddressSubscriptions
    spawn: Callable[[Callable[[], Awaitable[None]]], None]
    weight: Callable[[str], int]
    offered: OfferedBuses
    is_direct: bool
    is_durable: bool
    is_ready: bool = False

    def want(self) -> None:
        """Have the address of this bus opened soon."""
        self.subscriptions.want(REPLIES_NAME)

    async def ready(self) -> None:
        """Wait until messages arrive at the address of this bus.

        Raises:
            DriverError: The broker has refused.
        """
        self.want()
        await self.subscriptions.ready([REPLIES_NAME])
        self.is_ready = True
