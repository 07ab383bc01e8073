"""The formats of messages: how an event is written as a message, and read from one.

By default a message holds goevent's envelope. With `format="faststream"` it has the form that a
plain FastStream service sends and reads: the event itself as JSON, everything else in headers. The
Trio side of the bridge calls a format; adapters only pass its bytes and headers on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

import msgspec

from goevent import DecodeError, EncodeError, Envelope
from goevent.drivers import RESERVED_PREFIX, Inbox, Message

from .contract import Arrival
from .properties import CONTENT_TYPE, CORRELATION_ID, JSON

NO_HEADERS: Mapping[str, str] = {}

ORIGIN = "goevent-origin"
HANDLE_ID = "goevent-id"
REPLY_TO = "goevent-reply-to"
_FORMAT_HEADERS = (CONTENT_TYPE, ORIGIN)
_RESERVED_PREFIXES = ("Nats-", "goevent-")
# RabbitMQ routes and counts by these.
_RABBIT_HEADERS = ("CC", "BCC", "x-delivery-count", "x-acquired-count")
# The limits that every broker honours. AMQP allows no longer names and ids, and closes the
# connection if the headers do not fit into one of its frames, which have 128 KiB.
MAX_HEADER_NAME_CHARS = 128
MAX_CORRELATION_ID_BYTES = 255
MAX_HEADERS_BYTES = 60_000
# The longest excerpts in errors.
MAX_BODY_EXCERPT_CHARS = 120
MAX_SHOWN_NAME_CHARS = 80

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_quoted = msgspec.json.encode


class Format(Protocol):
    """The way in which events are written and read; called in Trio's thread.

    A format must not block.

    Example:
        ::

            driver = FastStreamDriver(NatsBroker(), format=MyFormat())
    """

    def write(self, message: Message) -> tuple[bytes, Mapping[str, str]]:
        """Return the body and the headers of a message.

        Raises:
            EncodeError: The event cannot be written.
        """
        ...

    def read(self, arrival: Arrival, inbox: Inbox) -> Envelope:
        """Return the envelope of the event in a message.

        Raises:
            DecodeError: The message holds no event.
        """
        ...


class EnvelopeFormat:
    """goevent's own envelope: its JSON holds the headers, the handle id and the origin, too."""

    def write(self, message: Message) -> tuple[bytes, Mapping[str, str]]:
        """Return the envelope as the body."""
        return message.encode(), NO_HEADERS

    def read(self, arrival: Arrival, inbox: Inbox) -> Envelope:
        """Return the envelope in the body."""
        return inbox.decode(arrival.name, arrival.body)


class _EnvelopeParts(msgspec.Struct):
    """The parts of an envelope that go into a message."""

    event_data: msgspec.Raw
    handle_id: str = ""
    origin: str = ""
    reply_to: str = ""
    headers: dict[str, str] = {}


class FastStreamFormat:
    """The form of messages that a plain FastStream service sends and reads.

    The body is the event as JSON, and the header `content-type` says so. The event has the type
    that is registered under its name. The header `correlation_id` is the id of the handle, or the
    header `correlation_id` of the dispatch; listeners see it among the headers. In the second case,
    `goevent-id` is the id of the handle. Other headers travel as headers. `goevent-origin` names
    the sending bus, which so knows its own events. `goevent-reply-to` is the address for reports.

    A request between buses of goevent has the form of goevent's envelope.

    Both directions use the codec of the bus, so that all its limits hold, and it must be a codec
    of JSON. A size limit counts the envelope that the codec sees.
    """

    def __init__(self) -> None:
        self._written = msgspec.json.Decoder(_EnvelopeParts).decode

    def write(self, message: Message) -> tuple[bytes, Mapping[str, str]]:
        """Return the event alone as the body, and everything else as headers."""
        data = message.encode()
        if message.event_name.startswith(RESERVED_PREFIX):
            return data, NO_HEADERS
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
            if name not in _FORMAT_HEADERS:
                headers[name] = value
        if headers[CORRELATION_ID] != written.handle_id:
            headers[HANDLE_ID] = written.handle_id
        if written.reply_to:
            headers[REPLY_TO] = written.reply_to
        _refuse_sizes(message.event_name, headers)
        return bytes(written.event_data), headers

    def read(self, arrival: Arrival, inbox: Inbox) -> Envelope:
        """Return an envelope around the event in the body."""
        name, body, headers = arrival.name, arrival.body, arrival.headers
        if name.startswith(RESERVED_PREFIX):
            return inbox.decode(name, body)
        content_type = headers.get(CONTENT_TYPE, "")
        # FastStream also tries to read a message without a content type as JSON.
        if content_type and not content_type.startswith(JSON):
            shown = repr(content_type[:MAX_SHOWN_NAME_CHARS])
            raise _decode_error(arrival, f"the content type {shown} is not {JSON}")
        try:
            # The body must be one JSON value and nothing more. Otherwise it could close its part of
            # the envelope below and write other parts of it.
            msgspec.json.decode(body, type=msgspec.Raw)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise _decode_error(arrival, str(error)) from error
        quoted_name, correlation = _quoted(name), headers.get(CORRELATION_ID, "")
        kept = {
            key: value
            for key, value in headers.items()
            if key != CONTENT_TYPE and not key.startswith(_RESERVED_PREFIXES)
        }
        envelope = (
            b'{"event_name":%b,"event_type":%b,"event_data":%b,"handle_id":%b,"timestamp":0,'
            b'"origin":%b,"reply_to":%b,"headers":%b}'
        ) % (
            quoted_name,
            quoted_name,
            body,
            _quoted(headers.get(HANDLE_ID) or correlation),
            _quoted(headers.get(ORIGIN, "")),
            _quoted(headers.get(REPLY_TO, "")),
            _quoted(kept),
        )
        try:
            return inbox.decode(name, envelope)
        except DecodeError as error:
            raise _decode_error(arrival, error.reason) from error


FORMATS: Mapping[str, type[Format]] = {"goevent": EnvelopeFormat, "faststream": FastStreamFormat}


def format_of(wanted: Format | str) -> Format:
    """Return the format with a name, or the given format itself.

    Raises:
        ValueError: No format has this name.
    """
    if not isinstance(wanted, str):
        return wanted
    if wanted not in FORMATS:
        raise ValueError(f"format is {' or '.join(map(repr, FORMATS))}, not {wanted!r}")
    return FORMATS[wanted]()


def _refuse_header(event_name: str, name: str, value: str) -> None:
    """Refuse a header that would arrive changed, or would end the headers of its message.

    Raises:
        EncodeError: It is such a header.
    """
    shown = repr(name[:MAX_SHOWN_NAME_CHARS])
    if name in _RABBIT_HEADERS or (name.startswith(_RESERVED_PREFIXES) and name != ORIGIN):
        raise EncodeError(
            event_name, f"the header {shown} is reserved for the broker or for goevent"
        )
    if not _HEADER_NAME.fullmatch(name) or len(name) > MAX_HEADER_NAME_CHARS:
        raise EncodeError(event_name, f"{shown} cannot be the name of a message's header")
    if _CONTROL.search(value) or value != value.strip():
        raise EncodeError(
            event_name, f"the header {shown} has control characters or blanks at its ends"
        )


def _refuse_sizes(event_name: str, headers: Mapping[str, str]) -> None:
    """Refuse headers that are too long for some broker.

    Raises:
        EncodeError: They are.
    """
    if len(headers[CORRELATION_ID].encode()) > MAX_CORRELATION_ID_BYTES:
        raise EncodeError(
            event_name, f"a correlation id has at most {MAX_CORRELATION_ID_BYTES} bytes"
        )
    if sum(len(name) + len(text.encode()) for name, text in headers.items()) > MAX_HEADERS_BYTES:
        raise EncodeError(event_name, f"the headers have more than {MAX_HEADERS_BYTES:,} bytes")


def _decode_error(arrival: Arrival, reason: str) -> DecodeError:
    shown = ascii(arrival.body[: MAX_BODY_EXCERPT_CHARS - 2])[2:-1]
    excerpt = (
        shown
        if len(shown) <= MAX_BODY_EXCERPT_CHARS
        else f"{shown[: MAX_BODY_EXCERPT_CHARS - 3]}..."
    )
    return DecodeError(arrival.name, reason, excerpt=excerpt)
