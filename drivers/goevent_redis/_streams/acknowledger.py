"""The acknowledger: carries out the verdicts on entries whose listeners have ended.

An actor of the driver. The bus calls `settled` for each entry, and `goevent.drivers.verdict`
decides. The acknowledger collects the decisions and sends all of them in one pipeline, one script
for each stream.

Theory of operation
-------------------

Ownership decides. An entry belongs to the consumer to which Redis has delivered it, until that
consumer acknowledges or releases it, or shows no sign of life for `claim_idle`; then another
consumer may claim it. Each script checks the owner first. If the entry belongs to another consumer
by then, the script changes nothing, and the acknowledger reports `Lost` to the supervisor: the
event runs twice.

A pipeline whose connection breaks may or may not have run. Its entries stay held, with `uncertain`
set, and their decisions are sent again on the next connection. If a script then finds that such an
entry is no longer pending, the first attempt has succeeded, and nothing is reported. Because the
entries stay held, the claimer's heartbeat covers them meanwhile.

Nothing is sent for an abandoned entry, whose listeners the end of the bus has cut off. It stays
held, and the consumer releases it when it leaves the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio
from trio.lowlevel import Task, current_task

from goevent.drivers import (
    ACK,
    MAX_DETAILS_CHARS,
    Action,
    Settlement,
    Verdict,
    dead_letter_report,
    verdict,
)

from .._link.errors import RedisLinkError
from .._link.resp import Encodable
from .context import ConsumerContext
from .deduplicator import Deduplicator
from .faults import Lost
from .keys import RELEASED
from .lease import Lease, fenced_by
from .order import DeliveryOrder, ReleasedEntry
from .scripts import ACKNOWLEDGE, DEAD_LETTER, RELEASE, ScriptCall, call_many
from .stream import Entry, Stream, as_text

REFUSED_PAUSE_SECONDS = 0.2
"""The pause before decisions that Redis has refused are sent again with new ones."""

MAX_REFUSED_WAIT_SECONDS = 3.2
"""The longest wait for new decisions after that pause; it doubles up to here."""

UNWANTED_PAUSE_SECONDS = 0.1
"""The pause before an entry that no listener of this bus wants can be claimed.

The bus reads the stream until it has unsubscribed, and would claim the entry again and again.
"""


@dataclass(slots=True, eq=False)
class DeadLettering:
    """An entry that becomes a dead letter."""

    entry: Entry
    verdict: Verdict


Decision = Entry | ReleasedEntry | DeadLettering
"""A settled entry on its way to Redis. An entry by itself is acknowledged."""


class Acknowledger:
    """The acknowledger of one open bus.

    Attributes:
        running: How many entries the listeners have.
        delivering_task: The task that delivers a batch now. Listeners that end within that task do
            not wake the acknowledger: the task calls `wake` after its batch.
        closed: The bus has ended; nothing is decided any more.
    """

    def __init__(
        self, context: ConsumerContext, order: DeliveryOrder, deduplicator: Deduplicator
    ) -> None:
        self.running = 0
        self.delivering_task: Task | None = None
        self.closed = False
        self._link = context.link
        self._inbox = context.inbox
        self._keys = context.keys
        self._config = context.config
        self._consumer = context.consumer
        self._held = context.held
        self._faults = context.faults
        self._order = order
        self._deduplicator = deduplicator
        self._decisions: list[Decision] = []
        self._sending = False
        self._work = trio.Event()
        self._idle = trio.Event()

    # -- decisions

    def settled(self, entry: Entry, settlement: Settlement) -> None:
        """Take the settlement of an entry, and carry the verdict out."""
        self.running -= 1
        if self.closed:
            # Nothing can be sent any more: another bus gets the entry.
            return
        decided = verdict(settlement, entry.deliveries, self._config)
        if decided is ACK:
            self._decisions.append(entry)
            self._order.finished(entry)
        elif decided.action is Action.RETRY:
            self._release(self._order.retry(entry, decided.after))
        elif decided.action is Action.DEAD_LETTER:
            self._decisions.append(DeadLettering(entry, decided))
        elif settlement.errors:
            # Abandoned, so the bus ends: the entry is released when the consumer leaves.
            entry.started = decided.started
        else:
            self._release(self._order.release(entry, UNWANTED_PAUSE_SECONDS))
        # Within the delivering task more listeners may end at once: their decisions go together.
        if self.delivering_task is not current_task():
            self._work.set()
        if not self.running:
            self._idle.set()

    def acknowledge(self, entry: Entry) -> None:
        """Acknowledge an entry that no listener gets."""
        self._decisions.append(entry)
        self._order.finished(entry)
        self._work.set()

    def dead_letter(self, entry: Entry, decided: Verdict) -> None:
        """Write an entry that no listener gets among the dead letters."""
        self._decisions.append(DeadLettering(entry, decided))
        self._work.set()

    def release(self, entry: Entry, *, after: float = 0.0) -> None:
        """Release an entry with which no listener has begun."""
        self._release(self._order.release(entry, after))
        self.wake()

    def wake(self) -> None:
        """Send the decisions soon."""
        if self._decisions:
            self._work.set()

    async def wait_until_idle(self) -> None:
        """Wait until the listeners have no entry, and Redis knows all decisions."""
        while self.running or self._decisions or self._sending:
            self._idle = trio.Event()
            self.wake()
            await self._idle.wait()

    def _release(self, released: ReleasedEntry | None) -> None:
        if released is not None:
            self._decisions.append(released)

    # -- sending

    async def run(self) -> None:
        """Send decisions, until cancelled."""
        wait = 0.0
        while True:
            await self._work.wait()
            self._work = trio.Event()
            try:
                await self.flush()
            except RedisLinkError:
                await self._link.ready()
            # The decisions that are left were refused, or their connection broke.
            if self._decisions and not self._work.is_set():
                await trio.sleep(REFUSED_PAUSE_SECONDS)
                # New decisions do not wait longer for the refused ones.
                with trio.move_on_after(wait):
                    await self._work.wait()
                self._work.set()
                wait = min(max(2 * wait, REFUSED_PAUSE_SECONDS), MAX_REFUSED_WAIT_SECONDS)
            elif not self._decisions:
                wait = 0.0

    async def flush(self) -> None:
        """Send all decisions.

        Raises:
            RedisLinkError: There is no connection; the decisions are kept.
        """
        decisions, self._decisions = self._decisions, []
        if not decisions:
            return
        self._sending = True
        answered = False
        try:
            groups = self._grouped(decisions)
            try:
                replies = await call_many(self._link, [call for call, _ in groups])
                answered = True
            finally:
                if not answered:
                    # Cancelled, or the connection broke: the server may have run the scripts.
                    for decision in decisions:
                        _entry(decision).uncertain = True
                    self._decisions[:0] = decisions
            vanished: dict[Stream, None] = {}
            for (_, part), reply in zip(groups, replies, strict=True):
                if not isinstance(reply, Exception):
                    self._sent(part, reply)
                elif (owner := fenced_by(reply)) is not None:
                    self._fenced_off(part, owner)
                elif self._faults.is_gone(reply):
                    vanished[_entry(part[0]).stream] = None
                    self._vanished(part)
                else:
                    self._refused(part, reply)
            for stream in vanished:
                await self._faults.mend(stream)
        finally:
            self._sending = False
            if not self._decisions and not self.running:
                self._idle.set()

    def _grouped(self, decisions: list[Decision]) -> list[tuple[ScriptCall, Sequence[Decision]]]:
        """Return the calls, each with the decisions that it carries out."""
        done: dict[tuple[Stream, Lease | None], list[Entry]] = {}
        freed: dict[Stream, list[ReleasedEntry]] = {}
        fenced = self._order.fenced
        calls: list[tuple[ScriptCall, Sequence[Decision]]] = []
        for decision in decisions:
            if isinstance(decision, Entry):
                done.setdefault((decision.stream, decision.lease), []).append(decision)
            elif isinstance(decision, ReleasedEntry):
                freed.setdefault(decision.entry.stream, []).append(decision)
            else:
                call = self._dead_lettering(decision)
                calls.append((fenced(call, decision.entry.lease), [decision]))
        calls += [
            (fenced(self._acknowledgement(stream, part), lease), part)
            for (stream, lease), part in done.items()
        ]
        calls += [(self._releasing(stream, part), part) for stream, part in freed.items()]
        return calls

    def _acknowledgement(self, stream: Stream, part: Sequence[Entry]) -> ScriptCall:
        window_ms = round(self._config.deduplicate * 1000)
        args: list[Encodable] = [
            self._keys.group,
            self._consumer,
            int(stream.replayed),
            window_ms,
            self._keys.done(),
        ]
        handles = [entry.handle_id for entry in part] if window_ms else []
        ids: list[Encodable] = [entry.id for entry in part]
        return ACKNOWLEDGE, (stream.key,), (*args, len(ids), *ids, *handles)

    def _releasing(self, stream: Stream, part: Sequence[ReleasedEntry]) -> ScriptCall:
        args: list[Encodable] = [self._keys.group, self._consumer, RELEASED]
        for released in part:
            args += [released.entry.id, released.idle_ms, released.deliveries]
        return RELEASE, (stream.key,), args

    def _dead_lettering(self, decision: DeadLettering) -> ScriptCall:
        entry, stream, decided = decision.entry, decision.entry.stream, decision.verdict
        letter: list[Encodable] = ["n", stream.name, "i", entry.id, "d", entry.deliveries]
        letter += ["r", decided.reason[:MAX_DETAILS_CHARS], "t", decided.details]
        letter += ["c", self._consumer]
        if stream.partition is not None:
            letter += ["p", stream.partition]
        if (key := entry.field(b"k")) is not None:
            letter += ["k", key]
        data = entry.data
        if data is not None:
            letter += ["e", data]
        elif not entry.oversized:
            letter += ["f", repr(entry.fields)[:MAX_DETAILS_CHARS]]
        args = (self._keys.group, self._consumer, entry.id, int(stream.replayed))
        return DEAD_LETTER, (stream.key, self._keys.dead), (*args, *letter)

    # -- replies

    def _sent(self, part: Sequence[Decision], lost: list[list[bytes]]) -> None:
        owners = {entry_id: as_text(owner) for entry_id, owner in lost}
        for decision in part:
            self._forget(decision)
            if isinstance(decision, Entry):
                entry = decision
                if entry.handle_id:
                    self._deduplicator.remember(entry.handle_id)
            else:
                entry = decision.entry
            owner = owners.get(entry.id) if owners else None
            # An uncertain entry that is no longer pending was settled by the first pipeline. A
            # released one may have been claimed by now, too.
            settled_before = entry.uncertain and (not owner or isinstance(decision, ReleasedEntry))
            if owner is not None and not settled_before:
                name = entry.stream.name
                self._inbox.report(Lost(name, as_text(entry.id), owner), name)
            elif isinstance(decision, DeadLettering):
                self._faults.succeeded(_finishing(decision))
                if not decision.verdict.reported:
                    self._report_dead_letter(decision)

    def _report_dead_letter(self, decision: DeadLettering) -> None:
        entry, name = decision.entry, decision.entry.stream.name
        entry_id, reason = as_text(entry.id), decision.verdict.reason
        report = dead_letter_report(name, entry_id, entry.deliveries, reason)
        self._inbox.report(report, name)

    def _fenced_off(self, part: Sequence[Decision], owner: str) -> None:
        """Forget entries whose partition belongs to another bus by now."""
        # An uncertain one may have been settled while the lease still counted.
        certain = [entry for entry in map(_entry, part) if not entry.uncertain]
        self._sent(part, [[each.id, (owner or RELEASED).encode()] for each in certain])

    def _vanished(self, part: Sequence[Decision]) -> None:
        """Forget entries whose group is gone; the new group may deliver them again."""
        for decision in part:
            self._forget(decision)
            if isinstance(decision, Entry):
                # If it is delivered again, it is acknowledged and does not run twice.
                decision.stream.finished.add(decision.id)

    def _refused(self, part: Sequence[Decision], error: Exception) -> None:
        self._decisions[:0] = part
        self._faults.refused(error, _finishing(part[0]))

    def _forget(self, decision: Decision) -> None:
        entry = _entry(decision)
        self._held.forget(entry)
        if isinstance(decision, DeadLettering):
            # Only now: the entries behind it must not run before the dead letter is written.
            self._order.finished(entry)


def _entry(decision: Decision) -> Entry:
    return decision if isinstance(decision, Entry) else decision.entry


def _finishing(decision: Decision) -> str:
    """Return the action in reports."""
    return f"finish events of {_entry(decision).stream.name!r}"
