"""One event on its way to other buses."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ._codec import Codec
from ._envelope import Envelope
from ._errors import EncodeError
from ._handle import DispatchHandle


class OutgoingMessage:
    """What a driver publishes; encoded when the driver asks for the bytes."""

    __slots__ = ("_codec", "_handle", "_key_of", "_max_size", "_origin")

    def __init__(
        self,
        handle: DispatchHandle,
        origin: str,
        codec: Codec,
        key_of: Callable[[type[Any]], str | None],
        max_size: int | None = None,
    ) -> None:
        self._handle = handle
        self._origin = origin
        self._codec = codec
        self._key_of = key_of
        self._max_size = max_size

    @property
    def event_name(self) -> str:
        return self._handle.event_name

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
        field = self._key_of(type(event))
        return None if field is None else str(getattr(event, field))

    def envelope(self, *, origin: str | None = None, seq: int | None = None) -> Envelope:
        """Return the envelope, for a driver that hands over objects."""
        return Envelope(
            event_name=self.event_name,
            event=self.event,
            handle_id=self.handle_id,
            timestamp=int(time.time()),
            origin=self._origin if origin is None else origin,
            seq=seq,
            headers=self.headers,
        )

    def encode(self, *, origin: str | None = None, seq: int | None = None) -> bytes:
        """Return the envelope as bytes."""
        data = self._codec.encode(self.envelope(origin=origin, seq=seq))
        if self._max_size is not None and len(data) > self._max_size:
            limit = f"{len(data)} bytes are above the driver's limit of {self._max_size}"
            raise EncodeError(self.event_name, limit)
        return data

    def __repr__(self) -> str:
        return f"<OutgoingMessage of {self.event_name!r}>"
