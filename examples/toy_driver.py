"""A driver for a toy broker: a TCP server that repeats each line to all other clients.

Run `python examples/toy_driver.py`: it starts the broker and two buses that talk over it.
"""

# --8<-- [start:setup]
from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import trio

from goevent import Config, DriverConnectionError, Event, GoEvent
from goevent.drivers import Capabilities, Inbox, Message

# --8<-- [end:setup]


# --8<-- [start:driver]
class ToyDriver:
    """Sends each event as one line: its name, a space, and the envelope in JSON."""

    schemes: tuple[str, ...] = ("toy",)
    capabilities = Capabilities(patterns=False, lossless=False)

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._names: set[str] = set()
        self._stream: trio.SocketStream | None = None
        self._sending = trio.Lock()

    @classmethod
    def from_url(cls, url: str) -> ToyDriver:
        parts = urlsplit(url)
        return cls(parts.hostname or "127.0.0.1", parts.port or 7777)

    async def run(self, inbox: Inbox, *, task_status: trio.TaskStatus[None]) -> None:
        self._names.clear()
        try:
            self._stream = await trio.open_tcp_stream(self._host, self._port)
            async with self._stream:
                # The broker greets a client that it has registered.
                if await self._stream.receive_some(1):
                    task_status.started()
                rest = b""
                async for chunk in self._stream:
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        name, _, data = line.partition(b" ")
                        if name.decode() in self._names:
                            await inbox.receive(name.decode(), data)
        except (OSError, trio.BrokenResourceError) as error:
            raise DriverConnectionError(f"no toy broker at {self._host}:{self._port}") from error
        raise DriverConnectionError("the toy broker has closed the connection")

    async def subscribe(self, names: Sequence[str]) -> None:
        self._names.update(names)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        self._names.difference_update(names)

    async def publish(self, message: Message) -> None:
        if self._stream is None:
            raise DriverConnectionError("not connected to the toy broker")
        line = b"%s %s\n" % (message.event_name.encode(), message.encode())
        async with self._sending:
            try:
                await self._stream.send_all(line)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise DriverConnectionError("the toy broker is gone") from error


# --8<-- [end:driver]


async def broker(
    port: int = 0, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    """Repeat each line to every client but its sender."""
    clients: dict[trio.SocketStream, trio.Lock] = {}

    async def serve(stream: trio.SocketStream) -> None:
        clients[stream] = greeting = trio.Lock()
        rest = b""
        with suppress(trio.BrokenResourceError):
            async with greeting:
                await stream.send_all(b"+")
            async for chunk in stream:
                *lines, rest = (rest + chunk).split(b"\n")
                for other, sending in [*clients.items()]:
                    if other is not stream and lines:
                        async with sending:
                            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                                await other.send_all(b"\n".join(lines) + b"\n")
        del clients[stream]

    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    task_status.started(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(serve, listeners)


class Greeting(Event, name="greeting"):
    text: str


async def main() -> None:
    async with trio.open_nursery() as nursery:
        port = await nursery.start(broker)
        sender = GoEvent(ToyDriver("127.0.0.1", port))
        receiver = GoEvent(Config(driver=ToyDriver.from_url(f"toy://127.0.0.1:{port}")))
        arrived = trio.Event()

        @receiver.listener(Greeting)
        def greet(event: Greeting) -> None:
            print(f"the other bus got: {event.text}")
            arrived.set()

        async with receiver, sender:
            await sender.dispatch(Greeting(text="hello over TCP"))
            await arrived.wait()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
