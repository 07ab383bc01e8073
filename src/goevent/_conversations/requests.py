"""The requests of one bus that wait for an answer.

`GoEvent.request` calls `Requests.ask`. A request has one of three ways:

- *here*, if this bus has a responder for the event: as an object, without the broker;
- *direct*, under `fan_out`: as a direct message to one bus of the directory;
- *by the broker* otherwise: as an event under a reserved name, which one bus of the group gets. A
  durable broker gives it to another bus if the first one ends. Its answer is a direct message.

Each waiting request is a `PendingRequest`. It ends once: with an answer, with an error, or because
the caller stops waiting. Then the other bus is told, and a message that still comes is counted as
late.
"""

# The internals of handles are for the kernel, the ports and the conversations, not for users.
# pyright: reportPrivateUsage=false
from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from threading import get_ident
from time import time
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import Task, current_task, in_trio_task, reschedule

from .._errors import (
    BusClosed,
    DeadlockError,
    EncodeError,
    EventError,
    EventVetoed,
    HookFailed,
    NoResponder,
    RemoteError,
    RequestLost,
    RequestRefused,
    RequestTimeout,
    UnsupportedError,
    Vetoed,
)
from .._events.names import request_name
from .._foreign import type_name
from .._handle import WAKE_UP, new_handle
from .._options.retry import check_seconds
from .._trio_internals import PARKED, park
from .._wire.envelope import Envelope
from .messages import RELEASED, Cancel, Failed, Leaving, Offer, Refused, Reply, Started
from .responders import MAX_CHAINED_REQUESTS, RequestRun, run_of

if TYPE_CHECKING:
    from .._cause import Cause
    from .._config import Config
    from .._handle import DispatchHandle
    from .._kernel.dispatcher import Dispatcher
    from .._kernel.ledger import RequestCounts
    from .answers import AnswerCodec
    from .link import ConversationLink
    from .responders import Responders

BUDGET_HEADER = "goevent-budget"
"""The header with the seconds that are left until the deadline of a request."""

CHAIN_HEADER = "goevent-chain"
"""The header with the ids of the requests inside whose responders a request was made."""

NOBODY_WAITS = "the requester was cancelled, or its deadline has passed"


class PendingRequest:
    """One request that waits for its answer; the `Requester` of a responder of this bus.

    Attributes:
        id: The id of the request.
        event_name: The name of the requested event.
        address: The address of the bus that works on it; empty if none is known.
        ends_with_bus: True if no other bus gets the request if that one ends.
        is_over: True once it has an answer or an error.
        unsent: True if the request has certainly reached no responder, and another one may get it.
        was_taken: True if a responder is known to have the request.
        is_late: True if the deadline has passed.
        deadline: The deadline, by the clock of the scheduler.
        run: The request at the responder of this bus; None at any other one.
    """

    __slots__ = (
        "_answer",
        "_answers",
        "_error",
        "_task",
        "address",
        "deadline",
        "ends_with_bus",
        "event_name",
        "id",
        "is_late",
        "is_over",
        "run",
        "unsent",
        "was_taken",
    )

    def __init__(
        self, request_id: str, event_name: str, answers: AnswerCodec, *, ends_with_bus: bool
    ) -> None:
        self.id: str = request_id
        self.event_name: str = event_name
        self.address: str = ""
        self.ends_with_bus: bool = ends_with_bus
        self.is_over: bool = False
        self.unsent: bool = False
        self.was_taken: bool = False
        self.is_late: bool = False
        self.deadline: float = inf
        self.run: RequestRun | None = None
        self._answers = answers
        self._task: Task | None = None
        self._answer: Callable[[Any], Any] | None = None
        self._error: Exception | None = None

    # -- the end of the request

    def answer(self, read: Callable[[Any], Any]) -> None:
        """End the request with an answer.

        Args:
            read: Returns the answer as a value of the type that it is given.
        """
        if not self.is_over:
            self._answer = read
            self._wake()

    def fail(self, error: Exception) -> None:
        """End the request with an error."""
        if not self.is_over:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        self.is_over = True
        self.wake()

    def wake(self) -> None:
        """Wake the waiting task, if it waits."""
        task, self._task = self._task, None
        # Trio sets `custom_sleep_data` to None when it cancels the task, which wakes by itself.
        if task is not None and task.custom_sleep_data is self:
            reschedule(task, WAKE_UP)

    def expire(self) -> None:
        """Stop the wait: the deadline has passed."""
        if not self.is_over:
            self.is_late = True
            self.wake()

    async def wait(self) -> None:
        """Wait until the request is over or late, or has to be sent again."""
        if self.is_over or self.unsent:
            await trio.lowlevel.checkpoint()
            return
        self._task = task = current_task()
        task.custom_sleep_data = self
        try:
            await park(PARKED)
        finally:
            self._task = None

    def result(self, answer: Any) -> Any:
        """Return the answer.

        Raises:
            Exception: The error with which the request has ended.
        """
        # These refer to the request, which would keep itself alive.
        read, self._answer = self._answer, None
        if read is not None:
            return read(answer)
        self.raise_failure()
        raise AssertionError("a request that is over has an answer or an error")

    def raise_failure(self) -> None:
        """Raise the error with which the request has ended; return if there is none."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error

    # -- the `Requester` of a responder of this bus

    def keep(self, event_name: str, value: object, answers: AnswerCodec) -> object:
        """Return the answer itself: it stays in this process."""
        return value

    def answered(self, run: RequestRun, value: object) -> None:
        """End the request with the answer of a responder of this bus."""
        self.answer(lambda answer: self._answers.convert(self.event_name, value, answer))

    def failed(self, run: RequestRun, error: EventError) -> None:
        """End the request with the failure of a responder of this bus."""
        cause = error.error
        kind, text = ("", error.reason) if cause is None else (type_name(cause), str(cause))
        remote = RemoteError(
            self.event_name, error.listener, kind, text, outcome=error.outcome, bus=""
        )
        remote.__cause__ = cause
        self.fail(remote)

    def refused(self, run: RequestRun, reason: str, text: str) -> None:
        """End the request with the refusal of this bus."""
        self.fail(refusal(self.event_name, reason, text))


def refusal(event_name: str, reason: str, text: str) -> Exception:
    """Return the error for a refused request."""
    if reason == "deadlock":
        return DeadlockError(f"the request of {event_name!r} would never end: {text}")
    if reason == "no_responder":
        return NoResponder(event_name, text or "the bus has no responder any more")
    if reason == "late":
        return RequestTimeout(event_name, "the responder was cancelled at the deadline")
    return RequestRefused(event_name, text or f"the other bus has refused it: {reason}")


class Requests:
    """The requests of one bus.

    Attributes:
        counts: The requests and their ends.
        link: The way to the other buses; None while there is none.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        responders: Responders,
        answers: AnswerCodec,
        config: Config,
        counts: RequestCounts,
    ) -> None:
        self._dispatcher = dispatcher
        self._responders = responders
        self._answers = answers
        self._codec = config.codec
        self._pending: dict[str, PendingRequest] = {}
        self._timeouts = dispatcher.scheduler.timeouts
        self.counts: RequestCounts = counts
        self.link: ConversationLink | None = None

    @property
    def pending(self) -> Collection[PendingRequest]:
        """The requests that wait."""
        return self._pending.values()

    def __len__(self) -> int:
        return len(self._pending)

    def has(self, request_id: str) -> bool:
        """Tell whether a request waits for its answer."""
        return request_id in self._pending

    # -- asking

    async def ask(self, event: object, answer: Any, timeout: float | None) -> Any:
        """Return the answer to a request; see `GoEvent.request`."""
        dispatcher = self._dispatcher
        enclosing = cause = None
        if get_ident() != dispatcher._owner or dispatcher.scheduler.suspended or not in_trio_task():
            # The caller may run inside a listener, or anywhere else than on a task of the bus.
            dispatcher.check_task()
            dispatcher.check_intake()
            enclosing, cause = self._enclosing(), dispatcher.cause()
        if timeout is not None and not (type(timeout) is float and 0.0 <= timeout < inf):
            check_seconds("timeout", timeout)
        self._answers.reader(answer)
        route, event = dispatcher.router.find(event)
        name, link = route.name, self.link
        chain = () if enclosing is None else enclosing.chain_below(name)
        ends_with_bus = link is None or not link.is_durable
        request_id = dispatcher.ids.draw()
        pending = PendingRequest(request_id, name, self._answers, ends_with_bus=ends_with_bus)
        counts = self.counts
        counts.asked += 1
        self._pending[pending.id] = pending
        try:
            end = inf if timeout is None else trio.current_time() + timeout
            if self._begin_at_once(pending, event, chain, cause, end):
                if timeout is not None:
                    self._timeouts.watch_wait(pending, timeout)
                await pending.wait()
            if not (pending.is_over or pending.is_late):
                with trio.CancelScope(deadline=end):
                    await self._ask(pending, event, chain, cause)
            if pending.is_over:
                result = pending.result(answer)
                counts.answered += 1
                return result
        except trio.Cancelled:
            counts.cancelled += 1
            raise
        except RequestTimeout:
            counts.timed_out += 1
            raise
        except Exception:
            counts.failed += 1
            raise
        finally:
            del self._pending[pending.id]
            self._end(pending)
        counts.timed_out += 1
        raise self._timed_out(pending, inf if timeout is None else timeout)

    def _end(self, pending: PendingRequest) -> None:
        """Tell the bus that works on a request that it has ended."""
        link = self.link
        if pending.run is not None:
            if not pending.is_over:
                pending.run.cancel(NOBODY_WAITS)
            pending.run = None
        elif pending.address and link is not None:
            link.peers.end(pending.address, pending.id)
            if not pending.is_over:
                link.channel.send(pending.address, Cancel(pending.id, NOBODY_WAITS))
        pending.is_over = True

    def _begin_at_once(
        self,
        pending: PendingRequest,
        event: object,
        chain: tuple[str, ...],
        cause: Cause | None,
        end: float,
    ) -> bool:
        """Take a request to a responder, if that takes no waiting; otherwise return False."""
        name, link = pending.event_name, self.link
        deadline = min(trio.current_effective_deadline(), end)
        if self._responders.actor(name) is not None:
            if self._has_hooks:
                return False
            headers = {} if cause is None else cause.headers
            self._begin_here(pending, event, chain, headers, deadline)
            return True
        if link is None or not (link.is_direct and link.is_ready) or self._has_hooks:
            return False
        address = link.directory.next_known(name)
        if address:
            self._send(link, pending, event, headers_of(deadline, chain, cause), address)
        return bool(address)

    def _enclosing(self) -> RequestRun | None:
        """Return the request inside whose responder the caller runs."""
        actor = self._dispatcher.reentrancy.calling_actor()
        return None if actor is None else run_of(actor.current)

    def _timed_out(self, pending: PendingRequest, timeout: float) -> Exception:
        if pending.address or pending.was_taken:
            reason = f"the responder has not answered within {timeout:g} s"
            return RequestTimeout(pending.event_name, reason)
        return NoResponder(
            pending.event_name, f"no responder has come forward within {timeout:g} s"
        )

    async def _ask(
        self, pending: PendingRequest, event: object, chain: tuple[str, ...], cause: Cause | None
    ) -> None:
        """Take a request to a responder, and wait until it is over."""
        if self._responders.actor(pending.event_name) is not None:
            await self._ask_here_within_hooks(pending, event, chain, cause)
            return
        link = self.link
        if link is None:
            if self._dispatcher.router.publisher is not None:
                raise UnsupportedError(
                    "the driver of this bus carries no replies, so only responders of this bus "
                    "can answer requests"
                )
            raise NoResponder(pending.event_name, "this bus has no responder for it")
        await link.ready()
        handle = self._handle(link, pending, event, chain, cause)
        if not link.is_direct:
            await self._ask_by_broker(pending, handle)
            while pending.unsent and not pending.is_over:
                # A bus that closes has refused it, and the broker keeps no requests.
                pending.unsent = False
                link.peers.end(pending.address, pending.id)
                pending.address = ""
                again = self._handle(link, pending, event, chain, cause)
                await self._ask_by_broker(pending, again)
        elif self._has_hooks:
            async with self._within_hooks(pending, handle):
                await self._ask_directly(link, pending, event, handle.headers)
        else:
            await self._ask_directly(link, pending, event, handle.headers)

    def _handle(
        self,
        link: ConversationLink,
        pending: PendingRequest,
        event: object,
        chain: tuple[str, ...],
        cause: Cause | None,
    ) -> DispatchHandle:
        """Return the handle of a request, with which middleware and the publisher work."""
        handle = new_handle(self._dispatcher.router.named(request_name(pending.event_name)), event)
        details = handle._ensure_details()
        details.id, details.reply_to = pending.id, link.channel.address
        details.headers = headers_of(trio.current_effective_deadline(), chain, cause)
        return handle

    @asynccontextmanager
    async def _within_hooks(
        self, pending: PendingRequest, handle: DispatchHandle
    ) -> AsyncGenerator[None]:
        """Run the middleware around a request, which sees its failure.

        Raises:
            RequestRefused: Middleware has vetoed the request.
        """
        try:
            async with self._dispatcher.special_dispatch.around(handle):
                yield
                pending.raise_failure()
        except Vetoed as veto:
            raise vetoed(pending.event_name, veto.middleware, veto.reason) from None
        except HookFailed as failed:
            raise failed.error from None

    async def _ask_here_within_hooks(
        self, pending: PendingRequest, event: object, chain: tuple[str, ...], cause: Cause | None
    ) -> None:
        """Ask the responder of this bus, with the middleware around dispatches."""
        handle = new_handle(self._dispatcher.router.named(request_name(pending.event_name)), event)
        details = handle._ensure_details()
        details.id = pending.id
        details.headers = {} if cause is None else {**cause.headers}
        async with self._within_hooks(pending, handle):
            deadline = trio.current_effective_deadline()
            self._begin_here(pending, event, chain, handle.headers, deadline)
            await pending.wait()

    def _begin_here(
        self,
        pending: PendingRequest,
        event: object,
        chain: tuple[str, ...],
        headers: Mapping[str, str],
        deadline: float,
    ) -> None:
        """Take a request to the responder of this bus."""
        pending.run = run = RequestRun(
            pending.id, pending.event_name, pending, deadline=deadline, chain=chain
        )
        pending.was_taken = True
        self.counts.served += 1
        rest = self._responders.accept(run, event, headers, self._ended_here)
        if rest is not None:
            self._dispatcher.scheduler.spawn(rest)

    def _ended_here(self, run: RequestRun, errors: tuple[EventError, ...]) -> None:
        self.counts.served_cancelled += run.is_cancelled
        run.finish(errors)

    async def _ask_directly(
        self,
        link: ConversationLink,
        pending: PendingRequest,
        event: object,
        headers: Mapping[str, str],
    ) -> None:
        """Ask one bus of the directory, and another one if that has not got the request."""
        directory, name = link.directory, pending.event_name
        while True:
            address = directory.next_known(name) or await directory.find(name)
            self._send(link, pending, event, headers, address)
            await pending.wait()
            if not pending.unsent:
                return

    def _send(
        self,
        link: ConversationLink,
        pending: PendingRequest,
        event: object,
        headers: Mapping[str, str],
        address: str,
    ) -> None:
        """Send a request to one bus.

        Raises:
            EncodeError: The codec cannot encode the event, or the bytes are too many.
        """
        data = self._encode(link, pending, event, headers)
        if pending.address:
            link.peers.end(pending.address, pending.id)
        pending.address, pending.unsent = address, False
        link.peers.ask(address, pending.id)
        sent = partial(self._sent, link, pending, address)
        link.channel.send_request(address, pending.event_name, data, sent)

    def _encode(
        self,
        link: ConversationLink,
        pending: PendingRequest,
        event: object,
        headers: Mapping[str, str],
    ) -> bytes:
        """Return the bytes of a request.

        Raises:
            EncodeError: The codec cannot encode the event, or the bytes are too many.
        """
        name = pending.event_name
        data = self._codec.encode(
            Envelope(
                event_name=name,
                event_type=name,
                event=event,
                handle_id=pending.id,
                timestamp=int(time()),
                origin=link.inbox.origin,
                reply_to=link.channel.address,
                headers=headers,
            )
        )
        if len(data) > self._answers.max_size:
            limit = f"{len(data)} bytes are above the driver's limit of {self._answers.max_size}"
            raise EncodeError(name, limit)
        return data

    def _sent(
        self,
        link: ConversationLink,
        pending: PendingRequest,
        address: str,
        result: int | Exception | None,
    ) -> None:
        """Take the answer of the broker to a request."""
        if isinstance(result, Exception):
            pending.fail(result)
        elif result == 0 and pending.address == address and not pending.is_over:
            self._ask_another(link, pending, address)

    def _ask_another(self, link: ConversationLink, pending: PendingRequest, address: str) -> None:
        link.directory.forget(address, pending.event_name)
        pending.unsent = True
        pending.wake()

    async def _ask_by_broker(self, pending: PendingRequest, handle: DispatchHandle) -> None:
        """Have the broker take a request to one bus of the group."""
        dispatcher = self._dispatcher
        route = dispatcher.router.named(handle._route.name)
        if route.special:
            await dispatcher.special_dispatch.dispatch(handle)
        else:
            await dispatcher.bring(route, handle)
        handle._when_done(partial(self._published, pending))
        await pending.wait()

    def _published(self, pending: PendingRequest, errors: tuple[EventError, ...]) -> None:
        if not errors:
            return
        first = errors[0]
        if isinstance(first, EventVetoed):
            pending.fail(vetoed(pending.event_name, first.listener, first.reason))
        else:
            pending.fail(first.error if isinstance(first.error, Exception) else first)

    @property
    def _has_hooks(self) -> bool:
        return self._dispatcher.special_dispatch.has_hooks

    # -- messages of the other bus

    def _find(self, request_id: str) -> PendingRequest | None:
        """Return a request that waits; count the message as late if there is none."""
        pending = self._pending.get(request_id)
        if pending is None or pending.is_over:
            self.counts.late += 1
            return None
        return pending

    def take_started(self, link: ConversationLink, message: Started) -> None:
        """Note which bus works on a request; cancel it there if nobody waits any more."""
        pending = self._find(message.id)
        if pending is None:
            link.channel.send(message.address, Cancel(message.id, NOBODY_WAITS))
            return
        if pending.address:
            link.peers.end(pending.address, pending.id)
        pending.address, pending.was_taken = message.address, True
        link.peers.ask(message.address, pending.id)

    def take_reply(self, link: ConversationLink, message: Reply) -> None:
        """End a request with its answer."""
        if (pending := self._find(message.id)) is not None:
            link.peers.hear(pending.address)
            link.directory.hear(pending.event_name, pending.address)
            name, data = pending.event_name, bytes(message.value)
            pending.answer(lambda answer: self._answers.decode(name, data, answer))

    def take_failed(self, message: Failed) -> None:
        """End a request with the failure of its responder."""
        if (pending := self._find(message.id)) is not None:
            pending.fail(
                RemoteError(
                    pending.event_name,
                    message.listener,
                    message.error_type,
                    message.text,
                    outcome=message.outcome,
                    bus=message.bus,
                )
            )

    def take_refused(self, link: ConversationLink, message: Refused) -> None:
        """End a request that was refused, or ask another bus."""
        if (pending := self._find(message.id)) is None:
            return
        if message.reason == RELEASED:
            # Another bus may have begun with it meanwhile.
            if pending.address == message.address:
                link.peers.end(pending.address, pending.id)
                pending.address = ""
        elif (
            message.reason in ("closing", "no_responder")
            and not link.is_durable
            and (pending.address or not link.is_direct)
        ):
            self._ask_another(link, pending, pending.address)
        else:
            pending.fail(refusal(pending.event_name, message.reason, message.text))

    def take_unknown(self, ids: list[str]) -> None:
        """End the requests that the other bus does not work on: something was lost."""
        for request_id in ids:
            pending = self._pending.get(request_id)
            if pending is not None and not pending.is_over:
                reason = "the request or its answer was lost on the way"
                pending.fail(RequestLost(pending.event_name, reason))

    def take_leaving(self, link: ConversationLink, message: Leaving) -> None:
        """Ask another bus for the requests that one has not taken before it left."""
        if not (link.is_direct and message.is_whole):
            return
        taken = {*message.taken}
        for pending in [*self._pending.values()]:
            if (
                pending.address == message.address
                and not (pending.is_over or pending.unsent)
                and pending.id not in taken
            ):
                self._ask_another(link, pending, pending.address)

    def take_offer(self, link: ConversationLink, message: Offer) -> None:
        """Note a bus that responds to an event."""
        link.directory.take_offer(message)

    def lose(self, link: ConversationLink, address: str, ids: list[str]) -> None:
        """End the requests of a bus that has ended; a broker gives them to another one."""
        link.directory.forget(address)
        for request_id in ids:
            pending = self._pending.get(request_id)
            if pending is None or pending.is_over or pending.unsent:
                continue
            if pending.ends_with_bus:
                reason = "the bus that worked on it has ended"
                pending.fail(RequestLost(pending.event_name, reason))
            else:
                pending.address = ""

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """End all requests with an error of their own."""
        for pending in [*self._pending.values()]:
            pending.fail(error())


def vetoed(event_name: str, middleware: str, reason: str) -> RequestRefused:
    """Return the error for a request that middleware has vetoed."""
    return RequestRefused(event_name, f"{middleware} has vetoed it: {reason}")


def headers_of(deadline: float, chain: tuple[str, ...], cause: Cause | None) -> dict[str, str]:
    """Return the headers of a request.

    Args:
        deadline: When the requester stops waiting, by Trio's clock.
        chain: The ids of the requests inside whose responders it is made.
        cause: The event that its listener was handling; None outside of listeners.
    """
    headers: dict[str, str] = {} if cause is None else {**cause.headers}
    if deadline < inf:
        # A deadline that has passed leaves nothing.
        headers[BUDGET_HEADER] = f"{max(0.0, deadline - trio.current_time()):.3f}"
    if chain:
        headers[CHAIN_HEADER] = ",".join(chain)
    return headers


def read_budget(headers: Mapping[str, str]) -> float:
    """Return the seconds until the deadline of a request; infinity if the headers have none."""
    try:
        seconds = float(headers.get(BUDGET_HEADER, "inf"))
    except ValueError:
        return inf
    return seconds if seconds >= 0 else inf


def read_chain(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return the ids of the requests inside whose responders a request was made."""
    chain = headers.get(CHAIN_HEADER, "")
    return tuple(chain.split(",")[: MAX_CHAINED_REQUESTS + 1]) if chain else ()


def bus_closed_meanwhile() -> BusClosed:
    """Return the error for a request that waits when its bus ends."""
    return BusClosed("the bus was closed while a request waited for its answer")
