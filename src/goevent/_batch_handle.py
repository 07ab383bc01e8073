"""The handles of a batch: `BatchHandle`, and the error of a batch that was cut short.

The kernel makes a `BatchHandle` for each call of `dispatch_many`. It is a sequence of the handles
of the events, because each event has its own listeners, errors and receipt.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from trio.lowlevel import checkpoint

from ._errors import EventError, GoEventError, require_trio

if TYPE_CHECKING:
    from ._handle import DispatchHandle


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

    __slots__ = ("_handles",)

    def __init__(self, handles: Sequence[DispatchHandle]) -> None:
        self._handles: tuple[DispatchHandle, ...] = tuple(handles)

    @overload
    def __getitem__(self, index: int) -> DispatchHandle: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[DispatchHandle, ...]: ...
    def __getitem__(self, index: int | slice) -> DispatchHandle | tuple[DispatchHandle, ...]:
        return self._handles[index]

    def __len__(self) -> int:
        return len(self._handles)

    @property
    def events(self) -> tuple[Any, ...]:
        """The events, in the order of the batch."""
        return tuple(handle.event for handle in self._handles)

    @property
    def receipts(self) -> tuple[str, ...]:
        """The broker's ids of the events; an empty text where there is none."""
        return tuple(handle.receipt for handle in self._handles)

    @property
    def pending(self) -> int:
        """The number of events that some listener, or the broker, has not finished yet."""
        return sum(handle._left > 0 for handle in self._handles)

    @property
    def done(self) -> bool:
        """True once all events are done; at once for a batch without events."""
        return all(handle._left <= 0 for handle in self._handles)

    @property
    def failed(self) -> tuple[DispatchHandle, ...]:
        """The handles of the events that have errors so far, in the order of the batch."""
        return tuple(handle for handle in self._handles if handle._failed())

    @property
    def errors(self) -> tuple[EventError, ...]:
        """The failures so far of all events, in the order of the batch; see `failed`."""
        return tuple(error for handle in self._handles for error in handle.errors)

    def raise_errors(self) -> None:
        """Raise the failures so far; return if there are none.

        Raises:
            ExceptionGroup: At least one event failed. The group holds `EventError`s.
        """
        if errors := self.errors:
            text = f"{len(self.failed)} of {len(self._handles)} events failed"
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
        if not self._handles:
            require_trio()
            await checkpoint()
            return
        # The last one first: most often the others are done when it is, so the task parks once.
        waited = False
        for handle in reversed(self._handles):
            if handle._left > 0:
                await handle.wait()
                waited = True
        if not waited:
            await self._handles[-1].wait()

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


def interrupted(reason: str, handles: Sequence[DispatchHandle], remaining: int) -> BatchInterrupted:
    """Return the error of a batch that was cut short after the events of `handles`."""
    error = BatchInterrupted(reason, len(handles), remaining)
    error._batch = BatchHandle(handles)
    return error
