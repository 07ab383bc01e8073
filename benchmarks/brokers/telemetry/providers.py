"""The providers of OpenTelemetry that the contenders share; they export to nowhere."""

from collections.abc import Sequence

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

BARE, NO_OP, SDK = "bare", "no-op tracer", "SDK"
"""No middleware; middleware without an SDK; middleware with an SDK and a batch exporter."""


class NullExporter(SpanExporter):
    """Drops the spans."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def providers(mode: str) -> tuple[TracerProvider | None, MeterProvider | None]:
    """Return the providers of a mode; None where the global ones, which do nothing, are used."""
    if mode != SDK:
        return None, None
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(BatchSpanProcessor(NullExporter()))
    return tracer_provider, MeterProvider([InMemoryMetricReader()])
