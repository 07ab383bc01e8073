"""The grammar of event names: dotted segments of ASCII letters, digits, `_` and `-`.

Nothing in a name can act as a pattern in a broker: the alphabet has no glob characters.
"""

from __future__ import annotations

import re

MAX_NAME_BYTES = 255

_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


def validate_name(name: str) -> str:
    """Return `name` if it is an event name.

    Raises:
        TypeError: `name` is not a string.
        ValueError: it is empty, too long, has an empty segment or a character that is not allowed;
            the message shows which.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"an event name is a str, not {type(name).__name__}")
    # The alphabet is ASCII, so characters count as bytes once the name matched.
    if len(name) <= MAX_NAME_BYTES and _NAME.fullmatch(name):
        return name
    raise ValueError(complaint("event name", name))


def complaint(kind: str, text: str, wildcard: str = "") -> str:
    """Return what is wrong with `text`, an event name or, with a wildcard, what may contain it."""
    shown = ascii(text if len(text) <= 80 else f"{text[:80]}...")
    if not text:
        return f"an {kind} cannot be empty"
    if foreign := re.search(rf"[^A-Za-z0-9_.{wildcard}-]", text):
        letters = " ".join(("A-Z a-z 0-9 _ -", *wildcard))
        return (
            f"{kind} {shown}: character {foreign[0]!a} at position {foreign.start()} "
            f"is not allowed; allowed are segments of {letters} joined by dots"
        )
    if len(text) > MAX_NAME_BYTES:
        return f"{kind} {shown} has {len(text)} bytes, more than {MAX_NAME_BYTES}"
    position = f".{text}.".index("..")
    return f"{kind} {shown} has an empty segment at position {position}"
