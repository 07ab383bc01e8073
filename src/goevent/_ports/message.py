"""One event on its way to other buses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import time
from typing import Any, Protocol

import msgspec

from .._errors import EncodeError
from .._handle import DispatchHandle, HandleDetails
from .._wire.envelope import Envelope
from .._wire.json_codec import Codec


class Sender(Protocol):
    """Whose id the messages carry."""

    @property
    def origin(self) -> str: ...


class MessageEncoding:
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


class OutgoingMessage(msgspec.Struct, eq=False):
    """What a driver publishes; encoded when the driver asks for the bytes."""

    event_name: str
    _handle: DispatchHandle
    _encoding: MessageEncoding

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
        field = self._encoding.key_of(type(event))
        return None if field is None else str(getattr(event, field))

    def envelope(self, *, origin: str | None = None, seq: int | None = None) -> Envelope:
        """Return the envelope, for a driver that hands over objects."""
        handle, name = self._handle, self.event_name
        details = handle.details
        if not isinstance(details, HandleDetails):
            handle.details = details = HandleDetails(details, id=handle.route.kernel.ids.draw())
        return Envelope(
            event_name=name,
            event_type=name,
            event=handle.event,
            handle_id=details.id or handle.id,
            timestamp=int(time()),
            origin=self._encoding.sender.origin if origin is None else origin,
            seq=seq,
            headers=details.headers or {},
        )

    def encode(self, *, origin: str | None = None, seq: int | None = None) -> bytes:
        """Return the envelope as bytes."""
        encoding = self._encoding
        data: bytes = encoding.encode(self.envelope(origin=origin, seq=seq))
        if encoding.max_size is not None and len(data) > encoding.max_size:
            limit = f"{len(data)} bytes are above the driver's limit of {encoding.max_size}"
            raise EncodeError(self.event_name, limit)
        return data

    def __repr__(self) -> str:
        return f"<OutgoingMessage of {self.event_name!r}>"
