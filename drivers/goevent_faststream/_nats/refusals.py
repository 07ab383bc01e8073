"""The refusals of a NATS server, and the requests that they belong to.

A server that refuses a request sends an error line (`-ERR`) without an id of the request. Most of
these lines name the subject. A connection owns one `Refusals`. The sender of a request that the
server may refuse waits here under the subject of the request, and gets the refusal at once instead
of no answer. A refusal that no request waits for is reported, once for each connection.

The server sends an error line before the PONG of a PING that followed the refused request. So a
subscription that is not refused when its PONG arrives is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NamedTuple

from goevent import DriverError

_PERMISSION = re.compile(
    r'permissions violation for (subscription to|publish to|publish with reply of) "([^"]*)"',
    re.IGNORECASE,
)
TOO_MANY_SUBSCRIPTIONS_TEXT = "maximum subscriptions exceeded"

Claim = Callable[[DriverError], object]
"""Takes the refusal of one request."""


class NatsRefusal(NamedTuple):
    """One error line after which the connection goes on.

    Attributes:
        text: The server's words.
        subject: The subject of the refused request; empty if the server does not name it.
        is_subscription: The server refused a subscription, and otherwise a publish.
    """

    text: str
    subject: str
    is_subscription: bool


def read_refusal(text: str) -> NatsRefusal | None:
    """Return the refusal in the text of an error line; None if the server ends the connection."""
    found = _PERMISSION.search(text)
    if found is not None:
        return NatsRefusal(text, found[2], found[1].lower().startswith("subscription"))
    if TOO_MANY_SUBSCRIPTIONS_TEXT in text.lower():
        return NatsRefusal(text, "", is_subscription=True)
    return None


class Refusals:
    """The requests of one connection that the server may refuse.

    Args:
        report: Called with the refusal of a request that nobody waits for.

    Attributes:
        on_direct_refused: Called in the same way before it, for direct messages.
        on_event_refused: Called with the subject and the refusal of a publish that is no request
            of the driver itself; returns True if an event waited for it.
    """

    def __init__(self, report: Callable[[DriverError], object]) -> None:
        self.on_direct_refused: Callable[[str, DriverError], bool] = _take_nothing
        self.on_event_refused: Callable[[str, DriverError], bool] = _take_nothing
        self._report = report
        self._claims: dict[str, list[Claim]] = {}
        self._refused_subscriptions: dict[str, DriverError] = {}
        self._reported: set[str] = set()

    def reset(self) -> None:
        """Forget the refusals of an earlier connection."""
        self._refused_subscriptions.clear()
        self._reported.clear()

    @contextmanager
    def waiting(self, subject: str, claim: Claim) -> Generator[None]:
        """Give the refusals of a subject to `claim` inside a `with` block."""
        claims = self._claims.setdefault(subject, [])
        claims.append(claim)
        try:
            yield
        finally:
            claims.remove(claim)
            if not claims:
                self._claims.pop(subject, None)

    def take(self, refusal: NatsRefusal) -> None:
        """Give a refusal to the requests that it belongs to, or report it."""
        subject, error = refusal.subject, DriverError(f"NATS: {refusal.text}")
        if refusal.is_subscription:
            self._refused_subscriptions[subject] = error
        # Copied, because a claim may end the wait of another one.
        claims = [*self._claims.get(subject, ())]
        for claim in claims:
            claim(error)
        is_taken = bool(claims) or (
            not refusal.is_subscription
            and (self.on_direct_refused(subject, error) or self.on_event_refused(subject, error))
        )
        if not is_taken:
            self.report_once(f"{refusal.is_subscription} {_without_numbers(subject)}", error)

    def subscription(self, subject: str) -> DriverError | None:
        """Return the refusal of a subscription on this connection; None if it is accepted."""
        return self._refused_subscriptions.get(subject)

    def forget_subscription(self, subject: str) -> bool:
        """Forget the refusal of a subscription that is sent again; return False without one."""
        return self._refused_subscriptions.pop(subject, None) is not None

    def report_once(self, topic: str, error: DriverError) -> None:
        """Report an error, unless one about the same topic was reported on this connection."""
        if topic not in self._reported:
            self._reported.add(topic)
            self._report(error)


def _without_numbers(subject: str) -> str:
    """Return a subject without the numbers of one event, with which acknowledgements end."""
    if subject.startswith("$JS.ACK."):
        return ".".join(subject.split(".")[:4])
    return subject


def _take_nothing(subject: str, error: DriverError) -> bool:
    """Take no refusal: the adapter set no callback."""
    return False
