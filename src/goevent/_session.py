"""A session: one opening of a bus, from `async with bus` until it is closed.

It owns the nursery, the tasks in it and the order in which they start and end. `GoEvent` makes a
new session each time that the bus opens.

Theory of operation. Tasks start in the order in which they need each other: the supervisor, the
scheduler, the driver; then the intake opens, and last of all the subscriptions are confirmed. So no
event arrives before there are workers, and no failure happens before there is a supervisor.

Closing takes three steps. *Drain*, for at most the timeout: the intake takes events only from
listeners, the driver receives no more, and the session waits until no listener runs, no mailbox
holds an event and the broker has replied to all posts. *Cancel*, shielded, for at most
`CANCEL_GRACE_SECONDS`: subscriptions and listeners are cancelled, the remaining events are settled
as abandoned, and the driver is cancelled once it knows of the end of all deliveries. *Finish*: the
supervisor has recorded every failure by then, and ends as the last task.

An exit by an exception skips the first step.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import cast

import trio
from trio.lowlevel import TrioToken, current_trio_token, enable_ki_protection, in_trio_task

from ._config import Config
from ._conversations.lazy import LazyConversations
from ._errors import BusForked, DriverError
from ._foreign import raise_unchanged
from ._handle import DispatchHandle
from ._kernel.dispatcher import Dispatcher
from ._kernel.ledger import Ledger, LedgerBook
from ._kernel.stream_actor import StreamActor
from ._kernel.supervisor import Supervisor
from ._ports.forks import watched
from ._ports.inbox import BusInbox
from ._ports.observed_publisher import ObservedPublisher
from ._ports.publisher import EventPublisher
from ._ports.subscriptions import Subscriptions
from ._ports.threads import ThreadPort
from ._trio_internals import fail_waits, freeze_tasks, runs_inside
from .drivers.contract import Driver
from .drivers.error_mapping import driver_errors, first_error

# How long cancelled listeners and the cancelled driver have to end, even if the caller of `close`
# is cancelled too.
CANCEL_GRACE_SECONDS = 2.0


class Session:
    """One opening of a bus.

    Attributes:
        ledger: The ledger of all deliveries, complete once the session has ended.
        thread_port: The way in for other threads; None before the session has started.
        subscriptions: The subscriptions of the driver; None without a driver.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        inbox: BusInbox,
        ledger_book: LedgerBook,
        supervisor: Supervisor,
        driver: Driver,
        config: Config,
        conversations: LazyConversations,
    ) -> None:
        self._dispatcher = dispatcher
        self._conversations = conversations
        self._scheduler = dispatcher.scheduler
        self._router = dispatcher.router
        self._inbox = inbox
        self._ledger_book = ledger_book
        self._supervisor = supervisor
        self._driver = driver
        self._config = config
        self.ledger: Ledger = Ledger()
        self.thread_port: ThreadPort | None = None
        self.subscriptions: Subscriptions | None = None
        self._publisher: EventPublisher | None = None
        self._scheduler_ended: trio.Event | None = None
        self._driver_ended: trio.Event | None = None
        self._ended = trio.Event()
        self._scheduler_scope = trio.CancelScope()
        self._driver_scope = trio.CancelScope()
        self._subscriptions_scope = trio.CancelScope()
        self._conversations_scope = trio.CancelScope()
        self._supervisor_scope = trio.CancelScope()
        self._drain_scope: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None
        self._token: TrioToken | None = None

    @asynccontextmanager
    @enable_ki_protection
    async def opened(self, close_timeout: float) -> AsyncGenerator[None]:
        """Keep the bus open for the time of the block.

        Args:
            close_timeout: Seconds to drain after a normal exit; an exception does not drain.
        """
        with sole_error():
            async with trio.open_nursery() as self._nursery:
                watched.add(self)
                try:
                    await self._start(self._nursery)
                    yield
                    await self.close(close_timeout)
                finally:
                    await self._stop()
                    watched.discard(self)

    @property
    def runs_here(self) -> bool:
        """True if the caller is a task of the run loop in which the bus was opened."""
        return in_trio_task() and current_trio_token() is self._token

    async def wait_ended(self) -> None:
        """Wait until the session has ended and the ledger is complete."""
        await self._ended.wait()

    async def _start(self, nursery: trio.Nursery) -> None:
        self._ledger_book.reset()
        self._token = current_trio_token()
        self.thread_port = ThreadPort(self._token, nursery, self._dispatcher.dispatch)
        await nursery.start(self._run_supervisor)
        # The supervisor may be at a checkpoint, and Trio lets no task be shielded after its
        # cancellation.
        await trio.lowlevel.checkpoint_if_cancelled()
        # From here on only `_stop` ends the supervisor, even if the opening is cancelled.
        self._supervisor_scope.shield = True
        await nursery.start(self._run_scheduler, nursery)
        if not self._driver.capabilities.alone:
            await self._connect(nursery)
        self._dispatcher.open()
        self._inbox.open()
        if self.subscriptions is not None:
            await self.subscriptions.ready()

    async def _connect(self, nursery: trio.Nursery) -> None:
        """Run the driver, put its publisher on every route, and subscribe to the events."""
        self._inbox.prepare(ignores_own=self._driver.capabilities.fan_out)
        await nursery.start(self._run_driver)
        # Only now: the driver may have learned the limits of its server.
        capabilities = self._driver.capabilities
        hooks = self._dispatcher.special_dispatch.publish_hooks
        make = partial(ObservedPublisher, hooks=hooks) if hooks else EventPublisher
        self._publisher = make(
            self._driver,
            capabilities,
            self._inbox,
            self._config,
            self._scheduler,
            self._scheduler.failures,
        )
        self.subscriptions = Subscriptions(self._driver, self._inbox.report)
        if capabilities.replies:
            self._conversations.get().open(capabilities, self._inbox, self.subscriptions)
        self._router.connect(
            self._publisher, interest=self.subscriptions, fan_out=capabilities.fan_out
        )
        nursery.start_soon(self._run_subscriptions)
        nursery.start_soon(self._run_conversations)

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
                # The scheduler crashed. Cancel the body of `async with bus`. Otherwise its next
                # dispatch would raise BusClosed, which hides the crash.
                nursery.cancel_scope.cancel()
            self._give_up()
            self._scheduler_ended.set()

    @enable_ki_protection
    async def _run_driver(self, *, task_status: trio.TaskStatus[None]) -> None:
        self._driver_ended = trio.Event()
        try:
            with driver_errors(self._driver, "run"), self._driver_scope:
                await self._driver.run(self._inbox, task_status=task_status)
                if self._drain_scope is None and trio.current_effective_deadline() > -math.inf:
                    kind = type(self._driver).__qualname__
                    raise DriverError(f"{kind}.run has returned, so no more events arrive")
        finally:
            self._driver_ended.set()

    @enable_ki_protection
    async def _run_subscriptions(self) -> None:
        if self.subscriptions is not None:
            with self._subscriptions_scope:
                await self.subscriptions.run()

    @enable_ki_protection
    async def _run_conversations(self) -> None:
        with self._conversations_scope:
            if self._conversations.made is not None:
                await self._conversations.made.run()

    # -- the end

    @enable_ki_protection
    async def close(self, timeout: float) -> Ledger:
        """Drain, then stop all tasks.

        A second caller waits for the same end, and can only shorten the drain.

        Args:
            timeout: Seconds to drain.

        Returns:
            The ledger of all deliveries.
        """
        self._dispatcher.check_process()
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
        self._dispatcher.check_process()  # the fork may have come meanwhile
        return self.ledger

    async def _stop_receiving(self) -> None:
        """Have the driver receive no more events.

        It keeps running: it publishes events of the listeners that drain, and settles deliveries.
        """
        if self.subscriptions is None or self._driver_ended is None:
            return
        self._subscriptions_scope.cancel()
        if self._driver_ended.is_set():
            return
        drain = getattr(self._driver, "drain", None)
        with driver_errors(self._driver, "drain"):
            await (self.subscriptions.drop_all() if drain is None else drain())

    async def _quiet(self) -> None:
        """Wait until no listener runs, no mailbox holds an event and no post is unanswered.

        Each of these may cause another one, so the session waits for all of them in turn until all
        hold at once.
        """
        special_dispatch, publisher = self._dispatcher.special_dispatch, self._publisher
        await self._scheduler.quiet()
        while special_dispatch.busy or (publisher is not None and publisher.busy):
            await special_dispatch.quiet()
            if publisher is not None:
                await publisher.quiet()
            await self._scheduler.quiet()

    async def _stop(self) -> None:
        # In a fork nothing may be stopped: its tasks are copies that never run again.
        if self._ended.is_set() or self._dispatcher.is_forked:
            return
        self._dispatcher.drain()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CANCEL_GRACE_SECONDS):
            self._subscriptions_scope.cancel()
            self._scheduler_scope.cancel()
            self._dispatcher.special_dispatch.cancel()
            if self._scheduler_ended is not None:
                await self._scheduler_ended.wait()
            await self._dispatcher.special_dispatch.quiet()
            if self.thread_port is not None:
                self.thread_port.cancel()
            self._give_up()
            self._close_conversations()
            # Only now: the driver has been told of the end of all deliveries, and can settle them
            # with its broker.
            self._driver_scope.cancel()
            if self._driver_ended is not None:
                await self._driver_ended.wait()
            await self._supervisor.flush()
        self._driver_scope.cancel()
        self._close_conversations()
        # A second time: a listener that ignored its cancellation may still hold an event.
        self._give_up()
        self._dispatcher.special_dispatch.give_up()
        self._supervisor_scope.cancel()
        if self.thread_port is not None:
            self.thread_port.close()
        if not self._ended.is_set():
            self._router.connect(None)
            self._supervisor.finish()
            self.ledger = self._ledger_book.ledger()
            self._ended.set()

    def _close_conversations(self) -> None:
        self._conversations_scope.cancel()
        if self._conversations.made is not None:
            self._conversations.made.close()

    def fork(self) -> None:
        """Leave the bus to the parent: this process is a fork of it; see `forks`."""
        self._dispatcher.fork()
        self._inbox.fork()
        # A `SystemExit` of a listener that has forked must leave `async with bus` alone.
        fails_waits = in_trio_task() and not runs_inside(self._nursery)
        if fails_waits:
            # Before the mailboxes are emptied, which would make room.
            self._dispatcher.backpressure.refuse(BusForked, inside_too=True)
        actors = [*self._router.listeners(), *self._ledger_book.unregistered]
        self._scheduler.fork(actors)
        if self._conversations.made is not None:
            self._conversations.made.fork(wakes=fails_waits)
        self._supervisor.fork()
        if self._publisher is not None:
            self._publisher.fork()
        if self._nursery is not None:
            freeze_tasks(self._nursery)
        streams = [actor for actor in actors if isinstance(actor, StreamActor)]
        for stream in streams:
            stream.cut(BusForked, wakes=fails_waits)
        if fails_waits:
            self._scheduler.wake_quiet_waiters()
            fail_waits(self._waits_for_handle, BusForked)
        # Last: the bus is safe from here on, even if the driver raises.
        if (fork := getattr(self._driver, "fork", None)) is not None:
            fork()

    def _waits_for_handle(self, sleep_data: object) -> bool:
        if not isinstance(sleep_data, DispatchHandle):
            return False
        route = sleep_data._route  # pyright: ignore[reportPrivateUsage]
        return route.kernel is self._dispatcher

    def _give_up(self) -> None:
        """Take no more events, and settle those that no listener will run as abandoned."""
        if self._dispatcher.is_forked:
            return
        self._dispatcher.close()
        abandon, publisher = self._dispatcher.admission.abandon, self._publisher
        for actor in self._router.listeners():
            abandon(actor)
        if publisher is not None:
            abandon(publisher.actor, publisher.take_posted())
            publisher.end()
        for actor in self._ledger_book.unregistered:
            abandon(actor)


@contextmanager
def sole_error() -> Generator[None]:
    """Raise the only error of a group in place of the group that a nursery put around it."""
    error: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        # A cancellation beside an error can be left out: the scope that caused it is still
        # cancelled.
        real = group.split(trio.Cancelled)[1] or group
        error = real.exceptions[0] if len(real.exceptions) == 1 else group
    if error is not None:
        # Otherwise the error would show the group as its context, and itself within it.
        raise_unchanged(error)


def first_driver_error(group: BaseExceptionGroup[BaseException]) -> DriverError | None:
    """Return the first error of a group that holds errors of the driver only, or None."""
    errors = [each for each in group.exceptions if isinstance(each, DriverError)]
    return first_error(errors) if len(errors) == len(group.exceptions) else None


def holds_only_cancellations(error: BaseException) -> bool:
    """Tell whether an exception is a cancellation, or a group of cancellations."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return group.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)
