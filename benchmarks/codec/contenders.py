"""The contenders: each writes and reads the same message, the envelope included.

goevent and msgspec write and read an event class. pydantic does, too, with a model of the same
fields. `json` writes and reads a dict, validates nothing and makes no event. In place of a datetime
it has a text.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
import pydantic

from benchmarks.codec import GOEVENT, JSON, MSGSPEC, PYDANTIC_PEER
from benchmarks.codec.kinds import AD_HOC, EVENT_NAME, KINDS, PYDANTIC
from benchmarks.codec.shapes import Shape, Values
from goevent import Envelope, Event, EventRegistry, JsonCodec, MsgpackCodec

E = TypeVar("E")
METADATA: dict[str, Any] = {
    "handle_id": "00f3a9c2d4e5b617",
    "timestamp": 1_764_500_000,
    "origin": "5b1d8c0f9e7a46d2a3c4b5d6e7f80912",
    "seq": 41_077,
}


class PlainEnvelope(msgspec.Struct, Generic[E]):
    """The keys of the message, for msgspec without goevent."""

    event_name: str
    event_type: str
    event_data: E
    handle_id: str
    timestamp: int
    origin: str
    seq: int


class PydanticEnvelope(pydantic.BaseModel, Generic[E]):
    """The keys of the message, for pydantic."""

    event_name: str
    event_type: str
    event_data: E
    handle_id: str
    timestamp: int
    origin: str
    seq: int


@dataclass(frozen=True)
class CodecJob:
    """Two calls without arguments: one writes the message, the other one reads it."""

    encode: Callable[[], object]
    decode: Callable[[], object]


def envelope_keys(values: object) -> dict[str, Any]:
    """Return the whole message around the event data."""
    return {
        "event_name": EVENT_NAME,
        "event_type": EVENT_NAME,
        "event_data": values,
        **METADATA,
    }


def contenders_of(shape: Shape, kind: str, values: Values, *, fmt: str) -> Mapping[str, CodecJob]:
    """Return the contenders for one event.

    Args:
        shape: The shape of the event.
        kind: The title of the kind of its class, or `AD_HOC`.
        values: Its fields.
        fmt: "json" or "msgpack".
    """
    library = msgspec.json if fmt == "json" else msgspec.msgpack
    registry = EventRegistry()
    if kind == AD_HOC:
        cls: Any = dict[str, Any]
        event: Any = Event(EVENT_NAME, values)
        body: Any = values
    else:
        cls = shape.class_of(KINDS[kind])
        registry.register_as(EVENT_NAME, cls)
        event = body = (
            cls.model_validate(values) if kind == PYDANTIC.title else msgspec.convert(values, cls)
        )
    found = {GOEVENT: _goevent(event, registry, fmt)}
    if kind != PYDANTIC.title:
        found[MSGSPEC] = _msgspec(library, cls, body)
    if fmt == "json":
        found[JSON] = _json(values)
        if kind in (PYDANTIC.title, "Event"):
            found[PYDANTIC_PEER] = _pydantic(shape, values)
    return found


def _goevent(event: Any, registry: EventRegistry, fmt: str) -> CodecJob:
    codec = JsonCodec() if fmt == "json" else MsgpackCodec()
    envelope: Envelope = Envelope(
        event_name=EVENT_NAME, event_type=EVENT_NAME, event=event, **METADATA
    )
    data = codec.encode(envelope)
    encode, decode = codec.encode, codec.decode
    return CodecJob(
        lambda: encode(envelope),
        lambda: decode(data, event_name=EVENT_NAME, registry=registry),
    )


def _msgspec(library: Any, cls: Any, body: Any) -> CodecJob:
    encode = library.Encoder().encode
    decode = library.Decoder(PlainEnvelope[cls]).decode
    envelope: PlainEnvelope[Any] = PlainEnvelope(**envelope_keys(body))
    data = encode(envelope)
    return CodecJob(lambda: encode(envelope), lambda: decode(data))


def _json(values: Values) -> CodecJob:
    encode = json.JSONEncoder(
        separators=(",", ":"), ensure_ascii=False, check_circular=False
    ).encode
    message = envelope_keys(values)
    data = encode(message).encode()
    return CodecJob(lambda: encode(message).encode(), lambda: json.loads(data))


def _pydantic(shape: Shape, values: Values) -> CodecJob:
    model: Any = PydanticEnvelope[shape.class_of(PYDANTIC)]  # type: ignore[misc]
    message = model.model_validate(envelope_keys(values))
    data = message.model_dump_json().encode()
    return CodecJob(
        lambda: message.model_dump_json().encode(), lambda: model.model_validate_json(data)
    )
