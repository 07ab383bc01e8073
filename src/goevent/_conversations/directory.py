"""The directory: the buses that respond to an event, under a driver with `fan_out`.

A request is for one bus. The directory finds it with a search, a direct message to all buses that
respond to the event. Each answers with an offer. The buses with offers get the following requests
in turn. An offer is as good as the last sign of life of its bus: after `OFFER_SECONDS` without one
the directory searches again.
"""

from __future__ import annotations

import trio

from .._errors import NoResponder
from .channel import DirectChannel
from .messages import Offer, Search

OFFER_SECONDS = 3.0
"""How long an offer is good after the last message of its bus."""

SEARCH_AGAIN_SECONDS = 1.0
"""The time between two searches for a responder that has not come forward."""

REFRESH_SECONDS = 10.0
"""How often a search looks for further responders of an event that is in use."""

MAX_SEARCHED_NAMES = 10_000
"""The events whose offers are remembered."""

MAX_OFFERS_PER_EVENT = 1_000
"""The responding buses of one event that are remembered. Offers may come from strangers."""

MAX_OFFERED_BUSES = 1000
"""The buses that are told when this one leaves; those with the newest offers."""


class Offers:
    """The offers for one event.

    Attributes:
        heard: When each responding bus has sent the last message, by Trio's clock. The bus whose
            turn it is stands first.
        search: The newest search; None before the first one.
    """

    __slots__ = ("heard", "search")

    def __init__(self) -> None:
        self.heard: dict[str, float] = {}
        self.search: SearchProgress | None = None


class ResponderDirectory:
    """The directory of one session.

    Args:
        channel: Sends the searches.
    """

    def __init__(self, channel: DirectChannel) -> None:
        self._channel = channel
        self._offers: dict[str, Offers] = {}

    def __len__(self) -> int:
        """Return the number of offers."""
        return sum(len(offers.heard) for offers in self._offers.values())

    def take_offer(self, offer: Offer) -> None:
        """Note an offer; one that nobody has asked for is ignored."""
        offers = self._offers.get(offer.event_name)
        if offers is not None and (
            offer.address in offers.heard or len(offers.heard) < MAX_OFFERS_PER_EVENT
        ):
            offers.heard[offer.address] = trio.current_time()
            if offers.search is not None:
                offers.search.changed.set()

    def hear(self, event_name: str, address: str) -> None:
        """Note that a responder of an event is alive."""
        offers = self._offers.get(event_name)
        if offers is not None and address in offers.heard:
            offers.heard[address] = trio.current_time()

    def forget(self, address: str, event_name: str | None = None) -> None:
        """Forget the offers of a bus for one event, or for all."""
        names = [*self._offers] if event_name is None else [event_name]
        for name in names:
            if (offers := self._offers.get(name)) is not None:
                offers.heard.pop(address, None)

    def next_known(self, event_name: str) -> str:
        """Return the address of the bus that is next in turn; empty if none is known."""
        offers = self._offers.get(event_name)
        if offers is None:
            return ""
        now = trio.current_time()
        if offers.search is None or now - offers.search.began > REFRESH_SECONDS:
            self._search(event_name, offers)
        for address in [*offers.heard]:
            heard = offers.heard.pop(address)
            if now - heard <= OFFER_SECONDS:
                offers.heard[address] = heard
                return address
        return ""

    async def find(self, event_name: str) -> str:
        """Return the address of a bus that responds to an event; wait for one.

        Raises:
            DriverError: The broker cannot be reached.
            NoResponder: The broker says that there is none.
        """
        offers = self._offers.get(event_name)
        if offers is None:
            if len(self._offers) >= MAX_SEARCHED_NAMES:
                self._offers.clear()
            offers = self._offers[event_name] = Offers()
        while not (address := self.next_known(event_name)):
            search = offers.search
            if search is None or search.is_over:
                search = self._search(event_name, offers)
            with trio.move_on_at(search.began + SEARCH_AGAIN_SECONDS):
                await search.changed.wait()
            if search.error is not None:
                raise search.error.with_traceback(None)
            if search.receivers == 0 and not offers.heard:
                raise NoResponder(event_name, "the broker knows no bus that responds to it")
        return address

    def _search(self, event_name: str, offers: Offers) -> SearchProgress:
        # Before the message is sent: a bus of this process makes its offer at once.
        search = offers.search = SearchProgress()
        message = Search(event_name, self._channel.address)
        self._channel.search(event_name, message, search.sent)
        return search


class OfferedBuses:
    """The buses to which this one has made offers, to tell them that it leaves."""

    def __init__(self) -> None:
        self._offered: dict[str, float] = {}

    def note(self, address: str) -> None:
        """Note that a bus gets an offer."""
        self._offered.pop(address, None)
        self._offered[address] = trio.current_time()
        if len(self._offered) > MAX_OFFERED_BUSES:
            # The oldest one: a dict keeps the order of insertion.
            del self._offered[next(iter(self._offered))]

    def recent(self) -> dict[str, float]:
        """Return the addresses of those that may still rely on their offer."""
        since = trio.current_time() - REFRESH_SECONDS - OFFER_SECONDS
        return {address: at for address, at in self._offered.items() if at >= since}


class SearchProgress:
    """One search, which several requests may wait for.

    Attributes:
        began: When it began, by Trio's clock.
        changed: Set with the first offer, or when none can come.
        receivers: The number of buses that got it; None if the broker has not told yet, or does
            not tell.
        error: The error of the driver.
    """

    __slots__ = ("began", "changed", "error", "receivers")

    def __init__(self) -> None:
        self.began: float = trio.current_time()
        self.changed: trio.Event = trio.Event()
        self.receivers: int | None = None
        self.error: Exception | None = None

    @property
    def is_over(self) -> bool:
        """True if a request needs another search."""
        late = trio.current_time() >= self.began + SEARCH_AGAIN_SECONDS
        return late or self.changed.is_set()

    def sent(self, result: int | Exception | None) -> None:
        """Take the answer of the broker; end the search if nothing else can come."""
        if isinstance(result, Exception):
            self.error = result
        else:
            self.receivers = result
        if self.error is not None or result == 0:
            self.changed.set()
