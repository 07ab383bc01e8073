"""The direct messages that buses exchange in conversations, as they stand on the wire.

Each is one JSON object with a `kind`; `docs/inside/conversations.md` describes them for services in
other languages. Requests are no such messages: they have the form of events.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Union

import msgspec

from .._errors import EventError, RemoteError
from .._foreign import plain, text_of, type_name
from .addresses import ADDRESS_PATTERN

MAX_TEXT_CHARS = 1000
"""The longest text of an error that travels."""

MAX_IDS_PER_MESSAGE = 1000
"""The most ids in a sign of life; more ids are divided among several."""

RefusalReason = Literal[
    "closing", "no_responder", "full", "deadlock", "declined", "undecodable", "late", "released"
]
"""Why a bus refuses a request; see `Refused`. Another bus may send any other text."""

UNTAKEN: Final = ("closing", "no_responder")
"""The reasons after which another bus may be asked: no responder has begun."""

MAX_REPORTED_FAILURES = 100
"""The failed listeners of one event that a report names; `Done.errors` says the number, too."""

Count = Annotated[int, msgspec.Meta(ge=0)]
"""A number of listeners or of receivers."""

Address = Annotated[str, msgspec.Meta(pattern=ADDRESS_PATTERN)]
"""The address of a bus. It came from a stranger, so it is checked."""


class Search(msgspec.Struct, tag="search", tag_field="kind", omit_defaults=True):
    """Asks the buses with a responder for an event to come forward.

    Attributes:
        event_name: The event.
        reply_to: The address of the asking bus.
    """

    event_name: str
    reply_to: Address


class Offer(msgspec.Struct, tag="offer", tag_field="kind", omit_defaults=True):
    """The answer to a search: this bus responds to the event.

    Attributes:
        event_name: The event.
        address: The address of the responding bus.
    """

    event_name: str
    address: Address


class Started(msgspec.Struct, tag="started", tag_field="kind", omit_defaults=True):
    """A bus has got a request from the broker.

    Attributes:
        id: The id of the request.
        address: The address of the responding bus.
    """

    id: str
    address: Address


class Reply(msgspec.Struct, tag="reply", tag_field="kind", omit_defaults=True):
    """The answer to a request.

    Attributes:
        id: The id of the request.
        value: The answer, as JSON.
    """

    id: str
    value: msgspec.Raw


class Failed(msgspec.Struct, tag="failed", tag_field="kind", omit_defaults=True):
    """The responder has not completed a request.

    Attributes:
        id: The id of the request.
        listener: The name of the responder.
        error_type: The class of the exception.
        text: The text of the exception.
        outcome: `"failed"`, `"dropped"` or `"abandoned"`.
        bus: The id of the responding bus.
    """

    id: str
    listener: str = ""
    error_type: str = ""
    text: str = ""
    outcome: str = "failed"
    bus: str = ""


class Refused(msgspec.Struct, tag="refused", tag_field="kind", omit_defaults=True):
    """A bus has not taken a request, or has not completed it in time.

    Attributes:
        id: The id of the request.
        reason: `"closing"`, `"no_responder"`, `"full"`, `"deadlock"`, `"declined"`,
            `"undecodable"`; `"late"` if the responder was cancelled at the deadline; `"released"`
            if the broker gives the request to another bus.
        text: More about the reason.
        address: The address of the bus that has released it.
    """

    id: str
    reason: str
    text: str = ""
    address: str = ""


class Cancel(msgspec.Struct, tag="cancel", tag_field="kind", omit_defaults=True):
    """Nobody waits for the answer to a request any more.

    Attributes:
        id: The id of the request.
        reason: The reason, for the cancelled responder.
    """

    id: str
    reason: str = ""


class Alive(msgspec.Struct, tag="alive", tag_field="kind", omit_defaults=True):
    """A sign of life, sent every second while a conversation lasts.

    Attributes:
        address: The address of the sender.
        ids: The requests for whose answer the sender waits, and the dispatches for whose report.
        serves: The requests and the dispatches of the other bus that the sender works on.
    """

    address: Address
    ids: list[str] = []
    serves: list[str] = []


class Unknown(msgspec.Struct, tag="unknown", tag_field="kind", omit_defaults=True):
    """The answer to a sign of life with ids of requests that the bus does not work on.

    Attributes:
        address: The address of the bus that does not work on them.
        ids: The requests that are over, or have never arrived.
    """

    address: Address
    ids: list[str]


class Leaving(msgspec.Struct, tag="leaving", tag_field="kind", omit_defaults=True):
    """A bus takes no more requests.

    Attributes:
        address: The address of the leaving bus.
        taken: The direct requests of the other bus that it has taken: another bus may be asked for
            any other one. Their answers were sent before.
        is_whole: False if it has taken more requests than `taken` names.
    """

    address: Address
    taken: list[str] = []
    is_whole: bool = True


class Probe(msgspec.Struct, tag="probe", tag_field="kind", omit_defaults=True):
    """Follows a request from one bus to the next, to find out whether it waits for itself.

    Attributes:
        id: The id of the request that a responder has just made.
        reply_to: The address of the bus that made it.
        chain: The ids of the requests inside whose responders it was made.
        waits_for: The id of the request at which the probe has arrived.
        hops: The number of requests that it has followed.
    """

    id: str
    reply_to: Address
    chain: list[str]
    waits_for: str
    hops: int = 0


class Roll(msgspec.Struct, tag="roll", tag_field="kind", omit_defaults=True):
    """Asks all buses which of them listen to an event.

    Attributes:
        event_name: The event.
        reply_to: The address of the asking bus.
    """

    event_name: str
    reply_to: Address


class Present(msgspec.Struct, tag="present", tag_field="kind", omit_defaults=True):
    """The answer to a roll call: this bus listens to the event.

    Attributes:
        event_name: The event.
        address: The address of the listening bus.
    """

    event_name: str
    address: Address


class Received(msgspec.Struct, tag="received", tag_field="kind", omit_defaults=True):
    """An event has arrived whose dispatcher wants a report, and its listeners are not done yet.

    Attributes:
        id: The id of the dispatch.
        address: The address of the listening bus.
        bus: The id of that bus.
        weight: The receivers for which the broker counts the bus.
    """

    id: str
    address: Address
    bus: str = ""
    weight: Count = 1


class ListenerFailure(msgspec.Struct, omit_defaults=True):
    """One listener that has not completed an event.

    Attributes:
        listener: The name of the listener.
        error_type: The class of its exception.
        text: The text of the exception.
        outcome: `"failed"`, `"dropped"` or `"abandoned"`.
    """

    listener: str = ""
    error_type: str = ""
    text: str = ""
    outcome: str = "failed"


class Done(msgspec.Struct, tag="done", tag_field="kind", omit_defaults=True):
    """All listeners of a bus are done with an event whose dispatcher wants a report.

    Attributes:
        id: The id of the dispatch.
        address: The address of the listening bus.
        bus: The id of that bus.
        weight: The receivers for which the broker counts the bus.
        completed: The number of listeners that have completed the event.
        errors: The listeners that have not completed it, at most 100 of them.
        failed: The number of listeners that have failed.
        dropped: The number of listeners for which the event was dropped.
        abandoned: The number of listeners that the end of the bus has cut off.
    """

    id: str
    address: Address
    bus: str = ""
    weight: Count = 1
    completed: Count = 0
    errors: list[ListenerFailure] = []
    failed: Count = 0
    dropped: Count = 0
    abandoned: Count = 0


DirectMessage = Union[  # noqa: UP007 - msgspec reads it at run time
    Search,
    Offer,
    Started,
    Reply,
    Failed,
    Refused,
    Cancel,
    Alive,
    Unknown,
    Leaving,
    Probe,
    Roll,
    Present,
    Received,
    Done,
]


def failure_texts(error: EventError) -> tuple[str, str]:
    """Return the class and the text of the exception of a listener, as messages have them.

    The class is empty if the listener raised nothing, as for a dropped event.
    """
    cause = error.error
    return ("", error.reason) if cause is None else (type_name(cause), text_of(cause))


def remote_error(event_name: str, failure: Failed | ListenerFailure, bus: str) -> RemoteError:
    """Return the error for a failure of which another bus tells."""
    return RemoteError(
        event_name,
        failure.listener,
        failure.error_type,
        failure.text,
        outcome=failure.outcome,
        bus=bus,
    )


def travelling_text(text: str) -> str:
    """Return a text of the application in a form that can be sent."""
    return plain(text[:MAX_TEXT_CHARS])


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(DirectMessage).decode


def encode_message(message: DirectMessage) -> bytes:
    """Return the bytes of a direct message."""
    return _encode(message)


def decode_message(data: bytes) -> DirectMessage:
    """Return the direct message in the bytes.

    Raises:
        msgspec.DecodeError: The bytes are no such message.
    """
    return _decode(data)
