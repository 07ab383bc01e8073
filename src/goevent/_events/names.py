"""The grammar of event names: segments of ASCII letters, digits, `_` and `-`, joined by dots.

`Event` and the registry validate every name here once, when an event type or an ad-hoc event is
made. The alphabet has no wildcard of any broker, so a name can never act as a pattern there.
"""

from __future__ import annotations

import re
from typing import cast

from .._foreign import name_of, type_name

MAX_NAME_BYTES = 255
# The part of a refused name that an error message shows.
MAX_SHOWN_CHARS = 80

RESERVED_PREFIX = "goevent."
"""The beginning of the names that buses use among themselves, such as those of requests."""

REQUEST_PREFIX = f"{RESERVED_PREFIX}requests."
"""Precedes the event name in the name of its requests."""

REPLIES_NAME = f"{RESERVED_PREFIX}replies"
"""Stands for the answers to a bus among its subscriptions; no event has it."""

_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


def validate_name(name: str) -> str:
    """Return `name` if it is an event name.

    Raises:
        TypeError: `name` is not a string.
        ValueError: `name` is empty, is too long, has an empty segment, has a character that is not
            allowed, or is reserved. The message shows the place.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise not_a_name(name)
    # The alphabet is ASCII, so the number of characters is the number of bytes once a name matches.
    if len(name) <= MAX_NAME_BYTES and _NAME.fullmatch(name):
        if name.startswith(RESERVED_PREFIX):
            raise ValueError(explain_reserved("event name", name))
        return name
    raise ValueError(explain_invalid("event name", name))


def request_name(event_name: str) -> str:
    """Return the reserved name of the requests of an event.

    Raises:
        ValueError: The name would become too long.
    """
    name = REQUEST_PREFIX + event_name
    if len(name) > MAX_NAME_BYTES:
        limit = MAX_NAME_BYTES - len(REQUEST_PREFIX)
        raise ValueError(
            f"event name {event_name[:MAX_SHOWN_CHARS]!a}... has {len(event_name)} bytes; that of "
            f"a request has at most {limit}"
        )
    return name


def requested_name(name: str) -> str:
    """Return the event name in the reserved name of its requests; empty for any other name."""
    return name.removeprefix(REQUEST_PREFIX) if name.startswith(REQUEST_PREFIX) else ""


def not_a_name(given: object) -> TypeError:
    """Return the error for an object that is given in place of an event name."""
    if issubclass(type(given), type):
        return TypeError(f"an event name is a str, not the class {name_of(cast('type', given))}")
    return TypeError(f"an event name is a str, not {type_name(given)}")


def is_name(text: object) -> bool:
    """Tell whether an object is an event name."""
    return (
        isinstance(text, str) and len(text) <= MAX_NAME_BYTES and _NAME.fullmatch(text) is not None
    )


def explain_reserved(kind: str, text: str) -> str:
    """Return the reason why nobody may use `text` as an event name or an event pattern."""
    return (
        f"{kind} {text[:MAX_SHOWN_CHARS]!a} is reserved: buses use the names that begin with "
        f"{RESERVED_PREFIX!r} among themselves"
    )


def explain_invalid(kind: str, text: str, wildcard: str = "") -> str:
    """Return the reason why `text` is not an event name or an event pattern.

    Args:
        kind: The noun for the message, `"event name"` or `"event pattern"`.
        text: The refused text.
        wildcard: A character that is allowed in addition to those of a name.
    """
    shown = ascii(text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}...")
    if not text:
        return f"an {kind} cannot be empty"
    if foreign := re.search(rf"[^A-Za-z0-9_.{wildcard}-]", text):
        letters = " ".join(("A-Z a-z 0-9 _ -", *wildcard))
        return (
            f"{kind} {shown}: character {foreign[0]!a} at position {foreign.start()} "
            f"is not allowed; use segments of {letters} joined by dots"
        )
    if len(text) > MAX_NAME_BYTES:
        return f"{kind} {shown} has {len(text)} bytes; the limit is {MAX_NAME_BYTES}"
    position = f".{text}.".index("..")
    return f"{kind} {shown} has an empty segment at position {position}"
