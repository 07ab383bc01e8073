"""The fast way of a codec writes and reads the same as the way that looks at each value."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import example, given, strategies as st

from goevent import (
    DecodeError,
    EncodeError,
    Envelope,
    Event,
    EventRegistry,
    JsonCodec,
    MsgpackCodec,
)
from goevent._wire.event_coders import EventEncoder


class Box(msgspec.Struct):
    width: int = 0
    label: str | None = None


class Order(Event, name="order", registry=EventRegistry()):
    number: int
    ratio: float = 0.0
    note: str = ""
    paid: bool = False
    key: bytes = b""
    ident: UUID | None = None
    price: Decimal | None = None
    box: Box | None = None
    boxes: list[Box] = []  # noqa: RUF012 - msgspec copies an empty default
    stock: dict[str, float] = {}  # noqa: RUF012
    tags: set[str] = set()  # noqa: RUF012
    pair: tuple[int, str] = (0, "")


@dataclasses.dataclass
class Parcel:
    number: int
    boxes: list[Box]
    ratio: float = 0.0


class ModelBox(pydantic.BaseModel):
    width: int
    label: str | None = None


class Model(pydantic.BaseModel):
    number: int
    ratio: float = 0.0
    note: str = ""
    box: ModelBox | None = None
    boxes: list[ModelBox] = []
    stock: dict[str, float] = {}


class LooseModel(Model):
    model_config = pydantic.ConfigDict(extra="allow")


CLASSES: list[Any] = [Order, Parcel, Model, LooseModel]
classes = pytest.mark.parametrize("cls", CLASSES)

int64s = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
boxes = st.builds(Box, int64s, st.none() | texts)
orders = st.builds(
    Order,
    number=int64s,
    ratio=floats | st.integers(-(2**53), 2**53),
    note=texts,
    key=st.binary(max_size=4),
    ident=st.none() | st.uuids(),
    price=st.none() | st.decimals(allow_nan=False, allow_infinity=False),
    box=st.none() | boxes,
    boxes=st.lists(boxes, max_size=8),
    stock=st.dictionaries(texts, floats, max_size=3),
    tags=st.sets(texts, max_size=3),
    pair=st.tuples(int64s, texts),
)
model_boxes = st.builds(ModelBox, width=st.integers(), label=st.none() | texts)
models = st.builds(
    Model,
    number=st.integers(),
    ratio=floats,
    note=texts,
    box=st.none() | model_boxes,
    boxes=st.lists(model_boxes, max_size=8),
    stock=st.dictionaries(texts, floats, max_size=3),
)


def registry_of(cls: Any, *, has_upcasts: bool = False) -> EventRegistry:
    registry = EventRegistry()
    registry.register_as("order", cls)
    if has_upcasts:
        other = registry.register_as("other", msgspec.defstruct("Other", []))
        registry.upcast(other, to=cls)(lambda old: old)
    return registry


@given(event=orders | models)
def test_the_bytes_are_those_of_the_careful_way(event: Any) -> None:
    encoder = EventEncoder(event.__class__)
    kept = (datetime, bytes, bytearray, memoryview)
    for codec, write, types in (
        (JsonCodec(), msgspec.json.encode, (datetime,)),
        (MsgpackCodec(), msgspec.msgpack.encode, kept),
    ):
        body = encoder.checked_body(event, kept=types)
        names = {"event_name": "order", "event_type": "order"}
        try:
            expected = write({**names, "event_data": body, "handle_id": "", "timestamp": 0})
        except OverflowError:
            # MessagePack has no such integer.
            continue
        assert codec.encode(Envelope(event_name="order", event=event)) == expected


def outcome(codec: JsonCodec | MsgpackCodec, data: bytes, registry: EventRegistry) -> object:
    try:
        return codec.decode(data, event_name="order", registry=registry).event
    except DecodeError:
        return None


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


one_box = st.fixed_dictionaries(
    {"width": int64s | values}, optional={"label": texts | values, "more": values}
)
documents = st.fixed_dictionaries(
    {"number": int64s | values},
    optional={
        "ratio": floats | values,
        "note": texts | values,
        "box": one_box | values,
        "boxes": st.lists(one_box, max_size=5) | values,
        "stock": st.dictionaries(texts, floats, max_size=3) | values,
        "more": values | st.integers(50, 70).map(nested),
    },
)


@classes
@given(document=documents)
@example(document={"number": 2**63, "boxes": []})
@example(document={"number": 1, "boxes": [{"width": 2**63}]})
@example(document={"number": 1, "boxes": [], "more": nested(62)})
@example(document={"number": 1, "boxes": [], "more": nested(63)})
@example(document={"number": 1, "ratio": 1, "boxes": []})
@example(document={"number": None, "boxes": []})
def test_json_is_read_as_in_steps(cls: Any, document: Any) -> None:
    envelope = {"event_name": "order", "event_type": "order", "event_data": document}
    data = json.dumps(envelope).encode()
    # The name of a Go type is not the usual form, so such a message is read in steps.
    envelope["event_type"] = "*main.Order"
    in_steps = json.dumps(envelope).encode()
    registry = registry_of(cls)
    codec = JsonCodec(accept_go_type_names=True)
    assert outcome(codec, data, registry) == outcome(codec, in_steps, registry)


@pytest.mark.parametrize(
    "number", [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"1e308", b"1"]
)
@classes
def test_numbers_that_json_does_not_have_are_refused(cls: Any, number: bytes) -> None:
    fields = b'{"number":1,"boxes":[],"ratio":%b}' % number
    data = b'{"event_name":"order","event_type":"order","event_data":%b}' % fields
    found = outcome(JsonCodec(), data, registry_of(cls))
    assert (found is not None) is (number in (b"1", b"1e308"))


@classes
@given(document=documents, ratio=st.none() | st.floats(), code=st.none() | st.integers(0, 5))
@example(document={"number": 1, "boxes": [], "more": nested(63)}, ratio=None, code=None)
@example(document={"number": 1, "boxes": [], "more": float("nan")}, ratio=None, code=None)
@example(document={"number": 2**63, "boxes": []}, ratio=None, code=None)
@example(document={"number": 1, "boxes": []}, ratio=float("nan"), code=None)
@example(document={"number": 1, "boxes": []}, ratio=None, code=5)
def test_messagepack_is_read_as_in_steps(
    cls: Any, document: Any, ratio: float | None, code: int | None
) -> None:
    if ratio is not None:
        document = {**document, "ratio": ratio}
    if code is not None:
        document = {**document, "extension": msgspec.msgpack.Ext(code, b"x")}
    envelope = {"event_name": "order", "event_type": "order", "event_data": document}
    try:
        data = msgspec.msgpack.encode(envelope)
    except OverflowError:
        return
    # With an upcast in the registry, each message is read in steps.
    in_steps = outcome(MsgpackCodec(), data, registry_of(cls, has_upcasts=True))
    assert outcome(MsgpackCodec(), data, registry_of(cls)) == in_steps


@given(event=orders)
def test_a_written_event_is_read_equal_by_both_ways(event: Order) -> None:
    for codec in (JsonCodec(), MsgpackCodec()):
        data = codec.encode(Envelope(event_name="order", event=event))
        for has_upcasts in (False, True):
            assert outcome(codec, data, registry_of(Order, has_upcasts=has_upcasts)) == event


class Dated(Event, name="order", registry=EventRegistry()):
    at: datetime
    seen: list[datetime] = []  # noqa: RUF012
    note: str = ""


MOMENT = datetime(2026, 11, 30, 9, 8, 7)
ZONES = [UTC, UTC, timezone(timedelta(hours=-3, minutes=-30)), ZoneInfo("Europe/Paris")]


def moment_of(fraction: int, second: int, zone: tzinfo) -> datetime:
    return MOMENT.replace(microsecond=fraction, second=second, tzinfo=zone)


moments = st.builds(
    moment_of,
    st.sampled_from([0, 1, 10, 120_000, 123_456, 500_000, 999_990]),
    st.sampled_from([0, 1, 10, 59]),
    st.sampled_from([*ZONES, timezone(timedelta(hours=1, seconds=7))]) | st.just(UTC),
)
dated_texts = st.sampled_from(
    ["", "2026-11-30T09:08:07.500Z", "2026-11-30 09:08", "--T::", "0Z", '10Z"', ":0Z", "x" * 600]
)


@given(at=moments, seen=st.lists(moments, max_size=5), note=dated_texts)
@example(at=MOMENT.replace(tzinfo=UTC, microsecond=500_000), seen=[], note="")
@example(at=MOMENT.replace(tzinfo=UTC, second=10), seen=[], note="")
def test_datetimes_are_written_as_go_writes_them(
    at: datetime, seen: list[datetime], note: str
) -> None:
    event = Dated(at, seen, note)
    body = EventEncoder(Dated).checked_body(event)
    for codec in (JsonCodec(), MsgpackCodec()):
        data = codec.encode(Envelope(event_name="order", event=event))
        decode: Any = msgspec.json.decode if data[:1] == b"{" else msgspec.msgpack.decode
        assert decode(data)["event_data"] == body
        assert outcome(codec, data, registry_of(Dated)) == event


@given(seen=st.lists(moments, max_size=3), place=st.integers(0, 3))
def test_a_datetime_without_an_offset_is_refused(seen: list[datetime], place: int) -> None:
    seen.insert(place, MOMENT)
    event = Dated(MOMENT.replace(tzinfo=UTC), seen)
    with pytest.raises(EncodeError, match="offset"):
        JsonCodec().encode(Envelope(event_name="order", event=event))


written_times = st.sampled_from(
    [
        "2026-11-30T09:08:07Z",
        "2026-11-30T09:08:07.5Z",
        "2026-11-30T09:08:07.123456789Z",
        "2026-11-30T09:08:07+01:00",
        "2026-11-30T09:08:07.25-03:30",
        "2026-11-30T09:08:07",
        "2026-11-30T09:08:07.5",
        "2026-11-30 09:08:07Z",
        "2026-11-30t09:08:07Z",
        "2026-11-30T09:08:07z",
        "2026-11-30T09:08:07+0100",
        "2026-11-30T09:08Z",
    ]
)


@given(
    times=st.lists(st.just("2026-11-30T09:08:07Z") | written_times, min_size=1, max_size=4),
    note=dated_texts | written_times,
    escapes=st.booleans(),
)
@example(times=["2026-11-30 09:08:07Z"], note="x" * 600, escapes=False)
@example(times=["2026-11-30T09:08:07"], note="x" * 600, escapes=False)
@example(times=["2026-11-30T09:08:07z"], note="x" * 600, escapes=True)
def test_datetimes_are_accepted_exactly_if_go_accepts_them(
    times: list[str], note: str, escapes: bool
) -> None:
    event = {"at": times[0], "seen": times, "note": note}
    envelope = {"event_name": "order", "event_type": "order", "event_data": event}
    data = json.dumps(envelope).encode()
    if escapes:
        data = data.replace(b"-30T", b"-\\u0033\\u0030T").replace(b"-30 ", b"-30\\u0020")
    strict = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"
    accepted = all(re.fullmatch(strict, each) for each in times)
    assert (outcome(JsonCodec(), data, registry_of(Dated)) is not None) is accepted


class CachedModel(pydantic.BaseModel):
    number: int

    @property
    def twice(self) -> int:
        return 2 * self.number


def test_only_the_fields_of_a_model_are_written() -> None:
    model = CachedModel(number=7)
    # As `functools.cached_property` does.
    vars(model)["twice_cached"] = model.twice
    data = JsonCodec().encode(Envelope(event_name="order", event=model))
    assert msgspec.json.decode(data)["event_data"] == {"number": 7}


class Listed(pydantic.RootModel[list[int]]):
    pass


class Shouted(pydantic.BaseModel):
    words: list[Any]
    name: pydantic.SecretStr


def test_models_that_are_not_plain_are_written_by_pydantic() -> None:
    registry = EventRegistry()
    registry.register_as("order", Listed)
    event = Shouted(words=["a"], name=pydantic.SecretStr("x"))
    data = JsonCodec().encode(Envelope(event_name="order", event=event))
    assert b'"x"' not in data
    assert not EventEncoder(Listed).has_exact_types(Listed([1]))


class LooseBox(ModelBox):
    model_config = pydantic.ConfigDict(extra="allow")


class Loose(pydantic.BaseModel):
    boxes: list[LooseBox]


@pytest.mark.parametrize("count", [1, 10])
def test_extra_values_of_a_model_are_written(count: int) -> None:
    event = Loose(boxes=[LooseBox(width=n) for n in range(count)])
    assert EventEncoder(Loose).has_exact_types(event)
    event = Loose.model_validate({"boxes": [{"width": n, "depth": n} for n in range(count)]})
    assert not EventEncoder(Loose).has_exact_types(event)
    data = JsonCodec().encode(Envelope(event_name="order", event=event))
    assert outcome(JsonCodec(), data, registry_of(Loose)) == event


class Mixed(Event, name="order", registry=EventRegistry()):
    numbers: list[int | float]


@pytest.mark.parametrize("number", [1, 1.5, 2**60, 2**63 - 1, -(2**63)])
def test_a_list_may_hold_integers_and_floats(number: float) -> None:
    event = Mixed([number, 0, 0.5])
    assert EventEncoder(Mixed).has_exact_types(event)
    for codec in (JsonCodec(), MsgpackCodec()):
        data = codec.encode(Envelope(event_name="order", event=event))
        assert outcome(codec, data, registry_of(Mixed)) == event


@pytest.mark.parametrize("event", [Order(number=1), Dated(MOMENT.replace(tzinfo=UTC))])
def test_an_event_above_the_size_limit_is_refused(event: Event) -> None:
    for make in (JsonCodec, MsgpackCodec):
        envelope = Envelope(event_name="order", event=event)
        size = len(make().encode(envelope))
        assert len(make(max_size=size).encode(envelope)) == size
        with pytest.raises(EncodeError, match="above the limit"):
            make(max_size=size - 1).encode(envelope)


@pytest.mark.parametrize("max_depth", [2, 3, 4])
def test_an_event_that_its_class_does_not_bound_is_measured(max_depth: int) -> None:
    """The class allows four levels: the envelope, the order, the list and the box."""
    flat, deep = Order(number=1), Order(number=1, boxes=[Box(1)])
    for make in (JsonCodec, MsgpackCodec):
        codec = make(max_depth=max_depth)
        for event, levels in ((flat, 3), (deep, 4)):
            envelope = Envelope(event_name="order", event=event)
            if levels <= max_depth:
                assert codec.encode(envelope) == make().encode(envelope)
            else:
                with pytest.raises(EncodeError, match="deeper than"):
                    codec.encode(envelope)
