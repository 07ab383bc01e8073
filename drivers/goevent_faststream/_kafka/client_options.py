"""The options with which both clients make their producers, members and readers.

The clients use them in FastStream's words, which are the same for aiokafka and confluent-kafka.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .refusals import Membership

# How long a broker may wait for the first record of a fetch.
FETCH_WAIT_MILLISECONDS = 250
HEARTBEATS_PER_SESSION = 4
# The part of `prefetch_bytes` that a member fetches at once.
FETCH_SHARE = 8
MIN_FETCH_BYTES = 64 << 10
# The defaults of both clients.
MAX_FETCH_BYTES = 50 << 20
MAX_PARTITION_FETCH_BYTES = 1 << 20
# The largest answer that a reader without a group asks for.
MAX_READER_BYTES = 4 << 20


def check_producer_settings(settings: Mapping[str, Any], transactional_id: str) -> None:
    """Check that goevent can publish with the producer of a broker object.

    Args:
        transactional_id: The name of the setting that makes a producer transactional.

    Raises:
        ValueError: It publishes in transactions only.
    """
    if settings.get(transactional_id) is not None:
        raise ValueError(
            f"a Kafka broker with {transactional_id} publishes in transactions only, and goevent "
            "begins none"
        )


def fetch_bytes(prefetch_bytes: int) -> int:
    """Return the largest answer that a member may ask a broker for.

    A broker answers with the first batch of records even if that is larger.
    """
    return min(MAX_FETCH_BYTES, max(MIN_FETCH_BYTES, prefetch_bytes // FETCH_SHARE))


def member_options(membership: Membership, client_id: str | None) -> dict[str, Any]:
    """Return the options of a group member, in FastStream's words."""
    session_seconds = membership.claim_idle
    max_bytes = fetch_bytes(membership.prefetch_bytes)
    return {
        "group_id": membership.group,
        "client_id": client_id,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "session_timeout_ms": int(session_seconds * 1000),
        "heartbeat_interval_ms": int(session_seconds * 1000 / HEARTBEATS_PER_SESSION),
        "fetch_max_wait_ms": FETCH_WAIT_MILLISECONDS,
        "fetch_max_bytes": max_bytes,
        "max_partition_fetch_bytes": min(MAX_PARTITION_FETCH_BYTES, max_bytes),
    }


def reader_options(client_id: str | None, group: str | None) -> dict[str, Any]:
    """Return the options of a reader without a group, in FastStream's words.

    Args:
        group: A group that exists nowhere, for a client that needs the name of one.
    """
    return {
        "group_id": group,
        "client_id": client_id,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "fetch_max_wait_ms": FETCH_WAIT_MILLISECONDS,
        "fetch_max_bytes": MAX_READER_BYTES,
        "max_partition_fetch_bytes": MAX_PARTITION_FETCH_BYTES,
    }
