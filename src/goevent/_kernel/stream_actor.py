"""The actor of a stream: consumers take its events from its mailbox, and no worker runs it.

`EventStream` owns it. To the router and to dispatch it is an actor with a mailbox, so the limits of
the mailbox and its overflow hold for a stream as for a listener.

A delivery to a stream ends when the event is in the mailbox. So nothing that waits for a handle, or
for the bus, waits for a consumer. An event that arrives while a consumer waits goes to the consumer
that has waited longest, in the same step.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import outcome
import trio
from trio.lowlevel import (
    Abort,
    Task,
    current_task,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

from .actor import DEFAULT_DISPATCH_OPTIONS, Actor

if TYPE_CHECKING:
    from .._handle import DispatchHandle
    from .._options.options import Overflow
    from .actor import DispatchOptions
    from .backpressure import Backpressure


class StreamMailbox(deque["DispatchHandle"]):
    """The mailbox of a stream: the events that no consumer has taken yet."""

    def __init__(self) -> None:
        super().__init__()
        # A dict in place of a set keeps the order, and finds one of many consumers in one step.
        self._consumers: OrderedDict[Task, None] = OrderedDict()

    def append(self, handle: DispatchHandle, /) -> None:
        """Take an event for a consumer, and end its delivery."""
        if self._consumers:
            task, _ = self._consumers.popitem(last=False)
            reschedule(task, outcome.Value(handle))
        else:
            super().append(handle)
        handle._settle_one()

    async def wait_for_event(self) -> DispatchHandle:
        """Wait for the next event; only while the mailbox is empty."""
        task = current_task()
        self._consumers[task] = None

        def abort(_: object) -> Abort:
            del self._consumers[task]
            return Abort.SUCCEEDED

        handle: DispatchHandle = await wait_task_rescheduled(abort)
        return handle

    def fail(self, error: Callable[[], Exception]) -> None:
        """Raise an error in the consumers that wait."""
        while self._consumers:
            task, _ = self._consumers.popitem(last=False)
            reschedule(task, outcome.Error(error()))


class StreamActor(Actor):
    """The actor of one stream.

    Attributes:
        mail: The mailbox.
        ended: Makes the error for a consumer that finds no more events; None while the stream gets
            events.
    """

    __slots__ = ("_backpressure", "ended")

    mail: StreamMailbox
    settles_on_arrival = True

    def __init__(
        self,
        name: str,
        event_names: tuple[str, ...],
        backpressure: Backpressure,
        *,
        capacity: int,
        overflow: Overflow = "block",
        options: DispatchOptions = DEFAULT_DISPATCH_OPTIONS,
    ) -> None:
        super().__init__(
            name, event_names, uncalled, capacity=capacity, overflow=overflow, options=options
        )
        self.mail = StreamMailbox()
        # As if a worker had it: then dispatch queues it for no worker.
        self.scheduled = True
        self.ended: Callable[[], Exception] | None = None
        self._backpressure = backpressure

    @property
    def unsettled(self) -> int:
        """0: a delivery ends with its arrival."""
        return 0

    @property
    def needed_for_room(self) -> tuple[Actor, ...]:
        """Nothing: any task may take an event."""
        return ()

    @enable_ki_protection
    async def receive(self) -> Any:
        """Return the next event; wait for it. The caller has looked for a cancellation.

        Raises:
            Exception: There are no more events; see `end`.
        """
        if self.mail:
            return self.take()
        if self.ended is not None:
            raise self.ended()
        return (await self.mail.wait_for_event()).event

    @enable_ki_protection
    def take(self) -> Any:
        """Return the next event, and give its room to a dispatch that waits for it."""
        event = self.mail.popleft().event
        if not self.limit:
            self._backpressure.made_room(self)
        return event

    def end(self, error: Callable[[], Exception] = trio.EndOfChannel) -> None:
        """Have the consumers get an error once the mailbox is empty; the first call counts."""
        if self.ended is None:
            self.ended = error
            self.mail.fail(error)

    def cut(self, error: Callable[[], Exception], *, wakes: bool = True) -> None:
        """Have the consumers get an error at once, and forget the events in the mailbox.

        Args:
            error: Makes the error.
            wakes: False if this process is a fork, and the consumers that wait are tasks of the
                parent: they cannot run here.
        """
        self.ended = error
        self.mail.clear()
        if wakes:
            self.mail.fail(error)


def uncalled(_: object) -> None:
    """Stand for the call of a stream, which nothing makes."""
