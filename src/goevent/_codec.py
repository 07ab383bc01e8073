"""Codecs: envelopes to bytes and back, refusing what would hurt silently.

The fast path is two calls of msgspec and a few scans of the bytes that cost tens of nanoseconds.
Each scan is a cheap bound: only when it trips is the value looked at exactly.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Protocol

import msgspec

from goevent._envelope import (
    Envelope,
    ExactIncoming,
    Incoming,
    expected_type,
    incoming,
    outgoing,
    refuse_other_case,
)
from goevent._errors import DecodeError, EncodeError
from goevent._kinds import ACCEPTED, PYDANTIC, Kind, describe, kind_of
from goevent._registry import EventRegistry
from goevent._strict import Refusal, Rules, presentable

MAX_SIZE = 1 << 20

# All digits look alike; 19 in a row are the least that can leave int64. A number of more than 57
# digits has such a row too: sign, fraction and exponent cut it into three parts at most.
_ALIKE = bytes.maketrans(b"123456789[", b"000000000{")  # and brackets, for the depth
_LONG_RUN = b"0" * 19
_LEAST_DIGITS = 3 * (len(_LONG_RUN) - 1)

# A string runs to the end of the data if its quote is missing, so that no input is scanned twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NUMBER = re.compile(rb"[-+.0-9eE]++")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SQUARE = bytes.maketrans(b"{}", b"[]")

# The time of day of a datetime that is not RFC 3339 with an offset; one that hides in escapes.
_LOOSE_DATETIME = re.compile(
    rb'-\d\d(?!T\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")[Tt ]\d\d:', re.ASCII
)
_ESCAPED_DATETIME = re.compile(rb"\\u00(?:2[0bBdDeE]|3[0-9aA]|5[4aA]|7[4aA])")
_DATETIME = re.compile(rb"-\d\dT\d\d:")

# What pydantic validates, and what an ad-hoc event holds, has no annotations that msgspec reads.
_UNTYPED = Rules.of(dict[str, Any])


class Codec(Protocol):
    """Turns envelopes into bytes and back; JSON is the default, any class with these will do."""

    @property
    def content_type(self) -> str:
        """The media type of the bytes."""
        ...

    def encode(self, envelope: Envelope) -> bytes:
        """Return the bytes of an envelope.

        Raises:
            EncodeError: the envelope cannot be written, whatever is wrong with it.
        """
        ...

    def decode(self, data: bytes, *, event_name: str, registry: EventRegistry) -> Envelope:
        """Return the envelope in the bytes, its event validated against the registered type.

        Args:
            event_name: the name that the channel stands for; the envelope must carry it.

        Raises:
            DecodeError: the bytes are not such an envelope, whatever is wrong with them.
        """
        ...


class Writer:
    """How a codec treats the events of one class; made once per class and codec."""

    def __init__(self, cls: type[Any]) -> None:
        kind = kind_of(cls)
        if kind is None:
            raise Refusal(f"{describe(cls)} is not an event: it takes {ACCEPTED}")
        self.kind: Kind = kind
        self.body = kind.body
        self.rules = Rules.of(cls) if kind.native else _UNTYPED
        self._nullable = self.rules.floats or self.rules.untyped
        # msgspec writes the zeros that Go trims, so these always go the careful way.
        self.dated = kind.native and self.rules.datetimes

    def needs_care(self, data: bytes) -> bool:
        """Tell whether written bytes may hide what msgspec lets pass."""
        # NaN and the infinities are written as null.
        return (self._nullable and b"null" in data) or (
            self.rules.untyped and _DATETIME.search(data) is not None
        )

    def careful_body(self, event: Any, *, kept: tuple[type[Any], ...] = (datetime,)) -> Any:
        """Return built-in values for an event, every one of them looked at.

        Args:
            kept: types that the format has, or that are looked at here.

        Raises:
            Refusal: the event has a value that cannot be written.
        """
        body = self.body(event)
        text_only = bytes not in kept
        try:
            plain = msgspec.to_builtins(body, builtin_types=kept, str_keys=text_only)
        except TypeError:
            if self.kind is not PYDANTIC:
                raise
            # Values that only pydantic can write, as its URLs.
            presentable(body)
            plain = event.model_dump(mode="json", by_alias=True)
        return presentable(plain)


class JsonCodec:
    """Reads and writes the Go library's JSON.

    Args:
        max_size: most bytes of a message, on send and on receive.
        max_depth: most levels of objects and lists, the envelope's included.
        max_digits: most digits of a number.
        accept_go_type_names: take a Go type ("*main.UserCreated") for the channel's event type.
        upgrade: hand over old versions of events as the newest, by the registry's upcasts.

    A codec keeps a decoder per class and belongs to one thread.
    """

    content_type = "application/json"

    def __init__(
        self,
        *,
        max_size: int = MAX_SIZE,
        max_depth: int = 64,
        max_digits: int = 400,
        accept_go_type_names: bool = False,
        upgrade: bool = True,
    ) -> None:
        if min(max_size, max_depth, max_digits) < 1:
            raise ValueError("max_size, max_depth and max_digits are at least 1")
        self._max_size = max_size
        self._max_depth = max_depth
        self._max_digits = max_digits
        self._accept_go_type_names = accept_go_type_names
        self._upgrade = upgrade
        self._write = msgspec.json.Encoder().encode
        self._read_exact = msgspec.json.Decoder(ExactIncoming).decode
        self._read_any = msgspec.json.Decoder(Incoming).decode
        self._writers: dict[type[Any], Writer] = {}
        self._readers: dict[type[Any], tuple[Any, Rules]] = {}

    def encode(self, envelope: Envelope) -> bytes:
        """Return the compact JSON of an envelope, keys in Go's order.

        Raises:
            EncodeError: too large or too deep, a value that JSON or Go does not have (NaN, a naive
                datetime, an integer beyond int64 in a typed field, a lone surrogate, an object).
        """
        event: object = envelope.event
        try:
            cls = type(event)
            writer = self._writers.get(cls)
            if writer is None:
                writer = self._writers[cls] = Writer(cls)
            data = None if writer.dated else self._quickly(envelope, writer)
            if data is None:
                body = writer.careful_body(event)
                data = self._write(outgoing(envelope, body))
                if self._refuse_excess(data):
                    writer.rules.check(body)
        except Exception as error:
            raise EncodeError(envelope.event_name, reason(error)) from error
        return data

    def _quickly(self, envelope: Envelope, writer: Writer) -> bytes | None:
        """Return the bytes in one go, or None if they may hide what msgspec lets pass."""
        try:
            data = self._write(outgoing(envelope, writer.body(envelope.event)))
        except TypeError:
            return None  # perhaps pydantic can write it; the careful way says what is wrong
        careful = self._refuse_excess(data) or writer.needs_care(data)
        return None if careful else data

    def decode(self, data: bytes, *, event_name: str, registry: EventRegistry) -> Envelope:
        """Return the envelope in the bytes; see `Codec.decode`.

        Raises:
            DecodeError: the bytes are not a wanted envelope, whatever is wrong with them.
        """
        try:
            if not data.isascii():
                _refuse_other_encodings(data)
            long_run = self._refuse_excess(data)
            wire = self._envelope(data)
            event_type, cls = expected_type(
                wire, event_name, registry, accept_go_type_names=self._accept_go_type_names
            )
            if wire.event_data is msgspec.UNSET:
                raise Refusal("event_data is missing")
            raw = bytes(wire.event_data)
            event = self._event(cls, b"{}" if raw == b"null" else raw, long_run=long_run)
            if self._upgrade:
                event = registry.upgrade(event)
            return incoming(wire, event_type, event)
        except Exception as error:
            raise DecodeError(event_name, reason(error), excerpt=excerpt(data)) from error

    def _envelope(self, data: bytes) -> Incoming:
        try:
            return self._read_exact(data)
        except msgspec.ValidationError:
            refuse_other_case(msgspec.json.decode(data, type=dict[str, msgspec.Raw]))
            return self._read_any(data)

    def _event(self, cls: type[Any], raw: bytes, *, long_run: bool) -> Any:
        reader = self._readers.get(cls)
        if reader is None:
            reader = self._readers[cls] = _reader_for(cls)
        read, rules = reader
        event = read(raw)
        if (long_run and rules.ints) or (
            rules.datetimes
            and (
                _LOOSE_DATETIME.search(raw) is not None
                or (b"\\" in raw and _ESCAPED_DATETIME.search(raw) is not None)
            )
        ):
            rules.check(msgspec.json.decode(raw))
        return event

    def _refuse_excess(self, data: bytes) -> bool:
        """Refuse what is above the limits; tell whether a long row of digits was seen."""
        if len(data) > self._max_size:
            raise Refusal(f"{len(data)} bytes are above the limit of {self._max_size}")
        alike = data.translate(_ALIKE)
        if alike.count(b"{") > self._max_depth and _is_deeper(data, self._max_depth):
            raise Refusal(f"nested deeper than {self._max_depth} levels")
        long_run = self._max_digits < _LEAST_DIGITS or _LONG_RUN in alike
        if long_run and _most_digits(data) > self._max_digits:
            raise Refusal(f"a number of more than {self._max_digits} digits")
        return long_run


def _reader_for(cls: type[Any]) -> tuple[Any, Rules]:
    kind = kind_of(cls)
    if kind is not PYDANTIC:
        return msgspec.json.Decoder(cls).decode, Rules.of(cls)

    def read(raw: bytes) -> Any:
        # msgspec first: pydantic's parser takes NaN and makes an infinity of 1e400.
        msgspec.json.decode(raw, type=dict[str, Any])
        return cls.model_validate_json(raw)

    return read, _UNTYPED


def _refuse_other_encodings(data: bytes) -> None:
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise Refusal("a byte order mark; the format is UTF-8 without one")
    data.decode()


def _is_deeper(data: bytes, limit: int) -> bool:
    brackets = _STRING.sub(b"", data).translate(_SQUARE, _NOT_BRACKETS)
    if b"[" * (limit + 1) in brackets:
        return True
    # Each round takes the innermost pairs away. Which bracket closes which is the parser's part.
    for _ in range(limit):
        before = len(brackets)
        brackets = brackets.replace(b"[]", b"")
        if len(brackets) == before:
            return False
    return b"[]" in brackets


def _most_digits(data: bytes) -> int:
    numbers = _NUMBER.findall(_STRING.sub(b"", data))
    return max((sum(48 <= byte <= 57 for byte in number) for number in numbers), default=0)


def reason(error: Exception) -> str:
    """Return in one sentence why an error refused a message."""
    if isinstance(error, UnicodeError):
        return f"not UTF-8: {error}"
    if isinstance(error, RecursionError):
        return "nested too deep"
    text = str(error)
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def excerpt(data: bytes) -> str:
    """Return the first bytes of a message, escaped, at most 120 characters."""
    shown = ascii(bytes(data[:118]))[2:-1]
    return shown if len(shown) <= 120 and len(data) <= 118 else f"{shown[:117]}..."
