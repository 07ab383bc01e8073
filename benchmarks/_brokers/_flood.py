"""Sends messages that are made already, as fast as a server takes them, past FastStream."""

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks._brokers._contender import Scene
from benchmarks._brokers._direct import NAME

AT_ONCE = 500

Payloads = Sequence[bytes]


def _connected(scene: Scene) -> socket.socket:
    host, port = scene.addr.split(":")
    return socket.create_connection((host, int(port)))


def nats(scene: Scene, payloads: Payloads) -> None:
    """Publish, and wait for a PONG."""
    subject = f"{scene.tag}.{NAME}".encode()
    with _connected(scene) as connection:
        connection.sendall(b'CONNECT {"verbose":false}\r\n')
        for start in range(0, len(payloads), AT_ONCE):
            connection.sendall(
                b"".join(
                    b"PUB %b %d\r\n%b\r\n" % (subject, len(each), each)
                    for each in payloads[start : start + AT_ONCE]
                )
            )
        connection.sendall(b"PING\r\n")
        said = b""
        while b"PONG\r\n" not in said:
            said = said[-8:] + connection.recv(4096)


def rabbit(scene: Scene, payloads: Payloads) -> None:
    """Publish without confirms."""

    async def run() -> None:
        import aiormq

        client: Any = await aiormq.connect(f"amqp://guest:guest@{scene.addr}/")
        channel = await client.channel(publisher_confirms=False)
        kind = aiormq.spec.Basic.Properties(content_type="application/json", delivery_mode=2)
        for each in payloads:
            await channel.basic_publish(
                each, exchange=scene.tag, routing_key=NAME, properties=kind, wait=False
            )
        await channel.basic_qos(prefetch_count=1)  # its reply says that all before has been read
        await client.close()

    asyncio.run(run())


def mqtt(scene: Scene, payloads: Payloads) -> None:
    """Publish with QoS 1, and read the PUBACKs later: the server sends them at once."""
    topic = f"{scene.tag}/{NAME.replace('.', '/')}".encode()
    with _connected(scene) as connection:
        name = scene.tag.encode()
        hello = b"\x00\x04MQTT\x04\x02\x00\x3c" + struct.pack(">H", len(name)) + name
        connection.sendall(b"\x10" + _length(len(hello)) + hello)
        _read(connection, 4)
        for start in range(0, len(payloads), AT_ONCE):
            chunk = payloads[start : start + AT_ONCE]
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


def kafka(scene: Scene, payloads: Payloads) -> None:
    """Produce in batches."""
    from confluent_kafka import Producer

    producer: Any = Producer({"bootstrap.servers": scene.addr, "linger.ms": 5})
    for each in payloads:
        producer.produce(f"{scene.tag}.{NAME}", each)
        producer.poll(0)
    producer.flush(30)


FLOODS: dict[str, Callable[[Scene, Payloads], None]] = {
    "nats": nats,
    "rabbit": rabbit,
    "mqtt": mqtt,
    "kafka": kafka,
}
