"""Event names and patterns as subjects of NATS, and groups as names of JetStream's consumers."""

from __future__ import annotations

import hashlib

# JetStream stores a consumer in a directory that bears its name, and file systems allow 255 bytes.
MAX_CONSUMER_NAME_CHARS = 200
# A consumer name takes neither of these two; names of events and groups have no `=` and no `+`.
_ESCAPES = str.maketrans({".": "=", "*": "+"})


def covering_subject(pattern: str) -> str:
    """Return the narrowest subject that covers a name or pattern.

    NATS allows its `>` only at the end of a subject. A pattern with `**` in the middle is covered
    by a wider subject; the caller drops the surplus messages.
    """
    head, double_star, _ = pattern.partition("**")
    return f"{head}>" if double_star else pattern


def consumer_name(group: str, name: str) -> str:
    """Return the name of a group's consumer of one event name; each pair has a name of its own."""
    spelled = f"{group}~{name}".translate(_ESCAPES)
    if len(spelled) > MAX_CONSUMER_NAME_CHARS:
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        return f"{group}~~{digest}".translate(_ESCAPES)[:MAX_CONSUMER_NAME_CHARS]
    return spelled
