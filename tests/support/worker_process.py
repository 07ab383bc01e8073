"""Processes that tests start, listen to, freeze and kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import trio

from tests.support.limits import HANG_SECONDS


class WorkerProcess:
    """A process, and the lines that it prints."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.said: list[str] = []
        self._news = trio.Event()

    async def read(self) -> None:
        """Read the lines that it prints, until it ends."""
        assert self.process.stdout is not None
        rest = b""
        async for data in self.process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            self.said += [line.decode() for line in lines]
            self._news.set()
            self._news = trio.Event()

    async def says(self, text: str, count: int = 1) -> None:
        """Wait until so many of its lines have a text."""
        with trio.fail_after(HANG_SECONDS):
            while sum(text in line for line in self.said) < count:
                await self._news.wait()


@asynccontextmanager
async def at_work(program: str, *arguments: str) -> AsyncGenerator[WorkerProcess]:
    """Run a module of this package, from when it says that it is ready."""
    async with running(program, *arguments) as worker:
        await worker.says("ready")
        yield worker


@asynccontextmanager
async def running(program: str, *arguments: str) -> AsyncGenerator[WorkerProcess]:
    """Run a module of this package; it is killed at the end."""
    command = [sys.executable, "-m", f"tests.support.{program}", *arguments]
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
        )
        worker = WorkerProcess(process)
        nursery.start_soon(worker.read)
        try:
            yield worker
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
