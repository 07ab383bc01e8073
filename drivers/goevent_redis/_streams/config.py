"""The configuration of durable streams: the settings of a bus, its URL, and places in a stream."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Literal

from goevent import UnsupportedError
from goevent.drivers import (
    DurableConfig,
    check_count,
    check_name,
    check_seconds,
    check_url_options,
    in_utc,
    read_driver_url,
    read_options,
    suggest_options,
)

from .._link.config import RedisConfig
from .._tls import REDIS_URL_OPTIONS, config_of_url
from .keys import RELEASED

LATEST_SEQUENCE = (1 << 64) - 1
MAX_PARTITIONS = 1024

REFUSED_OPTIONS = {
    "format": "events in Redis are goevent's envelope",
    "stream": "each event name has a stream of its own, under the option prefix",
}
"""The options of the URLs of other brokers."""

_ENTRY_ID = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?")
_NO_ORDER = (
    "consumers of a group compete, so there is no order among their events: events with the same "
    "key are in order with partitions, such as StreamsConfig(partitions=8)"
)


@suggest_options
@dataclass(frozen=True, kw_only=True)
class StreamsConfig(DurableConfig):
    """The settings of a bus for durable events; each field is also an option of the URL.

    Times are in seconds.

    Attributes:
        group: The consumer group, usually the name of the service. One bus of each group gets each
            event. A bus without a group can only publish.
        consumer: The name of this bus within the group. No other bus may have it at the same time;
            None draws one. With a name of its own, a bus first gets the events back that it held
            when it crashed.
        prefetch: The largest number of events that the bus holds, read and not acknowledged.
        start: Where a new group begins to read: "earliest", "latest", behind the entry of an id, or
            at a time. An existing group continues where it was.
        max_deliveries: The number of failed deliveries after which an event becomes a dead letter.
        backoff: The pause before the second delivery of an event that failed. It doubles with each
            further delivery.
        max_backoff: The longest pause; at most `claim_idle`.
        claim_idle: How long a consumer may show no sign of life before its events go to another
            one. A bus shows signs of life for all events that it holds, however long its listeners
            take.
        publish_timeout: How long a publish is tried again while the server cannot be reached.
        deduplicate: How long the handle id of a finished event is remembered. An event that its
            publisher has sent twice is then not delivered twice. 0 to remember none.
        retention: "all" keeps events until the stream is trimmed by hand; "acked" removes events
            that every existing group has acknowledged.
        maxlen: About how many entries a stream keeps, acknowledged or not; None for all.
        max_age: About how long a stream keeps entries, acknowledged or not; None for ever.
        ordered: Whether order is required; it needs partitions.
        partitions: How many streams each event name has. With more than one, events with the same
            key run one after another, in order, on any bus of the group: each partition
            belongs to one bus at a time, and an event that fails holds up the events of its key
            until it is done or a dead letter. Events without a key are all in one partition; they
            arrive in order and do not wait for each other. All buses that use a name need the same
            number, from its first event on.

    Raises:
        ValueError: A field is out of its range.
        UnsupportedError: Order is asked for without partitions: competing consumers have none.

    Example:
        >>> streams = StreamsConfig(group="billing", backoff=0.5)
        >>> [streams.pause(deliveries) for deliveries in (1, 2, 3)]
        [0.5, 1.0, 2.0]
    """

    consumer: str | None = None
    deduplicate: float = 0.0
    retention: Literal["all", "acked"] = "all"
    maxlen: int | None = None
    max_age: float | None = None
    ordered: bool = False
    partitions: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("consumer", self.consumer)
        if self.consumer == RELEASED:
            raise ValueError(f"consumer must not be {RELEASED!r}: that one owns released entries")
        check_count("partitions", self.partitions)
        if self.maxlen is not None:
            check_count("maxlen", self.maxlen)
        check_seconds("deduplicate", self.deduplicate, zero=True)
        if self.max_age is not None:
            check_seconds("max_age", self.max_age)
        if self.retention not in ("all", "acked"):
            raise ValueError(f'retention must be "all" or "acked", not {self.retention!r}')
        # A released entry becomes free when it has been idle for `claim_idle`: no pause is longer.
        if self.max_backoff > self.claim_idle:
            object.__setattr__(self, "max_backoff", self.claim_idle)
        id_before(self.start)
        if self.partitions > MAX_PARTITIONS:
            raise ValueError(f"partitions must be at most {MAX_PARTITIONS}, not {self.partitions}")
        if self.ordered and self.partitions == 1:
            raise UnsupportedError(_NO_ORDER)


def id_before(start: str | datetime) -> str:
    """Return the id behind which a new group with this `start` begins to read.

    Raises:
        ValueError: The text is not a place in a stream.
    """
    if isinstance(start, datetime):
        milliseconds = _milliseconds(start)
        return f"{milliseconds - 1}-{LATEST_SEQUENCE}" if milliseconds > 0 else "0"
    if start in ("earliest", "latest"):
        return "0" if start == "earliest" else "$"
    if isinstance(start, str) and _ENTRY_ID.fullmatch(start):
        return start
    raise ValueError(f'start must be "earliest", "latest", an entry id or a time, not {start!r}')


def range_bound(place: str | datetime | None, *, end: bool) -> str:
    """Return the first or the last id of a range of entries.

    Args:
        place: The place; entries at it are in the range.
        end: True for the last id of the range, False for the first.

    Raises:
        ValueError: The text is not a place in a stream.
    """
    if place is None or place == "latest":
        return "+"
    if place == "earliest":
        return "-"
    if isinstance(place, datetime):
        milliseconds = max(0, _milliseconds(place))
        return f"{milliseconds}-{LATEST_SEQUENCE if end else 0}"
    if isinstance(place, str) and _ENTRY_ID.fullmatch(place):
        return place
    raise ValueError(f'a place is "earliest", an entry id or a time, not {place!r}')


def read_url(url: str) -> tuple[RedisConfig, StreamsConfig]:
    """Return the two configs that a `redis+streams://` URL stands for.

    Raises:
        ValueError: The URL makes no sense; the text of the error holds no password.
    """
    parsed = read_driver_url(url)
    known = [*REDIS_URL_OPTIONS, *(field.name for field in fields(StreamsConfig))]
    check_url_options(parsed, known, REFUSED_OPTIONS)
    options, others = read_options(parsed.query, StreamsConfig, positions=_ENTRY_ID)
    scheme = parsed.scheme.removesuffix("+streams")
    server = replace(parsed, scheme=scheme, query=others)
    return config_of_url(server), StreamsConfig(**options)


def _milliseconds(time: datetime) -> int:
    return math.floor(in_utc(time).timestamp() * 1000)
