"""How a bus takes part in durable streams: its group, its patience, and what is kept."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

from goevent import UnsupportedError

from .._link.config import RedisConfig
from .keys import HEIR

LATEST_SEQUENCE = (1 << 64) - 1

_ID = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?")
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,200}")
_NO_ORDER = (
    "consumers of a group compete, so there is no order among their events: events with the same "
    "key are in order with partitions, such as StreamsConfig(partitions=8)"
)
MOST_PARTITIONS = 1024


@dataclass(frozen=True, kw_only=True)
class StreamsConfig:
    """Says how a bus takes part in durable events; each field is an option of the URL, too.

    Times are in seconds.

    Attributes:
        group: The service. Of each group one bus gets each event. A bus without one can only
            publish.
        consumer: The name of this bus within the group, which no other bus may have while it runs;
            None draws one. With a name, what it had in hand comes back to it first after a crash.
        prefetch: How many events it holds at most, read and not acknowledged.
        start: Where a group begins that does not exist yet: "earliest", "latest", after the entry
            of an id, or at a time. A group that exists goes on where it was.
        max_deliveries: After how many failed deliveries an event becomes a dead letter.
        backoff: Until the second delivery of an event that failed; doubles with each further one.
        max_backoff: The longest of these; at most `claim_idle`.
        claim_idle: After how long without a sign of life from its consumer an event is given to
            another one. A bus gives such signs for all that it holds, however long listeners take.
        publish_timeout: For how long a publish is tried again while the server cannot be reached.
        deduplicate: For how long a finished event is remembered by its handle id, so that it is not
            handed out again when its publisher sent it twice; 0 for not at all.
        retention: "all" keeps events until somebody trims the stream; "acked" removes what every
            group that exists has acknowledged.
        maxlen: About how many entries a stream keeps, acknowledged or not; None for all.
        max_age: For about how long a stream keeps them, acknowledged or not; None for ever.
        ordered: Whether to insist on order, which takes partitions.
        partitions: How many streams each event name has. With more than one, events with the same
            key are worked on one after another, in order, whoever of the group does it: each
            partition is in the hands of one bus at a time, and an event that fails holds up those
            of its key until it is done or a dead letter. Events without a key are all in one
            partition, arrive in order, and wait for nobody. All buses that use a name need the
            same number, from the first event on.

    Raises:
        ValueError: A field is out of its range.
        UnsupportedError: Order is asked for without partitions: competing consumers have none.
    """

    group: str | None = None
    consumer: str | None = None
    prefetch: int = 500
    start: str | datetime = "earliest"
    max_deliveries: int = 5
    backoff: float = 0.5
    max_backoff: float = 30.0
    claim_idle: float = 30.0
    publish_timeout: float = 10.0
    deduplicate: float = 0.0
    retention: Literal["all", "acked"] = "all"
    maxlen: int | None = None
    max_age: float | None = None
    ordered: bool = False
    partitions: int = 1

    def __post_init__(self) -> None:
        for name in ("group", "consumer"):
            value: Any = getattr(self, name)
            if value is not None and not (isinstance(value, str) and _NAME.fullmatch(value)):
                raise ValueError(f"{name} must be letters, digits, _ - . and @, not {value!r}")
        if self.consumer == HEIR:
            raise ValueError(f"consumer must not be {HEIR!r}: that one has what was handed back")
        _whole("prefetch", self.prefetch)
        _whole("max_deliveries", self.max_deliveries)
        _whole("partitions", self.partitions)
        if self.maxlen is not None:
            _whole("maxlen", self.maxlen)
        for name in ("backoff", "deduplicate"):
            _seconds(name, getattr(self, name), zero=True)
        for name in ("claim_idle", "publish_timeout", "max_backoff"):
            _seconds(name, getattr(self, name))
        if self.max_age is not None:
            _seconds("max_age", self.max_age)
        if self.retention not in ("all", "acked"):
            raise ValueError(f'retention must be "all" or "acked", not {self.retention!r}')
        if self.claim_idle < 0.1:
            raise ValueError("claim_idle must be at least 0.1")
        if self.max_backoff > self.claim_idle:
            object.__setattr__(self, "max_backoff", self.claim_idle)
        before(self.start)
        if self.partitions > MOST_PARTITIONS:
            raise ValueError(f"partitions must be at most {MOST_PARTITIONS}, not {self.partitions}")
        if self.ordered and self.partitions == 1:
            raise UnsupportedError(_NO_ORDER)

    def pause(self, deliveries: int) -> float:
        """Return the seconds until an event is delivered again that has failed so often."""
        return min(self.max_backoff, self.backoff * 2.0 ** min(deliveries - 1, 60))


def before(start: str | datetime) -> str:
    """Return the id behind which a group begins that is to begin at `start`.

    Raises:
        ValueError: It is no such place.
    """
    if isinstance(start, datetime):
        milliseconds = _milliseconds(start)
        return f"{milliseconds - 1}-{LATEST_SEQUENCE}" if milliseconds > 0 else "0"
    if start in ("earliest", "latest"):
        return "0" if start == "earliest" else "$"
    if isinstance(start, str) and _ID.fullmatch(start):
        return start
    raise ValueError(f'start must be "earliest", "latest", an entry id or a time, not {start!r}')


def bound(place: str | datetime | None, *, end: bool) -> str:
    """Return one end of a range of entries, that one included.

    Raises:
        ValueError: It is no such place.
    """
    if place is None or place == "latest":
        return "+"
    if place == "earliest":
        return "-"
    if isinstance(place, datetime):
        milliseconds = max(0, _milliseconds(place))
        return f"{milliseconds}-{LATEST_SEQUENCE if end else 0}"
    if isinstance(place, str) and _ID.fullmatch(place):
        return place
    raise ValueError(f'a place is "earliest", an entry id or a time, not {place!r}')


def read_url(url: str) -> tuple[RedisConfig, StreamsConfig]:
    """Return what a `redis+streams://` URL says of the server, and of the streams.

    Raises:
        ValueError: It makes no sense; the text holds no password.
    """
    scheme, colon, rest = url.partition("://")
    rest = f"{scheme.removesuffix('+streams')}://{rest}"
    if not colon:
        return RedisConfig(url=rest), StreamsConfig()
    known = {field.name for field in fields(StreamsConfig)}
    head, _, tail = rest.partition("?")
    query, mark, _ = tail.partition("#")
    options: dict[str, str] = {}
    others: list[tuple[str, str]] = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in options:
            raise ValueError(f"url has the option {name} twice")
        if name in known:
            options[name] = value
        else:
            others.append((name, value))
    chosen = {name: _option(name, value) for name, value in options.items()}
    server = f"{head}?{urlencode(others)}" if others else head
    return RedisConfig(url=server + mark), StreamsConfig(**chosen)


def _option(name: str, value: str) -> Any:
    try:
        if name in ("prefetch", "max_deliveries", "maxlen", "partitions"):
            return int(value)
        if name in ("group", "consumer", "retention"):
            return value
        if name == "ordered":
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        if name == "start":
            if value in ("earliest", "latest") or _ID.fullmatch(value):
                return value
            return datetime.fromisoformat(value.replace(" ", "+"))
        return float(value)
    except (ValueError, KeyError):
        pass
    raise ValueError(f"the option {name} of the url makes no sense: {value!r}")


def _milliseconds(when: datetime) -> int:
    if when.tzinfo is None:
        raise ValueError("a time needs a time zone: datetime.now(UTC), for instance")
    return math.floor(when.astimezone(UTC).timestamp() * 1000)


def _whole(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")


def _seconds(name: str, value: float, *, zero: bool = False) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name} must be a number of seconds above 0, not {value!r}")
