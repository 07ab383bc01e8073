"""The responders of one bus: runs them with the requests that arrive.

A responder is a listener with a mailbox under a reserved name, so it has all options of listeners,
and its runs count in the ledger. `Requests` and `RequestService` hand each request over as a
`RequestRun`, which tells the requester how it has ended.
"""

# The internals of handles are for the kernel, the ports and the conversations, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import current_task

from .._errors import EventError, MailboxFull
from .._events.names import REQUEST_PREFIX, request_name, requested_name
from .._handle import HandleDetails, new_handle
from .._kernel.timeouts import OwnTimeLimit, leave_cancelled
from .answers import AnswerCheck
from .request_run import DEADLINE_PASSED, current_run, run_of, run_on

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._handle import DispatchHandle
    from .._kernel.actor import Actor
    from .._kernel.dispatcher import Dispatcher
    from .._kernel.route import Route
    from .._kernel.scheduler import Scheduler
    from .answers import AnswerCodec
    from .messages import RefusalReason
    from .request_run import RequestRun

MAX_WAITING_REQUESTS = 10_000
"""The requests that wait for room in the mailbox of a responder; further ones are refused."""


class Responder:
    """The wrapper around the function of one responder.

    Args:
        answers: The answers of the bus.
        answer: The type that the function has to return; None for any.

    Raises:
        TypeError: No answer can be of this type.
    """

    def __init__(self, answers: AnswerCodec, answer: type[Any] | None) -> None:
        self._answers = answers
        self._check = AnswerCheck(answers, answer)

    def event_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names under which the listener is registered."""
        return tuple(request_name(name) for name in names)

    def run_async(
        self, handler: Callable[[Any], Any], scheduler: Scheduler
    ) -> Callable[[Any], Any]:
        """Return the call of the mailbox for an `async def`."""
        check, answers = self._check, self._answers
        workers = scheduler.workers

        async def respond(event: Any) -> None:
            worker, now = workers[current_task()], trio.current_time()
            run = run_on(worker)
            if not run.may_begin(now):
                return
            try:
                if not worker.in_own_scope or worker.deadline < inf:
                    # Middleware has opened a scope, or the listener has a timeout of its own.
                    limit = OwnTimeLimit(run.deadline - now, RunCancelled)
                    run.stop = limit.cancel
                    with limit:
                        value = await handler(event)
                else:
                    # As `TimeLimit`, without an object for each run.
                    if worker.scope is None:
                        worker.renew_scope()
                    run.stop = worker.cancel_run
                    # Code that looks at the deadlines around it sees that of the request.
                    worker.bound_run(run.deadline)
                    try:
                        value = await handler(event)
                    finally:
                        if worker.is_cancelled:
                            kind, error, traceback = sys.exc_info()
                            leave_cancelled(worker, kind, error, traceback, RunCancelled)
                        else:
                            worker.bound_run(inf)
            except RunCancelled:
                run.cancel(DEADLINE_PASSED)
                return
            finally:
                run.stop = None
            run.keep(value, check, answers)

        return respond

    def run_sync(self, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return the call of the mailbox for a `def`."""
        check, answers = self._check, self._answers

        async def respond(event: Any) -> None:
            run = current_run()
            if run.may_begin(trio.current_time()):
                run.keep(handler(event), check, answers)

        return respond

    def run_threaded(
        self,
        handler: Callable[[Any], Any],
        in_thread: Callable[[Callable[[Any], Any]], Callable[[Any], Any]],
    ) -> Callable[[Any], Any]:
        """Return the call of the mailbox for a `def` in a thread, which runs to its end."""
        check, answers = self._check, self._answers

        def respond(event: Any) -> None:
            current_run().keep(handler(event), check, answers)

        call = in_thread(respond)

        async def wait(event: Any) -> None:
            if current_run().may_begin(trio.current_time()):
                await call(event)

        return wait


class RunCancelled(Exception):
    """A responder was cancelled, because nobody waits for its answer any more."""


class Responders:
    """The responders of one bus, each with its actor and the class of its answers."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._actors: dict[str, Actor] = {}
        self._answers: dict[str, type[Any] | None] = {}
        self._waiting = 0
        self._has_hooks = bool(dispatcher.special_dispatch.arrival_hooks)

    def add(self, event_name: str, actor: Actor, answer: type[Any] | None) -> None:
        """Register the actor of a responder.

        Args:
            event_name: The name of the requested event.
            actor: The actor.
            answer: The class of the answers; None for any.

        Raises:
            ValueError: The event has a responder.
        """
        self.check_free(event_name)
        self._actors[event_name] = actor
        self._answers[event_name] = answer

    def answer_of(self, actor: Actor) -> type[Any] | None:
        """Return the class of the answers of a responder; None for any other listener."""
        event_name = requested_name(actor.event_names[0])
        return self._answers.get(event_name) if event_name else None

    @property
    def any(self) -> bool:
        """True if the bus has a responder."""
        return any(actor.active for actor in self._actors.values())

    def check_free(self, event_name: str) -> None:
        """Refuse a second responder for an event.

        Raises:
            ValueError: The event has a responder.
        """
        if (other := self.actor(event_name)) is not None:
            raise ValueError(
                f"{event_name!r} has a responder on this bus, {other.name}; one request has one "
                "answer"
            )

    def actor(self, event_name: str) -> Actor | None:
        """Return the responder for an event; None if there is none."""
        actor = self._actors.get(event_name)
        if actor is not None and not actor.active:
            del self._actors[event_name], self._answers[event_name]
            return None
        return actor

    def accept(
        self,
        run: RequestRun,
        event: object,
        headers: Mapping[str, str],
        ended: Callable[[RequestRun, tuple[EventError, ...]], None],
        *,
        deliveries: int = 1,
    ) -> Callable[[], Any] | None:
        """Take a request to the responder.

        Args:
            run: The request.
            event: The requested event.
            headers: Its headers.
            ended: Called once with the request and the errors, when the responder is done with it.
            deliveries: How often the broker has delivered it.

        Returns:
            None if the request is in the mailbox, or was refused. Otherwise the rest of the work,
            which has to be awaited in a task.
        """
        dispatcher, name = self._dispatcher, run.event_name
        run.ended = ended
        actor = self.actor(name)
        # The intake lets a listener of this bus ask until the last one has finished.
        closing = dispatcher.is_closing if run.address else dispatcher.state == "closed"
        if actor is None or closing:
            text = "the bus is closing" if closing else "the responder was unregistered"
            run.refuse("closing" if closing else "no_responder", text)
            run.settle(())
            return None
        if run.chain and would_deadlock(actor, run.chain):
            run.refuse("deadlock", f"{actor.name} works on a request that waits for this one")
            run.settle(())
            return None
        route = dispatcher.router.named(REQUEST_PREFIX + name).local
        handle = new_handle(route, event)
        handle._details = HandleDetails(
            None,
            id=run.id,
            headers={**headers} if headers else None,
            deliveries=deliveries,
            lineage=run.id,
            request=run,
        )
        is_special = route.special or self._is_hooked(run)
        tracer = dispatcher.tracer
        started = 0.0 if tracer is None else tracer.now()
        try:
            if not is_special and dispatcher.admission.commit(route, handle):
                route.called += 1
                if tracer is not None:
                    tracer.note(handle, started, arrived=bool(run.address))
                handle._when_done(run.settle)
                return None
        except MailboxFull:
            run.refuse("full", f"the mailbox of {actor.name} is full")
            run.settle(())
            return None
        if self._waiting >= MAX_WAITING_REQUESTS:
            run.refuse("full", f"{self._waiting} requests wait for {actor.name}")
            run.settle(())
            return None
        self._waiting += 1
        return partial(self._bring, route, run, handle)

    async def _bring(
        self,
        route: Route,
        run: RequestRun,
        handle: DispatchHandle,
    ) -> None:
        """Take a request along a special route, or wait for room in the mailbox."""
        dispatcher = self._dispatcher
        brought, text = False, "the bus has closed"
        reason: RefusalReason = "closing"
        tracer = dispatcher.tracer
        started = 0.0 if tracer is None else tracer.now()
        try:
            if route.special or self._is_hooked(run):
                await dispatcher.special_dispatch.dispatch(handle, arrived=True)
            else:
                await dispatcher.bring(route, handle, arrived=True)
            brought = True
        except MailboxFull:
            reason, text = "full", "the mailbox of the responder is full"
        finally:
            self._waiting -= 1
            if not brought:
                run.refuse(reason, text)
                run.settle(())
        if brought:
            if tracer is not None:
                tracer.note(handle, started, arrived=bool(run.address))
            actor = self.actor(run.event_name)
            if actor is not None and not (handle.listeners or handle._failed()):
                # No other bus is asked: the filter is part of what the responder answers.
                run.refuse("declined", f"{actor.name} has not accepted it (when=)")
            handle._when_done(run.settle)

    def _is_hooked(self, run: RequestRun) -> bool:
        """Tell whether there is middleware around a request, because it has arrived."""
        return bool(self._has_hooks and run.address)


def would_deadlock(actor: Actor, chain: Collection[str]) -> bool:
    """Tell whether a responder can only go on when a request with this chain has ended."""
    running = [run_of(lane.current) for lane in actor.lanes]
    return all(run is not None and run.id in chain for run in running)
