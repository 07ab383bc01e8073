"""The watch over the reading of one consumer: a consumer that gets nothing says why.

`KafkaConsumer` owns one and tells it of refusals, of its membership and of what it reads; the
adapter asks each of them once a second to look. It knows no client.

Three things are reported. A refusal is reported when it comes, once until the requests of its kind
succeed again. A member that the group gives no partitions within `join_seconds` is reported with
the last refusal, or, if it has joined, as a member too many. And a member whose partitions have
records that do not come is reported by the `ReadWatchdog`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from goevent import DriverConnectionError, DriverError
from goevent.drivers import READ_SILENCE_SECONDS, ReadWatchdog

from .refusals import (
    FETCH,
    FIND_COORDINATOR,
    HEARTBEAT,
    JOIN_GROUP,
    LIST_OFFSETS,
    OFFSET_FETCH,
    SYNC_GROUP,
    Membership,
    ReadRefusedError,
    Refusal,
    refusal_text,
)

# On top of the session timeout: for so long a member that has died may keep the group waiting.
JOIN_SECONDS = 8.0
# A refusal that has not come again for so long is over.
REFUSAL_QUIET_SECONDS = 30.0
_JOINING = (FIND_COORDINATOR, JOIN_GROUP, SYNC_GROUP, OFFSET_FETCH, LIST_OFFSETS)


class ReadingWatch:
    """Notices that a consumer reads nothing.

    Args:
        report: Called with each error that the user should see.
    """

    def __init__(self, membership: Membership, report: Callable[[DriverError], None]) -> None:
        self.membership = membership
        self._report = report
        self._watchdog = ReadWatchdog(
            f"the topic {membership.topic!r} of Kafka", limit_seconds=READ_SILENCE_SECONDS
        )
        self.join_seconds = membership.claim_idle + JOIN_SECONDS
        # The reported texts, each with the request of its kind and the time when it came last.
        self._reported: dict[str, tuple[str, float]] = {}
        self._last_refusal: dict[str, Refusal] = {}
        self._waits_since: float | None = None
        self._is_member = self._is_late = self._was_spare = False

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    # -- refusals

    def failed(self, request: str, error: DriverError) -> None:
        """Report an error, unless it is known already.

        Args:
            request: The request of its kind, or another name of what has failed.
        """
        if isinstance(error, DriverConnectionError):
            # `connection` reports it.
            return
        text, now = str(error), self._now()
        is_new = text not in self._reported
        self._reported[text] = (request, now)
        if is_new:
            self._report(error)

    def note(self, refusal: Refusal) -> None:
        """Take note of a refusal, as the reason of what may follow."""
        self._last_refusal[refusal.request] = refusal

    def refused(self, refusal: Refusal) -> None:
        """Report a refusal, unless it usually passes: then it is reported only if it lasts."""
        self.note(refusal)
        if not refusal.passes:
            self.failed(refusal.request, ReadRefusedError(refusal, self.membership))

    def works(self, *requests: str) -> None:
        """Record that requests succeed again."""
        for request in requests:
            self._last_refusal.pop(request, None)
        if self._reported:
            for text, (request, _) in [*self._reported.items()]:
                if request in requests:
                    del self._reported[text]

    # -- membership

    def joining(self) -> None:
        """Record that the consumer waits for the group."""
        self._is_member = False
        if self._waits_since is None:
            self._waits_since = self._now()

    def joined(self, partitions: Collection[int]) -> None:
        """Record that the group has given partitions, or none."""
        self._is_member, self._is_late = True, False
        self.works(*_JOINING)
        if partitions:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = self._now()
        self._watchdog.read(self._now())

    # -- reading

    def read(self) -> None:
        """Record a record."""
        self.works(FETCH)
        self._watchdog.read(self._now())

    def pause(self) -> None:
        """Record that nothing is to be read now, so that silence is right."""
        now = self._now()
        self._watchdog.read(now)
        if self._waits_since is not None and not self._is_member:
            self._waits_since = now

    def look(self, *, is_stuck: bool) -> None:
        """Report what lasts too long; called about once a second while a broker answers.

        Args:
            is_stuck: A partition has records that have not come since the last look.
        """
        now = self._now()
        for text, (request, since) in [*self._reported.items()]:
            if now - since > REFUSAL_QUIET_SECONDS and (request != FETCH or not is_stuck):
                del self._reported[text]
        if self._waits_since is not None:
            if now - self._waits_since > self.join_seconds:
                self._report_late(now - self._waits_since)
            return
        if not is_stuck:
            self._watchdog.read(now)
        elif error := self._watchdog.silence(now, reason=self._reason(FETCH)):
            self._report(error)

    def _report_late(self, seconds: float) -> None:
        topic, group = self.membership.topic, self.membership.group
        if self._is_member:
            if not self._was_spare:
                self._was_spare = True
                text = (
                    f"Kafka: this bus gets no events of {topic!r}: the group {group!r} has more "
                    "members than the topic has partitions, so this one waits in reserve"
                )
                self._report(DriverError(text))
        elif not self._is_late:
            self._is_late = True
            if any(request in _JOINING for request, _ in self._reported.values()):
                # Its reason is reported already.
                return
            reason = self._reason(*_JOINING, HEARTBEAT) or (
                "another member may hold the group up, or the cluster has no coordinator for it"
            )
            text = (
                f"Kafka: this bus gets no events of {topic!r}: the group {group!r} has given it "
                f"no partitions for {seconds:.0f} s: {reason}"
            )
            self._report(DriverError(text))

    def _reason(self, *requests: str) -> str:
        for request in requests:
            if refusal := self._last_refusal.get(request):
                return refusal_text(refusal, self.membership)
        return ""
