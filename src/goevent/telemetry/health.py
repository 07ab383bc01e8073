"""The health of a bus, for probes: live as long as it makes progress, ready when it can work.

The live page serves it as `/health/live` and `/health/ready`; an application with a server of its
own asks `Health` there. It needs no library.

Theory of operation. No task watches the bus. A probe takes a snapshot, and compares for each
listener the number of finished runs with that of the earlier probes: a listener that has work and
has finished nothing since a probe long enough ago is stuck. The first probe already sees a listener
that waits for one thing all the time, because its worker knows the time of its last step
(`ListenerSnapshot.suspended_for`). So the bus notes nothing for each event.

A blocked event loop answers no probe in the same loop, and the probe fails by its own timeout. On
another thread, `live_from_thread` can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from .._public import DriverError, GoEvent, ListenerSnapshot, Snapshot
from .metric_families import unique

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSED = ("backing off", "restarting", "escalating", "stream")
"""The states of a listener that waits because its own options say so, or for a consumer."""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The answer to one probe.

    Attributes:
        healthy: True if the probe succeeds.
        reasons: Why it fails, one line for each reason, without payloads.
    """

    healthy: bool
    reasons: tuple[str, ...] = ()


class Health:
    """Answers liveness and readiness probes for one bus.

    Keep one object for all probes of a bus: it compares each probe with the earlier ones. Probes
    should come at least every `stuck_after` seconds.

    Args:
        bus: The bus.
        stuck_after: Seconds without a finished run after which a listener with work is stuck.
        listeners: Other limits for single listeners, by name; for those whose runs take long.
        clock: Tells the time in seconds; for tests.

    Raises:
        ValueError: A limit is not positive.

    Example:
        >>> bus = GoEvent()
        >>> health = Health(bus, stuck_after=60.0, listeners={"transcode": 3600.0})
        >>> health.live()
        HealthReport(healthy=True, reasons=())
        >>> health.ready().reasons
        ('the bus is not open yet',)
    """

    def __init__(
        self,
        bus: GoEvent,
        *,
        stuck_after: float = 60.0,
        listeners: Mapping[str, float] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._limits = {} if listeners is None else dict(listeners)
        for limit in (stuck_after, *self._limits.values()):
            if not limit > 0:
                raise ValueError(f"a listener cannot be stuck after {limit} seconds")
        self._bus = bus
        self._stuck_after = stuck_after
        self._clock = clock
        # For each listener with work, the finished runs, and the time when they were seen first.
        self._seen: dict[str, tuple[int, float]] = {}
        self._lock = Lock()  # probes may come on several threads

    def live(self) -> HealthReport:
        """Tell whether the bus makes progress; if not, a restart of the process may help.

        Only a stuck listener makes it unhealthy: one that has work and has finished no run for
        `stuck_after` seconds. An idle, draining or closed bus is healthy, and so are a listener
        that pauses before another attempt or its restart, a stream whose events nobody takes, and a
        bus whose broker is down.

        Raises:
            RuntimeError: The bus is open on another thread.
        """
        try:
            return self._judge(self._bus.snapshot())
        except DriverError:
            return HealthReport(healthy=True)  # a restart does not help; `ready` tells the reason

    def ready(self) -> HealthReport:
        """Tell whether the bus takes events: it is open, not draining, and its broker is connected.

        Raises:
            RuntimeError: The bus is open on another thread.
        """
        try:
            return readiness(self._bus.snapshot())
        except DriverError as error:
            return HealthReport(healthy=False, reasons=(str(error),))

    def live_from_thread(self, timeout: float = 5.0) -> HealthReport:
        """Answer `live` on a thread other than the bus's; unhealthy if the event loop is blocked.

        Args:
            timeout: Seconds to wait for the event loop.
        """
        try:
            return self._judge(self._bus.snapshot_from_thread(timeout))
        except TimeoutError as error:
            return HealthReport(healthy=False, reasons=(str(error),))
        except DriverError:
            return HealthReport(healthy=True)

    def ready_from_thread(self, timeout: float = 5.0) -> HealthReport:
        """Answer `ready` on a thread other than the bus's; unhealthy if the event loop is blocked.

        Args:
            timeout: Seconds to wait for the event loop.
        """
        try:
            return readiness(self._bus.snapshot_from_thread(timeout))
        except (TimeoutError, DriverError) as error:
            return HealthReport(healthy=False, reasons=(str(error),))

    def _judge(self, snapshot: Snapshot) -> HealthReport:
        names = unique([each.name for each in snapshot.listeners])
        with self._lock:
            now, earlier, self._seen = self._clock(), self._seen, {}
            reasons: list[str] = []
            for name, listener in zip(names, snapshot.listeners, strict=True):
                work = listener.depth + listener.in_flight
                if not work or listener.state in PAUSED:
                    continue
                # Not those that were dropped: a stuck listener with a full mailbox drops, too.
                finished = listener.completed + listener.failed
                count, since = earlier.get(name, (finished, now))
                if count != finished:
                    since = now
                self._seen[name] = (finished, since)
                seconds = max(now - since, listener.suspended_for)
                if seconds >= self._limits.get(listener.name, self._stuck_after):
                    reasons.append(stuck(listener, seconds))
        return HealthReport(not reasons, tuple(reasons))


def readiness(snapshot: Snapshot) -> HealthReport:
    """Return whether a bus takes events."""
    reasons: list[str] = []
    if snapshot.state != "open":
        reasons.append(
            "the bus is not open yet" if snapshot.state == "new" else f"the bus is {snapshot.state}"
        )
    if snapshot.driver is not None and not snapshot.driver.connected:
        reasons.append("the driver is not connected to its broker")
    return HealthReport(not reasons, tuple(reasons))


def stuck(listener: ListenerSnapshot, seconds: float) -> str:
    """Return the reason for a listener that is stuck."""
    return (
        f"{listener.name} has finished no event for {seconds:.0f} s, with {listener.in_flight} in "
        f"flight and {listener.depth} waiting"
    )
