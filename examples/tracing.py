"""Spans of events: how they are made, sent and processed, and how one leads to the next."""

# --8<-- [start:setup]
import trio
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from goevent import Config, Event, GoEvent, MemoryDriver, MemoryHub
from goevent.telemetry.otel import OpenTelemetry


class OrderPaid(Event, name="order.paid"):
    order_id: int


class InvoiceSent(Event, name="invoice.sent"):
    order_id: int


def one_line(span: ReadableSpan) -> str:
    """Return the name, the kind and the relatives of a span."""
    parent = "" if span.parent is None else ", with a parent"
    links = f", with {len(span.links)} link" if span.links else ""
    return f"{span.name}: {span.kind.name}{parent}{links}\n"


# --8<-- [end:setup]


# --8<-- [start:run]
async def main() -> None:
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=one_line)))
    # The global provider would do, too: OpenTelemetry() takes that one.
    telemetry = OpenTelemetry(tracer_provider)

    # Two services in one process. With a broker, each has its own.
    hub = MemoryHub()
    shop = GoEvent(Config(driver=MemoryDriver(hub), middleware=(telemetry,)))
    billing = GoEvent(Config(driver=MemoryDriver(hub), middleware=(telemetry,)))

    @billing.listener(OrderPaid)
    async def invoice(event: OrderPaid) -> None:
        handle = await billing.dispatch(InvoiceSent(event.order_id))
        await handle.wait()

    finished = trio.Event()

    @shop.listener(InvoiceSent)
    async def note(event: InvoiceSent) -> None:
        finished.set()

    async with billing, shop:
        with tracer_provider.get_tracer("shop").start_as_current_span("POST /orders"):
            handle = await shop.dispatch(OrderPaid(7))
            await handle.wait()
        await finished.wait()


# --8<-- [end:run]


if __name__ == "__main__":
    trio.run(main)
