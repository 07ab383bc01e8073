"""Event names and patterns as subjects of NATS, and groups as names of JetStream's consumers."""

from __future__ import annotations

import hashlib
import re

# JetStream stores a consumer in a directory that bears its name, and file systems allow 255 bytes.
MAX_CONSUMER_NAME_CHARS = 200
# 255, without the longest ending of the driver's own streams, `-dead`.
MAX_STREAM_NAME_BYTES = 250
# A server ends the connection at a line of more than 4,096 bytes; the rest of a line is short.
MAX_PREFIX_BYTES = 2000
# The beginning of the subjects of direct messages. Neither an event name nor a prefix has a `$`.
DIRECT_ROOT = "$GOEVENT."
# A consumer name takes neither of these two; names of events and groups have no `=` and no `+`.
_ESCAPES = str.maketrans({".": "=", "*": "+"})


def covering_subject(pattern: str) -> str:
    """Return the narrowest subject that covers a name or pattern.

    NATS allows its `>` only at the end of a subject. A pattern with `**` in the middle is covered
    by a wider subject; the caller drops the surplus messages.
    """
    head, double_star, _ = pattern.partition("**")
    return f"{head}>" if double_star else pattern


def subject_matches(filter_: str, subject: str) -> bool:
    """Tell whether a filter, which may have wildcards, matches a subject."""
    tokens, parts = filter_.split("."), subject.split(".")
    if tokens[-1] == ">":
        tokens.pop()
        if len(parts) <= len(tokens):
            return False
        parts = parts[: len(tokens)]
    return len(tokens) == len(parts) and all(
        token in ("*", part) for token, part in zip(tokens, parts, strict=True)
    )


def check_prefix(prefix: str) -> None:
    """Check the beginning of subjects.

    Raises:
        ValueError: A subject with it would have an empty part, a wildcard, a blank or a line that
            is too long.
    """
    if prefix.startswith(".") or ".." in prefix:
        raise ValueError(f"prefix: subjects of NATS have no empty parts, as {prefix!r} has")
    if re.search(r"[\s*>\x00-\x1f\x7f]", prefix):
        raise ValueError(f"prefix: it has a wildcard or a blank: {prefix!r}; set another prefix")
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        raise ValueError(f"prefix: at most {MAX_PREFIX_BYTES} bytes")


def check_stream_name(name: str) -> None:
    """Check the name of a stream, which JetStream also uses as the name of a directory.

    Raises:
        ValueError: JetStream refuses the name.
    """
    if not re.fullmatch(r"[^\s.*>/\\\x00-\x1f\x7f]+", name):
        raise ValueError(
            "stream: JetStream allows no dots, blanks, * > / and \\ in the name of a stream, "
            f"not {name!r}"
        )
    if len(name.encode()) > MAX_STREAM_NAME_BYTES:
        raise ValueError(
            f"stream: the name of a stream has at most {MAX_STREAM_NAME_BYTES} bytes here, "
            f"not {len(name.encode())}"
        )


def consumer_name(group: str, name: str) -> str:
    """Return the name of a group's consumer of one event name; each pair has a name of its own."""
    spelled = f"{group}~{name}".translate(_ESCAPES)
    if len(spelled) > MAX_CONSUMER_NAME_CHARS:
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        return f"{group}~~{digest}".translate(_ESCAPES)[:MAX_CONSUMER_NAME_CHARS]
    return spelled
