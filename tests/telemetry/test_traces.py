"""The spans of one process: their parents, their links, and contexts of strangers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import trio
import trio.testing
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from tests.support.redis_buses import OrderLost, Paid
from tests.support.traced_brokers import bus_of
from tests.support.traces import Seen, Telemetry

from goevent import (
    Delivery,
    DispatchHandle,
    Event,
    GoEvent,
    MailboxFull,
    MemoryDriver,
    MemoryHub,
    Veto,
    current_delivery,
)
from goevent.telemetry.otel import OpenTelemetry
from goevent_faststream import FastStreamDriver

CREATE, PROCESS = "create order.paid", "process order.paid"


def local_bus(telemetry: Telemetry, **options: Any) -> GoEvent:
    return bus_of(MemoryDriver(), middleware=(telemetry.middleware(**options),))


def trace_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


async def test_bus_without_a_broker_creates_and_processes() -> None:
    telemetry = Telemetry()
    bus = local_bus(telemetry)

    @bus.listener(Paid)
    async def take(event: Paid) -> None: ...

    async with bus:
        handle = await bus.dispatch(Paid())
        await handle.wait()
    assert telemetry.trace_of(handle.id) == [
        Seen(CREATE, "PRODUCER"),
        Seen(PROCESS, "CONSUMER", links=(CREATE,)),
    ]
    assert telemetry.measured("messaging.client.sent.messages") == []
    assert telemetry.measured("messaging.client.consumed.messages") == []


async def test_span_in_which_the_bus_was_opened_is_no_parent_of_later_runs() -> None:
    telemetry = Telemetry()
    bus = local_bus(telemetry)

    @bus.listener(Paid)
    async def take(event: Paid) -> None: ...

    with telemetry.tracer.start_as_current_span("startup"):
        await bus.__aenter__()
    handle = await bus.dispatch(Paid())
    await handle.wait()
    await bus.__aexit__(None, None, None)
    assert telemetry.only(PROCESS).parent is None


async def test_listener_inside_the_dispatch_is_a_child_of_the_dispatchers_span() -> None:
    telemetry = Telemetry()
    bus = local_bus(telemetry)

    @bus.listener(Paid)
    def inline(event: Paid) -> None: ...

    @bus.listener(Paid, async_=False)
    async def awaited(event: Paid) -> None:
        await trio.lowlevel.checkpoint()

    @bus.listener(Paid, context=True)
    async def with_context(event: Paid) -> None: ...

    async with bus:
        with telemetry.tracer.start_as_current_span("request"):
            handle = await bus.dispatch(Paid())
        await handle.wait()
    runs = [telemetry.seen(span) for span in telemetry.named(PROCESS)]
    assert runs == [Seen(PROCESS, "CONSUMER", "request", (CREATE,))] * 3
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize("way", ["inline", "awaited", "mailbox", "sync mailbox", "thread"])
async def test_event_that_a_listener_dispatches_is_a_child_of_its_run(way: str) -> None:
    telemetry = Telemetry()
    bus = local_bus(telemetry)

    def take(event: Paid) -> None:
        bus.dispatch_nowait(OrderLost())

    async def take_async(event: Paid) -> None:
        await trio.lowlevel.checkpoint()
        await bus.dispatch(OrderLost())

    def take_in_thread(event: Paid) -> None:
        bus.dispatch_from_thread(OrderLost())

    match way:
        case "inline":
            bus.subscribe(take, Paid)
        case "awaited":
            bus.subscribe(take_async, Paid, async_=False)
        case "mailbox":
            bus.subscribe(take_async, Paid)
        case "sync mailbox":
            bus.subscribe(take, Paid, async_=True)
        case _:
            bus.subscribe(take_in_thread, Paid, thread=True)
    async with bus:
        handle = await bus.dispatch(Paid())
        await handle.wait()
        handle.raise_errors()
    assert telemetry.seen(telemetry.only("create order.lost")).parent == PROCESS


async def test_event_from_another_thread_is_a_child_of_the_span_there() -> None:
    telemetry = Telemetry()
    bus = local_bus(telemetry)

    def work() -> None:
        with telemetry.tracer.start_as_current_span("job"):
            bus.dispatch_from_thread(Paid())

    async with bus:
        await trio.to_thread.run_sync(work)
    assert telemetry.seen(telemetry.only(CREATE)).parent == "job"


async def test_continued_trace_has_the_creation_as_parent_and_the_dispatcher_as_link() -> None:
    telemetry = Telemetry()
    bus = local_bus(telemetry, continue_trace=True)

    @bus.listener(Paid)
    def inline(event: Paid) -> None: ...

    @bus.listener(Paid)
    async def take(event: Paid) -> None: ...

    async with bus:
        with telemetry.tracer.start_as_current_span("request"):
            handle = await bus.dispatch(Paid())
        await handle.wait()
    assert [telemetry.seen(span) for span in telemetry.named(PROCESS)] == [
        Seen(PROCESS, "CONSUMER", CREATE, (CREATE, "request")),
        Seen(PROCESS, "CONSUMER", CREATE, (CREATE,)),
    ]
    assert len({trace_id(span) for span in telemetry.spans}) == 1


# -- the context in the headers


class Headers:
    """Middleware that adds headers to every dispatch."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers

    def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
        handle.headers.update(self.headers)
        yield


OWN_CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_creation_context_of_the_application_is_kept() -> None:
    telemetry, hub = Telemetry(), MemoryHub()
    given = Headers({"traceparent": OWN_CONTEXT, "correlation_id": "order-7"})
    bus = bus_of(MemoryDriver(hub), middleware=(given, telemetry.middleware()))
    headers: list[Mapping[str, str]] = []

    @bus.listener(Paid)
    def take(event: Paid) -> None:
        headers.append({**current_delivery().headers})

    async with bus:
        await bus.dispatch(Paid())
    assert headers == [given.headers]
    send, run = telemetry.only("send order.paid"), telemetry.only(PROCESS)
    assert send.kind is trace.SpanKind.CLIENT
    for span in (send, run):
        assert [f"{link.context.trace_id:x}" for link in span.links] == [OWN_CONTEXT[4:35]]
        assert dict(span.attributes or {})["messaging.message.conversation_id"] == "order-7"


async def test_spans_have_the_ids_of_the_causes() -> None:
    telemetry = Telemetry()
    bus = bus_of(MemoryDriver(MemoryHub()), middleware=(telemetry.middleware(),))

    async def follow(event: Event) -> None:
        await bus.dispatch(Paid())

    bus.subscribe(follow, "order.shipped")

    bus.subscribe(lambda event: None, Paid)
    async with bus:
        first = await bus.dispatch(Event("order.shipped"))
        await first.wait()
        await bus.wait()
    spans = [dict(span.attributes or {}) for span in telemetry.spans]
    causes = {str(each.get("goevent.causation_id", "")) for each in spans}
    assert causes == {"", first.id}
    assert {str(each["messaging.message.conversation_id"]) for each in spans} == {first.id}


HOSTILE = {
    "nothing": {"traceparent": ""},
    "nonsense": {"traceparent": "nonsense"},
    "zeros": {"traceparent": f"00-{'0' * 32}-{'0' * 16}-01"},
    "a version that does not exist": {"traceparent": OWN_CONTEXT.replace("00-", "ff-", 1)},
    "upper case": {"traceparent": OWN_CONTEXT.upper()},
    "much too long": {"traceparent": OWN_CONTEXT + "-" + "x" * 100_000},
    "lines": {"traceparent": OWN_CONTEXT + "\r\nx: y"},
    "only a state": {"tracestate": "a=b"},
    "a baggage of a megabyte": {"baggage": "a=b," * 250_000},
    "a baggage of nonsense": {"baggage": "=,;=\x00,%zz=%"},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", HOSTILE)
async def test_hostile_headers_are_ignored(what: str) -> None:
    telemetry, hub = Telemetry(), MemoryHub()
    # The sender has no telemetry, so the headers arrive as they are.
    sender = bus_of(MemoryDriver(hub), middleware=(Headers(HOSTILE[what]),))
    receiver = bus_of(MemoryDriver(hub), middleware=(telemetry.middleware(),))
    seen: list[Paid] = []

    @receiver.listener(Paid)
    async def take(event: Paid) -> None:
        seen.append(event)

    async with receiver, sender:
        handle = await sender.dispatch(Paid())
        await handle.wait()
        while not seen:
            await trio.testing.wait_all_tasks_blocked()
        await receiver.wait()
        assert not receiver.errors
    run = telemetry.seen(telemetry.only(PROCESS))
    assert run == Seen(PROCESS, "CONSUMER")


async def test_baggage_reaches_the_listener_and_the_events_that_it_dispatches() -> None:
    telemetry = Telemetry()
    bus = local_bus(telemetry)
    found: list[object] = []

    @bus.listener(Paid)
    async def take(event: Paid) -> None:
        found.append(baggage.get_baggage("tenant"))
        await bus.dispatch(OrderLost())

    @bus.listener(OrderLost)
    async def take_next(event: OrderLost) -> None:
        found.append(baggage.get_baggage("tenant"))

    async with bus:
        token = context.attach(baggage.set_baggage("tenant", "acme"))
        await bus.dispatch(Paid())
        context.detach(token)
        await bus.wait()
        await bus.wait()
    assert found == ["acme", "acme"]


class FailingPropagator(TextMapPropagator):
    """A propagator that cannot read the headers."""

    @property
    def fields(self) -> set[str]:
        return {"x-trace"}

    def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Any:
        raise ValueError("bad header")

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        carrier["x-trace"] = "1"


@pytest.fixture
def failing_propagator() -> Iterator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(FailingPropagator())
    yield
    propagate.set_global_textmap(before)


@pytest.mark.usefixtures("failing_propagator")
async def test_configured_propagator_is_used_and_may_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    telemetry, hub = Telemetry(), MemoryHub()
    sender, receiver = (
        bus_of(MemoryDriver(hub), middleware=(telemetry.middleware(),)) for _ in range(2)
    )
    headers: list[Mapping[str, str]] = []

    @receiver.listener(Paid)
    async def take(event: Paid) -> None:
        headers.append(current_delivery().headers)

    async with receiver, sender:
        for _ in range(2):
            handle = await sender.dispatch(Paid())
            await handle.wait()
        while len(headers) < 2:
            await trio.testing.wait_all_tasks_blocked()
    assert headers == [{"x-trace": "1"}] * 2
    assert [each.links for each in telemetry.named(PROCESS)] == [(), ()]
    assert len(caplog.records) == 1


async def test_without_an_sdk_the_context_of_the_caller_passes_through() -> None:
    telemetry = Telemetry()
    bus = bus_of(MemoryDriver(), middleware=(OpenTelemetry(),))
    headers: list[Mapping[str, str]] = []

    @bus.listener(Paid)
    async def take(event: Paid) -> None:
        headers.append(current_delivery().headers)

    async with bus:
        with telemetry.tracer.start_as_current_span("request"):
            await bus.dispatch(Paid())
        await bus.wait()
    assert f"{trace_id(telemetry.only('request')):x}" in headers[0]["traceparent"]


# -- providers that fail


class FailingProcessor(SpanProcessor):
    """A span processor that fails at the beginning or at the end of a span."""

    def __init__(self, where: str) -> None:
        self.where = where

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self.where == "start":
            raise ValueError("no")

    def on_end(self, span: Any) -> None:
        if self.where == "end":
            raise ValueError("no")


class FailingInstrument:
    """A counter and a histogram that fail."""

    def add(self, *_: Any) -> None:
        raise ValueError("no")

    record = add


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("part", ["start", "end", "meter"])
async def test_providers_that_fail_keep_no_event_from_its_listeners(
    part: str, many: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hub, seen = MemoryHub(), list[Paid]()

    def bus() -> GoEvent:
        telemetry = Telemetry()
        telemetry.tracer_provider.add_span_processor(FailingProcessor(part))
        middleware = telemetry.middleware()
        if part == "meter":
            failing: Any = FailingInstrument()
            middleware.sent_messages = middleware.consumed_messages = failing
            middleware.operation_duration = middleware.process_duration = failing
        return bus_of(MemoryDriver(hub), middleware=(middleware,))

    sender, receiver = bus(), bus()

    @receiver.listener(Paid)
    async def take(event: Paid) -> None:
        seen.append(event)

    async with receiver, sender:
        handle = await (sender.dispatch_many([Paid()] * 3) if many else sender.dispatch(Paid()))
        await handle.wait()
        while len(seen) < (3 if many else 1):
            await trio.testing.wait_all_tasks_blocked()
        await receiver.wait()
        assert (handle.errors, sender.errors, receiver.errors) == ((), (), ())
    assert len([each for each in caplog.records if each.name == "goevent.telemetry"]) == 2


class Unprintable(Exception):
    """An exception that has no text."""

    def __str__(self) -> str:
        raise ValueError("no")


async def test_failed_run_whose_exception_has_no_text_keeps_its_exception() -> None:
    telemetry = Telemetry()
    bus = local_bus(telemetry)

    @bus.listener(Paid)
    async def take(event: Paid) -> None:
        raise Unprintable

    async with bus:
        handle = await bus.dispatch(Paid())
        await handle.wait()
        assert [type(each.error) for each in handle.errors] == [Unprintable]
    run = telemetry.only(PROCESS)
    assert run.status.status_code is trace.StatusCode.ERROR
    assert telemetry.seen(run).error.endswith(".Unprintable")


# -- ends


async def test_veto_is_no_error_of_the_run() -> None:
    class Refuses:
        def around_call(self, delivery: Delivery) -> Iterator[None]:
            raise Veto("not today")
            yield

    telemetry = Telemetry()
    bus = bus_of(MemoryDriver(), middleware=(telemetry.middleware(), Refuses()))

    @bus.listener(Paid)
    async def take(event: Paid) -> None: ...

    async with bus:
        handle = await bus.dispatch(Paid())
        await handle.wait()
    assert telemetry.seen(telemetry.only(PROCESS)).error == ""


async def test_event_that_is_not_dispatched_ends_its_span_with_the_error() -> None:
    telemetry = Telemetry()
    bus = bus_of(MemoryDriver(MemoryHub()), middleware=(telemetry.middleware(),))
    release = trio.Event()

    @bus.listener(Paid, mailbox=1, overflow="error")
    async def take(event: Paid) -> None:
        await release.wait()

    async with bus:
        await bus.dispatch(Paid())
        await trio.testing.wait_all_tasks_blocked()
        await bus.dispatch(Paid())
        with pytest.raises(MailboxFull):
            await bus.dispatch(Paid())
        release.set()
    sends = [telemetry.seen(span) for span in telemetry.named("send order.paid")]
    assert [each.error for each in sends] == ["", "", "goevent.MailboxFull"]


async def test_failed_run_holds_its_exception_only_if_asked_to() -> None:
    for records in (True, False):
        telemetry = Telemetry()
        bus = local_bus(telemetry, record_exceptions=records)

        @bus.listener(Paid)
        async def take(event: Paid) -> None:
            raise LookupError("the secret")

        async with bus:
            handle = await bus.dispatch(Paid())
            await handle.wait()
            assert handle.errors
        run = telemetry.only(PROCESS)
        assert run.status.status_code is trace.StatusCode.ERROR
        assert ("the secret" in run.to_json()) == records
        assert telemetry.seen(run).error == "LookupError"


async def test_one_object_serves_several_buses() -> None:
    telemetry = Telemetry()
    middleware = telemetry.middleware()
    drivers = MemoryDriver(), FastStreamDriver.from_url("nats://ann:secret@there:4333")
    for driver in drivers:
        bus_of(driver, middleware=(middleware,))
    identity = drivers[1].identity
    assert (identity.system, identity.address, identity.port) == ("nats", "there", 4333)
    assert "secret" not in repr(identity)


@pytest.mark.parametrize("kind", ["tracer_provider", "meter_provider"])
def test_an_object_that_is_no_provider_is_refused(kind: str) -> None:
    wrong: dict[str, Any] = {kind: "https://collector"}
    with pytest.raises(TypeError, match="a provider has a method get_"):
        OpenTelemetry(**wrong)
