"""Batch dispatch: dispatches many events with one call, and hands them to the driver together.

The bus calls it for `dispatch_many` and `dispatch_many_nowait`. Each event takes the same way as by
itself: through middleware, into mailboxes, to inline listeners, in the order of the batch. Only the
transport differs: the publisher holds the events back, and hands them over as one batch.

Theory of operation. All events are checked before the first one is dispatched. From then on only a
wait can come between two events: for room in a mailbox, or for `async` code that runs inline.
Before each such wait the publisher releases the events that it holds, because the wait may be for
the broker's answers to them. A long batch also yields to other tasks now and then, under a shield.
So a cancellation finds all events dispatched, or none, unless one of them has to wait.

Events that go to the driver only take a shorter way: there is no listener that could come between
two of them, so they are posted together, as `PostedEvents` without handles.
"""

# The batch is part of the dispatcher, and dispatches as it does.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import trio
from trio.lowlevel import (
    cancel_shielded_checkpoint,
    disable_ki_protection,
    enable_ki_protection,
)

from .._batch_handle import BatchHandle, HandleList, PostedEvents, interrupted
from .._errors import EventError, MailboxFull, require_trio
from .._foreign import describe
from .actor import names_of

if TYPE_CHECKING:
    from .._handle import DispatchHandle
    from .actor import Actor
    from .dispatcher import Dispatcher
    from .route import Route
    from .supervisor import Supervisor

MAX_SLICE_SECONDS = 0.0002
"""How long a batch is dispatched until it yields to other tasks."""


class BatchDispatch:
    """The dispatch of batches on one bus."""

    def __init__(self, dispatcher: Dispatcher, supervisor: Supervisor) -> None:
        self._dispatcher = dispatcher
        self._router = dispatcher.router
        self._supervisor = supervisor

    @enable_ki_protection
    def dispatch_nowait(self, events: Iterable[object]) -> BatchHandle:
        """Dispatch events without waiting for anything.

        Raises:
            BatchInterrupted: A listener has taken the room of a later event.
            MailboxFull: A mailbox under `overflow="error"` has not enough room.
            trio.WouldBlock: Another mailbox has not enough room.
        """
        dispatcher = self._dispatcher
        found = self._begin(events)
        for route in self._count_routes(found):
            dispatcher.special_dispatch.refuse_awaited(route)
        self._check_room(found, waits=False)
        parts: list[PostedEvents] = []
        handles: list[DispatchHandle] = []
        first = 0
        while (posted := self._post(found, first)) is not None:
            parts.append(posted)
            first += len(posted)
        publisher = self._router.publisher
        try:
            for event in found[first:]:
                if publisher is not None:
                    publisher.hold()
                handles.append(dispatcher.dispatch_nowait(event))
        except BaseException as error:
            self._interrupted(error, found, parts, handles)
            raise
        finally:
            self._release()
        return batch_of(parts, handles)

    @enable_ki_protection
    async def dispatch(self, events: Iterable[object]) -> BatchHandle:
        """Dispatch events, waiting for room where it is needed.

        Raises:
            BatchInterrupted: An event other than the first one could not be dispatched.
            MailboxFull: A mailbox under `overflow="error"` has not enough room.
        """
        require_trio()
        found = self._begin(events)
        await self._dispatcher.take_turn()
        self._check_room(found, waits=True)
        dispatcher, slow_after = self._dispatcher, self._dispatcher.slow_after
        parts: list[PostedEvents] = []
        handles: list[DispatchHandle] = []
        first = 0
        publisher = self._router.publisher
        try:
            while (posted := self._post(found, first)) is not None:
                parts.append(posted)
                first += len(posted)
                if first == len(found):
                    return BatchHandle(parts)
                await cancel_shielded_checkpoint()
            start = perf_counter()
            slice_end = start + MAX_SLICE_SECONDS
            for event in found[first:]:
                # For each event: a wait, or a batch inside a listener, has released the others.
                if publisher is not None:
                    publisher.hold()
                handle = dispatcher._dispatch_at_once(event)
                if handle is None:
                    handle = await dispatcher._dispatch_slowly(event)
                    start = perf_counter()
                handles.append(handle)
                now = perf_counter()
                if now - start > slow_after:
                    dispatcher.warn_if_slow(handle._route, now - start)  # type: ignore[arg-type]
                start = now
                if now > slice_end:
                    self._release()
                    await cancel_shielded_checkpoint()
                    start = perf_counter()
                    slice_end = start + MAX_SLICE_SECONDS
        except BaseException as error:
            self._interrupted(error, found, parts, handles)
            raise
        finally:
            self._release()
        return batch_of(parts, handles)

    def _post(self, found: list[object], first: int) -> PostedEvents | None:
        """Post the next events of a batch, if all of them go to the driver only.

        There is no listener that could come between two of them, so they are posted together.

        Args:
            found: The events of the batch.
            first: The number of those that were posted before.

        Returns:
            The posted events; None if there are none, if they have listeners here, or if the driver
            takes no batch now.
        """
        dispatcher, publisher = self._dispatcher, self._router.publisher
        if publisher is None or dispatcher.state != "open" or dispatcher.inline_depth:
            return None
        if dispatcher.tracer is not None:
            return None
        events = found[first : first + publisher.batch_room]
        cached = dispatcher._routes
        routes: list[Route] = []
        types = Counter(map(type, events))
        for event_type in types:
            route = cached.get(event_type)
            if route is None or route.calls or route.mailboxes:
                return None
            routes.append(route)
        if not routes:
            return None
        for route, count in zip(routes, types.values(), strict=True):
            route.mailed += count
            route.called += count
        if len(routes) == 1:
            routes *= len(events)
        else:
            routes = [cached[type(event)] for event in events]
        dispatcher.scheduler.now = now = dispatcher.scheduler.clock()
        ids = dispatcher.ids.draw_many(len(events))
        posted = PostedEvents(events, routes, ids, now, dispatcher.cause())
        publisher.post_events(posted)
        return posted

    def _begin(self, events: Iterable[object]) -> list[object]:
        """Return the events of a batch, if the bus takes each of them from this caller.

        Raises:
            DecodeError: The payload of an ad-hoc event is not that of its type.
            TypeError: These are no events.
            UnknownEventError: The name of an ad-hoc event has no type, and the registry is strict.
        """
        dispatcher = self._dispatcher
        found = events_of(events)
        # After the iterable has run: it may have closed the bus.
        if get_ident() != dispatcher._owner:
            dispatcher.check_nested()
        if not set(map(type, found)) <= dispatcher._routes.keys():
            found = [self._find(index, event)[1] for index, event in enumerate(found)]
        return found

    def _find(self, index: int, event: object) -> tuple[Route, object]:
        try:
            return self._router.find(event)
        except Exception as error:
            error.add_note(f"this is event {index} of a batch; none of its events was dispatched")
            raise

    def _check_room(self, events: list[object], *, waits: bool) -> None:
        """Refuse a batch for which a mailbox has not enough room.

        A listener with a filter may want none of the events, so only the dispatch can tell. One
        with `once=True` takes a single event.

        Args:
            events: The events.
            waits: True if the batch waits for room where a listener has `overflow="block"`.

        Raises:
            MailboxFull: A mailbox under `overflow="error"` has not enough room.
            trio.WouldBlock: Another mailbox has not enough room, and the batch does not wait.
        """
        refusing = ("error",) if waits else ("error", "block")
        needed: dict[Actor, int] = {}
        for route, count in self._count_routes(events).items():
            for actor in route.actors:
                if actor.overflow in refusing and actor.options.when is None:
                    needed[actor] = 1 if actor.options.once else needed.get(actor, 0) + count
        # The limit is 0 while other dispatches wait for room.
        full = [
            actor
            for actor, count in needed.items()
            if not (actor.limit and actor.has_room(count - 1))
        ]
        if full:
            refused = [actor for actor in full if actor.overflow == "error"]
            names = names_of(refused or full, ", ")
            text = f"none of {len(events)} events was dispatched: no room in the mailbox of {names}"
            raise MailboxFull(text) if refused else trio.WouldBlock(text)

    def _count_routes(self, events: list[object]) -> Mapping[Route, int]:
        """Return the routes of events, each with the number of its events."""
        cached = self._dispatcher._routes
        types = Counter(map(type, events))
        if not types.keys() <= cached.keys():
            find = self._router.find
            return Counter(cached.get(type(event)) or find(event)[0] for event in events)
        routes: Counter[Route] = Counter()
        for event_type, count in types.items():
            # Several classes may share a route.
            routes[cached[event_type]] += count
        return routes

    def _release(self) -> None:
        if (publisher := self._router.publisher) is not None:
            publisher.release()

    def _interrupted(
        self,
        error: BaseException,
        events: list[object],
        parts: list[PostedEvents],
        handles: list[DispatchHandle],
    ) -> None:
        """Raise or report a `BatchInterrupted` if only some events of the batch were dispatched.

        Raises:
            BatchInterrupted: The error is an exception that `dispatch` raises.
        """
        batch = batch_of(parts, handles)
        remaining = len(events) - len(batch)
        if not batch or not remaining:
            return
        if isinstance(error, Exception):
            raise interrupted(describe(error), batch, remaining) from error
        reason = f"the dispatch ended with {type(error).__name__}"
        name = self._router.find(events[len(batch)])[0].name
        self._supervisor.record_loose(
            EventError(name, "dispatch_many", interrupted(reason, batch, remaining))
        )


def batch_of(parts: list[PostedEvents], handles: list[DispatchHandle]) -> BatchHandle:
    """Return the handle of posted events, and of the events with handles behind them."""
    return BatchHandle([*parts, HandleList(handles)] if handles else parts)


@disable_ki_protection
def events_of(events: Iterable[object]) -> list[object]:
    """Return the events of an iterable.

    Nothing is dispatched yet, so Ctrl-C may interrupt the code of the application.

    Raises:
        TypeError: It is no iterable of events.
    """
    given: Any = events
    if isinstance(given, str | bytes | Mapping) or not hasattr(given, "__iter__"):
        kind = type(cast("object", given)).__qualname__
        raise TypeError(f"dispatch_many takes an iterable of events, not {kind}; see dispatch")
    return list(events)
