"""The state of one connection: up or down, and the reports of each change.

The `connection` module of each broker owns one `Connectivity` and marks it up or down as its client
connects or loses the connection. Callers that need a connection wait here for one that was lost. A
loss and its end are reported to the host once each; the first connection and the end of the bus are
not reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from goevent import DriverConnectionError

from .contract import AdapterHost

# The time limits that the connections to NATS, RabbitMQ and MQTT share.
FIRST_CONNECTION_SECONDS = 5.0  # until the first connection must be there
REPLY_SECONDS = 8.0  # until a server that does not answer counts as lost
DISCONNECT_SECONDS = 0.6


class Connectivity:
    """Whether there is a connection to a broker.

    Args:
        broker: The name of the broker in error texts.
        wait_seconds: How long a caller waits for a connection.
    """

    def __init__(self, broker: str, wait_seconds: float) -> None:
        self._broker = broker
        self._wait_seconds = wait_seconds
        self._host: AdapterHost | None = None
        self._on_changed: Callable[[bool, str], None] = _ignore_change
        self._up = asyncio.Event()
        self._is_lost = False
        self._is_closing = False
        self._reason = ""

    @property
    def wait_seconds(self) -> float:
        """How long a caller waits for a connection."""
        return self._wait_seconds

    @property
    def host(self) -> AdapterHost:
        """The host of the adapter.

        Raises:
            DriverConnectionError: The bus is not open.
        """
        if self._host is None:
            raise DriverConnectionError(f"{self._broker}: the bus is not open")
        return self._host

    @property
    def is_up(self) -> bool:
        """True while there is a connection."""
        return self._up.is_set()

    @property
    def is_closing(self) -> bool:
        """True from `close` on, until the next `open`."""
        return self._is_closing

    def open(
        self, host: AdapterHost, on_changed: Callable[[bool, str], None] | None = None
    ) -> None:
        """Begin without a connection; each opening of a bus has a loop of its own.

        Args:
            on_changed: Called with each change in place of the host's `connection_changed`, for a
                bus that has several connections.
        """
        self._host = host
        self._on_changed = host.connection_changed if on_changed is None else on_changed
        self._up, self._reason = asyncio.Event(), ""
        self._is_lost = self._is_closing = False

    def close(self) -> None:
        """Report no more changes: the adapter itself disconnects from now on."""
        self._is_closing = True

    def mark_up(self) -> None:
        """Record that there is a connection; reported if one was lost before."""
        self._up.set()
        if self._is_lost:
            self._is_lost = False
            self._on_changed(True, "")

    def mark_down(self, reason: str = "") -> bool:
        """Record that there is no connection; returns True if it was up before.

        Args:
            reason: Why it was lost, or why it is not back. Later errors name the last reason.
        """
        self._reason = reason
        if not self._up.is_set():
            return False
        self._up.clear()
        if self._is_closing:
            return False
        self._is_lost = True
        self._on_changed(False, reason)
        return True

    def deadline(self) -> float:
        """Return the loop's time at which a request that begins now stops waiting."""
        return asyncio.get_running_loop().time() + self._wait_seconds

    async def wait_until_up(self, deadline: float | None = None) -> None:
        """Wait until there is a connection.

        Args:
            deadline: The end of the wait, from `deadline` at the beginning of the request. A
                request that waits several times, or in a queue, passes the same one each time.
                None counts from now, and infinity waits for as long as it takes.

        Raises:
            DriverConnectionError: There was no connection in time.
        """
        if self._up.is_set():
            return
        try:
            async with asyncio.timeout_at(self.deadline() if deadline is None else deadline):
                await self._up.wait()
        except TimeoutError:
            text = f"{self._broker}: there has been no connection for {self._wait_seconds:g} s"
            raise DriverConnectionError(
                f"{text}: {self._reason}" if self._reason else text
            ) from None


def _ignore_change(_connected: bool, _reason: str) -> None:
    """Ignore a change: no bus is open."""
