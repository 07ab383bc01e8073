"""Several workers: processes of one target, kept alive until a signal.

`run` calls it for `--workers`. A worker that dies is started again. One that dies more often than
`MAX_RESTARTS` times within `RESTART_WINDOW_SECONDS` has a fault that a restart does not mend: then
all workers are stopped, and the command ends with the reason. A worker that refuses its target is
not started again at all. The events of a group are shared among the workers by the broker.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import AsyncIterator, Sequence

import trio

from goevent import Ledger

from .early_signals import SIGNALS, EarlySignals
from .failures import WRONG_USE, CommandFinding
from .output import write_note
from .worker_process import Ending, WorkerProcess

MAX_RESTARTS = 3
RESTART_WINDOW_SECONDS = 60.0
RESTART_PAUSE_SECONDS = 0.2
"""The pause before the first restart; each further one within the window doubles it."""


def run_workers(
    target: str,
    options: Sequence[str],
    pages: Sequence[str | None],
    early: EarlySignals,
    *,
    verbose: bool,
) -> Ledger:
    """Run the workers until a signal; return the sum of their ledgers.

    Args:
        target: The target.
        options: The options of each worker.
        pages: The address of the live page of each worker; None for no page.
        early: The signals that come before this takes them.
        verbose: Log in full.

    Raises:
        CommandFinding: A worker dies again and again, or ended without its ledger.
    """
    each = [[*options, *([f"--http={page}"] if page else [])] for page in pages]
    workers = Workers(target, each, verbose=verbose)
    early.only_note()
    trio.run(workers.run, early)
    if workers.reason:
        raise CommandFinding(workers.reason)
    return workers.ledger


class Workers:
    """The workers of one command.

    Attributes:
        ledger: The sum of the ledgers of all workers that have ended.
        reason: The reason to end with exit code 1; empty if there is none.
    """

    def __init__(self, target: str, options: Sequence[Sequence[str]], *, verbose: bool) -> None:
        self._target = target
        self._options = options
        self._verbose = verbose
        self._living: dict[int, WorkerProcess] = {}
        self._stopping = trio.Event()
        self.ledger: Ledger = Ledger()
        self.reason: str = ""

    async def run(self, early: EarlySignals) -> None:
        """Keep all workers until a signal, or until one cannot be kept."""
        with trio.open_signal_receiver(*SIGNALS) as signals:
            if early.received:
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals)
                async with trio.open_nursery() as workers:
                    for number in range(len(self._options)):
                        workers.start_soon(self._keep, number)
                nursery.cancel_scope.cancel()

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            write_note(f"goevent: {signal.Signals(number).name}: stopping the workers")
            self._stop_all()

    def _stop_all(self) -> None:
        self._stopping.set()
        for worker in self._living.values():
            worker.stop()

    async def _keep(self, number: int) -> None:
        """Run one worker, and start it again when it dies."""
        deaths: deque[float] = deque()
        while not self._stopping.is_set():
            options = self._options[number]
            worker = WorkerProcess(number, self._target, options, verbose=self._verbose)
            self._living[number] = worker
            ending = await worker.run()
            del self._living[number]
            if ending.ledger is not None:
                self.ledger += ending.ledger
            if self._stopping.is_set():
                # Python itself is ended by a SIGTERM until `run` takes it.
                unopened = ending.code == -signal.SIGTERM
                if ending.ledger is None and not unopened and not self.reason:
                    self.reason = f"worker {number} ended without its ledger: {ending}"
                return
            now = trio.current_time()
            deaths.append(now)
            while deaths[0] < now - RESTART_WINDOW_SECONDS:
                deaths.popleft()
            if ending.code == WRONG_USE or len(deaths) > MAX_RESTARTS:
                self._give_up(number, ending, len(deaths))
                return
            write_note(f"goevent: worker {number} died ({ending}); it is started again")
            with trio.move_on_after(RESTART_PAUSE_SECONDS * 2 ** (len(deaths) - 1)):
                await self._stopping.wait()

    def _give_up(self, number: int, ending: Ending, times: int) -> None:
        often = f" {times} times within {RESTART_WINDOW_SECONDS:g} s, at last" if times > 1 else ""
        self.reason = f"worker {number} died{often} ({ending})"
        self._stop_all()
