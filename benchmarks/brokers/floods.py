"""Senders of prepared messages, as fast as a server takes them, past all libraries under test."""

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.brokers.contender import Place
from benchmarks.brokers.faststream.direct import NAME

MESSAGES_PER_WRITE = 500

Payloads = Sequence[bytes]


def redis(place: Place, payloads: Payloads, channel: str) -> None:
    """Publish without replies, and wait for a PONG."""
    with _connected(place) as connection:
        # Without it, unread replies would fill the buffers.
        connection.sendall(b"CLIENT REPLY OFF\r\n")
        head = f"*3\r\n$7\r\nPUBLISH\r\n${len(channel)}\r\n{channel}\r\n".encode()
        for start in range(0, len(payloads), MESSAGES_PER_WRITE):
            chunk = payloads[start : start + MESSAGES_PER_WRITE]
            connection.sendall(
                b"".join(b"%s$%d\r\n%s\r\n" % (head, len(data), data) for data in chunk)
            )
        connection.sendall(b"CLIENT REPLY ON\r\nPING\r\n")
        reply = b""
        while not reply.endswith(b"+PONG\r\n"):
            reply += connection.recv(1024)


def _connected(place: Place) -> socket.socket:
    host, port = place.addr.split(":")
    return socket.create_connection((host, int(port)))


def nats(place: Place, payloads: Payloads, channel: str) -> None:
    """Publish, and wait for a PONG."""
    subject = f"{place.tag}.{NAME}".encode()
    with _connected(place) as connection:
        connection.sendall(b'CONNECT {"verbose":false}\r\n')
        for start in range(0, len(payloads), MESSAGES_PER_WRITE):
            connection.sendall(
                b"".join(
                    b"PUB %b %d\r\n%b\r\n" % (subject, len(each), each)
                    for each in payloads[start : start + MESSAGES_PER_WRITE]
                )
            )
        connection.sendall(b"PING\r\n")
        reply = b""
        while b"PONG\r\n" not in reply:
            reply = reply[-8:] + connection.recv(4096)


def rabbit(place: Place, payloads: Payloads, channel: str) -> None:
    """Publish without confirms."""

    async def run() -> None:
        import aiormq

        client: Any = await aiormq.connect(f"amqp://guest:guest@{place.addr}/")
        channel = await client.channel(publisher_confirms=False)
        kind = aiormq.spec.Basic.Properties(content_type="application/json", delivery_mode=2)
        for each in payloads:
            await channel.basic_publish(
                each, exchange=place.tag, routing_key=NAME, properties=kind, wait=False
            )
        await channel.basic_qos(prefetch_count=1)  # its reply comes after all messages were read
        await client.close()

    asyncio.run(run())


def mqtt(place: Place, payloads: Payloads, channel: str) -> None:
    """Publish with QoS 1, and read the PUBACKs later: the server sends them at once."""
    topic = f"{place.tag}/{NAME.replace('.', '/')}".encode()
    with _connected(place) as connection:
        name = place.tag.encode()
        hello = b"\x00\x04MQTT\x04\x02\x00\x3c" + struct.pack(">H", len(name)) + name
        connection.sendall(b"\x10" + _length(len(hello)) + hello)
        _read(connection, 4)
        for start in range(0, len(payloads), MESSAGES_PER_WRITE):
            chunk = payloads[start : start + MESSAGES_PER_WRITE]
            packets: list[bytes] = []
            for at, each in enumerate(chunk, start + 1):
                head = struct.pack(">H", len(topic)) + topic + struct.pack(">H", at % 65535 or 1)
                packets.append(b"\x32" + _length(len(head) + len(each)) + head + each)
            connection.sendall(b"".join(packets))
            _read(connection, 4 * len(chunk))


def _length(size: int) -> bytes:
    done = b""
    while size > 127:
        done += bytes([size % 128 + 128])
        size //= 128
    return done + bytes([size])


def _read(connection: socket.socket, size: int) -> None:
    while size:
        size -= len(connection.recv(size))


def kafka(place: Place, payloads: Payloads, channel: str) -> None:
    """Produce in batches."""
    from confluent_kafka import Producer

    producer: Any = Producer({"bootstrap.servers": place.addr, "linger.ms": 5})
    for each in payloads:
        producer.produce(f"{place.tag}.{NAME}", each)
        producer.poll(0)
    producer.flush(30)


FLOODS: dict[str, Callable[[Place, Payloads, str], None]] = {
    "redis": redis,
    "nats": nats,
    "jetstream": nats,
    "rabbit": rabbit,
    "mqtt": mqtt,
    "kafka": kafka,
    "kafka+confluent": kafka,
}
"""The sender for each broker; the channel is that of the contender's messages, on Redis only."""
