"""Decoding of AMQP that no message can stop.

pamqp refuses text that is no UTF-8 and numbers that are no time, and then the client cuts the
connection. The server sends the same message on the next one, and so on for ever, so that one such
message, whoever sent it, ends the work of a group. Here it has other characters, or no time. What
pamqp can read is read as ever, by whomever in this process.
"""

from __future__ import annotations

from typing import Any, cast

from pamqp import decode

LONGEST = 255  # bytes of a short string, also with its replacements, as it may be sent again


def short_str(value: bytes) -> tuple[int, str]:
    """Return the size and the text of a short string."""
    try:
        return decode.short_str(value)
    except UnicodeDecodeError:
        end = 1 + value[0]
        return end, text(value[1:end])


def table(value: bytes) -> tuple[int, dict[str, Any]]:
    """Return the size and the fields of a table."""
    try:
        return decode.field_table(value)
    except UnicodeDecodeError:
        at, end = 4, 4 + int.from_bytes(value[:4], "big")
    fields: dict[str, Any] = {}
    while at < end:
        size, name = short_str(value[at:])
        at += size
        size, fields[name] = decode.embedded_value(value[at:])
        at += size
    return end, fields


def timestamp(value: bytes) -> tuple[int, Any]:
    """Return the size and the time of a timestamp."""
    try:
        return decode.timestamp(value)
    except (ValueError, OverflowError, OSError):
        if len(value) < 8:
            raise
        return 8, None


def text(data: bytes) -> str:
    """Return some text for bytes that are none."""
    replaced = data.decode(errors="replace").encode()
    return replaced[:LONGEST].decode(errors="ignore")


def be_lenient() -> None:
    """Have pamqp decode so."""
    methods, fields = cast("Any", decode.METHODS), cast("Any", decode.TABLE_MAPPING)
    methods["shortstr"] = short_str
    methods["table"] = fields[b"F"] = table
    methods["timestamp"] = fields[b"T"] = timestamp
