"""Traces and metrics by OpenTelemetry's conventions for messaging; the extra `otel`.

`OpenTelemetry` is middleware, which an application puts into `Config.middleware`. It needs
`opentelemetry-api` only: without an SDK, its spans and metrics cost little and go nowhere.

Theory of operation. `OpenTelemetry` owns the tracer and the instruments; each bus gets a
`BusTelemetry` with the identity of its broker. An event has one *creation context*, which travels
in its headers. It is the span "send" of a single event, and the span "create" of an event of a
batch, which is sent together with others, or of an event of a bus without a broker.

A span "send" begins in `around_dispatch`, because the headers must be complete before the event is
encoded, and before any listener sees it. It ends in `around_publish`, when the broker has answered.
`_unsent` holds it in between: if the dispatch returns and the span is still there, the event was
not committed to the driver.

A request has a span "request". If a broker takes it to a responder, the span ends with the answer
of the broker, as "send" does. Otherwise nothing is published, and it ends with the request itself.

A span "process" covers one attempt of one listener. A worker's context is the one in which the bus
was opened, so the current span there has nothing to do with the event. Only a listener that runs in
the context of the dispatch has a parent there. `_dispatching` tells these cases apart.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from time import perf_counter

from .. import __version__
from .._delivery import Delivery, SettledEvent
from .._errors import Veto
from .._extras import missing_extra
from .._foreign import text_of
from .._handle import DispatchHandle
from .._suggestions import suggest_options
from ..drivers.contract import Driver
from ..drivers.identity import BrokerIdentity, broker_identity
from . import conventions as names
from .attributes import (
    Attributes,
    EventAttributes,
    error_type_of,
    failed_attributes,
    message_attributes,
    operation_attributes,
    run_attributes,
)

try:
    from opentelemetry import metrics, propagate, trace
    from opentelemetry.context import Context, attach, detach, get_current
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
except ModuleNotFoundError as _error:
    raise missing_extra(_error, "otel", "goevent.telemetry.otel") from _error

MAX_REMEMBERED_NAMES = 1000
"""The number of event names whose attributes are kept."""


_LOGGER = logging.getLogger("goevent.telemetry")
_NO_CONTEXT = Context()

# The id of the handle that is being dispatched in this context. Not the handle: a context that is
# kept for its listeners would keep the handle alive, and the handle keeps that context.
_dispatching: ContextVar[int] = ContextVar("goevent.dispatching", default=0)


@suggest_options
class OpenTelemetry:
    """Emit spans and metrics by OpenTelemetry's semantic conventions 1.44 for messaging.

    Put the object into `Config.middleware`, first, so that its spans cover the other middleware.
    One object can serve several buses.

    A span "send" covers an event from its dispatch to the broker's answer. An event of
    `dispatch_many`, or of a bus without a broker, has a span "create" instead, and one span "send"
    covers all events that go to the broker together. A span "process" covers each attempt of each
    listener, and a span "ack", "nack" or "release" the settlement of an event of a durable broker.

    The trace context and the baggage travel in the headers of the event, by the propagator that
    `opentelemetry.propagate` is configured with. An event whose headers hold a trace context before
    its dispatch keeps it. Headers that hold no valid context are ignored.

    A sampler, a span processor or a propagator that raises keeps no event from its listeners. The
    first failure of the tracer, of the meter and of the propagator is logged as a warning.

    Example:
        >>> from goevent.telemetry.otel import OpenTelemetry
        >>> bus = GoEvent(Config(middleware=(OpenTelemetry(),)))

    Args:
        tracer_provider: The provider of the tracer; the global one by default.
        meter_provider: The provider of the metrics; the global one by default.
        continue_trace: Whether a span "process" is a child of the event's creation context, in the
            same trace. By default it begins a trace of its own or, if the listener runs inside the
            dispatch, it is a child of the dispatcher's span. It links to the creation context in
            each case, as the conventions advise.
        settle_spans: Whether the settlements of durable events have spans.
        record_exceptions: Whether a span of a failed run holds the exception with its message and
            its traceback. Without it, the span holds only the class, as `error.type`.

    Raises:
        TypeError: An object is no provider.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        *,
        continue_trace: bool = False,
        settle_spans: bool = True,
        record_exceptions: bool = True,
    ) -> None:
        for provider, method in ((tracer_provider, "get_tracer"), (meter_provider, "get_meter")):
            if provider is not None and not callable(getattr(provider, method, None)):
                raise TypeError(f"a provider has a method {method}, and {provider!r} has none")
        self.tracer: trace.Tracer = trace.get_tracer(
            "goevent", __version__, tracer_provider, schema_url=names.SCHEMA_URL
        )
        meter = metrics.get_meter(
            "goevent", __version__, meter_provider, schema_url=names.SCHEMA_URL
        )
        self.operation_duration: metrics.Histogram = meter.create_histogram(
            names.OPERATION_DURATION,
            unit="s",
            description="Duration of messaging operation initiated by a producer or consumer "
            "client.",
            explicit_bucket_boundaries_advisory=names.DURATION_BOUNDARIES_SECONDS,
        )
        self.process_duration: metrics.Histogram = meter.create_histogram(
            names.PROCESS_DURATION,
            unit="s",
            description="Duration of processing operation.",
            explicit_bucket_boundaries_advisory=names.DURATION_BOUNDARIES_SECONDS,
        )
        self.sent_messages: metrics.Counter = meter.create_counter(
            names.SENT_MESSAGES,
            unit="{message}",
            description="Number of messages producer attempted to send to the broker.",
        )
        self.consumed_messages: metrics.Counter = meter.create_counter(
            names.CONSUMED_MESSAGES,
            unit="{message}",
            description="Number of messages that were delivered to the application.",
        )
        self.continue_trace: bool = continue_trace
        self.settle_spans: bool = settle_spans
        self.record_exceptions: bool = record_exceptions
        self._reported: set[str] = set()

    def bind_driver(self, driver: Driver) -> BusTelemetry:
        """Return the middleware for the bus of a driver; the bus calls this."""
        return BusTelemetry(self, driver)

    # Telemetry that fails must not keep an event from its listeners. So each call of a provider
    # that may fail is in one of these methods.

    def start(
        self,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        *,
        context: Context | None = None,
        links: Sequence[Link] = (),
    ) -> Span:
        """Begin a span; return one that records nothing if the tracer fails."""
        try:
            return self.tracer.start_span(name, context, kind, attributes, links)
        except Exception:  # noqa: BLE001 - it is logged
            self._report("tracer")
            return trace.INVALID_SPAN

    def end(self, span: Span) -> None:
        """End a span."""
        try:
            span.end()
        except Exception:  # noqa: BLE001 - it is logged
            self._report("tracer")

    def fail(self, span: Span, error: BaseException) -> str:
        """Mark a span as failed; return the value of `error.type`."""
        error_type = error_type_of(error)
        try:
            if span.is_recording():
                span.set_attribute(names.ERROR_TYPE, error_type)
                if self.record_exceptions:
                    span.set_status(Status(StatusCode.ERROR, text_of(error)))
                    span.record_exception(error)
                else:
                    span.set_status(StatusCode.ERROR)
        except Exception:  # noqa: BLE001 - it is logged
            self._report("tracer")
        return error_type

    def count(self, counter: metrics.Counter, number: int, attributes: Attributes) -> None:
        """Add to a counter."""
        try:
            counter.add(number, attributes)
        except Exception:  # noqa: BLE001 - it is logged
            self._report("meter")

    def measure(self, histogram: metrics.Histogram, seconds: float, attributes: Attributes) -> None:
        """Record a duration."""
        try:
            histogram.record(seconds, attributes)
        except Exception:  # noqa: BLE001 - it is logged
            self._report("meter")

    def inject(self, headers: dict[str, str], context: Context) -> None:
        """Write a context into the headers of an event."""
        try:
            propagate.inject(headers, context)
        except Exception:  # noqa: BLE001 - it is logged
            self._report("propagator")

    def extract(self, headers: Mapping[str, str]) -> Context:
        """Return the context in the headers of an event; an empty one if they hold none."""
        try:
            return propagate.extract(headers, _NO_CONTEXT)
        except Exception:  # noqa: BLE001 - it is logged
            self._report("propagator")
            return _NO_CONTEXT

    def _report(self, part: str) -> None:
        """Log the first failure of a part; called where its exception is caught."""
        if part not in self._reported:
            self._reported.add(part)
            _LOGGER.warning(
                "the %s of OpenTelemetry fails, so telemetry is incomplete; events go on, and "
                "further failures are not logged",
                part,
                exc_info=True,
            )


class BusTelemetry:
    """The middleware of one bus.

    Args:
        telemetry: The tracer, the instruments and the settings.
        driver: The driver of the bus.
    """

    def __init__(self, telemetry: OpenTelemetry, driver: Driver) -> None:
        capabilities = driver.capabilities
        identity = broker_identity(driver) or BrokerIdentity(system=names.IN_PROCESS_SYSTEM)
        self._telemetry = telemetry
        self._start_span = telemetry.start
        self._is_alone = capabilities.alone
        self._group = identity.group
        self._common: Attributes = {names.SYSTEM: identity.system}
        if identity.address:
            self._common[names.SERVER_ADDRESS] = identity.address
        if identity.port:
            self._common[names.SERVER_PORT] = identity.port
        self._events: dict[str, EventAttributes] = {}
        self._requests: dict[str, EventAttributes] = {}
        self._unsent: dict[DispatchHandle, Sending] = {}
        # Under a broker that is not `fan_out`, every event that a listener gets has arrived, and is
        # settled once. So its last span can be kept until then.
        self._keeps_processed = (
            telemetry.settle_spans and capabilities.durable and not capabilities.fan_out
        )
        self._processed: dict[DispatchHandle, Context] = {}
        # The headers that were read last, and their context: an event often has several listeners.
        self._read: tuple[Mapping[str, str], Context] = ({}, _NO_CONTEXT)

    # -- the way out

    def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
        """Create the context of an event."""
        headers, event = handle.headers, self._event_of(handle)
        token = _dispatching.set(id(handle))
        sending = None
        try:
            if headers and _span_context(self._context(headers)).is_valid:
                # The application has given the event a creation context of its own.
                pass
            elif (self._is_alone and not handle.is_request) or handle.in_batch:
                span = self._start_span(
                    f"create {event.name}",
                    SpanKind.PRODUCER,
                    message_attributes(event.create, handle),
                )
                self._inject(headers, span)
                self._telemetry.end(span)
            else:
                span = self._start_span(
                    event.send_title,
                    SpanKind.PRODUCER,
                    message_attributes(event.send, handle),
                )
                self._inject(headers, span)
                sending = self._unsent[handle] = Sending(span)
            yield
        except BaseException as error:
            if sending is not None and self._unsent.pop(handle, None) is not None:
                if not isinstance(error, Veto):
                    self._telemetry.fail(sending.span, error)
                self._telemetry.end(sending.span)
            raise
        finally:
            _dispatching.reset(token)
            if self._unsent.pop(handle, None) is not None and sending is not None:
                # Other middleware, or a filter, has kept the event from the driver.
                self._telemetry.end(sending.span)

    def around_publish(self, handles: Sequence[DispatchHandle]) -> Iterator[None]:
        """Cover the way of events to the broker by a span, and measure it."""
        first = self._event_of(handles[0])
        sending = self._unsent.pop(handles[0], None) if len(handles) == 1 else None
        if sending is None:
            sending = self._send_created(handles, first)
        error_type = ""
        try:
            yield
        except BaseException as error:
            error_type = self._telemetry.fail(sending.span, error)
            raise
        finally:
            self._telemetry.end(sending.span)
            self._measure_send(handles, perf_counter() - sending.start, error_type)

    def _send_created(self, handles: Sequence[DispatchHandle], first: EventAttributes) -> Sending:
        """Begin the span for events that have their creation contexts already."""
        links: list[Link] = []
        for handle in handles:
            created = _span_context(self._telemetry.extract(handle.headers))
            if created.is_valid:
                attributes: Attributes = {names.MESSAGE_ID: handle.id}
                if len(handles) > 1:
                    attributes[names.DESTINATION_NAME] = handle.event_name
                links.append(Link(created, attributes))
        name, shown = first.send_title, first.send
        if len(handles) == 1:
            attributes = message_attributes(shown, handles[0])
        else:
            attributes = {**shown, names.BATCH_MESSAGE_COUNT: len(handles)}
            if any(handle.event_name != first.name for handle in handles):
                name = "send"
                del attributes[names.DESTINATION_NAME]
        return Sending(self._start_span(name, SpanKind.CLIENT, attributes, links=links))

    def _measure_send(
        self, handles: Sequence[DispatchHandle], seconds: float, error_type: str
    ) -> None:
        telemetry = self._telemetry
        counts: Mapping[EventAttributes, int] = {self._event_of(handles[0]): 1}
        if len(handles) > 1:
            counts = Counter(map(self._event_of, handles))
        for event, count in counts.items():
            attributes = failed_attributes(event.sent, error_type)
            telemetry.count(telemetry.sent_messages, count, attributes)
        attributes = self._event_of(handles[0]).send
        if len(counts) > 1:
            attributes = operation_attributes(self._common, names.SEND)
        attributes = failed_attributes(attributes, error_type)
        telemetry.measure(telemetry.operation_duration, seconds, attributes)

    def _inject(self, headers: dict[str, str], span: Span) -> None:
        """Write the context of a span, and the baggage, into the headers of its event."""
        context = trace.set_span_in_context(span)
        self._telemetry.inject(headers, context)
        self._read = (headers, context)

    # -- the way in

    def around_delivery(self, handle: DispatchHandle) -> Iterator[None]:
        """Count an event that has arrived."""
        consumed = self._event_of(handle).consumed
        self._telemetry.count(self._telemetry.consumed_messages, 1, consumed)
        yield

    def around_call(self, delivery: Delivery) -> Iterator[None]:
        """Cover one attempt of a listener by a span, and measure it."""
        handle, telemetry = delivery.handle, self._telemetry
        event, created = self._event_of(handle), self._context(handle.headers)
        creation = _span_context(created)
        links = [Link(creation)] if creation.is_valid else []
        is_inside = _dispatching.get() == id(handle)
        inherited = get_current() if is_inside else created
        if telemetry.continue_trace and creation.is_valid:
            parent = created
            ambient = _span_context(inherited)
            if is_inside and ambient.is_valid:
                links.append(Link(ambient))
        else:
            parent = inherited if is_inside else _NO_CONTEXT
        span = self._start_span(
            f"process {event.name}",
            SpanKind.CONSUMER,
            run_attributes(event.process, delivery),
            context=parent,
            links=links,
        )
        # The baggage of the event goes on to the listener, and to the events that it dispatches.
        context = trace.set_span_in_context(span, inherited)
        if self._keeps_processed and not handle.is_request:
            self._processed[handle] = context
        token = attach(context)
        start, error_type = perf_counter(), ""
        try:
            yield
        except Veto:
            # Other middleware refuses the event on purpose: nothing has failed.
            raise
        except BaseException as error:
            error_type = telemetry.fail(span, error)
            raise
        finally:
            seconds, attributes = perf_counter() - start, event.process
            if error_type:
                attributes = failed_attributes(attributes, error_type)
            telemetry.measure(telemetry.process_duration, seconds, attributes)
            detach(token)
            self._telemetry.end(span)

    def around_settle(self, settled: SettledEvent) -> Iterator[None]:
        """Cover the settlement of an event by a span, below that of its last run."""
        handle = settled.handle
        parent = self._processed.pop(handle, _NO_CONTEXT)
        if not self._telemetry.settle_spans:
            yield
            return
        errors = settled.errors
        if not settled.started or any(each.outcome == "abandoned" for each in errors):
            operation = names.RELEASE
        elif any(each.outcome == "failed" for each in errors):
            operation = names.REJECT
        else:
            operation = names.ACKNOWLEDGE
        event = self._event_of(handle)
        creation = _span_context(self._context(handle.headers))
        span = self._start_span(
            f"{operation} {event.name}",
            SpanKind.CLIENT,
            message_attributes(event.settle(operation), handle),
            context=parent,
            links=[Link(creation)] if creation.is_valid else [],
        )
        try:
            yield
        except BaseException as error:
            self._telemetry.fail(span, error)
            raise
        finally:
            self._telemetry.end(span)

    # -- what is remembered

    def _event_of(self, handle: DispatchHandle) -> EventAttributes:
        name, is_request = handle.event_name, handle.is_request
        known = self._requests if is_request else self._events
        event = known.get(name)
        if event is None:
            if len(known) >= MAX_REMEMBERED_NAMES:
                known.clear()
            event = known[name] = EventAttributes(
                self._common, self._group, name, is_request=is_request
            )
        return event

    def _context(self, headers: Mapping[str, str]) -> Context:
        """Return the context in the headers of an event."""
        if not headers:
            return _NO_CONTEXT
        known, context = self._read
        if known is not headers:
            context = self._telemetry.extract(headers)
            self._read = (headers, context)
        return context


class Sending:
    """A span of events on their way to the broker.

    Attributes:
        span: The span.
        start: The time of its beginning, by `perf_counter`.
    """

    __slots__ = ("span", "start")

    def __init__(self, span: Span) -> None:
        self.span: Span = span
        self.start: float = perf_counter()


def _span_context(context: Context) -> SpanContext:
    return trace.get_current_span(context).get_span_context()
