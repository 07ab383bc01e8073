"""The metric families of a bus: the names, labels and values that Prometheus gets.

`prometheus` exports them. The values come from `Snapshot` alone, so this module needs no library.
The table `FAMILIES` is the only place with names and help texts; the docs are made from it.

Cardinality: a family per listener has one series for each registered listener, a family per event
has one for each name in `Snapshot.events`, which is bounded for names that come from outside, and a
family per group has one for each name that the group reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from .._public import Backlog, ListenerSnapshot, Snapshot

Row = tuple[tuple[str, ...], float]
"""The values of the labels after `bus`, and the value of the sample."""

STATES = ("new", "open", "draining", "closed")


@dataclass(frozen=True, slots=True)
class BusState:
    """One bus at a scrape.

    Attributes:
        name: The value of the label `bus`.
        snapshot: Its snapshot; None if the event loop of the bus did not answer in time.
        listeners: The names of the listeners in the snapshot, each made unique.
    """

    name: str
    snapshot: Snapshot | None
    listeners: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """One metric family.

    Attributes:
        name: The name of its samples; that of a counter ends with `_total`.
        kind: The type.
        help: What it counts or measures, in one line.
        labels: The labels after `bus`, at most two.
        rows: Returns the samples of one bus.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...]
    rows: Callable[[BusState], Iterable[Row]]


def state_of(name: str, snapshot: Snapshot | None) -> BusState:
    """Return a bus at a scrape, with listener names that Prometheus can tell apart."""
    if snapshot is None:
        return BusState(name, None)
    return BusState(name, snapshot, unique([each.name for each in snapshot.listeners]))


def unique(names: list[str]) -> list[str]:
    """Return names as label values: encodable, and with a number where one is there twice."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError:  # a lone surrogate, which no text format can carry
        names = [name.encode("utf-8", "replace").decode() for name in names]
    if len(set(names)) == len(names):
        return names
    seen: dict[str, int] = {}
    taken = set(names)
    result: list[str] = []
    for name in names:
        number = seen.get(name, 0) + 1
        chosen = name
        while number > 1 and (chosen := f"{name} #{number}") in taken:
            number += 1
        seen[name] = number
        taken.add(chosen)
        result.append(chosen)
    return result


# -- rows


def responding(bus: BusState) -> Iterable[Row]:
    yield (), 0 if bus.snapshot is None else 1


def states(bus: BusState) -> Iterable[Row]:
    if bus.snapshot is not None:
        for state in STATES:
            yield (state,), int(bus.snapshot.state == state)


def of_bus(value: Callable[[Snapshot], float]) -> Callable[[BusState], Iterable[Row]]:
    """Return the rows of a family with one series for each bus."""

    def rows(bus: BusState) -> Iterable[Row]:
        if bus.snapshot is not None:
            yield (), value(bus.snapshot)

    return rows


def of_listeners(
    value: Callable[[ListenerSnapshot], float], *, mailed: bool = False
) -> Callable[[BusState], Iterable[Row]]:
    """Return the rows of a family with one series for each listener, or each with a mailbox."""

    def rows(bus: BusState) -> Iterable[Row]:
        if bus.snapshot is not None:
            for name, each in zip(bus.listeners, bus.snapshot.listeners, strict=True):
                if not (mailed and each.inline):
                    yield (name,), value(each)

    return rows


def deliveries(bus: BusState) -> Iterable[Row]:
    if bus.snapshot is not None:
        for name, each in zip(bus.listeners, bus.snapshot.listeners, strict=True):
            yield (name, "completed"), each.completed
            yield (name, "failed"), each.failed
            yield (name, "dropped"), each.dropped
            yield (name, "abandoned"), each.abandoned


def dispatched(bus: BusState) -> Iterable[Row]:
    if bus.snapshot is not None:
        for each in bus.snapshot.events:
            yield (each.name,), each.dispatched


def arrived(bus: BusState) -> Iterable[Row]:
    if bus.snapshot is not None and bus.snapshot.driver is not None:
        for each in bus.snapshot.events:
            yield (each.name,), each.arrived


def requests(bus: BusState) -> Iterable[Row]:
    if bus.snapshot is not None:
        counts = bus.snapshot.requests
        yield ("answered",), counts.answered
        yield ("failed",), counts.failed
        yield ("cancelled",), counts.cancelled
        yield ("timed_out",), counts.timed_out


def waiting_requests(snapshot: Snapshot) -> int:
    """Return the number of requests that have not ended."""
    counts = snapshot.requests
    ended = counts.answered + counts.failed + counts.cancelled + counts.timed_out
    return counts.asked - ended


def unused_messages(bus: BusState) -> Iterable[Row]:
    if bus.snapshot is not None:
        yield ("late",), bus.snapshot.requests.late
        yield ("malformed",), bus.snapshot.requests.malformed


def connected(bus: BusState) -> Iterable[Row]:
    if bus.snapshot is not None and bus.snapshot.driver is not None:
        yield (), int(bus.snapshot.driver.connected)


def of_backlogs(
    value: Callable[[Backlog], float | None],
) -> Callable[[BusState], Iterable[Row]]:
    """Return the rows of a family with one series for each event name that a group reads."""

    def rows(bus: BusState) -> Iterable[Row]:
        if bus.snapshot is not None and (driver := bus.snapshot.driver) is not None:
            for each in driver.backlogs:
                number = value(each)
                if number is not None:
                    yield (driver.group, each.event_name), number

    return rows


LISTENER = ("listener",)
GROUP = ("group", "event")

FAMILIES: tuple[MetricFamily, ...] = (
    MetricFamily(
        "goevent_bus_responding",
        "gauge",
        "1 if the event loop of the bus has answered the scrape in time, otherwise 0.",
        (),
        responding,
    ),
    MetricFamily(
        "goevent_bus_state",
        "gauge",
        "1 for the present state of the bus: new, open, draining or closed.",
        ("state",),
        states,
    ),
    MetricFamily(
        "goevent_events_dispatched_total",
        "counter",
        "Events that the bus has dispatched.",
        ("event",),
        dispatched,
    ),
    MetricFamily(
        "goevent_events_arrived_total",
        "counter",
        "Events that the driver has brought from other buses.",
        ("event",),
        arrived,
    ),
    MetricFamily(
        "goevent_deliveries_total",
        "counter",
        "Deliveries that have ended, by outcome: completed, failed, dropped or abandoned.",
        ("listener", "outcome"),
        deliveries,
    ),
    MetricFamily(
        "goevent_deliveries_in_flight",
        "gauge",
        "Events that the listener works on.",
        LISTENER,
        of_listeners(lambda listener: listener.in_flight),
    ),
    MetricFamily(
        "goevent_mailbox_depth",
        "gauge",
        "Events that wait in the mailbox of the listener.",
        LISTENER,
        of_listeners(lambda listener: listener.depth, mailed=True),
    ),
    MetricFamily(
        "goevent_mailbox_oldest_age_seconds",
        "gauge",
        "Time that the oldest event in the mailbox has waited; 0 if it is empty.",
        LISTENER,
        of_listeners(lambda listener: listener.oldest_age, mailed=True),
    ),
    MetricFamily(
        "goevent_listener_restarts_total",
        "counter",
        "Restarts of the listener by its supervision.",
        LISTENER,
        of_listeners(lambda listener: listener.restarts),
    ),
    MetricFamily(
        "goevent_errors_total",
        "counter",
        "Failures that the supervisor has recorded, of listeners and of the driver.",
        (),
        of_bus(lambda snapshot: snapshot.error_count),
    ),
    MetricFamily(
        "goevent_redelivered_events_total",
        "counter",
        "Events that arrived again because an earlier delivery was not acknowledged.",
        (),
        of_bus(lambda snapshot: snapshot.redelivered),
    ),
    MetricFamily(
        "goevent_dead_letters_total",
        "counter",
        "Events that the bus has given up and made dead letters.",
        (),
        of_bus(lambda snapshot: snapshot.dead_lettered),
    ),
    MetricFamily(
        "goevent_missing_events_total",
        "counter",
        "Events of other buses that were lost on their way, as gaps in their numbers show.",
        (),
        of_bus(lambda snapshot: snapshot.missing),
    ),
    MetricFamily(
        "goevent_requests_total",
        "counter",
        "Requests of the bus that have ended: answered, failed, cancelled or timed_out.",
        ("outcome",),
        requests,
    ),
    MetricFamily(
        "goevent_requests_waiting",
        "gauge",
        "Requests of the bus that wait for their answer.",
        (),
        of_bus(waiting_requests),
    ),
    MetricFamily(
        "goevent_requests_served_total",
        "counter",
        "Requests that the responders of the bus got, from this bus or from others.",
        (),
        of_bus(lambda snapshot: snapshot.requests.served),
    ),
    MetricFamily(
        "goevent_requests_served_cancelled_total",
        "counter",
        "Served requests whose requester stopped waiting or ended.",
        (),
        of_bus(lambda snapshot: snapshot.requests.served_cancelled),
    ),
    MetricFamily(
        "goevent_unused_messages_total",
        "counter",
        "Direct messages that were of no use: late, for a request that is over, or malformed.",
        ("reason",),
        unused_messages,
    ),
    MetricFamily(
        "goevent_driver_connected",
        "gauge",
        "1 if the driver is connected to its broker, 0 while it tries to reach it.",
        (),
        connected,
    ),
    MetricFamily(
        "goevent_group_lag",
        "gauge",
        "Events that the broker has not delivered to the group yet.",
        GROUP,
        of_backlogs(lambda backlog: backlog.lag),
    ),
    MetricFamily(
        "goevent_group_pending",
        "gauge",
        "Events that were delivered to the group and are not acknowledged.",
        GROUP,
        of_backlogs(lambda backlog: backlog.pending),
    ),
    MetricFamily(
        "goevent_group_oldest_waiting_age_seconds",
        "gauge",
        "Age of the oldest event that was not delivered to the group yet; 0 without one.",
        GROUP,
        of_backlogs(lambda backlog: backlog.oldest_waiting),
    ),
    MetricFamily(
        "goevent_group_oldest_pending_age_seconds",
        "gauge",
        "Age of the oldest event that is pending in the group; 0 without one.",
        GROUP,
        of_backlogs(lambda backlog: backlog.oldest_pending),
    ),
)
