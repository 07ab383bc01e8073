"""`GoEvent`, the bus: wires its actors together and is what users see of them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from threading import get_ident
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

import trio
from trio.lowlevel import enable_ki_protection

from ._config import Config
from ._errors import EventError, leaf_ids
from ._handle import DispatchHandle
from ._kernel.actor import Actor
from ._kernel.dispatcher import Dispatcher
from ._kernel.failures import Failures
from ._kernel.ledger import Ledger, LedgerBook, Snapshot, snapshot_of
from ._kernel.routing import Observer
from ._kernel.scheduler import Scheduler
from ._kernel.supervisor import OnError, Supervisor
from ._listeners.factory import make_handler, make_listener, not_a_listener, takes_no_arguments
from ._listeners.listeners import Listeners
from ._listeners.plan import ListenerPlanner
from ._listeners.registration import Registration
from ._options.decorator import ListenerDecorator, NameDecorator
from ._options.options import ListenerKeywords, ListenerOptions
from ._options.signature import Listener, allow_interrupt, event_name_of
from ._ports.inbox import BusInbox
from ._session import Session
from .drivers.contract import Driver, replayer
from .drivers.discovery import find_driver

E = TypeVar("E")
E1 = TypeVar("E1")
E2 = TypeVar("E2")
E3 = TypeVar("E3")
C = TypeVar("C", bound=OnError)


class GoEvent:
    """An event bus: takes events to the listeners that are registered for them.

    Listeners may be registered at any time. Events are dispatched inside `async with bus`; leaving
    it gives the listeners `Config.close_timeout` seconds to finish, unless it is left by an
    exception. A bus may be opened again after it has closed. All methods belong to the thread on
    which it is open, except `dispatch_from_thread`.

    Args:
        config: a `Config`, or just its driver: a URL, a name or a driver object.

    Raises:
        UnknownDriverError: no installed driver has that name or URL scheme.
    """

    def __init__(self, config: Config | str | Driver | None = None) -> None:
        if config is None:
            config = Config()
        elif not isinstance(config, Config):
            config = Config(driver=config)
        self._config = config
        self._driver = find_driver(config.driver)
        self._supervisor = Supervisor()
        self._scheduler = Scheduler(Failures(self._supervisor), config.slow_after)
        self._dispatcher = Dispatcher(config, self._scheduler, self._supervisor)
        self._inbox = BusInbox(self._dispatcher, config.registry, config.codec, self._supervisor)
        self._router = self._dispatcher.router
        self._books = LedgerBook(self._router)
        self._listeners = Listeners(self._dispatcher, self._dispatcher.admission, self._books)
        self._planner = ListenerPlanner(
            config, self._driver.capabilities, self._scheduler, self._supervisor, self._listeners
        )
        # The detour through the methods below would cost a tenth of a dispatch.
        if type(self).dispatch_nowait is GoEvent.dispatch_nowait:
            self.dispatch_nowait = self._dispatcher.dispatch_nowait  # type: ignore[method-assign, assignment]
        if type(self).dispatch is GoEvent.dispatch:
            self.dispatch = self._dispatcher.dispatch  # type: ignore[method-assign]
        self._session: Session | None = None
        self._opened: AbstractAsyncContextManager[None] | None = None

    # -- listeners

    @overload
    def listener(
        self, event: type[E], /, **options: Unpack[ListenerKeywords]
    ) -> ListenerDecorator[E]: ...
    @overload
    def listener(
        self, event1: type[E1], event2: type[E2], /, **options: Unpack[ListenerKeywords]
    ) -> ListenerDecorator[E1 | E2]: ...
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
        self, event: str, /, *events: str | type, **options: Unpack[ListenerKeywords]
    ) -> NameDecorator: ...
    def listener(self, *events: str | type, **options: Unpack[ListenerKeywords]) -> Any:
        """Register the decorated function for events, given by name or by class.

        A `def` runs inline, inside `dispatch`, in the order of registration. An `async def` gets a
        mailbox: it runs after `dispatch` has returned, one event at a time, in the order of
        dispatch. The function is returned as it was.

        Args:
            events: event names or event classes. In a name, a `*` in place of a segment stands for
                any one segment, and `**` for one or more: `"order.*"`.
            options: see `ListenerOptions`.

        Raises:
            TypeError: the function cannot take one event, or its parameter is annotated with the
                class of another event.
            ValueError: a name is not an event name, or the options make no sense.
        """
        chosen = ListenerOptions(**options)
        if not events or not all(isinstance(event, str | type) for event in events):
            raise TypeError('write @bus.listener("event.name") or @bus.listener(EventClass)')

        def register(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
            self._listeners.add(self._planner.build(handler, events, chosen, depth=1))
            return handler

        return register

    def subscribe(
        self,
        handler: Callable[[Any], Any],
        *events: str | type,
        **options: Unpack[ListenerKeywords],
    ) -> Registration:
        """Register a function as `listener` does, and return the way to unregister it."""
        actor = self._planner.build(handler, events, ListenerOptions(**options), depth=1)
        self._listeners.add(actor)
        return Registration(self._listeners, (actor,))

    def register_listener(self, *listeners: Listener | Callable[[], Listener]) -> Registration:
        """Register objects with `event_name` and `on_event`, as Go's `RegisterListener`.

        A class, or another function that makes such an object, is called at once, and again
        whenever the supervision of the listener restarts it.

        Raises:
            TypeError: one of them is no `Listener`; then none is registered.
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
            options = getattr(listener, "options", None) or ListenerOptions()
            if options.name is None:
                options = ListenerOptions(name=type(listener).__qualname__).over(options)
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
        """Unregister every listener of an event; none being there is fine.

        Who listens to it by a pattern stays, unless the pattern itself is given.
        """
        self._listeners.remove_name(event_name_of(event, self._config.registry))

    # -- dispatch

    def dispatch_nowait(self, event: object) -> DispatchHandle:
        """Dispatch an event without ever waiting: inline listeners run, mailboxes are filled.

        Called inside an inline listener, it runs at once, nested.

        Raises:
            trio.WouldBlock: a mailbox is full, and `dispatch` would wait; nobody got the event.
            MailboxFull: a mailbox with `overflow="error"` is full; nobody got the event.
            NestingError: inline listeners dispatch too deep inside each other.
            DecodeError: an ad-hoc payload is not what the type registered for its name takes.
            TypeError: the object is no event, or an inline `async def` would have to be awaited.
            BusClosed: the bus is closed, or closing and this is not one of its listeners.
            RuntimeError: the bus is not open yet, or this is not its thread.
        """
        return self._dispatcher.dispatch_nowait(event)

    def dispatch(self, event: object) -> Coroutine[Any, Any, DispatchHandle]:
        """Dispatch an event, waiting for room in full mailboxes, as Go's `Dispatch`.

        On return every inline listener has run and every other one has the event in its mailbox;
        `await handle.wait()` waits for those. Admission are filled in one step, before the inline
        listeners run: cancelled means that nobody got the event. Who waits for room is served first
        come, first served.

        Always a cancellation point, but not always a checkpoint: it yields to other tasks when it
        waits, and at least every 200 microseconds of dispatching.

        Raises:
            DeadlockError: called by a listener for which the full mailbox would wait in turn.
            MailboxFull: a mailbox with `overflow="error"` is full; nobody got the event.
            DecodeError: an ad-hoc payload is not what the type registered for its name takes.
            TypeError: the object is no event.
            BusClosed: the bus is closed, or closing and this is not one of its listeners.
            RuntimeError: the bus is not open yet, or this is not its thread.
        """
        return self._dispatcher.dispatch(event)

    def dispatch_from_thread(self, event: object) -> DispatchHandle:
        """Dispatch from a thread other than the bus's, blocking it as `dispatch` would wait.

        A listener with `thread=True` may do so while the bus is closing, as any listener may.

        Raises:
            RuntimeError: this is the bus's own thread, or the bus is not open yet.
            BusClosed: the bus is closed or closing.
        """
        door = None if self._session is None else self._session.thread_port
        if door is None:
            raise RuntimeError("dispatch needs an open bus: enter `async with bus` first")
        if self._dispatcher.on_home_thread:
            raise RuntimeError("this is the bus's own thread: use dispatch or dispatch_nowait")
        if (
            get_ident() in self._scheduler.threads
        ):  # it does what a listener does, and may do as much
            return trio.from_thread.run(self._dispatcher.dispatch, event)
        return door.dispatch(event)

    async def wait(self) -> None:
        """Wait until all that was accepted before is settled; cancelling it changes nothing.

        Raises:
            RuntimeError: called inside a listener, which would wait for itself.
        """
        self._dispatcher.check_thread()
        await self._dispatcher.wait()

    async def ready(self) -> None:
        """Wait until events of other buses arrive for all that is registered now.

        Always a checkpoint. Without a driver that reaches other buses there is nothing to wait for;
        `async with bus` returns ready.

        Raises:
            DriverError: the broker has refused one of the names; the bus goes on trying.
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
        """Have a group (None: this bus's) get kept events again; returns how many.

        From `start` to `end` (None: now), both included: times, or what the broker calls an event.

        Raises:
            UnsupportedError: the driver keeps no events.
            DriverError: the broker cannot be reached, or has refused it.
        """
        self._dispatcher.check_thread()
        name = event_name_of(event, self._config.registry)
        return await replayer(self._driver)(name, start, end, group)

    # -- errors

    @property
    def errors(self) -> tuple[EventError, ...]:
        """The newest 10,000 failures, oldest first."""
        self._dispatcher.check_thread()
        return self._supervisor.errors

    @property
    def error_count(self) -> int:
        """How many failures there were since the bus was made; never goes down."""
        return self._supervisor.count

    def clear_errors(self) -> None:
        """Forget the failures collected in `errors`; `error_count` stays."""
        self._dispatcher.check_thread()
        self._supervisor.clear()

    def on_error(self, callback: C) -> C:
        """Call a `def` or `async def` for every failure from now on; usable as a decorator.

        Callbacks run in a task of the supervisor, one failure at a time, in order, so they delay no
        listener; one that falls more than 100 failures behind gets the later ones as text, without
        their exception, and beyond 10,000 not at all. A callback that fails is logged. With a
        callback, failures that nobody looks at are not logged any more.
        """
        self._dispatcher.check_thread()
        allow_interrupt(callback)
        self._supervisor.callbacks.append(callback)
        return callback

    # -- state

    def snapshot(self) -> Snapshot:
        """Return what every listener is at, and where all deliveries went."""
        self._dispatcher.check_thread()
        counts = self._router.counts()
        now = self._scheduler.clock()
        return Snapshot(
            state=self._dispatcher.state,
            listeners=tuple(
                snapshot_of(actor, counts.get(actor, 0), now) for actor in self._router.listeners()
            ),
            ledger=self._books.ledger(),
            error_count=self._supervisor.count,
            driver=getattr(self._driver, "snapshot", lambda: None)(),
        )

    async def close(self, timeout: float | None = None) -> Ledger:
        """Take no more events, let listeners finish, stop everything, as Go's `Close`.

        Listeners that are still draining may dispatch. After `timeout` seconds
        (`Config.close_timeout` by default) what still runs is cancelled, and what never ran is
        reported as `EventAbandoned` on its handle. Cancelling `close` cuts the draining short. May
        be called more than once and by several tasks; all get the same ledger, and the shortest
        timeout counts. A bus that is not open has nothing to close.

        Raises:
            RuntimeError: called inside a listener, which would wait for itself.
        """
        self._dispatcher.check_thread()
        if self._session is None:
            await trio.lowlevel.checkpoint()
            return Ledger()
        self._dispatcher.reentrancy.refuse_listener("close")
        return await self._session.close(self._config.close_timeout if timeout is None else timeout)

    def _observe(self, observer: Observer) -> None:
        spy = Actor("observer", (), observer.note)
        self._router.observe(observer, spy)

    def _collect_unhandled(self, into: list[EventError]) -> None:
        self._supervisor.unhandled = into.append
        self._supervisor.all_seen = into.clear

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        if self._opened is not None:
            raise RuntimeError("this bus is open already")
        self._session = Session(
            self._scheduler,
            self._dispatcher,
            self._inbox,
            self._router,
            self._books,
            self._supervisor,
            self._driver,
            self._config,
        )
        opened = self._opened = self._session.opened(self._config.close_timeout)
        entered = False
        try:
            await opened.__aenter__()
            entered = True
        finally:
            if not entered:
                self._opened = None
        return self

    @enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._opened is None:
            raise RuntimeError("this bus is not open")
        try:
            return await self._opened.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as left:
            if error is not None and leaf_ids(left) == leaf_ids(error):
                return None  # Trio looked for cancellations in it, and made a copy
            raise
        finally:
            self._opened = None

    def __repr__(self) -> str:
        return f"<GoEvent {self._dispatcher.state}, {len(self._router.listeners())} listener(s)>"
