"""The content type and the correlation id: properties of some brokers, headers of the others.

Formats write both as headers. An adapter whose broker has properties for them moves them there, and
back when a message arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .contract import Outgoing

# FastStream 0.7 uses these names where they are headers.
CONTENT_TYPE = "content-type"
CORRELATION_ID = "correlation_id"
JSON = "application/json"


class MessageProperties(NamedTuple):
    """The properties of an outgoing message, and its other headers."""

    content_type: str
    correlation_id: str
    headers: dict[str, str]


def split_properties(outgoing: Outgoing) -> MessageProperties:
    """Return the properties and the headers for a broker that has both.

    The correlation id is the handle's id, unless the format has written another one.
    """
    if not outgoing.headers:
        return MessageProperties(JSON, outgoing.id, {})
    headers = {**outgoing.headers}
    content_type = headers.pop(CONTENT_TYPE, JSON)
    correlation_id = headers.pop(CORRELATION_ID, "") or outgoing.id
    return MessageProperties(content_type, correlation_id, headers)


def all_headers(outgoing: Outgoing) -> list[tuple[str, bytes]]:
    """Return the headers for a broker that has no such properties."""
    named = {CORRELATION_ID: outgoing.id, **outgoing.headers}
    return [(name, text.encode()) for name, text in named.items()]


def merge_headers(
    headers: Mapping[str, str], content_type: str | None, correlation_id: str | None
) -> Mapping[str, str]:
    """Return the headers of an arrival with its properties among them."""
    properties = {CONTENT_TYPE: content_type, CORRELATION_ID: correlation_id}
    return {**headers, **{name: text for name, text in properties.items() if text is not None}}
