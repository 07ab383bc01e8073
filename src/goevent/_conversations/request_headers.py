"""The headers of a request: the time that is left for it, and the requests that wait for it.

They travel with the event of the request, so they are bytes of a stranger when they are read: a
header that makes no sense counts as missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING

import trio

from .._cause import is_id

if TYPE_CHECKING:
    from .._cause import Cause

BUDGET_HEADER = "goevent-budget"
"""The header with the seconds that are left until the deadline of a request."""

CHAIN_HEADER = "goevent-chain"
"""The header with the ids of the requests inside whose responders a request was made."""

MAX_CHAINED_REQUESTS = 32
"""How deep responders may make requests inside each other."""


def headers_of(deadline: float, chain: tuple[str, ...], cause: Cause | None) -> dict[str, str]:
    """Return the headers of a request.

    Args:
        deadline: When the requester stops waiting, by Trio's clock.
        chain: The ids of the requests inside whose responders it is made.
        cause: The event that its listener was handling; None outside of listeners.
    """
    headers: dict[str, str] = {} if cause is None else {**cause.headers}
    if deadline < inf:
        # A deadline that has passed leaves nothing.
        headers[BUDGET_HEADER] = f"{max(0.0, deadline - trio.current_time()):.3f}"
    if chain:
        headers[CHAIN_HEADER] = ",".join(chain)
    return headers


def read_budget(headers: Mapping[str, str]) -> float:
    """Return the seconds until the deadline of a request; infinity if the headers have none."""
    try:
        seconds = float(headers.get(BUDGET_HEADER, "inf"))
    except ValueError:
        return inf
    return seconds if seconds >= 0 else inf


def read_chain(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return the ids of the requests inside whose responders a request was made."""
    chain = headers.get(CHAIN_HEADER, "")
    if not chain:
        return ()
    # The ids are sent on, and this text came from a stranger.
    return tuple(filter(is_id, chain.split(",", MAX_CHAINED_REQUESTS + 1)))[
        : MAX_CHAINED_REQUESTS + 1
    ]
