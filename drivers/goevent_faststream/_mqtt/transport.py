"""The transport of one connection: it stops reading while the bus cannot take more messages.

`MqttConnection` wraps the client's own transport in it, and `KeepAlive` asks it when the server was
heard last.

Theory of operation: A server that is not read from keeps its messages: they fill the buffers of
the sockets, and then its own queue. But answers come on the same connection, behind the messages.
While the client waits for an answer, the transport therefore reads on. Otherwise a listener that
awaits its own publish would wait for a reply that can come only after the listener has ended. The
messages that arrive meanwhile are bounded by the server's window for QoS 1, and dropped for QoS 0.

Mosquitto sends each PUBACK by itself and, unless its configuration says `set_tcp_nodelay`, holds
back the next one until TCP has acknowledged the last one. The kernel delays that by 40 ms if there
is nothing to send, as at the end of a batch. So the transport asks it to acknowledge sooner.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from .arrivals import MessageQueue

READ_BYTES = 64 << 10  # the most that one read takes from the socket
# The first bytes of packets that need no answer: PUBACK, and PINGREQ, whose answer may wait.
UNANSWERED_PACKETS = frozenset({0x40, 0xC0})
QUICK_ACKNOWLEDGEMENT: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
"""An option of Linux, which the kernel takes back by itself."""

ACKNOWLEDGEMENT_SECONDS = 0.001
"""How long data that were read wait for something to be sent, which acknowledges them, too."""


class MqttTransport:
    """Wraps a transport of the client.

    Args:
        inner: The client's transport.

    Attributes:
        queue: The messages that wait for the bus; nothing is held back without one.
        awaits_answer: Tells whether the client waits for an answer of the server.
        last_heard: The loop's time at which something was read, or at which reading began again.
        is_paused: Whether reading is stopped.
    """

    def __init__(self, inner: Any) -> None:
        self.queue: MessageQueue | None = None
        self.awaits_answer: Callable[[], bool] = _is_always_awaited
        self.last_heard = asyncio.get_running_loop().time()
        self.is_paused = False
        self._inner = inner
        self._socket: socket.socket | None = inner._writer.get_extra_info("socket")
        self._has_sent = False  # since the last read
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    async def read(self, _: int) -> bytes:
        """Return data of the server, as soon as the bus can take more of it."""
        loop = asyncio.get_running_loop()
        while self.queue is not None and self.queue.is_full and not self.awaits_answer():
            self.is_paused = True
            self._changed.clear()
            await self._changed.wait()
        if self.is_paused:
            self.is_paused = False
            # The answers to pings may wait behind the messages.
            self.last_heard = loop.time()
        if self.queue is not None:
            self.queue.is_overrun = self.queue.is_full
        data: bytes = await self._inner.read(READ_BYTES)
        self.last_heard = loop.time()
        self._has_sent = False
        if self._timer is None and self._socket is not None:
            self._timer = loop.call_later(ACKNOWLEDGEMENT_SECONDS, self._acknowledge)
        return data

    def _acknowledge(self) -> None:
        """Have the kernel acknowledge the data that were read, unless something was sent since."""
        self._timer = None
        if self._has_sent or self._socket is None or QUICK_ACKNOWLEDGEMENT is None:
            return
        # A closed socket: the next read or write finds out.
        with suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, QUICK_ACKNOWLEDGEMENT, 1)

    async def write(self, data: bytes) -> None:
        """Send packets; if they need an answer, reading goes on."""
        if self.is_paused and data[0] not in UNANSWERED_PACKETS:
            self.look_again()
        self._has_sent = True
        try:
            await self._inner.write(data)
        except Exception:
            # The connection is lost, which a read notices only if it is not held back.
            self._read_on()
            raise

    async def close(self) -> None:
        """Close the connection; a read that is held back ends, too."""
        self._read_on()
        if self._timer is not None:
            self._timer.cancel()
        await self._inner.close()

    def look_again(self) -> None:
        """Look whether reading may go on: there is room, or an answer is awaited."""
        self._changed.set()

    def _read_on(self) -> None:
        self.queue = None
        self.look_again()

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open."""
        return bool(self._inner.is_connected)


def _is_always_awaited() -> bool:
    return True
