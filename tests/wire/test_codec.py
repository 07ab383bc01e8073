"""The codecs: round trips of every kind of event, limits, and values that cannot be written."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given, strategies as st

from goevent._errors import DecodeError, EncodeError
from goevent._events.event import Event
from goevent._events.registry import EventRegistry
from goevent._wire.codec import Codec
from goevent._wire.envelope import Envelope
from goevent._wire.json_codec import JsonCodec
from goevent._wire.msgpack_codec import MsgpackCodec

REGISTRY = EventRegistry()
NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
CODECS: list[Callable[[], Codec]] = [JsonCodec, MsgpackCodec]
both = pytest.mark.parametrize("make", CODECS)


class Colour(enum.Enum):
    RED = "red"


class Part(msgspec.Struct):
    at: datetime
    number: int = 0


class Cat(msgspec.Struct, tag=True):
    born: datetime


class Dog(msgspec.Struct, tag=True):
    born: str


class Row(msgspec.Struct, array_like=True):
    at: datetime
    number: int = 0


class TaggedRow(msgspec.Struct, array_like=True, tag="row"):
    at: datetime


class Span(NamedTuple):
    start: datetime
    length: int


class Everything(Event, name="everything", registry=REGISTRY):
    name: str = ""
    number: int = 0
    ratio: float = 0.0
    numbers: list[int] = []  # noqa: RUF012 - msgspec copies an empty default
    by_number: dict[int, str] = {}  # noqa: RUF012
    at: datetime | None = None
    times: list[datetime] = []  # noqa: RUF012
    pair: tuple[datetime, int] | None = None
    spans: tuple[datetime, ...] = ()
    by_name: dict[str, Part] = {}  # noqa: RUF012
    part: Part | None = None
    pet: Cat | Dog | None = None
    row: Row | None = None
    tagged: TaggedRow | None = None
    span: Span | None = None
    bounded: Annotated[int, msgspec.Meta(description="no bound in fact")] = 0
    anything: Any = None
    colour: Colour = Colour.RED
    ident: uuid.UUID | None = None
    price: Decimal | None = None


@dataclasses.dataclass
class DataclassEvent:
    at: datetime
    number: int


@attrs.define
class AttrsEvent:
    at: datetime
    number: int


class StructEvent(msgspec.Struct):
    at: datetime
    number: int


class PydanticEvent(pydantic.BaseModel):
    at: datetime
    number: int
    link: pydantic.HttpUrl | None = None


KINDS: list[type[Any]] = [DataclassEvent, AttrsEvent, StructEvent, PydanticEvent]


def around(event: Any, **more: Any) -> Envelope:
    return Envelope(event_name="everything", event=event, **more)


def round_trip(codec: Codec, event: Any, **more: Any) -> Any:
    data = codec.encode(around(event, **more))
    return codec.decode(data, event_name="everything", registry=REGISTRY)


def written(event: Any) -> Any:
    return msgspec.json.decode(JsonCodec().encode(around(event)))["event_data"]


@both
def test_an_envelope_arrives_as_it_was_sent(make: Callable[[], Codec]) -> None:
    event = Everything(
        name="Zoë 😀",
        number=2**63 - 1,
        ratio=1e-7,
        numbers=[-(2**63)],
        by_number={7: "seven"},
        at=NOON.replace(microsecond=789000),
        times=[NOON],
        pair=(NOON, 1),
        spans=(NOON, NOON),
        by_name={"a": Part(NOON)},
        part=Part(NOON, 2),
        pet=Cat(NOON),
        row=Row(NOON, 3),
        tagged=TaggedRow(NOON),
        span=Span(NOON, 4),
        bounded=5,
        anything={"a": [1, None, True, 1.5, "x", {"big": 2**64 - 1}]},
        ident=uuid.UUID(int=1),
        price=Decimal("1.10"),
    )
    sent = around(
        event,
        event_type="everything",
        handle_id="00000000000000ff",
        timestamp=1795410955,
        origin="ab" * 16,
        seq=0,
        reply_to="replies",
        headers={"trace": "1"},
    )
    codec = make()
    data = codec.encode(sent)
    assert codec.decode(data, event_name="everything", registry=REGISTRY) == sent
    assert sent.event_data is event


def test_json_is_compact_and_ordered_and_omits_empty_keys() -> None:
    event = Event("everything", {"z": 1, "a": "é"})
    head = '{"event_name":"everything","event_type":"everything","event_data":{"z":1,"a":"é"},'
    assert JsonCodec().encode(around(event)).decode() == f'{head}"handle_id":"","timestamp":0}}'
    full = around(
        event, handle_id="1f", timestamp=-1, origin="ab", seq=3, reply_to="r", headers={"h": "v"}
    )
    assert JsonCodec().encode(full).decode() == (
        f'{head}"handle_id":"1f","timestamp":-1,'
        '"origin":"ab","seq":3,"reply_to":"r","headers":{"h":"v"}}'
    )


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (NOON, "2024-02-29T12:00:00Z"),
        (NOON.replace(microsecond=500000), "2024-02-29T12:00:00.5Z"),
        (NOON.replace(microsecond=1), "2024-02-29T12:00:00.000001Z"),
        (NOON.astimezone(timezone(timedelta(hours=7))), "2024-02-29T19:00:00+07:00"),
        (NOON.astimezone(timezone(-timedelta(minutes=210))), "2024-02-29T08:30:00-03:30"),
        (NOON.astimezone(timezone(timedelta(seconds=1172))), "2024-02-29T12:00:00Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00Z"),
    ],
)
def test_datetimes_are_written_as_go_writes_them(moment: datetime, text: str) -> None:
    assert written(Everything(at=moment))["at"] == text
    assert written(Everything(anything=[moment]))["anything"] == [text]
    assert written(Event("everything", {"at": moment})) == {"at": text}


def test_text_is_never_taken_for_a_datetime() -> None:
    text = "2024-02-29T12:00:00.500000Z"
    assert written(Everything(name=text, at=NOON, anything=text))["name"] == text
    assert written(Everything(anything=text))["anything"] == text


class Untyped(Event, name="untyped", registry=REGISTRY):
    value: Any


@both
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (math.nan, "nan"),
        (-math.inf, "inf"),
        ([{"a": math.nan}], "nan"),
        (datetime(2024, 1, 1), "no offset"),
        ({"a": [datetime(2024, 1, 1)]}, "no offset"),
        ("\ud800", "surrogate"),
        ({"\ud800": 1}, "surrogate"),
        (object(), "object"),
        ({object(): 1}, "keys|object"),
        (print, "builtin_function"),
    ],
)
def test_a_value_that_cannot_be_written_is_one_encode_error(
    make: Callable[[], Codec], value: Any, why: str
) -> None:
    for event in (Untyped(value), Event("everything", {"value": value})):
        with pytest.raises(EncodeError, match=why) as caught:
            make().encode(around(event))
        assert caught.value.event_name == "everything"
        assert not isinstance(caught.value.__cause__, EncodeError)
        assert str(caught.value).startswith("cannot encode 'everything': ")


@both
@pytest.mark.parametrize(
    "event",
    [
        Everything(number=2**63),
        Everything(number=-(2**63) - 1),
        Everything(numbers=[1, 2**63]),
        Everything(by_number={2**63: ""}),
        Everything(part=Part(NOON, 2**64)),
        Everything(ratio=math.nan),
        Everything(at=datetime(2024, 1, 1)),
        Everything(times=[datetime(2024, 1, 1)]),
        DataclassEvent(datetime(2024, 1, 1), 1),
        AttrsEvent(NOON, 2**63),
        PydanticEvent(at=datetime(2024, 1, 1), number=1),
        7,
        "text",
        None,
        {"a": 1},
        datetime(2024, 1, 1),
    ],
)
def test_an_event_that_peers_would_refuse_is_one_encode_error(
    make: Callable[[], Codec], event: Any
) -> None:
    with pytest.raises(EncodeError):
        make().encode(around(event))


@both
@pytest.mark.parametrize(
    "more",
    [
        {"timestamp": 1.5},
        {"timestamp": 2**63},
        {"seq": "1"},
        {"seq": 2**63},
        {"headers": {"a": 1}},
        {"headers": {1: "a"}},
    ],
)
def test_an_envelope_that_peers_would_refuse_is_one_encode_error(
    make: Callable[[], Codec], more: Any
) -> None:
    with pytest.raises(EncodeError):
        make().encode(around(Everything(), **more))


@both
def test_a_value_that_contains_itself_is_one_encode_error(make: Callable[[], Codec]) -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(EncodeError):
        make().encode(around(Untyped(circle)))


def test_untyped_integers_are_kept_as_they_are() -> None:
    for number in (2**63, 2**64, 10**399, -(10**399)):
        assert round_trip(JsonCodec(), Everything(anything=number)).event.anything == number
    with pytest.raises(EncodeError, match="digits"):
        JsonCodec().encode(around(Untyped(10**400)))
    with pytest.raises(EncodeError):
        MsgpackCodec().encode(around(Untyped(2**64)))


@both
@pytest.mark.parametrize(
    "data",
    [
        {"at": "2024-02-29T12:00:00"},
        {"at": "2024-02-29 12:00:00Z"},
        {"at": 1709210096},
        {"times": ["2024-02-29T12:00:00Z", "2024-02-29T12:00:00"]},
        {"pair": ["2024-02-29 12:00:00Z", 1]},
        {"pair": ["2024-02-29T12:00:00Z", 2**63]},
        {"spans": ["2024-02-29t12:00:00Z"]},
        {"by_name": {"a": {"at": "2024-02-29 12:00:00Z"}}},
        {"part": {"at": "2024-02-29T12:00:00+0700"}},
        {"pet": {"type": "Cat", "born": "2024-02-29 12:00:00Z"}},
        {"pet": {"type": "Cow", "born": ""}},
        {"row": ["2024-02-29T12:00:00", 1]},
        {"row": ["2024-02-29T12:00:00Z", 2**63]},
        {"row": {"at": "2024-02-29 12:00:00"}},
        {"tagged": ["row", "2024-02-29 12:00:00Z"]},
        {"span": ["2024-02-29T12:00:00", 1]},
        {"span": "2024-02-29 12:00:00"},
        {"times": "2024-02-29 12:00:00"},
        {"by_number": {"x9223372036854775808": ""}},
        {"bounded": 2**63},
        {"numbers": [2**63]},
        {"number": 2**63},
        {"number": 1.0},
        {"part": {"at": "2024-02-29T12:00:00Z", "number": 2**63}},
        {"by_number": {"9223372036854775808": ""}},
        {"colour": "blue"},
        {"name": None},
    ],
)
def test_data_that_breaks_its_annotations_is_one_decode_error(
    make: Callable[[], Codec], data: dict[str, Any]
) -> None:
    bytes_ = make().encode(around(Event("everything", data)))
    with pytest.raises(DecodeError) as caught:
        make().decode(bytes_, event_name="everything", registry=REGISTRY)
    assert not isinstance(caught.value.__cause__, DecodeError)


@both
def test_a_tag_decides_which_annotations_hold(make: Callable[[], Codec]) -> None:
    data = {"pet": {"type": "Dog", "born": "2024-02-29 12:00:00"}}
    bytes_ = make().encode(around(Event("everything", data)))
    envelope = make().decode(bytes_, event_name="everything", registry=REGISTRY)
    assert envelope.event.pet == Dog("2024-02-29 12:00:00")


@both
@pytest.mark.parametrize("cls", KINDS)
def test_every_kind_of_event_survives_a_round_trip(
    make: Callable[[], Codec], cls: type[Any]
) -> None:
    registry = EventRegistry()
    registry.register_as("everything", cls)
    event = cls(at=NOON, number=7)
    data = make().encode(around(event))
    envelope = make().decode(data, event_name="everything", registry=registry)
    assert envelope.event == event
    assert b"2024-02-29T12:00:00Z" in data
    for bad in ({"at": "2024-02-29T12:00:00Z", "number": "x"}, {}):
        data = make().encode(around(Event("everything", bad)))
        with pytest.raises(DecodeError):
            make().decode(data, event_name="everything", registry=registry)


@both
@pytest.mark.parametrize("cls", KINDS[:3])
@pytest.mark.parametrize(
    "bad",
    [
        {"at": "2024-02-29T12:00:00", "number": 1},
        {"at": "2024-02-29 12:00:00Z", "number": 1},
        {"at": 0, "number": 1},
        {"at": "2024-02-29T12:00:00Z", "number": 2**63},
    ],
)
def test_every_native_kind_is_checked_against_the_rules_of_the_wire(
    make: Callable[[], Codec], cls: type[Any], bad: dict[str, Any]
) -> None:
    registry = EventRegistry()
    registry.register_as("everything", cls)
    data = make().encode(around(Event("everything", bad)))
    with pytest.raises(DecodeError):
        make().decode(data, event_name="everything", registry=registry)


@both
def test_values_that_only_pydantic_can_write_are_written_by_it(make: Callable[[], Codec]) -> None:
    registry = EventRegistry()
    registry.register_as("everything", PydanticEvent)
    event = PydanticEvent(at=NOON, number=1, link=pydantic.HttpUrl("https://example.com/a"))
    data = make().encode(around(event))
    assert make().decode(data, event_name="everything", registry=registry).event == event


def test_numbers_that_json_does_not_have_never_reach_pydantic() -> None:
    class Ratio(pydantic.BaseModel):
        ratio: float

    registry = EventRegistry()
    registry.register_as("everything", Ratio)
    head = b'{"event_name":"everything","event_type":"everything","event_data":{"ratio":'
    for number in (b"NaN", b"Infinity", b"1e400"):
        with pytest.raises(DecodeError):
            JsonCodec().decode(head + number + b"}}", event_name="everything", registry=registry)


@both
def test_an_initialiser_that_raises_is_one_decode_error(make: Callable[[], Codec]) -> None:
    @dataclasses.dataclass
    class Picky:
        number: int

        def __post_init__(self) -> None:
            raise KeyError("picky")

    registry = EventRegistry()
    registry.register_as("everything", Picky)
    data = make().encode(around(Event("everything", {"number": 1})))
    with pytest.raises(DecodeError, match="picky") as caught:
        make().decode(data, event_name="everything", registry=registry)
    assert isinstance(caught.value.__cause__, KeyError)


@both
def test_an_initialiser_is_not_asked_about_data_of_another_type(make: Callable[[], Codec]) -> None:
    @dataclasses.dataclass
    class Newest:
        number: int

        def __post_init__(self) -> None:
            raise KeyError("picky")

    registry = EventRegistry()
    registry.register_as("everything", Newest)
    registry.register_as("older", StructEvent)
    event = StructEvent(at=NOON, number=1)
    data = make().encode(around(event, event_type="older"))
    assert make().decode(data, event_name="everything", registry=registry).event == event


@both
def test_an_initialiser_cannot_hide_an_integer_beyond_int64(make: Callable[[], Codec]) -> None:
    class Wrapped(msgspec.Struct):
        number: int

        def __post_init__(self) -> None:
            self.number %= 10

    @attrs.define
    class Wound:
        number: int

        def __attrs_post_init__(self) -> None:
            self.number %= 10

    for cls in (Wrapped, Wound):
        registry = EventRegistry()
        registry.register_as("everything", cls)
        data = make().encode(around(Event("everything", {"number": 2**63})))
        with pytest.raises(DecodeError, match="int64"):
            make().decode(data, event_name="everything", registry=registry)


@both
def test_an_attribute_that_was_never_set_is_left_out(make: Callable[[], Codec]) -> None:
    @dataclasses.dataclass
    class Half:
        name: str
        number: int = dataclasses.field(init=False)

    registry = EventRegistry()
    registry.register_as("everything", Half)
    data = make().encode(around(Half("x")))
    with pytest.raises(DecodeError, match="number"):
        make().decode(data, event_name="everything", registry=registry)


@both
def test_the_size_limit_holds_on_send_and_on_receive(make: Callable[..., Codec]) -> None:
    envelope = around(Everything(name="x" * 2000))
    data = make().encode(envelope)
    assert make(max_size=len(data)).encode(envelope) == data
    small = make(max_size=len(data) - 1)
    with pytest.raises(EncodeError, match="above the limit"):
        small.encode(envelope)
    with pytest.raises(DecodeError, match="above the limit"):
        small.decode(data, event_name="everything", registry=REGISTRY)


@both
def test_the_depth_limit_holds_on_send_and_on_receive(make: Callable[..., Codec]) -> None:
    deep: Any = 1
    for _ in range(62):
        deep = [deep]
    data = make().encode(around(Untyped(deep)))
    with pytest.raises(EncodeError, match="deeper than 64"):
        make().encode(around(Untyped([deep])))
    with pytest.raises(DecodeError, match="deeper than 63"):
        make(max_depth=63).decode(data, event_name="everything", registry=REGISTRY)


def test_the_digit_limit_can_be_lowered() -> None:
    data = JsonCodec().encode(around(Everything(anything=1234567)))
    with pytest.raises(DecodeError, match="more than 6 digits"):
        JsonCodec(max_digits=6).decode(data, event_name="everything", registry=REGISTRY)


@both
@pytest.mark.parametrize("limit", ["max_size", "max_depth"])
def test_a_limit_is_positive(make: Callable[..., Codec], limit: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make(**{limit: 0})


def test_codecs_have_a_content_type() -> None:
    assert JsonCodec().content_type == "application/json"
    assert MsgpackCodec().content_type == "application/msgpack"


class ItemV1(Event, name="item", registry=REGISTRY):
    price: int


class ItemV2(Event, name="item.v2", registry=REGISTRY):
    cents: int


@REGISTRY.upcast(ItemV1, to=ItemV2)
def item_in_cents(old: ItemV1) -> ItemV2:
    return ItemV2(100 // old.price)


@both
def test_an_old_version_is_decoded_as_the_newest(make: Callable[..., Codec]) -> None:
    data = make().encode(Envelope(event_name="item", event=ItemV1(5)))
    envelope = make().decode(data, event_name="item", registry=REGISTRY)
    assert (envelope.event, envelope.event_type) == (ItemV2(20), "item")
    kept = make(upgrade=False).decode(data, event_name="item", registry=REGISTRY)
    assert kept.event == ItemV1(5)


@both
def test_an_upcast_that_raises_is_one_decode_error(make: Callable[[], Codec]) -> None:
    data = make().encode(Envelope(event_name="item", event=ItemV1(0)))
    with pytest.raises(DecodeError, match="ZeroDivisionError"):
        make().decode(data, event_name="item", registry=REGISTRY)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01",
        b"\x80",
        b"\x81\x01\x01",
        b"\x91" * 100_000 + b"\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\x81\xa1\xff\x01",
        b"\x81\xa1a\xd4\x05\x00",
        b"\x81\xa1a\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
        msgspec.msgpack.encode({"event_name": "everything", "EVENT_TYPE": "everything"}),
        msgspec.msgpack.encode({"event_name": "everything", "event_type": "everything"}),
        msgspec.msgpack.encode(
            {"event_name": "everything", "event_type": "everything", "event_data": []}
        ),
        msgspec.msgpack.encode(
            {"event_name": "everything", "event_type": "everything", "event_data": {1: 2}}
        ),
        msgspec.msgpack.encode(
            {"event_name": "everything", "event_type": "everything", "event_data": {}}
        )
        + b"\x01",
    ],
)
def test_broken_messagepack_is_one_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        MsgpackCodec().decode(data, event_name="everything", registry=REGISTRY)
    assert len(caught.value.excerpt) <= 120


def test_null_data_is_an_empty_event_in_messagepack_too() -> None:
    data = msgspec.msgpack.encode(
        {"event_name": "everything", "event_type": "everything", "event_data": None, "more": 1}
    )
    envelope = MsgpackCodec().decode(data, event_name="everything", registry=REGISTRY)
    assert envelope.event == Everything()


numbers = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]))
moments = st.datetimes(
    min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.just(UTC)
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
events = st.builds(
    Everything,
    name=texts,
    number=numbers,
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    numbers=st.lists(numbers),
    at=st.none() | moments,
    times=st.lists(moments, max_size=3),
    by_name=st.dictionaries(texts, st.builds(Part, moments, numbers), max_size=3),
    anything=anything,
)


@both
@given(event=events, headers=st.dictionaries(texts, texts, max_size=3))
def test_every_event_survives_a_round_trip(
    make: Callable[[], Codec], event: Everything, headers: dict[str, str]
) -> None:
    envelope = round_trip(make(), event, headers=headers)
    assert envelope.event == event
    assert envelope.headers == headers


@both
@given(data=st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_decode_error(make: Callable[[], Codec], data: bytes) -> None:
    with pytest.raises(DecodeError):
        make().decode(data, event_name="everything", registry=REGISTRY)


class Flat(Event, name="flat", registry=REGISTRY):
    number: int
    ratio: float = 0.0
    text: str = ""
    marked: bool = False
    amount: Decimal | None = None


def nested(depth: int) -> Any:
    """Return a list that holds a list, and so on."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


flat_numbers = numbers | st.integers(-(2**64), 2**64) | anything
flat_values: dict[str, st.SearchStrategy[Any]] = {
    "ratio": st.floats(allow_nan=False, allow_infinity=False) | anything,
    "text": st.text(st.characters(codec="utf-8"), max_size=20),
    "marked": st.booleans(),
    "amount": st.none() | st.sampled_from(["12.50", "1e9", "x"]),
    "unknown": anything | st.integers(0, 90).map(nested),
}
flat_envelopes = st.fixed_dictionaries(
    {
        "event_name": st.sampled_from(["flat"] * 8 + ["everything"]),
        "event_type": st.sampled_from(["flat"] * 8 + ["everything", None]),
        "event_data": st.fixed_dictionaries({"number": flat_numbers}, optional=flat_values)
        | st.fixed_dictionaries({}, optional=flat_values)
        | st.none(),
    },
    optional={
        "handle_id": st.sampled_from(["0123456789abcdef", None]),
        "timestamp": st.sampled_from([0, 1_700_000_000, None, 2**70]),
        "origin": st.sampled_from(["0a1b", None]),
        "seq": st.sampled_from([1, None, 2**63]),
        "headers": st.dictionaries(texts, texts, max_size=2),
        "Event_Name": st.just("flat"),
    },
)


def outcome(data: bytes, **options: Any) -> object:
    """Return the envelope in the bytes, or the reason of the refusal."""
    try:
        return JsonCodec(**options).decode(data, event_name="flat", registry=REGISTRY)
    except DecodeError as error:
        return error.reason


@given(flat_envelopes, st.booleans())
def test_a_small_message_is_read_as_a_large_one_is(envelope: Any, ascii_only: bool) -> None:
    data = json.dumps(envelope, ensure_ascii=ascii_only).encode()
    # White space after the message makes it too large for the short way.
    padded = data + b" " * 400
    codec = JsonCodec()
    for _ in range(2):  # the codec takes the short way once it knows the class
        try:
            read: object = codec.decode(data, event_name="flat", registry=REGISTRY)
        except DecodeError as error:
            read = error.reason
        assert read == outcome(padded)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"number": 2**63}, "beyond int64"),
        ({"number": 1, "unknown": nested(63)}, "nested deeper than 64 levels"),
        ({"number": "1"}, "Expected `int`, got `str`"),
    ],
)
def test_the_rules_hold_for_small_messages(data: dict[str, Any], reason: str) -> None:
    codec = JsonCodec()
    envelope = {"event_name": "flat", "event_type": "flat", "event_data": {"number": 1}}
    usual = json.dumps(envelope).encode()
    assert codec.decode(usual, event_name="flat", registry=REGISTRY).event == Flat(1)
    bad = json.dumps(envelope | {"event_data": data}).encode()
    assert len(bad) < 400
    with pytest.raises(DecodeError, match=reason):
        codec.decode(bad, event_name="flat", registry=REGISTRY)
