"""Mosquitto servers for single tests, which may kill and restart them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.support.brokers import missing
from tests.support.faststream_buses import FastStreamBus
from tests.support.frozen import freeze_child
from tests.support.limits import HANG_SECONDS
from tests.support.redis_server import free_port


def mosquitto_program(name: str) -> str:
    """Return the path of one of the programs of Mosquitto."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    return found or missing(f"{name} is not installed")


@dataclass
class MqttServer:
    """A server process.

    Attributes:
        config: More lines of its configuration.
        user: The name and password of the only user; None admits everybody.
        rights: The lines of the file of rights; without one, everybody may do everything.
    """

    config: Sequence[str] = ()
    user: tuple[str, str] | None = None
    rights: Sequence[str] = ()
    port: int = field(default_factory=free_port)
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="goevent-mqtt")))
    _process: subprocess.Popen[bytes] | None = None

    def url(self, group: str | None = None, **options: object) -> str:
        """Return the URL for a bus."""
        query_options = dict(options)
        if group is not None:
            query_options["group"] = group
        port = query_options.pop("port", self.port)
        query = "&".join(f"{name}={value}" for name, value in query_options.items())
        return f"mqtt://127.0.0.1:{port}?{query}"

    def bus(self, group: str | None = None, **options: object) -> FastStreamBus:
        """Return a bus on this server."""
        return FastStreamBus(self.url(group, **options))

    async def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        where = self.directory / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", *self.config]
        if self.user is None:
            lines.append("allow_anonymous true")
        else:
            users = self.directory / "users"
            command = [mosquitto_program("mosquitto_passwd"), "-b", "-c", str(users), *self.user]
            subprocess.run(command, check=True, capture_output=True)
            lines += ["allow_anonymous false", f"password_file {users}"]
        if self.rights:
            rights = self.directory / "rights"
            rights.write_text("\n".join(self.rights) + "\n")
            lines.append(f"acl_file {rights}")
        for each in (self.directory, *self.directory.iterdir()):
            # The server drops its privileges before it reads them.
            os.chmod(each, 0o755)
        where.write_text("\n".join(lines) + "\n")
        self._process = subprocess.Popen(
            [mosquitto_program("mosquitto"), "-c", str(where)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with trio.fail_after(HANG_SECONDS):
            while not await self._answers():
                if self._process.poll() is not None:
                    raise RuntimeError("mosquitto has ended")
                await trio.sleep(0.02)

    async def _answers(self) -> bool:
        try:
            async with await trio.open_tcp_stream("127.0.0.1", self.port):
                return True
        except OSError:
            return False

    def freeze(self) -> None:
        """Stop the server as it is: its connections stay open, and it answers nothing."""
        assert self._process is not None
        freeze_child(self._process.pid)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@asynccontextmanager
async def mqtt_server(
    *config: str, user: tuple[str, str] | None = None, rights: Sequence[str] = ()
) -> AsyncGenerator[MqttServer]:
    """Run a server inside a `with` block."""
    server = MqttServer(config, user, rights)
    try:
        await server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(server.directory, ignore_errors=True)
