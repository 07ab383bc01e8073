"""Patches of nats-py's client, for the client of one connection each.

`NatsConnection` applies them to the client that its broker object has made. Each one names the
defect that it mends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nats import errors
from nats.aio.transport import TcpTransport

from goevent import DriverError

CLOSE_SECONDS = 1.0


def message_bytes(body: bytes, headers: Mapping[str, str]) -> int:
    """Return the bytes of a message as the server counts them for its `max_payload`."""
    if not headers:
        return len(body)
    lines = sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())
    return len(body) + len("NATS/1.0\r\n") + lines + len("\r\n")


def use_plain_writes(client: Any) -> None:
    """Make the client notice a lost connection as an `OSError` of its next `drain`.

    Since Python 3.12, `writelines` of asyncio raises an `AttributeError` or a `TypeError` on a lost
    connection, and `write` does not: https://github.com/python/cpython/issues/136234
    """
    transport = client._transport  # the client keeps this object for all its connections
    if isinstance(transport, TcpTransport):
        stream: Any = transport

        def write(lines: Sequence[bytes]) -> None:
            stream.write(b"".join(lines))

        stream.writelines = write


def guard_reader(
    client: Any,
    max_pending_bytes: int | None,
    raw_takers: Mapping[int, Callable[[bytes, bytes, bytes | None], None]],
) -> None:
    """Make the client survive each message, and bound the bytes of those that wait.

    The client's reader ends silently at a message whose subject or headers it cannot decode, from
    any sender, and the bus receives nothing until a PING stays unanswered. Such a message is
    accepted.

    The client has a limit of bytes for each subscription, of 128 MiB. This one is for all of them
    together. Beyond it the client drops a message, as it does beyond its own limit, and reports a
    slow consumer. A message passes if no other one waits.

    Args:
        max_pending_bytes: The limit; None if another one bounds the messages.
        raw_takers: The functions that take a message of a subscription, by its number, before the
            client makes an object of it.
    """
    process_headers, process_message = client._process_headers, client._process_msg
    limit = 1 << 62 if max_pending_bytes is None else max_pending_bytes
    # The bytes that have arrived since the waiting ones were added up. More cannot wait.
    arrived = 0

    async def headers_or_none(data: bytes) -> dict[str, str] | None:
        try:
            headers: dict[str, str] | None = await process_headers(data)
        except (ValueError, LookupError):
            return None
        return headers

    async def process(
        sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        nonlocal arrived
        take = raw_takers.get(sid)
        if take is not None:
            take(subject, data, headers)
            return
        if not subject.isascii():
            subject = subject.decode(errors="replace").encode()
        arrived += len(data)
        if arrived > limit:
            pending = sum(each._pending_size for each in client._subs.values())
            arrived = pending + len(data)
            if arrived > limit and pending and (subscription := client._subs.get(sid)) is not None:
                arrived = pending
                await client._error_cb(
                    errors.SlowConsumerError(subject.decode(), reply.decode(), sid, subscription)
                )
                return
        await process_message(sid, subject, reply, data, headers)

    client._process_headers, client._process_msg = headers_or_none, process


def send_pings_in_order(client: Any) -> None:
    """Make the client send a PING behind the messages that it has buffered.

    The client writes a PING past its buffer. Its PONG would then say nothing about these messages.
    A PING must not go through the buffer: the client keeps its buffer for the next connection, on
    which the surplus PONG would confirm messages that the server does not have yet.
    """
    send_ping = client._send_ping

    async def send_buffer_and_ping(future: asyncio.Future[Any] | None = None) -> None:
        if client.is_connected and client._pending:
            client._transport.writelines(client._pending[:])
            client._pending, client._pending_data_size = [], 0
        await send_ping(future)

    client._send_ping = send_buffer_and_ping


def refuse_large_messages(client: Any) -> None:
    """Make the client compare a message with its headers with the server's limit."""
    publish = client.publish

    async def publish_if_small(
        subject: str, payload: bytes = b"", reply: str = "", headers: Any = None
    ) -> None:
        refuse_large(client, payload, headers)
        await publish(subject, payload, reply, headers)

    client.publish = publish_if_small


def refuse_large(client: Any, body: bytes, headers: Mapping[str, str] | None) -> None:
    """Refuse a message that the server would end the connection for.

    Raises:
        DriverError: It is larger than the server's limit.
    """
    size = message_bytes(body, headers or {})
    if size > client.max_payload:
        raise DriverError(
            f"NATS: {size} bytes with the headers are above the limit of {client.max_payload}, "
            "the server's max_payload"
        )


def close_within_a_second(client: Any) -> None:
    """Make the client drop a connection whose server takes no more bytes.

    A transport of asyncio closes only when it has written its buffer. The client waits for that
    before it connects again, which may take as long as the server is silent.
    """
    transport = client._transport  # the client keeps this object for all its connections
    if isinstance(transport, TcpTransport):
        stream: Any = transport
        wait_closed = stream.wait_closed

        async def abort_after_a_second() -> None:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await wait_closed()
            except TimeoutError:
                stream._io_writer.transport.abort()

        stream.wait_closed = abort_after_a_second
