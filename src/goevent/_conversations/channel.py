"""The channel: sends the direct messages of one open bus, and hands on those that arrive.

`Conversations` opens one with each session of a bus whose driver carries direct messages. The
subscriptions of the bus keep its addresses open at the driver: they ask `opens` about each name.

Bytes that arrive are hostile. Those that are no message are counted, and the first of them are
reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from .._errors import DecodeError
from .._events.names import REPLIES_NAME, requested_name
from .._wire.codec import excerpt_of
from ..drivers.direct import DirectSent, SendsDirectly
from ..drivers.error_mapping import map_error
from .addresses import ROLL_ADDRESS, new_address, responder_address, search_address
from .messages import DirectMessage, decode_message, encode_message

MAX_REPORTED_MESSAGES = 10
"""The refused messages of a session that are reported; all are counted."""

TakeMessage = Callable[[DirectMessage], None]
"""Takes a message that has arrived."""

TakeRequest = Callable[[str, bytes], None]
"""Takes the event name and the bytes of a request that has arrived."""


class DirectChannel:
    """The direct messages of one session.

    Attributes:
        address: The address of this bus.
        malformed: The messages that were no message of this protocol.
        answers_rolls: True if the bus takes part in roll calls.

    Args:
        sender: The driver.
        take_message: Takes each message that arrives.
        take_request: Takes the event name and the bytes of each request that arrives.
        report: Reports an error and the name of its event to the supervisor.
        direct_requests: True if requests travel as direct messages.
        answers_rolls: See above.
    """

    def __init__(
        self,
        sender: SendsDirectly,
        take_message: TakeMessage,
        take_request: TakeRequest,
        report: Callable[[Exception, str], object],
        *,
        direct_requests: bool,
        answers_rolls: bool,
    ) -> None:
        self.address: str = new_address()
        self.malformed: int = 0
        self._sender = sender
        self._take_message = take_message
        self._take_request = take_request
        self._report = report
        self._direct_requests = direct_requests
        self.answers_rolls: bool = answers_rolls
        self._request_prefix = f"{self.address}."

    # -- addresses

    def opens(self, name: str) -> bool:
        """Tell whether a subscribed name stands for addresses of this channel."""
        return name == REPLIES_NAME or (self._direct_requests and bool(requested_name(name)))

    async def open(self, names: Sequence[str]) -> None:
        """Open the addresses for some names."""
        await self._sender.open_addresses(self._addresses(names), self.take)

    async def close(self, names: Sequence[str]) -> None:
        """Close the addresses for some names."""
        await self._sender.close_addresses(self._addresses(names))

    def _addresses(self, names: Sequence[str]) -> list[str]:
        addresses: list[str] = []
        for name in names:
            event_name = requested_name(name)
            if event_name:
                addresses.append(responder_address(self.address, event_name))
                addresses.append(search_address(event_name))
            else:
                addresses.append(self.address)
                if self.answers_rolls:
                    addresses.append(ROLL_ADDRESS)
        return addresses

    # -- messages

    def send(self, address: str, message: DirectMessage, sent: DirectSent | None = None) -> None:
        """Send a message; `sent` is called as `SendsDirectly.send_directly` says.

        An error is reported, if nothing is given that takes it.
        """
        self.send_bytes(address, encode_message(message), sent)

    def search(self, event_name: str, message: DirectMessage, sent: DirectSent | None) -> None:
        """Send a message to all buses that respond to an event."""
        self.send(search_address(event_name), message, sent)

    def send_request(self, address: str, event_name: str, data: bytes, sent: DirectSent) -> None:
        """Send the bytes of a request to one bus."""
        self.send_bytes(responder_address(address, event_name), data, sent)

    def send_bytes(self, address: str, data: bytes, sent: DirectSent | None = None) -> None:
        """Send bytes, as `send` does."""
        told = self._report_failure if sent is None else sent
        try:
            self._sender.send_directly(address, data, told)
        except Exception as error:  # noqa: BLE001 - a driver that raises has not called `sent`
            told(map_error(error, self._sender, "send"))

    def _report_failure(self, result: int | Exception | None) -> None:
        if isinstance(result, Exception):
            self._report(result, "")

    def take(self, address: str, data: bytes) -> None:
        """Take the bytes that have arrived at an address."""
        if address.startswith(self._request_prefix):
            self._take_request(address.removeprefix(self._request_prefix), data)
            return
        try:
            message = decode_message(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.refuse(DecodeError(REPLIES_NAME, str(error), excerpt=excerpt_of(data)))
            return
        self._take_message(message)

    def refuse(self, error: DecodeError) -> None:
        """Count a message that makes no sense, and report the first ones."""
        self.malformed += 1
        if self.malformed <= MAX_REPORTED_MESSAGES:
            self._report(error, error.event_name)
