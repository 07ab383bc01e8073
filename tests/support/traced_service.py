"""A plain FastStream service with its own telemetry, in a process of its own.

It answers each `order.paid` with an `order.lost`, and prints each of its spans as JSON.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from faststream.kafka.opentelemetry import KafkaTelemetryMiddleware
from faststream.nats.opentelemetry import NatsTelemetryMiddleware
from faststream.rabbit.opentelemetry import RabbitTelemetryMiddleware
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from tests.support.faststream_service import PLAIN, Paid, say

MIDDLEWARES: dict[str, Any] = {
    "nats": NatsTelemetryMiddleware,
    "jetstream": NatsTelemetryMiddleware,
    "rabbit": RabbitTelemetryMiddleware,
    "kafka": KafkaTelemetryMiddleware,
}


class PrintingExporter(SpanExporter):
    """Prints the ids of spans."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            if span.context is not None:
                say(
                    span=span.name,
                    trace_id=span.context.trace_id,
                    span_id=span.context.span_id,
                    parent_id=None if span.parent is None else span.parent.span_id,
                )
        return SpanExportResult.SUCCESS


async def main(kind: str, url: str) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(PrintingExporter()))
    plain = PLAIN[kind](url)
    plain.broker.add_middleware(MIDDLEWARES[kind](tracer_provider=provider))

    async def work(event: Paid) -> None:
        await plain.publish({"n": event.n + 100}, "order.lost")

    plain.subscriber("order.paid")(work)
    async with plain.broker:
        await plain.broker.start()
        if plain.confirm is not None:
            await plain.confirm()
        say(ready=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
