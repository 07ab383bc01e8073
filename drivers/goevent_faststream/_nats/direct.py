"""The direct messages of a bus on NATS, core or JetStream.

They travel on core subjects below `$GOEVENT.`, which no event has: an event name has no `$`. A
stream whose subjects are `{prefix}>` does not store them, and no pattern of events matches them.

Theory of operation: a burst is written with one call, past the client's `publish`, which costs
several times as much. One PING follows it; the PONG says that the server has taken all messages
before it, and one PING is under way at a time. Each message carries a reply subject with its
number. If nobody has subscribed to the address, the server answers there at once, so that the
number of buses is 0; a refusal comes as an error line. Both come before the PONG. It leaves None
for the others: NATS does not tell how many buses there are.

Arrivals are taken from the client before it makes a message object and wakes a task for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from nats import errors
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from goevent import DriverError
from goevent.drivers import TakeDirect

from .._adapter.connectivity import REPLY_SECONDS
from .._adapter.contract import OutgoingDirect
from .._adapter.errors import connection_lost, not_connected
from .connection import NatsConnection, to_driver_error
from .subjects import DIRECT_ROOT

# The bytes that are sent and not confirmed. One message of any size passes if there is no other.
MAX_UNCONFIRMED_BYTES = 8 << 20
PING = b"PING\r\n"
NO_RESPONDERS = b"NATS/1.0 503"

TakeRaw = Callable[[bytes, bytes, bytes | None], None]
"""Takes the subject, the body and the headers of a message."""


class NatsDirectMessages:
    """The direct messages of one connection.

    Args:
        prefix: The beginning of the events' subjects. Buses with another one have other addresses.
    """

    def __init__(self, connection: NatsConnection, prefix: str) -> None:
        self._connection = connection
        self._root = f"{DIRECT_ROOT}{prefix}"
        self._subscriptions: dict[str, Subscription] = {}
        # A cancelled opening is undone before the next request begins.
        self._lock = asyncio.Lock()
        self._answers_root = ""
        self._answers: Subscription | None = None
        self._number = 0  # of the last message
        # The messages that the server has not confirmed, and those that wait for their turn.
        self._unconfirmed: dict[int, OutgoingDirect] = {}
        self._unconfirmed_bytes = 0
        self._waiting: deque[OutgoingDirect] = deque()
        self._is_pinging = False
        self._silence: asyncio.TimerHandle | None = None
        connection.refusals.on_direct_refused = self._on_refused

    def open(self) -> None:
        """Begin with a new client, without addresses."""
        self._subscriptions.clear()
        self._lock = asyncio.Lock()
        self._answers = None
        self._forget_confirmation()
        self._unconfirmed.clear()
        self._waiting.clear()
        self._unconfirmed_bytes = 0

    def close(self) -> None:
        """Wait for nothing any more."""
        self._forget_confirmation()

    # -- addresses

    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        """Subscribe to addresses; the client renews the subscriptions on each new connection."""
        async with self._lock:
            await self._open_addresses(addresses, take)

    async def _open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        connection = self._connection
        await connection.wait_until_up()
        added = [each for each in dict.fromkeys(addresses) if each not in self._subscriptions]
        refused: list[DriverError] = []
        is_open = False
        try:
            with ExitStack() as waits:
                # The server does not name a subject if the user has too many subscriptions.
                for subject in ("", *(self._root + address for address in added)):
                    waits.enter_context(connection.refusals.waiting(subject, refused.append))
                for address in added:
                    subject = self._root + address
                    self._subscriptions[address], command = self._subscribe(
                        subject, partial(_take_body, take, address)
                    )
                    await connection.client._send_command(command)
                await connection.flush()
            if refused:
                raise refused[0]
            is_open = True
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error
        finally:
            if not is_open:
                await self._unsubscribe(added)

    async def close_addresses(self, addresses: Sequence[str]) -> None:
        """Unsubscribe from addresses."""
        try:
            async with self._lock:
                await self._unsubscribe(addresses)
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error

    def _subscribe(self, subject: str, take: TakeRaw) -> tuple[Subscription, bytes]:
        """Register a subscription with the client, and return it with the command to send."""
        client = self._connection.client
        client._sid += 1
        sid: int = client._sid
        # Without a callback, the client starts no task for it.
        subscription = Subscription(client, sid, subject)
        client._subs[sid] = subscription
        self._connection.raw_takers[sid] = take
        return subscription, f"SUB {subject}  {sid}\r\n".encode()

    async def _unsubscribe(self, addresses: Sequence[str]) -> None:
        for address in addresses:
            subscription = self._subscriptions.pop(address, None)
            if subscription is not None:
                self._connection.raw_takers.pop(subscription._id, None)  # pyright: ignore[reportPrivateUsage]
                await subscription.unsubscribe()

    # -- sending

    def send(self, burst: Sequence[OutgoingDirect]) -> None:
        """Write messages, followed by a PING."""
        if not self._connection.is_up:
            for message in burst:
                message.done(not_connected("NATS"))
            return
        self._waiting.extend(burst)
        self._write()

    def _write(self) -> None:
        client, waiting, lines = self._connection.client, self._waiting, list[bytes]()
        max_bytes: int = client._max_payload
        if self._answers is None:
            # No address has a `=`.
            self._answers_root = f"{self._root}=none.{client._nuid.next().decode()}."
            self._answers, command = self._subscribe(f"{self._answers_root}*", self._on_nobody)
            lines.append(command)
        while waiting:
            message = waiting[0]
            size = len(message.data)
            if self._unconfirmed and self._unconfirmed_bytes + size > MAX_UNCONFIRMED_BYTES:
                break
            waiting.popleft()
            if size > max_bytes:
                # The server would end the connection.
                text = f"NATS: {size} bytes are above the limit of {max_bytes}"
                message.done(DriverError(f"{text}, the server's max_payload"))
                continue
            self._number += 1
            self._unconfirmed[self._number] = message
            self._unconfirmed_bytes += size
            subject = self._root + message.address
            command = f"PUB {subject} {self._answers_root}{self._number} {size}\r\n".encode()
            lines += (command, message.data, b"\r\n")
        if self._unconfirmed and not self._is_pinging:
            # The server confirms the client's own buffer with the same PONG.
            lines[:0] = client._pending
            client._pending, client._pending_data_size = [], 0
            lines.append(PING)
            self._expect_pong(client)
        client._transport.writelines(lines)
        if not isinstance(client._transport, TcpTransport):
            # A WebSocket only keeps them.
            self._connection.start(client._transport.drain())

    def _expect_pong(self, client: Any) -> None:
        self._is_pinging = True
        loop = asyncio.get_running_loop()
        pong: asyncio.Future[Any] = loop.create_future()
        losses = self._connection.losses
        pong.add_done_callback(partial(self._on_pong, losses, self._number))
        client._pongs.append(pong)
        # TCP may take minutes to notice that a silent server is gone.
        self._silence = loop.call_later(REPLY_SECONDS, self._connection.replace)

    def _on_pong(self, losses: int, number: int, _: asyncio.Future[Any]) -> None:
        """Confirm the messages up to a number, and write those that wait."""
        if losses != self._connection.losses or self._silence is None:
            return
        self._forget_confirmation()
        unconfirmed = self._unconfirmed
        for first in [*unconfirmed]:
            if first > number:
                break
            self._finish(first, None)
        if self._connection.is_up and (self._waiting or unconfirmed):
            self._write()

    def _finish(self, number: int, result: int | DriverError | None) -> None:
        message = self._unconfirmed.pop(number, None)
        if message is not None:
            self._unconfirmed_bytes -= len(message.data)
            message.done(result)

    def _on_nobody(self, subject: bytes, _: bytes, headers: bytes | None) -> None:
        """Take the server's answer that nobody has subscribed to the address of a message."""
        number = subject[len(self._answers_root) :]
        # Any program may publish to this subject.
        if headers is not None and headers.startswith(NO_RESPONDERS) and number.isdigit():
            self._finish(int(number[:20]), 0)

    def _on_refused(self, subject: str, error: DriverError) -> bool:
        """Give a refusal to the first message of its address; the server refuses them in order."""
        if not subject.startswith(self._root):
            return False
        for number, message in self._unconfirmed.items():
            if subject in (self._root + message.address, f"{self._answers_root}{number}"):
                self._finish(number, error)
                return True
        return False

    def connection_lost(self) -> None:
        """Answer all messages: their PONG was lost with the connection."""
        self._forget_confirmation()
        messages = [*self._unconfirmed.values(), *self._waiting]
        self._unconfirmed.clear()
        self._waiting.clear()
        self._unconfirmed_bytes = 0
        for message in messages:
            message.done(connection_lost("NATS"))

    def _forget_confirmation(self) -> None:
        self._is_pinging = False
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None


def _take_body(
    take: TakeDirect, address: str, _subject: bytes, data: bytes, _headers: bytes | None
) -> None:
    take(address, data)
