"""The trace of an event on every driver: names, kinds, parents, links, attributes and errors."""

from __future__ import annotations

import pytest
from tests.support.redis_buses import Paid, opened, until
from tests.support.traced_brokers import BROKERS, making_buses
from tests.support.traces import Seen, Telemetry

from goevent import Retry, current_delivery

every_driver = pytest.mark.parametrize("kind", ["hub", *BROKERS])

SEND = Seen("send order.paid", "PRODUCER", parent="request")
PROCESS = Seen("process order.paid", "CONSUMER", links=("send order.paid",))
ACK = Seen("ack order.paid", "CLIENT", parent="process order.paid", links=("send order.paid",))


@every_driver
async def test_each_event_has_its_golden_trace(kind: str) -> None:
    telemetry = Telemetry()
    durable = kind != "hub" and BROKERS[kind].durable
    seen: list[int] = []
    async with making_buses(kind) as make:
        sender = make(middleware=(telemetry.middleware(),))
        receiver = make(middleware=(telemetry.middleware(),))

        @receiver.listener(Paid, retry=Retry(attempts=2, backoff=0.001))
        async def take(event: Paid) -> None:
            if event.n == 2 and current_delivery().attempt == 1:
                raise ValueError("not at once")
            seen.append(event.n)

        async with opened(receiver, sender):
            with telemetry.tracer.start_as_current_span("request"):
                handles = [await sender.dispatch(Paid(n=n)) for n in (1, 2)]
            for handle in handles:
                await handle.wait()
                handle.raise_errors()
            await until(lambda: len(seen) == 2)
            await receiver.wait()
            if durable:
                await until(lambda: len(telemetry.named("ack order.paid")) == 2)
    end = [ACK] if durable else []
    assert telemetry.trace_of(handles[0].id) == [SEND, PROCESS, *end]
    failed = PROCESS._replace(error="ValueError")
    retried = PROCESS._replace(attempt=2)
    assert telemetry.trace_of(handles[1].id) == [SEND, failed, retried, *end]

    # A span of its own, and so a trace of its own, for each run.
    runs = telemetry.named("process order.paid")
    assert len({run.context.trace_id for run in runs if run.context}) == 3
    shared = {
        "messaging.system": "goevent" if kind == "hub" else BROKERS[kind].system,
        "messaging.destination.name": "order.paid",
    }
    for span in telemetry.spans:
        if span.name == "request":
            continue
        attributes = dict(span.attributes or {})
        operation = span.name.partition(" ")[0]
        expected = {
            **shared,
            "messaging.operation.name": operation,
            "messaging.operation.type": "settle" if operation == "ack" else operation,
        }
        for name, value in expected.items():
            assert attributes[name] == value
        if kind != "hub":
            assert attributes["server.address"] == "127.0.0.1"
            assert isinstance(attributes["server.port"], int)
        group = "shop" if durable and operation != "send" else None
        assert attributes.get("messaging.consumer.group.name") == group
        if operation == "process":
            assert str(attributes["goevent.listener"]).endswith("take")

    # The measurements, without the buckets of time.
    sent = {**shared, "messaging.operation.name": "send"}
    ((attributes, count),) = telemetry.measured("messaging.client.sent.messages")
    assert count == 2
    assert attributes.items() >= sent.items()
    ((attributes, count),) = telemetry.measured("messaging.client.consumed.messages")
    assert count == 2
    assert attributes.items() >= shared.items()
    ((attributes, count),) = telemetry.measured("messaging.client.operation.duration")
    assert count == 2
    assert attributes.items() >= sent.items()
    runs_by_error = {
        attributes.get("error.type"): count
        for attributes, count in telemetry.measured("messaging.process.duration")
    }
    assert runs_by_error == {"ValueError": 1, None: 2}


@every_driver
async def test_events_of_a_batch_share_the_span_of_their_sending(kind: str) -> None:
    telemetry = Telemetry()
    seen: list[int] = []
    async with making_buses(kind) as make:
        sender = make(middleware=(telemetry.middleware(),))
        receiver = make(middleware=(telemetry.middleware(settle_spans=False),))

        @receiver.listener(Paid)
        async def take(event: Paid) -> None:
            seen.append(event.n)

        async with opened(receiver, sender):
            batch = sender.dispatch_many_nowait([Paid(n=n) for n in range(3)])
            await batch.wait()
            batch.raise_errors()
            await until(lambda: len(seen) == 3)
            await receiver.wait()
    create = Seen("create order.paid", "PRODUCER")
    process = Seen("process order.paid", "CONSUMER", links=("create order.paid",))
    for handle in batch:
        trace = telemetry.trace_of(handle.id)
        assert [each for each in trace if not each.name.startswith("send")] == [create, process]
    sends = telemetry.named("send order.paid")
    links = [link for span in sends for link in span.links]
    linked = [str(dict(link.attributes or {})["messaging.message.id"]) for link in links]
    assert sorted(linked) == sorted(handle.id for handle in batch)
    assert {telemetry.seen(span).kind for span in sends} == {"CLIENT"}
    # The hub takes one event at a time.
    assert len(sends) == (3 if kind == "hub" else 1)
    if kind != "hub":
        assert dict(sends[0].attributes or {})["messaging.batch.message_count"] == 3
