"""The envelope: what travels with an event, and its form on the wire.

The wire format is that of the Go library; the keys after `timestamp` are ours and Go ignores them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Generic

import msgspec
from typing_extensions import TypeVar

from .._events.registry import EventRegistry
from .._events.value_rules import INT64_MAX, INT64_MIN, Refusal

# A Go type in the style of %T, which earlier builds of the Go library sent: "*main.UserCreated".
_GO_TYPE = re.compile(r"\*[\w./-]*\w\.\w+(?:\[.*\])?")


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
    """An event with what travels beside it. A struct, since one is made for each message.

    Its fields stand in the order of the keys on the wire, so that one which says everything can be
    written as it is, and what every bus sends can be read in one go.

    Attributes:
        event_name: the name under which the event was dispatched, and the channel it belongs to.
        event_type: the registered name of the class that the data was written as.
        event: the event; after decoding, in its newest version.
        handle_id: 16 lower hex digits, or empty.
        timestamp: unix time of the dispatch in whole seconds, 0 if unknown.
        origin: hex id of the sending bus, or empty.
        seq: position in the sequence of this origin and channel, None if it has none.
        reply_to: where reports about the event go, or empty.
        headers: context that travels with the event.
    """

    event_name: str
    event_type: str = ""
    event: E = msgspec.field(name="event_data")
    # Made by a function, a default is written; the others are left out, as Go does not know them.
    handle_id: str = msgspec.field(default_factory=str)
    timestamp: Int64 = msgspec.field(default_factory=int)
    origin: str = ""
    seq: Int64 | None = None
    reply_to: str = ""
    headers: Mapping[str, str] = {}

    @property
    def event_data(self) -> E:
        """The event, under the name that its data has on the wire."""
        return self.event


class Incoming(msgspec.Struct, kw_only=True):
    """The envelope as it is read, in JSON: the data stays raw until its class is known."""

    event_name: str | None = None
    event_type: str | None = None
    event_data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    handle_id: str | None = None
    timestamp: int | None = None
    origin: str | None = None
    seq: int | None = None
    reply_to: str | None = None
    headers: dict[str, str] | None = None


KEYS = frozenset(Incoming.__struct_fields__)


def enveloped(cls: Any) -> type[Envelope]:
    """Return the type of an envelope that holds an event of a class."""
    return Envelope[cls]


def outgoing(envelope: Envelope, body: Any) -> Envelope:
    """Return an envelope as it is written: with an event type, and a body in place of the event.

    Raises:
        Refusal: a value beside the event has a type that readers would refuse.
    """
    timestamp, seq, headers = envelope.timestamp, envelope.seq, envelope.headers
    if type(timestamp) is not int or not INT64_MIN <= timestamp <= INT64_MAX:
        raise Refusal("the timestamp is not an integer within int64")
    if seq is not None and (type(seq) is not int or not INT64_MIN <= seq <= INT64_MAX):
        raise Refusal("seq is not an integer within int64")
    if headers:
        for name, value in headers.items():
            if type(name) is not str or type(value) is not str:
                raise Refusal(f"header {name!r} is not text")
    if body is envelope.event and envelope.event_type and type(headers) is dict:
        return envelope
    return msgspec.structs.replace(
        envelope,
        event_type=envelope.event_type or envelope.event_name,
        event=body,
        headers=dict(headers),
    )


def refuse_other_case(keys: Mapping[str, Any]) -> None:
    """Refuse a known key written in another case, which Go would take for the known one.

    Raises:
        Refusal: there is such a key.
    """
    for key in keys:
        if key not in KEYS and key.casefold() in KEYS:
            raise Refusal(f"the envelope key {key[:80]!r} is not spelled {key.casefold()!r}")


def expected_type(
    wire: Incoming, event_name: str, registry: EventRegistry, *, accept_go_type_names: bool
) -> tuple[str, type[Any]]:
    """Return the registered name and class that the data of an incoming envelope claims to be.

    Raises:
        Refusal: the envelope belongs to another name, or its event type is not registered.
    """
    if wire.event_name != event_name:
        if wire.event_name is None:
            raise Refusal("event_name is missing")
        raise Refusal(f"event_name is {wire.event_name[:80]!r}, which is not the channel's")
    for name, number in (("timestamp", wire.timestamp), ("seq", wire.seq)):
        if number is not None and not INT64_MIN <= number <= INT64_MAX:
            raise Refusal(f"{name} is beyond int64")
    event_type = wire.event_type
    if not event_type:
        raise Refusal("event_type is missing")
    cls = registry.type_of(event_type)
    if cls is None and accept_go_type_names and _GO_TYPE.fullmatch(event_type):
        event_type = event_name
        cls = registry.type_of(event_name)
    if cls is None:
        raise Refusal(f"event_type {event_type[:80]!r} is not registered")
    return event_type, cls


def incoming(wire: Incoming, event_type: str, event: Any) -> Envelope:
    """Return the envelope of a decoded event; what may be missing or null becomes empty."""
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
