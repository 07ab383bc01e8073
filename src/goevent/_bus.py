"""`GoEvent`, the bus: the class that applications use.

It makes the parts of a bus and wires them together: the scheduler, the dispatcher, the listeners,
the inbox of the driver. Its methods check the thread and call these parts. A `Session` runs them
while the bus is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from datetime import datetime
from functools import cached_property, partial, update_wrapper
from math import inf
from threading import get_ident
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, Unpack, cast, overload

import trio
from trio.lowlevel import enable_ki_protection

from ._batch_handle import BatchHandle
from ._config import Config, check_close_timeout
from ._conversations.lazy import LazyConversations
from ._errors import BusClosed, DriverError, EventError, require_trio
from ._events.event import AnyEvent
from ._events.event_types import short_name
from ._foreign import leaf_ids, leaves, raise_unchanged
from ._handle import DispatchHandle, Scope
from ._kernel.actor import Actor
from ._kernel.batch_dispatch import BatchDispatch
from ._kernel.dispatcher import Dispatcher
from ._kernel.event_trace import EventTrace
from ._kernel.failures import Failures
from ._kernel.ledger import Ledger, LedgerBook, RequestCounts, Snapshot
from ._kernel.routing import Observer
from ._kernel.scheduler import Scheduler
from ._kernel.supervisor import OnError, Supervisor
from ._lifespans import Lifespans, Opening
from ._listeners.factory import make_handler, make_listener, takes_no_arguments
from ._listeners.listeners import Listeners
from ._listeners.plan import ListenerPlanner
from ._listeners.registered import RegisteredListener
from ._listeners.registration import Registration
from ._listeners.streams import DEFAULT_STREAM_EVENTS, EventStream, StreamOpener
from ._options.callables import refuse_generator
from ._options.decorator import (
    E1,
    E2,
    E3,
    E4,
    E5,
    E6,
    E7,
    E8,
    A,
    ListenerDecorator,
    NameDecorator,
    ResponderDecorator,
)
from ._options.middleware import bind_middleware
from ._options.mistakes import check_callback, check_listener, not_a_listener
from ._options.options import (
    NO_OPTIONS,
    ListenerKeywords,
    ListenerOptions,
    Overflow,
    check_type,
)
from ._options.retry import check_seconds
from ._options.signature import Listener, allow_interrupt, event_name_of, handler_name
from ._ports.inbox import BusInbox
from ._service import BusService
from ._session import Session, first_driver_error, holds_only_cancellations
from ._suggestions import suggest_options
from .drivers.contract import Driver, DriverSnapshot, replayer
from .drivers.discovery import find_driver
from .drivers.error_mapping import REPLAY, driver_errors, first_error

C = TypeVar("C", bound=OnError)
L = TypeVar("L", bound="Callable[[], Opening] | Callable[[GoEvent], Opening]")

DEFAULT_REQUEST_TIMEOUT_SECONDS = 5.0
"""How long a request waits for its answer, unless `timeout` says so."""


class GoEvent:
    """An event bus: brings events to the listeners that are registered for them.

    Register listeners at any time. Dispatch events inside `async with bus`. When the block ends,
    the listeners have `Config.close_timeout` seconds to finish; after an exception they are
    cancelled at once. A bus may be opened again after it has closed. All methods belong to the
    thread on which the bus is open, except `dispatch_from_thread`. In a fork of its process, the
    methods of an open bus raise `BusForked`.

    Args:
        config: A `Config`, or only its driver: a URL, a name or a driver object.

    Raises:
        UnknownDriverError: No installed driver has that name or URL scheme.

    Example:
        >>> bus = GoEvent()
        >>> @bus.listener("order.paid")
        ... async def send_invoice(event: Event) -> None: ...
        >>> async with bus:
        ...     handle = await bus.dispatch(Event("order.paid", {"order_id": 7}))
        ...     await handle.wait()
    """

    def __init__(self, config: Config | str | Driver | None = None) -> None:
        if config is None:
            config = Config()
        elif not isinstance(config, Config):
            config = Config(driver=config)
        self._driver = find_driver(config.driver)
        bound = bind_middleware(config.middleware, self._driver)
        if bound != config.middleware:
            config = replace(config, middleware=bound)
        self._config = config
        self._supervisor = Supervisor()
        self._scheduler = Scheduler(Failures(self._supervisor), config.slow_after)
        self._dispatcher = Dispatcher(config, self._scheduler, self._supervisor)
        self._batch_dispatch = BatchDispatch(self._dispatcher, self._supervisor)
        self._inbox = BusInbox(self._dispatcher, config.registry, config.codec, self._supervisor)
        self._router = self._dispatcher.router
        self._ledger_book = LedgerBook(self._router)
        self._listeners = Listeners(self._dispatcher, self._dispatcher.admission, self._ledger_book)
        self._planner = ListenerPlanner(
            config, self._driver.capabilities, self._scheduler, self._supervisor, self._listeners
        )
        # A call through the methods below would cost a tenth of a dispatch more. So an instance has
        # the dispatcher's own methods. `update_wrapper` at the end of this file gives them the
        # signatures and docstrings of the methods below.
        if type(self).dispatch_nowait is GoEvent.dispatch_nowait:
            self.dispatch_nowait = self._dispatcher.dispatch_nowait  # type: ignore[method-assign, assignment]
        if type(self).dispatch is GoEvent.dispatch:
            self.dispatch = self._dispatcher.dispatch  # type: ignore[method-assign]
        self._streams = StreamOpener(self._dispatcher, self._listeners)
        self._conversations = LazyConversations(self._dispatcher, config, self._driver, self._inbox)
        self._lifespans = Lifespans()
        self._session: Session | None = None
        self._opened: AbstractAsyncContextManager[None] | None = None

    # Not a property: a subclass that keeps its driver under this name may go on assigning it.
    @cached_property
    def driver(self) -> Driver:
        """The driver of the bus: the object for the URL or the name in `Config.driver`.

        A driver offers more than the contract, such as `dead_letters` and `client`. Ask for its
        class first, so that type checkers know it.

        Example:
            >>> bus = GoEvent("redis+streams://localhost?group=billing")
            >>> if isinstance(bus.driver, RedisStreamsDriver):
            ...     print(bus.driver.streams.group)
            billing
        """
        return self._driver

    # Not a property, for the same reason.
    @cached_property
    def config(self) -> Config:
        """The settings of the bus: those that were given to it, or the defaults."""
        return self._config

    # -- listeners

    @overload
    def listener(
        self, event1: str, /, *events: str | type, **options: Unpack[ListenerKeywords]
    ) -> NameDecorator: ...
    @overload
    def listener(
        self, event1: type, event2: str, /, *events: str | type, **options: Unpack[ListenerKeywords]
    ) -> NameDecorator: ...
    @overload
    def listener(
        self, events: Sequence[str | type], /, **options: Unpack[ListenerKeywords]
    ) -> NameDecorator: ...
    @overload
    def listener(
        self,
        event1: str | type,
        event2: str | type,
        event3: str | type,
        event4: str | type,
        event5: str | type,
        event6: str | type,
        event7: str | type,
        event8: str | type,
        event9: str | type,
        /,
        *events: str | type,
        **options: Unpack[ListenerKeywords],
    ) -> NameDecorator: ...
    @overload
    def listener(
        self,
        event1: type[E1],
        event2: type[E2],
        event3: type[E3],
        event4: type[E4],
        event5: type[E5],
        event6: type[E6],
        event7: type[E7],
        event8: type[E8],
        /,
        **options: Unpack[ListenerKeywords],
    ) -> ListenerDecorator[E1 | E2 | E3 | E4 | E5 | E6 | E7 | E8]: ...
    @overload
    def listener(
        self,
        event1: type[E1],
        event2: type[E2],
        event3: type[E3],
        event4: type[E4],
        event5: type[E5],
        event6: type[E6],
        event7: type[E7],
        /,
        **options: Unpack[ListenerKeywords],
    ) -> ListenerDecorator[E1 | E2 | E3 | E4 | E5 | E6 | E7]: ...
    @overload
    def listener(
        self,
        event1: type[E1],
        event2: type[E2],
        event3: type[E3],
        event4: type[E4],
        event5: type[E5],
        event6: type[E6],
        /,
        **options: Unpack[ListenerKeywords],
    ) -> ListenerDecorator[E1 | E2 | E3 | E4 | E5 | E6]: ...
    @overload
    def listener(
        self,
        event1: type[E1],
        event2: type[E2],
        event3: type[E3],
        event4: type[E4],
        event5: type[E5],
        /,
        **options: Unpack[ListenerKeywords],
    ) -> ListenerDecorator[E1 | E2 | E3 | E4 | E5]: ...
    @overload
    def listener(
        self,
        event1: type[E1],
        event2: type[E2],
        event3: type[E3],
        event4: type[E4],
        /,
        **options: Unpack[ListenerKeywords],
    ) -> ListenerDecorator[E1 | E2 | E3 | E4]: ...
    @overload
    def listener(
        self,
        event1: type[E1],
        event2: type[E2],
        event3: type[E3],
        /,
        **options: Unpack[ListenerKeywords],
    ) -> ListenerDecorator[E1 | E2 | E3]: ...
    @overload
    def listener(
        self, event1: type[E1], event2: type[E2], /, **options: Unpack[ListenerKeywords]
    ) -> ListenerDecorator[E1 | E2]: ...
    @overload
    def listener(
        self, event1: type[E1], /, **options: Unpack[ListenerKeywords]
    ) -> ListenerDecorator[E1]: ...
    def listener(
        self, *events: str | type | Sequence[str | type], **options: Unpack[ListenerKeywords]
    ) -> Any:
        """Register the decorated function as a listener of events.

        A `def` runs inline: inside `dispatch`, in the order of registration. An `async def` gets a
        mailbox: it runs after `dispatch` has returned, with one event at a time, in the order of
        dispatch. The decorator returns the function unchanged.

        Args:
            events: The events, by class or by name, one by one or in a list. In a name, a `*` in
                place of a segment matches any one segment, and `**` matches one or more:
                `"order.*"`.
            options: The options; see `ListenerOptions`.

        Raises:
            TypeError: The function does not take one argument, or its parameter is annotated with
                the class of another event.
            ValueError: A name is not a valid event name, or the options contradict each other.

        Example:
            >>> bus = GoEvent()
            >>> @bus.listener("order.*", timeout=5.0)
            ... async def log_order(event: Event) -> None:
            ...     print(event.event_name)
        """
        chosen = ListenerOptions(**options) if options else NO_OPTIONS
        each = one_by_one(events)
        # Now, and not when the decorator is applied: the events may be the decorated function.
        self._planner.event_names(each)

        def register(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
            self._listeners.add(self._planner.build(handler, each, chosen, depth=1))
            return handler

        return register

    @overload
    def subscribe(
        self,
        handler: Callable[[Any], object],
        event1: str,
        /,
        *events: str | type,
        **options: Unpack[ListenerKeywords],
    ) -> Registration: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[Any], object],
        event1: type,
        event2: str,
        /,
        *events: str | type,
        **options: Unpack[ListenerKeywords],
    ) -> Registration: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[Any], object],
        events: Sequence[str | type],
        /,
        **options: Unpack[ListenerKeywords],
    ) -> Registration: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[Any], object],
        event1: str | type,
        event2: str | type,
        event3: str | type,
        event4: str | type,
        event5: str | type,
        event6: str | type,
        event7: str | type,
        event8: str | type,
        event9: str | type,
        /,
        *events: str | type,
        **options: Unpack[ListenerKeywords],
    ) -> Registration: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[E1 | E2 | E3 | E4 | E5 | E6 | E7 | E8], object],
        event1: type[E1],
        event2: type[E2],
        event3: type[E3],
        event4: type[E4],
        event5: type[E5],
        event6: type[E6],
        event7: type[E7],
        event8: type[E8],
        /,
        **options: Unpack[ListenerKeywords],
    ) -> Registration: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[E1 | E2 | E3 | E4 | E5 | E6 | E7], object],
        event1: type[E1],
        event2: type[E2],
        event3: type[E3],
        event4: type[E4],
        event5: type[E5],
        event6: type[E6],
        event7: type[E7],
        /,
        **options: Unpack[ListenerKeywords],
    ) -> Registration: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[E1 | E2 | E3 | E4 | E5 | E6], object],
        event1: type[E1],
        event2: type[E2],
        event3: type[E3],
        event4: type[E4],
        event5: type[E5],
        event6: type[E6],
        /,
        **options: Unpack[ListenerKeywords],
    ) -> Registration: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[E1 | E2 | E3 | E4 | E5], object],
        event1: type[E1],
        event2: type[E2],
        event3: type[E3],
        event4: type[E4],
        event5: type[E5],
        /,
        **options: Unpack[ListenerKeywords],
    ) -> Registration: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[E1 | E2 | E3 | E4], object],
        event1: type[E1],
        event2: type[E2],
        event3: type[E3],
        event4: type[E4],
        /,
        **options: Unpack[ListenerKeywords],
    ) -> Registration: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[E1 | E2 | E3], object],
        event1: type[E1],
        event2: type[E2],
        event3: type[E3],
        /,
        **options: Unpack[ListenerKeywords],
    ) -> Registration: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[E1 | E2], object],
        event1: type[E1],
        event2: type[E2],
        /,
        **options: Unpack[ListenerKeywords],
    ) -> Registration: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[E1], object],
        event1: type[E1],
        /,
        *events: type[E1],
        **options: Unpack[ListenerKeywords],
    ) -> Registration: ...
    def subscribe(
        self,
        handler: Callable[[Any], Any],
        *events: str | type | Sequence[str | type],
        **options: Unpack[ListenerKeywords],
    ) -> Registration:
        """Register a function as `listener` does, and return its registration.

        Args:
            handler: The function.
            events: The events, by class or by name, one by one or in a list.
            options: The options; see `ListenerOptions`.

        Returns:
            The registration, which can unregister the function.

        Raises:
            TypeError: The function does not take one argument, or its parameter is annotated with
                the class of another event.
            ValueError: A name is not a valid event name, or the options contradict each other.

        Example:
            >>> bus = GoEvent()
            >>> registration = bus.subscribe(print, "order.paid")
            >>> registration.unregister()
        """
        chosen = ListenerOptions(**options) if options else NO_OPTIONS
        actor = self._planner.build(handler, one_by_one(events), chosen, depth=1)
        self._listeners.add(actor)
        return Registration(self._listeners, (actor,))

    def register_listener(self, *listeners: Listener | Callable[[], Listener]) -> Registration:
        """Register listener objects, as Go's `RegisterListener`.

        Args:
            listeners: Objects with `event_name` and `on_event`; or classes, or functions without
                arguments, that make such objects. A class or function is called at once, and again
                whenever the supervision of the listener restarts it.

        Returns:
            One registration for all of them.

        Raises:
            TypeError: One of them is not a listener. Then none is registered.

        Example:
            >>> bus = GoEvent()
            >>> class SendInvoice:
            ...     event_name = "order.paid"
            ...     async def on_event(self, event: Event) -> None: ...
            >>> registration = bus.register_listener(SendInvoice)
        """
        actors: list[Actor] = []
        for given in listeners:
            if isinstance(given, type) or not isinstance(given, Listener):
                if not takes_no_arguments(given):
                    raise not_a_listener(given)
                factory = partial(make_listener, given)
                listener = factory()
            else:
                factory, listener = None, given
            name = short_name(type(listener))
            options = getattr(listener, "options", None) or NO_OPTIONS
            check_listener(name, listener)
            check_type(f"{name}.options", options, ListenerOptions, "a ListenerOptions")
            if options.name is None:
                unique = self._planner.names.of(type(listener))
                options = ListenerOptions(name=unique).over(options)
            actor = self._planner.build(
                listener.on_event,
                (listener.event_name,),
                options,
                depth=1,
                factory=None if factory is None else partial(make_handler, factory),
            )
            actors.append(actor)
        for actor in actors:
            self._listeners.add(actor)
        return Registration(self._listeners, tuple(actors))

    def unregister_listeners_for_event(self, event: str | type) -> None:
        """Unregister every listener of an event; there may be none.

        A listener that gets the event by a pattern stays, unless you give the pattern itself.

        Args:
            event: The event, by class or by name, or a pattern.

        Example:
            >>> bus = GoEvent()
            >>> bus.unregister_listeners_for_event("order.paid")
        """
        self._listeners.remove_name(event_name_of(event, self._config.registry))

    @overload
    def stream(
        self, event1: type[E1], event2: type[E2], /, *, buffer: int = ..., overflow: Overflow = ...
    ) -> AbstractAsyncContextManager[EventStream[E1 | E2]]: ...
    @overload
    def stream(
        self, event1: type[E1], /, *, buffer: int = ..., overflow: Overflow = ...
    ) -> AbstractAsyncContextManager[EventStream[E1]]: ...
    @overload
    def stream(
        self,
        *events: str | type | Sequence[str | type],
        buffer: int = ...,
        overflow: Overflow = ...,
    ) -> AbstractAsyncContextManager[EventStream[Any]]: ...
    def stream(
        self,
        *events: str | type | Sequence[str | type],
        buffer: int = DEFAULT_STREAM_EVENTS,
        overflow: Overflow = "block",
    ) -> AbstractAsyncContextManager[EventStream[Any]]:
        """Take events with `async for`, from the beginning of the block to its end.

        When the block begins, the driver receives the events. They come in the order in which a
        listener would get them, of this bus and of others. When the block ends, the events that
        nobody has taken are forgotten. When the bus closes, or the names are unregistered, the loop
        takes the events that wait, and ends.

        A delivery ends when its event is in the stream, so `DispatchHandle.wait` and a durable
        broker do not wait for the loop. Use a listener for work that must not be lost. On a driver
        with groups, a stream takes events from its group as a listener does.

        Args:
            events: The events, by class or by name, one by one or in a list; also patterns.
            buffer: How many events wait for the loop.
            overflow: The fate of an event for a full buffer. `"block"` has its dispatch wait for
                room, `"error"` has it raise `MailboxFull`. `"drop_new"` drops this event and
                `"drop_old"` the oldest one: `EventStream.missed` counts them, and each is an
                `EventDropped`.

        Returns:
            A context manager that gives an `EventStream`. Its block raises `BusClosed` if the bus
            has closed, `DriverError` if the broker refuses a name, and `RuntimeError` if the bus is
            not open yet.

        Raises:
            TypeError: There is no event, or one is neither a name nor an event class.
            UnsupportedError: The driver cannot subscribe to a pattern.
            ValueError: A name is neither an event name nor an event pattern.

        Example:
            >>> async def show(bus: GoEvent) -> None:
            ...     async with bus.stream("order.*") as events:
            ...         async for event in events:
            ...             print(event)
        """
        names = self._planner.stream_names(one_by_one(events))
        return self._streams.open(names, buffer=buffer, overflow=overflow)

    @overload
    async def next(
        self,
        event: type[E1],
        /,
        *,
        where: Callable[[E1], object] | None = ...,
        timeout: float | None = ...,
    ) -> E1: ...
    @overload
    async def next(
        self,
        *events: str | type | Sequence[str | type],
        where: Callable[[Any], object] | None = ...,
        timeout: float | None = ...,
    ) -> Any: ...
    async def next(
        self,
        *events: str | type | Sequence[str | type],
        where: Callable[[Any], object] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Wait for the next event, and return it.

        Events that were dispatched before the call are not seen. Open a `stream` first to be sure
        of the answer to an event that this task dispatches.

        Args:
            events: The events, by class or by name, one by one or in a list; also patterns.
            where: A filter: it returns true for the event to wait for. It is called during
                dispatch, as `when=` of a listener, and its exceptions leave the call.
            timeout: The seconds to wait; None to wait as long as it takes.

        Raises:
            BusClosed: The bus has closed, or closes before there is such an event.
            DriverError: The broker has refused a name.
            RuntimeError: The bus is not open yet, or this is not a Trio task on its thread.
            trio.EndOfChannel: The names were unregistered before there was such an event.
            trio.TooSlowError: There was no such event in time.
            TypeError: The filter cannot be called, or is async.
            Exception: As for `stream`.

        Example:
            >>> async def shipped(bus: GoEvent) -> Event:
            ...     return await bus.next("order.shipped", timeout=5.0)
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        names = self._planner.stream_names(one_by_one(events))
        with trio.fail_after(inf if timeout is None else timeout):
            return await self._streams.next(names, where)

    @overload
    def responder(
        self, event: type[E1], answer: type[A], /, **options: Unpack[ListenerKeywords]
    ) -> ResponderDecorator[E1, A]: ...
    @overload
    def responder(
        self, event: type[E1], /, **options: Unpack[ListenerKeywords]
    ) -> ResponderDecorator[E1, Any]: ...
    @overload
    def responder(
        self, event: str, answer: type[A], /, **options: Unpack[ListenerKeywords]
    ) -> ResponderDecorator[Any, A]: ...
    @overload
    def responder(
        self, event: str, /, **options: Unpack[ListenerKeywords]
    ) -> ResponderDecorator[Any, Any]: ...
    def responder(
        self,
        event: str | type,
        answer: type[Any] | None = None,
        /,
        **options: Unpack[ListenerKeywords],
    ) -> Any:
        """Register the decorated function as the responder to requests of an event.

        The function returns the answer to `request`: an event, a dataclass, an attrs class, a model
        or a built-in value. An `async def` is cancelled as soon as it is known that its requester
        waits no longer, and within five seconds if the requester's process has died. A `def` runs
        to its end.

        A responder is a listener with a mailbox, and has a listener's options. One request has one
        responder: buses on a driver with groups share the requests of their group; otherwise each
        request goes to one of all buses with a responder. The listeners of the event do not get its
        requests.

        A request reaches a responder at most once. On a durable driver it reaches another one if
        the bus of the first one ends; `current_delivery().redelivered` tells. If the responder
        fails, the requester gets a `RemoteError`, and this bus an `EventError`.

        Args:
            event: The event, by class or by name.
            answer: The class of the answer. Type checkers then check what the function returns, and
                so does the bus.
            options: The options; see `ListenerOptions`.

        Raises:
            TypeError: The function does not take one argument, or its parameter is annotated with
                the class of another event.
            UnsupportedError: The driver carries no replies.
            ValueError: The event has a responder on this bus, the name is a pattern, or the options
                make no sense.

        Example:
            >>> bus = GoEvent()
            >>> @bus.responder("price.asked", dict)
            ... async def price(event: Event) -> dict:
            ...     return {"cents": 250}
            >>> async with bus:
            ...     print(await bus.request(Event("price.asked", {"sku": "A"}), dict))
            {'cents': 250}
        """

        def register(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
            self._add_responder(handler, event, answer, options)
            return handler

        return register

    def respond(
        self,
        handler: Callable[[Any], Any],
        event: str | type,
        answer: type[Any] | None = None,
        /,
        **options: Unpack[ListenerKeywords],
    ) -> Registration:
        """Register a function as the responder to requests of an event; see `responder`.

        Returns:
            The registration, with which the responder can be unregistered.

        Example:
            >>> def double(event: Event) -> int:
            ...     return event.payload()["number"] * 2
            >>> bus = GoEvent()
            >>> registration = bus.respond(double, "double.asked", int)
            >>> registration.unregister()
        """
        return Registration(
            self._listeners, (self._add_responder(handler, event, answer, options),)
        )

    def _add_responder(
        self,
        handler: Callable[[Any], Any],
        event: str | type,
        answer: type[Any] | None,
        options: ListenerKeywords,
    ) -> Actor:
        self._dispatcher.check_thread()
        names = self._planner.event_names((event,))
        conversations = self._conversations.get()
        conversations.check_responder(names)
        asked = ListenerOptions(**options)
        if asked.async_ is False:
            raise ValueError("a responder has a mailbox, so async_=False makes no sense")
        if not asked.thread:
            asked = replace(asked, async_=True)
        wrapper = conversations.responder(answer)
        actor = self._planner.build(handler, (event,), asked, depth=2, wrapper=wrapper)
        self._listeners.add(actor)
        conversations.add(names, actor, answer)
        return actor

    async def request(
        self,
        event: object,
        answer: type[A],
        /,
        *,
        timeout: float | None = DEFAULT_REQUEST_TIMEOUT_SECONDS,
    ) -> A:
        """Ask the responder to an event, and return its answer.

        A responder of this bus is asked first, without the broker. Otherwise the request goes to
        one bus with a responder. The time that is left until the deadline travels with it: the
        nearest one of `timeout` and of the cancel scopes around the call. It bounds the run of the
        responder, and of the requests that the responder makes. If the call is cancelled, an
        `async def` responder is cancelled, too. If the nearest deadline is that of a cancel scope,
        the scope cancels the call, and there is no `RequestTimeout`.

        Args:
            event: The event.
            answer: The type of the answer, such as an event class, `int` or `list[int]`.
            timeout: The seconds to wait for the answer; None for no limit but that of the cancel
                scopes around the call.

        Raises:
            BusClosed: The bus is closed, or closes meanwhile.
            DeadlockError: The responder works on a request that waits for this one.
            DecodeError: The answer is not of this type.
            DriverError: The broker cannot be reached, or has refused the request.
            EncodeError: The event cannot be encoded.
            NestingError: More than 32 responders make requests inside each other.
            NoResponder: No bus responds to the event. It is raised at once if the driver can tell,
                otherwise at the timeout.
            RemoteError: The responder has failed.
            RequestLost: The request or its answer was lost, or the bus that had it has ended.
            RequestRefused: The bus of the responder has refused the request, or middleware around
                the dispatch has vetoed it.
            RequestTimeout: The answer has not come in time. It is a `trio.TooSlowError`.
            RuntimeError: The bus is not open yet, or this is not a Trio task on its thread.
            TypeError: The object is not an event, or no answer can be of this type.
            UnknownEventError: The name of an ad-hoc event has no type, and the registry is strict.
            UnsupportedError: The driver carries no replies.
            ValueError: The timeout is negative or not finite.

        Example:
            >>> bus = GoEvent()
            >>> @bus.responder("sum.asked", int)
            ... def add(event: Event) -> int:
            ...     return sum(event.payload()["numbers"])
            >>> async with bus:
            ...     print(await bus.request(Event("sum.asked", {"numbers": [1, 2]}), int))
            3
        """
        result: A = await self._conversations.get().requests.ask(event, answer, timeout)
        return result

    def registered_listeners(self) -> tuple[RegisteredListener, ...]:
        """Return every listener with its options, in the order of registration.

        Streams are not among them.

        Example:
            >>> bus = GoEvent()
            >>> registration = bus.subscribe(print, "order.paid", async_=True, mailbox=10)
            >>> [each.options.mailbox for each in bus.registered_listeners()]
            [10]
        """
        self._dispatcher.check_thread()
        actors = self._router.listeners()
        made = self._conversations.made
        return tuple(
            RegisteredListener.of(actor, None if made is None else made.answer_of(actor))
            for actor in actors
            if actor.resolved
        )

    # -- dispatch

    def dispatch_nowait(self, event: AnyEvent) -> DispatchHandle:
        """Dispatch an event without waiting: call inline listeners, fill mailboxes.

        Inside an inline listener the event is dispatched at once, nested in the other one.

        Args:
            event: The event.

        Returns:
            The handle, which tells when the listeners with a mailbox have finished.

        Raises:
            BusClosed: The bus is closed, or it is closing and the caller is not one of its
                listeners.
            DecodeError: The payload of an ad-hoc event does not fit the type that is registered
                for its name.
            MailboxFull: A mailbox with `overflow="error"` is full. No listener got the event.
            NestingError: Inline listeners dispatch too deep inside each other.
            RuntimeError: The bus is not open yet, or this is not its thread.
            TypeError: The object is not an event, or an inline `async def` would have to be
                awaited.
            UnknownEventError: The name of an ad-hoc event has no type, and the registry is strict.
            trio.WouldBlock: A mailbox is full, and `dispatch` would wait for room. No listener got
                the event.

        Example:
            >>> bus = GoEvent()
            >>> async with bus:
            ...     handle = bus.dispatch_nowait(Event("order.paid", {"order_id": 7}))
        """
        return self._dispatcher.dispatch_nowait(event)

    async def dispatch(self, event: AnyEvent, *, scope: Scope = "local") -> DispatchHandle:
        """Dispatch an event, waiting for room in full mailboxes, as Go's `Dispatch`.

        When it returns, every inline listener has run, and every other listener has the event in
        its mailbox; `await handle.wait()` waits for those. All mailboxes are filled in one step,
        before the inline listeners run: if the dispatch is cancelled before that, no listener gets
        the event. Dispatches that wait for room are served in order.

        Always a cancellation point, but not always a checkpoint: it yields to other tasks when it
        waits, and at least every 200 microseconds of dispatching.

        Args:
            event: The event: an instance of a registered class, or `Event(name, payload)`.
            scope: `"all"` asks the other buses to report on the event, so that
                `handle.wait(scope="all")` waits for their listeners, too.

        Returns:
            The handle, which tells when the listeners with a mailbox have finished.

        Raises:
            BusClosed: The bus is closed, or it is closing and the caller is not one of its
                listeners.
            DeadlockError: The caller is a listener that the full mailbox would wait for in turn.
            DecodeError: The payload of an ad-hoc event does not fit the type that is registered
                for its name.
            MailboxFull: A mailbox with `overflow="error"` is full. No listener got the event.
            NestingError: Inline listeners dispatch too deep inside each other.
            RuntimeError: The bus is not open yet, or this is not its thread.
            TypeError: The object is not an event.
            UnknownEventError: The name of an ad-hoc event has no type, and the registry is strict.
            UnsupportedError: The driver carries no reports, or takes an event to one bus only; with
                `scope="all"`.

        Example:
            >>> bus = GoEvent()
            >>> async with bus:
            ...     handle = await bus.dispatch(Event("order.paid", {"order_id": 7}))
            ...     await handle.wait()
        """
        return await self._dispatcher.dispatch(event, scope=scope)

    async def dispatch_many(self, events: Iterable[AnyEvent]) -> BatchHandle:
        """Dispatch many events, and hand them to the broker together.

        Each event goes to the listeners of this bus as `dispatch` brings it, in the order of the
        batch. A broker gets the events in the same order, as many as possible in one write; its
        answers come together, too. So a batch costs a fraction of its events by themselves, where
        there is a broker. Events of other tasks may come between those of a batch.

        The iterable is read to its end, and all events are checked, before the first one is
        dispatched. If one is not valid, none is dispatched. A batch without events is done at once.

        Always a cancellation point. A cancellation that finds the batch waiting for room in a
        mailbox, or for an inline `async def`, leaves the earlier events dispatched: then the bus
        reports a `BatchInterrupted`, which tells their number. In all other cases it finds none of
        the events dispatched, or all. A long batch yields to other tasks, at least every 200
        microseconds, and is not cancelled there.

        Args:
            events: The events, of any names and classes. A mailbox may have room for fewer.

        Returns:
            The handles of the events.

        Raises:
            BatchInterrupted: Some events were dispatched, and the next one could not be. The cause
                is the error that `dispatch` raises for it.
            BusClosed: The bus is closed, or it is closing and the caller is not one of its
                listeners.
            DeadlockError: The caller is a listener that the full mailbox would wait for in turn.
            DecodeError: The payload of an ad-hoc event does not fit the type that is registered
                for its name.
            MailboxFull: A mailbox with `overflow="error"` has no room for all of its events. No
                listener got any of them. A listener with `when=` decides only as the events are
                dispatched, and may interrupt the batch.
            NestingError: Inline listeners dispatch too deep inside each other.
            RuntimeError: The bus is not open yet, or this is not its thread.
            TypeError: This is not an iterable, or one of the objects is not an event.
            UnknownEventError: The name of an ad-hoc event has no type, and the registry is strict.

        Example:
            >>> bus = GoEvent()
            >>> async with bus:
            ...     batch = await bus.dispatch_many(
            ...         Event("order.paid", {"order_id": order_id}) for order_id in range(100)
            ...     )
            ...     await batch.wait()
        """
        return await self._batch_dispatch.dispatch(events)

    def dispatch_many_nowait(self, events: Iterable[AnyEvent]) -> BatchHandle:
        """Dispatch many events as `dispatch_many`, without waiting for anything.

        Args:
            events: The events. No mailbox may be too small for its share of them; that of events
                for the broker holds 1,024.

        Returns:
            The handles of the events.

        Raises:
            BatchInterrupted: Some events were dispatched, and the next one could not be: an inline
                listener has dispatched into a mailbox, for example. The cause is the error that
                `dispatch_nowait` raises for it.
            MailboxFull: A mailbox with `overflow="error"` has no room for all of its events. No
                listener got any of them. A listener with `when=` decides only as the events are
                dispatched, and may interrupt the batch.
            TypeError: This is not an iterable, one of the objects is not an event, or an inline
                `async def` would have to be awaited.
            trio.WouldBlock: `dispatch_many` would have to wait for room. No listener got any of the
                events.

        All other errors are those of `dispatch_nowait`.

        Example:
            >>> bus = GoEvent()
            >>> async with bus:
            ...     batch = bus.dispatch_many_nowait([Event("order.paid"), Event("order.shipped")])
        """
        return self._batch_dispatch.dispatch_nowait(events)

    def dispatch_from_thread(self, event: AnyEvent) -> DispatchHandle:
        """Dispatch from a thread other than the bus's; blocks that thread where `dispatch` waits.

        A listener with `thread=True` may do so while the bus is closing, as any listener may.

        Args:
            event: The event.

        Raises:
            BusClosed: The bus is closed or closing.
            RuntimeError: This is the bus's own thread, or the bus is not open yet.

        Example:
            >>> bus = GoEvent()
            >>> def work() -> None:
            ...     bus.dispatch_from_thread(Event("order.paid", {"order_id": 7}))
            >>> async with bus:
            ...     await trio.to_thread.run_sync(work)
        """
        self._dispatcher.check_process()
        port = None if self._session is None else self._session.thread_port
        if port is None:
            raise RuntimeError("dispatch needs an open bus: enter `async with bus` first")
        if self._dispatcher.on_home_thread:
            raise RuntimeError("this is the bus's own thread: use dispatch or dispatch_nowait")
        # A thread that runs a listener may dispatch as long as any listener may.
        if get_ident() in self._scheduler.threads:
            return trio.from_thread.run(self._dispatcher.dispatch, event)
        return port.dispatch(event)

    async def wait(self) -> None:
        """Wait until every event that was accepted so far is settled.

        An event is settled when each of its listeners has finished or failed, or will not get it.
        A cancelled wait changes nothing.

        Raises:
            RuntimeError: A listener called this: it would wait for its own end.

        Example:
            >>> bus = GoEvent()
            >>> async with bus:
            ...     for order_id in range(10):
            ...         handle = await bus.dispatch(Event("order.paid", {"order_id": order_id}))
            ...     await bus.wait()
        """
        self._dispatcher.check_task()
        await self._dispatcher.wait()

    async def ready(self) -> None:
        """Wait until the driver brings the events of all listeners that are registered now.

        `async with bus` begins ready; call this after you have registered listeners on an open bus.
        Always a checkpoint. Without a driver that reaches other buses it returns at once.

        Raises:
            DriverError: The broker has refused a subscription. The bus keeps trying.

        Example:
            >>> bus = GoEvent()
            >>> async with bus:
            ...     registration = bus.subscribe(print, "order.cancelled")
            ...     await bus.ready()
        """
        await self._listeners.ready()

    async def replay(
        self,
        event: str | type,
        start: str | datetime = "earliest",
        end: str | datetime | None = None,
        *,
        group: str | None = None,
    ) -> int:
        """Deliver stored events to a consumer group once more.

        Args:
            event: The event, by class or by name.
            start: The first event: a time, the broker's id of an event, or `"earliest"`.
            end: The last event: a time or an id; None for the newest one.
            group: The consumer group; None for that of this bus.

        Returns:
            The number of events.

        Raises:
            DriverError: The broker cannot be reached, or it has refused the request.
            UnsupportedError: The driver stores no events.

        Example:
            >>> async def repeat_today(bus: GoEvent, midnight: datetime) -> int:
            ...     return await bus.replay("order.paid", start=midnight)
        """
        self._dispatcher.check_task()
        name = event_name_of(event, self._config.registry)
        replay = replayer(self._driver)
        with driver_errors(self._driver, REPLAY):
            return await replay(name, start, end, group)

    # -- traces

    def tracing(self, *, max_events: int = 1000) -> AbstractContextManager[None]:
        """Note during a block what each event causes, for `trace`.

        A dispatch costs a few microseconds more in the block, and nothing outside of it. Blocks may
        nest, and the bus may open and close inside. The notes stay after the block, until the next
        one begins.

        Args:
            max_events: The number of the newest events that are kept.

        Raises:
            RuntimeError: The block begins in an inline listener, or on another thread.
            TypeError: The number is no integer.
            ValueError: The number is less than 1.

        Example:
            >>> bus = GoEvent()
            >>> @bus.listener("order.placed")
            ... async def ask_for_payment(event: Event) -> None:
            ...     await bus.dispatch(Event("payment.due"))
            >>> async with bus:
            ...     with bus.tracing():
            ...         handle = await bus.dispatch(Event("order.placed"))
            ...         await bus.wait()
            >>> [event.event_name for _, event in bus.trace(handle).walk()]
            ['order.placed', 'payment.due']
        """
        if isinstance(max_events, bool) or not isinstance(max_events, int):
            raise TypeError(f"max_events must be a number of events, not {max_events!r}")
        if max_events < 1:
            raise ValueError(f"max_events must be at least 1, not {max_events}")
        return self._dispatcher.tracing(max_events)

    def trace(self, handle: DispatchHandle | str) -> EventTrace:
        """Return what an event has caused so far on this bus, as a tree; `str()` prints it.

        Args:
            handle: The handle of an event that was dispatched inside `with bus.tracing()`; or the
                id of an event that was dispatched or has arrived there.

        Raises:
            TypeError: This is no handle and no id.
            ValueError: The event was not traced, or newer events have taken its place.
        """
        self._dispatcher.check_thread()
        if not isinstance(handle, str | DispatchHandle):
            raise TypeError(f"an event is traced by its handle or by its id, not by {handle!r}")
        event_id = handle if isinstance(handle, str) else handle.id
        found = self._dispatcher.traced().trace(event_id)
        if found is None:
            raise ValueError(
                f"the event {event_id} was not dispatched inside `with bus.tracing():`, or it is "
                "not among the newest events that were traced there"
            )
        return found

    # -- errors

    @property
    def errors(self) -> tuple[EventError, ...]:
        """The newest 10,000 failures, the oldest first."""
        self._dispatcher.check_thread()
        return self._supervisor.errors

    @property
    def error_count(self) -> int:
        """The number of failures since the bus was made. It never goes down."""
        return self._supervisor.count

    def clear_errors(self) -> None:
        """Forget the failures in `errors`; `error_count` stays."""
        self._dispatcher.check_thread()
        self._supervisor.clear()
        for actor in self._router.listeners():
            if isinstance(actor.last_error, EventError):
                actor.last_error = actor.last_error.as_text()

    def on_error(self, callback: C) -> C:
        """Call a function for every failure from now on; usable as a decorator.

        Callbacks run in a task of the supervisor, one failure at a time, in order, so they hold up
        no listener. A callback that is more than 100 failures behind gets the later ones as text,
        without their exception; beyond 10,000 it misses failures. A callback that raises is logged.
        With a callback, failures that the application does not look at are no longer logged.

        Args:
            callback: A `def` or an `async def` that takes an `EventError`.

        Returns:
            The callback, unchanged.

        Raises:
            TypeError: The callback cannot be called with one argument, or is a generator function.

        Example:
            >>> bus = GoEvent()
            >>> @bus.on_error
            ... def report(error: EventError) -> None:
            ...     print(error.listener, error.reason)
        """
        self._dispatcher.check_thread()
        check_callback(callback)
        refuse_generator(callback, handler_name(callback))
        allow_interrupt(callback)
        self._supervisor.callbacks.append(callback)
        return callback

    # -- state

    def snapshot(self) -> Snapshot:
        """Return the state of every listener, the ledger of all deliveries, and other counts.

        It belongs to the bus's thread; other threads call `snapshot_from_thread`.

        Example:
            >>> bus = GoEvent()
            >>> bus.snapshot().state
            'new'
        """
        self._dispatcher.check_thread()
        scheduler, inbox = self._scheduler, self._inbox
        listeners, ledger = self._ledger_book.snapshots(
            scheduler.clock(), scheduler.suspended_for()
        )
        made = self._conversations.made
        return Snapshot(
            state=self._dispatcher.state,
            listeners=listeners,
            ledger=ledger,
            error_count=self._supervisor.count,
            driver=self._snapshot_driver(),
            events=self._ledger_book.events(),
            redelivered=inbox.redelivered,
            dead_lettered=inbox.dead_lettered,
            missing=inbox.missing,
            requests=RequestCounts() if made is None else made.counts,
        )

    def snapshot_from_thread(self, timeout: float = 5.0) -> Snapshot:
        """Return the snapshot on a thread other than the bus's, such as that of a metrics server.

        It blocks the calling thread until the event loop of the bus has taken the snapshot. It
        works in every state of the bus; one that is not open needs no event loop.

        Args:
            timeout: Seconds to wait for the event loop.

        Raises:
            BusForked: This is a fork of the bus's process.
            RuntimeError: This is the bus's own thread.
            TimeoutError: The event loop has not answered in time: something blocks it, or a guest
                run does not go on.

        Example:
            >>> bus = GoEvent()
            >>> bus.snapshot_from_thread().state
            'new'
        """
        self._dispatcher.check_process()
        if self._dispatcher.on_home_thread:
            raise RuntimeError("this is the bus's own thread: use snapshot")
        port = None if self._session is None else self._session.thread_port
        if port is not None:
            try:
                return port.ask(self.snapshot, timeout)
            except trio.RunFinishedError:
                # The bus is closed, so no thread owns it.
                pass
        return self.snapshot()

    def _snapshot_driver(self) -> DriverSnapshot | None:
        snapshot: Callable[[], DriverSnapshot] | None = getattr(self._driver, "snapshot", None)
        if snapshot is None:
            return None
        with driver_errors(self._driver, "tell its state"):
            return snapshot()

    async def close(self, timeout: float | None = None) -> Ledger:
        """Close the bus: take no more events, let listeners finish, stop, as Go's `Close`.

        The end of `async with bus` does this, too. Listeners that are still running may dispatch.
        After the timeout they are cancelled, and each event that no listener has run with is
        reported as `EventAbandoned` on its handle. A cancelled `close` stops waiting and cancels
        the listeners. Several tasks may call it, several times: all get the same ledger, and the
        shortest timeout counts. A bus that is not open has nothing to close.

        Args:
            timeout: Seconds that listeners have to finish; None for `Config.close_timeout`.

        Returns:
            The ledger of all deliveries since the bus was opened.

        Raises:
            RuntimeError: A listener called this: it would wait for its own end.
            TypeError: The timeout is not a number.
            ValueError: The timeout is negative.

        Example:
            >>> bus = GoEvent()
            >>> async with bus:
            ...     handle = await bus.dispatch(Event("order.paid", {"order_id": 7}))
            ...     ledger = await bus.close(timeout=1.0)
        """
        self._dispatcher.check_task()
        if timeout is not None:
            check_close_timeout("timeout", timeout)
        if self._session is None:
            await trio.lowlevel.checkpoint()
            return Ledger()
        self._dispatcher.reentrancy.refuse_listener("close")
        return await self._session.close(self._config.close_timeout if timeout is None else timeout)

    async def serve(
        self,
        *,
        grace: float = 25.0,
        http: str | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> Ledger:
        """Open the bus, wait for SIGTERM or SIGINT, drain, and return the ledger.

        `trio.run(bus.serve)` is the smallest whole program of a worker. A second signal cuts the
        drain short: it cancels the listeners, and a durable driver releases their events. A signal
        before the bus is open cancels the opening. While this runs, SIGINT raises no
        `KeyboardInterrupt`. If a task calls `close`, this returns, too. A cancelled `serve` does
        not drain.

        Args:
            grace: Seconds that listeners have to finish after the signal. The supervisor of the
                process has to wait some seconds longer before it kills.
            http: The address of the live page, such as `"127.0.0.1:8080"`; needs the extra `web`.
            task_status: Started once the bus is open and ready, for `nursery.start(bus.serve)`.

        Returns:
            The ledger of all deliveries since the bus was opened.

        Raises:
            DriverError: The driver cannot connect, or it cannot go on.
            EventError: A failure of a listener escalated.
            ModuleNotFoundError: The live page is asked for, and the extra `web` is not installed.
            OSError: The address of the live page is taken.
            RuntimeError: This is not the main thread, or the bus is open already.
            TypeError: The grace is not a number.
            ValueError: The grace is negative.

        Example::

            bus = GoEvent("redis+streams://localhost?group=billing")

            if __name__ == "__main__":
                ledger = trio.run(bus.serve)
                sys.exit(1 if ledger.abandoned else 0)
        """
        require_trio()
        check_close_timeout("grace", grace)
        before = self._session

        def ledger() -> Ledger:
            session = self._session
            return Ledger() if session is None or session is before else session.ledger

        service = BusService(self, self._wait_closed, ledger, grace, http)
        return await service.run(task_status=task_status)

    async def _wait_closed(self) -> None:
        if self._session is not None:
            await self._session.wait_ended()

    def lifespan(self, function: L) -> L:
        """Surround each opening of the bus with a function, for connections and pools.

        The function is an `async def` with one `yield`. The part before it runs before the driver
        connects and before a listener runs, the part after it once the bus has drained and closed.
        The bus accepts no event in either part. Several functions nest: the last one registered is
        the first one left.

        A function that raises before its `yield` ends the opening, and its error leaves. An error
        or a cancellation that ends the bus is raised at the `yield`; put cleanup into `finally`,
        and shield cleanup that awaits. A function that raises after its `yield` does not keep the
        others from ending. Its error leaves `async with bus`, unless another error does: then it
        is logged.

        Args:
            function: An async generator function, a function made by
                `contextlib.asynccontextmanager`, or a class of async context managers. It takes no
                argument or the bus.

        Returns:
            The function, unchanged.

        Raises:
            RuntimeError: The bus is open.
            TypeError: The function is of another kind, or takes more arguments.

        Example:
            >>> from collections.abc import AsyncIterator
            >>> bus = GoEvent()
            >>> @bus.lifespan
            ... async def announce() -> AsyncIterator[None]:
            ...     print("opening")
            ...     yield
            ...     print("closed")
            >>> async with bus:
            ...     print("open")
            opening
            open
            closed
        """
        self._dispatcher.check_thread()
        if self._opened is not None or self._lifespans.entering:
            raise RuntimeError("register lifespan functions before the bus is opened")
        self._lifespans.add(function)
        return function

    # -- for goevent.testing

    def _observe(self, observer: Observer) -> None:
        dispatch = Actor("observer", ("**",), observer.note_dispatched)
        arrivals = Actor("observer", ("**",), observer.note_arrived)
        self._router.observe(observer, dispatch, arrivals)

    def _listener_name(self, handler: Callable[..., Any]) -> str:
        return self._planner.names.find(handler)

    def _collect_unhandled(self, into: list[EventError]) -> None:
        self._supervisor.unhandled = into.append
        self._supervisor.all_seen = into.clear

    # -- for goevent.cli

    async def _wait_traced(self, handle: DispatchHandle) -> None:
        """Wait until everything that a traced event causes on this bus is done."""
        tracer = self._dispatcher.traced()
        while not self.trace(handle).done:
            await tracer.changed.park()

    # -- for goevent.web

    def _newest_errors(self, count: int) -> tuple[EventError, ...]:
        self._dispatcher.check_thread()
        return self._supervisor.newest(count)

    # -- opening and closing

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        self._dispatcher.check_process()
        require_trio()
        if self._opened is not None or self._lifespans.entering:
            raise RuntimeError("this bus is open already")
        try:
            await self._lifespans.enter(self)
            if (failure := await self._open_session()) is not None:
                # The text names the reason. The frames between here and the driver are those of the
                # bus and of Trio, and would hide it.
                raise failure.with_traceback(None)
        except BaseException as error:
            if not self._lifespans.entered:
                raise
            leaving = await self._lifespans.leave(error)
            if leaving is error:
                raise
        else:
            return self
        if leaving is None:
            # Its own cancel scope, around the `yield`, was cancelled meanwhile.
            raise RuntimeError("a lifespan function has cancelled the opening of the bus")
        return raise_unchanged(leaving)

    @enable_ki_protection
    async def _open_session(self) -> DriverError | None:
        """Open a session; return the error of a driver that cannot run."""
        self._session = Session(
            self._dispatcher,
            self._inbox,
            self._ledger_book,
            self._supervisor,
            self._driver,
            self._config,
            self._conversations,
        )
        opened = self._opened = self._session.opened(self._config.close_timeout)
        failure: DriverError | None = None
        entered = False
        try:
            await opened.__aenter__()
            entered = True
        except DriverError as error:
            failure = error
        except BaseExceptionGroup as group:
            if (failure := first_driver_error(group)) is None:
                raise
        finally:
            if not entered:
                self._opened = None
        return failure

    @enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if not self._lifespans.entered:
            return await self._end_session(kind, error, traceback)
        leaving: BaseException | None = error
        try:
            if await self._end_session(kind, error, traceback):
                leaving = None
        except BaseException as raised:  # noqa: BLE001 - raised below, once the functions are left
            leaving = raised
        leaving = await self._lifespans.leave(leaving)
        if leaving is None or leaving is error:
            return leaving is None
        return raise_unchanged(leaving)

    @enable_ki_protection
    async def _end_session(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._opened is None:
            raise RuntimeError("this bus is not open")
        if self._session is None or not self._session.runs_here:
            self._dispatcher.check_process()
        require_trio()
        leaving: BaseException
        try:
            return await self._opened.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            leaving = self._leaving_error(group, error)
            if leaving is group:
                raise
        finally:
            self._opened = None
        # Without a raise the body's own error leaves.
        return None if leaving is error else raise_unchanged(leaving)

    def _leaving_error(
        self, group: BaseExceptionGroup[BaseException], own: BaseException | None
    ) -> BaseException:
        """Return the error that is to leave in place of a group; the group itself if there is none.

        Failures of listeners and of the driver may come at the same moment as an error of the body.
        Then the body's error leaves, and the others are reported as those that end no bus are. But
        if the body only found the bus closed, they are the reason.

        Args:
            group: The group that the nursery of the bus raises.
            own: The error of the body, or None.
        """
        own_ids: set[int] = set()
        if own is not None and not holds_only_cancellations(own):
            own_ids = leaf_ids(own)
        all_ids = leaf_ids(group)
        # Trio splits the body's own group in search of cancellations, and makes a copy.
        if own is not None and own_ids == all_ids:
            return own
        others = group.split(lambda leaf: id(leaf) in own_ids)[1]
        errors = [] if others is None else [*leaves(others)]
        ours = [each for each in errors if isinstance(each, EventError | DriverError)]
        if own is None or not own_ids or isinstance(own, BusClosed):
            drivers = [each for each in ours if isinstance(each, DriverError)]
            return first_error(drivers) if len(drivers) == len(errors) > 0 else group
        if not own_ids <= all_ids or not ours or len(ours) < len(errors):
            return group
        for each in ours:
            self._supervisor.record_unraised(each)
        return own

    def __reduce__(self) -> NoReturn:
        # Otherwise pickle names the first part of the bus that it cannot write.
        raise TypeError("a bus stays in its process: make a bus of its own in the other process")

    def __repr__(self) -> str:
        return f"<GoEvent {self._dispatcher.state}, {len(self._router.listeners())} listener(s)>"


# On an instance, `dispatch` and `dispatch_nowait` are methods of the dispatcher. Users see these.
update_wrapper(Dispatcher.dispatch, GoEvent.dispatch)
update_wrapper(Dispatcher.dispatch_nowait, GoEvent.dispatch_nowait)


def one_by_one(events: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the events of a registration, which may be given in one list."""
    if len(events) == 1 and isinstance(events[0], list | tuple):
        return tuple(cast("Sequence[Any]", events[0]))
    return events


# A keyword of `Config` given to `GoEvent` is a common mistake.
suggest_options(GoEvent, config=Config)
