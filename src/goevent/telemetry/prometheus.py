"""Metrics of buses for Prometheus; the extra `prometheus`.

Applications register a `SnapshotCollector` with prometheus-client; the live page calls
`metrics_page`. Both take a snapshot of the bus when Prometheus scrapes, so the bus pays nothing
between two scrapes. `RunDurations` is the exception: a histogram needs the time of each run, so it
is middleware, which a bus has only if the application asks for it.

Theory of operation. A bus belongs to the thread of its event loop, and a scrape comes on any
thread. On another thread, the collector asks the event loop for the snapshot and waits for a
bounded time; only the snapshot itself takes time of the loop, under a millisecond for 1,000
listeners. The text is made on the scraping thread, which gives up the interpreter's lock every
millisecond, since a thread that keeps it stops the event loop for 5 ms. On the bus's own thread,
`metrics_page` yields to other tasks instead.

prometheus-client takes ten times longer for the text than `text_of` here, because it can write
more than this text. So `SnapshotCollector.text` writes it without that library.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from time import perf_counter
from typing import cast

import trio

from .._extras import missing_extra
from .._public import Delivery, GoEvent, Snapshot
from .metric_families import FAMILIES, BusState, MetricFamily, state_of

try:
    from prometheus_client import (
        REGISTRY,
        CollectorRegistry,
        Histogram,
        generate_latest,
    )
    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Sample
except ModuleNotFoundError as _error:
    raise missing_extra(_error, "prometheus", "goevent.telemetry.prometheus") from _error

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The `Content-Type` of `metrics_page` and `SnapshotCollector.text`."""

SLICE_SECONDS = 0.001
"""How long the text is written between two yields to other tasks or threads."""
ROWS_PER_PIECE = 64
"""The rows that are written between two looks at the clock."""
THREAD_YIELD_SECONDS = 0.00005
MAX_TIMED_LISTENERS = 2_000
"""The listener names of a `RunDurations`; a histogram has 14 series for each."""
DURATION_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)

logger: logging.Logger = logging.getLogger("goevent")


class SnapshotCollector:
    """Collects the metrics of one or several buses for a registry of prometheus-client.

    Register one collector in a registry, with all buses of the process: two collectors there would
    export the same metrics twice, and the registry refuses the second one.

    It may be scraped on any thread. A scrape never raises: a bus whose event loop does not answer
    within the timeout has `goevent_bus_responding 0` and no other metric. A bus that is closed has
    its last counts, until it is opened again.

    Args:
        bus: The first bus; None to `add` all of them.
        name: Its name, the value of the label `bus`.
        timeout: Seconds to wait for the event loop of a bus.

    Example:
        >>> bus = GoEvent()
        >>> registry = CollectorRegistry()
        >>> registry.register(SnapshotCollector(bus, name="orders"))
    """

    def __init__(
        self, bus: GoEvent | None = None, *, name: str = "main", timeout: float = 2.0
    ) -> None:
        self._buses: dict[str, GoEvent] = {}
        self._timeout = timeout
        if bus is not None:
            self.add(bus, name=name)

    def add(self, bus: GoEvent, *, name: str) -> None:
        """Collect the metrics of another bus, too.

        Args:
            bus: The bus.
            name: The value of the label `bus`.

        Raises:
            ValueError: Another bus has this name.
        """
        if name in self._buses:
            raise ValueError(f"the collector has a bus with the name {name!r}")
        # A new dict, because another thread may be iterating over the old one.
        self._buses = {**self._buses, name: bus}

    def remove(self, name: str) -> None:
        """Collect the metrics of a bus no more.

        Raises:
            KeyError: No bus has this name.
        """
        if name not in self._buses:
            raise KeyError(name)
        self._buses = {other: bus for other, bus in self._buses.items() if other != name}

    def describe(self) -> list[Metric]:
        """Return the metric families without samples; the registry asks for them once."""
        return [empty_metric(family) for family in FAMILIES]

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families of all buses, as prometheus-client expects them."""
        # The snapshots are taken when samples are read. `metrics_page` skips these families, and
        # must not wait for the event loop of another bus.
        buses = cache(self._states)
        for family in FAMILIES:
            metric = empty_metric(family)
            # The registry and the writers only iterate over them.
            metric.samples = cast("list[Sample]", LazySamples(family, buses))
            yield metric

    def text(self) -> bytes:
        """Return the metrics of all buses in the text format of Prometheus.

        It takes a tenth of the time of `prometheus_client.generate_latest`, and blocks the calling
        thread: in an event loop, `metrics_page` is the better choice.
        """
        pieces: list[str] = []
        slice_end = perf_counter() + SLICE_SECONDS
        for piece in text_of(self._states()):
            pieces.append(piece)
            if perf_counter() > slice_end:
                yield_thread()
                slice_end = perf_counter() + SLICE_SECONDS
        return "".join(pieces).encode()

    def _states(self) -> list[BusState]:
        return [state_of(name, self._snapshot(bus)) for name, bus in self._buses.items()]

    def _snapshot(self, bus: GoEvent) -> Snapshot | None:
        try:
            try:
                return bus.snapshot()
            except RuntimeError:  # this is another thread than that of the open bus
                return bus.snapshot_from_thread(self._timeout)
        except Exception as error:  # noqa: BLE001 - a scrape must show the other buses
            logger.warning("a scrape got no snapshot of a bus: %s", error)
            return None


class LazySamples:
    """The samples of a family, which are made as they are read.

    Between them other threads may run: a thread that writes text keeps the interpreter's lock for
    5 ms at a time, and the event loop cannot go on meanwhile.
    """

    def __init__(self, family: MetricFamily, buses: Callable[[], Sequence[BusState]]) -> None:
        self._family = family
        self._buses = buses

    def __iter__(self) -> Iterator[Sample]:
        family, labels = self._family, ("bus", *self._family.labels)
        return paced(
            Sample(family.name, dict(zip(labels, (bus.name, *values), strict=True)), value)
            for bus in self._buses()
            for values, value in family.rows(bus)
        )


def paced(samples: Iterator[Sample]) -> Iterator[Sample]:
    """Yield samples, and give up the interpreter's lock every `SLICE_SECONDS`."""
    slice_end = perf_counter() + SLICE_SECONDS
    for number, sample in enumerate(samples):
        yield sample
        if not number % ROWS_PER_PIECE and perf_counter() > slice_end:
            yield_thread()
            slice_end = perf_counter() + SLICE_SECONDS


def yield_thread() -> None:
    """Let another thread run; does nothing in an event loop, which it would block."""
    if not trio.lowlevel.in_trio_run():
        # A real pause: a thread that takes the lock again at once does not let another one in.
        time.sleep(THREAD_YIELD_SECONDS)


def empty_metric(family: MetricFamily) -> Metric:
    # prometheus-client appends the `_total` of a counter.
    return Metric(family.name.removesuffix("_total"), family.help, family.kind)


# -- text


def text_of(buses: Sequence[BusState]) -> Iterator[str]:
    """Yield the text format of Prometheus in pieces of a few rows each."""
    escaped = EscapedLabels()
    for family in FAMILIES:
        yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n"
        for bus in buses:
            rows = iter(family.rows(bus))
            labels = ["bus", *family.labels]
            # The parts of a line before, between and behind the values of the labels.
            first, *middle = [f'{label}="' for label in labels]
            head = f"{family.name}{{{first}{escaped[bus.name]}"
            start = f'{head}",{middle[0]}' if middle else head
            between = f'",{middle[1]}' if len(middle) > 1 else ""
            while piece := [*islice(rows, ROWS_PER_PIECE)]:
                # Written out for each number of labels, because there are thousands of rows.
                if not middle:
                    lines = [f'{start}"}} {value}\n' for _, value in piece]
                elif not between:
                    lines = [f'{start}{escaped[one]}"}} {value}\n' for (one,), value in piece]
                else:
                    lines = [
                        f'{start}{escaped[one]}{between}{escaped[two]}"}} {value}\n'
                        for (one, two), value in piece
                    ]
                yield "".join(lines)


class EscapedLabels(dict[str, str]):
    """The label values of one scrape in the text format, each made once."""

    def __missing__(self, value: str) -> str:
        text = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        # A lone surrogate cannot be written.
        self[value] = text = text.encode("utf-8", "replace").decode()
        return text


async def metrics_page(
    bus: GoEvent, *, name: str = "main", registry: CollectorRegistry | None = REGISTRY
) -> bytes:
    """Return the metrics of a bus, and those of a registry, in the text format of Prometheus.

    For web applications in the event loop of the bus; `CONTENT_TYPE` belongs to it. It yields to
    other tasks every millisecond. A cancelled call changes nothing. The registry is read in a
    worker thread, as by the servers of prometheus-client.

    Args:
        bus: The bus, which is open on this thread, or not open.
        name: The value of the label `bus`.
        registry: Its other metrics follow, for example those of the process; None for none. The
            metrics of a `SnapshotCollector` there are left out.

    Raises:
        RuntimeError: The bus is open on another thread.
    """
    pieces: list[str] = []
    slice_end = perf_counter() + SLICE_SECONDS
    await trio.lowlevel.checkpoint()
    for piece in text_of([state_of(name, bus.snapshot())]):
        pieces.append(piece)
        if perf_counter() > slice_end:
            await trio.lowlevel.checkpoint()
            slice_end = perf_counter() + SLICE_SECONDS
    text = "".join(pieces).encode()
    if registry is None:
        return text
    # A histogram of many listeners has too many samples for one step of the event loop.
    others = await trio.to_thread.run_sync(text_of_others, registry, abandon_on_cancel=True)
    return text + others


def text_of_others(registry: CollectorRegistry) -> bytes:
    """Return the metrics of a registry in the text format, without those of snapshots."""
    own = {metric.name for metric in map(empty_metric, FAMILIES)}
    metrics = (metric for metric in registry.collect() if metric.name not in own)
    return b"".join([generate_latest(OneMetric(metric)) for metric in metrics])


class OneMetric(CollectorRegistry):
    """A registry of one metric family that was collected already."""

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        """Yield the family."""
        yield self._metric


# -- durations


class RunDurations:
    """Middleware that measures each run of each listener in a histogram.

    The metric is `goevent_run_duration_seconds`, with the labels `bus` and `listener`. Each attempt
    counts as one run, however it ends. It costs each run some microseconds and makes dispatch take
    its slower path for inline listeners, so a bus has it only if you ask for it.

    A histogram has 14 series for each listener; after 2,000 names, all others are `"(others)"`.

    Args:
        bus: The value of the label `bus`.
        registry: The registry of prometheus-client.
        buckets: The upper bounds of the buckets in seconds.

    Raises:
        ValueError: The registry has the metric already: use `for_bus` for a second bus.

    Example:
        >>> durations = RunDurations(registry=CollectorRegistry())
        >>> bus = GoEvent(Config(middleware=(durations,)))
    """

    def __init__(
        self,
        *,
        bus: str = "main",
        registry: CollectorRegistry | None = REGISTRY,
        buckets: Sequence[float] = DURATION_BUCKETS,
    ) -> None:
        self._bus = bus
        self._histogram = Histogram(
            "goevent_run_duration_seconds",
            "Time that one run of the listener took.",
            ("bus", "listener"),
            registry=registry,
            buckets=tuple(buckets),
        )
        self._series: dict[str, Histogram] = {}

    def for_bus(self, bus: str) -> RunDurations:
        """Return middleware for another bus, which measures into the same histogram.

        Args:
            bus: The value of the label `bus`.
        """
        other = object.__new__(RunDurations)
        other._bus, other._histogram, other._series = bus, self._histogram, {}
        return other

    def around_call(self, delivery: Delivery, /) -> Iterator[None]:
        """Measure one run of a listener."""
        series = self._series.get(delivery.listener) or self._new_series(delivery.listener)
        start = perf_counter()
        try:
            yield
        finally:
            series.observe(perf_counter() - start)

    def _new_series(self, listener: str) -> Histogram:
        name = listener.encode("utf-8", "replace").decode()
        if len(self._series) >= MAX_TIMED_LISTENERS:
            return self._histogram.labels(self._bus, "(others)")
        self._series[listener] = series = self._histogram.labels(self._bus, name)
        return series
