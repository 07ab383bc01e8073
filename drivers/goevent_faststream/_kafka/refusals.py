"""The refusals of a broker that keep a group member from reading, and the remedy of each.

Both members use it: they learn the request that was refused and the error code of the answer, and
raise or report a `ReadRefusedError`, which names the remedy.
"""

from __future__ import annotations

from typing import NamedTuple

from goevent import DriverError

JOIN_GROUP, SYNC_GROUP, HEARTBEAT = "JoinGroup", "SyncGroup", "Heartbeat"
FIND_COORDINATOR, OFFSET_FETCH = "FindCoordinator", "OffsetFetch"
FETCH, LIST_OFFSETS = "Fetch", "ListOffsets"
# For an error after which the client does not tell the request.
MEMBERSHIP = "membership of the group"

UNKNOWN_TOPIC, LEADER_NOT_AVAILABLE = 3, 5
COORDINATOR_LOADING, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR = 14, 15, 16
INCONSISTENT_PROTOCOL, INVALID_GROUP, INVALID_SESSION_TIMEOUT = 23, 24, 26
TOPIC_FORBIDDEN, GROUP_FORBIDDEN, UNSUPPORTED_VERSION, STORAGE_ERROR = 29, 30, 35, 56
GROUP_FULL, FENCED_INSTANCE, OFFSET_OUT_OF_RANGE = 81, 82, 1

_NO_COORDINATOR = (
    "the cluster has no coordinator for the group {group!r}; its offsets.topic.replication.factor "
    "must not exceed the number of its brokers"
)
_UNDER_WAY = "the cluster is about to change its leaders"

# The name of each error and its remedy, by Kafka's error code.
REMEDIES: dict[int, tuple[str, str]] = {
    -1: ("Unknown server error", "the log of the broker has the reason"),
    OFFSET_OUT_OF_RANGE: (
        "Offset out of range",
        (
            "the topic {topic!r} no longer has the records that the group {group!r} reads next: it "
            "keeps them for too short a time, or was created again"
        ),
    ),
    UNKNOWN_TOPIC: (
        "Unknown topic or partition",
        "the topic {topic!r} was deleted, or the option prefix names others",
    ),
    LEADER_NOT_AVAILABLE: ("Leader not available", _UNDER_WAY),
    6: ("Not leader for partition", _UNDER_WAY),
    COORDINATOR_LOADING: (
        "Coordinator load in progress",
        "the cluster still reads the offsets of the group {group!r}",
    ),
    COORDINATOR_NOT_AVAILABLE: ("Coordinator not available", _NO_COORDINATOR),
    NOT_COORDINATOR: ("Not coordinator", _NO_COORDINATOR),
    22: ("Illegal generation", "the group {group!r} has removed this member"),
    INCONSISTENT_PROTOCOL: (
        "Inconsistent group protocol",
        (
            "a member of the group {group!r} assigns partitions by other rules; end it, or change "
            "the option group"
        ),
    ),
    INVALID_GROUP: (
        "Invalid group id",
        "the broker takes no group {group!r}; change the option group",
    ),
    25: ("Unknown member id", "the group {group!r} has removed this member"),
    INVALID_SESSION_TIMEOUT: (
        "Invalid session timeout",
        (
            "claim_idle is {claim_idle:g} s, and the broker takes what lies between its "
            "group.min.session.timeout.ms (6 s unless configured) and group.max.session.timeout.ms "
            "(30 min); change the option claim_idle"
        ),
    ),
    27: ("Rebalance in progress", "the group {group!r} does not come to rest"),
    TOPIC_FORBIDDEN: (
        "Topic authorization failed",
        "the user lacks the rights Read and Describe to the topic {topic!r}",
    ),
    GROUP_FORBIDDEN: (
        "Group authorization failed",
        (
            "the user lacks the right Read to the group {group!r}; grant it, or change the option "
            "group"
        ),
    ),
    UNSUPPORTED_VERSION: (
        "Unsupported version",
        "the broker is too old for the client, or no complete broker of Kafka",
    ),
    STORAGE_ERROR: ("Storage error", "the broker cannot read its disk"),
    79: ("Member id required", "the broker and the client do not understand each other"),
    GROUP_FULL: (
        "Group max size reached",
        (
            "the group {group!r} has as many members as the broker's group.max.size allows; raise "
            "that, or run fewer buses"
        ),
    ),
    FENCED_INSTANCE: (
        "Fenced instance id",
        (
            "another member of the group {group!r} has the same group.instance.id; every bus needs "
            "another one in the settings of its broker object"
        ),
    ),
}

# These pass by themselves, for instance when a broker restarts: the client tries again. They are
# reported only if they last.
PASSING = frozenset(
    {UNKNOWN_TOPIC, LEADER_NOT_AVAILABLE, 6, 7, 8, 9, 13}
    | {COORDINATOR_LOADING, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR}
    | {22, 25, 27, STORAGE_ERROR, 74, 75, 78, 79, OFFSET_OUT_OF_RANGE}
)


class Refusal(NamedTuple):
    """An answer of the broker that refuses a request.

    Attributes:
        request: The name of the request in Kafka's protocol.
        code: Kafka's error code.
        text: The error in the client's words, for a code without a name.
    """

    request: str
    code: int
    text: str = ""

    @property
    def passes(self) -> bool:
        """True if the error usually passes by itself."""
        return self.code in PASSING


class Membership(NamedTuple):
    """The settings of a member; refusals may be about them.

    Attributes:
        topic: The topic.
        group: Kafka's consumer group.
        claim_idle: The session timeout in seconds.
        prefetch_bytes: The limit of the bodies that the bus has.
    """

    topic: str
    group: str
    claim_idle: float
    prefetch_bytes: int


def refusal_text(refusal: Refusal, membership: Membership) -> str:
    """Return the refusal with its remedy."""
    name, remedy = REMEDIES.get(refusal.code, (refusal.text, ""))
    text = f"the broker refuses {refusal.request}: {name or 'unknown error'}"
    if str(refusal.code) not in name:
        text += f" (error {refusal.code})"
    if remedy:
        text += "; " + remedy.format(**membership._asdict())
    return text


class ReadRefusedError(DriverError):
    """The broker refuses a request without which a group member cannot read.

    Attributes:
        refusal: The answer of the broker.
    """

    def __init__(self, refusal: Refusal, membership: Membership) -> None:
        super().__init__(f"Kafka: {refusal_text(refusal, membership)}")
        self.refusal = refusal
