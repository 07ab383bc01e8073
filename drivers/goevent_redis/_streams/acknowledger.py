"""The desk: tells Redis what became of the entries that listeners are done with.

An actor of the driver. Listeners' ends are noted as they come; all that has piled up goes to Redis
in one piece, one script for each stream. What could not be told for want of a connection is told
when there is one again, and stays held until then.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio
from trio.lowlevel import Task, current_task

from goevent import DecodeError, EventError
from goevent.drivers import Inbox, Settlement

from .._link.errors import RedisLinkError
from .._link.link import Link
from .._link.resp import Encodable
from .config import StreamsConfig
from .faults import Lost, Troubles
from .keys import HEIR, Keys
from .partitions.lease import Lease
from .partitions.scripts import fenced, fenced_by
from .scripts import ACKNOWLEDGE, BURY, RELEASE, Call, call_many
from .stream import Entry, Feed, Window, text

PAUSE = 0.2  # seconds until what Redis has refused is told again
ELSEWHERE = 0.1  # seconds until what nobody here listens to is free, as long as we read it
REMEMBERED = 10_000  # handle ids of what was done here
EXCERPT = 4000  # characters of a traceback in a dead letter


class Release:
    """An entry that is given back: after a failure, or because nobody began with it."""

    __slots__ = ("count", "entry", "idle")

    def __init__(self, entry: Entry, idle: float, count: int) -> None:
        self.entry = entry
        self.idle = idle  # milliseconds that it is to have been idle already
        self.count = count


class Burial:
    """An entry that becomes a dead letter."""

    __slots__ = ("details", "entry", "reason", "reported")

    def __init__(
        self, entry: Entry, reason: str, details: str = "", *, reported: bool = False
    ) -> None:
        self.reported = reported  # the reason is known to the supervisor
        self.entry = entry
        self.reason = reason
        self.details = details


Verdict = Entry | Release | Burial
"""What is to become of an entry; one that stands for itself is done."""


class Desk:
    """The desk of one open bus.

    Attributes:
        running: how many entries the listeners have.
        batcher: the task in which more ends are to come at once, so that they can wait.
        underway: what is remembered once it is done, by handle id.
        due: called with the time at which an entry that was given back will be free.
    """

    def __init__(
        self,
        link: Link,
        inbox: Inbox,
        keys: Keys,
        config: StreamsConfig,
        consumer: str,
        window: Window,
        troubles: Troubles,
    ) -> None:
        self.running = 0
        self.batcher: Task | None = None
        self.underway: dict[str, Entry] = {}
        self.due: Callable[[float], None] = _ignore
        self.closed = False
        self._link = link
        self._inbox = inbox
        self._keys = keys
        self._config = config
        self._consumer = consumer
        self._window = window
        self._troubles = troubles
        self._verdicts: list[Verdict] = []
        self._done: dict[str, float] = {}  # when, by handle id
        self._busy = False
        self._work = trio.Event()
        self._calm = trio.Event()

    # -- what others tell

    def settled(self, entry: Entry, end: Settlement) -> None:
        """Take note that the listeners are done with an entry."""
        self.running -= 1
        if self.closed:
            return
        errors = end.errors
        if not errors:
            if end.started:
                self._done_with(entry)
            else:  # nobody here listens to it any more
                self.give_back(entry, free_in=ELSEWHERE)
        else:
            outcomes = {error.outcome for error in errors}
            if "abandoned" in outcomes:
                entry.started = end.started  # it goes to the heir when we leave
            elif "failed" in outcomes:
                self._failed(entry, errors)
            else:
                self._done_with(entry)
        if self.batcher is not current_task():
            self._work.set()
        if not self.running:
            self._calm.set()

    def done(self, entry: Entry) -> None:
        """Have an entry acknowledged that no listener is to get."""
        self._done_with(entry)
        self._work.set()

    def bury(self, entry: Entry, reason: str, *, reported: bool = False) -> None:
        """Make an entry a dead letter."""
        self._verdicts.append(Burial(entry, reason, reported=reported))
        self._work.set()

    def give_back(self, entry: Entry, *, free_in: float = 0.0) -> None:
        """Give an entry back with which nobody has begun; it does not count as delivered.

        Those of a partition stay with it.
        """
        if entry.lease is not None:
            if free_in:
                entry.lease.turns.again(entry, free_in)
            else:
                entry.lease.turns.refuse(entry)
            return
        idle = max(0.0, self._config.claim_idle - free_in) * 1000
        self._verdicts.append(Release(entry, idle, max(0, entry.deliveries - 1)))
        self._work.set()

    def stir(self) -> None:
        """Have it look, after a batch."""
        if self._verdicts:
            self._work.set()

    async def calm(self) -> None:
        """Wait until the listeners have nothing, and Redis has been told."""
        while self.running or self._verdicts or self._busy:
            self._calm = trio.Event()
            self.stir()
            await self._calm.wait()

    def _done_with(self, entry: Entry) -> None:
        self._verdicts.append(entry)
        if entry.lease is not None:
            entry.lease.turns.ended(entry)

    def _failed(self, entry: Entry, errors: tuple[EventError, ...]) -> None:
        failed = next(error for error in errors if error.outcome == "failed")
        if failed.listener == "driver" and isinstance(failed.error, DecodeError):
            self._verdicts.append(Burial(entry, str(failed.error), reported=True))
        elif entry.deliveries >= self._config.max_deliveries:
            self._verdicts.append(Burial(entry, str(failed), failed.details[-EXCERPT:]))
        elif entry.lease is not None:
            entry.lease.turns.again(entry, self._config.pause(entry.deliveries))
        else:
            pause = self._config.pause(entry.deliveries)
            idle = (self._config.claim_idle - pause) * 1000
            self._verdicts.append(Release(entry, idle, entry.deliveries))
            self.due(pause)

    # -- what it tells

    async def run(self) -> None:
        """Tell Redis, until cancelled."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            try:
                await self.flush()
            except RedisLinkError:
                await self._link.ready()
            if self._verdicts and not self._work.is_set():
                await trio.sleep(PAUSE)
                self._work.set()

    async def flush(self) -> None:
        """Tell Redis all that there is to tell.

        Raises:
            RedisLinkError: There is no connection; it is to be told again.
        """
        verdicts, self._verdicts = self._verdicts, []
        if not verdicts:
            return
        self._busy = True
        told = False
        try:
            groups = self._grouped(verdicts)
            try:
                replies = await call_many(self._link, [call for call, _ in groups])
                told = True
            finally:
                if not told:  # perhaps the server has done it, and only its reply is lost
                    for verdict in verdicts:
                        _entry(verdict).retold = True
                    self._verdicts[:0] = verdicts
            gone: dict[Feed, None] = {}
            for (_, part), reply in zip(groups, replies, strict=True):
                if not isinstance(reply, Exception):
                    self._told(part, reply)
                elif (owner := fenced_by(reply)) is not None:
                    self._fenced_off(part, owner)
                elif self._troubles.is_gone(reply):
                    gone[_entry(part[0]).feed] = None
                    self._vanished(part)
                else:
                    self._refused(part, reply)
            for feed in gone:
                await self._troubles.mend(feed)
        finally:
            self._busy = False
            if not self._verdicts and not self.running:
                self._calm.set()

    def _grouped(self, verdicts: list[Verdict]) -> list[tuple[Call, list[Verdict]]]:
        """Return the scripts to call, each with what it tells of."""
        done: dict[tuple[Feed, Lease | None], list[Verdict]] = {}
        freed: dict[Feed, list[Verdict]] = {}
        calls: list[tuple[Call, list[Verdict]]] = []
        for verdict in verdicts:
            if isinstance(verdict, Entry):
                done.setdefault((verdict.feed, verdict.lease), []).append(verdict)
            elif isinstance(verdict, Release):
                freed.setdefault(verdict.entry.feed, []).append(verdict)
            else:
                calls.append((fenced(self._burial(verdict), verdict.entry.lease), [verdict]))
        calls += [
            (fenced(self._acknowledgement(feed, part), lease), part)
            for (feed, lease), part in done.items()
        ]
        calls += [(self._release(feed, part), part) for feed, part in freed.items()]
        return calls

    def _acknowledgement(self, feed: Feed, part: list[Verdict]) -> Call:
        entries = [_entry(verdict) for verdict in part]
        window = round(self._config.deduplicate * 1000)
        args: list[Encodable]
        args = [self._keys.group, self._consumer, int(feed.again), window, self._keys.done()]
        handles = [entry.handle_id for entry in entries] if window else []
        ids: list[Encodable] = [entry.id for entry in entries]
        return ACKNOWLEDGE, (feed.key,), (*args, len(ids), *ids, *handles)

    def _release(self, feed: Feed, part: list[Verdict]) -> Call:
        args: list[Encodable] = [self._keys.group, self._consumer, HEIR]
        for verdict in part:
            if isinstance(verdict, Release):
                args += [verdict.entry.id, max(0, round(verdict.idle)), verdict.count]
        return RELEASE, (feed.key,), args

    def _burial(self, burial: Burial) -> Call:
        entry, feed = burial.entry, burial.entry.feed
        letter: list[Encodable] = ["n", feed.name, "i", entry.id, "d", entry.deliveries]
        letter += ["r", burial.reason[:EXCERPT], "t", burial.details, "c", self._consumer]
        if feed.partition is not None:
            letter += ["p", feed.partition.number]
        if (key := entry.field(b"k")) is not None:
            letter += ["k", key]
        data = entry.data
        if data is not None:
            letter += ["e", data]
        elif not entry.oversized:
            letter += ["f", repr(entry.fields)[:EXCERPT]]
        args = (self._keys.group, self._consumer, entry.id, int(feed.again))
        return BURY, (feed.key, self._keys.dead), (*args, *letter)

    # -- what Redis says to it

    def _told(self, part: list[Verdict], lost: list[list[bytes]]) -> None:
        owners = {entry_id: text(owner) for entry_id, owner in lost}
        for verdict in part:
            entry = _entry(verdict)
            self.forget(entry)
            if isinstance(verdict, Burial) and entry.lease is not None:
                entry.lease.turns.ended(entry)
            owner = owners.get(entry.id)
            # It may have been told before, on a connection that broke.
            known = entry.retold and (not owner or isinstance(verdict, Release))
            if isinstance(verdict, Entry) and entry.handle_id:
                self._done.pop(entry.handle_id, None)
                self._done[entry.handle_id] = trio.current_time()
                if len(self._done) > REMEMBERED:
                    del self._done[next(iter(self._done))]
            if owner is None or known:
                if isinstance(verdict, Burial) and not verdict.reported:
                    self._troubles.buried(entry, verdict.reason)
                continue
            error = Lost(entry.feed.name, text(entry.id), owner)
            self._inbox.report(error, entry.feed.name)

    def _fenced_off(self, part: list[Verdict], owner: str) -> None:
        """Let go of entries whose partition another bus has by now."""
        # What was told before may have been done before.
        entries = [entry for entry in map(_entry, part) if not entry.retold]
        self._told(part, [[each.id, (owner or HEIR).encode()] for each in entries])

    def _vanished(self, part: list[Verdict]) -> None:
        """Let go of entries whose group is gone; what is done is not done again."""
        for verdict in part:
            entry = _entry(verdict)
            self.forget(entry)
            if isinstance(verdict, Burial) and entry.lease is not None:
                entry.lease.turns.ended(entry)
            if isinstance(verdict, Entry):
                entry.feed.finished.add(entry.id)

    def _refused(self, part: list[Verdict], error: Exception) -> None:
        self._verdicts[:0] = part
        self._troubles.refused(error, f"finish events of {_entry(part[0]).feed.name!r}")

    def forget(self, entry: Entry) -> None:
        """Take note that an entry is not held any more."""
        if entry.feed.held.get(entry.id) is entry:
            del entry.feed.held[entry.id]
            self._window.give(1)
            if entry.handle_id and self.underway.get(entry.handle_id) is entry:
                del self.underway[entry.handle_id]

    def was_done(self, handle_id: str) -> bool:
        """Tell whether an event was acknowledged here within the window."""
        since = trio.current_time() - self._config.deduplicate
        return self._done.get(handle_id, -math.inf) > since


def _entry(verdict: Verdict) -> Entry:
    return verdict if isinstance(verdict, Entry) else verdict.entry


def _ignore(_: float) -> None:
    """Be the callback that nobody gave."""
