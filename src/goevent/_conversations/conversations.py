"""Conversations: wires requests, responders and direct messages for one bus.

The bus makes one and keeps it. Each session opens it with the driver, and closes it at the end.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from .._errors import BusForked, UnsupportedError
from .._kernel.ledger import RequestCounts
from .._wire.codec import MAX_MESSAGE_BYTES
from ..drivers.direct import direct_sender
from .answers import AnswerCodec
from .channel import DirectChannel
from .deadlocks import DeadlockSearch
from .directory import OfferedBuses, ResponderDirectory
from .link import AddressSubscriptions, ConversationLink
from .messages import (
    Alive,
    Cancel,
    DirectMessage,
    Done,
    Failed,
    Leaving,
    Offer,
    Present,
    Probe,
    Received,
    Refused,
    Reply,
    Roll,
    Search,
    Started,
    Unknown,
)
from .peers import Peer, Peers
from .reports import ArrivalReport, ArrivalReports, counted_subscriptions
from .requests import NOBODY_WAITS, Requests, bus_closed_meanwhile
from .responders import Responder, Responders
from .service import RequestService
from .tracking import BUS_ENDED, REPORT_LOST, Trackings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from .._config import Config
    from .._handle import DispatchHandle
    from .._kernel.actor import Actor
    from .._kernel.dispatcher import Dispatcher
    from .._kernel.timeouts import TimedWait
    from .._ports.inbox import BusInbox
    from .._wire.envelope import Envelope
    from ..drivers.contract import Capabilities, Driver, Settle
    from .request_run import RequestRun


class Conversations:
    """The conversations of one bus.

    Attributes:
        requests: The requests of this bus.
        answers: Turns answers into bytes and back.
        track: Begins to track a dispatch on which the other buses report.
    """

    def __init__(self, dispatcher: Dispatcher, config: Config, driver: Driver) -> None:
        self._dispatcher = dispatcher
        self._driver = driver
        self._counts = RequestCounts()
        self.answers: AnswerCodec = AnswerCodec()
        self._responders = Responders(dispatcher)
        self._service = RequestService(self._responders, self._counts)
        self.requests: Requests = Requests(
            dispatcher, self._responders, self.answers, config, self._counts
        )
        self._deadlocks = DeadlockSearch(
            self._responders, self._find_run, self.requests.fail_deadlocked
        )
        self.requests.search_deadlock = self._service.search_deadlock = self._deadlocks.begin
        self._trackings = Trackings(dispatcher, driver)
        self._reports = ArrivalReports(dispatcher)
        self._link: ConversationLink | None = None
        self.track: Callable[[DispatchHandle], Awaitable[None]] = self._trackings.begin
        dispatcher.scheduler.timeouts.waits = self._waits

    @property
    def counts(self) -> RequestCounts:
        """The requests and their ends, since the bus was made."""
        malformed = 0 if self._link is None else self._link.channel.malformed
        return replace(self._counts, malformed=self._counts.malformed + malformed)

    @property
    def under_way(self) -> int:
        """The entries of all tables of conversations: 0 if none is under way."""
        tables = len(self.requests), len(self._service.runs), len(self._reports)
        return sum(tables) + (0 if self._link is None else len(self._link.peers))

    def _waits(self) -> Iterator[TimedWait]:
        return chain(self.requests.pending, self._reports.unfinished)

    # -- responders

    def check_responder(self, event_names: tuple[str, ...]) -> None:
        """Refuse a responder that this bus cannot have.

        Raises:
            UnsupportedError: The driver carries no replies.
            ValueError: An event has a responder, or its name is a pattern.
        """
        capabilities = self._driver.capabilities
        if not (capabilities.alone or capabilities.replies):
            kind = type(self._driver).__qualname__
            raise UnsupportedError(f"{kind} carries no replies, so a bus on it has no responders")
        for name in event_names:
            if "*" in name:
                raise ValueError(f"a responder answers events by name, not the pattern {name!r}")
            self._responders.check_free(name)

    def responder(self, answer: type[Any] | None) -> Responder:
        """Return the wrapper for the function of a responder."""
        return Responder(self.answers, answer)

    def add(self, event_names: tuple[str, ...], actor: Actor, answer: type[Any] | None) -> None:
        """Note the actor of a responder, and the class of its answers."""
        for name in event_names:
            self._responders.add(name, actor, answer)
        self._want_address()

    def answer_of(self, actor: Actor) -> type[Any] | None:
        """Return the class of the answers of a responder; None for any other listener."""
        return self._responders.answer_of(actor)

    def _want_address(self) -> None:
        """Have the address of this bus opened, if other buses may have messages for it.

        All other ways open it when they need it. So a bus without conversations needs no right for
        direct messages, and may use a broker that is too old for them.
        """
        link = self._link
        if link is not None and self._responders.any:
            link.want()

    # -- the session

    def open(
        self,
        capabilities: Capabilities,
        inbox: BusInbox,
        subscriptions: AddressSubscriptions,
    ) -> None:
        """Begin to talk to other buses, if the driver carries direct messages.

        Args:
            capabilities: The promises of the running driver.
            inbox: The inbox of the bus.
            subscriptions: The subscriptions of the session.
        """
        sender = direct_sender(self._driver)
        if sender is None:
            return
        is_direct = capabilities.fan_out
        channel = DirectChannel(
            sender,
            self._take,
            self._take_request,
            inbox.report,
            direct_requests=is_direct,
            answers_rolls=is_direct and not capabilities.counts_receivers,
        )
        self.answers.max_size = capabilities.max_size or MAX_MESSAGE_BYTES
        link = ConversationLink(
            channel=channel,
            peers=Peers(channel, self._lost),
            directory=ResponderDirectory(channel),
            inbox=inbox,
            subscriptions=subscriptions,
            spawn=self._dispatcher.scheduler.spawn,
            weight=counted_subscriptions(self._driver) or (lambda _: 1),
            offered=OfferedBuses(),
            is_direct=is_direct,
            is_durable=capabilities.durable,
        )
        self._connect(link)
        subscriptions.use(channel)
        self._want_address()

    def _connect(self, link: ConversationLink | None) -> None:
        self._link = self.requests.link = link
        self._trackings.link = self._reports.link = self._deadlocks.link = link

    async def run(self) -> None:
        """Watch the other buses of conversations until cancelled."""
        if self._link is not None:
            await self._link.peers.run()

    def close(self) -> None:
        """End all requests of this bus, and tell the other buses that it leaves."""
        self.requests.fail_all(bus_closed_meanwhile)
        link = self._link
        self._connect(None)
        if link is not None:
            self._counts.malformed += link.channel.malformed
            for address in {**dict.fromkeys(link.peers.addresses()), **link.offered.recent()}:
                leaving = self._service.leaving(link.channel.address, address)
                link.channel.send(address, leaving, _ignore_result)

    def fork(self, *, wakes: bool) -> None:
        """Talk to nobody: this process is a fork of the one that owns the bus.

        Args:
            wakes: True if the tasks that wait for answers run on in this process.
        """
        self._connect(None)
        if wakes:
            self.requests.fail_all(BusForked)

    # -- what arrives

    def begin_report(self, envelope: Envelope, settle: Settle | None) -> ArrivalReport | None:
        """Return the report about an event that has arrived; None if there will be none."""
        return self._reports.begin(envelope, settle)

    async def deliver(self, envelope: Envelope, settle: Settle | None, deliveries: int) -> None:
        """Take a request that the broker has brought; waits for room in the mailbox."""
        assert self._link is not None  # noqa: S101 - no request is subscribed to without it
        await self._service.deliver(self._link, envelope, settle, deliveries)

    def _take_request(self, event_name: str, data: bytes) -> None:
        if self._link is not None:
            self._service.take_direct(self._link, event_name, data)

    def _take(self, message: DirectMessage) -> None:
        """Take a direct message."""
        link = self._link
        if link is None:
            return
        match message:
            case Reply():
                self.requests.take_reply(link, message)
            case Failed():
                self.requests.take_failed(message)
            case Refused():
                self.requests.take_refused(link, message)
            case Started():
                self.requests.take_started(link, message)
            case Offer():
                link.directory.take_offer(message)
            case Unknown():
                self.requests.take_unknown(message.ids)
                self._trackings.lose(link, message.address, message.ids, REPORT_LOST)
            case Search():
                self._answer_search(link, message)
            case Cancel():
                self._service.cancel(message.id, message.reason)
                self._reports.forget([message.id])
            case Alive():
                self._take_sign(link, message)
            case Probe():
                self._deadlocks.follow(message)
            case Roll():
                self._trackings.answer_roll(link, message)
            case Present():
                self._trackings.take_present(message)
            case Received():
                self._counts.late += not self._trackings.take_received(link, message)
            case Done():
                self._counts.late += not self._trackings.take_done(link, message)
            case Leaving():
                link.directory.forget(message.address)
                self.requests.take_leaving(link, message)
                link.peers.lose(message.address)

    def _find_run(self, request_id: str) -> RequestRun | None:
        return self._service.runs.get(request_id) or self.requests.run_here(request_id)

    def _answer_search(self, link: ConversationLink, message: Search) -> None:
        is_open = self._dispatcher.state == "open"
        if is_open and self._responders.actor(message.event_name) is not None:
            link.offered.note(message.reply_to)
            offer = Offer(message.event_name, link.channel.address)
            link.channel.send(message.reply_to, offer)

    def _take_sign(self, link: ConversationLink, message: Alive) -> None:
        link.peers.hear(message.address)
        unknown = [
            each for each in self._service.unknown(message.ids) if not self._reports.has(each)
        ]
        if unknown:
            link.channel.send(message.address, Unknown(link.channel.address, unknown))
        for each in message.serves:
            # The cancellation was lost on its way.
            if not (self.requests.has(each) or self._trackings.has(each)):
                link.channel.send(message.address, Cancel(each, NOBODY_WAITS))

    def _lost(self, address: str, peer: Peer) -> None:
        """End the conversations with a bus that has ended."""
        self._service.cancel_all([*peer.served])
        self._reports.forget([*peer.served])
        if (link := self._link) is not None:
            self.requests.lose(link, address, [*peer.asked])
            self._trackings.lose(link, address, [*peer.asked], BUS_ENDED)


def _ignore_result(result: int | Exception | None) -> None:
    """Ignore whether the last message of a bus has been sent: nobody needs it."""
