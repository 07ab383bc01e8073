"""The command `goevent` as a process that a test signals while it runs."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from tests.support.command import COMMAND, command_environment
from tests.support.limits import HANG_SECONDS, SUBPROCESS_SECONDS


class RunningCommand:
    """A process, and what it has printed.

    Attributes:
        out: Its stdout.
        err: Its stderr.
    """

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.out = ""
        self.err = ""
        self._news = trio.Event()
        self._open_streams = 2

    async def read(self, stream: trio.abc.ReceiveStream | None, name: str) -> None:
        """Read one of its streams to the end."""
        assert stream is not None
        async for data in stream:
            setattr(self, name, getattr(self, name) + data.decode())
            self._tell()
        self._open_streams -= 1
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def says(self, text: str, count: int = 1) -> None:
        """Wait until its stderr has a text so many times."""
        with trio.fail_after(HANG_SECONDS):
            while self.err.count(text) < count:
                assert self._open_streams, f"{text!r} is not in {self.err!r}"
                await self._news.wait()

    async def has_line(self, pattern: str, count: int = 1) -> None:
        """Wait until so many whole lines of its stderr match a pattern."""
        lines = re.compile(f"^{pattern}\n", re.MULTILINE)
        with trio.fail_after(HANG_SECONDS):
            while len(lines.findall(self.err)) < count:
                assert self._open_streams, f"{pattern!r} is no line of {self.err!r}"
                await self._news.wait()

    async def prints(self, text: str, count: int = 1) -> None:
        """Wait until its stdout has a text so many times."""
        with trio.fail_after(HANG_SECONDS):
            while self.out.count(text) < count:
                assert self._open_streams, f"{text!r} is not in {self.out!r}"
                await self._news.wait()

    def terminate(self) -> None:
        """Send a SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Wait for its end; return the exit code."""
        with trio.fail_after(SUBPROCESS_SECONDS):
            code = await self.process.wait()
            while self._open_streams:
                await self._news.wait()
        return code


@asynccontextmanager
async def running(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> AsyncGenerator[RunningCommand]:
    """Run the command `goevent`; it is killed at the end of the block."""
    async with trio.open_nursery() as nursery:
        start = partial(
            trio.run_process,
            [*COMMAND, *arguments],
            cwd=cwd,
            env=command_environment(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
        )
        process: trio.Process = await nursery.start(start)
        command = RunningCommand(process)
        nursery.start_soon(command.read, process.stdout, "out")
        nursery.start_soon(command.read, process.stderr, "err")
        try:
            yield command
        finally:
            process.kill()
