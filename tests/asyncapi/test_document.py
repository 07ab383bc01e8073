"""The AsyncAPI document of a bus: its parts, and its form by the official JSON Schema."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Generic, TypedDict, TypeVar, cast
from uuid import UUID

import attrs
import jsonschema
import msgspec
import pydantic
import pytest
from hypothesis import given, settings, strategies as st

from goevent import Config, Event, EventRegistry, GoEvent, JsonCodec, MsgpackCodec
from goevent.asyncapi import (
    ASYNCAPI_VERSION,
    as_json,
    as_yaml,
    breaking_changes,
    document,
    read_document,
)

SPECIFICATION = json.loads(
    (Path(__file__).parent / "data" / "asyncapi-3.0.0.json").read_text(encoding="utf-8")
)
# Its types name a part that is not typed.
VALIDATOR: Any = jsonschema.Draft7Validator(SPECIFICATION)
SECRET = "hunter2-secret"
URLS = [
    "memory",
    f"redis://app:{SECRET}@cache.example:6380/2?prefix=shop:",
    f"rediss://app:{SECRET}@cache.example",
    f"redis+streams://:{SECRET}@cache.example?group=billing",
    f"kafka://app:{SECRET}@broker.example:9092?group=billing&sasl=plain",
    "kafka+confluent://one.example:9092,two.example:9092?group=billing",
    f"amqp://app:{SECRET}@rabbit.example/shop?group=billing",
    f"amqp://app:{SECRET}@rabbit.example",
    f"nats://app:{SECRET}@nats.example:4222",
    f"nats+js://app:{SECRET}@nats.example?group=billing&stream=shop",
    f"mqtt://app:{SECRET}@mqtt.example:1883?group=billing",
    f"nats://app:{SECRET}@nats.example?format=faststream",
]
T = TypeVar("T")


class Currency(Enum):
    EURO = "eur"
    DOLLAR = "usd"


class Address(TypedDict):
    street: str


class Line(msgspec.Struct):
    sku: str
    price: Decimal
    number: Annotated[int, msgspec.Meta(ge=1, examples=[3])] = 1


class Box(msgspec.Struct, Generic[T]):
    content: T


@dataclass
class Refunded:
    order_id: int
    at: datetime | None = None


@dataclass
class Documented:
    """A refund with a text of its own."""

    order_id: int


@attrs.define
class Shipped:
    order_id: int
    address: Address


class Made(pydantic.BaseModel):
    """A model was made."""

    name: str = pydantic.Field(min_length=2, examples=["lamp"])
    parent: Made | None = None


class Strange:
    pass


class Unwritable(msgspec.Struct):
    strange: Strange


def assert_valid(made: dict[str, Any]) -> None:
    errors = [f"{error.json_path}: {error.message[:200]}" for error in VALIDATOR.iter_errors(made)]
    assert errors == []
    assert_references_lead_somewhere(made, made)


def assert_references_lead_somewhere(part: object, made: dict[str, Any]) -> None:
    if isinstance(part, dict):
        parts = cast("dict[str, object]", part)
        if isinstance(reference := parts.get("$ref"), str):
            found: Any = made
            for key in reference.removeprefix("#/").split("/"):
                found = found[key]
        for each in parts.values():
            assert_references_lead_somewhere(each, made)
    elif isinstance(part, list):
        for each in cast("list[object]", part):
            assert_references_lead_somewhere(each, made)


def made_of(bus: GoEvent, **texts: Any) -> dict[str, Any]:
    return dict(document(bus, **texts))


def shop_registry() -> EventRegistry:
    registry = EventRegistry()

    class OrderPaid(Event, name="order.paid", registry=registry, key="order_id"):
        """An order was paid.

        The money has arrived.
        """

        order_id: int
        lines: list[Line]
        currency: Currency = Currency.EURO
        box: Box[UUID] | None = None
        raw: bytes = b""

    registry.register(OrderPaid)
    registry.register_as("order.refunded", Refunded)
    registry.register_as("order.documented", Documented)
    registry.register_as("order.shipped", Shipped)
    registry.register_as("model.made", Made)
    registry.register_as("bad.unwritable", Unwritable)
    return registry


def shop(driver: str = "memory", **config: Any) -> GoEvent:
    bus = GoEvent(Config(driver=driver, registry=shop_registry(), **config))

    @bus.listener("order.*", "model.made", "no.class", "deep.**")
    async def bill(event: object) -> None: ...

    @bus.listener("order.paid")
    def count(event: object) -> None: ...

    return bus


@pytest.mark.parametrize("url", URLS, ids=lambda url: url.partition("?")[0].partition("@")[0])
def test_document_of_every_driver_is_valid_and_holds_no_secret(url: str) -> None:
    made = made_of(shop(url))
    assert made["asyncapi"] == ASYNCAPI_VERSION
    assert_valid(made)
    assert SECRET not in as_yaml(made)
    assert SECRET not in as_json(made)


@pytest.mark.parametrize("url", URLS, ids=lambda url: url.partition("?")[0].partition("@")[0])
def test_document_is_the_same_each_time_and_survives_its_text(url: str) -> None:
    made = made_of(shop(url))
    assert as_yaml(made_of(shop(url))) == as_yaml(made)
    assert read_document(as_yaml(made)) == made
    assert read_document(as_json(made)) == made


def test_order_of_registration_does_not_change_the_document() -> None:
    registry = shop_registry()
    texts: set[str] = set()
    for names in (("a.one", "b.two"), ("b.two", "a.one")):
        bus = GoEvent(Config(registry=registry))
        for name in names:
            bus.subscribe(print, name, name=f"listener.{name}")
        texts.add(as_yaml(document(bus)))
    assert len(texts) == 1


def test_every_listener_receives_and_other_types_are_sent() -> None:
    operations = made_of(shop())["operations"].values()
    received = [
        (each["x-listener"], each["channel"]["$ref"])
        for each in operations
        if each["action"] == "receive"
    ]
    names = {
        (listener.rpartition(".")[2], ref.removeprefix("#/channels/")) for listener, ref in received
    }
    assert names == {
        *(("bill", name) for name in ("order.*", "model.made", "no.class", "deep.**")),
        ("count", "order.paid"),
    }
    sent = [each["channel"]["$ref"] for each in operations if each["action"] == "send"]
    assert sent == ["#/channels/bad.unwritable"]


def test_the_program_can_say_what_it_publishes() -> None:
    made = made_of(shop(), publishes=["order.paid", "audit.written"])
    assert_valid(made)
    sent = [key for key, each in made["operations"].items() if each["action"] == "send"]
    assert sent == ["send.audit.written", "send.order.paid"]


@pytest.mark.parametrize(("wrong", "error"), [("a..b", ValueError), ("a.*", ValueError)])
def test_a_published_name_that_is_none_is_refused(wrong: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        document(shop(), publishes=[wrong])


def test_texts_of_the_application_are_shown() -> None:
    made = made_of(shop(), title="shop", version="2.1.0", description="Sells lamps.")
    assert made["info"] == {"title": "shop", "version": "2.1.0", "description": "Sells lamps."}


def test_title_is_the_group_by_default() -> None:
    assert made_of(shop("redis+streams://h?group=billing"))["info"]["title"] == "billing"


def test_a_pattern_is_a_channel_with_parameters_and_all_its_messages() -> None:
    channels = made_of(shop())["channels"]
    assert channels["order.*"]["address"] == "order.{segment1}"
    assert [*channels["order.*"]["parameters"]] == ["segment1"]
    assert {*channels["order.*"]["messages"]} == {
        *("order.documented", "order.paid", "order.refunded", "order.shipped")
    }
    assert channels["deep.**"]["address"] == "deep.{segments1}"
    assert channels["deep.**"]["messages"] == {}


def test_a_message_has_the_texts_the_key_and_an_example_of_its_class() -> None:
    messages = made_of(shop())["components"]["messages"]
    paid = messages["order.paid"]
    assert paid["title"] == "OrderPaid"
    assert paid["summary"] == "An order was paid."
    assert paid["description"] == "The money has arrived."
    assert paid["x-key"] == "order_id"
    assert "summary" not in messages["order.refunded"], "a dataclass shows no signature"
    assert messages["order.documented"]["summary"] == "A refund with a text of its own."


@pytest.mark.parametrize(
    "name", ["order.paid", "order.refunded", "order.shipped", "model.made", "order.documented"]
)
def test_the_example_of_a_message_is_an_envelope_that_the_codec_reads(name: str) -> None:
    bus = shop()
    example = made_of(bus)["components"]["messages"][name]["examples"][0]["payload"]
    registry = bus._config.registry  # pyright: ignore[reportPrivateUsage]
    data = msgspec.json.encode(example)
    envelope = JsonCodec().decode(data, event_name=name, registry=registry)
    assert type(envelope.event) is registry.type_of(name)


def test_examples_of_fields_are_used() -> None:
    messages = made_of(shop())["components"]["messages"]
    paid = messages["order.paid"]["examples"][0]["payload"]["event_data"]
    assert paid["lines"][0]["number"] == 3
    assert messages["model.made"]["examples"][0]["payload"]["event_data"]["name"] == "lamp"


def test_a_class_without_a_schema_is_documented_with_the_reason() -> None:
    made = made_of(shop())
    assert_valid(made)
    data = made["components"]["messages"]["bad.unwritable"]["payload"]["allOf"][1]
    schema = data["properties"]["event_data"]
    assert "type" not in schema
    assert "has no JSON Schema" in schema["description"]


def test_a_class_that_raises_while_it_is_read_does_not_end_the_document() -> None:
    registry = EventRegistry()

    class Hostile(pydantic.BaseModel):
        value: int

        @classmethod
        def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
            raise RuntimeError("no schema\nfor you")

    registry.register_as("hostile", Hostile)
    made = made_of(GoEvent(Config(registry=registry)))
    assert_valid(made)
    assert "no schema for you" in as_yaml(made)


def test_an_old_version_is_deprecated_and_names_its_successor() -> None:
    registry = EventRegistry()

    class PaidV1(Event, name="paid", registry=registry):
        total: int

    class PaidV2(Event, name="paid.v2", registry=registry):
        cents: int

    @registry.upcast(PaidV1, to=PaidV2)
    def to_v2(old: PaidV1) -> PaidV2:
        return PaidV2(cents=old.total * 100)

    message = made_of(GoEvent(Config(registry=registry)))["components"]["messages"]["paid"]
    assert (message["deprecated"], message["x-upcast-to"]) == (True, "paid.v2")


def test_two_classes_of_one_name_have_schemas_of_their_own() -> None:
    registry = EventRegistry()

    def struct() -> Any:
        class Same(msgspec.Struct):
            a: int

        return Same

    def model() -> Any:
        class Same(pydantic.BaseModel):
            b: int

        return Same

    registry.register_as("one", struct())
    registry.register_as("two", model())
    made = made_of(GoEvent(Config(registry=registry)))
    assert_valid(made)
    fields = [
        [*schema["properties"]]
        for key, schema in made["components"]["schemas"].items()
        if key.startswith("Same")
    ]
    assert sorted(fields) == [["a"], ["b"]]


def test_other_codecs_and_formats_are_told() -> None:
    made = made_of(shop(codec=MsgpackCodec()))
    assert made["defaultContentType"] == MsgpackCodec().content_type
    plain = made_of(shop("nats://nats.example?format=faststream"))
    message = plain["components"]["messages"]["order.shipped"]
    assert message["payload"] == {"$ref": "#/components/schemas/Shipped"}
    assert {"correlation_id", "causation_id"} < message["headers"]["properties"].keys()


@pytest.mark.parametrize(
    ("url", "address", "part", "expected"),
    [
        ("redis://h?prefix=shop:", "shop:order.paid", None, None),
        ("redis+streams://h?group=g", "goevent:stream:order.paid", None, None),
        ("kafka://h?group=g", "goevent.order.paid", "groupId", ["g.goevent.order.paid"]),
        ("amqp://h?group=g", "order.paid", "x-queue", "goevent:g:order.paid"),
        ("nats+js://h?group=g", "goevent-js.order.paid", "queue", "g"),
        ("mqtt://h?group=g", "goevent/order/paid", "qos", 1),
    ],
)
def test_addresses_and_bindings_are_those_of_the_broker(
    url: str, address: str, part: str | None, expected: object
) -> None:
    made = made_of(shop(url))
    assert made["channels"]["order.paid"]["address"] == address
    if part is not None:
        count = next(k for k in made["operations"] if "count" in k)
        (binding,) = made["operations"][count]["bindings"].values()
        found = binding[part]
        assert (found["enum"] if isinstance(found, dict) else found) == expected


@pytest.mark.parametrize(
    "text", ["", "[]", "a: [", "openapi: 3.0.0", '{"asyncapi": "2.6.0"}', "\x00", "[" * 10_000]
)
def test_a_text_that_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="this is n"):
        read_document(text)


# Type checkers take `list[kind]` with a variable for a mistake.
LIST: Any = list
DICT: Any = dict
TUPLE: Any = tuple
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name not in ("event_name", "payload")
)
TYPES = st.recursive(
    st.sampled_from(
        [int, str, float, bool, bytes, datetime, UUID, Decimal, Any, Currency, Line, Box[int]]
    ),
    lambda inner: st.one_of(
        inner.map(lambda each: LIST[each]),
        inner.map(lambda each: DICT[str, each]),
        inner.map(lambda each: each | None),
        st.tuples(inner, inner).map(lambda pair: TUPLE[pair[0], pair[1]]),
    ),
    max_leaves=4,
)


@given(fields=st.dictionaries(NAMES, TYPES, max_size=5), event_name=NAMES)
@settings(max_examples=60, deadline=None)
def test_document_of_any_class_is_valid(fields: dict[str, Any], event_name: str) -> None:
    registry = EventRegistry()
    registry.register_as(event_name, msgspec.defstruct("Some", [*fields.items()]))
    bus = GoEvent(Config(registry=registry))
    bus.subscribe(print, event_name)
    made = made_of(bus)
    assert_valid(made)
    assert as_yaml(read_document(as_yaml(made))) == as_yaml(made)
    message = made["components"]["messages"][event_name]
    if "examples" in message:
        envelope = message["examples"][0]["payload"]
        data = envelope["event_data"]
        assert isinstance(registry.create(event_name, data), registry.type_of(event_name) or object)
        schema = {**message["payload"], "components": made["components"]}
        validator: Any = jsonschema.Draft7Validator(schema)
        validator.validate(envelope)


# -- requests


class PriceAsked(msgspec.Struct):
    sku: str


class Price(msgspec.Struct):
    cents: int


def responding_bus(url: str) -> GoEvent:
    registry = EventRegistry()
    registry.register_as("price.asked", PriceAsked)
    registry.register_as("price", Price)
    bus = GoEvent(Config(driver=url, registry=registry))
    bus.respond(lambda event: Price(1), PriceAsked, Price, name="prices")
    bus.respond(lambda event: 1, "count.asked", name="counter")
    return bus


@pytest.mark.parametrize(
    ("url", "name", "address"),
    [
        ("redis://cache.example", "price.asked", None),
        (
            "nats+js://nats.example?group=billing",
            "goevent.requests.price.asked",
            "goevent-js.goevent.requests.price.asked",
        ),
    ],
)
def test_a_responder_is_an_operation_with_a_reply(url: str, name: str, address: str | None) -> None:
    made: Any = document(responding_bus(url))
    VALIDATOR.validate(made)
    assert [*made["operations"]] == ["respond.count.asked", "respond.price.asked"]
    operation = made["operations"]["respond.price.asked"]
    assert operation["x-listener"] == "prices"
    assert operation["reply"]["address"] == {"location": "$message.payload#/reply_to"}
    channel = made["channels"]["goevent.requests.price.asked"]
    assert channel["address"] == address
    request = made["components"]["messages"]["goevent.requests.price.asked"]["payload"]["allOf"][1]
    assert request["properties"]["event_name"] == {"const": name}
    assert request["properties"]["event_type"] == {"const": "price.asked"}
    assert request["required"] == ["reply_to"]
    reply = made["components"]["messages"]["goevent.replies.price.asked"]["payload"]
    assert reply["properties"]["value"] == {"$ref": "#/components/schemas/Price"}
    for each in operation["reply"]["messages"]:
        _, channels, channel_key, _, message = each["$ref"].split("/")
        assert made[channels][channel_key]["messages"][message]["$ref"].split("/")[-1] == message
        assert message in made["components"]["messages"]


def test_an_answer_that_loses_a_field_breaks_those_who_ask() -> None:
    old = responding_bus("memory")
    registry = EventRegistry()
    registry.register_as("price.asked", PriceAsked)
    new = GoEvent(Config(driver="memory", registry=registry))
    new.respond(lambda event: Shorter(), PriceAsked, Shorter, name="prices")
    new.respond(lambda event: 1, "count.asked", name="counter")
    changes = [str(each) for each in breaking_changes(document(old), document(new))]
    assert any("goevent.replies.price.asked: field value.cents" in each for each in changes)


class Shorter(msgspec.Struct):
    currency: str = ""
