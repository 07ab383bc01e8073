"""A service: a bus that is the whole work of a process, until a signal ends it.

`GoEvent.serve` makes a service and runs it. The service owns the signals SIGTERM and SIGINT for
this time, and the task of the live page.

Theory of operation. One task reads the signals; the task of the caller opens the bus, waits and
closes it. A signal means one of three things. *While the bus opens*, it cancels the opening: there
is nothing to drain yet. *While the bus is open*, it begins the drain. *While the bus drains*, it
ends the time for the drain, as a second `close` with a timeout of zero does: listeners that still
run are cancelled, and a durable driver releases their events.

The bus may also end without a signal: a failure leaves `async with bus`, and a task of the
application may call `close`. Both end the service, too.
"""

from __future__ import annotations

import importlib
import logging
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import trio
from trio.lowlevel import cancel_shielded_checkpoint

from ._foreign import log
from ._kernel.ledger import Ledger
from ._session import sole_error

logger = logging.getLogger("goevent")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
TURNS_PER_SIGNAL = 3
"""The turns of Trio's loop in which a signal that has come reaches the task that reads it."""


class Served(AbstractAsyncContextManager[Any, Any], Protocol):
    """The bus, as a service uses it."""

    async def close(self, timeout: float | None = None) -> Ledger:
        """Drain and stop."""
        ...


class BusService:
    """One run of a bus until a signal.

    Args:
        bus: The bus.
        wait_closed: Waits until the open bus has closed.
        ledger: Returns the ledger of the opening that has ended; an empty one before the first
            task of the bus has started.
        grace: Seconds that listeners have to finish after the signal.
        http: The address of the live page, or None.
    """

    def __init__(
        self,
        bus: Served,
        wait_closed: Callable[[], Awaitable[None]],
        ledger: Callable[[], Ledger],
        grace: float,
        http: str | None,
    ) -> None:
        self._bus = bus
        self._wait_closed = wait_closed
        self._ledger = ledger
        self._grace = grace
        self._http = http
        self._opening = trio.CancelScope()
        self._opened = False
        self._ending = trio.Event()
        self._ended = False

    async def run(self, *, task_status: trio.TaskStatus[None]) -> Ledger:
        """Open the bus, wait for the end, and close it.

        Returns:
            The ledger of all deliveries.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "serve waits for signals, which Python hands to the main thread only; "
                "use `async with bus` in this thread"
            )
        serve_http = None if self._http is None else http_server()
        # The receiver is the outermost: no signal between the opening and the end is missed.
        with sole_error(), trio.open_signal_receiver(*SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals)
                with self._opening:
                    if serve_http is not None:
                        # First: a port that is taken ends the service before it has an event.
                        await nursery.start(serve_http, self._bus, self._http)
                    await self._serve(nursery, task_status)
                await self._take_last_signals()
                nursery.cancel_scope.cancel()
        # Also after a cancelled opening: it may have been nearly done, with events under way.
        return self._ledger()

    async def _serve(self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        async with self._bus:
            self._opened = True
            nursery.start_soon(self._notice_close)
            task_status.started()
            await self._ending.wait()
            await self._bus.close(self._grace)

    async def _take_last_signals(self) -> None:
        """Let `_obey` take the signals that have come by now.

        Trio would hand them on to the handlers from before, which end the process.
        """
        self._ended = True
        for _ in range(TURNS_PER_SIGNAL * (len(SIGNALS) + 1)):
            await cancel_shielded_checkpoint()

    async def _notice_close(self) -> None:
        await self._wait_closed()
        self._ending.set()

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            name = signal.Signals(number).name
            if self._ended:
                log(logger, logging.INFO, "%s: the bus has ended", name)
            elif not self._opened:
                log(logger, logging.INFO, "%s: the bus is not opened", name)
                self._opening.cancel()
            elif not self._ending.is_set():
                log(logger, logging.INFO, "%s: draining for at most %g s", name, self._grace)
                self._ending.set()
            else:
                log(logger, logging.INFO, "%s: the drain is cut short", name)
                await self._bus.close(timeout=0)


def http_server() -> Callable[..., Awaitable[object]]:
    """Return the server of the live page.

    Raises:
        ModuleNotFoundError: The extra `web` is not installed.
    """
    # Imported by name: this module is below the page, and does not load it without need.
    serve_http: Callable[..., Awaitable[object]] = importlib.import_module("goevent.web").serve_http
    return serve_http
