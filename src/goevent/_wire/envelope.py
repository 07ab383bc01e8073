"""The envelope: an event together with its metadata, in the form that the wire has.

The wire format is that of the Go library: one JSON object, its keys in the order of the fields of
`Envelope`. The keys after `timestamp` are additions of this library, which Go ignores. They are
omitted when they are empty.

Both codecs use this module. `to_wire` prepares an envelope for writing; `resolve_event_type` and
`from_wire` check and complete one that was read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Generic

import msgspec
from typing_extensions import TypeVar

from .._events.event import AdHocEvent
from .._events.names import requested_name
from .._events.registry import EventRegistry
from .._events.value_rules import INT64_MAX, INT64_MIN, WireFormatError

# A Go type as %T prints it, "*main.UserCreated". Earlier builds of the Go library sent this.
_GO_TYPE = re.compile(r"\*[\w./-]*\w\.\w+(?:\[.*\])?")

# The part of a received text that an error message shows.
MAX_SHOWN_CHARS = 80

E = TypeVar("E", default=Any)
Int64 = Annotated[int, msgspec.Meta(ge=INT64_MIN, le=INT64_MAX)]


class Envelope(
    msgspec.Struct,
    Generic[E],
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """An event with its metadata.

    The fields stand in the order of the keys on the wire. So a complete envelope is written as it
    is, and the usual message is read in one call of msgspec. The class is a struct because one
    instance is made for each message.

    Attributes:
        event_name: The name under which the event was dispatched, and the channel it belongs to.
        event_type: The registered name of the class of the event data.
        event: The event; after decoding, in its newest version.
        handle_id: The id of the dispatch, 16 lower hex digits, or empty.
        timestamp: The Unix time of the dispatch in whole seconds, 0 if unknown.
        origin: The hex id of the sending bus, or empty.
        seq: The position in the sequence of this origin and channel, None if there is none.
        reply_to: The address for reports about the event, or empty.
        headers: Key-value pairs that travel with the event, such as a trace context.
    """

    event_name: str
    event_type: str = ""
    event: E = msgspec.field(name="event_data")
    # msgspec writes a default made by a factory and omits the other defaults. Go requires these two
    # keys; it does not know those below.
    handle_id: str = msgspec.field(default_factory=str)
    timestamp: Int64 = msgspec.field(default_factory=int)
    origin: str = ""
    seq: Int64 | None = None
    reply_to: str = ""
    headers: Mapping[str, str] = {}

    @property
    def event_data(self) -> E:
        """The event, under the name of its key on the wire."""
        return self.event


class RawEnvelope(msgspec.Struct, kw_only=True):
    """An envelope whose event data is not decoded yet, because its class is not known."""

    event_name: str | None = None
    event_type: str | None = None
    event_data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    handle_id: str | None = None
    timestamp: int | None = None
    origin: str | None = None
    seq: int | None = None
    reply_to: str | None = None
    headers: dict[str, str] | None = None


ENVELOPE_KEYS = frozenset(RawEnvelope.__struct_fields__)


def envelope_of(cls: Any) -> type[Envelope]:
    """Return the type of envelopes that contain an event of a class."""
    return Envelope[cls]


def to_wire(envelope: Envelope, body: Any) -> Envelope:
    """Return the envelope to write: it has an event type, and `body` in place of the event.

    Raises:
        WireFormatError: A metadata value has a type that readers would refuse.
    """
    timestamp, seq, headers = envelope.timestamp, envelope.seq, envelope.headers
    if type(timestamp) is not int or not INT64_MIN <= timestamp <= INT64_MAX:
        raise WireFormatError("the timestamp is not an integer within int64")
    if seq is not None and (type(seq) is not int or not INT64_MIN <= seq <= INT64_MAX):
        raise WireFormatError("seq is not an integer within int64")
    if headers:
        for name, value in headers.items():
            if type(name) is not str or type(value) is not str:
                raise WireFormatError(f"header {name!r} is not text")
    # The common case: the envelope is complete, and the event can be written itself.
    if body is envelope.event and envelope.event_type and type(headers) is dict:
        return envelope
    # A third of the time of `msgspec.structs.replace`.
    return Envelope(
        event_name=envelope.event_name,
        event_type=envelope.event_type or envelope.event_name,
        event=body,
        handle_id=envelope.handle_id,
        timestamp=timestamp,
        origin=envelope.origin,
        seq=seq,
        reply_to=envelope.reply_to,
        headers=dict(headers) if headers else {},
    )


def check_key_case(keys: Mapping[str, Any]) -> None:
    """Refuse an envelope key in another letter case. Go would accept it in place of the right one.

    Raises:
        WireFormatError: There is such a key.
    """
    for key in keys:
        if key not in ENVELOPE_KEYS and key.casefold() in ENVELOPE_KEYS:
            shown = key[:MAX_SHOWN_CHARS]
            raise WireFormatError(f"the envelope key {shown!r} is not spelled {key.casefold()!r}")


def resolve_event_type(
    wire: RawEnvelope, event_name: str, registry: EventRegistry, *, accept_go_type_names: bool
) -> tuple[str, type[Any]]:
    """Return the event type and the class of the event data in a received envelope.

    The class is that of ad-hoc events if the name has none, and the event type is the name.

    Raises:
        WireFormatError: The envelope has another event name than its channel, a number is beyond
            int64, or the event type is missing or not registered.
    """
    if wire.event_name != event_name:
        if wire.event_name is None:
            raise WireFormatError("event_name is missing")
        shown = wire.event_name[:MAX_SHOWN_CHARS]
        raise WireFormatError(f"event_name is {shown!r}, which is not the channel's")
    for name, number in (("timestamp", wire.timestamp), ("seq", wire.seq)):
        if number is not None and not INT64_MIN <= number <= INT64_MAX:
            raise WireFormatError(f"{name} is beyond int64")
    event_type = wire.event_type
    if not event_type:
        raise WireFormatError("event_type is missing")
    cls = registry.type_of(event_type)
    if cls is None and accept_go_type_names and _GO_TYPE.fullmatch(event_type):
        event_type = event_name
        cls = registry.type_of(event_name)
    if cls is None and event_type == (requested_name(event_name) or event_name):
        cls = untyped_class(registry)
    if cls is None:
        raise WireFormatError(f"event_type {event_type[:MAX_SHOWN_CHARS]!r} is not registered")
    return event_type, cls


def untyped_class(registry: EventRegistry) -> type[Any] | None:
    """Return the class of the events whose name has no class; None if the registry is strict."""
    return None if registry.strict else AdHocEvent


def from_wire(wire: RawEnvelope, event_type: str, event: Any) -> Envelope:
    """Return the envelope of a decoded event. A key that is missing or null becomes empty."""
    return Envelope(
        event_name=wire.event_name or "",
        event=event,
        event_type=event_type,
        handle_id=wire.handle_id or "",
        timestamp=wire.timestamp or 0,
        origin=wire.origin or "",
        seq=wire.seq,
        reply_to=wire.reply_to or "",
        headers=wire.headers or {},
    )
