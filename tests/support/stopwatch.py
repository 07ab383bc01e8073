"""A stopwatch for bounds of real time that a busy machine must not break.

A bound such as "within a second" is about the code under test. On a busy machine, the process of
the test and the servers that it started also wait for a processor. Linux counts that waiting for
each thread, so the stopwatch can leave it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import trio

NANOSECONDS = 1e-9


class Stopwatch:
    """Measures from the moment when it is made."""

    def __init__(self) -> None:
        self._began = trio.current_time()
        self._delays = cpu_delays()

    @property
    def seconds(self) -> float:
        """The seconds that have passed."""
        return trio.current_time() - self._began

    @property
    def unhindered_seconds(self) -> float:
        """The seconds that have passed, without those of waiting for a processor.

        Elsewhere than on Linux, the same as `seconds`.
        """
        seconds = self.seconds
        delays = cpu_delays()
        return seconds - sum(delay - self._delays.get(key, 0.0) for key, delay in delays.items())


def cpu_delays() -> dict[Path, float]:
    """Return the seconds that each thread has been ready to run and had no processor.

    The threads are those of this process and of the processes that it started.
    """
    delays: dict[Path, float] = {}
    for process in processes():
        for file in process.glob("task/*/schedstat"):
            try:
                delays[file] = int(file.read_text().split()[1]) * NANOSECONDS
            except OSError:  # the thread has ended meanwhile
                continue
    return delays


def processes() -> Iterator[Path]:
    """Find the directory of this process, and of all processes that it started."""
    todo = [Path("/proc/self")]
    while todo:
        process = todo.pop()
        yield process
        for file in process.glob("task/*/children"):
            try:
                todo += [Path("/proc") / child for child in file.read_text().split()]
            except OSError:
                continue
