"""Templates: the same bytes as those of the codec, or none at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from goevent import EncodeError, Envelope, Event, EventRegistry, JsonCodec
from goevent._handle import DispatchHandle, IdGenerator, new_handle
from goevent._ports.message import MessageEncoding, OutgoingMessage
from goevent._wire import template as template_module
from goevent._wire.json_codec import template_of

REGISTRY = EventRegistry()
HANDLE_ID = "0123456789abcdef"


class Item(msgspec.Struct):
    name: str
    count: int = 0


class Ordered(Event, name="template.ordered", registry=REGISTRY):
    number: int = 0
    text: str = ""
    ratio: float = 0.0
    note: str | None = None
    items: list[Item] = msgspec.field(default_factory=list[Item])
    names: dict[str, int] = msgspec.field(default_factory=dict[str, int])


class Dated(Event, name="template.dated", registry=REGISTRY):
    at: datetime


class Tree(Event, name="template.tree", registry=REGISTRY):
    children: list[Tree] = msgspec.field(default_factory=list[Any])


integers = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["%b", "%%d", '"\\'])
items = st.builds(Item, texts, integers)
orders = st.builds(
    Ordered,
    number=integers | st.sampled_from([2**63, "1", True]),
    text=texts | st.sampled_from(["\ud800", 5]),
    ratio=st.floats(),
    note=st.none() | texts,
    items=st.lists(items, max_size=3),
    names=st.dictionaries(texts, integers, max_size=3),
)
sequence_numbers: st.SearchStrategy[Any] = (
    st.none() | integers | st.sampled_from([0, 2**63, -(2**64), 10**18, True, "1"])
)


def encoded(codec: JsonCodec, envelope: Envelope) -> bytes | None:
    """Return the bytes of an envelope, or None if the codec refuses it."""
    try:
        return codec.encode(envelope)
    except EncodeError:
        return None


@given(
    event=orders,
    seq=sequence_numbers,
    origin=texts,
    seconds=st.floats(0, 2**33),
    headers=st.dictionaries(texts, texts | st.integers(), max_size=3),
    max_size=st.sampled_from([250, 1 << 20]),
)
def test_a_template_writes_the_bytes_of_the_codec(
    event: Ordered, seq: Any, origin: str, seconds: float, headers: Any, max_size: int
) -> None:
    codec = JsonCodec(max_size=max_size)
    template = template_of(codec, Ordered, Ordered.event_name, origin, None)
    assert template is not None
    with pytest.MonkeyPatch.context() as patch:
        for moment in (seconds, seconds + 0.9, seconds - 5, seconds):
            patch.setattr(template_module, "time", lambda moment=moment: moment)
            rendered = template.render(event, HANDLE_ID, seq, headers)
            envelope = Envelope(
                event_name=Ordered.event_name,
                event_type=Ordered.event_name,
                event=event,
                handle_id=HANDLE_ID,
                timestamp=int(moment),
                origin=origin,
                seq=seq,
                headers=headers,
            )
            assert rendered is None or rendered == encoded(codec, envelope)


@pytest.mark.parametrize("seq", [None, 7])
def test_a_usual_event_is_written_by_the_template(seq: int | None) -> None:
    template = template_of(JsonCodec(), Ordered, Ordered.event_name, "ab", None)
    assert template is not None
    assert template.render(Ordered(5, "x"), HANDLE_ID, seq, {}) is not None
    assert template.render(Ordered(5, "x"), HANDLE_ID, seq, {"trace": "a"}) is not None
    assert template.render(Ordered(5, "\ud800"), HANDLE_ID, seq, {}) is None
    assert template.render(Ordered(2**63), HANDLE_ID, seq, {}) is None
    assert template.render(Ordered(ratio=math.nan), HANDLE_ID, seq, {}) is None


def test_a_class_whose_events_need_a_look_has_no_template() -> None:
    for cls in (Dated, Tree):
        assert template_of(JsonCodec(), cls, cls.event_name, "ab", None) is None


# -- messages


class Bus:
    """The parts of a bus that a message needs."""

    def __init__(self) -> None:
        self.origin = "ab" * 16
        self.ids = IdGenerator()
        self.name = Ordered.event_name
        self.kernel: Any = self


class Counted(JsonCodec):
    """Counts the envelopes that it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def encode(self, envelope: Envelope) -> bytes:
        self.count += 1
        return super().encode(envelope)


def message_of(
    encoding: MessageEncoding, event: Event, headers: Mapping[str, str] | None = None
) -> OutgoingMessage:
    route: Any = encoding.sender
    handle: DispatchHandle = new_handle(route, event)
    handle.headers.update(headers or {})
    return OutgoingMessage(type(event).event_name, handle, encoding)


def read(data: bytes, name: str = Ordered.event_name) -> Envelope:
    return JsonCodec().decode(data, event_name=name, registry=REGISTRY)


def encoding_of(bus: Bus, codec: Any, max_size: int | None = None) -> MessageEncoding:
    return MessageEncoding(bus, codec, REGISTRY.key_of, max_size)


def test_a_message_has_the_origin_of_its_moment() -> None:
    bus = Bus()
    encoding = encoding_of(bus, JsonCodec())
    first = read(message_of(encoding, Ordered(1)).encode(seq=1))
    assert (first.origin, first.seq, first.event) == (bus.origin, 1, Ordered(1))
    bus.origin = "cd" * 16
    assert read(message_of(encoding, Ordered(2)).encode()).origin == "cd" * 16
    assert read(message_of(encoding, Ordered(3)).encode(origin="ef")).origin == "ef"
    assert read(message_of(encoding, Ordered(4)).encode()).origin == "cd" * 16


def test_messages_of_one_class_share_a_template_and_have_ids_of_their_own() -> None:
    encoding = encoding_of(Bus(), JsonCodec())
    ids = {read(message_of(encoding, Ordered(n)).encode()).handle_id for n in range(20)}
    assert len(ids) == 20
    assert [*encoding.templates] == [Ordered]


def test_headers_travel_beside_a_template() -> None:
    encoding = encoding_of(Bus(), JsonCodec())
    message_of(encoding, Ordered(1)).encode()
    sent = message_of(encoding, Ordered(2), {"trace": "ab"}).encode()
    assert read(sent).headers == {"trace": "ab"}


def test_events_without_a_template_are_encoded_by_the_codec() -> None:
    encoding = encoding_of(Bus(), JsonCodec())
    noon = Dated(datetime(2024, 2, 29, 12, tzinfo=UTC))
    for _ in range(2):
        assert read(message_of(encoding, noon).encode(), Dated.event_name).event == noon
    assert encoding.templates[Dated] is None


def test_an_event_that_cannot_be_encoded_is_refused_with_the_reason() -> None:
    encoding = encoding_of(Bus(), JsonCodec())
    for _ in range(2):
        with pytest.raises(EncodeError, match="int64"):
            message_of(encoding, Ordered(2**63)).encode()


def test_the_limit_of_the_driver_holds() -> None:
    encoding = encoding_of(Bus(), JsonCodec(), 300)
    message_of(encoding, Ordered(1)).encode()
    with pytest.raises(EncodeError, match="above the driver's limit of 300"):
        message_of(encoding, Ordered(1, "x" * 300)).encode()


def test_a_codec_of_ones_own_encodes_every_event() -> None:
    codec = Counted()
    encoding = encoding_of(Bus(), codec)
    for n in range(3):
        message_of(encoding, Ordered(n)).encode()
    assert codec.count == 3
