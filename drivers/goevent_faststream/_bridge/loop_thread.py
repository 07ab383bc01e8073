"""An asyncio loop in a thread of its own, under Trio's structured concurrency.

FastStream needs a running asyncio loop. `LoopThread.run` owns the thread: it starts the thread and
does not return before the thread has ended.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import trio

from goevent import DriverError

T = TypeVar("T")

RESCUE = 2.0  # seconds to close connections, after a crash


class IslandClosed(DriverError):
    """The loop of the broker has ended, or has not begun."""


class _Call:
    """One coroutine that Trio has run on the loop side, and waits for."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.value: Any = None
        self.error: BaseException | None = None
        self.task: asyncio.Task[Any] | None = None
        self.given_up = False

    def settle(self, value: Any, error: BaseException | None) -> None:
        if not self.done.is_set():
            self.value, self.error = value, error
            self.done.set()


class LoopThread:
    """An asyncio loop in a thread of its own; runs once.

    Args:
        name: of the thread.
        unhandled: called on the loop side with what a task of the loop has failed with, when nobody
            has looked at it.
        rescue: run on the loop when it has crashed, so that its connections do not stay open.
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
        self._over: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._calls: set[_Call] = set()
        self._begun = trio.Event()
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

    # -- on Trio's side

    @trio.lowlevel.enable_ki_protection  # or it could come between the thread and who ends it
    async def run(self) -> None:
        """Have the loop run until cancelled; leaves no thread behind.

        Raises:
            DriverError: The loop has ended by itself.
        """
        self._token = trio.lowlevel.current_trio_token()
        thread = threading.Thread(target=self._live, name=self._name)
        thread.start()
        try:
            await self._ended.wait()
        finally:
            with trio.CancelScope(shield=True):
                await self._begun.wait()
                self._stop()
                await self._ended.wait()
            thread.join()  # it has said that it is at its end
            self._loop = None
            for call in [*self._calls]:
                call.settle(None, IslandClosed("the event loop of the broker has ended"))
        raise DriverError(
            f"the event loop of the broker has ended: {self._failure!r}"
        ) from self._failure

    async def begun(self) -> None:
        """Wait until the loop runs."""
        await self._begun.wait()

    async def call(self, work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run a coroutine on the loop side; if this is cancelled, so is that, and nobody waits.

        Raises:
            IslandClosed: The loop has ended before.
        """
        call = _Call()
        if not self._tell(self._begin, call, work, args):
            raise IslandClosed("the event loop of the broker does not run")
        self._calls.add(call)
        try:
            await call.done.wait()
        except trio.Cancelled:
            call.given_up = True
            self._tell(self._give_up, call)
            raise
        finally:
            self._calls.discard(call)
        if call.error is not None:
            error, call.error = call.error, None
            raise error
        return cast("T", call.value)

    def _stop(self) -> None:
        if self._over is not None:
            self._tell(self._over.set)

    def _tell(self, do: Callable[..., object], *args: Any) -> bool:
        """Have the loop do something, or return False: it has ended, maybe just now."""
        if self._loop is None:
            return False
        try:
            self._loop.call_soon_threadsafe(do, *args)
        except RuntimeError:
            return False
        return True

    # -- on the loop side

    def _live(self) -> None:
        """Be the thread."""
        token = self._token
        if token is None:
            raise RuntimeError("the thread is started by `run`")
        try:
            with asyncio.Runner() as runner:
                self._loop = runner.get_loop()
                self._over = asyncio.Event()
                self._loop.set_exception_handler(self._report)
                token.run_sync_soon(self._begun.set)
                try:
                    runner.run(self._over.wait())
                except BaseException as error:  # noqa: BLE001 - as below
                    self._failure = error
                    runner.run(self._save())
                finally:
                    runner.run(self._leave_nothing())
        except BaseException as error:  # noqa: BLE001 - there is nobody above; Trio raises it
            self._failure = self._failure or error
        finally:
            token.run_sync_soon(self._begun.set)
            token.run_sync_soon(self._ended.set)

    async def _save(self) -> None:
        async with asyncio.timeout(RESCUE):
            await self._rescue()

    async def _leave_nothing(self) -> None:
        """Close what clients have left open, as some do when they are not let in."""
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)
        left: Any = getattr(asyncio.get_running_loop(), "_transports", {})
        for transport in [*left.values()]:
            transport.abort()
        await asyncio.sleep(0)  # they close in the next step of the loop

    def _report(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, Exception):
            error = DriverError(str(context.get("message", "the broker's client has failed")))
        self._unhandled(error)

    def _begin(
        self, call: _Call, work: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]
    ) -> None:
        if call.given_up:
            return
        call.task = self.loop.create_task(work(*args))
        call.task.add_done_callback(lambda task: self._finish(call, task))

    def _finish(self, call: _Call, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            error: BaseException | None = IslandClosed("the broker's client was cancelled")
        else:
            error = task.exception()
        value = task.result() if error is None else None
        if self._token is not None and not call.given_up:
            self._token.run_sync_soon(call.settle, value, error)

    def _give_up(self, call: _Call) -> None:
        if call.task is not None:
            call.task.cancel()
