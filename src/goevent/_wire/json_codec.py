"""Codecs: envelopes to bytes and back, refusing what would hurt silently.

The fast path is one call of msgspec and a few scans of the bytes that cost tens of nanoseconds.
Each scan is a cheap bound: only when it trips is the value looked at exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

import msgspec

from .._errors import DecodeError, EncodeError
from .._events.event_types import ACCEPTED, PYDANTIC, Kind, describe, kind_of
from .._events.registry import EventRegistry
from .._events.value_rules import INT64_MAX, INT64_MIN, Refusal, Rules, presentable
from .envelope import (
    Envelope,
    Incoming,
    enveloped,
    expected_type,
    incoming,
    outgoing,
    refuse_other_case,
)

MAX_SIZE = 1 << 20

# All digits look alike; 19 in a row are the least that can leave int64. A number of more than 57
# digits has such a row too: sign, fraction and exponent cut it into three parts at most.
_ALIKE = bytes.maketrans(b"123456789", b"000000000")
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
        self.native = kind.native
        self.rules = Rules.of(cls) if kind.native else _UNTYPED
        self._nullable = self.rules.floats or self.rules.untyped
        self._few_ints = self.rules.few_ints or ()
        self._deep_ints = self.rules.few_ints is None
        self._wary = self._deep_ints or self._nullable
        # msgspec writes the zeros that Go trims, so datetimes always go the careful way.
        self.swift = not (kind.native and self.rules.datetimes)
        self.flat = kind.native and self.rules.flat

    def needs_care(self, event: Any, data: bytes) -> bool:
        """Tell whether the bytes of an event may hide what msgspec lets pass."""
        for name in self._few_ints:
            number = getattr(event, name, None)  # a dataclass need not have set it
            if isinstance(number, int) and not INT64_MIN <= number <= INT64_MAX:
                return True
        # NaN and the infinities are written as null.
        return self._wary and (
            (self._deep_ints and _has_long_run(data))
            or (self._nullable and b"null" in data)
            or (self.rules.untyped and _DATETIME.search(data) is not None)
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


class Reader:
    """How the JSON codec reads the events of one class; made once per class and codec.

    Attributes:
        whole: reads an envelope with such an event; None if msgspec cannot do so by itself.
    """

    def __init__(self, cls: type[Any]) -> None:
        if kind_of(cls) is PYDANTIC:
            self.whole = None
            self.rules = _UNTYPED
            self._read = _pydantic_reader(cls)
        else:
            self.whole = msgspec.json.Decoder(enveloped(cls)).decode
            self.rules = Rules.of(cls)
            self._read = msgspec.json.Decoder(cls).decode

    def event(self, raw: bytes) -> Any:
        """Return the event in the bytes."""
        event, rules = self._read(raw), self.rules
        if (rules.ints and _has_long_run(raw)) or (rules.datetimes and _may_be_loose(raw)):
            rules.check(msgspec.json.decode(raw))
        return event


def _pydantic_reader(cls: Any) -> Callable[[bytes], Any]:
    def read(raw: bytes) -> Any:
        # msgspec first: pydantic's parser takes NaN and makes an infinity of 1e400.
        msgspec.json.decode(raw, type=dict[str, Any])
        return cls.model_validate_json(raw)

    return read


def _has_long_run(data: bytes) -> bool:
    """Tell whether there may be a number beyond int64."""
    return _LONG_RUN in data.translate(_ALIKE)


def _may_be_loose(data: bytes) -> bool:
    """Tell whether there may be a datetime that is not RFC 3339 with an offset."""
    return _LOOSE_DATETIME.search(data) is not None or (
        b"\\" in data and _ESCAPED_DATETIME.search(data) is not None
    )


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
        # What a flat event has at most to be within all limits, as two levels are. If a value in it
        # is not of its field's type, it is for whoever reads it to refuse that.
        self._least_excess = min(max_size, max_digits) if max_depth > 1 else 0
        self._write = msgspec.json.Encoder().encode
        self._read = msgspec.json.Decoder(Incoming).decode
        self._writers: dict[type[Any], Writer] = {}
        self._readers: dict[type[Any], Reader] = {}

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
            # In one go, if what comes out cannot hide what msgspec lets pass.
            data = None
            if writer.swift:
                try:
                    body = event if writer.native else writer.body(event)
                    data = self._write(outgoing(envelope, body))
                except TypeError:
                    pass  # perhaps pydantic can write it; the careful way says what is wrong
                else:
                    if not writer.flat or len(data) > self._least_excess:
                        self._refuse_excess(data)
                    if writer.needs_care(event, data):
                        data = None
            if data is None:
                data = self._carefully(envelope, writer)
        except Exception as error:
            raise EncodeError(envelope.event_name, reason(error)) from error
        return data

    def _carefully(self, envelope: Envelope, writer: Writer) -> bytes:
        body = writer.careful_body(envelope.event)
        data = self._write(outgoing(envelope, body))
        self._refuse_excess(data)
        if _has_long_run(data):
            writer.rules.check(body)
        return data

    def decode(self, data: bytes, *, event_name: str, registry: EventRegistry) -> Envelope:
        """Return the envelope in the bytes; see `Codec.decode`.

        Raises:
            DecodeError: the bytes are not a wanted envelope, whatever is wrong with them.
        """
        try:
            if not data.isascii():
                _refuse_other_encodings(data)
            self._refuse_excess(data)
            envelope = self._at_once(data, event_name, registry)
            if envelope is None:
                envelope = self._in_steps(data, event_name, registry)
            if self._upgrade:
                event = registry.upgrade(envelope.event)
                if event is not envelope.event:
                    envelope = msgspec.structs.replace(envelope, event=event)
        except Exception as error:
            raise DecodeError(event_name, reason(error), excerpt=excerpt(data)) from error
        return envelope

    def _at_once(self, data: bytes, event_name: str, registry: EventRegistry) -> Envelope | None:
        """Return the envelope, read in one go, or None if it is not as every bus sends it."""
        cls = registry.type_of(event_name)
        if cls is None:
            return None
        try:
            reader = self._reader(cls)
            if reader.whole is None or (reader.rules.datetimes and _may_be_loose(data)):
                return None
            envelope: Envelope = reader.whole(data)
        except Exception:  # noqa: BLE001 - it may be of another class; if not, the steps raise it
            return None
        rules = reader.rules
        if rules.ints and not rules.surely_int64(envelope.event) and _has_long_run(data):
            return None
        return envelope if envelope.event_name == envelope.event_type == event_name else None

    def _in_steps(self, data: bytes, event_name: str, registry: EventRegistry) -> Envelope:
        refuse_other_case(msgspec.json.decode(data, type=dict[str, msgspec.Raw]))
        wire = self._read(data)
        event_type, cls = expected_type(
            wire, event_name, registry, accept_go_type_names=self._accept_go_type_names
        )
        if wire.event_data is msgspec.UNSET:
            raise Refusal("event_data is missing")
        raw = bytes(wire.event_data)
        event = self._reader(cls).event(b"{}" if raw == b"null" else raw)
        return incoming(wire, event_type, event)

    def _reader(self, cls: type[Any]) -> Reader:
        reader = self._readers.get(cls)
        if reader is None:
            reader = self._readers[cls] = Reader(cls)
        return reader

    def _refuse_excess(self, data: bytes) -> None:
        """Refuse what is above the limits."""
        size = len(data)
        if size > self._max_size:
            raise Refusal(f"{size} bytes are above the limit of {self._max_size}")
        # By taking them away, brackets are counted three times as fast as by bytes.count.
        opened = size - len(data.replace(b"{", b"").replace(b"[", b""))
        if opened > self._max_depth and _is_deeper(data, self._max_depth):
            raise Refusal(f"nested deeper than {self._max_depth} levels")
        if size > self._max_digits and (
            (self._max_digits < _LEAST_DIGITS or _has_long_run(data))
            and _most_digits(data) > self._max_digits
        ):
            raise Refusal(f"a number of more than {self._max_digits} digits")


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
