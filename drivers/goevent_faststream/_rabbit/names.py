"""Names of goevent in the language of AMQP: binding keys, exchanges and queues."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

LONGEST = 255  # bytes of any name in AMQP


def binding(via: str) -> str:
    """Return the narrowest binding key that has all that a name or pattern matches.

    `*` is one word in both; our `**` is at least one word, and `#` may be none.
    """
    return ".".join("#" if word == "**" else word for word in via.split("."))


@dataclass(frozen=True, slots=True)
class Names:
    """What the exchanges and queues of a group are called.

    A colon, a sharp and a plus stand in no name of an event or group, so no two of them are one,
    and clients take them in names.

    Attributes:
        exchange: the one that all events go to.
        stem: what the names of the group begin with.
    """

    exchange: str
    stem: str

    @property
    def exact(self) -> str:
        """The exchange of the group: it knows the names that have a queue."""
        return short(self.stem)

    @property
    def patterns(self) -> str:
        """The exchange, and the queue, for names that have no queue and match a pattern."""
        return short(f"{self.stem}:##")

    @property
    def dead_exchange(self) -> str:
        """The exchange for dead letters of all groups."""
        return short(f"{self.exchange}:+dead")

    @property
    def dead(self) -> str:
        """The queue of the group's dead letters, and the key to it."""
        return short(f"{self.stem}:+dead")

    def queue(self, name: str) -> str:
        """Return the queue of an event name."""
        return short(f"{self.stem}:{name}")


def short(name: str) -> str:
    """Return a name as it is, or, if AMQP does not take it, with a digest for its end."""
    if len(name.encode()) <= LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{name.encode()[:200].decode(errors='ignore')}:#{digest}"
