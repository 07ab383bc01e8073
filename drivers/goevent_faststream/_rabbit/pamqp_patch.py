"""Patches of pamqp: it accepts invalid text and times, and shows why a connection was closed.

pamqp raises on such a property of a message, and then its client closes the connection. The server
sends the same message on the next connection, and so on for ever: a single message, from any
sender, would stop a whole group. With the patch, invalid text is decoded with replacement
characters, and an invalid time as None.

`tolerate_invalid_properties` patches the tables of pamqp for the whole process. Anything that pamqp
decodes without the patch, it decodes to the same value with it.

If the server refuses a connection, aiormq raises an error with the `repr` of the server's frame,
which does not contain the reason. `show_close_reasons` adds it.
"""

from __future__ import annotations

from typing import Any, cast

from pamqp import decode
from pamqp.commands import Connection

from .names import MAX_SHORT_STRING_BYTES


def tolerate_invalid_properties() -> None:
    """Replace the decoders of pamqp that raise on invalid text and times."""
    methods, fields = cast("Any", decode.METHODS), cast("Any", decode.TABLE_MAPPING)
    methods["shortstr"] = decode_short_string
    methods["table"] = fields[b"F"] = decode_table
    methods["timestamp"] = fields[b"T"] = decode_timestamp


def show_close_reasons() -> None:
    """Let the `repr` of a frame that closes a connection contain the server's reason."""
    frame_type: Any = Connection.Close
    frame_type.__repr__ = describe_close


def describe_close(frame: Any) -> str:
    """Return the `repr` of a frame that closes a connection."""
    return f"<{frame.name} {frame.reply_text}>"


def decode_short_string(value: bytes) -> tuple[int, str]:
    """Return the size and the text of a short string."""
    try:
        return decode.short_str(value)
    except UnicodeDecodeError:
        end = 1 + value[0]
        return end, _replace_invalid(value[1:end])


def decode_table(value: bytes) -> tuple[int, dict[str, Any]]:
    """Return the size and the fields of a table."""
    try:
        return decode.field_table(value)
    except UnicodeDecodeError:
        position, end = 4, 4 + int.from_bytes(value[:4], "big")
    fields: dict[str, Any] = {}
    while position < end:
        size, name = decode_short_string(value[position:])
        position += size
        size, fields[name] = decode.embedded_value(value[position:])
        position += size
    return end, fields


def decode_timestamp(value: bytes) -> tuple[int, Any]:
    """Return the size and the time of a timestamp; the time is None if it is invalid."""
    try:
        return decode.timestamp(value)
    except (ValueError, OverflowError, OSError):
        if len(value) < 8:
            raise
        return 8, None


def _replace_invalid(data: bytes) -> str:
    """Return text for bytes that are not UTF-8."""
    replaced = data.decode(errors="replace").encode()
    # A replacement is longer than the byte that it stands for. The text may be sent again, in a
    # copy of the message, and has to fit into a short string there.
    return replaced[:MAX_SHORT_STRING_BYTES].decode(errors="ignore")
