"""The requests of one bus that wait for an answer.

`GoEvent.request` calls `Requests.ask`. A request has one of three ways:

- *here*, if this bus has a responder for the event: as an object, without the broker;
- *direct*, under `fan_out`: as a direct message to one bus of the directory;
- *by the broker* otherwise: as an event under a reserved name, which one bus of the group gets. A
  durable broker gives it to another bus if the first one ends. Its answer is a direct message.

Each waiting request is an `AskedRequest`, and ends once. If the caller stops waiting, the bus that
works on the request is told. A message that comes after the end is counted as late.
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
from trio.lowlevel import in_trio_task

from .._errors import (
    BusClosed,
    EncodeError,
    EventError,
    EventVetoed,
    HookFailed,
    NoResponder,
    RequestLost,
    RequestRefused,
    RequestTimeout,
    UnsupportedError,
    Vetoed,
)
from .._events.names import request_name
from .._handle import new_handle
from .._options.retry import check_seconds
from .._wire.envelope import Envelope
from .asked_request import AskedRequest, refusal
from .messages import (
    UNTAKEN,
    Cancel,
    Failed,
    Leaving,
    Refused,
    Reply,
    Started,
    remote_error,
)
from .request_headers import headers_of
from .request_run import RequestRun, run_of

if TYPE_CHECKING:
    from .._cause import Cause
    from .._config import Config
    from .._handle import DispatchHandle
    from .._kernel.dispatcher import Dispatcher
    from .._kernel.ledger import RequestCounts
    from .answers import AnswerCodec
    from .link import ConversationLink
    from .responders import Responders

NOBODY_WAITS = "the requester was cancelled, or its deadline has passed"


class Requests:
    """The requests of one bus.

    Attributes:
        counts: The requests and their ends.
        link: The way to the other buses; None while there is none.
        search_deadlock: Looks whether a request at a responder of this bus waits for itself.
    """

    search_deadlock: Callable[[RequestRun], None]

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
        self._pending: dict[str, AskedRequest] = {}
        self._timeouts = dispatcher.scheduler.timeouts
        self.counts: RequestCounts = counts
        self.link: ConversationLink | None = None

    @property
    def pending(self) -> Collection[AskedRequest]:
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
        pending = AskedRequest(request_id, name, self._answers, ends_with_bus=ends_with_bus)
        counts = self.counts
        counts.asked += 1
        self._pending[pending.id] = pending
        if enclosing is not None:
            enclosing.begin_to_wait(pending)
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
            if enclosing is not None:
                enclosing.end_wait(pending)
            self._end(pending)
        counts.timed_out += 1
        raise self._timed_out(pending, inf if timeout is None else timeout)

    def _end(self, pending: AskedRequest) -> None:
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
        pending: AskedRequest,
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

    def _timed_out(self, pending: AskedRequest, timeout: float) -> Exception:
        if pending.address or pending.was_taken:
            reason = f"the responder has not answered within {timeout:g} s"
            return RequestTimeout(pending.event_name, reason)
        return NoResponder(
            pending.event_name, f"no responder has come forward within {timeout:g} s"
        )

    async def _ask(
        self, pending: AskedRequest, event: object, chain: tuple[str, ...], cause: Cause | None
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
                self._leave(link, pending)
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
        pending: AskedRequest,
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
        self, pending: AskedRequest, handle: DispatchHandle
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
        self, pending: AskedRequest, event: object, chain: tuple[str, ...], cause: Cause | None
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
        pending: AskedRequest,
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
        if chain:
            self.search_deadlock(run)

    def _ended_here(self, run: RequestRun, errors: tuple[EventError, ...]) -> None:
        self.counts.served_cancelled += run.is_cancelled
        run.finish(errors)

    async def _ask_directly(
        self,
        link: ConversationLink,
        pending: AskedRequest,
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
        pending: AskedRequest,
        event: object,
        headers: Mapping[str, str],
        address: str,
    ) -> None:
        """Send a request to one bus.

        Raises:
            EncodeError: The codec cannot encode the event, or the bytes are too many.
        """
        data = self._encode(link, pending, event, headers)
        self._leave(link, pending)
        pending.address, pending.unsent = address, False
        link.peers.ask(address, pending.id)
        sent = partial(self._sent, link, pending, address)
        link.channel.send_request(address, pending.event_name, data, sent)

    def _encode(
        self,
        link: ConversationLink,
        pending: AskedRequest,
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
        pending: AskedRequest,
        address: str,
        result: int | Exception | None,
    ) -> None:
        """Take the answer of the broker to a request."""
        if isinstance(result, Exception):
            pending.fail(result)
        elif result == 0 and pending.address == address and not pending.is_over:
            self._ask_another(link, pending, address)

    def _ask_another(self, link: ConversationLink, pending: AskedRequest, address: str) -> None:
        link.directory.forget(address, pending.event_name)
        self._leave(link, pending)
        # Nobody works on it: if there is no other bus, nobody has responded.
        pending.was_taken, pending.unsent = False, True
        pending.wake()

    def _leave(self, link: ConversationLink, pending: AskedRequest) -> None:
        """Wait no more for the bus that had a request."""
        if pending.address:
            link.peers.end(pending.address, pending.id)
            pending.address = ""

    async def _ask_by_broker(self, pending: AskedRequest, handle: DispatchHandle) -> None:
        """Have the broker take a request to one bus of the group."""
        dispatcher = self._dispatcher
        route = dispatcher.router.named(handle._route.name)
        if route.special:
            await dispatcher.special_dispatch.dispatch(handle)
        else:
            await dispatcher.bring(route, handle)
        handle._when_done(partial(self._published, pending))
        await pending.wait()

    def _published(self, pending: AskedRequest, errors: tuple[EventError, ...]) -> None:
        if not errors:
            return
        first = errors[0]
        if isinstance(first, EventVetoed):
            pending.fail(vetoed(pending.event_name, first.listener, first.reason))
        elif isinstance(first.error, EncodeError):
            # The publisher knows the request by a reserved name.
            pending.fail(EncodeError(pending.event_name, first.error.reason))
        else:
            pending.fail(first.error if isinstance(first.error, Exception) else first)

    @property
    def _has_hooks(self) -> bool:
        return self._dispatcher.special_dispatch.has_hooks

    # -- messages of the other bus

    def _find(self, request_id: str) -> AskedRequest | None:
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
        self._leave(link, pending)
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
            pending.fail(remote_error(pending.event_name, message, message.bus))

    def take_refused(self, link: ConversationLink, message: Refused) -> None:
        """End a request that was refused, or ask another bus."""
        if (pending := self._find(message.id)) is None:
            return
        if message.reason == "released":
            # Another bus may have begun with it meanwhile.
            if pending.address == message.address:
                self._leave(link, pending)
        elif (
            message.reason in UNTAKEN
            and not link.is_durable
            and (pending.address or not link.is_direct)
        ):
            self._ask_another(link, pending, pending.address)
        elif message.reason == "deadlock":
            self.fail_deadlocked(message.id, message.text)
        else:
            pending.fail(refusal(pending.event_name, message.reason, message.text))

    def fail_deadlocked(self, request_id: str, text: str) -> None:
        """End a request that would wait for ever, and take it back from its responder."""
        pending = self._pending.get(request_id)
        if pending is None or pending.is_over:
            return
        pending.fail(refusal(pending.event_name, "deadlock", text))
        if pending.run is not None:
            pending.run.cancel(NOBODY_WAITS)
        elif pending.address and self.link is not None:
            self.link.channel.send(pending.address, Cancel(pending.id, NOBODY_WAITS))

    def run_here(self, request_id: str) -> RequestRun | None:
        """Return a request of this bus at a responder of this bus."""
        pending = self._pending.get(request_id)
        return None if pending is None else pending.run

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


def bus_closed_meanwhile() -> BusClosed:
    """Return the error for a request that waits when its bus ends."""
    return BusClosed("the bus was closed while a request waited for its answer")
