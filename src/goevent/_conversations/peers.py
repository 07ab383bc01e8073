"""The peers: the other buses with which conversations are under way, and their signs of life.

While two buses have a conversation, each tells the other every `SIGN_INTERVAL_SECONDS` that it is
alive. A peer that was silent for `PEER_SILENCE_SECONDS` has ended. Without conversations nothing is
sent, and the task of this module waits.

Theory of operation. Any message of a peer is a sign of life. A bus whose own event loop was held up
for long finds all its peers silent, although their messages wait in its socket. So a round that
comes late only sends signs, and declares no peer ended.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from .channel import DirectChannel
from .messages import MAX_IDS_PER_MESSAGE, Alive

SIGN_INTERVAL_SECONDS = 1.0
PEER_SILENCE_SECONDS = 3.5
"""How long a peer may be silent: three signs of life may be lost or late."""

MAX_LATENESS_SECONDS = 0.5
"""A later round declares no peer ended: this bus itself was held up."""


class Peer:
    """One other bus.

    Attributes:
        heard: When it has sent the last message, by Trio's clock.
        asked: The ids of the requests for whose answer this bus waits there.
        served: The ids of the requests of the peer that this bus works on.
    """

    __slots__ = ("asked", "heard", "served")

    def __init__(self, now: float) -> None:
        self.heard: float = now
        self.asked: dict[str, None] = {}
        self.served: dict[str, None] = {}


class Peers:
    """The peers of one session.

    Args:
        channel: Sends the signs of life.
        lost: Called for a peer that has ended, with its address; it is forgotten by then.
    """

    def __init__(self, channel: DirectChannel, lost: Callable[[str, Peer], None]) -> None:
        self._channel = channel
        self._lost = lost
        self._peers: dict[str, Peer] = {}
        self._first = trio.Event()

    def __len__(self) -> int:
        return len(self._peers)

    def ask(self, address: str, request_id: str) -> None:
        """Begin to wait for a peer's answer."""
        self._meet(address).asked[request_id] = None

    def serve(self, address: str, request_id: str) -> None:
        """Begin to work on a request of a peer."""
        self._meet(address).served[request_id] = None

    def end(self, address: str, request_id: str) -> None:
        """End a conversation with a peer. A second call has no effect."""
        peer = self._peers.get(address)
        if peer is not None:
            peer.asked.pop(request_id, None)
            peer.served.pop(request_id, None)
            if not peer.asked and not peer.served:
                del self._peers[address]

    def hear(self, address: str) -> None:
        """Note a sign of life, if there is a conversation with the sender."""
        peer = self._peers.get(address)
        if peer is not None:
            peer.heard = trio.current_time()

    def addresses(self) -> list[str]:
        """Return the addresses of all peers."""
        return [*self._peers]

    def lose(self, address: str) -> None:
        """Forget a peer that has ended, and call `lost` with it."""
        peer = self._peers.pop(address, None)
        if peer is not None:
            self._lost(address, peer)

    def _meet(self, address: str) -> Peer:
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = Peer(trio.current_time())
            self._first.set()
        return peer

    async def run(self) -> None:
        """Send signs of life, and find the peers that send none, until cancelled."""
        while True:
            if not self._peers:
                self._first = trio.Event()
                await self._first.wait()
            due = trio.current_time() + SIGN_INTERVAL_SECONDS
            await trio.sleep_until(due)
            self._round(is_late=trio.current_time() > due + MAX_LATENESS_SECONDS)

    def _round(self, *, is_late: bool) -> None:
        now = trio.current_time()
        for address, peer in [*self._peers.items()]:
            if is_late:
                peer.heard = now
            if now - peer.heard > PEER_SILENCE_SECONDS:
                self.lose(address)
                continue
            asked, served = [*peer.asked], [*peer.served]
            for first in range(0, max(len(asked), len(served), 1), MAX_IDS_PER_MESSAGE):
                part = slice(first, first + MAX_IDS_PER_MESSAGE)
                sign = Alive(self._channel.address, asked[part], served[part])
                self._channel.send(address, sign)
