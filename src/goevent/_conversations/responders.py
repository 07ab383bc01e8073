"""The responders of one bus: runs them with the requests that arrive, and sends their answers.

A responder is a listener with a mailbox under a reserved name, so it has all options of listeners,
and its runs count in the ledger. `RequestRun` is one request at a responder. Its handle refers to
it, so that the wrapper around the responder's function finds it.

A request ends in one of these ways: the responder has answered; it has failed, or the event was
dropped or abandoned; nobody waits for the answer any more, and the responder was cancelled; or the
request was refused, and no responder has run.
"""

# The internals of handles are for the kernel, the ports and the conversations, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import trio

from .._delivery import current_delivery
from .._errors import EventError, MailboxFull
from .._events.names import request_name, requested_name
from .._handle import HandleDetails, arrived_handle
from .._options.callables import is_async

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._handle import DispatchHandle
    from .._kernel.actor import Actor
    from .._kernel.dispatcher import Dispatcher
    from .._kernel.route import Route
    from .answers import AnswerCodec

MAX_WAITING_REQUESTS = 10_000
"""The requests that wait for room in the mailbox of a responder; further ones are refused."""

MAX_CHAINED_REQUESTS = 32
"""How deep responders may make requests inside each other."""

DEADLINE_PASSED = "the deadline of the request has passed"


class Requester(Protocol):
    """The side of a request that waits for the answer: of this bus, or of another one."""

    def answered(self, run: RequestRun, value: object) -> None:
        """Take the answer."""
        ...

    def failed(self, run: RequestRun, error: EventError) -> None:
        """Take the failure of the responder."""
        ...

    def refused(self, run: RequestRun, reason: str, text: str) -> None:
        """Take a refusal; no responder has run."""
        ...

    def keep(self, event_name: str, value: object, answers: AnswerCodec) -> object:
        """Return an answer in the form that `answered` takes.

        Raises:
            EncodeError: The answer cannot be sent.
        """
        ...


class RequestRun:
    """One request at the responder of this bus.

    Attributes:
        id: The id of the request.
        event_name: The name of the requested event.
        requester: Waits for the answer.
        address: The address of the requesting bus; empty for this one.
        deadline: When the requester stops waiting, by Trio's clock.
        chain: The ids of the requests inside whose responders this one was made.
        is_cancelled: True once nobody waits for the answer any more.
        reason: The reason of that.
        is_refused: True once the request was refused.
    """

    __slots__ = (
        "_has_value",
        "_scope",
        "_value",
        "address",
        "chain",
        "deadline",
        "event_name",
        "id",
        "is_cancelled",
        "is_refused",
        "reason",
        "requester",
    )

    def __init__(
        self,
        request_id: str,
        event_name: str,
        requester: Requester,
        *,
        address: str = "",
        deadline: float = float("inf"),
        chain: tuple[str, ...] = (),
    ) -> None:
        self.id: str = request_id
        self.event_name: str = event_name
        self.requester: Requester = requester
        self.address: str = address
        self.deadline: float = deadline
        self.chain: tuple[str, ...] = chain
        self.is_cancelled: bool = False
        self.reason: str = ""
        self.is_refused: bool = False
        self._scope: trio.CancelScope | None = None
        self._value: object = None
        self._has_value = False

    def cancel(self, reason: str) -> None:
        """Cancel the responder, which need not have begun. A second call has no effect."""
        if not self.is_cancelled:
            self.is_cancelled, self.reason = True, reason
            if self._scope is not None:
                self._scope.cancel(reason)

    async def within_deadline(self, call: Callable[[Any], Any], event: Any) -> None:
        """Run the responder, unless nobody waits for the answer any more."""
        if not self.is_cancelled and trio.current_time() >= self.deadline:
            self.cancel(DEADLINE_PASSED)
        if self.is_cancelled:
            return
        try:
            with trio.CancelScope(deadline=self.deadline) as self._scope:
                await call(event)
                return
        finally:
            self._scope = None
        self.cancel(DEADLINE_PASSED)

    def keep(self, value: object, answer: type[Any] | None, answers: AnswerCodec) -> None:
        """Take the value that the responder has returned.

        Args:
            value: The value.
            answer: The type that the responder was registered with; None for any.
            answers: Turns it into bytes.

        Raises:
            EncodeError: It cannot be sent.
            TypeError: It is not of the type that the responder was registered with.
        """
        if answer is not None and not isinstance(value, answer):
            raise TypeError(
                f"the responder to {self.event_name!r} has to return {answer.__qualname__}, "
                f"and has returned {type(value).__qualname__}"
            )
        self._value = self.requester.keep(self.event_name, value, answers)
        self._has_value = True

    def refuse(self, reason: str, text: str) -> None:
        """Refuse the request: no responder runs."""
        self.is_refused = True
        self.requester.refused(self, reason, text)

    def finish(self, errors: tuple[EventError, ...]) -> None:
        """Tell the requester how the request has ended."""
        if errors:
            self.requester.failed(self, errors[-1])
        elif self._has_value:
            # Even if it comes too late: the requester counts it.
            self.requester.answered(self, self._value)
        elif not (self.is_cancelled or self.is_refused):
            self.refuse("no_responder", "the responder was unregistered before it ran")


class Responder:
    """The wrapper around the function of one responder.

    Attributes:
        answer: The type that the function has to return; None for any.
    """

    def __init__(self, answers: AnswerCodec, answer: type[Any] | None) -> None:
        self._answers = answers
        self.answer: type[Any] | None = answer

    def event_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names under which the listener is registered."""
        return tuple(request_name(name) for name in names)

    def wrap_handler(self, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return a function of the same kind that keeps the result of the user's function."""
        answer, answers = self.answer, self._answers
        if is_async(handler):

            async def respond(event: Any) -> None:
                run = current_run()
                value = await handler(event)
                run.keep(value, answer, answers)

            return respond

        def respond_at_once(event: Any) -> None:
            run = current_run()
            run.keep(handler(event), answer, answers)

        return respond_at_once

    def wrap_call(self, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return a call that ends with the deadline of its request."""

        async def run_within_deadline(event: Any) -> None:
            await current_run().within_deadline(call, event)

        return run_within_deadline


def current_run() -> RequestRun:
    """Return the request that the running responder works on."""
    run = run_of(current_delivery().handle)
    assert run is not None, "a responder runs with requests only"  # noqa: S101
    return run


def run_of(handle: DispatchHandle | None) -> RequestRun | None:
    """Return the request of a handle; None for any other event."""
    details = None if handle is None else handle._details
    request = details.request if isinstance(details, HandleDetails) else None
    return request if isinstance(request, RequestRun) else None


class Responders:
    """The requests that the responders of one bus work on."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._actors: dict[str, Actor] = {}
        self._answers: dict[str, type[Any] | None] = {}
        self._waiting = 0
        self.runs: dict[str, RequestRun] = {}

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
        ended: Callable[[tuple[EventError, ...]], None],
        *,
        deliveries: int = 1,
    ) -> Callable[[], Any] | None:
        """Take a request to the responder.

        Args:
            run: The request.
            event: The requested event.
            headers: Its headers.
            ended: Called once with the errors, when the responder is done with it.
            deliveries: How often the broker has delivered it.

        Returns:
            None if the request is in the mailbox, or was refused. Otherwise the rest of the work,
            which has to be awaited in a task.
        """
        dispatcher = self._dispatcher
        actor = self.actor(run.event_name)
        if actor is None or dispatcher.state != "open":
            closing = dispatcher.state != "open"
            reason = "closing" if closing else "no_responder"
            text = "the bus is closing" if closing else "the responder was unregistered"
            run.refuse(reason, text)
            ended(())
            return None
        if would_deadlock(actor, run.chain):
            text = f"{actor.name} works on a request that waits for this one"
            run.refuse("deadlock", text)
            ended(())
            return None
        route = dispatcher.router.named(request_name(run.event_name)).local
        handle = arrived_handle(route, event, run.id, headers, deliveries)
        details = handle._ensure_details()
        details.id, details.request = run.id, run
        is_special = route.special or self._is_hooked(run)
        tracer = dispatcher.tracer
        started = 0.0 if tracer is None else tracer.now()
        try:
            if not is_special and dispatcher.admission.commit(route, handle):
                dispatcher.run_inline(route, handle)
                if tracer is not None:
                    tracer.note(handle, started, arrived=True)
                handle._when_done(ended)
                return None
        except MailboxFull:
            run.refuse("full", f"the mailbox of {actor.name} is full")
            ended(())
            return None
        if self._waiting >= MAX_WAITING_REQUESTS:
            run.refuse("full", f"{self._waiting} requests wait for {actor.name}")
            ended(())
            return None
        self._waiting += 1
        return partial(self._bring, route, handle, ended)

    async def _bring(
        self,
        route: Route,
        handle: DispatchHandle,
        ended: Callable[[tuple[EventError, ...]], None],
    ) -> None:
        """Take a request along a special route, or wait for room in the mailbox."""
        dispatcher = self._dispatcher
        run = run_of(handle)
        brought, reason, text = False, "closing", "the bus has closed"
        tracer = dispatcher.tracer
        started = 0.0 if tracer is None else tracer.now()
        try:
            if route.special or (run is not None and self._is_hooked(run)):
                await dispatcher.special_dispatch.dispatch(handle, arrived=True)
            else:
                await dispatcher.bring(route, handle, arrived=True)
            brought = True
        except MailboxFull:
            reason, text = "full", "the mailbox of the responder is full"
        finally:
            self._waiting -= 1
            if not brought and run is not None:
                run.refuse(reason, text)
                ended(())
        if brought:
            if tracer is not None:
                tracer.note(handle, started, arrived=True)
            handle._when_done(ended)

    def _is_hooked(self, run: RequestRun) -> bool:
        """Tell whether there is middleware around a request, because it has arrived."""
        return bool(run.address and self._dispatcher.special_dispatch.arrival_hooks)


def would_deadlock(actor: Actor, chain: Collection[str]) -> bool:
    """Tell whether a responder can only go on when a request with this chain has ended."""
    if not chain:
        return False
    running = [run_of(lane.current) for lane in actor.lanes]
    return all(run is not None and run.id in chain for run in running)
