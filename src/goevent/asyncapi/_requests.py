"""The requests of a bus in its AsyncAPI document: each responder is an operation with a reply.

`_document` calls `add_requests` when the events are in the document. The messages are described in
`docs/inside/conversations.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from .._bus import GoEvent
from .._conversations.messages import Failed, Refused
from .._events.names import REPLIES_NAME, request_name
from ..drivers import BrokerDescription
from ._schemas import COMPONENTS, Schema, tidied

FAILED, REFUSED = "goevent.failed", "goevent.refused"

DIRECT = (
    "Requests travel as direct messages to one bus that responds. It makes its address known when "
    "a bus searches for responders."
)
REPLIES = "The address of the bus that asks, as it stands in `reply_to` of its request."


@dataclass(frozen=True, slots=True)
class RespondedEvent:
    """The requests that one responder answers.

    Attributes:
        listener: The name of the responder.
        event_name: The event.
        answer: The class of the answers; None if it is not known.
    """

    listener: str
    event_name: str
    answer: type[Any] | None

    @property
    def request_key(self) -> str:
        """The key of the channel and of the message of the requests."""
        return request_name(self.event_name)

    @property
    def reply_key(self) -> str:
        """The key of the message with the answer."""
        return f"{REPLIES_NAME}.{self.event_name}"


def responded_events(bus: GoEvent) -> list[RespondedEvent]:
    """Return the requests that the responders of a bus answer, by event name."""
    found = [
        RespondedEvent(each.name, each.responds_to, each.answer)
        for each in bus.registered_listeners()
        if each.responds_to
    ]
    return sorted(found, key=lambda each: each.event_name)


def add_requests(
    document: dict[str, Any],
    responded: Iterable[RespondedEvent],
    payloads: Mapping[str, Schema],
    answers: Mapping[type[Any], Schema],
    broker: BrokerDescription,
    *,
    is_direct: bool,
) -> None:
    """Add the operations, the channels and the messages of requests to a document.

    Args:
        document: The document.
        responded: The requests.
        payloads: The payload of each request, by event name.
        answers: The schema of each class of answers.
        broker: The places of requests that travel by the broker.
        is_direct: True if requests travel as direct messages.
    """
    channels, operations = document["channels"], document["operations"]
    messages, schemas = document["components"]["messages"], document["components"]["schemas"]
    replies: dict[str, Schema] = {}
    for each in responded:
        key, name = each.request_key, each.event_name
        messages[key] = {
            "name": key,
            "title": f"Request of {name}",
            "correlationId": {"location": "$message.payload#/handle_id"},
            "payload": payloads[name],
        }
        messages[each.reply_key] = {
            "name": each.reply_key,
            "title": f"Answer to {name}",
            "correlationId": {"location": "$message.payload#/id"},
            "payload": reply_payload({} if each.answer is None else answers[each.answer]),
        }
        channel: Schema = {"address": None, "description": DIRECT}
        place = broker.places.get(key)
        if place is not None and not is_direct:
            channel = {"address": place.address}
            if place.channel:
                channel["bindings"] = dict(place.channel)
        channels[key] = {**channel, "messages": {key: reference("components/messages", key)}}
        replies[each.reply_key] = reference("components/messages", each.reply_key)
        given = [each.reply_key, FAILED, REFUSED]
        operations[f"respond.{name}"] = {
            "action": "receive",
            "channel": reference("channels", key),
            "title": each.listener,
            "summary": f"Responds to {name}.",
            "messages": [reference(f"channels/{key}/messages", key)],
            "reply": {
                "address": {"location": "$message.payload#/reply_to"},
                "channel": reference("channels", REPLIES_NAME),
                "messages": [reference(f"channels/{REPLIES_NAME}/messages", one) for one in given],
            },
            "x-listener": each.listener,
        }
    if not replies:
        return
    for key, kind in ((FAILED, Failed), (REFUSED, Refused)):
        (schema,), parts = msgspec.json.schema_components(
            [kind], ref_template=f"{COMPONENTS}{{name}}"
        )
        renamed = {name: f"GoEvent{name}" for name in parts}
        schemas |= {renamed[name]: tidied(part, renamed) for name, part in parts.items()}
        messages[key] = {"name": key, "payload": tidied(schema, renamed)}
        replies[key] = reference("components/messages", key)
    channels[REPLIES_NAME] = {"address": None, "description": REPLIES, "messages": replies}
    for part in (channels, operations, messages, schemas):
        ordered = {key: part[key] for key in sorted(part)}
        part.clear()
        part |= ordered


def reference(place: str, key: str) -> Schema:
    """Return a reference to a part of the document."""
    return {"$ref": f"#/{place}/{key}"}


def reply_payload(answer: Schema) -> Schema:
    """Return the schema of the message with an answer."""
    return {
        "type": "object",
        "properties": {"kind": {"const": "reply"}, "id": {"type": "string"}, "value": answer},
        "required": ["kind", "id", "value"],
    }
