"""The handle of one dispatch: its unfinished listeners, its errors and the tasks that wait for it.

The dispatching code owns the handle. Workers count it down, and at zero it wakes the waiting tasks.
The kernel makes one for every dispatch, so the parts that few handles need (errors, a second
waiting task, an id, headers) live in `HandleDetails`, which is made on demand.

A handle knows nothing of routing. The protocols below list the few things that it needs of its bus.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import types
from os import urandom
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import msgspec
from trio import fail_after
from trio.lowlevel import (
    Task,
    checkpoint,
    current_task,
    enable_ki_protection,
    in_trio_task,
    reschedule,
)

from ._cause import CAUSATION_ID_HEADER, CORRELATION_ID_HEADER, Cause, is_id
from ._errors import NEEDS_TRIO, BusForked, EventError
from ._trio_internals import PARKED

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping, Sequence

    Settle = Callable[[tuple[EventError, ...]], None]
    from contextlib import AbstractContextManager
    from contextvars import Context

    from outcome import Outcome

    from ._remote_report import RemoteOutcome, RemoteReport

Scope = Literal["local", "all"]

DEFAULT_REPORT_TIMEOUT_SECONDS = 5.0
"""How long a wait for the listeners of all buses lasts at most, unless the caller says."""

IDS_PER_BLOCK = 256
"""The ids drawn at once. Asking the system for each id separately costs half of a publish."""


class IdGenerator:
    """Draws unique ids for the handles of one bus.

    Attributes:
        drawn: The ids that were drawn in advance; the last one is the next.
    """

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def forget(self) -> None:
        """Throw away the ids drawn in advance.

        A forked process has a copy of them, and must not use the ids of its parent.
        """
        self.drawn.clear()

    def draw(self) -> str:
        """Return 16 lower hex digits."""
        if not self.drawn:
            self.drawn = urandom(8 * IDS_PER_BLOCK).hex(" ", 8).split()
        return self.drawn.pop()

    def draw_many(self, count: int) -> list[str]:
        """Return several ids, as `draw` does."""
        while len(self.drawn) < count:
            self.drawn += urandom(8 * IDS_PER_BLOCK).hex(" ", 8).split()
        ids = self.drawn[-count:]
        del self.drawn[-count:]
        return ids


class WakeUp:
    """The outcome that wakes a parked task. An `outcome.Value` can be unwrapped only once."""

    __slots__ = ()

    def unwrap(self) -> None:
        return None


WAKE_UP = cast("Outcome[None]", WakeUp())


class WorkerTable(Protocol):
    """The workers of a bus. While none is suspended, only workers run inside listeners."""

    suspended: int
    workers: dict[Task, Any]


class DispatchKernel(Protocol):
    """The part of a bus that its handles use.

    Attributes:
        home_thread: The id of the thread that the bus runs on; below 0 in a fork of its process.
        underway: The handles of the dispatches that await inline listeners.
    """

    home_thread: int
    ids: IdGenerator
    underway: Collection[DispatchHandle]

    @property
    def scheduler(self) -> WorkerTable: ...
    def waiting(self, handle: DispatchHandle, task: Task) -> AbstractContextManager[None]:
        """Guard the wait of a task for a handle; raise `DeadlockError` if it would never end."""
        ...

    def mark_seen(self, details: HandleDetails) -> None:
        """Record that the application has seen the errors of a handle."""
        ...


class BrokerReceipt(Protocol):
    """The answer of a broker that has accepted an event."""

    @property
    def id(self) -> str: ...
    @property
    def receivers(self) -> int | None: ...


class HandlePublisher(Protocol):
    """The part of the publisher that handles use."""

    @property
    def holds(self) -> bool:
        """True while a batch is dispatched, whose events go to the driver together."""
        ...


class HandleRoute(Protocol):
    """The part of a route that its handles use."""

    @property
    def name(self) -> str: ...
    @property
    def event_name(self) -> str: ...
    @property
    def kernel(self) -> DispatchKernel: ...
    @property
    def listeners(self) -> Sequence[object]: ...
    @property
    def listener_count(self) -> int: ...
    @property
    def unheard(self) -> bool: ...
    @property
    def publisher(self) -> HandlePublisher | None: ...


class HandleTracking(Protocol):
    """The reports of other buses about a dispatch, as its handle uses them."""

    async def wait(self, handle: DispatchHandle, timeout: float, expect: int | None) -> None: ...
    def remote(self, handle: DispatchHandle) -> tuple[RemoteReport, ...]: ...
    def outcome(self, handle: DispatchHandle) -> RemoteOutcome: ...


class HandleDetails(msgspec.Struct, eq=False, weakref=True):
    """The part of a handle that most handles never need. It lives as long as its handle.

    Attributes:
        first: The task that waits, before there is a second one.
        waiters: The other tasks that wait.
        settle: Tells the driver that brought the event that all listeners have finished.
        deliveries: The number of times that the broker has delivered the event.
        context: The context of the dispatcher, if a listener runs in it.
        listeners: The number of listeners that got the event, if it is not that of the route.
        reply_to: The address for answers, which travels with the event; or empty.
        request: The request that the event is for its responder; None for any other event.
        tracking: The reports of the other buses; None for a dispatch that nobody tracks.
        lineage: The cause, if a listener has dispatched the event; its id on the bus that sent it,
            if the driver has brought it.
        as_cause: The cause of the events that this one causes; None before the first of them.
    """

    first: Task | None
    # Lists only when they hold something: most events that go to a broker need neither.
    waiters: list[Task] | tuple[()] = ()
    errors: list[EventError] | tuple[()] = ()
    id: str = ""
    headers: dict[str, str] | None = None
    receipt: BrokerReceipt | None = None
    settle: Settle | None = None
    deliveries: int = 1
    context: Context | None = None
    listeners: int | None = None
    reply_to: str = ""
    request: object = None
    tracking: HandleTracking | None = None
    lineage: Cause | str | None = None
    as_cause: Cause | None = None

    def add_waiter(self, task: Task) -> None:
        if isinstance(self.waiters, list):
            self.waiters.append(task)
        else:
            self.waiters = [task]

    def remove_waiter(self, task: Task) -> None:
        if isinstance(self.waiters, list) and task in self.waiters:
            self.waiters.remove(task)


class DispatchHandle:
    """The progress of one dispatched event, as Go's `goevent.DispatchHandle`.

    `dispatch` returns it. By then all inline listeners have run; `pending` counts the others.

    Attributes:
        event: The event that was dispatched.

    Example:
        >>> import trio
        >>> from goevent import Event, GoEvent
        >>> class OrderPaid(Event, name="handle.order.paid"):
        ...     order_id: int
        >>> async def main() -> None:
        ...     async with GoEvent() as bus:
        ...         handle = await bus.dispatch(OrderPaid(7))
        ...         await handle.wait()
        ...         handle.raise_errors()
        >>> trio.run(main)
    """

    __slots__ = ("_details", "_left", "_route", "_since", "event")

    # The dispatcher sets these. An __init__ would double the price of a dispatch.
    event: Any
    # Deliveries that have not finished. Below zero when a listener finished an abandoned event.
    _left: int
    _route: HandleRoute
    # When the event was put into mailboxes, by the clock of the scheduler.
    _since: float
    # Most handles need one thing at most: the task that waits, the cause of the event, or its id on
    # the bus that sent it. They store it here, and need no details.
    _details: Task | HandleDetails | Cause | str | None

    @property
    def event_name(self) -> str:
        """The name under which the event was dispatched."""
        return self._route.event_name

    @property
    def is_request(self) -> bool:
        """True if the event is a request, which one responder gets; see `GoEvent.request`."""
        route = self._route
        return route.name != route.event_name

    @property
    def id(self) -> str:
        """The id of the event: 16 lower hex digits, drawn on first use.

        An event from another bus has the id that it got there.
        """
        details = self._ensure_details()
        if not details.id:
            given = details.lineage
            details.id = given if is_id(given) else self._route.kernel.ids.draw()
        return details.id

    @property
    def correlation_id(self) -> str:
        """The id of the first event of the chain: this one, unless a listener has dispatched it.

        The header `correlation_id` of the event replaces it.
        """
        if given := self._id_header(CORRELATION_ID_HEADER):
            return given
        cause = self._cause
        return self.id if cause is None else cause.correlation_id

    @property
    def causation_id(self) -> str:
        """The id of the event whose listener has dispatched this one; empty for a first event."""
        if given := self._id_header(CAUSATION_ID_HEADER):
            return given
        cause = self._cause
        return "" if cause is None else cause.causation_id

    @property
    def headers(self) -> dict[str, str]:
        """The headers that travel with the event; middleware around dispatch may fill them.

        An event that a listener has dispatched has the headers `correlation_id` and `causation_id`.
        """
        details = self._ensure_details()
        if details.headers is None:
            cause = self._cause
            details.headers = {} if cause is None else cause.headers
        return details.headers

    @property
    def receipt(self) -> str:
        """The broker's id of the event. Empty without a broker, and until it accepts the event."""
        details = self._details
        receipt = details.receipt if isinstance(details, HandleDetails) else None
        return "" if receipt is None else receipt.id

    @property
    def receivers(self) -> int | None:
        """The number of other buses that the broker sent the event to; None if it did not say."""
        details = self._details
        receipt = details.receipt if isinstance(details, HandleDetails) else None
        return None if receipt is None else receipt.receivers

    @property
    def in_batch(self) -> bool:
        """True while `dispatch_many` dispatches the event, so that it goes out with others.

        Middleware around dispatch may ask. It is False afterwards, and on a bus without a broker.
        """
        publisher = self._route.publisher
        return publisher is not None and publisher.holds

    @property
    def listeners(self) -> int:
        """The number of listeners of this bus that the dispatch brought the event to.

        0 if nobody listens here, if filters or middleware kept the event from all listeners, and if
        it reaches them only by way of the broker.
        """
        details = self._details
        if isinstance(details, HandleDetails) and details.listeners is not None:
            return details.listeners
        return self._route.listener_count

    @property
    def pending(self) -> int:
        """The number of listeners that have not finished the event yet."""
        return max(self._left, 0)

    @property
    def done(self) -> bool:
        """True once every listener has finished or failed, or will not get the event any more."""
        return self._left <= 0

    @property
    def errors(self) -> tuple[EventError, ...]:
        """The failures so far, in their order."""
        details = self._details
        if not isinstance(details, HandleDetails) or not details.errors:
            return ()
        self._route.kernel.mark_seen(details)
        return tuple(details.errors)

    def raise_errors(self) -> None:
        """Raise the failures so far; return if there are none.

        Raises:
            ExceptionGroup: At least one listener failed. The group holds `EventError`s.
        """
        if errors := self.errors:
            raise ExceptionGroup(f"{len(errors)} listener(s) failed on {self.event_name!r}", errors)

    @property
    def remote(self) -> tuple[RemoteReport, ...]:
        """The `RemoteReport`s of the other buses so far, and one for each that is missing.

        Raises:
            RuntimeError: The event was not dispatched with `scope="all"`.
        """
        return self._tracking().remote(self)

    @property
    def outcome(self) -> RemoteOutcome:
        """The `RemoteOutcome`: whether all other buses have reported.

        Raises:
            RuntimeError: The event was not dispatched with `scope="all"`.
        """
        return self._tracking().outcome(self)

    def _tracking(self) -> HandleTracking:
        details = self._details
        tracking = details.tracking if isinstance(details, HandleDetails) else None
        if tracking is None:
            raise RuntimeError(
                "other buses report only on an event that asks them to: "
                'await bus.dispatch(event, scope="all")'
            )
        return tracking

    @enable_ki_protection
    async def wait(
        self,
        *,
        scope: Scope = "local",
        timeout: float | None = None,
        expect: int | None = None,
    ) -> None:
        """Wait until every listener has finished the event.

        Always a checkpoint. A cancelled wait changes nothing for the event. Every wait ends: a
        delivery that is dropped, unregistered or abandoned counts as finished, and has an error in
        `errors`.

        With `scope="all"`, it also waits for the listeners of all other buses that got the event,
        which needs `bus.dispatch(event, scope="all")`. It returns at the timeout at the latest:
        `outcome` tells whether all buses have reported, and `remote` has the reports.

        Args:
            scope: `"local"` for the listeners of this bus, `"all"` for those of all buses.
            timeout: The seconds to wait; None for no limit, and for 5 s with `scope="all"`.
            expect: The number of reports to wait for with `scope="all"`. By default it is what the
                broker counts, or the number of buses that answer a roll call.

        Raises:
            BusForked: This process is a fork of the bus's.
            DeadlockError: The caller runs inside a listener that has to finish first.
            RuntimeError: This is not a Trio task on the thread of the bus, or other buses do not
                report on this event.
            trio.TooSlowError: The listeners of this bus have not finished in time; only with
                `scope="local"`.
            TypeError: The timeout is no number, or `expect` no integer.
            ValueError: There is no such scope, or a number makes no sense.
        """
        if scope != "local" or timeout is not None or expect is not None:
            return await self._wait_within(scope, timeout, expect)
        if self._left <= 0:
            if self._route.kernel.home_thread < 0:
                raise BusForked
            # Outside of Trio, the checkpoint itself would confuse the event loop that runs it.
            if not in_trio_task():
                raise RuntimeError(NEEDS_TRIO)
            await checkpoint()
        else:
            kernel = self._route.kernel
            scheduler = kernel.scheduler
            if kernel.home_thread != get_ident():
                if kernel.home_thread < 0:
                    raise BusForked
                raise RuntimeError("this handle can be waited for on its bus's thread only")
            try:
                task = current_task()
            except RuntimeError:
                raise RuntimeError(NEEDS_TRIO) from None
            # Only a task inside a listener can be in a deadlock. If none of these three is true,
            # the caller is no such task, and its wait skips the check.
            if scheduler.suspended or task in scheduler.workers or kernel.underway:
                with kernel.waiting(self, task):
                    await self._park(task)
            else:
                await self._park(task)
        return None

    async def _wait_within(self, scope: Scope, timeout: float | None, expect: int | None) -> None:
        """Wait with a timeout, or for the listeners of all buses."""
        if timeout is not None:
            if isinstance(timeout, bool) or not isinstance(timeout, int | float):
                raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
            if not timeout >= 0:
                raise ValueError(f"timeout must be at least 0 seconds, not {timeout!r}")
        if expect is not None and (isinstance(expect, bool) or not isinstance(expect, int)):
            raise TypeError(f"expect must be a number of reports, not {expect!r}")
        if expect is not None and expect < 0:
            raise ValueError(f"expect must be a number of reports, not {expect!r}")
        if scope == "all":
            limit = DEFAULT_REPORT_TIMEOUT_SECONDS if timeout is None else timeout
            await self._tracking().wait(self, limit, expect)
        elif scope != "local":
            raise ValueError(f'scope is "local" or "all", not {scope!r}')
        elif expect is not None:
            raise ValueError('expect makes sense with scope="all" only')
        elif timeout is not None:
            with fail_after(timeout):
                await self.wait()

    @types.coroutine
    def _park(self, task: Task) -> Generator[object, Outcome[None], None]:
        """Park the running task until no delivery is left."""
        # The common case, a single waiting task, needs no object besides the handle.
        details = self._details
        if details is None:
            self._details = task
        elif type(details) is HandleDetails and details.first is None and not details.waiters:
            details.first = task
        else:
            self._ensure_details().add_waiter(task)
        task.custom_sleep_data = self
        try:
            (yield PARKED).unwrap()
        except BaseException:
            # The handle must not wake a task that no longer waits for it.
            self._forget(task)
            raise

    def _forget(self, task: Task) -> None:
        details = self._details
        if details is task:
            self._details = None
        elif isinstance(details, HandleDetails):
            if details.first is task:
                details.first = None
            else:
                details.remove_waiter(task)

    def _reschedule(self, task: Task) -> None:
        """Wake a task, unless it is cancelled and has not run since."""
        # Trio sets `custom_sleep_data` to None when it cancels the task: then the task wakes by
        # itself, and to reschedule it a second time would be an error.
        if task.custom_sleep_data is self:
            reschedule(task, WAKE_UP)

    def _sent_headers(self, details: HandleDetails) -> dict[str, str]:
        """Return the headers for the wire; only to be read."""
        if details.headers is not None:
            return details.headers
        lineage = details.lineage
        return lineage.headers if type(lineage) is Cause else {}

    @property
    def _cause(self) -> Cause | None:
        details = self._details
        lineage = details.lineage if isinstance(details, HandleDetails) else details
        return lineage if isinstance(lineage, Cause) else None

    def _id_header(self, name: str) -> str:
        """Return the id in a header of the event; empty if there is none."""
        details = self._details
        if not isinstance(details, HandleDetails) or not details.headers:
            return ""
        given = details.headers.get(name)
        return given if is_id(given) else ""

    def _as_cause(self) -> Cause:
        """Return the cause of the events that a listener of this one dispatches."""
        details = self._details
        if type(details) is HandleDetails:
            if (cause := details.as_cause) is None:
                cause = details.as_cause = Cause(self.correlation_id, self.id)
            return cause
        # The usual cases, in fewer steps than by the properties.
        details = self._ensure_details()
        lineage = details.lineage
        own = lineage if is_id(lineage) else self._route.kernel.ids.draw()
        first = lineage.correlation_id if type(lineage) is Cause else own
        details.id = own
        details.as_cause = cause = Cause(first, own)
        return cause

    def _ensure_details(self) -> HandleDetails:
        """Return the details, made now if there were none."""
        details = self._details
        kind = type(details)
        if kind is HandleDetails:
            return details  # type: ignore[return-value]
        if kind is Cause or kind is str:
            made = HandleDetails(None, lineage=details)  # type: ignore[arg-type]
        else:
            made = HandleDetails(details)  # type: ignore[arg-type]
        self._details = made
        return made

    def _add_error(self, error: EventError) -> HandleDetails:
        """Record the failure of one delivery; return the details that hold it."""
        details = self._ensure_details()
        if isinstance(details.errors, list):
            details.errors.append(error)
        else:
            details.errors = [error]
        return details

    def _when_done(self, settle: Settle) -> None:
        """Call a function with the errors, once, when every listener has finished."""
        if self._left <= 0:
            settle(self._failed())
            return
        details = self._ensure_details()
        details.settle = settle if details.settle is None else both(details.settle, settle)

    def _failed(self) -> tuple[EventError, ...]:
        return tuple(self._details.errors) if isinstance(self._details, HandleDetails) else ()

    def _wake(self) -> None:
        """Wake all waiting tasks; called once, when no delivery is left."""
        details = self._details
        if type(details) is Task:
            self._details = None
            self._reschedule(details)
        elif isinstance(details, HandleDetails):
            if details.first is not None:
                first, details.first = details.first, None
                self._reschedule(first)
            if details.waiters:
                waiters, details.waiters = details.waiters, ()
                for task in waiters:
                    self._reschedule(task)
            if details.settle is not None:
                settle, details.settle = details.settle, None
                settle(self._failed())

    def _settle_one(self) -> None:
        """Count one delivery as finished, as the loop of the workers does inline."""
        self._left -= 1
        if not self._left:
            self._wake()

    def __repr__(self) -> str:
        state = "done" if self.done else f"{self.pending} pending"
        details = self._details
        failed = len(details.errors) if isinstance(details, HandleDetails) else 0
        return f"<DispatchHandle {self.event_name!r} {state}, {failed} error(s)>"


def both(first: Settle, second: Settle) -> Settle:
    """Return a function that calls two others, even if the first one raises."""

    def settle(errors: tuple[EventError, ...]) -> None:
        try:
            first(errors)
        finally:
            second(errors)

    return settle


def new_handle(route: HandleRoute, event: object) -> DispatchHandle:
    """Return the handle of an event that no listener has got yet."""
    handle = DispatchHandle()
    handle.event, handle._route, handle._details = event, route, None
    handle._left, handle._since = 0, 0.0
    return handle


def arrived_handle(
    route: HandleRoute,
    event: object,
    handle_id: str,
    headers: Mapping[str, str],
    deliveries: int,
) -> DispatchHandle:
    """Return the handle of an event that the driver has brought, and that no listener has got."""
    handle = new_handle(route, event)
    if headers or deliveries > 1:
        handle._details = HandleDetails(
            None, headers={**headers} if headers else None, deliveries=deliveries, lineage=handle_id
        )
    else:
        handle._details = handle_id
    return handle
