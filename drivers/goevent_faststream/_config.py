"""How a bus takes part in the events of a broker: its group, its patience, its names.

The vocabulary is that of `goevent_redis.StreamsConfig`; a broker that lacks one of them refuses it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,200}")
_WHOLE = ("prefetch", "max_deliveries")
_TEXT = ("group", "prefix", "stream", "format")


@dataclass(frozen=True, kw_only=True)
class BrokerConfig:
    """Says how a bus takes part; each field is an option of the URL, too.

    Times are in seconds.

    Attributes:
        group: The service. Of each group one bus gets each event. A bus without one can only
            publish, if the broker is durable.
        prefix: What stands before event names in the broker's own names, or "" for nothing; None
            for the default of the broker, which `MAPPINGS` tells.
        stream: What the broker calls the place that holds the events, if it needs one.
        prefetch: How many events a bus holds at most, received and not settled.
        start: Where a group begins that does not exist yet: "earliest", "latest", behind what the
            broker calls an event, or at a time. A group that exists goes on where it was.
        max_deliveries: After how many failed deliveries an event becomes a dead letter.
        backoff: Until the second delivery of an event that failed; doubles with each further one.
        max_backoff: The longest of these.
        claim_idle: After how long without a sign of life from its bus an event is given to another
            one. A bus gives such signs for all that it holds, however long listeners take.
        publish_timeout: For how long a publish is tried while the broker cannot be reached.
        format: What messages look like: "goevent", which is its JSON envelope, or "faststream",
            which is what a plain service of FastStream sends and reads.

    Raises:
        ValueError: A field is out of its range.
    """

    group: str | None = None
    prefix: str | None = None
    stream: str | None = None
    prefetch: int = 500
    start: str | datetime = "earliest"
    max_deliveries: int = 5
    backoff: float = 0.5
    max_backoff: float = 30.0
    claim_idle: float = 30.0
    publish_timeout: float = 5.0
    format: str = "goevent"

    def __post_init__(self) -> None:
        for name in _TEXT:
            value: Any = getattr(self, name)
            if value is None or (name == "prefix" and value == ""):
                continue
            if not (isinstance(value, str) and _NAME.fullmatch(value)):
                raise ValueError(f"{name} must be letters, digits, _ - . and @, not {value!r}")
        for name in _WHOLE:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        for name in ("backoff", "max_backoff", "claim_idle", "publish_timeout"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < (0 if name == "backoff" else 0.1):
                raise ValueError(f"{name} must be a number of seconds, not {value!r}")
        if self.publish_timeout > 10.0:
            raise ValueError("publish_timeout is at most 10: a publish must not hide an outage")
        if isinstance(self.start, datetime) and self.start.tzinfo is None:
            raise ValueError("a time needs a time zone: datetime.now(UTC), for instance")

    def pause(self, deliveries: int) -> float:
        """Return the seconds until an event is delivered again that has failed so often."""
        return min(self.max_backoff, self.backoff * 2.0 ** min(deliveries - 1, 60))

    @property
    def start_time(self) -> datetime | None:
        """The time at which a new group begins; None if it begins at a place."""
        return self.start.astimezone(UTC) if isinstance(self.start, datetime) else None


def read_url(url: str) -> tuple[str, BrokerConfig]:
    """Return a URL without the options that are ours, and what they say.

    Raises:
        ValueError: One makes no sense.
    """
    head, _, query = url.partition("?")
    known = {field.name for field in fields(BrokerConfig)}
    chosen: dict[str, Any] = {}
    others: list[tuple[str, str]] = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            others.append((name, value))
        elif name in chosen:
            raise ValueError(f"url has the option {name} twice")
        else:
            chosen[name] = _option(name, value)
    return f"{head}?{urlencode(others)}" if others else head, BrokerConfig(**chosen)


def _option(name: str, value: str) -> Any:
    try:
        if name in _WHOLE:
            return int(value)
        if name in _TEXT:
            return value
        if name == "start":
            if value in ("earliest", "latest") or value.isdigit():
                return value
            return datetime.fromisoformat(value.replace(" ", "+"))
        return float(value)
    except ValueError:
        pass
    raise ValueError(f"the option {name} of the url makes no sense: {value!r}")
