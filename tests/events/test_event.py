"""Events: the fields and names that classes may have, and the behaviour of their instances."""

from __future__ import annotations

import copy
import pickle
from typing import Any, assert_type

import msgspec
import pytest
from hypothesis import given, strategies as st

from goevent._events.event import AdHocEvent, Event
from goevent._events.names import MAX_NAME_BYTES, validate_name
from goevent._events.registry import EventRegistry, default_registry

REGISTRY = EventRegistry()
METACLASS: Any = type(Event)


class UserCreated(Event, name="user.created", registry=REGISTRY, key="user_id"):
    user_id: int
    name: str = "Ada"
    key: str = ""
    tags: list[str] = []  # noqa: RUF012 - msgspec copies an empty default


class Traced(Event):
    trace: str


class OrderPaid(Traced, name="order.paid", registry=REGISTRY):
    order_id: int


def test_an_event_takes_its_fields_by_keyword_and_by_position() -> None:
    event = UserCreated(user_id=7, name="Zoë")
    assert_type(event, UserCreated)
    assert_type(event.user_id, int)
    assert event == UserCreated(7, "Zoë")
    assert (event.user_id, event.name, event.tags) == (7, "Zoë", [])


def test_an_event_knows_its_name_in_the_class_and_in_the_instance() -> None:
    assert UserCreated.event_name == "user.created"
    assert UserCreated(7).event_name == "user.created"


def test_a_field_called_name_is_allowed() -> None:
    event = UserCreated(7, name="Grace", key="k")
    assert event.payload() == {"user_id": 7, "name": "Grace", "key": "k", "tags": []}
    assert event.event_name == "user.created"


def test_a_payload_is_a_new_dict_one_level_deep() -> None:
    event = UserCreated(7, tags=["a"])
    assert event.payload() is not event.payload()
    assert event.payload()["tags"] is event.tags


def test_an_event_is_frozen() -> None:
    event = UserCreated(7)
    with pytest.raises(AttributeError):
        event.user_id = 8  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    assert event.user_id == 7


def test_events_are_equal_by_class_and_fields() -> None:
    assert UserCreated(7) == UserCreated(7)
    assert UserCreated(7) != UserCreated(8)
    assert hash(OrderPaid("t", 1)) == hash(OrderPaid("t", 1))


def test_an_event_survives_pickle_and_copy() -> None:
    event = UserCreated(7, "Zoë", tags=["a"])
    assert pickle.loads(pickle.dumps(event)) == event
    assert copy.copy(event) == event
    deep = copy.deepcopy(event)
    assert deep == event
    assert deep.tags is not event.tags


def test_the_repr_of_an_event_shows_its_fields() -> None:
    assert repr(OrderPaid("t", 1)) == "OrderPaid(trace='t', order_id=1)"


def test_an_event_can_be_matched_by_position() -> None:
    match UserCreated(7, "Zoë"):
        case UserCreated(user_id, name):
            assert (user_id, name) == (7, "Zoë")


def test_mutable_defaults_are_not_shared() -> None:
    UserCreated(7).tags.append("a")
    assert UserCreated(7).tags == []


def test_a_class_without_a_name_is_abstract_and_not_registered() -> None:
    assert Traced.event_name == ""
    assert Traced not in {REGISTRY.type_of(name) for name in REGISTRY}
    assert REGISTRY.type_of("order.paid") is OrderPaid


def test_a_subclass_of_a_named_event_is_abstract_until_it_has_its_own_name() -> None:
    class Special(OrderPaid):
        pass

    assert Special.event_name == ""
    assert OrderPaid.event_name == "order.paid"


def test_an_event_registers_in_the_default_registry() -> None:
    class Registered(Event, name="test_event.registered"):
        pass

    assert default_registry.type_of("test_event.registered") is Registered


def test_a_key_is_a_field() -> None:
    assert REGISTRY.key_of(UserCreated) == "user_id"
    with pytest.raises(TypeError, match=r"Lost has no field 'order_id'"):

        class Lost(Event, name="order.lost", key="order_id", registry=REGISTRY):  # pyright: ignore[reportUnusedClass]
            number: int

    assert "order.lost" not in REGISTRY


def test_a_key_without_a_name_is_refused() -> None:
    with pytest.raises(TypeError, match="without a name has no key"):

        class Keyed(Event, key="number"):  # pyright: ignore[reportUnusedClass]
            number: int


@pytest.mark.parametrize("reserved", ["event_name", "payload"])
def test_the_error_for_a_reserved_field_name_shows_an_alias(reserved: str) -> None:
    with pytest.raises(TypeError, match=rf'msgspec\.field\(name="{reserved}"\)'):
        METACLASS("Bad", (Event,), {"__annotations__": {reserved: str}})
    with pytest.raises(TypeError, match=rf"{reserved!r} is reserved"):
        METACLASS("Bad", (Event,), {reserved: "x"})


def test_a_reserved_name_can_be_an_alias_on_the_wire() -> None:
    class Letter(Event, name="letter", registry=REGISTRY):
        content: str = msgspec.field(name="payload")

    assert msgspec.json.encode(Letter(content="x")) == b'{"payload":"x"}'
    assert Letter(content="x").payload() == {"content": "x"}


@pytest.mark.parametrize("option", ["frozen", "array_like", "tag"])
def test_an_option_that_would_change_the_wire_is_refused(option: str) -> None:
    with pytest.raises(TypeError, match=f"no option '{option}'"):
        METACLASS("Bad", (Event,), {}, **{option: False})


def test_options_of_a_struct_are_accepted() -> None:
    class Renamed(Event, name="renamed", registry=REGISTRY, rename="camel", kw_only=True):
        user_id: int

    assert msgspec.json.encode(Renamed(user_id=1)) == b'{"userId":1}'
    with pytest.raises(TypeError):
        Renamed(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_an_ad_hoc_event_has_a_name_and_a_payload() -> None:
    event = Event("user.created", {"user_id": 7})
    assert_type(event, Event)
    assert type(event) is AdHocEvent
    assert event.event_name == "user.created"
    assert event.payload() == {"user_id": 7}
    assert Event("user.created").payload() == {}


def test_an_ad_hoc_event_copies_its_payload() -> None:
    payload = {"user_id": 7}
    event = Event("user.created", payload)
    payload["user_id"] = 8
    event.payload()["user_id"] = 9
    assert event.payload() == {"user_id": 7}


def test_an_ad_hoc_event_survives_pickle_copy_and_comparison() -> None:
    event = Event("user.created", {"user_id": 7})
    assert pickle.loads(pickle.dumps(event)) == event == copy.deepcopy(event)
    assert event != Event("user.created", {"user_id": 8})
    assert "user.created" in repr(event)


def test_an_ad_hoc_event_with_a_bad_payload_is_refused() -> None:
    bad: Any
    for bad in ([("user_id", 7)], "text", 7):
        with pytest.raises(TypeError, match="is a mapping, not"):
            Event("user.created", bad)
    bad = {7: 1}
    with pytest.raises(TypeError, match="keys of a payload are str"):
        Event("user.created", bad)


def test_an_ad_hoc_event_with_a_bad_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'\*' at position 5"):
        Event("user.*", {})
    nothing: Any = None
    with pytest.raises(TypeError, match="NoneType"):
        Event(nothing)


@pytest.mark.parametrize("name", ["a", "user.created", "A-1_b.2.c", "x" * MAX_NAME_BYTES])
def test_dotted_segments_are_a_name(name: str) -> None:
    assert validate_name(name) is name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        (".a", "empty segment at position 0"),
        ("a..b", "empty segment at position 2"),
        ("a.", "empty segment at position 2"),
        ("order.*", r"'\*' at position 6"),
        ("a b", "' ' at position 1"),
        ("a\n", r"'\\n' at position 1"),
        ("é", r"'\\xe9' at position 0"),
        ("x" * 256, "256 bytes; the limit is 255"),
    ],
)
def test_a_bad_name_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        validate_name(name)
    assert len(str(caught.value)) < 300


def test_a_name_that_is_not_a_str_is_a_type_error() -> None:
    name: Any = b"user"
    with pytest.raises(TypeError, match="bytes"):
        validate_name(name)


@given(st.text(max_size=300))
def test_a_name_is_valid_only_if_its_segments_are(name: str) -> None:
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    good = len(name) <= MAX_NAME_BYTES and all(
        part and set(part) <= allowed for part in name.split(".")
    )
    if good:
        assert validate_name(name) == name
    else:
        with pytest.raises(ValueError, match="event name"):
            validate_name(name)
