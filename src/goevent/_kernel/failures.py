"""Failures: every delivery that does not complete is counted and recorded here.

`Failures` is the one entrance for all parts of the bus: the scheduler, the dispatcher, admission,
mailboxes and the publisher. It counts the delivery on its actor and passes the error on to the
supervisor, which only records it.

Theory of operation. `FailedRuns` belongs to the scheduler. Its loop comes here when a run of a
listener does not simply end:

* the listener raised an exception (`failed`), and may get other attempts (`recover`);
* the listener left a scope, a nursery or a context variable behind (`left_dirty`);
* a cancellation or another BaseException passes through (`interrupted`);
* the loop itself crashed, which is a bug of the kernel (`crashed`).

In each case the event is settled once and its failure is recorded once. A worker retires if its
task is not as it was before the run, or if a crash or a BaseException has ended its loop. Its actor
is scheduled again, with the mailbox kept.

The bus may give an event up while its listener still runs: it settles the event as abandoned, and
sets `actor.current` to None. A listener that fails after that has its failure recorded, but not
counted.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, cast

import trio

from .._errors import EventAbandoned, EventError, failure_of
from .._foreign import describe, forget_caller, log, split
from .._options.results import refuse_unrun
from .recovery import raised

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._handle import DispatchHandle
    from .actor import Actor, Lane
    from .supervisor import Supervisor
    from .worker import Worker

MAX_CRASHES = 5
"""The crashes of the loop within `CRASH_WINDOW_SECONDS` that a bus survives."""
CRASH_WINDOW_SECONDS = 10.0

logger = logging.getLogger("goevent")


class Failures:
    """The failed deliveries of one bus."""

    __slots__ = ("_record",)

    def __init__(self, supervisor: Supervisor) -> None:
        self._record = supervisor.record

    def fail(self, actor: Actor | None, handle: DispatchHandle, error: EventError) -> None:
        """Count a delivery that did not complete on its listener, and record the error.

        Args:
            actor: The listener. None if no listener is to be counted: the failure is that of
                middleware around the dispatch, or the delivery was counted as abandoned before.
            handle: The event. It is not settled here.
            error: The failure; its `outcome` is the column of the ledger.
        """
        if actor is not None:
            actor.last_error = error
            if error.outcome == "failed":
                actor.failed += 1
            elif error.outcome == "dropped":
                actor.dropped += 1
            else:
                actor.abandoned += 1
        self._record(error, handle)

    def settle(self, actor: Actor | None, handle: DispatchHandle, error: EventError) -> None:
        """Fail a delivery as `fail` does, and count it as finished on its handle."""
        self.fail(actor, handle, error)
        handle._settle_one()

    def ordering_key_raised(self, actor: Actor, handle: DispatchHandle, error: Exception) -> None:
        """Settle an event that was not put into a mailbox because its key function raised."""
        forget_caller(error)
        reason = f"its ordering_key raised {describe(error)}"
        self.settle(actor, handle, EventError(handle.event_name, actor.name, error, reason=reason))


class FailedRuns:
    """The runs of a scheduler's listeners that do not simply end."""

    def __init__(self, failures: Failures, requeue: Callable[[Actor | Lane], None]) -> None:
        self._fail = failures.fail
        self._requeue = requeue
        self._crashes: deque[float] = deque()

    def reset(self) -> None:
        """Forget the crashes, because the bus is opened again."""
        self._crashes.clear()

    def failed(self, actor: Actor | Lane, handle: DispatchHandle, error: Exception) -> None:
        """Fail an event for the exception of its listener; the loop settles the event itself."""
        # The traceback begins with the frame of the loop, which has the handle, and the handle will
        # have the error. Without that frame there is no cycle for the garbage collector.
        forget_caller(error)
        self._fail_run(actor, handle, error, ())

    def _fail_run(
        self,
        actor: Actor | Lane,
        handle: DispatchHandle,
        error: Exception,
        earlier: tuple[Exception, ...],
    ) -> EventError:
        # The bus may have given the event up before its listener ended: it is counted already.
        late = actor.current is not handle
        failure = failure_of(handle.event_name, actor.name, error, earlier)
        self._fail(None if late else actor.listener, handle, failure)
        return failure

    async def recover(
        self, worker: Worker, actor: Actor | Lane, handle: DispatchHandle, error: Exception
    ) -> bool:
        """Run a failed event again and supervise its listener; return False to end the worker."""
        recovery = actor.listener.recovery
        assert recovery is not None  # noqa: S101 - for type checkers
        forget_caller(error)
        failures = [error]
        failed = True
        try:
            while failed and await recovery.wait_for_retry(actor, failures):
                failed = False
                actor.attempt = len(failures) + 1
                try:
                    if (result := await actor.call(handle.event)) is not None:
                        refuse_unrun(result)
                except Exception as next_error:  # noqa: BLE001 - it is reported
                    forget_caller(next_error)
                    failures.append(next_error)
                    failed = True
                except (trio.Cancelled, BaseExceptionGroup) as end:
                    await self.interrupted(worker, actor, handle, end, raised(failures))
                    return False
                # Even an attempt that succeeded has failed if it left anything behind.
                if worker.is_dirty:
                    last = failures.pop() if failed else None
                    await self.left_dirty(worker, actor, handle, last, raised(failures))
                    return False
        except (trio.Cancelled, BaseExceptionGroup):
            # The bus ends during a pause or an attempt. The event may be settled already: by
            # `interrupted`, or by the bus, which gave it up.
            if actor.current is handle:
                self._abandon(actor, handle, failures)
            raise
        finally:
            actor.attempt = 1
        if failed:
            await self._conclude(actor, handle, failures[-1], raised(failures[:-1]))
        else:
            actor.current = None
            handle._settle_one()
        return True

    async def left_dirty(
        self,
        worker: Worker,
        actor: Actor | Lane,
        handle: DispatchHandle,
        error: BaseException | None,
        earlier: tuple[Exception, ...] = (),
    ) -> None:
        """Close the scopes and nurseries that a listener left open, and fail the event for it."""
        left_open = not worker.in_own_scope
        leftover = "a cancel scope or a nursery open" if left_open else "a context variable set"
        rest = await worker.clean_up(error)
        failure = RuntimeError(
            f"the listener left {leftover} on a task it shares with other listeners"
        )
        failure.__cause__ = rest
        # A BaseException ends the worker and perhaps the bus, so there is nothing to supervise.
        if rest is not None and not issubclass(type(rest), Exception):
            self._settle(actor, handle, failure, earlier)
            worker.actor = None
            self._requeue(actor)
            raise split(rest)[1] or rest
        # Supervision may pause. The worker keeps its actor until then, so that it counts as
        # suspended and the bus does not look idle.
        await self._conclude(actor, handle, failure, earlier)
        worker.actor = None
        self._requeue(actor)

    async def interrupted(
        self,
        worker: Worker,
        actor: Actor | Lane,
        handle: DispatchHandle,
        error: BaseException,
        earlier: tuple[Exception, ...] = (),
    ) -> None:
        """Raise a cancellation or another BaseException again, and report the rest of a group."""
        # A scope that the listener left open may be the one that was cancelled. Closing it takes
        # its cancellation away, and the bus goes on.
        if not worker.in_own_scope:
            return await self.left_dirty(worker, actor, handle, error, earlier)
        failure, rest = split(error)
        if failure is not None:
            forget_caller(failure)
            self._settle(actor, handle, cast("Exception", failure), earlier)
            worker.actor = None
            self._requeue(actor)
        if rest is not None:
            raise rest
        return None

    async def _conclude(
        self,
        actor: Actor | Lane,
        handle: DispatchHandle,
        error: Exception,
        earlier: tuple[Exception, ...] = (),
    ) -> None:
        """Settle an event that has failed for good, and supervise its listener."""
        failure = self._settle(actor, handle, error, earlier)
        if actor.listener.recovery is not None:
            await actor.listener.recovery.supervise(actor, failure)

    def _settle(
        self,
        actor: Actor | Lane,
        handle: DispatchHandle,
        error: Exception,
        earlier: tuple[Exception, ...],
    ) -> EventError:
        failure = self._fail_run(actor, handle, error, earlier)
        # Before the event is settled: settling may call a driver, and the failed delivery must not
        # also count as in flight.
        actor.current = None
        handle._settle_one()
        return failure

    def _abandon(
        self, actor: Actor | Lane, handle: DispatchHandle, failures: list[Exception]
    ) -> None:
        *earlier, last = raised(failures)
        reason = f"the bus ended after attempt {len(failures)}"
        error = EventAbandoned(
            handle.event_name, actor.name, last, reason=reason, earlier=tuple(earlier)
        )
        self._fail(actor.listener, handle, error)
        actor.current = None
        handle._settle_one()

    def crashed(self, worker: Worker, crash: Exception, now: float) -> None:
        """Report a crash of the loop and schedule the actor again, with its mailbox kept.

        Raises:
            Exception: The crash itself, if there were too many of them lately.
        """
        self._crashes.append(now)
        while self._crashes[0] < now - CRASH_WINDOW_SECONDS:
            self._crashes.popleft()
        if len(self._crashes) > MAX_CRASHES:
            raise crash
        actor, worker.actor = worker.actor, None
        # The loop crashed between two actors. Nothing is lost: `ready` has the scheduled ones.
        if actor is None:
            log(logger, logging.ERROR, "the bus itself failed, and goes on", error=crash)
            return
        handle, actor.current = actor.current, None
        # The loop crashed between two events of the actor.
        if handle is None:
            log(logger, logging.ERROR, "the bus itself failed, and goes on", error=crash)
        else:
            reason = f"the bus itself failed: {describe(crash)}"
            error = EventError(handle.event_name, actor.name, crash, reason=reason)
            self._fail(actor.listener, handle, error)
            handle._settle_one()
        try:
            self._requeue(actor)
        except Exception as next_error:  # noqa: BLE001 - it counts as another crash
            worker.actor = actor
            self.crashed(worker, next_error, now)
