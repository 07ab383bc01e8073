"""The service: takes the requests of other buses to the responders of this one.

A request arrives as a direct message, or through the broker. The service decodes it, runs the
responder, sends the answer, and settles the request with the broker. A request that comes twice is
run once. It is cancelled if its requester says so or has ended.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from .._errors import DecodeError, EventError
from .._events.names import requested_name
from .._ports.inbox import COMPLETED, NO_LISTENER
from ..drivers.contract import Settlement
from .addresses import is_answerable
from .messages import (
    MAX_IDS_PER_MESSAGE,
    UNTAKEN,
    Failed,
    Leaving,
    Refused,
    Reply,
    Started,
    failure_texts,
    travelling_text,
)
from .request_headers import read_budget, read_chain
from .request_run import RequestRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._kernel.ledger import RequestCounts
    from .._wire.envelope import Envelope
    from ..drivers.contract import Settle
    from .answers import AnswerCodec
    from .link import ConversationLink
    from .messages import RefusalReason
    from .responders import Responders

MAX_REMEMBERED_REQUESTS = 10_000
"""The requests whose ids are kept after their end, to know them when they come again."""

REQUESTER_ENDED = "the bus that made the request has ended"


class RequestHead(msgspec.Struct):
    """The id of a request and the address for its answer, if the event cannot be decoded."""

    handle_id: str = ""
    reply_to: str = ""


class RemoteRequester:
    """The requesters of other buses that have sent a direct message."""

    def __init__(self, link: ConversationLink) -> None:
        self._link = link

    def keep(self, event_name: str, value: object, answers: AnswerCodec) -> object:
        """Return the answer as bytes, while the responder can still fail."""
        return answers.encode(event_name, value)

    def answered(self, run: RequestRun, value: object) -> None:
        """Send the answer."""
        assert isinstance(value, bytes)  # noqa: S101 - see `keep`
        self._link.channel.send(run.address, Reply(run.id, msgspec.Raw(value)))

    def failed(self, run: RequestRun, error: EventError) -> None:
        """Send the failure as text."""
        error_type, text = failure_texts(error)
        message = Failed(
            run.id,
            listener=travelling_text(error.listener),
            error_type=travelling_text(error_type),
            text=travelling_text(text),
            outcome=error.outcome,
            bus=self._link.inbox.origin,
        )
        self._link.channel.send(run.address, message)

    def refused(self, run: RequestRun, reason: RefusalReason, text: str) -> None:
        """Send the refusal."""
        self._link.channel.send(run.address, Refused(run.id, reason, travelling_text(text)))


class BrokerRequester(RemoteRequester):
    """The requester of one request that the broker has brought.

    Attributes:
        is_released: True if another bus has to get the request.
    """

    def __init__(self, link: ConversationLink) -> None:
        super().__init__(link)
        self.is_released: bool = False

    def failed(self, run: RequestRun, error: EventError) -> None:
        if error.outcome == "abandoned" and self._link.is_durable:
            self._release(run)
        else:
            super().failed(run, error)

    def refused(self, run: RequestRun, reason: RefusalReason, text: str) -> None:
        if reason in UNTAKEN and self._link.is_durable:
            self._release(run)
        else:
            super().refused(run, reason, text)

    def _release(self, run: RequestRun) -> None:
        self.is_released = True
        address = self._link.channel.address
        self._link.channel.send(run.address, Refused(run.id, "released", address=address))


class RequestService:
    """The requests of other buses that one bus works on.

    Attributes:
        runs: These requests, by their ids.
        search_deadlock: Looks whether one of these requests waits for itself.
    """

    search_deadlock: Callable[[RequestRun], None]

    def __init__(self, responders: Responders, counts: RequestCounts) -> None:
        self._responders = responders
        self._counts = counts
        # The ids of the latest direct requests, each with the address of its requester.
        self._known: dict[str, str] = {}
        self._has_forgotten = False
        self.runs: dict[str, RequestRun] = {}

    def take_direct(self, link: ConversationLink, event_name: str, data: bytes) -> None:
        """Take a request that has arrived as a direct message."""
        try:
            envelope = link.inbox.decode(event_name, data)
        except DecodeError as error:
            link.channel.refuse(error)
            self._refuse_undecodable(link, data, error)
            return
        if not _is_request(envelope):
            link.channel.refuse(not_a_request(event_name))
            return
        if self._is_known(envelope.handle_id, envelope.reply_to):
            return
        run = self._begin(link, envelope, event_name, RemoteRequester(link))
        rest = self._responders.accept(
            run, envelope.event, envelope.headers, partial(self._ended, link)
        )
        if rest is not None:
            link.spawn(rest)
        if run.chain:
            self.search_deadlock(run)

    async def deliver(
        self, link: ConversationLink, envelope: Envelope, settle: Settle | None, deliveries: int
    ) -> None:
        """Take a request that the broker has brought; waits for room in the mailbox."""
        event_name = requested_name(envelope.event_name)
        if not _is_request(envelope):
            link.channel.refuse(not_a_request(event_name))
            link.inbox.tell(envelope.event_name, settle, COMPLETED)
            return
        if envelope.handle_id in self.runs:
            # The broker repeats a request on which this bus still works.
            link.inbox.tell(envelope.event_name, settle, COMPLETED)
            return
        requester = BrokerRequester(link)
        run = self._begin(link, envelope, event_name, requester)
        ended = partial(self._settle, link, requester, envelope.event_name, settle)
        if self._responders.actor(event_name) is not None:
            started = Started(run.id, link.channel.address)
            link.channel.send(run.address, started)
        rest = self._responders.accept(
            run, envelope.event, envelope.headers, ended, deliveries=deliveries
        )
        if run.chain:
            self.search_deadlock(run)
        if rest is not None:
            await rest()

    def _begin(
        self,
        link: ConversationLink,
        envelope: Envelope,
        event_name: str,
        requester: RemoteRequester,
    ) -> RequestRun:
        headers = envelope.headers
        run = RequestRun(
            envelope.handle_id,
            event_name,
            requester,
            address=envelope.reply_to,
            deadline=trio.current_time() + read_budget(headers),
            chain=read_chain(headers),
        )
        self._counts.served += 1
        self.runs[run.id] = run
        link.peers.serve(run.address, run.id)
        return run

    def _is_known(self, request_id: str, address: str) -> bool:
        """Note the id of a request; tell whether it has come before."""
        if request_id in self._known:
            return True
        self._known[request_id] = address
        if len(self._known) > MAX_REMEMBERED_REQUESTS:
            # The oldest one: a dict keeps the order of insertion.
            del self._known[next(iter(self._known))]
            self._has_forgotten = True
        return False

    def leaving(self, own_address: str, address: str) -> Leaving:
        """Return the last message to a bus: it names the requests that came from there."""
        taken = [each for each, requester in self._known.items() if requester == address]
        is_whole = len(taken) <= MAX_IDS_PER_MESSAGE and not self._has_forgotten
        return Leaving(own_address, taken[-MAX_IDS_PER_MESSAGE:], is_whole)

    def _ended(
        self, link: ConversationLink, run: RequestRun, errors: tuple[EventError, ...]
    ) -> None:
        if self.runs.pop(run.id, None) is None:
            return
        link.peers.end(run.address, run.id)
        self._counts.served_cancelled += run.is_cancelled
        run.finish(errors)

    def _settle(
        self,
        link: ConversationLink,
        requester: BrokerRequester,
        name: str,
        settle: Settle | None,
        run: RequestRun,
        errors: tuple[EventError, ...],
    ) -> None:
        """End a request of the broker: send the answer, and settle the request."""
        self._ended(link, run, errors)
        settlement = COMPLETED
        if requester.is_released:
            # A failure is the answer to the request, and ends it. Only a request that no responder
            # has completed goes to another bus.
            settlement = Settlement(errors) if errors else NO_LISTENER
        link.inbox.tell(name, settle, settlement)

    def _refuse_undecodable(self, link: ConversationLink, data: bytes, error: DecodeError) -> None:
        """Tell the requester that its request cannot be read, if it can be found."""
        head = read_head(data)
        if head is not None and is_answerable(head.handle_id, head.reply_to):
            refused = Refused(head.handle_id, "undecodable", travelling_text(str(error)))
            link.channel.send(head.reply_to, refused)

    def cancel(self, request_id: str, reason: str) -> None:
        """Cancel a request."""
        if (run := self.runs.get(request_id)) is not None:
            run.cancel(reason or "the requester waits no longer")

    def cancel_all(self, ids: list[str]) -> None:
        """Cancel the requests of a bus that has ended."""
        for request_id in ids:
            self.cancel(request_id, REQUESTER_ENDED)

    def unknown(self, ids: list[str]) -> list[str]:
        """Return those of some requests that this bus does not work on."""
        return [each for each in ids if each not in self.runs]


def _is_request(envelope: Envelope) -> bool:
    return is_answerable(envelope.handle_id, envelope.reply_to)


def not_a_request(event_name: str) -> DecodeError:
    """Return the error for an event that has come as a request and is none."""
    return DecodeError(event_name, "the request has no id, or no address for the answer")


def read_head(data: bytes) -> RequestHead | None:
    """Return the head of a request that cannot be decoded, in JSON or MessagePack; None if none."""
    for decode in (msgspec.json.decode, msgspec.msgpack.decode):
        try:
            return decode(data, type=RequestHead)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return None
