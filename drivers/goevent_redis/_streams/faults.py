"""Troubles: what Redis refuses, what has vanished from it, and how that is mended and reported."""

from __future__ import annotations

import trio
from redis import exceptions as redis_errors

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Inbox

from .._link.errors import RedisLinkError
from .._link.link import Link
from .config import StreamsConfig, before
from .keys import Keys
from .scripts import MEND, call
from .stream import Entry, Feed, place, text

RENEWAL = 1.0  # seconds between two connections that are given up for being to the wrong server


class Lost(DriverError):
    """An event was finished here that was not this bus's any more; it was not acknowledged.

    Attributes:
        event_name: its name.
        id: what the broker calls it.
        owner: the consumer that has it now; empty if it is acknowledged, or trimmed.
    """

    def __init__(self, event_name: str, id: str, owner: str) -> None:  # noqa: A002
        super().__init__(event_name, id, owner)
        self.event_name = event_name
        self.id = id
        self.owner = owner

    def __str__(self) -> str:
        now = f"the consumer {self.owner!r} has it" if self.owner else "it is pending no more"
        return (
            f"the event {self.id} of {self.event_name!r} was finished here too late, and is not "
            f"acknowledged by this bus: {now}"
        )


class Trimmed(DriverError):
    """An event was removed from its stream while it was pending: nobody will get it again.

    Attributes:
        event_name: its name.
        id: what the broker calls it.
    """

    def __init__(self, event_name: str, id: str) -> None:  # noqa: A002
        super().__init__(event_name, id)
        self.event_name = event_name
        self.id = id

    def __str__(self) -> str:
        return f"the event {self.id} of {self.event_name!r} was trimmed while it was pending"


class Troubles:
    """What has gone wrong on one open bus, each thing reported once while it lasts."""

    def __init__(self, link: Link, inbox: Inbox, keys: Keys, config: StreamsConfig) -> None:
        self._link = link
        self._inbox = inbox
        self._keys = keys
        self._config = config
        self._mending = trio.Lock()
        self._told: set[tuple[type[Exception], str]] = set()
        self._renewed = -RENEWAL

    @staticmethod
    def is_gone(error: Exception) -> bool:
        """Tell whether an error says that a stream or its group has vanished."""
        said = str(error)
        return isinstance(error, redis_errors.ResponseError) and (
            said.startswith(("NOGROUP", "UNBLOCKED")) or "NOGROUP" in said[:80]
        )

    def refused(self, error: Exception, what: str) -> None:
        """Report what Redis refuses to do; a server that must not write is left for another."""
        kind = type(error), str(error).partition(" ")[0]
        if kind not in self._told:
            self._told.add(kind)
            self._inbox.report(refusal(error, what))
        self.leave_replica(error)

    def leave_replica(self, error: Exception) -> None:
        """Connect anew if the server takes no writes: its address may lead elsewhere by now."""
        kinds = (redis_errors.ReadOnlyError, redis_errors.MasterDownError)
        now = trio.current_time()
        if isinstance(error, kinds) and now - self._renewed >= RENEWAL:
            self._renewed = now
            self._link.renew(error)

    def works(self) -> None:
        """Take note that Redis does what it is asked for: what comes now is news."""
        if self._told:
            self._told.clear()

    def buried(self, entry: Entry, reason: str) -> None:
        """Report a dead letter."""
        name, tries = entry.feed.name, entry.deliveries
        self._inbox.report(
            DriverError(
                f"the event {text(entry.id)} of {name!r} is a dead letter after {tries} "
                f"deliveries: {reason}"
            ),
            name,
        )

    def trimmed(self, feed: Feed, ids: list[bytes]) -> None:
        """Report entries that are pending and gone."""
        for entry_id in ids:
            self._inbox.report(Trimmed(feed.name, text(entry_id)), feed.name)

    async def mend(self, feed: Feed) -> None:
        """Create the group of a feed anew if it has vanished, and report it.

        Raises:
            RedisLinkError: There is no connection.
        """
        async with self._mending:
            if not feed.active:
                return
            keys = (feed.key, self._keys.marks)
            fallback = "0" if feed.again else before(self._config.start)
            if fallback == "$" and feed.high > (0, 0):
                fallback = "{}-{}".format(*feed.high)  # "latest" was long ago
            args = (self._keys.group, fallback, int(not feed.again))
            try:
                made, begin, high = await call(self._link, MEND, keys, *args)
                if made and not feed.again:
                    await self._link.execute("SADD", self._keys.names, feed.name)
            except redis_errors.RedisError as error:
                if isinstance(error, RedisLinkError):
                    raise
                self.refused(error, f"create the group {self._keys.group!r}")
                feed.barred = True
                return
        feed.high = max(feed.high, place(high))
        if made == b"none":
            feed.active = False  # whoever replays makes it anew
            return
        if made == b"stream":
            feed.finished.clear()
        if made:
            what = "stream" if made == b"stream" else "group"
            self._inbox.report(
                DriverError(
                    f"the {what} of {feed.name!r} had vanished under the group "
                    f"{self._keys.group!r}, which begins anew behind {text(begin)}"
                ),
                feed.name,
            )


def refusal(error: Exception, what: str) -> DriverError:
    """Return the error of the contract for one of the link or of the server."""
    mapped: DriverError
    if isinstance(error, DriverError):
        return error
    if isinstance(error, RedisLinkError):
        mapped = DriverConnectionError(f"Redis: {error}")
    elif str(error).startswith("WRONGTYPE"):
        mapped = DriverError(
            f"Redis refuses to {what}: it is kept in partitions, and all that use it need the same "
            f"StreamsConfig(partitions=...): {error}"
        )
    else:
        mapped = DriverError(f"Redis refuses to {what}: {error}")
    mapped.__cause__ = error
    return mapped
