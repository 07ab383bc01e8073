"""The sampler: makes frames from snapshots of the bus, which all clients of a page share.

The page owns one. Each client asks for the next frame when it is ready for it. The first one to
ask in a period takes the snapshot, and the others get the same bytes. So the work does not grow
with the number of clients, there is no work without clients, and no task has to be stopped.

A frame is a JSON object. A *full* frame holds everything. A *delta* holds the listeners and events
whose numbers have changed since the frame before. A client that has missed a frame gets a full one,
so nothing is kept for slow clients.
"""

from __future__ import annotations

import json
import logging
import re
from collections import deque
from operator import itemgetter
from time import time
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from .._errors import DriverError, EventError
from .._foreign import log, text_of

if TYPE_CHECKING:
    from .._bus import GoEvent
    from .._kernel.ledger import ListenerSnapshot, Snapshot

logger: logging.Logger = logging.getLogger("goevent")

FRAME_SECONDS = 1.0
"""The time from one frame to the next."""
HISTORY_FRAMES = 120
SHOWN_ERRORS = 50
SHOWN_EVENTS = 300
MAX_ROW_REASON_CHARS = 400

HIDDEN = "(hidden)"
# pydantic and msgspec quote a value that does not fit.
_QUOTED_VALUE = re.compile(
    r"(?<=input_value=).*?(?=, input_type=\w+\])|(?<=Invalid enum value ).*?(?= - at `|\n|\Z)"
    r"|(?<=Invalid value ).*?(?= - at `|\n|\Z)",
    re.DOTALL,
)
# `DecodeError` ends with the first bytes of the message.
_EXCERPT = re.compile(r"(cannot decode .*?: .*?) in .*\Z", re.DOTALL)


class Sampler:
    """The frames of one bus.

    Args:
        bus: The bus.
        shows_payloads: Texts may quote bytes of messages.
        about: Facts that stay the same; they are in each full frame.
    """

    def __init__(self, bus: GoEvent, *, shows_payloads: bool, about: dict[str, Any]) -> None:
        self._bus = bus
        self._about = about
        self._fan_out = bus.driver.capabilities.fan_out
        self._shows_payloads = shows_payloads
        self._number = 0
        self._next_at = 0.0
        self._layout: tuple[Any, ...] = ()
        self._rows: list[tuple[Any, ...]] = []
        self._events: dict[str, tuple[Any, ...]] = {}
        self._error_count = -1
        self._error_times: deque[tuple[int, float]] = deque(maxlen=SHOWN_ERRORS)
        self._errors: list[tuple[Any, ...]] = []
        self._history: deque[tuple[float, ...]] = deque(maxlen=HISTORY_FRAMES)
        self._state: dict[str, Any] = {}
        self._delta: bytes | None = None
        self._full: bytes | None = None
        self._is_over = False
        self._lacks_snapshot = False

    @property
    def number(self) -> int:
        """The number of the newest frame; 0 before the first."""
        return self._number

    @property
    def is_stale(self) -> bool:
        """True if the period of the newest frame is over."""
        # The clock of another run of Trio, in which the bus is opened again, starts anywhere.
        left = self._next_at - trio.current_time()
        return not 0 < left < 2 * FRAME_SECONDS

    @property
    def is_over(self) -> bool:
        """True if the newest frame shows the bus closed."""
        return self._is_over

    async def wait(self, number: int) -> None:
        """Wait until there is a frame newer than `number`. Cancellation changes nothing."""
        await trio.lowlevel.checkpoint()
        while self._number <= number:
            if self.is_stale:
                self.sample()
            else:
                await trio.sleep_until(self._next_at)

    def message_after(self, number: int) -> bytes:
        """Return the newest frame for a client whose newest one has this number."""
        if number == self._number - 1 and self._delta is not None:
            return self._delta
        if self._full is None:
            self._full = encoded(self._whole())
        return self._full

    async def keep_history(self) -> None:
        """Take a frame in each period, so that the page shows the time before it was opened."""
        while True:
            await self.wait(self._number)

    def sample(self) -> None:
        """Take a frame now."""
        now = trio.current_time()
        # Periods stand still on the clock, so that clients wake together.
        self._next_at = now - now % FRAME_SECONDS + FRAME_SECONDS
        try:
            snapshot = self._bus.snapshot()
        except DriverError as error:
            # A driver that cannot tell its state must end neither the page nor its program. There
            # is no frame in this period.
            if not self._lacks_snapshot:
                log(logger, logging.WARNING, "the live page gets no snapshot: %s", text_of(error))
            self._lacks_snapshot = True
            return
        self._lacks_snapshot = False
        listeners = snapshot.listeners
        layout = tuple([(each.name, each.event_names, each.inline) for each in listeners])
        rows = [row_of(each) for each in listeners]
        events = events_of(snapshot, fan_out=self._fan_out)
        state = self._state_of(snapshot, now)
        self._note_history(snapshot, now)
        new_errors = self._note_errors(snapshot)
        self._delta = None
        if (
            layout == self._layout
            and self._number
            and events.keys() >= self._events.keys()
            and new_errors is not None
        ):
            changes: dict[str, Any] = {
                "type": "delta",
                "number": self._number + 1,
                **state,
                "rows": [
                    (place, *row)
                    for place, (row, old) in enumerate(zip(rows, self._rows, strict=True))
                    if row != old
                ],
                "events": [
                    event for name, event in events.items() if event != self._events.get(name)
                ],
            }
            if new_errors:
                changes["errors"] = self._errors[-new_errors:]
            self._delta = encoded(changes)
        self._layout, self._rows, self._events, self._state = layout, rows, events, state
        self._full = None
        self._number += 1
        self._is_over = snapshot.state == "closed"

    def _whole(self) -> dict[str, Any]:
        return {
            "type": "full",
            "number": self._number,
            **self._about,
            **self._state,
            "listeners": self._layout,
            "rows": [(place, *row) for place, row in enumerate(self._rows)],
            "events": list(self._events.values()),
            "errors": self._errors,
            "history": list(self._history),
        }

    def _state_of(self, snapshot: Snapshot, now: float) -> dict[str, Any]:
        ledger, driver = snapshot.ledger, snapshot.driver
        return {
            "state": snapshot.state,
            "time": round(now, 3),
            "wall": round(time(), 1),
            "ledger": (
                ledger.accepted,
                ledger.completed,
                ledger.failed,
                ledger.dropped,
                ledger.abandoned,
            ),
            "errorCount": snapshot.error_count,
            "counts": (
                snapshot.redelivered,
                snapshot.dead_lettered,
                snapshot.missing,
            ),
            "connected": None if driver is None else driver.connected,
            "backlogs": [
                (
                    each.event_name,
                    each.lag,
                    each.pending,
                    round(each.oldest_pending, 1),
                    None if each.oldest_waiting is None else round(each.oldest_waiting, 1),
                )
                for each in (() if driver is None else driver.backlogs)
            ],
        }

    def _note_history(self, snapshot: Snapshot, now: float) -> None:
        ledger = snapshot.ledger
        ended = ledger.completed + ledger.failed + ledger.dropped + ledger.abandoned
        depth = oldest = in_flight = 0.0
        for each in snapshot.listeners:
            if each.depth or each.in_flight:
                depth += each.depth
                in_flight += each.in_flight
                oldest = max(oldest, each.oldest_age)
        self._history.append((round(now, 3), ended, depth, in_flight, ledger.failed, oldest))

    def _note_errors(self, snapshot: Snapshot) -> int | None:
        """Keep the newest failures for the table.

        Returns:
            How many of them are new; None if the bus was told to forget the others.
        """
        count, known = snapshot.error_count, self._error_count
        errors = newest_errors(self._bus, SHOWN_ERRORS)
        expected = len(self._errors) + count - max(known, 0)
        are_forgotten = known >= 0 and len(errors) < min(expected, SHOWN_ERRORS)
        if count == known and not are_forgotten:
            return 0
        # Errors hold no time. The first frame cannot know when its errors were.
        if known >= 0:
            first_new = max(known, count - SHOWN_ERRORS) + 1
            wall = round(time(), 1)
            self._error_times.extend((number, wall) for number in range(first_new, count + 1))
        times = dict(self._error_times)
        self._errors = [
            (
                number,
                times.get(number),
                error.event_name,
                error.listener,
                error.outcome,
                error.attempts,
                shorten(self.text_of(error.reason)),
            )
            for number, error in enumerate(errors, count - len(errors) + 1)
        ]
        self._error_count = count
        return None if are_forgotten else min(count - max(known, 0), len(self._errors))

    def text_of(self, text: str) -> str:
        """Return the text of a failure, without the bytes of a message unless they are shown."""
        return text if self._shows_payloads else without_excerpt(text)


def newest_errors(bus: GoEvent, count: int) -> tuple[EventError, ...]:
    """Return the newest errors of a bus, the oldest first.

    `bus.errors` marks them as seen by the application, which then no longer logs them.
    """
    return bus._newest_errors(count)  # pyright: ignore[reportPrivateUsage]


def row_of(each: ListenerSnapshot) -> tuple[Any, ...]:
    """Return the numbers of a listener."""
    return (
        each.depth,
        round(each.oldest_age, 1),
        each.in_flight,
        each.completed,
        each.failed,
        each.dropped,
        each.abandoned,
        each.state,
        each.restarts,
        each.strays,
    )


def events_of(snapshot: Snapshot, *, fan_out: bool) -> dict[str, tuple[Any, ...]]:
    """Return the name, the count and the listeners of the events that pass most often.

    Args:
        snapshot: The snapshot.
        fan_out: Own events reach own listeners directly. Without it they arrive from the broker,
            and must not count twice.
    """
    found = [
        (
            each.name,
            each.dispatched + each.arrived
            if fan_out
            else each.arrived
            if each.listeners
            else each.dispatched,
            each.listeners,
        )
        for each in snapshot.events
    ]
    if len(found) > SHOWN_EVENTS:
        found = sorted(found, key=itemgetter(1), reverse=True)[:SHOWN_EVENTS]
    return {each[0]: each for each in found}


def without_excerpt(text: str) -> str:
    """Return the text of an error without the data of events that a failed decoding quotes."""
    return _EXCERPT.sub(r"\1", _QUOTED_VALUE.sub(HIDDEN, text))


def encoded(value: object) -> bytes:
    """Return a value as JSON. A name may hold half of a surrogate pair, which UTF-8 cannot."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


def shorten(text: str) -> str:
    """Return a reason that is not too long for a table."""
    return text if len(text) <= MAX_ROW_REASON_CHARS else f"{text[:MAX_ROW_REASON_CHARS]}..."
