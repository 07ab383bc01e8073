"""Event names, patterns and groups as binding keys, exchanges and queues of AMQP."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

# AMQP's short string: the names of queues, routing keys and binding keys.
MAX_SHORT_STRING_BYTES = 255
# The client refuses longer names of exchanges and virtual hosts. All allowed characters but those
# of a virtual host are ASCII, so a character is a byte.
MAX_EXCHANGE_BYTES = 127
MAX_VIRTUAL_HOST_CHARS = 127
_NAME = re.compile(r"[a-zA-Z0-9_.:@#,/+ -]*")


def binding_key(pattern: str) -> str:
    """Return the binding key that matches the event names of a name or pattern, and no others.

    `*` is one word in both languages. goevent's `**` is at least one word, while AMQP's `#` may be
    none.
    """
    return ".".join("*.#" if word == "**" else word for word in pattern.split("."))


def earlier_binding_key(pattern: str) -> str | None:
    """Return the binding key that goevent 0.2 had for a pattern, where it matches more names.

    Returns:
        The key. None if it is that of today, or if another pattern has it today: `*.#` was the key
        of `*.**`, and is that of `**`.
    """
    words = ["#" if word == "**" else word for word in pattern.split(".")]
    todays = all(
        before == "*" for before, word in zip(["", *words], words, strict=False) if word == "#"
    )
    return None if todays else ".".join(words)


@dataclass(frozen=True, slots=True)
class RabbitNames:
    """The names of a group's exchanges and queues.

    No event name and no group contains a colon, a sharp or a plus, so two different things never
    share a name. AMQP clients accept these characters.

    Attributes:
        exchange: The exchange that all events go to.
        stem: The beginning of all names of the group.
    """

    exchange: str
    stem: str

    @property
    def exact_exchange(self) -> str:
        """The group's exchange, bound to the event names that have a queue of their own."""
        return self.stem

    @property
    def patterns(self) -> str:
        """The exchange and the queue for events that match a pattern and have no own queue."""
        return f"{self.stem}:##"

    @property
    def dead_letter_exchange(self) -> str:
        """The exchange for the dead letters of all groups."""
        return f"{self.exchange}:+dead"

    @property
    def dead_letter_queue(self) -> str:
        """The queue of the group's dead letters, and its routing key."""
        return f"{self.stem}:+dead"

    def queue(self, name: str) -> str:
        """Return the queue of an event name."""
        return shortened(f"{self.stem}:{name}")

    def check(self) -> None:
        """Check the names that depend on the settings only.

        Raises:
            ValueError: A name is too long, or has a character that the client refuses.
        """
        for exchange in (self.dead_letter_exchange, self.exact_exchange, self.patterns):
            check_name("exchange", exchange, MAX_EXCHANGE_BYTES, "`stream` or `group`")
        check_name("queue", self.dead_letter_queue, MAX_SHORT_STRING_BYTES, "`stream` or `group`")


def direct_exchange(events_exchange: str) -> str:
    """Return the exchange for direct messages beside an exchange for events."""
    name = f"{events_exchange}:+direct"
    if len(name) <= MAX_EXCHANGE_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{events_exchange[:60]}:+direct:{digest}"


def direct_key(prefix: str, address: str) -> str:
    """Return the routing key of an address; each address has a key of its own."""
    return shortened(prefix + address)


def check_name(kind: str, name: str, max_bytes: int, setting: str) -> None:
    """Check a name of AMQP.

    Args:
        kind: The kind of object that has the name, for the error.
        setting: The settings that the name is made of, for the error.

    Raises:
        ValueError: It is too long, or has a character that the client refuses.
    """
    size = len(name.encode(errors="replace"))
    if size > max_bytes:
        raise ValueError(
            f"RabbitMQ: the name of the {kind} {name!r} has {size} bytes, and at most {max_bytes} "
            f"are allowed: choose a shorter {setting}"
        )
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"RabbitMQ: the name of the {kind} {name!r} has a character that AMQP clients refuse; "
            "letters of ASCII, digits, spaces and -_.:@#,/+ are allowed"
        )


def key_error(key: str) -> str | None:
    """Return the text of the error for a routing key or binding key that is too long, or None."""
    # In bytes: the prefix and the name of an event are ASCII, but a check must not rely on that.
    size = len(key) if key.isascii() else len(key.encode(errors="replace"))
    if size <= MAX_SHORT_STRING_BYTES:
        return None
    return (
        f"RabbitMQ: the key {key!r} has {size} bytes, and a routing key or binding key has at most "
        f"{MAX_SHORT_STRING_BYTES} bytes"
    )


def shortened(name: str) -> str:
    """Return the name, or, if AMQP allows no name of that length, its beginning and a digest."""
    if len(name.encode()) <= MAX_SHORT_STRING_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{name.encode()[:200].decode(errors='ignore')}:#{digest}"
