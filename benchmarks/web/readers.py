"""Readers of the page, in a process of their own: each reads the frames as a browser does.

`python -m benchmarks.web.readers HOST PORT COUNT` prints `ready` when each has its first frame, and
ends when its input ends.
"""

from __future__ import annotations

import sys

import trio


async def read(host: str, port: int, ready: trio.Event) -> None:
    """Read the stream of the page until cancelled."""
    async with await trio.open_tcp_stream(host, port) as connection:
        await connection.send_all(f"GET /events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        start = b""
        async for data in connection:
            if not ready.is_set():
                start += data
                if b"event: frame" in start:
                    ready.set()


async def main(host: str, port: int, count: int) -> None:
    """Read in `count` connections until the input ends."""
    async with trio.open_nursery() as nursery:
        started = [trio.Event() for _ in range(count)]
        for each in started:
            nursery.start_soon(read, host, port, each)
        for each in started:
            await each.wait()
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
