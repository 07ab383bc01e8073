"""The handles of a batch: `BatchHandle`, and the error of a batch that was cut short.

The kernel makes a `BatchHandle` for each call of `dispatch_many`. It is a sequence of the handles
of the events, because each event has its own listeners, errors and receipt.

Theory of operation. A batch consists of parts. The events of a `HandleList` have handles, because
they went through mailboxes and listeners. The events of `PostedEvents` went to the driver only, all
of them in one step. Nothing but the driver's answer can happen to such an event, so it has no
handle until somebody asks for it, or until it fails. The publisher tells the answers to the part.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Protocol, overload

from trio.lowlevel import checkpoint

from ._errors import EventError, GoEventError, require_trio
from ._handle import HandleDetails, new_handle

if TYPE_CHECKING:
    from ._cause import Cause
    from ._handle import BrokerReceipt, DispatchHandle, HandleRoute


class NoAnswer:
    """Stands for the result of an event that the driver has not answered yet."""


NO_ANSWER: Final = NoAnswer()


class BatchPart(Protocol):
    """Some events of a batch, in a row."""

    def __len__(self) -> int: ...
    def handle(self, place: int) -> DispatchHandle:
        """Return the handle of an event; `place` is 0 for the first one of the part."""
        ...

    @property
    def pending(self) -> int:
        """The number of events that are not done."""
        ...

    @property
    def events(self) -> Sequence[Any]: ...
    @property
    def receipts(self) -> Sequence[str]: ...
    @property
    def failed(self) -> Sequence[DispatchHandle]:
        """The handles of the events that have errors, in order."""
        ...

    def pending_handles(self) -> Iterator[DispatchHandle]:
        """Yield the handle of each event that is not done by then, the last event first."""
        ...


class HandleList:
    """Events of a batch that have handles."""

    __slots__ = ("_handles",)

    def __init__(self, handles: list[DispatchHandle]) -> None:
        self._handles = handles

    def __len__(self) -> int:
        return len(self._handles)

    def handle(self, place: int) -> DispatchHandle:
        return self._handles[place]

    @property
    def pending(self) -> int:
        return sum(handle._left > 0 for handle in self._handles)

    @property
    def events(self) -> Sequence[Any]:
        return [handle.event for handle in self._handles]

    @property
    def receipts(self) -> Sequence[str]:
        return [handle.receipt for handle in self._handles]

    @property
    def failed(self) -> Sequence[DispatchHandle]:
        return [handle for handle in self._handles if handle._failed()]

    def pending_handles(self) -> Iterator[DispatchHandle]:
        return (handle for handle in reversed(self._handles) if handle._left > 0)


class PostedEvents:
    """Events of a batch that go to the driver only, with their answers.

    Args:
        events: The events.
        routes: Their routes, which have no listeners.
        ids: The ids of their handles.
        since: When they were posted, by the clock of the scheduler.
        cause: The cause of all of them, if a listener has dispatched them.

    Attributes:
        unanswered: The number of events that the driver has not answered.
    """

    __slots__ = ("_handles", "_results", "_since", "cause", "events", "ids", "routes", "unanswered")

    def __init__(
        self,
        events: list[Any],
        routes: Sequence[HandleRoute],
        ids: list[str],
        since: float,
        cause: Cause | None = None,
    ) -> None:
        self.events: list[Any] = events
        self.routes: Sequence[HandleRoute] = routes
        self.ids: list[str] = ids
        self.cause: Cause | None = cause
        self.unanswered: int = len(events)
        self._since = since
        self._results: list[BrokerReceipt | NoAnswer | None] = [NO_ANSWER] * len(events)
        # The handles that somebody has asked for, by place.
        self._handles: dict[int, DispatchHandle] = {}

    def __len__(self) -> int:
        return len(self.events)

    # -- for the publisher

    def answer(
        self,
        results: Sequence[BrokerReceipt | Exception | None],
        first: int,
        fail: Callable[[DispatchHandle, Exception], object],
    ) -> int:
        """Take the driver's answers to some of the events, in a row.

        An event that was answered or withdrawn before is left as it is.

        Args:
            results: The receipts and errors.
            first: The place of the first of these events.
            fail: Reports an event with an error, and settles its handle.

        Returns:
            The number of events that have their answer only now.

        Raises:
            ValueError: There are no such events.
        """
        count, known = len(results), self._results
        if first < 0 or first + count > len(known):
            raise ValueError(f"{count} results from place {first} on for {len(known)} events")
        plain = not any(issubclass(kind, Exception) for kind in {*map(type, results)})
        if plain and count == self.unanswered == len(known):
            self._results = [*results]  # type: ignore[list-item]
            self.unanswered = 0
            for place, handle in self._handles.items():
                settle_with_receipt(handle, results[place])  # type: ignore[arg-type]
            return count
        fresh = 0
        for place, result in enumerate(results, first):
            if known[place] is not NO_ANSWER:
                continue
            fresh += 1
            self.unanswered -= 1
            if isinstance(result, Exception):
                # Before the answer is noted: the handle has not ended yet.
                handle = self.handle(place)
                known[place] = None
                fail(handle, result)
            else:
                known[place] = result
                if place in self._handles:
                    settle_with_receipt(self._handles[place], result)
        return fresh

    def withdraw(self, first: int = 0) -> list[DispatchHandle]:
        """Return the handles of the unanswered events from a place on; the caller settles them."""
        places = [n for n in range(first, len(self)) if self._results[n] is NO_ANSWER]
        handles = [self.handle(place) for place in places]
        for place in places:
            self._results[place] = None
        self.unanswered -= len(places)
        return handles

    @property
    def unanswered_handles(self) -> list[DispatchHandle]:
        """The handles of the unanswered events."""
        return [self.handle(n) for n, known in enumerate(self._results) if known is NO_ANSWER]

    # -- as a part of the batch

    def handle(self, place: int) -> DispatchHandle:
        handle = self._handles.get(place)
        if handle is None:
            result = self._results[place]
            handle = new_handle(self.routes[place], self.events[place])
            handle._since = self._since
            handle._details = details = HandleDetails(None, id=self.ids[place], lineage=self.cause)
            if isinstance(result, NoAnswer):
                handle._left = 1
            else:
                details.receipt = result
            self._handles[place] = handle
        return handle

    @property
    def pending(self) -> int:
        # A withdrawn event may still have to be published.
        withdrawn = [h for n, h in self._handles.items() if self._results[n] is not NO_ANSWER]
        return self.unanswered + sum(handle._left > 0 for handle in withdrawn)

    @property
    def receipts(self) -> Sequence[str]:
        receipts = [
            "" if result is None or isinstance(result, NoAnswer) else result.id
            for result in self._results
        ]
        for place, handle in self._handles.items():
            receipts[place] = handle.receipt
        return receipts

    @property
    def failed(self) -> Sequence[DispatchHandle]:
        return [handle for _, handle in sorted(self._handles.items()) if handle._failed()]

    def pending_handles(self) -> Iterator[DispatchHandle]:
        place = len(self.events)
        while self.unanswered:
            # All events from `place` on have their answers.
            place -= 1
            if self._results[place] is NO_ANSWER:
                yield self.handle(place)
        # A withdrawn event may still have to be published.
        yield from (handle for handle in [*self._handles.values()] if handle._left > 0)


def settle_with_receipt(handle: DispatchHandle, receipt: BrokerReceipt | None) -> None:
    """Settle the handle of an event that the broker has accepted."""
    handle._ensure_details().receipt = receipt
    handle._settle_one()


class BatchHandle(Sequence["DispatchHandle"]):
    """The progress of the events of one batch; `dispatch_many` returns it.

    It is a sequence of the handles of the events, in their order: `batch[0].errors` are the errors
    of the first event. By the time that `dispatch_many` returns, all inline listeners have run.

    Example:
        >>> import trio
        >>> from goevent import Event, GoEvent
        >>> async def main() -> None:
        ...     async with GoEvent() as bus:
        ...         batch = await bus.dispatch_many(
        ...             Event("order.paid", {"order_id": order_id}) for order_id in range(100)
        ...         )
        ...         await batch.wait()
        ...         batch.raise_errors()
        >>> trio.run(main)
    """

    __slots__ = ("_ends", "_parts")

    def __init__(self, parts: Sequence[BatchPart]) -> None:
        self._parts: tuple[BatchPart, ...] = tuple(parts)
        # The number of events up to the end of each part. A long batch has many parts.
        self._ends: list[int] = [*accumulate(map(len, self._parts))]

    @overload
    def __getitem__(self, index: int) -> DispatchHandle: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[DispatchHandle, ...]: ...
    def __getitem__(self, index: int | slice) -> DispatchHandle | tuple[DispatchHandle, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"a batch of {len(self)} events has no event {index}")
        number = bisect_right(self._ends, place)
        part = self._parts[number]
        return part.handle(place - self._ends[number] + len(part))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def events(self) -> tuple[Any, ...]:
        """The events, in the order of the batch."""
        return tuple(event for part in self._parts for event in part.events)

    @property
    def receipts(self) -> tuple[str, ...]:
        """The broker's ids of the events; an empty text where there is none."""
        return tuple(receipt for part in self._parts for receipt in part.receipts)

    @property
    def pending(self) -> int:
        """The number of events that some listener, or the broker, has not finished yet."""
        return sum(part.pending for part in self._parts)

    @property
    def done(self) -> bool:
        """True once all events are done; at once for a batch without events."""
        return not self.pending

    @property
    def failed(self) -> tuple[DispatchHandle, ...]:
        """The handles of the events that have errors so far, in the order of the batch.

        A dropped or abandoned delivery is an error, too; see `EventError.outcome`.
        """
        return tuple(handle for part in self._parts for handle in part.failed)

    @property
    def errors(self) -> tuple[EventError, ...]:
        """The failures so far of all events, in the order of the batch; see `failed`."""
        return tuple(error for handle in self.failed for error in handle.errors)

    def raise_errors(self) -> None:
        """Raise the failures so far; return if there are none.

        Raises:
            ExceptionGroup: At least one event failed. The group holds `EventError`s.
        """
        if errors := self.errors:
            text = f"{len(self.failed)} of {len(self)} events failed"
            raise ExceptionGroup(text, errors)

    async def wait(self) -> None:
        """Wait until every listener has finished every event, and the broker has answered.

        Always a checkpoint. A cancelled wait changes nothing for the events. Every wait ends, as
        that of `DispatchHandle.wait`.

        Raises:
            BusForked: This process is a fork of the bus's.
            DeadlockError: The caller runs inside a listener that has to finish first.
            RuntimeError: This is not a Trio task on the thread of the bus.
        """
        # The last one first: most often the others are done when it is, so the task parks once.
        waited = False
        for part in reversed(self._parts):
            for handle in part.pending_handles():
                await handle.wait()
                waited = True
        if waited:
            return
        if self._parts:
            await self[-1].wait()
        else:
            require_trio()
            await checkpoint()

    def __repr__(self) -> str:
        state = "done" if self.done else f"{self.pending} pending"
        return f"<BatchHandle of {len(self)} event(s), {state}, {len(self.failed)} failed>"


class BatchInterrupted(GoEventError):
    """A batch was cut short: its first events were dispatched, and the others were not.

    `dispatch_many` raises it with its cause, for example a `MailboxFull`. If it is cancelled, the
    bus reports it instead, as the cause of an `EventError` in `bus.errors`.

    Attributes:
        dispatched: The number of events that were dispatched.
        remaining: The number of events that were not. The first of these is the one for which the
            dispatch has failed.
    """

    _batch: BatchHandle = BatchHandle(())

    def __init__(self, reason: str, dispatched: int, remaining: int) -> None:
        self.dispatched: int = dispatched
        self.remaining: int = remaining
        super().__init__(
            f"{dispatched} of {dispatched + remaining} events were dispatched: {reason}"
        )

    @property
    def batch(self) -> BatchHandle:
        """The handle of the events that were dispatched; empty in a copy from another process."""
        return self._batch

    def _state(self) -> dict[str, object]:
        state = super()._state()
        state.pop("_batch", None)
        return state


def interrupted(reason: str, batch: BatchHandle, remaining: int) -> BatchInterrupted:
    """Return the error of a batch of which only the events of `batch` were dispatched."""
    error = BatchInterrupted(reason, len(batch), remaining)
    error._batch = batch
    return error
