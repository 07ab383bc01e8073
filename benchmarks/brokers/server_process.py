"""The process of a server, which a run can kill, freeze and start again at the same port."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.brokers.harness import NotHere

START_SECONDS = 300.0
"""No limit on speed: a server that does not start must not hang the run."""


def free_port() -> int:
    """Return a port that no server uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts_connections(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether a server accepts connections."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


class ServerProcess:
    """A server with a port and a directory of its own.

    Args:
        command: Returns the command line, for the port and the directory.
        answers: Returns whether the server at a port is ready.
        environment: Returns the environment, for the port and the directory.
        end_signal: The signal that ends the server. SIGTERM, for a server that loses what it has
            accepted at a SIGKILL.

    Attributes:
        port: The port; it stays the same when the server is started again.
        directory: The place of the data; it is deleted at the end, and not before.
    """

    def __init__(
        self,
        command: Callable[[int, Path], Sequence[str]],
        *,
        answers: Callable[[int], bool] = accepts_connections,
        environment: Callable[[int, Path], Mapping[str, str]] | None = None,
        end_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="goevent-benchmark-"))
        try:
            self._command = command(self.port, self.directory)
        except BaseException:
            shutil.rmtree(self.directory)
            raise
        self._environment = environment and environment(self.port, self.directory)
        self._answers = answers
        self._end_signal = end_signal
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def addr(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server, and wait until it answers.

        Raises:
            NotHere: It does not start.
        """
        self._process = process = subprocess.Popen(
            self._command,
            env=self._environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a server may have processes of its own
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers(self.port):
            if time.monotonic() > deadline or process.poll() is not None:
                self.kill()
                raise NotHere(f"{self._command[0]} does not start")
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server: with SIGKILL, as a crash would, unless it has another `end_signal`."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # it has ended by itself
                self._signal(self._end_signal)
                self.thaw()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop the server with SIGSTOP: its connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("the server does not run")
        os.killpg(self._process.pid, number)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
