"""The message: one event on its way to other buses, as the driver sees it.

The publisher makes one for each event that it hands to the driver. It is encoded only when the
driver asks for the bytes, because a driver such as `MemoryDriver` hands objects over. With the JSON
codec, a message without headers is usually written by the template of its class.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from time import time
from typing import Any, Protocol

import msgspec

from .._errors import EncodeError
from .._events.names import requested_name
from .._handle import DispatchHandle, HandleDetails
from .._wire.codec import Codec
from .._wire.envelope import Envelope
from .._wire.json_codec import JsonCodec, template_of
from .._wire.template import MessageTemplate


class MessageSender(Protocol):
    """The bus that sends the messages: here, the id that it gives itself on the wire."""

    @property
    def origin(self) -> str: ...


class MessageEncoding:
    """The encoding that all messages of one open bus share.

    Attributes:
        sender: The bus that sends them; its `origin` may change while it is open.
        encode: The `encode` method of the codec.
        key_of: Returns the name of the field that holds the key of a class of events.
        max_size: The most bytes that the driver takes; None for no limit.
        templates: The templates of the classes that were sent; None for a class without one.
    """

    def __init__(
        self,
        sender: MessageSender,
        codec: Codec,
        key_of: Callable[[type[Any]], str | None],
        max_size: int | None = None,
    ) -> None:
        self.sender = sender
        self.encode = codec.encode
        self.key_of = key_of
        self.max_size = max_size
        self.templates: dict[type[Any], MessageTemplate | None] = {}
        # A subclass may encode in another way.
        self._json = codec if type(codec) is JsonCodec else None

    def template(
        self, cls: type[Any], event_name: str, origin: str | None
    ) -> MessageTemplate | None:
        """Return the template for a message; None if the codec has to encode it.

        Args:
            cls: The class of the event.
            event_name: Its event name.
            origin: The id of the sender; None for that of this bus.
        """
        sender = self.sender.origin if origin is None else origin
        templates = self.templates
        found = templates[cls] if cls in templates else self.renew(cls, event_name, sender)
        if found is not None and (found.origin != sender or found.event_name != event_name):
            return self.renew(cls, event_name, sender)
        return found

    def renew(self, cls: type[Any], event_name: str, origin: str) -> MessageTemplate | None:
        """Make the template of a class, which replaces an earlier one; None if it can have none."""
        template = None
        if self._json is not None:
            # The codec raises the same exception for the event, with the reason.
            with suppress(Exception):
                template = template_of(self._json, cls, event_name, origin, self.max_size)
        self.templates[cls] = template
        return template

    def check_size(self, event_name: str, data: bytes) -> None:
        """Refuse a message that is larger than the driver takes.

        Raises:
            EncodeError: It is.
        """
        if self.max_size is not None and len(data) > self.max_size:
            limit = f"{len(data)} bytes are above the driver's limit of {self.max_size}"
            raise EncodeError(event_name, limit)


class OutgoingMessage(msgspec.Struct, eq=False):
    """One event for the driver; implements `goevent.Message`."""

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
        """Return the envelope, for a driver that hands objects over.

        Args:
            origin: The id of the sender; None for that of this bus.
            seq: The number of the message among those of its origin on its channel.
        """
        handle, name = self._handle, self.event_name
        details = handle._details
        if not isinstance(details, HandleDetails):
            details = handle._ensure_details()
            details.id = handle._route.kernel.ids.draw()
        return Envelope(
            event_name=name,
            event_type=requested_name(name) or name if details.reply_to else name,
            event=handle.event,
            handle_id=details.id or handle.id,
            timestamp=int(time()),
            origin=self._encoding.sender.origin if origin is None else origin,
            seq=seq,
            reply_to=details.reply_to,
            headers=handle._sent_headers(details),
        )

    def encode(self, *, origin: str | None = None, seq: int | None = None) -> bytes:
        """Return the envelope as bytes; takes the arguments of `envelope`.

        Raises:
            EncodeError: The codec cannot encode the event, or the bytes are more than the driver
                takes.
        """
        encoding, handle, name = self._encoding, self._handle, self.event_name
        event: object = handle.event
        template = encoding.template(type(event), name, origin)
        if template is not None:
            details = handle._details
            if not isinstance(details, HandleDetails):
                details = handle._ensure_details()
                details.id = handle._route.kernel.ids.draw()
            if not details.reply_to:
                headers = handle._sent_headers(details)
                rendered = template.render(event, details.id or handle.id, seq, headers)
                if rendered is not None:
                    return rendered
        data: bytes = encoding.encode(self.envelope(origin=origin, seq=seq))
        encoding.check_size(self.event_name, data)
        return data

    def __repr__(self) -> str:
        return f"<OutgoingMessage of {self.event_name!r}>"
