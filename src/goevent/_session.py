"""One opening of a bus: its nursery, what runs in it, and the order in which it ends.

Events are taken from everybody while it is open, from listeners only while it drains, and from
nobody after that. The supervisor stops last, so that it hears of everything.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import trio
from trio.lowlevel import current_trio_token, enable_ki_protection

from ._config import Config
from ._errors import DriverError
from ._kernel.dispatcher import Dispatcher
from ._kernel.ledger import Ledger, LedgerBook
from ._kernel.routing import Router
from ._kernel.scheduler import Scheduler
from ._kernel.supervisor import Supervisor
from ._ports.inbox import BusInbox
from ._ports.publisher import EventPublisher
from ._ports.subscriptions import Subscriptions
from ._ports.threads import ThreadPort
from .drivers.contract import Driver

GRACE = 2.0  # seconds, shielded, for what was cancelled to end


class Session:
    """A bus from `async with` to its end."""

    door: ThreadPort | None = None
    subscriptions: Subscriptions | None = None
    _publisher: EventPublisher | None = None

    def __init__(
        self,
        scheduler: Scheduler,
        dispatcher: Dispatcher,
        inbox: BusInbox,
        router: Router,
        books: LedgerBook,
        supervisor: Supervisor,
        driver: Driver,
        config: Config,
    ) -> None:
        self._scheduler = scheduler
        self._dispatcher = dispatcher
        self._inbox = inbox
        self._router = router
        self._books = books
        self._supervisor = supervisor
        self._driver = driver
        self._config = config
        self._scheduler_ended: trio.Event | None = None
        self._driver_ended: trio.Event | None = None
        self._ended = trio.Event()
        self._scheduler_scope = trio.CancelScope()
        self._driver_scope = trio.CancelScope()
        self._subscriptions_scope = trio.CancelScope()
        self._supervisor_scope = trio.CancelScope()
        self._drain_scope: trio.CancelScope | None = None
        self.ledger = Ledger()

    @asynccontextmanager
    @enable_ki_protection
    async def opened(self, close_timeout: float) -> AsyncGenerator[None]:
        """Be open for the time of the block; a normal exit drains, an exception does not."""
        with sole_error():
            async with trio.open_nursery() as nursery:
                try:
                    await self._start(nursery)
                    yield
                    await self.close(close_timeout)
                finally:
                    await self._stop()

    async def _start(self, nursery: trio.Nursery) -> None:
        self._books.reset()
        self.thread_port = ThreadPort(current_trio_token(), nursery, self._dispatcher.dispatch)
        await nursery.start(self._run_supervisor)
        self._supervisor_scope.shield = True  # it ends last, by _stop; opening may be cancelled
        await nursery.start(self._run_scheduler, nursery)
        if not self._driver.capabilities.alone:
            await self._connect(nursery)
        self._dispatcher.special_dispatch.open()
        self._dispatcher.open()
        self._inbox.open()
        if self.subscriptions is not None:
            await self.subscriptions.ready()

    async def _connect(self, nursery: trio.Nursery) -> None:
        """Have the driver bring events, and put the way out on every route."""
        capabilities = self._driver.capabilities
        self._inbox.prepare(ignores_own=capabilities.fan_out)
        await nursery.start(self._run_driver)
        self._publisher = EventPublisher(
            self._driver,
            capabilities,
            self._inbox,
            self._config,
            self._scheduler,
            self._scheduler.failures,
        )
        self.subscriptions = Subscriptions(self._driver, self._inbox.report)
        self._router.connect(
            self._publisher, interest=self.subscriptions, fan_out=capabilities.fan_out
        )
        nursery.start_soon(self._run_subscriptions)

    # -- the tasks of the nursery

    @enable_ki_protection
    async def _run_supervisor(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self._supervisor_scope:
            await self._supervisor.run(task_status=task_status)

    @enable_ki_protection
    async def _run_scheduler(
        self, nursery: trio.Nursery, *, task_status: trio.TaskStatus[None]
    ) -> None:
        self._scheduler_ended = trio.Event()
        try:
            with sole_error(), self._scheduler_scope:
                await self._scheduler.run(self._dispatcher.delivery, task_status=task_status)
        finally:
            if self._dispatcher.state == "open" and not self._scheduler_scope.cancel_called:
                # It crashed: the body is to be cancelled for it, not to be told BusClosed.
                nursery.cancel_scope.cancel()
            self._give_up()
            self._scheduler_ended.set()

    @enable_ki_protection
    async def _run_driver(self, *, task_status: trio.TaskStatus[None]) -> None:
        self._driver_ended = trio.Event()
        try:
            with self._driver_scope:
                await self._driver.run(self._inbox, task_status=task_status)
                if self._drain_scope is None and trio.current_effective_deadline() > -math.inf:
                    kind = type(self._driver).__qualname__
                    raise DriverError(f"{kind}.run has returned, and events arrive no more")
        finally:
            self._driver_ended.set()

    @enable_ki_protection
    async def _run_subscriptions(self) -> None:
        if self.subscriptions is not None:
            with self._subscriptions_scope:
                await self.subscriptions.run()

    # -- the end

    @enable_ki_protection
    async def close(self, timeout: float) -> Ledger:
        """Drain for at most `timeout` seconds, then stop everything; a second caller waits too."""
        deadline = trio.current_time() + timeout
        if self._drain_scope is not None:
            self._drain_scope.deadline = min(self._drain_scope.deadline, deadline)
            await self._ended.wait()
            return self.ledger
        self._drain_scope = trio.CancelScope(deadline=deadline)
        self._dispatcher.drain()
        if self.thread_port is not None:
            self.thread_port.close()
        try:
            with self._drain_scope:
                await self._stop_receiving()
                await self._quiet()
        finally:
            await self._stop()
        return self.ledger

    async def _stop_receiving(self) -> None:
        """Take no more from the driver; it can still publish what listeners dispatch."""
        if self.subscriptions is None or self._driver_ended is None:
            return
        self._subscriptions_scope.cancel()
        if self._driver_ended.is_set():
            return
        drain = getattr(self._driver, "drain", None)
        await (self.subscriptions.drop_all() if drain is None else drain())

    async def _quiet(self) -> None:
        """Wait until no listener has anything to do."""
        special_dispatch, publisher = self._dispatcher.special_dispatch, self._publisher
        await self._scheduler.quiet()
        while special_dispatch.busy or (publisher is not None and publisher.busy):
            await special_dispatch.quiet()
            if publisher is not None:
                await publisher.quiet()
            await self._scheduler.quiet()

    async def _stop(self) -> None:
        if self._ended.is_set():
            return
        self._dispatcher.drain()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + GRACE):
            self._subscriptions_scope.cancel()
            self._scheduler_scope.cancel()
            self._dispatcher.special_dispatch.cancel()
            if self._scheduler_ended is not None:
                await self._scheduler_ended.wait()
            await self._dispatcher.special_dispatch.quiet()
            if self.thread_port is not None:
                self.thread_port.cancel()
            self._give_up()
            self._driver_scope.cancel()  # it has been told of the end of all deliveries
            if self._driver_ended is not None:
                await self._driver_ended.wait()
            await self._supervisor.flush()
        self._driver_scope.cancel()
        self._give_up()  # also what a listener holds that ignored its cancellation
        self._dispatcher.special_dispatch.give_up()
        self._supervisor_scope.cancel()
        if self.thread_port is not None:
            self.thread_port.close()
        if not self._ended.is_set():
            self._router.connect(None)
            self._supervisor.finish()
            self.ledger = self._books.ledger()
            self._ended.set()

    def _give_up(self) -> None:
        """Take no events any more, and settle what nobody will run."""
        self._dispatcher.close()
        abandon, publisher = self._dispatcher.admission.abandon, self._publisher
        for actor in self._router.listeners():
            abandon(actor)
        if publisher is not None:
            abandon(publisher.actor, publisher.take_posted())
        for actor in self._books.unregistered:
            abandon(actor)


@contextmanager
def sole_error() -> Generator[None]:
    """Take off the group that a nursery puts around an error, if there is but one."""
    error: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        # Next to an error, a cancellation says nothing new: who cancelled will go on to do so.
        real = group.split(trio.Cancelled)[1] or group
        error = real.exceptions[0] if len(real.exceptions) == 1 else group
    if error is not None:
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context  # or it would show the group, which shows the error again
            del error  # or this frame and the traceback would keep each other
