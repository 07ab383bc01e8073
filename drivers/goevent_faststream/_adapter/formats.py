"""Formats: what an event looks like in a message, and back.

By default a message is goevent's envelope. `format="faststream"` writes and reads what a plain
service of FastStream does: the event itself as JSON, and the rest in headers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

import msgspec

from goevent import DecodeError, EncodeError, Envelope
from goevent.drivers import Inbox, Message

from .contract import Arrival
from .properties import CONTENT_TYPE, CORRELATION_ID, JSON

NO_HEADERS: Mapping[str, str] = {}

ORIGIN = "goevent-origin"
_OURS = (CONTENT_TYPE, ORIGIN)
_BROKERS = ("Nats-", "goevent-")
_RABBITS = ("CC", "BCC", "x-delivery-count", "x-acquired-count")  # it routes and counts by them
# What fits into a message of every broker: AMQP takes no longer names and ids, and cuts the
# connection if all of the headers do not go into one of its frames, which are 128 KiB.
LONGEST_NAME = 128
LONGEST_ID = 255
MOST = 60_000

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_quoted = msgspec.json.encode


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


class _Written(msgspec.Struct):
    """What of a written envelope goes into the message."""

    event_data: msgspec.Raw
    handle_id: str = ""
    origin: str = ""
    headers: dict[str, str] = {}


class FastStreamFormat:
    """Writes and reads what a plain service of FastStream does.

    The body is the event as JSON; `content-type` says so. Its type is the one that is registered
    under the event's name. `correlation_id` is the handle's id, or the header `correlation_id` of
    the dispatch, and a listener sees it among the headers. Other headers are headers, both ways;
    `goevent-origin` is the sending bus, so that it knows its own events.

    Both directions pass through the codec of the bus, which has to be one of JSON, so that all its
    limits hold; sizes are those of the envelope that it sees.
    """

    def __init__(self) -> None:
        self._written = msgspec.json.Decoder(_Written).decode

    def write(self, message: Message) -> tuple[bytes, Mapping[str, str]]:
        """Return the bare event, and the rest as headers."""
        data = message.encode()
        try:
            written = self._written(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise EncodeError(
                message.event_name, "format='faststream' needs a codec of JSON"
            ) from error
        headers = {
            CONTENT_TYPE: JSON,
            CORRELATION_ID: written.handle_id,
            ORIGIN: written.origin,
        }
        for name, value in written.headers.items():
            _refuse_header(message.event_name, name, value)
            if name not in _OURS:
                headers[name] = value
        _refuse_sizes(message.event_name, headers)
        return bytes(written.event_data), headers

    def read(self, arrival: Arrival, inbox: Inbox) -> Envelope:
        """Return an envelope with the event in the body."""
        name, body, headers = arrival.name, arrival.body, arrival.headers
        kind = headers.get(CONTENT_TYPE, "")
        # As FastStream does: without a content type it is tried as JSON.
        if kind and not kind.startswith(JSON):
            raise _refusal(arrival, f"the content type {kind[:80]!r} is not {JSON}")
        try:
            # One value and nothing behind it, or it could say more than its part of the envelope.
            msgspec.json.decode(body, type=msgspec.Raw)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise _refusal(arrival, str(error)) from error
        spelled, correlation = _quoted(name), headers.get(CORRELATION_ID, "")
        kept = {
            key: value
            for key, value in headers.items()
            if key != CONTENT_TYPE and not key.startswith(_BROKERS)
        }
        envelope = (
            b'{"event_name":%b,"event_type":%b,"event_data":%b,"handle_id":%b,"timestamp":0,'
            b'"origin":%b,"headers":%b}'
        ) % (
            spelled,
            spelled,
            body,
            _quoted(correlation),
            _quoted(headers.get(ORIGIN, "")),
            _quoted(kept),
        )
        try:
            return inbox.decode(name, envelope)
        except DecodeError as error:
            raise _refusal(arrival, error.reason) from error


FORMATS: Mapping[str, type[Format]] = {"goevent": EnvelopeFormat, "faststream": FastStreamFormat}


def format_of(wanted: Format | str) -> Format:
    """Return a format for its name, or the format that was given.

    Raises:
        ValueError: there is none of that name.
    """
    if not isinstance(wanted, str):
        return wanted
    if wanted not in FORMATS:
        raise ValueError(f"format is {' or '.join(map(repr, FORMATS))}, not {wanted!r}")
    return FORMATS[wanted]()


def _refuse_header(event_name: str, name: str, value: str) -> None:
    """Refuse a header that would arrive as another one, or end the headers.

    Raises:
        EncodeError: it is such a header.
    """
    if name in _RABBITS or (name.startswith(_BROKERS) and name != ORIGIN):
        raise EncodeError(event_name, f"the header {name[:80]!r} is the broker's or goevent's own")
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise EncodeError(event_name, f"{name[:80]!r} cannot be the name of a message's header")
    if _CONTROL.search(value) or value != value.strip():
        raise EncodeError(
            event_name, f"the header {name[:80]!r} has control characters or blanks at its ends"
        )


def _refuse_sizes(event_name: str, headers: Mapping[str, str]) -> None:
    """Refuse what some broker could not carry.

    Raises:
        EncodeError: it is too long.
    """
    if len(headers[CORRELATION_ID].encode()) > LONGEST_ID:
        raise EncodeError(event_name, f"a correlation id has at most {LONGEST_ID} bytes")
    if sum(len(name) + len(text.encode()) for name, text in headers.items()) > MOST:
        raise EncodeError(event_name, f"the headers have more than {MOST:,} bytes")


def _refusal(arrival: Arrival, reason: str) -> DecodeError:
    shown = ascii(arrival.body[:118])[2:-1]
    excerpt = shown if len(shown) <= 120 else f"{shown[:117]}..."
    return DecodeError(arrival.name, reason, excerpt=excerpt)
