"""Limits how often listeners run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal

import trio

from .. import Delivery, Veto

CROWD = 1000  # buckets, before idle ones are looked for
SLIP = 1e-6  # seconds that a sum of floats may be off


class RateLimit:
    """Let each listener run so many times in so many seconds, by a token bucket.

    In `Config.middleware` it limits every listener by itself, in `ListenerOptions.middleware` the
    one that asks. Listeners of the same name share a limit, also one that was registered anew. The
    middleware of each bus and listener counts for itself, unless it is the same object.

    A run is an attempt: a retry counts. Up to `burst` runs may begin at once, after that they begin
    at even intervals. So the first `per` seconds of a busy listener may see up to twice the rate,
    and `burst=1` spaces all runs evenly.

    With `excess="wait"` a listener waits before it runs, first come, first served; it holds its
    mailbox meanwhile, as any slow listener, and its `timeout` has not begun. It cannot stand around
    an inline `def`. With `excess="veto"` an event that comes too early is not delivered to the
    listener: its handle says so, and it is counted as dropped.

    Args:
        rate: how many runs may begin in `per` seconds, in the long run.
        per: seconds.
        burst: how many may begin at once; `rate` by default, but at least 1.
        excess: what happens to a run that is too much.
    """

    def __init__(
        self,
        rate: float,
        *,
        per: float = 1.0,
        burst: int | None = None,
        excess: Literal["wait", "veto"] = "wait",
    ) -> None:
        for name, value in (("rate", rate), ("per", per)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} is a number, not {value!r}")
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} is more than 0, and finite, not {value!r}")
        if burst is not None:
            if isinstance(burst, bool) or not isinstance(burst, int):
                raise TypeError(f"burst is a number of runs, not {burst!r}")
            if burst < 1:
                raise ValueError(f"burst is at least 1, not {burst}")
        if excess not in ("wait", "veto"):
            raise ValueError(f"excess is 'wait' or 'veto', not {excess!r}")
        self._limit = f"{rate:g} in {per:g} s"
        self._interval = per / rate
        self._burst = burst or max(1, int(rate))
        self._buckets: dict[str, Bucket] = {}
        self._crowd = CROWD
        self.around_call: Callable[[Delivery], Iterator[None] | AsyncIterator[None]] = (
            self._in_time if excess == "wait" else self._or_not_at_all
        )
        """Begin one run of a listener when its rate allows it; async if that means to wait."""

    async def _in_time(self, delivery: Delivery, /) -> AsyncIterator[None]:
        bucket = self._bucket_of(delivery.listener)
        if bucket.turn.locked() or self._early(bucket):
            # Nothing is taken while waiting: who is cancelled leaves the others their times.
            async with bucket.turn:
                await trio.sleep(self._early(bucket))
                self._take(bucket)
        else:
            self._take(bucket)
        yield

    def _or_not_at_all(self, delivery: Delivery, /) -> Iterator[None]:
        bucket = self._bucket_of(delivery.listener)
        if self._early(bucket):
            raise Veto(f"over the limit of {self._limit}")
        self._take(bucket)
        yield

    def _early(self, bucket: Bucket) -> float:
        """Return how many seconds it takes until there is a token."""
        now = trio.current_time()
        # It cannot be empty for longer than that, except by the clock of an earlier `trio.run`.
        bucket.full_at = min(bucket.full_at, now + self._burst * self._interval)
        early = bucket.full_at - (self._burst - 1) * self._interval - now
        return early if early > min(SLIP, self._interval / 1000) else 0.0

    def _take(self, bucket: Bucket) -> None:
        bucket.full_at = max(bucket.full_at, trio.current_time()) + self._interval

    def _bucket_of(self, listener: str) -> Bucket:
        bucket = self._buckets.get(listener)
        if bucket is None:
            if len(self._buckets) >= self._crowd:
                self._forget_full_ones()
            bucket = self._buckets[listener] = Bucket()
        return bucket

    def _forget_full_ones(self) -> None:
        """Forget listeners that have not run for a while, or are no more."""
        now = trio.current_time()
        self._buckets = {
            name: bucket
            for name, bucket in self._buckets.items()
            if bucket.full_at > now or bucket.turn.locked()
        }
        self._crowd = max(CROWD, 2 * len(self._buckets))


class Bucket:
    """The tokens of one listener, as the time at which there are as many as can be."""

    __slots__ = ("full_at", "turn")

    def __init__(self) -> None:
        self.full_at: float = float("-inf")
        self.turn: trio.Lock = trio.Lock()  # who has it is the next to take one
