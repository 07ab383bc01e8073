"""Names of goevent in the language of NATS: subjects, wildcards and the names of consumers."""

from __future__ import annotations

import hashlib

LONGEST = 200  # the server makes a directory of a consumer's name
_SPELLED = str.maketrans({".": "=", "*": "+"})


def wildcard(via: str) -> str:
    """Return the narrowest subject that has all that a name or pattern matches."""
    head, doubled, _ = via.partition("**")
    return f"{head}>" if doubled else via


def consumer_name(group: str, name: str) -> str:
    """Return the name of a group's consumer of one event name; no two share one."""
    spelled = f"{group}~{name}".translate(_SPELLED)
    if len(spelled) > LONGEST:
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        return f"{group}~~{digest}".translate(_SPELLED)[:LONGEST]
    return spelled
