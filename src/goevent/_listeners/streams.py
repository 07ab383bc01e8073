"""The streams of a bus: events that the application takes by itself, with `async for`.

`GoEvent.stream` opens one. It registers a `StreamActor`, waits until the driver receives the events
and, when the block ends, unregisters the actor.

`GoEvent.next` takes one event. Its actor is unregistered as the event arrives, and its filter runs
where the events are dispatched. So no event waits for it, and it holds back no dispatch.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from .._errors import BusClosed
from .._foreign import forget_caller
from .._kernel.actor import DispatchOptions
from .._kernel.stream_actor import StreamActor
from .._options.options import OVERFLOWS, Overflow, check_function
from .._options.results import AS_DEF, refuse_unrun
from .._options.retry import check_choice, check_count
from .._options.signature import allow_interrupt

if TYPE_CHECKING:
    from .._kernel.dispatcher import Dispatcher
    from .listeners import Listeners

E_co = TypeVar("E_co", covariant=True)

DEFAULT_STREAM_EVENTS = 100
"""How many events wait in a stream for its consumers, unless `buffer` says so."""


class EventStream(trio.abc.ReceiveChannel[E_co]):
    """The events of one stream, in the order of their dispatch; `GoEvent.stream` opens it.

    Iterate over it with `async for`, or call `receive`. Several tasks may do so: each event goes to
    one of them, and the task that has waited longest gets the next one.
    """

    def __init__(self, actor: StreamActor, dispatcher: Dispatcher, listeners: Listeners) -> None:
        self._actor = actor
        self._dispatcher = dispatcher
        self._listeners = listeners

    @property
    def event_names(self) -> tuple[str, ...]:
        """The event names and patterns of the stream."""
        return self._actor.event_names

    @property
    def waiting(self) -> int:
        """The number of events that no task has taken yet."""
        return len(self._actor.mail)

    @property
    def missed(self) -> int:
        """The number of events that the overflow has dropped, each with an `EventDropped`."""
        return self._actor.dropped

    async def receive(self) -> E_co:
        """Return the next event; wait for it.

        It is always a cancellation point, and a cancelled call takes no event. It yields to other
        tasks whenever it waits and, as `dispatch`, at least every 200 us of a loop that does not
        wait.

        Raises:
            BusForked: This process is a fork of the bus's.
            RuntimeError: This is not a Trio task on the thread of the bus.
            trio.ClosedResourceError: The stream is closed, or its block has ended.
            trio.EndOfChannel: The bus has closed, or the names were unregistered, and all events
                are taken.
        """
        self._dispatcher.check_thread()
        await self._dispatcher.take_turn()
        event: E_co = await self._actor.receive()
        return event

    def receive_nowait(self) -> E_co:
        """Return the next event if there is one.

        Raises:
            trio.WouldBlock: No event waits.
            Exception: As for `receive`.
        """
        self._dispatcher.check_thread()
        actor = self._actor
        if not actor.mail:
            raise trio.WouldBlock if actor.ended is None else actor.ended()
        event: E_co = actor.take()
        return event

    def close(self) -> None:
        """Unsubscribe the stream, and forget the events that wait; dispatches do not wait for it.

        Tasks that wait in `receive` raise `trio.ClosedResourceError`. The end of the block does the
        same. A second call has no effect.

        Raises:
            BusForked: This process is a fork of the bus's.
            RuntimeError: The bus is open on another thread.
        """
        self._dispatcher.check_thread()
        self._actor.cut(trio.ClosedResourceError)
        # In the same step: an event that arrived later would fill the mailbox, and nobody takes it.
        self._listeners.remove(self._actor)

    async def aclose(self) -> None:
        """Close the stream as `close` does. Always a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __repr__(self) -> str:
        names = ", ".join(self.event_names)
        state = "" if self._actor.ended is None else ", ended"
        return f"<EventStream of {names}, {self.waiting} waiting, {self.missed} missed{state}>"


class StreamOpener:
    """Opens the streams of one bus."""

    def __init__(self, dispatcher: Dispatcher, listeners: Listeners) -> None:
        self._dispatcher = dispatcher
        self._listeners = listeners

    @asynccontextmanager
    async def open(
        self, names: tuple[str, ...], *, buffer: int, overflow: Overflow
    ) -> AsyncGenerator[EventStream[Any]]:
        """Open a stream for the time of a block.

        Raises:
            BusClosed: The bus has closed.
            DriverError: The broker has refused a name.
            RuntimeError: The bus is not open yet, or this is not a Trio task on its thread.
            TypeError: The size of the buffer is no int.
            ValueError: The size of the buffer is below 1, or there is no such overflow.
        """
        check_count("buffer", buffer, at_least=1)
        check_choice("overflow", overflow, OVERFLOWS)
        name = f"stream of {', '.join(names)}"
        backpressure = self._dispatcher.backpressure
        async with self._registered(
            StreamActor(name, names, backpressure, capacity=buffer, overflow=overflow)
        ) as stream:
            yield stream

    async def next(self, names: tuple[str, ...], where: Callable[[Any], object] | None) -> Any:
        """Wait for one event.

        Args:
            names: The event names and patterns.
            where: The filter, or None.

        Raises:
            trio.EndOfChannel: The names were unregistered.
            TypeError: The filter is no sync function.
            Exception: As for `open`, and what the filter raises.
        """
        fits = None if where is None else NextFilter(where)
        actor = StreamActor(
            f"next of {', '.join(names)}",
            names,
            self._dispatcher.backpressure,
            capacity=1,
            options=DispatchOptions(once=True, when=fits),
        )
        async with self._registered(actor) as stream:
            try:
                event = await stream.receive()
            except trio.EndOfChannel:
                if self._dispatcher.state == "open":
                    reason = "the names were unregistered before there was such an event"
                    raise trio.EndOfChannel(reason) from None
                raise BusClosed("the bus was closed before there was such an event") from None
        if fits is not None:
            fits.raise_failure()
        return event

    @asynccontextmanager
    async def _registered(self, actor: StreamActor) -> AsyncGenerator[EventStream[Any]]:
        """Keep a stream registered for the time of a block."""
        dispatcher = self._dispatcher
        dispatcher.check_task()
        if dispatcher.state == "new":
            raise RuntimeError("a stream needs an open bus: enter `async with bus` first")
        if dispatcher.state != "open":
            raise BusClosed("the bus is closed or closing and opens no stream")
        stream: EventStream[Any] = EventStream(actor, dispatcher, self._listeners)
        self._listeners.add(actor)
        try:
            await self._listeners.ready(actor.event_names)
            yield stream
        finally:
            if not dispatcher.is_forked:
                stream.close()


class NextFilter:
    """The filter of one `GoEvent.next`.

    An event whose filter raises ends the wait, as one that fits. So the filter is not called again.
    """

    def __init__(self, where: Callable[[Any], object]) -> None:
        check_function("where", where, "a")
        allow_interrupt(where)
        self._where = where
        self._failure: Exception | None = None

    def __call__(self, event: object) -> bool:
        try:
            answer = self._where(event)
            if answer is not True and answer is not False:
                refuse_unrun(answer, "where", AS_DEF)
            return bool(answer)
        except Exception as error:  # noqa: BLE001 - `next` raises it
            forget_caller(error)
            self._failure = error
            return True

    def raise_failure(self) -> None:
        """Raise the exception of the filter, if it has raised one."""
        failure, self._failure = self._failure, None
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # its traceback has this frame
