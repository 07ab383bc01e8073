"""The grammar of event names: dotted segments of ASCII letters, digits, `_` and `-`.

Nothing in a name can act as a pattern in a broker: the alphabet has no glob characters.
"""

from __future__ import annotations

import re

MAX_NAME_BYTES = 255

_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_FOREIGN = re.compile(r"[^A-Za-z0-9_.-]")


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
    raise ValueError(_complaint(name))


def _complaint(name: str) -> str:
    shown = ascii(name if len(name) <= 80 else f"{name[:80]}...")
    if not name:
        return "an event name cannot be empty"
    if foreign := _FOREIGN.search(name):
        return (
            f"event name {shown}: character {foreign[0]!a} at position {foreign.start()} "
            "is not allowed; a name is segments of A-Z a-z 0-9 _ - joined by dots"
        )
    if len(name) > MAX_NAME_BYTES:
        return f"event name {shown} has {len(name)} bytes, more than {MAX_NAME_BYTES}"
    position = f".{name}.".index("..")
    return f"event name {shown} has an empty segment at position {position}"
