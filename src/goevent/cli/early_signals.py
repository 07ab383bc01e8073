"""Early signals: SIGTERM and SIGINT while no bus takes them.

`run` takes them before it imports Trio and the module of the user, which may take seconds. One that
comes in this time ends the command in peace. Later, while Trio runs, one is only noted, because an
exception inside of Trio would be a crash. At the end of the command, one has no effect: the process
ends anyway, with the exit code of its work.
"""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """A signal has come before the bus could take it. No Exception: a program may catch those."""


class EarlySignals:
    """The signals that come while no bus takes them.

    Attributes:
        received: The name of the newest one; empty before the first.
    """

    def __init__(self) -> None:
        self.received: str = ""
        self._raises = True

    def only_note(self) -> None:
        """Raise nothing from now on; `received` tells of the signal."""
        self._raises = False

    @contextmanager
    def taken(self) -> Generator[None]:
        """Take the signals in the block, and restore the handlers of before."""
        before = [(number, signal.signal(number, self._take)) for number in SIGNALS]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if self._raises:
            raise Stopped
