"""The message of an event that was posted in a batch and has no handle.

The publisher makes one for each such event. `message` has those of events with handles.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import time

import msgspec

from .._cause import Cause
from .._wire.envelope import Envelope
from .message import MessageEncoding


class BatchMessage(msgspec.Struct, eq=False):
    """One event for the driver; implements `goevent.Message`."""

    event_name: str
    event: object
    handle_id: str
    _encoding: MessageEncoding
    _cause: Cause | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the cause only: middleware adds others, and the event has passed none."""
        return {} if self._cause is None else self._cause.headers

    @property
    def key(self) -> str | None:
        field = self._encoding.key_of(type(self.event))
        return None if field is None else str(getattr(self.event, field))

    def envelope(self, *, origin: str | None = None, seq: int | None = None) -> Envelope:
        """Return the envelope, as `OutgoingMessage.envelope`."""
        return Envelope(
            event_name=self.event_name,
            event_type=self.event_name,
            event=self.event,
            handle_id=self.handle_id,
            timestamp=int(time()),
            origin=self._encoding.sender.origin if origin is None else origin,
            seq=seq,
            headers=self.headers,
        )

    def encode(self, *, origin: str | None = None, seq: int | None = None) -> bytes:
        """Return the envelope as bytes, as `OutgoingMessage.encode`.

        Raises:
            EncodeError: The codec cannot encode the event, or the bytes are more than the driver
                takes.
        """
        encoding, event = self._encoding, self.event
        template = encoding.template(type(event), self.event_name, origin)
        if template is not None:
            rendered = template.render(event, self.handle_id, seq, self.headers)
            if rendered is not None:
                return rendered
        data: bytes = encoding.encode(self.envelope(origin=origin, seq=seq))
        encoding.check_size(self.event_name, data)
        return data

    def __repr__(self) -> str:
        return f"<BatchMessage of {self.event_name!r}>"
