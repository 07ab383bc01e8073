"""Reloading: one worker that is started again after each change of the program.

`run` calls it for `--reload`. It watches the `.py` files below the working directory. A change ends
the worker as a SIGTERM does, and a further change during its drain cuts the drain short. A worker
that dies waits for the next change, because the fault is in the program.

Python takes the bytecode of a module for valid as long as the time of the source in whole seconds
and its size are the same. A change within the second in which the worker was started may keep both.
So the bytecode of each changed file is removed before the next start.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Sequence
from importlib.util import cache_from_source
from pathlib import Path

import trio
from watchfiles import PythonFilter, awatch

from goevent import Ledger

from .early_signals import SIGNALS, EarlySignals
from .output import write_note
from .worker_process import WorkerProcess


def run_reloading(
    target: str, options: Sequence[str], page: str | None, early: EarlySignals, *, verbose: bool
) -> Ledger:
    """Run a worker until a signal, with a new start after each change; return all ledgers' sum.

    Args:
        target: The target.
        options: The options of the worker.
        page: The address of the live page, or None.
        early: The signals that come before this takes them.
        verbose: Log in full.
    """
    each = [*options, *([f"--http={page}"] if page else [])]
    reloading = Reloading(target, each, os.getcwd(), verbose=verbose)
    early.only_note()
    trio.run(reloading.run, early)
    return reloading.ledger


def remove_bytecode(source: str) -> None:
    """Remove the bytecode of a source file, so that Python reads the source."""
    for optimization in ("", "1", "2"):
        bytecode = cache_from_source(source, optimization=optimization)
        try:
            Path(bytecode).unlink(missing_ok=True)
        except OSError as error:
            write_note(f"goevent: cannot remove the bytecode of a changed file: {error}")


class Reloading:
    """A worker that is started again.

    Attributes:
        ledger: The sum of the ledgers of all workers that have ended.
    """

    def __init__(
        self, target: str, options: Sequence[str], directory: str, *, verbose: bool
    ) -> None:
        self._target = target
        self._options = options
        self._directory = directory
        self._prefix = os.path.join(directory, "")
        self._verbose = verbose
        self._worker: WorkerProcess | None = None
        self._stopping = trio.Event()
        self._wake = trio.Event()
        self._changed: set[str] = set()
        self.ledger: Ledger = Ledger()

    async def run(self, early: EarlySignals) -> None:
        """Run the worker until a signal."""
        with trio.open_signal_receiver(*SIGNALS) as signals:
            if early.received:
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals)
                nursery.start_soon(self._watch)
                await self._work()
                # The thread of the watcher looks at this event. It cannot be cancelled.
                self._stopping.set()
                nursery.cancel_scope.cancel()

    async def _work(self) -> None:
        while not self._stopping.is_set():
            self._wake, self._changed = trio.Event(), set()
            worker = WorkerProcess(0, self._target, self._options, verbose=self._verbose)
            self._worker = worker
            ending = await worker.run()
            self._worker = None
            if ending.ledger is not None:
                self.ledger += ending.ledger
            if not self._wake.is_set():
                write_note(f"goevent: the worker ended ({ending}); waiting for a change")
                await self._wake.wait()
            if self._changed:
                name = min(self._changed).removeprefix(self._prefix)
                write_note(f"goevent: {name} has changed; the worker starts again")
                # The worker has ended, so it writes no older bytecode after this.
                for path in self._changed:
                    remove_bytecode(path)

    async def _watch(self) -> None:
        watched = awatch(self._directory, watch_filter=PythonFilter(), stop_event=self._stopping)
        async for changes in watched:
            self._changed.update(path for _, path in changes)
            self._end_worker()

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            write_note(f"goevent: {signal.Signals(number).name}: stopping the worker")
            self._stopping.set()
            self._end_worker()

    def _end_worker(self) -> None:
        self._wake.set()
        if self._worker is not None:
            self._worker.stop()
