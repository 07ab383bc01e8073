"""The thread of a portal's bus, as callers outside of it see it.

`Portal` starts and joins it. The queue and the handles ask it whether a caller may use the portal,
and run functions in it.
"""

# The portal belongs to the bus: it uses the dispatcher directly.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeVarTuple

import trio

from ._waiters import loop_runs_here

if TYPE_CHECKING:
    from .._bus import GoEvent

Ts = TypeVarTuple("Ts")


class BusThread:
    """The thread that runs Trio and the bus of one portal.

    Attributes:
        lock: Protects what the thread and callers outside both use.
    """

    def __init__(self, bus: GoEvent) -> None:
        self._dispatcher = bus._dispatcher
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self.lock: threading.RLock = threading.RLock()

    @property
    def has_started(self) -> bool:
        """True from the call of `start` on, also after the end of the thread."""
        return self._thread is not None

    @property
    def is_current(self) -> bool:
        """True if the caller runs in this thread."""
        return self._thread is threading.current_thread()

    @property
    def is_forked(self) -> bool:
        """True if this process is a fork of the bus's: the thread is that of the parent."""
        return self._dispatcher.is_forked

    def start(self, run: Callable[[], None]) -> None:
        """Start the thread, in a copy of the caller's context.

        Args:
            run: Runs Trio. Inside, it calls `note_token`.

        Raises:
            BusForked: This process is a fork of the bus's.
            RuntimeError: The thread has been started before.
        """
        if self._thread is not None:
            raise RuntimeError("a portal is used once: make another one")
        self.check_process()
        # A daemon, so that a program which never leaves the block can end.
        self._thread = threading.Thread(
            target=copy_context().run, args=(run,), name="goevent portal", daemon=True
        )
        self._thread.start()

    def join(self) -> None:
        """Block the caller until the thread has ended; return at once if it was never started."""
        if self._thread is not None:
            self._thread.join()

    def note_token(self) -> None:
        """Let `run_soon` reach the run of Trio that calls this."""
        self._token = trio.lowlevel.current_trio_token()

    def run_soon(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call a function in the thread, soon; do nothing before the run of Trio and after it."""
        if self._token is not None:
            try:
                self._token.run_sync_soon(function, *args)
            except trio.RunFinishedError:
                return  # nothing is left that the function could change

    def check_process(self) -> None:
        """Refuse a caller in a fork of the bus's process.

        Raises:
            BusForked: This is a fork.
        """
        self._dispatcher.check_process()

    def check_blocking(self, method: str, instead: str) -> None:
        """Refuse a caller whose thread must not block.

        Args:
            method: The method that it has called.
            instead: The call that it may make in an asyncio task.

        Raises:
            BusForked: This process is a fork of the bus's.
            RuntimeError: This is the thread of the bus, or one that runs an asyncio loop.
        """
        self.check_process()
        if self.is_current:
            raise RuntimeError(f"{method} would block the thread of the portal's bus")
        if loop_runs_here():
            raise RuntimeError(f"{method} would block the asyncio loop of this thread: {instead}")
