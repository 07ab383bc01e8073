"""Repairs: an adapter's declarations are made again whenever something may be missing.

`Repairs` is owned by an adapter. It runs the adapter's `repair` regularly, on each new connection,
and at each sign of a loss, one run at a time.

Theory of operation: A repair declares, binds and consumes everything that the bus needs. All of it
changes nothing where nothing is missing. The server tells whether an exchange or queue exists, but
not whether a binding does. So every second a quick check looks for exchanges and queues, and a full
repair also makes all bindings again, every second too if it is short. The steps of a repair are
independent: one that the server refuses is reported once, and is not tried again for a while, since
the server would refuse it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

from aiormq.exceptions import ChannelNotFoundEntity

from goevent import DriverError

from .connection import RabbitConnection
from .errors import RABBIT_ERRORS, REFUSALS, to_driver_error
from .topology import ServerObject, loss_report

CHECK_SECONDS = 1.0
# A deleted exchange is created again only after each bus has had the time to notice the loss: a bus
# that finds it there again publishes, although others have not bound again yet.
NOTICE_SECONDS = 1.2 * CHECK_SECONDS
REFUSED_RETRY_SECONDS = 30.0
# The pause after a full repair, in durations of the repair: hundreds of bindings take long, and
# must not be all that the bus and the server work on.
PAUSE_RATIO = 30


class Repairs:
    """Runs the repairs of one adapter.

    Args:
        repair: Declares, binds and consumes, by `attempt`. If its argument is False, it does so
            only if an exchange or a queue is missing.

    Attributes:
        lock: Held by a repair, and by an adapter that subscribes.
        is_started: Whether the adapter is open; before, a refusal ends the opening.
    """

    def __init__(
        self, connection: RabbitConnection, repair: Callable[[bool], Awaitable[object]]
    ) -> None:
        self._connection = connection
        self._repair = repair
        self.reset()

    def reset(self) -> None:
        """Start anew on another event loop."""
        self.lock = asyncio.Lock()
        self.is_started = False
        self._next: asyncio.Task[None] | None = None
        self._lost: set[str] = set()
        self._refused_until: dict[str, float] = {}

    def start(self) -> None:
        """Repair regularly from now on."""
        self.is_started = True
        self._connection.start(self._run_regularly())

    async def _run_regularly(self) -> None:
        loop = asyncio.get_running_loop()
        next_full = 0.0
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self._connection.wait_until_up(float("inf"))
            began = loop.time()
            is_full = began >= next_full
            await self._connection.check()
            await self.run_quietly(partial(self.run_now, is_full=is_full))
            if is_full:
                next_full = loop.time() + PAUSE_RATIO * (loop.time() - began)

    async def run_quietly(self, run: Callable[[], Awaitable[None]] | None = None) -> None:
        """Repair; an error is reported, unless the connection is lost.

        Args:
            run: Repairs, in place of `run`.
        """
        try:
            await (run or self.run)()
        except (DriverError, *RABBIT_ERRORS) as error:
            if self._connection.is_up:
                self._connection.report_once("repair", to_driver_error(error))
        else:
            self._connection.resolve("repair")

    async def run(self) -> None:
        """Repair, beginning not earlier than now; callers that wait at the same time share a run.

        Raises:
            DriverError: The connection is lost.
        """
        await self._connection.wait_until_up()
        if self._next is None:
            self._next = self._connection.start(self.run_now())
        task = self._next
        await asyncio.wait({task})
        if task.cancelled():
            raise DriverError("RabbitMQ: the bus has ended")
        try:
            task.result()
        except RABBIT_ERRORS as error:
            raise to_driver_error(error) from error

    async def run_now(self, *, is_full: bool = True) -> None:
        """Repair, even if the connection does not count as up yet."""
        async with self.lock:
            if is_full:
                self._next = None
            await self._repair(is_full)

    # -- steps of a repair

    def report_losses(
        self, lost: Sequence[ServerObject], *, is_complete: bool = True
    ) -> list[ServerObject]:
        """Report exchanges and queues that are missing, each once until it is there again.

        Args:
            is_complete: Whether these are all that are missing now.

        Returns:
            Those that are reported.
        """
        new = [each for each in lost if str(each) not in self._lost]
        if is_complete:
            self._lost.clear()
        self._lost.update(str(each) for each in lost)
        if new:
            self._connection.host.report(loss_report(new))
        return new

    def forget_refusals(self) -> None:
        """Try all steps again: the connection is new, and the server perhaps another one."""
        self._refused_until.clear()

    async def attempt(
        self, step: str, work: Callable[[], Awaitable[object]], event_name: str = ""
    ) -> bool:
        """Take a step; return False if the server refuses it, now or a short while ago."""
        now = asyncio.get_running_loop().time()
        if now < self._refused_until.get(step, 0.0):
            return False
        try:
            await work()
        except REFUSALS as error:
            # A missing object may be there at the next check.
            is_final = not isinstance(error, ChannelNotFoundEntity)
            if is_final or step in self._refused_until:
                self._connection.report_once(step, to_driver_error(error), event_name)
            self._refused_until[step] = now + (REFUSED_RETRY_SECONDS if is_final else 0.0)
            return False
        self._refused_until.pop(step, None)
        self._connection.resolve(step)
        return True

    async def insist(
        self, work: Callable[[], Awaitable[object]], prepare: Callable[[], Awaitable[object]]
    ) -> None:
        """Take a step of a new subscription; if something is missing for it, prepare it first.

        Raises:
            ChannelClosed: The server refuses it.
        """
        try:
            await work()
        except ChannelNotFoundEntity:
            with suppress(*REFUSALS):
                await prepare()
            await work()
