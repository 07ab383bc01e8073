"""Event names in what a server tells: any program may use a channel or a name in a set."""

from __future__ import annotations

from goevent import compile_pattern


def is_event_name(text: str) -> bool:
    """Tell whether a text is the name of an event."""
    try:
        compile_pattern(text)
    except ValueError:
        return False
    return "*" not in text
