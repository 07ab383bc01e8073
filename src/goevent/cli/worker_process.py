"""A process of a worker, as the process that starts it sees it.

`workers` and `reloading` own these. A worker process writes to the same stdout. Its stderr passes
through here, so that its last line can be told as the reason of its end. It has a process group of
its own: Ctrl-C on a terminal reaches only the command, which sends a SIGTERM on.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from goevent import Ledger

from .failures import one_line

MAX_TAIL_BYTES = 4096
"""The end of stderr in which the last line is looked for."""

OUTPUT_SECONDS = 1.0
"""How long the output of a worker that has ended is read; its own children may hold it open."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a worker process.

    Attributes:
        code: The exit code; the negative number of the signal that ended it.
        ledger: Its ledger; None if it has sent none.
        reason: The last line that it wrote to stderr.
    """

    code: int
    ledger: Ledger | None
    reason: str

    def __str__(self) -> str:
        how = f"exit code {self.code}"
        if self.code < 0:
            how = f"signal {signal.Signals(-self.code).name}"
        return f"{how}: {self.reason}" if self.reason else how


class WorkerProcess:
    """One process that serves the bus of a target.

    Args:
        number: The number of the worker.
        target: The target.
        options: The options of `goevent run` for it.
        verbose: Log in full.
    """

    def __init__(
        self, number: int, target: str, options: Sequence[str], *, verbose: bool = False
    ) -> None:
        flags = ["--verbose"] if verbose else []
        self._command = [sys.executable, "-m", "goevent", *flags, "run", target, *options]
        self._number = number
        self._process: trio.Process | None = None
        self._signals = 0
        self._tail = b""
        self._message = b""

    def stop(self) -> None:
        """Send it a SIGTERM: the first begins its drain, the second cuts the drain short."""
        if self._process is None:
            self._signals += 1  # it is about to start
        elif self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    async def run(self) -> Ending:
        """Run the process to its end. If this is cancelled, it is killed."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = self._process = await trio.lowlevel.open_process(
                    [*self._command, f"--supervised={self._number}:{theirs.fileno()}"],
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                    process_group=0,
                )
            for _ in range(self._signals):
                process.send_signal(signal.SIGTERM)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass_stderr, process.stderr)
                    nursery.start_soon(self._read_ledger, trio.socket.from_stdlib_socket(ours))
                    code = await process.wait()
                    nursery.cancel_scope.deadline = trio.current_time() + OUTPUT_SECONDS
            finally:
                if process.returncode is None:
                    process.kill()
                    with trio.CancelScope(shield=True):
                        await process.wait()
        return Ending(code, self._ledger(), self._last_line())

    async def _pass_stderr(self, stderr: trio.abc.ReceiveStream | None) -> None:
        if stderr is None:
            return
        async for data in stderr:
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()
            self._tail = (self._tail + bytes(data))[-MAX_TAIL_BYTES:]

    async def _read_ledger(self, link: trio.socket.SocketType) -> None:
        while data := await link.recv(MAX_TAIL_BYTES):
            self._message += data

    def _ledger(self) -> Ledger | None:
        return Ledger(**json.loads(self._message)) if self._message else None

    def _last_line(self) -> str:
        lines = self._tail.decode("utf-8", "backslashreplace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return one_line(last.removeprefix("goevent: "))
