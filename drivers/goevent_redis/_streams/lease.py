"""A lease: the right of this bus to read one partition, for a while.

A lease is a record in Redis with an owner, a key that expires, and a fence: a text that begins with
a number which grows with each owner, and that no two leases have in common. The server runs a
fenced script only if the fence is still the fence of the record. So a bus that was frozen, and has
lost its lease meanwhile, can neither read nor acknowledge.

The hash of an event name has three fields for the partition 3: `3` is the fence, `3:owner` the
consumer, and `3:count` the number with which the last fence began. `3:count` stays when a lease
ends. A lease has expired when the key `<hash>:3` is gone, which the server lets expire; it still
counts until another bus takes the partition. Renewing a lease and giving it away need no memory, so
both work on a server that is full.
"""

from __future__ import annotations

import trio
from redis import exceptions as redis_errors

from .scripts import ScriptCall, behind_fence

FENCED = "FENCED"
"""The first word of the error with which a fenced script refuses to run."""


class Lease:
    """The lease of a partition, from its grant until it is lost or given away.

    Attributes:
        leases_key: The hash in Redis that has the record.
        number: The number of the partition.
        fence: The text that the record holds as long as this lease counts.
        until: The time until which no other bus can have the partition, on Trio's clock. It is
            counted from before the server was asked, so it ends here before it ends there.
        draining: No listener begins with another event, because another bus gets the partition.
        leaving: Redis was told to give the lease away.
        lost: The lease is over.
    """

    __slots__ = ("draining", "fence", "leases_key", "leaving", "lost", "number", "until")

    def __init__(self, leases_key: str, number: int, fence: bytes, until: float) -> None:
        self.leases_key = leases_key
        self.number = number
        self.fence = fence
        self.until = until
        self.draining = False
        self.leaving = False
        self.lost = False

    @property
    def open(self) -> bool:
        """True while listeners may begin with events of the partition."""
        return self.open_at(trio.current_time())

    def open_at(self, now: float) -> bool:
        """Return `open` at the present time, for callers with many leases."""
        return not (self.lost or self.draining) and now < self.until


def fenced(call: ScriptCall, lease: Lease | None) -> ScriptCall:
    """Return a call that does the same, but only while the lease is the one that counts.

    If it is not, the reply is an error that `fenced_by` recognises. Without a lease the call stays
    as it is.
    """
    if lease is None:
        return call
    script, keys, args = call
    keys, args = (*keys, lease.leases_key), (*args, lease.number, lease.fence)
    return behind_fence(script), keys, args


def fenced_by(error: Exception) -> str | None:
    """Return the owner of the partition if a fence has refused a call, None for other errors.

    The owner is empty if no bus has the partition.
    """
    said = str(error)
    if isinstance(error, redis_errors.ResponseError) and said.startswith(FENCED):
        return said.removeprefix(FENCED).strip()
    return None
