"""The error log: writes reports of failures to the process's log, equal ones at a limited rate.

The supervisor of a bus owns one. It takes the reports that nothing else has handled. Only the log
is limited: `bus.errors`, handles and `on_error` get every failure.

Theory of operation. Reports are equal if their event, their listener and the class of their
exception are; their texts may differ. Each kind of report has a token bucket: the first
`MAX_BURST_REPORTS` are written at once, and after them one for every `SECONDS_PER_REPORT`. A report
without a token is counted. The count is in the next report of its kind that is written, or in a
line of its own at the end of the bus. The kinds that were seen last are remembered; the count of a
forgotten one is written, too.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from .._foreign import log, qualified_name

if TYPE_CHECKING:
    from .._errors import EventError

MAX_BURST_REPORTS = 10
SECONDS_PER_REPORT = 10.0
MAX_REMEMBERED_KINDS = 1000

logger = logging.getLogger("goevent")


class ErrorLog:
    """The error log of one bus."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[tuple[str, ...], EqualReports] = OrderedDict()
        self._now = 0.0

    def write(self, prefix: str, error: EventError, raised: BaseException | None) -> None:
        """Write a report, or count it.

        Args:
            prefix: The beginning of the line.
            error: The failure.
            raised: The exception whose traceback is written; None if there is none.
        """
        name = qualified_name(error if raised is None else raised)
        kind = (prefix, error.event_name, error.listener, error.outcome, name)
        reports = self._kinds.get(kind)
        if reports is None:
            reports = self._kinds[kind] = EqualReports(self._time())
            if len(self._kinds) > MAX_REMEMBERED_KINDS:
                write_count(*self._kinds.popitem(last=False))
        else:
            self._kinds.move_to_end(kind)
        if not reports.take_token(self._time()):
            reports.left_out += 1
            return
        count, reports.left_out = reports.left_out, 0
        if count:
            text = f"{prefix}: %s (the log leaves out %d equal reports before this one)"
            log(logger, logging.ERROR, text, error, count, error=raised, extra=ids_of(error))
        else:
            log(logger, logging.ERROR, f"{prefix}: %s", error, error=raised, extra=ids_of(error))

    def finish(self) -> None:
        """Write how many reports were left out, and forget all kinds, because the bus has ended."""
        kinds, self._kinds = self._kinds, OrderedDict()
        for kind, reports in kinds.items():
            write_count(kind, reports)

    def _time(self) -> float:
        # A handle may become garbage on another thread, or after the end of the event loop. Then
        # the time stands still.
        with suppress(RuntimeError):
            self._now = trio.current_time()
        return self._now


class EqualReports:
    """The token bucket of one kind of report.

    Attributes:
        left_out: The number of reports that were not written since the last one that was.
    """

    __slots__ = ("_tokens", "_updated", "left_out")

    def __init__(self, now: float) -> None:
        self._tokens: float = MAX_BURST_REPORTS
        self._updated = now
        self.left_out: int = 0

    def take_token(self, now: float) -> bool:
        """Take a token for one report; return False if there is none."""
        # The clock of the next event loop may be behind that of the last one.
        gained = max(0.0, now - self._updated) / SECONDS_PER_REPORT
        tokens = min(MAX_BURST_REPORTS, self._tokens + gained)
        self._updated = now
        self._tokens = tokens - 1 if tokens >= 1 else tokens
        return tokens >= 1


def ids_of(error: EventError) -> dict[str, str]:
    """Return the attributes of a log record that tell the event and its causes."""
    return {
        "event_name": error.event_name,
        "handle_id": error.event_id,
        "correlation_id": error.correlation_id,
        "causation_id": error.causation_id,
    }


def write_count(kind: tuple[str, ...], reports: EqualReports) -> None:
    """Write how many reports of one kind were left out since the last one."""
    if reports.left_out:
        prefix, event_name, listener, outcome, name = kind
        log(
            logger,
            logging.ERROR,
            "%s: %s %s on %r, %s: the log leaves out %d equal reports at the end",
            prefix,
            listener,
            outcome,
            event_name,
            name,
            reports.left_out,
        )
