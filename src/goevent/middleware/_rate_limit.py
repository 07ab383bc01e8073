"""The rate limit: a token bucket for each listener.

Theory of operation. A token bucket holds up to `burst` tokens and gains one every `per / rate`
seconds; each run takes one. In place of a count that would have to be updated all the time, a
bucket stores the time at which it will be full again. Taking a token moves this time one interval
into the future, and a token is available if the time is at most `burst - 1` intervals ahead. So an
idle bucket costs nothing, and one whose time has passed equals a new one and can be forgotten.

Runs that must wait queue at the lock of their bucket. The first one sleeps until a token is there
and takes it only then, so a run that is cancelled while it waits takes no token from the others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal

import trio

from .. import Delivery, Veto
from .._suggestions import suggest_options

# Below this number of buckets, idle ones are not searched for.
MIN_BUCKETS_TO_SWEEP = 1000
# A token that is due within the rounding error of a sum of floats counts as available: in seconds,
# and as a part of the interval between two tokens.
MAX_ROUNDING_SECONDS = 1e-6
MAX_ROUNDING_PART = 1 / 1000


@suggest_options
class RateLimit:
    """Limit the number of runs per time of each listener, with a token bucket.

    In `Config.middleware` it limits each listener of the bus separately; in
    `ListenerOptions.middleware` it limits that listener. Listeners of the same name share a limit,
    even if one is registered again later. Two `RateLimit` objects count separately.

    A run is an attempt, so a retry counts. Up to `burst` runs may begin at once; further ones begin
    at even intervals. So a busy listener may run at up to twice the rate in the first `per`
    seconds. With `burst=1` all runs are evenly spaced.

    With `excess="wait"` a listener waits before it runs. Waiting runs are served in order.
    Meanwhile the next events stay in the mailbox, as with any slow listener, and the `timeout` of
    the run has not begun. An inline `def` cannot wait, so this mode does not fit it. With
    `excess="veto"` the listener does not get the event; the event's handle reports it, and the
    ledger counts it as dropped.

    Example:
        >>> bus = GoEvent()
        >>> @bus.listener("mail.requested", middleware=(RateLimit(5, per=1.0),))
        ... async def send_mail(event: Event) -> None: ...

    Args:
        rate: The number of runs that may begin in `per` seconds, in the long run.
        per: The period in seconds.
        burst: The number of runs that may begin at once; `rate` by default, but at least 1.
        excess: `"wait"` delays a run above the limit, `"veto"` drops its event for this listener.

    Raises:
        TypeError: `rate`, `per` or `burst` has the wrong type.
        ValueError: An argument is out of range, or `excess` is unknown.
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
                raise TypeError(f"{name} must be a number, not {value!r}")
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be more than 0 and finite, not {value!r}")
        if burst is not None:
            if isinstance(burst, bool) or not isinstance(burst, int):
                raise TypeError(f"burst must be a number of runs, not {burst!r}")
            if burst < 1:
                raise ValueError(f"burst must be at least 1, not {burst}")
        if excess not in ("wait", "veto"):
            raise ValueError(f"excess must be 'wait' or 'veto', not {excess!r}")
        self._limit = f"{rate:g} in {per:g} s"
        self._interval = per / rate
        self._burst = burst or max(1, int(rate))
        self._buckets: dict[str, TokenBucket] = {}
        self._buckets_to_sweep = MIN_BUCKETS_TO_SWEEP
        self.around_call: Callable[[Delivery], Iterator[None] | AsyncIterator[None]] = (
            self._wait_for_token if excess == "wait" else self._veto_without_token
        )
        """Begin one run of a listener when its rate allows it. Async with `excess="wait"`."""

    async def _wait_for_token(self, delivery: Delivery, /) -> AsyncIterator[None]:
        bucket = self._bucket_of(delivery.listener)
        if bucket.first_in_line.locked() or self._seconds_to_token(bucket):
            async with bucket.first_in_line:
                # The token is taken after the sleep and not before: a cancelled run takes none.
                await trio.sleep(self._seconds_to_token(bucket))
                self._take(bucket)
        else:
            self._take(bucket)
        yield

    def _veto_without_token(self, delivery: Delivery, /) -> Iterator[None]:
        bucket = self._bucket_of(delivery.listener)
        if self._seconds_to_token(bucket):
            raise Veto(f"above the limit of {self._limit}")
        self._take(bucket)
        yield

    def _seconds_to_token(self, bucket: TokenBucket) -> float:
        now = trio.current_time()
        # A bucket is full after `burst` intervals at the latest. It can be later only if the time
        # is from the clock of an earlier `trio.run`.
        bucket.full_at = min(bucket.full_at, now + self._burst * self._interval)
        seconds = bucket.full_at - (self._burst - 1) * self._interval - now
        rounding = min(MAX_ROUNDING_SECONDS, self._interval * MAX_ROUNDING_PART)
        return seconds if seconds > rounding else 0.0

    def _take(self, bucket: TokenBucket) -> None:
        bucket.full_at = max(bucket.full_at, trio.current_time()) + self._interval

    def _bucket_of(self, listener: str) -> TokenBucket:
        bucket = self._buckets.get(listener)
        if bucket is None:
            if len(self._buckets) >= self._buckets_to_sweep:
                self._forget_full_buckets()
            bucket = self._buckets[listener] = TokenBucket()
        return bucket

    def _forget_full_buckets(self) -> None:
        """Forget the buckets of listeners that have not run for a while or are unregistered."""
        now = trio.current_time()
        self._buckets = {
            name: bucket
            for name, bucket in self._buckets.items()
            if bucket.full_at > now or bucket.first_in_line.locked()
        }
        # The next sweep comes when the number has doubled, so that sweeping stays cheap per bucket.
        self._buckets_to_sweep = max(MIN_BUCKETS_TO_SWEEP, 2 * len(self._buckets))


class TokenBucket:
    """The tokens of one listener.

    Attributes:
        full_at: The time at which the bucket is full.
        first_in_line: Held by the run that takes the next token; the others wait for it in order.
    """

    __slots__ = ("first_in_line", "full_at")

    def __init__(self) -> None:
        self.full_at: float = float("-inf")
        self.first_in_line: trio.Lock = trio.Lock()
