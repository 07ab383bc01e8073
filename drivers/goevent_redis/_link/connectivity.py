"""What the link tells its owner about the connection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Connected:
    """The link is up.

    Attributes:
        count: How often it has been up, this time included.
        downtime: Seconds since it went down; 0 for the first time.
    """

    count: int
    downtime: float


@dataclass(frozen=True)
class Disconnected:
    """The link is down, or a dial has failed.

    Attributes:
        reason: Why.
        dials: How many dials in a row have failed; 0 if a connection broke.
    """

    reason: Exception
    dials: int
