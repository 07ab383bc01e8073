"""The AsyncAPI document of a bus, made of its listeners, its event types and its driver.

`document` is the only entry. Its parts refer to each other by names only: an event name is the name
of its channel and of its message, and the schema of its class is a component. All parts are sorted,
so the document of the same program is always the same text.
"""

# The registry and the driver's codec are parts of a bus that users do not need.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from .._bus import GoEvent
from .._events.event_types import describe_class, short_name
from .._events.names import validate_name
from .._events.patterns import compile_pattern, is_pattern
from .._events.registry import EventRegistry
from .._options.signature import event_name_of
from ..drivers import BrokerDescription, PlaceDescription, ServerDescription, described
from ._examples import NoExample, example_of
from ._requests import RespondedEvent, add_requests, responded_events
from ._schemas import COMPONENTS, Schema, schemas_of

ASYNCAPI_VERSION = "3.0.0"
"""The version of AsyncAPI that `document` writes."""

ENVELOPE = "GoEventEnvelope"
DEFAULT_TITLE = "goevent"
DEFAULT_VERSION = "1.0.0"

_NOT_IN_KEYS = re.compile(r"[^\w.-]", re.ASCII)

Document = dict[str, object]


def document(
    bus: GoEvent,
    *,
    title: str | None = None,
    version: str | None = None,
    description: str | None = None,
    publishes: Iterable[str | type] | None = None,
) -> Document:
    """Return the AsyncAPI document of a bus. The bus need not be open, and no broker is asked.

    Each listener is an operation that receives, and each responder one with a reply. They do not
    tell which events the program publishes, so by default the registered event types without a
    listener are taken for those.

    Args:
        bus: The bus, with its listeners.
        title: The name of the application; that of the consumer group if None.
        version: The version of the application's interface; "1.0.0" if None.
        description: A text about the application, in Markdown.
        publishes: The events that the program publishes, by class or by name.

    Returns:
        A document of plain dicts, lists, texts and numbers, in a fixed order.

    Raises:
        TypeError: A published event is neither a class nor a name.
        ValueError: A published name is not an event name.

    Example:
        >>> bus = GoEvent()
        >>> @bus.listener("order.paid")
        ... def bill(event: Event) -> None: ...
        >>> sorted(document(bus, title="billing")["operations"])
        ['receive.bill.order.paid']
    """
    registry = bus._config.registry
    listeners, responded = _listeners(bus), responded_events(bus)
    received = [*dict.fromkeys(name for _, names in listeners for name in names)]
    sent = _sent(registry, received, responded, publishes)
    names = sorted({*received, *sent, *registry.names()})
    requested = [each.request_key for each in responded]
    broker = described(bus.driver, [*map(parameterised, names), *requested])
    answers = [each.answer for each in responded if each.answer is not None]
    messages, schemas, found = _messages(bus, registry, names, answers, broker)
    channels = {name: _channel(name, messages, broker) for name in names}
    info: Schema = {
        "title": title or broker.group or DEFAULT_TITLE,
        "version": version or DEFAULT_VERSION,
    }
    if description:
        info["description"] = description
    result: Document = {"asyncapi": ASYNCAPI_VERSION, "info": info}
    result["defaultContentType"] = _content_type(bus)
    if broker.servers:
        result["servers"] = {
            f"server{number}": _server(server)
            for number, server in enumerate(broker.servers, start=1)
        }
    result["channels"] = channels
    result["operations"] = _operations(listeners, sent, channels, broker)
    result["components"] = {"messages": messages, "schemas": schemas}
    if responded:
        _add_requests(result, bus, responded, found, broker)
    return result


def parameterised(name: str) -> str:
    """Return an event name, or a pattern with a parameter for each wildcard.

    Args:
        name: A name or a pattern; `order.*` gives `order.{segment1}`.
    """
    parts: list[str] = []
    for part in name.split("."):
        kind = {"*": "segment", "**": "segments"}.get(part)
        number = sum(each.startswith("{") for each in parts) + 1
        parts.append(part if kind is None else f"{{{kind}{number}}}")
    return ".".join(parts)


def _listeners(bus: GoEvent) -> list[tuple[str, tuple[str, ...]]]:
    listeners = bus.snapshot().listeners
    return sorted((each.name, each.event_names) for each in listeners if not each.responds_to)


def _add_requests(
    result: dict[str, Any],
    bus: GoEvent,
    responded: list[RespondedEvent],
    found: Mapping[type[Any], Schema],
    broker: BrokerDescription,
) -> None:
    """Add the requests to a document that has the events.

    Args:
        result: The document.
        bus: The bus.
        responded: The requests.
        found: The schemas of the classes of events and answers.
        broker: The places of the broker.
    """
    registry, is_direct = bus._config.registry, bus.driver.capabilities.fan_out
    result["components"]["schemas"][ENVELOPE] = envelope_schema()
    payloads: dict[str, Schema] = {}
    for each in responded:
        name = each.event_name
        cls = registry.type_of(name)
        data = _untyped(name) if cls is None else found[cls]
        payloads[name] = _payload(name if is_direct else each.request_key, data, name)
        payloads[name]["allOf"][1]["required"] = ["reply_to"]
    add_requests(result, responded, payloads, found, broker, is_direct=is_direct)


def _sent(
    registry: EventRegistry,
    received: list[str],
    responded: list[RespondedEvent],
    publishes: Iterable[str | type] | None,
) -> list[str]:
    """Return the names of the events that the program publishes."""
    if publishes is not None:
        return sorted({validate_name(event_name_of(each, registry)) for each in publishes})
    listened = [compile_pattern(name) for name in received]
    # Neither requests nor answers are published.
    exchanged: set[str | None] = {each.event_name for each in responded}
    exchanged |= {registry.name_of(each.answer) for each in responded if each.answer is not None}
    return sorted(
        name
        for name in registry.names()
        if name not in exchanged and not any(matches(name) for matches in listened)
    )


def _content_type(bus: GoEvent) -> str:
    content_type = getattr(bus._config.codec, "content_type", None)
    return content_type if isinstance(content_type, str) else "application/json"


def _server(server: ServerDescription) -> Schema:
    result: Schema = {"host": server.host, "protocol": server.protocol}
    if server.version:
        result["protocolVersion"] = server.version
    if server.path:
        result["pathname"] = server.path
    if server.tls:
        result["description"] = "The connection is encrypted by TLS."
    return result


# -- messages


def _messages(
    bus: GoEvent,
    registry: EventRegistry,
    names: list[str],
    answers: list[type[Any]],
    broker: BrokerDescription,
) -> tuple[dict[str, Schema], dict[str, Schema], dict[type[Any], Schema]]:
    """Return the messages by event name, the components, and the schema of each class."""
    classes = {name: registry.type_of(name) for name in names if not is_pattern(name)}
    # All classes together, so that an answer shares the schemas of the events.
    events = [cls for cls in classes.values() if cls is not None]
    found, components = schemas_of([*events, *answers])
    messages: dict[str, Schema] = {}
    schemas = dict(components)
    for name, cls in classes.items():
        data = _untyped(name) if cls is None else found[cls]
        place = broker.places.get(name, PlaceDescription(address=name))
        messages[name] = _message(registry, name, cls, data, components, place, broker)
    if broker.enveloped and messages:
        schemas[ENVELOPE] = envelope_schema()
    return messages, {key: schemas[key] for key in sorted(schemas)}, found


def _untyped(name: str) -> Schema:
    return {"type": "object", "description": f"No class is registered for {name}: any object."}


def _message(
    registry: EventRegistry,
    name: str,
    cls: type[Any] | None,
    data: Schema,
    components: Mapping[str, Schema],
    place: PlaceDescription,
    broker: BrokerDescription,
) -> Schema:
    message: Schema = {"name": name, "title": name if cls is None else short_name(cls)}
    if cls is not None:
        _add_texts(message, cls)
        _add_successor(message, registry, cls)
    if broker.enveloped:
        message["correlationId"] = {"location": "$message.payload#/handle_id"}
        message["payload"] = _payload(name, data)
    else:
        message["headers"] = headers_schema()
        message["correlationId"] = {"location": "$message.header#/correlation_id"}
        message["payload"] = data
    if place.message:
        message["bindings"] = dict(place.message)
    if cls is not None:
        example = _example(registry, name, data, components)
        if example is not None:
            payload = _enveloped(name, example) if broker.enveloped else example
            message["examples"] = [{"payload": payload}]
        message["x-class"] = describe_class(cls)
        if key := registry.key_of(cls):
            message["x-key"] = key
    return message


def _add_texts(message: Schema, cls: type[Any]) -> None:
    own = cls.__dict__.get("__doc__")
    text = inspect.cleandoc(own) if isinstance(own, str) else ""
    # A dataclass without a docstring shows its signature.
    if not text or text.startswith(f"{cls.__name__}("):
        return
    summary, _, rest = text.partition("\n\n")
    message["summary"] = " ".join(summary.split())
    if rest.strip():
        message["description"] = rest.strip()


def _add_successor(message: Schema, registry: EventRegistry, cls: type[Any]) -> None:
    """Mark an old version of an event, which readers convert on arrival."""
    successor = registry._upcasts.get(cls)
    if successor is not None:
        message["deprecated"] = True
        message["x-upcast-to"] = registry.name_of(successor[0]) or describe_class(successor[0])


def _payload(name: str, data: Schema, event_type: str | None = None) -> Schema:
    return {
        "allOf": [
            {"$ref": f"{COMPONENTS}{ENVELOPE}"},
            {
                "type": "object",
                "properties": {
                    "event_name": {"const": name},
                    "event_type": {"const": event_type or name},
                    "event_data": data,
                },
            },
        ]
    }


def envelope_schema() -> Schema:
    """Return the schema of the envelope around each event; see `goevent.Envelope`."""
    return {
        "title": ENVELOPE,
        "description": "An event with its metadata. The keys after timestamp are optional.",
        "type": "object",
        "properties": {
            "event_name": {"type": "string", "description": "The name of the event."},
            "event_type": {"type": "string", "description": "The name of its class."},
            "event_data": {"description": "The event."},
            "handle_id": {
                "type": "string",
                "description": "The id of the dispatch: 16 lower hex digits, or empty.",
            },
            "timestamp": {
                "type": "integer",
                "format": "int64",
                "description": "The Unix time of the dispatch in seconds; 0 if unknown.",
            },
            "origin": {"type": "string", "description": "The hex id of the sending bus."},
            "seq": {
                "type": "integer",
                "format": "int64",
                "description": "The position in the sequence of this origin and channel.",
            },
            "reply_to": {"type": "string", "description": "The address for reports."},
            "headers": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "What travels with the event, such as a trace context.",
            },
        },
        "required": ["event_name", "event_type", "event_data", "handle_id", "timestamp"],
    }


def headers_schema() -> Schema:
    """Return the schema of the headers of a message that is the event alone."""
    return {
        "type": "object",
        "properties": {
            "content-type": {"const": "application/json"},
            "correlation_id": {
                "type": "string",
                "description": "The id of the first event of the chain.",
            },
            "causation_id": {
                "type": "string",
                "description": "The id of the event whose listener has dispatched this one.",
            },
            "goevent-id": {
                "type": "string",
                "description": "The id of the dispatch, if the correlation id is another one.",
            },
            "goevent-origin": {"type": "string", "description": "The id of the sending bus."},
        },
    }


def _example(
    registry: EventRegistry, name: str, data: Schema, components: Mapping[str, Schema]
) -> Any:
    """Return an example that the class accepts; None if none was found."""
    try:
        example = example_of(data, components)
        registry.create(name, example)
    except NoExample:
        return None
    # A constraint that a schema does not show, or a pattern. The class is the user's code.
    except Exception:  # noqa: BLE001 - then the message has no example
        return None
    return example


def _enveloped(name: str, data: Any) -> Schema:
    return {
        "event_name": name,
        "event_type": name,
        "event_data": data,
        "handle_id": "0123456789abcdef",
        "timestamp": 1767225600,
    }


# -- channels and operations


def _channel(name: str, messages: Mapping[str, Schema], broker: BrokerDescription) -> Schema:
    place = _place(broker, name)
    channel: Schema = {"address": place.address}
    if not is_pattern(name):
        channel["messages"] = {name: {"$ref": f"#/components/messages/{name}"}}
    else:
        matches = compile_pattern(name)
        channel["description"] = f"Every event whose name matches {name}."
        channel["messages"] = {
            each: {"$ref": f"#/components/messages/{each}"} for each in messages if matches(each)
        }
        channel["parameters"] = {
            part[1:-1]: {
                "description": "One or more segments of an event name."
                if part.startswith("{segments")
                else "One segment of an event name."
            }
            for part in parameterised(name).split(".")
            if part.startswith("{")
        }
    if place.channel:
        channel["bindings"] = dict(place.channel)
    return channel


def _place(broker: BrokerDescription, name: str) -> PlaceDescription:
    asked = parameterised(name)
    return broker.places.get(asked, PlaceDescription(address=asked))


def _operations(
    listeners: list[tuple[str, tuple[str, ...]]],
    sent: list[str],
    channels: Mapping[str, Schema],
    broker: BrokerDescription,
) -> dict[str, Schema]:
    operations: dict[str, Schema] = {}
    for listener, names in listeners:
        for name in names:
            place = _place(broker, name)
            operation = _operation("receive", listener, name, channels[name], place.receive)
            _put(operations, f"receive.{listener}.{name}", operation)
    for name in sent:
        place = _place(broker, name)
        operation = _operation("send", f"publish {name}", name, channels[name], place.send)
        _put(operations, f"send.{name}", operation)
    return {key: operations[key] for key in sorted(operations)}


def _operation(
    action: str, title: str, name: str, channel: Schema, bindings: Mapping[str, object]
) -> Schema:
    messages = cast("dict[str, Schema]", channel["messages"])
    operation: Schema = {
        "action": action,
        "channel": {"$ref": f"#/channels/{name}"},
        "title": title,
        "messages": [{"$ref": f"#/channels/{name}/messages/{each}"} for each in messages],
    }
    if action == "receive":
        operation["x-listener"] = title
    if bindings:
        operation["bindings"] = dict(bindings)
    return operation


def _put(operations: dict[str, Schema], key: str, operation: Schema) -> None:
    """Store an operation under its key; characters that keys lack may make two keys equal."""
    key = free = _NOT_IN_KEYS.sub("_", key)
    number = 2
    while free in operations:
        free, number = f"{key}_{number}", number + 1
    operations[free] = operation
