"""Event names, patterns and groups as binding keys, exchanges and queues of AMQP."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

# AMQP's short string: the names of exchanges and queues, routing keys and binding keys.
MAX_SHORT_STRING_BYTES = 255


def binding_key(pattern: str) -> str:
    """Return the narrowest binding key that covers a name or pattern.

    `*` is one word in both languages. goevent's `**` is at least one word, while AMQP's `#` may be
    none; the caller drops the surplus messages.
    """
    return ".".join("#" if word == "**" else word for word in pattern.split("."))


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
        return shortened(self.stem)

    @property
    def patterns(self) -> str:
        """The exchange and the queue for events that match a pattern and have no own queue."""
        return shortened(f"{self.stem}:##")

    @property
    def dead_letter_exchange(self) -> str:
        """The exchange for the dead letters of all groups."""
        return shortened(f"{self.exchange}:+dead")

    @property
    def dead_letter_queue(self) -> str:
        """The queue of the group's dead letters, and its routing key."""
        return shortened(f"{self.stem}:+dead")

    def queue(self, name: str) -> str:
        """Return the queue of an event name."""
        return shortened(f"{self.stem}:{name}")


def shortened(name: str) -> str:
    """Return the name, or, if AMQP allows no name of that length, its beginning and a digest."""
    if len(name.encode()) <= MAX_SHORT_STRING_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{name.encode()[:200].decode(errors='ignore')}:#{digest}"
