"""The changes between two documents that break a reader of events.

`goevent asyncapi --check` calls `breaking_changes` with the document in a file and the one of the
code. A reader breaks if it gets an event that it cannot decode, or if it gets none any more.

Theory of operation. While a new program is rolled out, old and new ones run side by side, and a
durable broker holds events of the old one. So each event is compared in two directions: the old
readers get the events of the new program, and the new readers get those of the old program. The
schemas of the whole messages are compared, the envelope included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from .._events.patterns import compile_pattern
from ._fits import Comparison, Misfit

MAX_LISTENERS_IN_TEXT = 3

OLD_PROGRAM = "the old program"
NEW_PROGRAM = "the new program"

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """A change that breaks a reader; `str` gives it in one line.

    Attributes:
        event_name: The name of the event, or the pattern of a channel.
        field: The field of the event, as in `items[].price`; empty if the whole event is meant.
        reader: The program that cannot read the event, with its listeners.
        writer: The program that writes it.
        reason: What is wrong with the field.
    """

    event_name: str
    field: str
    reader: str
    writer: str
    reason: str

    def __str__(self) -> str:
        what = f"field {self.field}" if self.field else "the event"
        return (
            f"{self.event_name}: {what} {self.reason} "
            f"(reader: {self.reader}; writer: {self.writer})"
        )


def breaking_changes(old: Mapping[str, object], new: Mapping[str, object]) -> tuple[Change, ...]:
    """Return the changes that break a reader, sorted by event and field.

    A field that is new and has a default breaks nobody, unless a reader refuses unknown fields. A
    reader breaks if a field that it requires is not written any more, if a field gets a type or a
    value that it does not take, if it requires a field that older events do not have, if an event
    moves to another address or content type, and if its event or its listener is gone.

    Args:
        old: The document of the program that runs.
        new: The document of the program that will run.

    Example:
        >>> from goevent.asyncapi import document
        >>> before = document(GoEvent("memory"))
        >>> breaking_changes(before, before)
        ()
    """
    changes: list[Change] = []
    before, after = _Side(old, "old"), _Side(new, "new")
    for name in sorted(before.messages.keys() & after.messages.keys()):
        changes += _message_changes(before, after, name)
    changes += _gone(before, after)
    changes.sort(key=lambda each: (each.event_name, each.field, each.reader, each.reason))
    return tuple(dict.fromkeys(changes))


class _Side:
    """One of the two documents, with what the comparison asks of it."""

    def __init__(self, document: Document, age: str) -> None:
        self.document = document
        self.age = age
        components = _mapping(document.get("components"))
        self.messages = _mapping(components.get("messages"))
        self.channels = _mapping(document.get("channels"))
        self.listeners: dict[str, list[str]] = {}
        self.sent: set[str] = set()
        for operation in _mapping(document.get("operations")).values():
            each = _mapping(operation)
            reference = str(_mapping(each.get("channel")).get("$ref", ""))
            channel = reference.removeprefix("#/channels/")
            if each.get("action") == "send":
                self.sent.add(channel)
            else:
                title = str(each.get("x-listener") or each.get("title") or "a listener")
                self.listeners.setdefault(channel, []).append(title)

    def listeners_of(self, name: str) -> list[str]:
        """Return the listeners that get the events of a name, by a pattern, too."""
        return sorted(
            {
                listener
                for channel, listeners in self.listeners.items()
                if _covers(channel, name)
                for listener in listeners
            }
        )

    def reader(self, name: str) -> str:
        """Return the readers of an event in words."""
        listeners = self.listeners_of(name)
        if not listeners:
            return f"programs that know the {self.age} document"
        shown = ", ".join(listeners[:MAX_LISTENERS_IN_TEXT])
        if len(listeners) > MAX_LISTENERS_IN_TEXT:
            shown += f" and {len(listeners) - MAX_LISTENERS_IN_TEXT} more"
        return f"{shown} of the {self.age} program"

    def content_type(self, name: str) -> str:
        own = _mapping(self.messages.get(name)).get("contentType")
        return str(own or self.document.get("defaultContentType") or "application/json")

    def address(self, name: str) -> str:
        return str(_mapping(self.channels.get(name)).get("address", name))


def _message_changes(before: _Side, after: _Side, name: str) -> Iterator[Change]:
    for what, was, now in (
        ("content type", before.content_type(name), after.content_type(name)),
        ("address", before.address(name), after.address(name)),
    ):
        if was != now:
            reason = f"has the {what} {now}, and had {was}"
            yield Change(name, "", before.reader(name), NEW_PROGRAM, reason)
    old = _mapping(before.messages[name]).get("payload", True)
    new = _mapping(after.messages[name]).get("payload", True)
    forward = Comparison(after.document, before.document).misfits(new, old)
    for misfit in forward:
        yield _change(name, misfit, before.reader(name), NEW_PROGRAM)
    # Without a listener, the new program reads no event.
    if after.listeners_of(name):
        for misfit in Comparison(before.document, after.document).misfits(old, new):
            yield _change(name, misfit, after.reader(name), OLD_PROGRAM)


def _change(name: str, misfit: Misfit, reader: str, writer: str) -> Change:
    path = misfit.path
    if path == "event_data" or path.startswith("event_data."):
        path = path.removeprefix("event_data").removeprefix(".")
    return Change(name, path, reader, writer, misfit.reason)


def _gone(before: _Side, after: _Side) -> Iterator[Change]:
    """Return the events that lose their last reader, and those that are not published any more."""
    for channel in before.listeners:
        if not any(_covers(other, channel) for other in after.listeners):
            reason = "has no listener any more"
            yield Change(channel, "", NEW_PROGRAM, "programs that publish it", reason)
    for name in before.sent:
        received = any(_covers(channel, name) for channel in after.listeners)
        if name not in after.sent and not received:
            reason = "is not published any more"
            yield Change(name, "", before.reader(name), NEW_PROGRAM, reason)


def _covers(channel: str, name: str) -> bool:
    """Tell whether a channel, which may be a pattern, has all events of a name or a pattern."""
    if channel == name:
        return True
    try:
        # A pattern covers another one if it matches it with any segment in place of a wildcard.
        return bool(compile_pattern(channel)(name.replace("**", "a.b").replace("*", "a")))
    except ValueError:  # a document of another program may have any channels
        return False


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
