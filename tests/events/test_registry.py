"""The registry: names and classes, creation, payloads and versions."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

from goevent._errors import DecodeError
from goevent._events.event import AdHocEvent, Event
from goevent._events.registry import (
    EventRegistry,
    UnknownEventError,
    default_registry,
    register_event_type,
    upcast,
)


class StructEvent(msgspec.Struct):
    payload: int
    name: str = "n"


@dataclasses.dataclass
class DataclassEvent:
    payload: int
    name: str = "n"


@attrs.define
class AttrsEvent:
    payload: int
    name: str = "n"


class PydanticEvent(pydantic.BaseModel):
    payload: int
    name: str = "n"


KINDS: list[type[Any]] = [StructEvent, DataclassEvent, AttrsEvent, PydanticEvent]


def make_event_class(registry: EventRegistry) -> type[Any]:
    class Repeated(Event, name="repeated", registry=registry):
        number: int

    return Repeated


@pytest.mark.parametrize("cls", KINDS)
def test_every_kind_of_class_can_be_an_event_type(cls: type[Any]) -> None:
    registry = EventRegistry()
    registry.register_as("a.b", cls, key="payload")
    event = registry.create("a.b", {"payload": 1})
    assert type(event) is cls
    assert registry.payload_of(event) == {"payload": 1, "name": "n"}
    assert (registry.type_of("a.b"), registry.name_of(cls)) == (cls, "a.b")
    assert registry.key_of(cls) == "payload"


@pytest.mark.parametrize("cls", KINDS)
def test_a_payload_that_does_not_fit_is_a_decode_error(cls: type[Any]) -> None:
    registry = EventRegistry()
    registry.register_as("a.b", cls)
    bad: Any
    for bad in ({"payload": "x"}, {}, None, [("payload", 1)], {"payload": 1, "name": 2}):
        with pytest.raises(DecodeError) as caught:
            registry.create("a.b", bad)
        assert caught.value.event_name == "a.b"
        assert len(caught.value.excerpt) <= 120


@pytest.mark.parametrize("cls", [int, dict, object, Exception])
def test_an_unsupported_class_is_refused_with_a_list_of_the_supported_ones(cls: type[Any]) -> None:
    with pytest.raises(TypeError, match=r"dataclass.*attrs.*msgspec.*pydantic"):
        EventRegistry().register_as("a.b", cls)


def test_an_object_that_is_not_a_class_is_refused() -> None:
    function: Any = print
    with pytest.raises(TypeError, match="cannot be an event type"):
        EventRegistry().register_as("a.b", function)
    with pytest.raises(TypeError, match="cannot be an event type"):
        EventRegistry().payload_of(7)


def test_a_struct_written_as_a_list_is_refused() -> None:
    class Listed(msgspec.Struct, array_like=True):
        number: int

    with pytest.raises(TypeError, match="array_like"):
        EventRegistry().register_as("a.b", Listed)


def test_event_and_the_ad_hoc_event_are_not_event_types() -> None:
    for cls in (Event, AdHocEvent):
        with pytest.raises(TypeError, match="event type"):
            EventRegistry().register_as("a.b", cls)


def test_the_payload_of_an_ad_hoc_event_is_unchanged() -> None:
    assert EventRegistry().payload_of(Event("a.b", {"x": 1})) == {"x": 1}


def test_a_class_without_an_event_name_needs_one() -> None:
    with pytest.raises(TypeError, match="has no event_name"):
        EventRegistry().register(StructEvent)
    with pytest.raises(TypeError, match="has no event_name"):
        register_event_type(StructEvent)
    with pytest.raises(TypeError, match="register it with name="):
        register_event_type(StructEvent, key="payload")


def test_a_class_can_have_its_name_in_event_name() -> None:
    registry = EventRegistry()
    cls = make_event_class(registry)
    other = EventRegistry()
    assert other.register(cls) is cls
    assert other.names() == ("repeated",)


def test_an_abstract_event_gets_the_name_it_is_registered_under() -> None:
    class Unnamed(Event):
        number: int

    registry = EventRegistry()
    register_event_type(Unnamed, name="now.named", registry=registry)
    assert Unnamed(1).event_name == "now.named"


def test_a_different_class_under_a_taken_name_is_refused_with_both_classes() -> None:
    registry = EventRegistry()
    registry.register_as("a.b", StructEvent)
    with pytest.raises(ValueError, match=r"StructEvent.*DataclassEvent"):
        registry.register_as("a.b", DataclassEvent)
    assert registry.type_of("a.b") is StructEvent
    registry.register_as("a.b", StructEvent)


def test_a_class_defined_again_replaces_the_older_one_which_keeps_its_name() -> None:
    registry = EventRegistry()
    older = make_event_class(registry)
    newer = make_event_class(registry)
    assert older is not newer
    assert registry.type_of("repeated") is newer
    assert registry.name_of(older) == registry.name_of(newer) == "repeated"
    assert len(registry) == 1


def test_a_registry_reads_like_a_collection_of_names() -> None:
    registry = EventRegistry()
    registry.register_as("b", StructEvent)
    registry.register_as("a", StructEvent)
    assert list(registry) == ["b", "a"]
    assert ("a" in registry, "c" in registry, len(registry)) == (True, False, 2)
    assert registry.is_registered("a")
    assert not registry.is_registered("c")
    assert registry.name_of(StructEvent) == "b"
    assert registry.name_of(DataclassEvent) is None
    assert registry.type_of("c") is None


def test_an_unknown_name_is_a_lookup_error() -> None:
    with pytest.raises(LookupError, match=r"'no\.such'"):
        EventRegistry().create("no.such")


def test_a_payload_may_use_python_names_or_wire_names() -> None:
    registry = EventRegistry()

    class Letter(Event, name="letter", registry=registry):
        content: str = msgspec.field(name="payload")

    for payload in ({"content": "x"}, {"payload": "x"}):
        assert registry.create("letter", payload) == Letter(content="x")


def test_a_payload_is_checked_against_the_rules_of_the_wire() -> None:
    registry = EventRegistry()

    class Dated(Event, name="dated", registry=registry):
        at: datetime
        number: int = 0

    good = datetime(2024, 2, 29, tzinfo=UTC)
    assert registry.create("dated", {"at": good}) == Dated(good)
    assert registry.create("dated", {"at": "2024-02-29T00:00:00Z"}) == Dated(good)
    for bad in ("2024-02-29T00:00:00", "2024-02-29 00:00:00Z", good.replace(tzinfo=None), 0):
        with pytest.raises(DecodeError):
            registry.create("dated", {"at": bad})
    with pytest.raises(DecodeError, match="int64"):
        registry.create("dated", {"at": good, "number": 2**63})


def test_register_event_type_is_a_decorator_too() -> None:
    registry = EventRegistry()

    @register_event_type(name="decorated", registry=registry)
    @dataclasses.dataclass
    class Decorated:
        number: int

    assert registry.create("decorated", {"number": 1}) == Decorated(1)


def test_an_event_can_be_registered_elsewhere_with_its_own_name_and_a_key() -> None:
    registry = EventRegistry()
    register_event_type(OrderV1, key="total", registry=registry)
    assert registry.type_of("order.created") is OrderV1
    assert registry.key_of(OrderV1) == "total"


def test_an_alias_does_not_change_the_name_of_an_event_class() -> None:
    registry = EventRegistry()
    registry.register_as("order.alias", OrderV1)
    assert registry.create("order.alias", {"total": 1}) == OrderV1(1)
    assert registry.name_of(OrderV1) == OrderV1.event_name == "order.created"


def test_register_event_type_uses_the_default_registry() -> None:
    class Plain(msgspec.Struct):
        number: int

    assert register_event_type(Plain, name="test_registry.plain") is Plain
    assert default_registry.type_of("test_registry.plain") is Plain


def test_pydantic_is_not_imported_for_other_classes() -> None:
    script = (
        "import sys\n"
        "from goevent._events.event import Event\n"
        "from goevent._events.registry import default_registry as r\n"
        "class A(Event, name='a'):\n    x: int\n"
        "r.payload_of(r.create('a', {'x': 1}))\n"
        "assert not {'pydantic', 'attr', 'attrs'} & sys.modules.keys()\n"
    )
    preload = "import trio, sys\n[sys.modules.pop(m) for m in ('attr', 'attrs')]\n"
    subprocess.run([sys.executable, "-c", preload + script], check=True)


class OrderV1(Event, name="order.created", registry=EventRegistry()):
    total: int


class OrderV2(Event, name="order.created.v2", registry=EventRegistry()):
    cents: int


class OrderV3(Event, name="order.created.v3", registry=EventRegistry()):
    cents: int
    currency: str


def versions() -> EventRegistry:
    registry = EventRegistry()
    for cls in (OrderV1, OrderV2, OrderV3):
        registry.register(cls)

    @registry.upcast(OrderV1, to=OrderV2)
    def to_v2(old: OrderV1) -> OrderV2:  # pyright: ignore[reportUnusedFunction]
        return OrderV2(old.total * 100)

    @registry.upcast("order.created.v2", to=OrderV3)
    def to_v3(old: OrderV2) -> OrderV3:  # pyright: ignore[reportUnusedFunction]
        return OrderV3(old.cents, "EUR")

    return registry


def test_an_old_version_is_upgraded_through_every_upcast() -> None:
    registry = versions()
    newest = OrderV3(700, "EUR")
    assert registry.upgrade(OrderV1(7)) == newest
    assert registry.upgrade(OrderV1(7)).event_name == "order.created.v3"
    assert registry.upgrade(newest) is newest


def test_creation_does_not_upgrade() -> None:
    assert versions().create("order.created", {"total": 7}) == OrderV1(7)


def test_upcasts_that_form_a_cycle_are_refused() -> None:
    registry = versions()
    with pytest.raises(ValueError, match=r"cycle: .*OrderV3 -> .*OrderV1"):
        registry.upcast(OrderV3, to=OrderV1)(lambda old: OrderV1(old.cents))
    with pytest.raises(ValueError, match="cycle"):
        registry.upcast(OrderV3, to=OrderV3)(lambda old: old)
    assert registry.upgrade(OrderV3(1, "EUR")) == OrderV3(1, "EUR")


def test_a_version_has_one_successor() -> None:
    with pytest.raises(ValueError, match="already upcast"):
        versions().upcast(OrderV1, to=OrderV3)(lambda old: OrderV3(old.total, ""))


def test_an_upcast_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(UnknownEventError, match=r"no\.such"):
        EventRegistry().upcast("no.such", to=OrderV2)


def test_an_upcast_that_returns_something_else_is_a_type_error() -> None:
    registry = EventRegistry()

    def unchanged(old: Any) -> Any:
        return old

    registry.upcast(OrderV1, to=OrderV2)(unchanged)
    with pytest.raises(TypeError, match=r"OrderV1.*not a .*OrderV2"):
        registry.upgrade(OrderV1(7))


def test_the_module_level_upcast_uses_the_default_registry() -> None:
    class Old(Event, name="test_registry.old"):
        pass

    class New(Event, name="test_registry.new"):
        pass

    @upcast(Old, to=New)
    def renew(old: Old) -> New:  # pyright: ignore[reportUnusedFunction]
        return New()

    assert default_registry.upgrade(Old()) == New()
