"""The meter: what a number of events has cost, in time and in work of this process."""

import time
from typing import NamedTuple


class Measured(NamedTuple):
    """What was measured.

    Attributes:
        rate: events per second.
        cpu: microseconds of CPU time of this process for each event; the server's are not in it.
    """

    rate: float
    cpu: float


class Meter:
    """Measures from its making on."""

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def read(self, count: int) -> Measured:
        """Return what so many events have cost."""
        wall = time.perf_counter() - self._wall
        return Measured(count / wall, 1e6 * (time.process_time() - self._cpu) / count)
