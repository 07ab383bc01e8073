"""The decisions that every durable driver shares: its settings, and verdicts on events.

A durable driver is a driver whose capabilities say `durable`: its broker keeps an event until a
bus of each consumer group has acknowledged it. The drivers for Redis Streams and for FastStream's
brokers use this module, and so should a driver of your own. The module knows no broker.

Theory of operation
-------------------

A driver receives an event together with the number of its deliveries. If that number is greater
than `DurableConfig.max_deliveries`, the driver carries out the verdict `EXHAUSTED` and calls no
listener. If the bytes cannot be decoded, it carries out `undecodable(error)`; if the delivery fails
on its way for another reason, `retry_or_dead_letter`. Otherwise it hands the event to the inbox
with a `settle` callback.

The bus calls `settle` once, with the `Settlement` of all listeners. The driver passes the
settlement to `verdict`, which decides the end of the delivery. A verdict does not name the event;
the driver keeps the two together. Its `action` is one of four:

- `ACK`: the driver acknowledges the event.
- `RETRY`: a listener failed. The driver delivers the event again `after` seconds later, to this
  bus or to another one of the group. The delivery counts.
- `RELEASE`: the listeners have not finished. The driver gives the event to another bus of the group
  at once. If `started` is False, no listener began, and the delivery does not count, provided that
  the broker can be told so.
- `DEAD_LETTER`: the driver writes the event among the dead letters of the group, and only then
  acknowledges it. If it dies between the two steps, the event comes again; it is never lost. Then
  the driver reports `dead_letter_report`, unless the verdict says that the error is `reported`.

A driver that can show its dead letters implements `DeadLetterStore` and hands out a `DeadLetters`.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import Enum
from typing import Any, get_args, get_type_hints
from urllib.parse import parse_qsl, urlencode

from .._errors import DecodeError, UnsupportedError
from .._suggestions import suggest_options
from .contract import Settlement

MAX_DETAILS_CHARS = 4000
MIN_CLAIM_IDLE_SECONDS = 0.1
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,200}")


# -- settings


@suggest_options
@dataclass(frozen=True, kw_only=True)
class DurableConfig:
    """The settings that every durable driver has.

    A driver derives its own config from this class and adds the fields of its broker. Each field
    is an option of the driver's URL, too; `read_options` reads them. Times are in seconds.

    Attributes:
        group: The consumer group, usually the name of the service. One bus of each group gets each
            event. A bus without a group can only publish.
        prefetch: The largest number of events that the bus holds, received and not settled.
        prefetch_bytes: The largest size of these events together, in bytes of their bodies. The
            event that reaches the limit is still received, so one of any size passes.
        start: Where a new group begins to read: "earliest", "latest", behind an event with the
            broker's id, or at a time. An existing group continues where it was.
        max_deliveries: The number of failed deliveries after which an event becomes a dead letter.
        backoff: The pause before the second delivery of an event that failed. It doubles with each
            further delivery.
        max_backoff: The longest pause.
        claim_idle: How long a bus may show no sign of life before its events go to another bus. A
            bus shows signs of life for all events that it holds, however long its listeners take.
        publish_timeout: How long a publish is tried again while the broker cannot be reached.

    Raises:
        ValueError: A field is out of its range.
    """

    group: str | None = None
    prefetch: int = 500
    prefetch_bytes: int = 32 << 20
    start: str | datetime = "earliest"
    max_deliveries: int = 5
    backoff: float = 0.5
    max_backoff: float = 30.0
    claim_idle: float = 30.0
    publish_timeout: float = 10.0

    def __post_init__(self) -> None:
        check_name("group", self.group)
        check_count("prefetch", self.prefetch)
        check_count("prefetch_bytes", self.prefetch_bytes)
        check_count("max_deliveries", self.max_deliveries)
        check_seconds("backoff", self.backoff, zero=True)
        check_seconds("max_backoff", self.max_backoff)
        check_seconds("claim_idle", self.claim_idle)
        check_seconds("publish_timeout", self.publish_timeout)
        if self.claim_idle < MIN_CLAIM_IDLE_SECONDS:
            raise ValueError(f"claim_idle must be at least {MIN_CLAIM_IDLE_SECONDS:g}")
        if isinstance(self.start, datetime):
            in_utc(self.start)

    def pause(self, deliveries: int) -> float:
        """Return the pause in seconds after the given number of failed deliveries of an event."""
        # 60 doublings already exceed every pause; a larger exponent would overflow.
        return min(self.max_backoff, self.backoff * 2.0 ** min(deliveries - 1, 60))


def check_name(field: str, value: object) -> None:
    """Check a setting that brokers use in their own names; None is allowed.

    Raises:
        ValueError: It is empty, too long, or has characters that a broker may refuse.
    """
    if value is not None and not (isinstance(value, str) and _NAME.fullmatch(value)):
        raise ValueError(f"{field} must be letters, digits, _ - . and @, not {value!r}")


def check_count(field: str, value: object) -> None:
    """Check a setting that counts something.

    Raises:
        ValueError: It is not a whole number of at least 1.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{field} must be a whole number of at least 1, not {value!r}")


def check_seconds(field: str, value: Any, *, zero: bool = False) -> None:
    """Check a setting in seconds.

    Args:
        zero: Whether 0 is allowed.

    Raises:
        ValueError: It is not a finite number above 0.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{field} must be a number of seconds above 0, not {value!r}")


def in_utc(time: datetime) -> datetime:
    """Return a time in UTC.

    Raises:
        ValueError: It has no time zone.
    """
    if time.tzinfo is None:
        raise ValueError("a time needs a time zone: datetime.now(UTC), for instance")
    return time.astimezone(UTC)


def read_options(
    query: str, config: type[DurableConfig], *, positions: re.Pattern[str]
) -> tuple[dict[str, Any], str]:
    """Split the query of a URL into the options of a driver's config and the others.

    Args:
        query: The text behind the question mark of the URL.
        config: The driver's config, a dataclass; its fields are the options.
        positions: The broker's ids of events, as the option `start` takes them. Other texts are
            read as times.

    Returns:
        The arguments for `config`, and the query without these options.

    Raises:
        ValueError: An option is given twice, or its text does not fit the type of the field.

    Example:
        >>> read_options("group=billing&db=3", DurableConfig, positions=re.compile("[0-9]+"))
        ({'group': 'billing'}, 'db=3')
    """
    types = get_type_hints(config)
    known = {field.name for field in fields(config)}
    options: dict[str, Any] = {}
    others: list[tuple[str, str]] = []
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            others.append((name, text))
        elif name in options:
            raise ValueError(f"url has the option {name} twice")
        else:
            options[name] = _read_option(name, text, types[name], positions)
    return options, urlencode(others)


def _read_option(name: str, text: str, declared: Any, positions: re.Pattern[str]) -> Any:
    types = get_args(declared) or (declared,)
    try:
        if int in types:
            return int(text)
        if float in types:
            return float(text)
        if bool in types:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if datetime not in types or text in ("earliest", "latest") or positions.fullmatch(text):
            return text
        # A plus sign that was not escaped in the URL has become a space.
        return datetime.fromisoformat(text.replace(" ", "+"))
    except (ValueError, KeyError):
        pass
    raise ValueError(f"the option {name} of the url makes no sense: {text!r}")


def group_required(purpose: str, hint: str) -> UnsupportedError:
    """Return the error for a bus without a consumer group.

    Args:
        purpose: The part of the sentence that says why a group is needed.
        hint: How to configure one.
    """
    return UnsupportedError(f"this bus belongs to no consumer group, and {purpose}: {hint}")


def jittered(seconds: float) -> float:
    """Return a random pause between half of `seconds` and all of it.

    Many buses that lost the same broker then do not return in the same moment.
    """
    return random.uniform(0.5, 1.0) * seconds  # noqa: S311 - not a secret


# -- verdicts


class Action(Enum):
    """The four ends of a delivery; the docstring of the module defines them."""

    ACK = "ack"
    RETRY = "retry"
    RELEASE = "release"
    DEAD_LETTER = "dead letter"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision about one delivered event.

    Attributes:
        action: The duty of the driver.
        after: Seconds until the next delivery, for `RETRY`.
        started: Whether a listener began with the event, for `RELEASE`.
        reason: Why the event is given up, in one line, for `DEAD_LETTER`.
        details: The end of the listener's traceback, for `DEAD_LETTER`; may be empty.
        reported: Whether the supervisor knows the reason already, for `DEAD_LETTER`.
    """

    action: Action
    after: float = 0.0
    started: bool = False
    reason: str = ""
    details: str = ""
    reported: bool = False


ACK = Verdict(Action.ACK)
"""The verdict that acknowledges. `verdict` returns this very object in the usual case."""

RELEASE = Verdict(Action.RELEASE)
"""The verdict on an event that the driver received and no listener began with."""

EXHAUSTED = Verdict(
    Action.DEAD_LETTER,
    reason="its consumers have ended while they worked on it, or were too slow",
)
"""The verdict on an event that arrives with more deliveries than `max_deliveries`.

Its listeners never failed, or an earlier verdict would have given it up. So it may be the event
that kills the process, and must not run again.
"""


def verdict(settlement: Settlement, deliveries: int, config: DurableConfig) -> Verdict:
    """Decide the end of a delivery.

    Args:
        settlement: How the listeners ended.
        deliveries: How often the broker has delivered the event, this time included.
        config: The limits of the driver.
    """
    errors = settlement.errors
    if not errors:
        # Not started and no error: no listener of this bus wants the event any more.
        return ACK if settlement.started else RELEASE
    failed = None
    for error in errors:
        if error.outcome == "abandoned":
            return Verdict(Action.RELEASE, started=settlement.started)
        if failed is None and error.outcome == "failed":
            failed = error
    if failed is None:
        # Dropped by the listener's own options, or by middleware: the event is done.
        return ACK
    # The inbox decodes for the driver, and reports its own errors under this name.
    if failed.listener == "driver" and isinstance(failed.error, DecodeError):
        return undecodable(failed.error)
    if deliveries < config.max_deliveries:
        # Before the texts: formatting a traceback costs more than the rest of the delivery.
        return _retry(deliveries, config)
    details = failed.details[-MAX_DETAILS_CHARS:]
    return Verdict(Action.DEAD_LETTER, reason=str(failed), details=details)


def retry_or_dead_letter(
    deliveries: int, config: DurableConfig, *, reason: str, reported: bool = False
) -> Verdict:
    """Return the verdict on a delivery that failed before it reached a listener.

    Args:
        deliveries: How often the broker has delivered the event, this time included.
        config: The limits of the driver.
        reason: Why the delivery failed, in one line.
        reported: Whether the supervisor knows the reason already.
    """
    if deliveries < config.max_deliveries:
        return _retry(deliveries, config)
    return Verdict(Action.DEAD_LETTER, reason=reason, reported=reported)


def _retry(deliveries: int, config: DurableConfig) -> Verdict:
    return Verdict(Action.RETRY, after=config.pause(deliveries))


def undecodable(error: DecodeError) -> Verdict:
    """Return the verdict on bytes that hold no event; the supervisor has the error already."""
    return Verdict(Action.DEAD_LETTER, reason=str(error), reported=True)
