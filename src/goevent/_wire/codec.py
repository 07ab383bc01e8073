"""The contract of a codec, and the limits and texts that all codecs share.

The messages and the inbox of an open bus call a codec, once for each event that leaves or enters
the process. `json_codec` and `msgpack_codec` have the codecs of goevent; `Config.codec` may be one
of the application.
"""

from __future__ import annotations

from typing import Any, Protocol

from .._events.registry import EventRegistry
from .envelope import Envelope

MAX_MESSAGE_BYTES = 1 << 20
MAX_DEPTH_LEVELS = 64
MAX_EXCERPT_CHARS = 120


class Codec(Protocol):
    """Turns envelopes into bytes and back.

    JSON is the default (`JsonCodec`). Any class with these three members can be `Config.codec`.

    Example:
        >>> import zlib
        >>> class CompressedCodec:
        ...     content_type = "application/zlib"
        ...     json = JsonCodec()
        ...     def encode(self, envelope):
        ...         return zlib.compress(self.json.encode(envelope))
        ...     def decode(self, data, *, event_name, registry):
        ...         try:
        ...             text = zlib.decompress(data)
        ...         except zlib.error as error:
        ...             raise DecodeError(event_name, "not compressed") from error
        ...         return self.json.decode(text, event_name=event_name, registry=registry)
        >>> config = Config(codec=CompressedCodec())
    """

    @property
    def content_type(self) -> str:
        """The media type of the bytes."""
        ...

    def encode(self, envelope: Envelope) -> bytes:
        """Return the bytes of an envelope.

        Raises:
            EncodeError: The envelope cannot be written. All other exceptions are wrapped in it.
        """
        ...

    def decode(self, data: bytes, *, event_name: str, registry: EventRegistry) -> Envelope:
        """Return the envelope in the bytes, with its event validated against the registered class.

        Args:
            data: The bytes of one message.
            event_name: The event name of the channel. The envelope must have the same one.
            registry: The registry that knows the class.

        Raises:
            DecodeError: The bytes are not such an envelope. All other exceptions are wrapped in it.
        """
        ...


def reason_of(error: Exception) -> str:
    """Return the reason of a refusal in one sentence."""
    if isinstance(error, UnicodeError):
        return f"not UTF-8: {error}"
    if isinstance(error, RecursionError):
        return "nested too deep"
    text = str(error)
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def excerpt_of(data: bytes) -> str:
    """Return the first bytes of a message, escaped, in at most `MAX_EXCERPT_CHARS` characters."""
    shown_bytes = MAX_EXCERPT_CHARS - 2
    shown = ascii(bytes(data[:shown_bytes]))[2:-1]
    if len(shown) <= MAX_EXCERPT_CHARS and len(data) <= shown_bytes:
        return shown
    return f"{shown[: MAX_EXCERPT_CHARS - 3]}..."


def check_limits(**limits: Any) -> None:
    """Refuse a limit of a codec that is not an integer of at least 1.

    Raises:
        TypeError: A limit is not an int.
        ValueError: A limit is below 1.
    """
    for name, limit in limits.items():
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"{name} must be an int, not {limit!r}")
        if limit < 1:
            raise ValueError(f"{name} must be at least 1, not {limit}")


def check_flags(**flags: Any) -> None:
    """Refuse a switch of a codec that is neither True nor False.

    Raises:
        TypeError: A switch is another object.
    """
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, not {flag!r}")
