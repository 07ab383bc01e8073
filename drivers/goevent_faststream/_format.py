"""Formats: what an event looks like in a message, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from goevent import Envelope, Inbox, Message

from ._dialect import Arrival

NO_HEADERS: Mapping[str, str] = {}


class Format(Protocol):
    """How events are written and read; on Trio's side."""

    def write(self, message: Message) -> tuple[bytes, Mapping[str, str]]:
        """Return the body and the headers of a message.

        Raises:
            EncodeError: the event cannot be written.
        """
        ...

    def read(self, arrival: Arrival, inbox: Inbox) -> Envelope:
        """Return what has arrived.

        Raises:
            DecodeError: it is no event.
        """
        ...


class EnvelopeFormat:
    """Writes goevent's own envelope: headers, handle id and origin stand in its JSON."""

    def write(self, message: Message) -> tuple[bytes, Mapping[str, str]]:
        """Return the envelope as the body."""
        return message.encode(), NO_HEADERS

    def read(self, arrival: Arrival, inbox: Inbox) -> Envelope:
        """Return the envelope in the body."""
        return inbox.decode(arrival.name, arrival.body)
