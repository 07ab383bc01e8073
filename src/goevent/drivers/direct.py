"""Direct messages: bytes that buses send to each other beside the events.

A driver that carries them has the capability `replies` and the three methods of
`SendsDirectly`. The bus sends requests, replies and reports over them; see
`goevent._conversations`. They are short-lived: a durable driver carries them over the fan-out side
of its connection, and keeps none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast, runtime_checkable

from .contract import Driver

TakeDirect = Callable[[str, bytes], None]
"""Takes the bytes that were sent to an address."""

DirectSent = Callable[[int | Exception | None], None]
"""Takes the number of buses that got a direct message, the error, or None if unknown."""


@runtime_checkable
class SendsDirectly(Protocol):
    """Sends bytes to addresses; needed for the capability `replies`.

    An address is text of dotted segments (`[A-Za-z0-9_-]+`), at most 300 characters long. Its place
    at the broker lies outside of the places of events, so that no subscription by a pattern gets
    its messages. Several buses may open one address, and each of them gets every message.

    Messages arrive at most once. Those of one sender to one address arrive in order. The bus calls
    the methods while `Driver.run` runs, between its start and the end of its cancellation. A
    message may be as large as an event.
    """

    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        """Receive the messages to more addresses; returns when the broker has confirmed it.

        The driver opens them again after a lost connection, as it renews subscriptions. `take` is
        the same function in each call. It is called on Trio's thread, does not wait and does not
        raise.

        Raises:
            DriverError: The broker cannot be reached, or has refused. None of them is open then.
        """
        ...

    async def close_addresses(self, addresses: Sequence[str]) -> None:
        """Receive their messages no more."""
        ...

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        """Send bytes to all buses that have opened an address, without waiting.

        The driver may keep what it cannot send at once. It calls `sent` exactly once, now or later
        and not later than the end of `Driver.run`: with the number of buses that have the address
        open if the broker tells it, None if it does not, or the `DriverError` if the broker cannot
        be reached or has refused. A broker that only tells whether there is any such bus answers 0
        or None.
        """
        ...


def direct_sender(driver: Driver) -> SendsDirectly | None:
    """Return the driver as one that carries direct messages; None if it does not."""
    return cast("SendsDirectly", driver) if driver.capabilities.replies else None
