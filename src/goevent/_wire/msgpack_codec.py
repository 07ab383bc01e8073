"""The MessagePack codec: the envelope of the JSON codec as a map, values as built-ins.

Every value is looked at in Python on the way, so this codec saves bytes, not time.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import msgspec

from .._errors import DecodeError, EncodeError
from .._events.event_types import PYDANTIC, kind_of
from .._events.registry import EventRegistry
from .._events.value_rules import Refusal, Rules, convert
from .envelope import Envelope, Incoming, expected_type, incoming, outgoing, refuse_other_case
from .json_codec import MAX_SIZE, Writer, excerpt, reason

_KEPT = (datetime, bytes, bytearray, memoryview)
_MISSING = object()


class MsgpackCodec:
    """Reads and writes envelopes as MessagePack; datetimes stay RFC 3339 text.

    Integers of untyped fields end at uint64, which is all that MessagePack has. Otherwise the
    arguments and refusals are those of `JsonCodec`.
    """

    content_type = "application/msgpack"

    def __init__(
        self,
        *,
        max_size: int = MAX_SIZE,
        max_depth: int = 64,
        accept_go_type_names: bool = False,
        upgrade: bool = True,
    ) -> None:
        if min(max_size, max_depth) < 1:
            raise ValueError("max_size and max_depth are at least 1")
        self._max_size = max_size
        self._max_depth = max_depth
        self._accept_go_type_names = accept_go_type_names
        self._upgrade = upgrade
        self._write = msgspec.msgpack.Encoder().encode
        self._read = msgspec.msgpack.Decoder().decode
        self._writers: dict[type[Any], Writer] = {}
        self._rules: dict[type[Any], Rules] = {}

    def encode(self, envelope: Envelope) -> bytes:
        """Return an envelope as MessagePack; see `Codec.encode`.

        Raises:
            EncodeError: the envelope cannot be written, whatever is wrong with it.
        """
        event: object = envelope.event
        try:
            cls = type(event)
            writer = self._writers.get(cls)
            if writer is None:
                writer = self._writers[cls] = Writer(cls)
            body = writer.careful_body(event, kept=_KEPT)
            self._refuse_odd(body, 2)
            writer.rules.check(body)
            data = self._write(outgoing(envelope, body))
            if len(data) > self._max_size:
                raise Refusal(f"{len(data)} bytes are above the limit of {self._max_size}")
        except Exception as error:
            raise EncodeError(envelope.event_name, reason(error)) from error
        return data

    def decode(self, data: bytes, *, event_name: str, registry: EventRegistry) -> Envelope:
        """Return the envelope in the bytes; see `Codec.decode`.

        Raises:
            DecodeError: the bytes are not a wanted envelope, whatever is wrong with them.
        """
        try:
            if len(data) > self._max_size:
                raise Refusal(f"{len(data)} bytes are above the limit of {self._max_size}")
            found: Any = self._read(data)
            self._refuse_odd(found, 1)
            fields = msgspec.convert(found, dict[str, Any])
            refuse_other_case(fields)
            body = fields.pop("event_data", _MISSING)
            wire = msgspec.convert(fields, Incoming)
            event_type, cls = expected_type(
                wire, event_name, registry, accept_go_type_names=self._accept_go_type_names
            )
            if body is _MISSING:
                raise Refusal("event_data is missing")
            event = self._event(cls, {} if body is None else body)
            if self._upgrade:
                event = registry.upgrade(event)
            return incoming(wire, event_type, event)
        except Exception as error:
            raise DecodeError(event_name, reason(error), excerpt=excerpt(data)) from error

    def _event(self, cls: type[Any], body: object) -> Any:
        if not isinstance(body, dict):
            raise Refusal(f"event_data is a {type(body).__name__}, not a map")
        fields = msgspec.convert(body, dict[str, Any])
        if kind_of(cls) is PYDANTIC:
            return cls.model_validate(fields)
        rules = self._rules.get(cls)
        if rules is None:
            rules = self._rules[cls] = Rules.of(cls)
        return convert(fields, cls, rules)

    def _refuse_odd(self, value: Any, level: int) -> None:
        if isinstance(value, dict | list | tuple):
            if level > self._max_depth:
                raise Refusal(f"nested deeper than {self._max_depth} levels")
            items: Any = value  # pyright: ignore[reportUnknownVariableType]
            for item in (*items, *items.values()) if isinstance(value, dict) else items:
                self._refuse_odd(item, level + 1)
        elif isinstance(value, float) and not math.isfinite(value):
            raise Refusal(f"{value} is not a finite number")
        elif isinstance(value, msgspec.msgpack.Ext):
            raise Refusal(f"an extension type with code {value.code}")
