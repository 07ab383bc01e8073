"""An asyncio loop in a thread of its own, under Trio's structured concurrency.

FastStream needs a running asyncio loop. `LoopThread.run` owns the thread: it starts it and does not
return before the thread has ended. `LoopThread.call` runs one coroutine on the loop and waits for
it. Events do not travel by `call`; they use the queues.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import trio

from goevent import DriverError

T = TypeVar("T")

RESCUE_SECONDS = 2.0


class IslandClosed(DriverError):
    """The broker's event loop has ended, or has not begun."""


class _LoopCall:
    """A coroutine that runs on the loop while a task of Trio waits for it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.value: Any = None
        self.error: BaseException | None = None
        self.task: asyncio.Task[Any] | None = None
        self.cancelled = False

    def settle(self, value: Any, error: BaseException | None) -> None:
        if not self.done.is_set():
            self.value, self.error = value, error
            self.done.set()


class LoopThread:
    """An asyncio loop in a thread of its own; it runs once.

    Args:
        name: The name of the thread.
        unhandled: Called on the loop with an error that no task has handled.
        rescue: Run on the loop when it has crashed, to close connections.
    """

    def __init__(
        self,
        name: str,
        unhandled: Callable[[Exception], object],
        rescue: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._name = name
        self._unhandled = unhandled
        self._rescue = rescue
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_requested: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._calls: set[_LoopCall] = set()
        self._started = trio.Event()
        self._ended = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop.

        Raises:
            IslandClosed: It does not run.
        """
        if self._loop is None:
            raise IslandClosed("the event loop of the broker does not run")
        return self._loop

    # -- in Trio's thread

    # Without this a KeyboardInterrupt could arrive between the start of the thread and the `try`.
    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Run the loop until cancelled; leaves no thread behind.

        Raises:
            DriverError: The loop has ended by itself.
        """
        self._token = trio.lowlevel.current_trio_token()
        thread = threading.Thread(target=self._run_thread, name=self._name)
        thread.start()
        try:
            await self._ended.wait()
        finally:
            with trio.CancelScope(shield=True):
                # Only a loop that has started can be told to stop.
                await self._started.wait()
                self._stop()
                await self._ended.wait()
            # This blocks Trio, but not for long: setting `_ended` is the last act of the thread.
            thread.join()
            self._loop = None
            # No loop is left that could answer these.
            for call in [*self._calls]:
                call.settle(None, IslandClosed("the event loop of the broker has ended"))
        raise DriverError(
            f"the event loop of the broker has ended: {self._failure!r}"
        ) from self._failure

    def fork(self) -> None:
        """Call the loop no more: in a fork of the process it has no thread, and wakes the parent's.

        It is not closed. Its sockets are those of the parent.
        """
        self._loop = None

    async def wait_started(self) -> None:
        """Wait until the loop runs."""
        await self._started.wait()

    async def call(self, work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run a coroutine on the loop and return its result.

        If this is cancelled, the coroutine is cancelled too, and this does not wait for its end.

        Raises:
            IslandClosed: The loop has ended before the coroutine.
        """
        call = _LoopCall()
        if not self.call_soon(self._begin, call, work, args):
            raise IslandClosed("the event loop of the broker does not run")
        # The answer cannot have come yet: `run_sync_soon` needs Trio's thread, which is here.
        self._calls.add(call)
        try:
            await call.done.wait()
        except trio.Cancelled:
            call.cancelled = True
            self.call_soon(self._cancel, call)
            raise
        finally:
            self._calls.discard(call)
        if call.error is not None:
            error, call.error = call.error, None
            raise error
        return cast("T", call.value)

    def call_soon(self, function: Callable[..., object], *args: Any) -> bool:
        """Call a function on the loop; return False if the loop has ended, perhaps just now."""
        if self._loop is None:
            return False
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return False
        return True

    def _stop(self) -> None:
        if self._stop_requested is not None:
            self.call_soon(self._stop_requested.set)

    # -- in the loop's thread

    def _run_thread(self) -> None:
        token = self._token
        if token is None:
            raise RuntimeError("the thread is started by `run`")
        try:
            with asyncio.Runner() as runner:
                self._loop = runner.get_loop()
                self._stop_requested = asyncio.Event()
                self._loop.set_exception_handler(self._report)
                token.run_sync_soon(self._started.set)
                try:
                    runner.run(self._stop_requested.wait())
                except BaseException as error:  # noqa: BLE001 - `run` raises it in Trio's thread
                    # The crash of a task ends `runner.run`, but the loop can still run others.
                    self._failure = error
                    runner.run(self._save())
                finally:
                    runner.run(self._close_leftovers())
        except BaseException as error:  # noqa: BLE001 - as above
            self._failure = self._failure or error
        finally:
            # Even if the loop has never started, because `run` waits for both events.
            token.run_sync_soon(self._started.set)
            token.run_sync_soon(self._ended.set)

    async def _save(self) -> None:
        async with asyncio.timeout(RESCUE_SECONDS):
            await self._rescue()

    async def _close_leftovers(self) -> None:
        """Close the tasks and transports that a client leaves open, as after a refused login."""
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)
        transports: Any = getattr(asyncio.get_running_loop(), "_transports", {})
        for transport in [*transports.values()]:
            transport.abort()
        # Aborted transports close in the next step of the loop.
        await asyncio.sleep(0)

    def _report(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, Exception):
            error = DriverError(str(context.get("message", "the broker's client has failed")))
        self._unhandled(error)

    def _begin(
        self, call: _LoopCall, work: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]
    ) -> None:
        # The caller may have been cancelled before the loop had its turn.
        if call.cancelled:
            return
        call.task = self.loop.create_task(work(*args))
        call.task.add_done_callback(lambda task: self._finish(call, task))

    def _finish(self, call: _LoopCall, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            error: BaseException | None = IslandClosed("the broker's client was cancelled")
        else:
            error = task.exception()
        value = task.result() if error is None else None
        if self._token is not None and not call.cancelled:
            self._token.run_sync_soon(call.settle, value, error)

    def _cancel(self, call: _LoopCall) -> None:
        if call.task is not None:
            call.task.cancel()
