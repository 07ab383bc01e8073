"""The message of a dead letter and its report, the same for every broker that keeps them.

The event keeps its headers, and more headers give the reason of the dead letter. `settler` modules
write the message; `goevent.drivers` decides which event becomes a dead letter.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from urllib.parse import quote

from goevent.drivers import dead_letter_report, in_one_line

from .contract import AdapterHost, Decision

REASON_HEADER, DETAILS_HEADER = "goevent-reason", "goevent-details"
ID_HEADER, DELIVERIES_HEADER = "goevent-id", "goevent-deliveries"
GROUP_HEADER, CONSUMER_HEADER = "goevent-group", "goevent-consumer"
# An event that is published again reaches all groups. This header names the one group that wants
# it; the others acknowledge the event without running it.
REPLAY_GROUP_HEADER = "goevent-for"

DEAD_LETTER_RETRY_SECONDS = 1.0  # until a dead letter that could not be written is tried again


def dead_letter_headers(decision: Decision, group: str) -> dict[str, str]:
    """Return the headers that are added to those of the event."""
    arrival, verdict = decision.arrival, decision.verdict
    return {
        REASON_HEADER: in_one_line(verdict.reason),
        # A traceback has line breaks, which some brokers refuse in headers.
        DETAILS_HEADER: quote(verdict.details, safe=" "),
        ID_HEADER: arrival.id,
        DELIVERIES_HEADER: str(arrival.deliveries),
        GROUP_HEADER: group,
        CONSUMER_HEADER: f"{socket.gethostname()}:{os.getpid()}",
    }


def address_of(headers: Mapping[str, str]) -> str:
    """Return the group that a dead letter is for which was copied back; empty for every group."""
    return headers.get(REPLAY_GROUP_HEADER) or headers.get(GROUP_HEADER, "")


def report_dead_letter(host: AdapterHost, decision: Decision) -> None:
    """Report a dead letter that is written, unless the supervisor knows its reason already."""
    arrival, verdict = decision.arrival, decision.verdict
    if not verdict.reported:
        host.report(
            dead_letter_report(arrival.name, arrival.id, arrival.deliveries, verdict.reason),
            arrival.name,
        )
