"""One trace through goevent and a FastStream service with its own telemetry, in both directions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.redis_buses import OrderLost, until
from tests.support.traced_brokers import BROKERS
from tests.support.traces import Telemetry
from tests.support.worker_process import running

URLS = {
    "nats": "nats://{addr}?format=faststream",
    "jetstream": "nats+js://{addr}?format=faststream&group=shop",
    "rabbit": "amqp://{addr}&format=faststream",
    "kafka": "kafka://{addr}?format=faststream&group=shop&claim_idle=6",
}
SERVICE_URLS = {"nats": "nats://{addr}", "jetstream": "nats://{addr}", "rabbit": "amqp://{addr}"}


@pytest.mark.parametrize("kind", URLS)
async def test_trace_goes_on_in_the_service_and_back(kind: str) -> None:
    async with BROKERS[kind].server() as addr:
        url = URLS[kind].format(addr=addr)
        if kind == "jetstream":
            # The service needs the stream, which a bus makes.
            maker = FastStreamBus(url)
            maker.seen(OrderLost)
            async with maker:
                pass
        service_url = SERVICE_URLS.get(kind, "{addr}").format(addr=addr)
        async with running("traced_service", kind, service_url) as service:
            await service.says('"ready"')
            for continue_trace in (False, True):
                telemetry = Telemetry()
                middleware = (telemetry.middleware(continue_trace=continue_trace),)
                bus = FastStreamBus(url, middleware=middleware)
                answers = bus.seen(OrderLost)
                before = len(service.said)
                async with bus:
                    with telemetry.tracer.start_as_current_span("request"):
                        await accepted(bus, 1)
                    await until(lambda answers=answers: len(answers) == 1)  # type: ignore[misc]
                    await bus.wait()
                    await service.says(" process", 1 + continue_trace)
                assert not bus.reports
                lines = [json.loads(line) for line in service.said[before:]]
                check(lines, telemetry, continue_trace=continue_trace)


def check(lines: list[dict[str, Any]], telemetry: Telemetry, *, continue_trace: bool) -> None:
    """Check the spans of a service and those of a bus."""
    spans: dict[str, Any] = {
        each["span"].rpartition(" ")[2] + " " + each["span"].rpartition(" ")[0][-4:]: each
        for each in lines
        if "span" in each
    }

    # From the bus to the service: its run is a child of the span that has sent the event.
    send = telemetry.only("send order.paid")
    assert send.context is not None
    processed = spans["process paid"]
    assert processed["trace_id"] == send.context.trace_id
    assert processed["parent_id"] == send.context.span_id

    # From the service to the bus.
    created = spans["create lost"]
    run = telemetry.only("process order.lost")
    (link,) = run.links
    assert link.context.span_id == created["span_id"]
    assert link.context.trace_id == created["trace_id"]
    assert (run.parent is not None) == continue_trace
    if run.parent is not None:
        assert run.parent.span_id == created["span_id"]
