"""Properties: what some brokers have a place of their own for, and what is a header on any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .contract import Outgoing

# As FastStream 0.7 calls them where they are headers.
CONTENT_TYPE = "content-type"
CORRELATION_ID = "correlation_id"
JSON = "application/json"


class Properties(NamedTuple):
    """What goes where as an event leaves, for a broker that has both places.

    Attributes:
        headers: those that are left.
    """

    content_type: str
    correlation_id: str
    headers: dict[str, str]


def split_properties(outgoing: Outgoing) -> Properties:
    """Return what goes where; the correlation id is the handle's, unless the format says other."""
    if not outgoing.headers:
        return Properties(JSON, outgoing.id, {})
    headers = {**outgoing.headers}
    content_type = headers.pop(CONTENT_TYPE, JSON)
    return Properties(content_type, headers.pop(CORRELATION_ID, "") or outgoing.id, headers)


def all_headers(outgoing: Outgoing) -> list[tuple[str, bytes]]:
    """Return the headers for a broker that has only them."""
    named = {CORRELATION_ID: outgoing.id, **outgoing.headers}
    return [(name, text.encode()) for name, text in named.items()]


def merge_headers(
    headers: Mapping[str, str], content_type: str | None, correlation_id: str | None
) -> Mapping[str, str]:
    """Return what has arrived in either place as headers."""
    places = {CONTENT_TYPE: content_type, CORRELATION_ID: correlation_id}
    return {**headers, **{name: text for name, text in places.items() if text is not None}}
