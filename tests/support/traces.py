"""Traces and measurements in memory, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from goevent.telemetry.otel import OpenTelemetry


class Seen(NamedTuple):
    """A span, without what differs from run to run.

    Attributes:
        name: Its name.
        kind: Its kind.
        parent: The name of its parent; empty at the root of a trace, "?" for one of another
            program.
        links: The names of the spans that it links to.
        error: Its `error.type`; empty if it has not failed.
        attempt: The number of the attempt.
    """

    name: str
    kind: str
    parent: str = ""
    links: tuple[str, ...] = ()
    error: str = ""
    attempt: int = 1


class Telemetry:
    """The providers of one test, and everything that was recorded."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader])
        self.tracer = self.tracer_provider.get_tracer("tests")

    def middleware(self, **options: Any) -> OpenTelemetry:
        """Return middleware that records here."""
        return OpenTelemetry(self.tracer_provider, self.meter_provider, **options)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """The spans that have ended, in the order of their beginnings."""
        finished = self._exporter.get_finished_spans()
        return sorted(finished, key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the spans of a name."""
        return [span for span in self.spans if span.name == name]

    def only(self, name: str) -> ReadableSpan:
        """Return the only span of a name."""
        (span,) = self.named(name)
        return span

    def trace_of(self, message_id: str) -> list[Seen]:
        """Return the spans of a message, in the order of their beginnings."""
        return [
            self.seen(span)
            for span in self.spans
            if (span.attributes or {}).get("messaging.message.id") == message_id
        ]

    def seen(self, span: ReadableSpan) -> Seen:
        """Return a span without what differs from run to run."""
        attributes = dict(span.attributes or {})
        return Seen(
            span.name,
            span.kind.name,
            "" if span.parent is None else self._name_of(span.parent.span_id),
            tuple(self._name_of(link.context.span_id) for link in span.links),
            str(attributes.get("error.type", "")),
            int(str(attributes.get("goevent.attempt", 1))),
        )

    def _name_of(self, span_id: int) -> str:
        for span in self.spans:
            if span.context is not None and span.context.span_id == span_id:
                return span.name
        return "?"

    def measured(self, name: str) -> list[tuple[dict[str, Any], int | float]]:
        """Return the attributes and the count, or the sum, of each series of a metric."""
        points = points_of(self._reader.get_metrics_data(), name)
        return [
            (dict(each.attributes), getattr(each, "count", None) or each.value) for each in points
        ]


def points_of(data: Any, name: str) -> list[Any]:
    """Return the data points of a metric; the classes of the SDK have partly unknown types."""
    found: list[Any] = []
    if data is None:
        return found
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name == name:
                    found += metric.data.data_points
    return found
