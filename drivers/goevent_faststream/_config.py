"""The settings of a bus on one of FastStream's brokers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from goevent.drivers import (
    DriverUrl,
    DurableConfig,
    check_name,
    in_utc,
    read_options,
    suggest_options,
)

MIN_SECONDS = 0.1
MAX_PUBLISH_TIMEOUT_SECONDS = 10.0
_POSITIONS = re.compile("[0-9]+")


@suggest_options
@dataclass(frozen=True, kw_only=True)
class BrokerConfig(DurableConfig):
    """The settings of a bus on a broker; each field is an option of the driver's URL, too.

    The fields of `goevent.drivers.DurableConfig` apply where the broker is durable: `group`,
    `prefetch`, `prefetch_bytes`, `start`, `max_deliveries`, `backoff`, `max_backoff`, `claim_idle`
    and `publish_timeout`. A broker refuses a setting that it cannot honour. Times are in seconds.

    Attributes:
        prefix: The beginning of the broker's own names of events, or "" for none. None takes the
            default of the broker, which `MAPPINGS` lists.
        stream: The broker's name for the place that holds the events, if it needs one.
        publish_timeout: How long a publish is tried while the broker cannot be reached.
        format: The form of messages: "goevent" is goevent's JSON envelope; "faststream" is the form
            that a plain FastStream service sends and reads.

    Raises:
        ValueError: A field is out of its range.

    Example:
        >>> BrokerConfig(group="billing", max_deliveries=3).pause(2)
        1.0
    """

    prefix: str | None = None
    stream: str | None = None
    publish_timeout: float = 5.0
    format: str = "goevent"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prefix != "":
            check_name("prefix", self.prefix)
        check_name("stream", self.stream)
        check_name("format", self.format)
        for name in ("max_backoff", "claim_idle", "publish_timeout"):
            if getattr(self, name) < MIN_SECONDS:
                raise ValueError(f"{name} must be at least {MIN_SECONDS:g} seconds")
        if self.publish_timeout > MAX_PUBLISH_TIMEOUT_SECONDS:
            raise ValueError(
                f"publish_timeout is at most {MAX_PUBLISH_TIMEOUT_SECONDS:g}: a publish must not "
                "hide an outage"
            )

    @property
    def start_time(self) -> datetime | None:
        """The time at which a new group begins; None if it begins at a position."""
        return in_utc(self.start) if isinstance(self.start, datetime) else None


def split_options(url: DriverUrl) -> tuple[DriverUrl, BrokerConfig]:
    """Return a URL without goevent's options, and the settings that they make.

    Raises:
        ValueError: An option makes no sense.
    """
    options, others = read_options(url.query, BrokerConfig, positions=_POSITIONS)
    return url.with_query(others), BrokerConfig(**options)
