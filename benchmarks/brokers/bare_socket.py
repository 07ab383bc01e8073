"""A Trio socket that sends a prepared command and reads until its reply is whole.

Nothing is encoded, parsed or matched, so no client on Trio makes the round trip of a lone event in
less time.
"""

import time

import msgspec
import trio

from benchmarks.brokers.contender import TEXT, Measured, Meter, Place

MAX_READ_BYTES = 1 << 16


def _command(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)


def publish(place: Place, seconds: float, tasks: int) -> float:
    """Publish from one task."""
    if tasks != 1:
        raise ValueError("a bare socket serves one task")
    return trio.run(_publish, place, seconds)


async def _publish(place: Place, seconds: float) -> float:
    command = _command(b"PUBLISH", b"bench.order", _payload())
    async with await _connected(place) as stream:
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            deadline = start + (0.2 if warm_up else seconds)
            while time.perf_counter() < deadline:
                await _execute(stream, command, lines=1)
                sent += 1
        return sent / (time.perf_counter() - start)


def wait(place: Place, count: int, tasks: int) -> Measured:
    """Add entries to a stream from one task."""
    if tasks != 1:
        raise ValueError("a bare socket serves one task")
    return trio.run(_wait, place, count)


async def _wait(place: Place, count: int) -> Measured:
    command = _command(b"XADD", b"bare", b"*", b"e", _payload())
    async with await _connected(place) as stream:
        meter = Meter()
        for _ in range(count):
            await _execute(stream, command, lines=2)
        return meter.read(count)


def _payload() -> bytes:
    return msgspec.json.encode({"number": 1, "text": TEXT})


async def _connected(place: Place) -> trio.SocketStream:
    host, port = place.addr.split(":")
    return await trio.open_tcp_stream(host, int(port))


async def _execute(stream: trio.SocketStream, command: bytes, lines: int) -> None:
    await stream.send_all(command)
    reply = bytes(await stream.receive_some(MAX_READ_BYTES))
    while reply.count(b"\r\n") < lines:
        reply += bytes(await stream.receive_some(MAX_READ_BYTES))
    if not reply.startswith((b":", b"$")):
        raise RuntimeError(f"the server refused a command: {reply!r}")
