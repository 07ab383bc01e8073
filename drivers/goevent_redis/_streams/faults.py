"""Faults of the server: refusals, vanished groups and trimmed entries, and how they are reported.

`StreamFaults` serves one open bus. The reader, the claimer, the monitor and the others tell it
about refusals. It reports each kind of refusal once while the refusal lasts, and it creates a group
that has vanished anew.
"""

from __future__ import annotations

import trio
from redis import exceptions as redis_errors

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Inbox

from .._link.errors import RedisLinkError
from .._link.link import Link
from .._link.replies import whole_text
from .._tls import connection_error
from .config import StreamsConfig, id_before
from .keys import StreamKeys
from .scripts import MEND, call
from .stream import Stream, as_text, parse_id

NO_RIGHT_IN_SCRIPT = "The user executing the script can't"
"""How Redis begins the error of a script whose user lacks a right."""

RENEWAL_PAUSE_SECONDS = 1.0
"""The shortest time between two connections that are given up because they lead to a replica."""

MAX_REPORTED_KINDS = 100
"""How many different refusals are reported while they last."""

CLUSTER_ERRORS = (
    redis_errors.AskError,
    redis_errors.ClusterCrossSlotError,
    redis_errors.ClusterDownError,
)
"""The errors of a node of a cluster; `MovedError` is an `AskError`."""

Refusal = tuple[type[Exception], str]
"""A kind of refusals: the class of the error, and what distinguishes it from others."""


class Lost(DriverError):
    """A listener finished an event that no longer belonged to this bus; it was not acknowledged.

    Attributes:
        event_name: The name of the event.
        id: The broker's id of the event.
        owner: The consumer that has it now; empty if it is acknowledged or trimmed.
    """

    def __init__(self, event_name: str, id: str, owner: str) -> None:  # noqa: A002
        super().__init__(event_name, id, owner)
        self.event_name = event_name
        self.id = id
        self.owner = owner

    def __str__(self) -> str:
        now = f"the consumer {self.owner!r} has it" if self.owner else "it is no longer pending"
        return (
            f"the event {self.id} of {self.event_name!r} was finished here too late, and is not "
            f"acknowledged by this bus: {now}"
        )


class Trimmed(DriverError):
    """An event was removed from its stream while it was pending; it will not be delivered again.

    Attributes:
        event_name: The name of the event.
        id: The broker's id of the event.
    """

    def __init__(self, event_name: str, id: str) -> None:  # noqa: A002
        super().__init__(event_name, id)
        self.event_name = event_name
        self.id = id

    def __str__(self) -> str:
        return f"the event {self.id} of {self.event_name!r} was trimmed while it was pending"


def lacks_right(error: Exception) -> bool:
    """Tell whether the user lacks a right, for a command or inside a script."""
    return isinstance(error, redis_errors.NoPermissionError) or str(error).startswith(
        NO_RIGHT_IN_SCRIPT
    )


class StreamFaults:
    """The faults of one open bus."""

    def __init__(self, link: Link, inbox: Inbox, keys: StreamKeys, config: StreamsConfig) -> None:
        self._link = link
        self._inbox = inbox
        self._keys = keys
        self._config = config
        self._mending = trio.Lock()
        # The kinds of refusals that were reported, each with the action whose success ends it; None
        # for the success of any action.
        self._reported: dict[Refusal, str | None] = {}
        self._renewed_at = -RENEWAL_PAUSE_SECONDS

    @staticmethod
    def is_gone(error: Exception) -> bool:
        """Tell whether an error says that a stream or its group has vanished."""
        said = str(error)
        return isinstance(error, redis_errors.ResponseError) and (
            said.startswith(("NOGROUP", "UNBLOCKED")) or "NOGROUP" in said[:80]
        )

    def refused(self, error: Exception, action: str, stream: Stream | None = None) -> None:
        """Report that Redis refuses an action; leave a server that takes no writes.

        Args:
            stream: The stream that the action is about, if it is one.
        """
        # The first word of a redirection is a number.
        word = "" if isinstance(error, CLUSTER_ERRORS) else str(error).partition(" ")[0]
        text, ended_by = word, action if lacks_right(error) else None
        if word == "WRONGTYPE":
            # Redis does not name the key, and there may be several.
            text = f"{word} {action if stream is None else stream.key}"
            ended_by = action if stream is None else inspecting(stream)
        event_name = "" if stream is None else stream.name
        self._report_once((type(error), text), ended_by, refusal(error, action), event_name)
        self.leave_replica(error)

    def cannot_open(self, error: RedisLinkError) -> None:
        """Report that Redis takes no second connection, without which nothing can be read."""
        report = DriverConnectionError(
            "Redis: events are not read, because that needs a connection of its own, and Redis "
            f"does not open it: {error}"
        )
        report.__cause__ = error
        self._report_once((type(error), ""), None, report, "")

    def _report_once(
        self, kind: Refusal, ended_by: str | None, report: DriverError, event_name: str
    ) -> None:
        if kind not in self._reported and len(self._reported) < MAX_REPORTED_KINDS:
            self._reported[kind] = ended_by
            self._inbox.report(report, event_name)

    def leave_replica(self, error: Exception) -> None:
        """Connect anew if the server takes no writes: its address may lead elsewhere by now."""
        kinds = (redis_errors.ReadOnlyError, redis_errors.MasterDownError)
        now = trio.current_time()
        if isinstance(error, kinds) and now - self._renewed_at >= RENEWAL_PAUSE_SECONDS:
            self._renewed_at = now
            self._link.renew(error)

    def succeeded(self, action: str) -> None:
        """Note that an action works again: the next refusal is reported.

        A key of the wrong type, or a missing right, concerns the action that has met it. All other
        refusals concern the whole server, so any success ends them.
        """
        if self._reported:
            self._reported = {
                kind: ended_by
                for kind, ended_by in self._reported.items()
                if ended_by not in (action, None)
            }

    def trimmed(self, stream: Stream, ids: list[bytes]) -> None:
        """Report entries that were pending and are gone."""
        for entry_id in ids:
            self._inbox.report(Trimmed(stream.name, as_text(entry_id)), stream.name)

    async def mend(self, stream: Stream) -> None:
        """Create the group of a stream anew if it has vanished, and report it.

        Raises:
            RedisLinkError: There is no connection.
        """
        # One at a time: several actors meet the same vanished group at once.
        async with self._mending:
            if not stream.active:
                return
            keys = (stream.key, self._keys.marks)
            fallback = "0" if stream.replayed else id_before(self._config.start)
            if fallback == "$" and stream.highest_id > (0, 0):
                # "latest" meant the end of the stream when the group began, not today's.
                fallback = "{}-{}".format(*stream.highest_id)
            args = (self._keys.group, fallback, int(not stream.replayed))
            try:
                made, begin, highest = await call(self._link, MEND, keys, *args)
                if made and not stream.replayed:
                    await self._link.execute("SADD", self._keys.names, stream.name)
            except redis_errors.RedisError as error:
                if isinstance(error, RedisLinkError):
                    raise
                self.refused(error, f"create the group {self._keys.group!r}", stream)
                stream.refused = True
                return
        stream.repeats_until = max(stream.repeats_until, parse_id(highest))
        stream.highest_id = max(stream.highest_id, stream.repeats_until)
        if made == b"none":
            # The next replay creates it.
            stream.active = False
            return
        if made == b"stream":
            stream.finished.clear()
        if made:
            vanished = "stream" if made == b"stream" else "group"
            self._inbox.report(
                DriverError(
                    f"the {vanished} of {stream.name!r} had vanished under the group "
                    f"{self._keys.group!r}, which begins anew behind {as_text(begin)}"
                ),
                stream.name,
            )


def inspecting(stream: Stream) -> str:
    """Return the action of the monitor in reports; its success ends the refusals of a stream."""
    return f"inspect {stream.key}"


def refusal(error: Exception, action: str) -> DriverError:
    """Return the error of the driver contract for one of the link or of the server."""
    mapped: DriverError
    if isinstance(error, DriverError):
        return error
    if isinstance(error, RedisLinkError):
        mapped = connection_error(error)
    elif str(error).startswith("WRONGTYPE"):
        mapped = DriverError(
            f"Redis refuses to {action}: a key holds something else than this bus expects; "
            "either the event name has partitions, and all buses that use it need the same "
            "StreamsConfig(partitions=...), or another program has written a key that begins with "
            f"RedisConfig.channel_prefix: {error}"
        )
    elif isinstance(error, CLUSTER_ERRORS):
        mapped = DriverError(
            f"Redis refuses to {action}, because the server is a node of a Redis Cluster, which "
            "keeps only a part of the keys; give the address of a server without cluster mode: "
            f"{whole_text(error)}"
        )
    else:
        mapped = DriverError(f"Redis refuses to {action}: {whole_text(error)}")
    mapped.__cause__ = error
    return mapped
