"""One event on its way to other buses."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from ._codec import Codec
from ._envelope import Envelope
from ._errors import EncodeError
from ._handle import DispatchHandle

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Sender(Protocol):
    """Whose id the messages carry."""

    @property
    def origin(self) -> str: ...


class Desk:
    """What all messages of one open bus have in common."""

    def __init__(
        self,
        sender: Sender,
        codec: Codec,
        key_of: Callable[[type[Any]], str | None],
        max_size: int | None = None,
    ) -> None:
        self.sender = sender
        self.encode = codec.encode
        self.key_of = key_of
        self.max_size = max_size


class OutgoingMessage:
    """What a driver publishes; encoded when the driver asks for the bytes."""

    __slots__ = ("_desk", "_handle")

    def __init__(self, handle: DispatchHandle, desk: Desk) -> None:
        self._handle = handle
        self._desk = desk

    @property
    def event_name(self) -> str:
        return self._handle.route.name

    @property
    def event(self) -> object:
        return self._handle.event

    @property
    def handle_id(self) -> str:
        return self._handle.id

    @property
    def headers(self) -> Mapping[str, str]:
        return self._handle.headers

    @property
    def key(self) -> str | None:
        event = self.event
        field = self._desk.key_of(type(event))
        return None if field is None else str(getattr(event, field))

    def envelope(self, *, origin: str | None = None, seq: int | None = None) -> Envelope:
        """Return the envelope, for a driver that hands over objects."""
        handle = self._handle
        notes = handle.noted()
        if not notes.id:
            notes.id = handle.route.kernel.ids.draw()
        return Envelope(
            event_name=handle.route.name,
            event=handle.event,
            handle_id=notes.id,
            timestamp=int(time.time()),
            origin=self._desk.sender.origin if origin is None else origin,
            seq=seq,
            headers=notes.headers or NO_HEADERS,
        )

    def encode(self, *, origin: str | None = None, seq: int | None = None) -> bytes:
        """Return the envelope as bytes."""
        desk = self._desk
        data = desk.encode(self.envelope(origin=origin, seq=seq))
        if desk.max_size is not None and len(data) > desk.max_size:
            limit = f"{len(data)} bytes are above the driver's limit of {desk.max_size}"
            raise EncodeError(self.event_name, limit)
        return data

    def __repr__(self) -> str:
        return f"<OutgoingMessage of {self.event_name!r}>"
