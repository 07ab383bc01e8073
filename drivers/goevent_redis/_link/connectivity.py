"""Connectivity: the events with which the link reports the state of its connection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Connected:
    """The link is up.

    Attributes:
        count: How often the link has been up, including this time.
        downtime: Seconds since the link went down; 0 for the first time.
    """

    count: int
    downtime: float


@dataclass(frozen=True)
class Disconnected:
    """The connection broke, or an attempt to connect failed.

    Attributes:
        reason: The error that ended the connection or the attempt.
        dials: How many attempts in a row have failed; 0 if a connection broke.
    """

    reason: Exception
    dials: int
