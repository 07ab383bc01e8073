"""The addresses of direct messages.

A bus has an address of its own, at which answers and signs of life arrive. Under `fan_out` it has
two more for each responder: one for the requests, and one that it shares with all other buses that
respond to the event, for searches.
"""

from __future__ import annotations

import re
import secrets

from .._cause import is_id

SEARCH_PREFIX = "requests."
"""Precedes the event name in the address at which responders can be asked to come forward."""

ROLL_ADDRESS = "buses"
"""The address that all buses have open, if the broker does not count the receivers of an event."""

ADDRESS_PATTERN = r"\A[A-Za-z0-9_-]{1,64}\Z"
_ADDRESS = re.compile(ADDRESS_PATTERN)


def is_answerable(message_id: str, reply_to: str) -> bool:
    """Tell whether a message with this id can be answered. Both texts came from a stranger."""
    return is_id(message_id) and is_address(reply_to)


def is_address(text: str) -> bool:
    """Tell whether a text is the address of a bus. It came from a stranger."""
    return _ADDRESS.fullmatch(text) is not None


def new_address() -> str:
    """Return an address for one opening of a bus, which nobody can guess."""
    return secrets.token_hex(16)


def responder_address(address: str, event_name: str) -> str:
    """Return the address at which a bus takes the requests of an event."""
    return f"{address}.{event_name}"


def search_address(event_name: str) -> str:
    """Return the address that all buses with a responder for an event have open."""
    return SEARCH_PREFIX + event_name
