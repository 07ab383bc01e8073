"""Uptime: whether there is a connection, and waiting for one that was lost to come back."""

from __future__ import annotations

import asyncio

from goevent import DriverConnectionError


class Uptime:
    """Whether there is a connection.

    Args:
        what: the broker, as errors call it.
        patience: seconds to wait for a connection, from when it was lost.
    """

    def __init__(self, what: str, patience: float) -> None:
        self._what = what
        self._patience = patience
        self._up = asyncio.Event()
        self._lost_at = 0.0
        self._reason = ""

    @property
    def now(self) -> bool:
        """True while there is a connection."""
        return self._up.is_set()

    def renew(self) -> None:
        """Begin anew, on another loop, without a connection."""
        self._up, self._reason = asyncio.Event(), ""

    def begin(self) -> None:
        """Take note that there is a connection."""
        self._up.set()

    def lose(self, reason: str = "") -> None:
        """Take note that it is lost, or why it is not back; the last reason is told."""
        self._reason = reason
        if self._up.is_set():
            self._lost_at = asyncio.get_running_loop().time()
            self._up.clear()

    async def wait(self, patience: float | None = None) -> None:
        """Wait until there is a connection.

        Args:
            patience: other than that of all who wait.

        Raises:
            DriverConnectionError: it was not there in time.
        """
        if self._up.is_set():
            return
        seconds = self._patience if patience is None else patience
        try:
            async with asyncio.timeout_at(self._lost_at + seconds):
                await self._up.wait()
        except TimeoutError:
            text = f"{self._what}: there has been no connection for {seconds:g} s"
            raise DriverConnectionError(
                f"{text}: {self._reason}" if self._reason else text
            ) from None
