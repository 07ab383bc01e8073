"""The changes that break a reader of events, and those that break none."""

from __future__ import annotations

from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given, settings, strategies as st

from goevent import Config, EventRegistry, GoEvent
from goevent.asyncapi import Change, breaking_changes, document
from goevent.asyncapi._fits import Comparison

OLD, NEW = "the old program", "the new program"
PAYLOAD = "#/components/messages/paid/payload"


class OldColour(Enum):
    RED = "red"
    BLUE = "blue"


class NewColour(Enum):
    RED = "red"
    GREEN = "green"


class OldLine(msgspec.Struct):
    price: int
    sku: str


class NewLine(msgspec.Struct):
    price: str


class OpenLine(TypedDict):
    price: NotRequired[int]


class SparseLine(msgspec.Struct, omit_defaults=True):
    price: int = 0


class HiddenPrice(pydantic.BaseModel):
    price: int = pydantic.Field(default=0, exclude=True)


class RenamedPrice(pydantic.BaseModel):
    price: int = pydantic.Field(serialization_alias="cents")


class OldTree(msgspec.Struct):
    value: int
    children: list[OldTree] = []


class NewTree(msgspec.Struct):
    value: str
    children: list[NewTree] = []


def event_type(fields: list[Any], **options: Any) -> Any:
    return msgspec.defstruct("Paid", fields, **options)


def program(
    cls: Any = None,
    *,
    name: str = "paid",
    listens: str | None = "paid",
    publishes: list[str] | None = None,
    driver: str = "memory",
) -> dict[str, Any]:
    registry = EventRegistry()
    if cls is not None:
        registry.register_as(name, cls)
    bus = GoEvent(Config(driver=driver, registry=registry))
    if listens is not None:
        bus.subscribe(print, listens, name="bill")
    return dict(document(bus, publishes=publishes))


def changes(
    old: list[Any], new: list[Any], *, old_options: Any = None, new_options: Any = None
) -> list[tuple[str, str, str]]:
    found = breaking_changes(
        program(event_type(old, **(old_options or {}))),
        program(event_type(new, **(new_options or {}))),
    )
    for each in found:
        assert each.event_name == "paid"
        assert each.reader in (f"bill of {OLD}", f"bill of {NEW}")
        assert str(each).startswith("paid: ")
        assert each.reader in str(each)
        assert each.writer in str(each)
    named = [(each.field, each.writer, each.reader.removeprefix("bill of ")) for each in found]
    return [*dict.fromkeys(named)]


OLD_READS = NEW, OLD  # the writer and the reader
NEW_READS = OLD, NEW


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([("a", int), ("b", str)], [("a", int)], [("b", *OLD_READS)]),
        ([("a", int)], [("a", int), ("b", str)], [("b", *NEW_READS)]),
        ([("a", int)], [("a", str)], [("a", *NEW_READS), ("a", *OLD_READS)]),
        ([("a", int)], [("a", float)], [("a", *OLD_READS)]),
        ([("a", int | None)], [("a", int)], [("a", *NEW_READS)]),
        ([("a", int)], [("a", int | None)], [("a", *OLD_READS)]),
        ([("a", int)], [("a", int | str)], [("a", *OLD_READS)]),
        (
            [("a", OldColour)],
            [("a", NewColour)],
            [("a", *NEW_READS), ("a", *OLD_READS)],
        ),
        ([("a", Literal["x"])], [("a", Literal["x", "y"])], [("a", *OLD_READS)]),
        ([("a", Literal[1])], [("a", Literal[1, 2])], [("a", *OLD_READS)]),
        ([("a", str)], [("a", OldColour)], [("a", *NEW_READS)]),
        (
            [("a", Annotated[int, msgspec.Meta(ge=0)])],
            [("a", Annotated[int, msgspec.Meta(ge=1)])],
            [("a", *NEW_READS)],
        ),
        (
            [("a", Annotated[str, msgspec.Meta(max_length=9)])],
            [("a", str)],
            [("a", *OLD_READS)],
        ),
        (
            [("a", str)],
            [("a", Annotated[str, msgspec.Meta(pattern="^x")])],
            [("a", *NEW_READS)],
        ),
        (
            [("a", list[OldLine])],
            [("a", list[NewLine])],
            [
                ("a[].price", *NEW_READS),
                ("a[].price", *OLD_READS),
                ("a[].sku", *OLD_READS),
            ],
        ),
        ([("a", list[int])], [("a", list[str])], [("a[]", *NEW_READS), ("a[]", *OLD_READS)]),
        (
            [("a", dict[str, int])],
            [("a", dict[str, str])],
            [("a.*", *NEW_READS), ("a.*", *OLD_READS)],
        ),
        (
            [("a", tuple[int, str])],
            [("a", tuple[int, int])],
            [("a[1]", *NEW_READS), ("a[1]", *OLD_READS)],
        ),
        (
            [("a", tuple[int, str])],
            [("a", tuple[int])],
            [("a", *NEW_READS), ("a", *OLD_READS)],
        ),
    ],
    ids=str,
)
def test_a_breaking_change_names_field_writer_and_reader(
    old: list[Any], new: list[Any], expected: list[tuple[str, str, str]]
) -> None:
    assert changes(old, new) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([("a", int)], [("a", int), ("b", str, "x")]),
        ([("a", int), ("b", str, "x")], [("a", int)]),
        ([("a", int), ("b", int)], [("b", int), ("a", int)]),
        ([("a", int, 1)], [("a", int, 2)]),
        ([("a", OldColour)], [("a", Literal["red", "blue"])]),
        ([("a", Any)], [("a", Any)]),
        ([("a", OldTree)], [("a", OldTree)]),
    ],
    ids=str,
)
def test_a_change_that_breaks_nobody_is_not_reported(old: list[Any], new: list[Any]) -> None:
    assert changes(old, new) == []


def test_a_recursive_class_is_compared_to_its_depths() -> None:
    found = changes([("a", OldTree)], [("a", NewTree)])
    assert ("a.value", *OLD_READS) in found
    assert ("a.value", *NEW_READS) in found


def test_a_reader_that_refuses_unknown_fields_breaks_by_a_new_one() -> None:
    strict = {"forbid_unknown_fields": True}
    found = changes([("a", int)], [("a", int), ("b", int, 1)], old_options=strict)
    assert found == [("b", *OLD_READS)]


@pytest.mark.parametrize(
    ("old", "field"),
    [
        (event_type([("line", OpenLine)]), "line.price"),
        (event_type([("line", SparseLine)]), "line.price"),
        (event_type([("lines", list[SparseLine])]), "lines[].price"),
        (event_type([("price", int | msgspec.UnsetType, msgspec.UNSET)]), "price"),
        (HiddenPrice, "price"),
        (RenamedPrice, "price"),
    ],
)
def test_a_field_that_is_not_always_written_breaks_a_reader_that_requires_it(
    old: Any, field: str
) -> None:
    line: Any = msgspec.defstruct("Line", [("price", int)])
    kinds = {"line.price": ("line", line), "lines[].price": ("lines", list.__class_getitem__(line))}
    new = event_type([kinds.get(field, ("price", int))])
    found = breaking_changes(program(old), program(new))
    assert [(each.field, each.reason) for each in found if each.writer == OLD] == [
        (field, "is required and is not always written")
    ]


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"$ref": PAYLOAD}, {"$ref": PAYLOAD}]},
        {"type": ""},
        {"enum": 5},
    ],
)
def test_a_document_of_another_hand_is_compared_to_the_end(schema: dict[str, Any]) -> None:
    mine = program(event_type([("price", int)]))
    other = program(event_type([("price", int)]))
    other["components"]["messages"]["paid"]["payload"] = schema
    breaking_changes(mine, other)
    breaking_changes(other, mine)


def test_a_writer_that_omits_defaults_breaks_a_reader_that_requires_the_field() -> None:
    found = changes([("a", int)], [("a", int, 0)], new_options={"omit_defaults": True})
    assert found == [("a", *OLD_READS)]


def test_a_program_without_a_listener_only_has_to_serve_old_readers() -> None:
    old = program(event_type([("a", int)]), listens=None)
    new = program(event_type([("a", int), ("b", int)]), listens=None)
    assert breaking_changes(old, new) == ()
    (change,) = breaking_changes(new, old)
    assert change == Change(
        event_name="paid",
        field="b",
        reader="programs that know the old document",
        writer=NEW,
        reason="is required and is not written",
    )


def test_a_channel_that_loses_its_last_listener_breaks_its_publishers() -> None:
    cls = event_type([("a", int)])
    (change,) = breaking_changes(program(cls, publishes=[]), program(cls, listens=None))
    assert (change.event_name, change.field) == ("paid", "")
    assert change.reason == "has no listener any more"


@pytest.mark.parametrize("pattern", ["*", "**", "paid"])
def test_a_listener_by_a_pattern_takes_the_place_of_one_by_name(pattern: str) -> None:
    cls = event_type([("a", int)])
    assert breaking_changes(program(cls), program(cls, listens=pattern)) == ()


@pytest.mark.parametrize(("old", "new"), [("a.**", "a.*"), ("**", "*"), ("a.*", "a.b")])
def test_a_narrower_pattern_breaks(old: str, new: str) -> None:
    (change,) = breaking_changes(program(listens=old), program(listens=new))
    assert change.event_name == old


def test_an_event_that_is_not_published_any_more_breaks_its_readers() -> None:
    cls = event_type([("a", int)])
    old = program(cls, listens=None, publishes=["paid"])
    (change,) = breaking_changes(old, program(cls, listens=None, publishes=[]))
    assert change.reason == "is not published any more"


def test_another_address_and_another_form_break_readers() -> None:
    cls = event_type([("a", int)])
    old = program(cls, driver="nats://h")
    (moved,) = breaking_changes(old, program(cls, driver="nats://h?prefix=shop."))
    assert moved.reason == "has the address shop.paid, and had goevent.paid"
    plain = breaking_changes(old, program(cls, driver="nats://h?format=faststream"))
    assert "event_name" in {each.field for each in plain}


@pytest.mark.parametrize(
    "hostile",
    [
        {},
        {"channels": 7, "operations": [], "components": None},
        {"components": {"messages": {"paid": 1}}},
        {"components": {"messages": {"paid": {"payload": {"$ref": "#/nowhere"}}}}},
        {
            "components": {
                "messages": {"paid": {"payload": {"$ref": "#/components/messages/paid/payload"}}}
            }
        },
        {"components": {"messages": {"paid": {"payload": {"anyOf": [], "required": 3}}}}},
        {"channels": {"a b": {}}, "operations": {"x": {"channel": {"$ref": "#/channels/a b"}}}},
    ],
    ids=str,
)
def test_a_document_of_any_content_is_compared_without_an_error(hostile: dict[str, Any]) -> None:
    own = program(event_type([("a", int)]))
    for old, new in ((hostile, own), (own, hostile), (hostile, hostile)):
        for change in breaking_changes(old, new):
            assert str(change)


# -- the comparison against msgspec: what is not reported can be read

BASES = [int, str, bool, float, Literal["x", "y"], Literal["x"], Annotated[int, msgspec.Meta(ge=3)]]
MAX_EXAMPLES = 60
# Type checkers take `list[kind]` with a variable for a mistake.
LIST: Any = list
DICT: Any = dict
TYPES = st.recursive(
    st.sampled_from(BASES),
    lambda inner: st.one_of(
        inner.map(lambda each: LIST[each]),
        inner.map(lambda each: each | None),
        inner.map(lambda each: DICT[str, each]),
    ),
    max_leaves=3,
)
FIELDS = st.dictionaries(st.sampled_from("abc"), st.tuples(TYPES, st.booleans()), max_size=3)


def struct_of(fields: dict[str, tuple[Any, bool]], values: dict[str, Any]) -> Any:
    ordered = sorted(fields.items(), key=lambda item: item[1][1])
    return event_type(
        [
            (name, kind, msgspec.field(default_factory=partial(values.get, name)))
            if optional
            else (name, kind)
            for name, (kind, optional) in ordered
        ]
    )


def can_read(message: bytes, cls: Any) -> bool:
    """Tell whether a value keeps the constraints of its own class, which nothing has checked."""
    try:
        msgspec.json.decode(message, type=cls)
    except msgspec.ValidationError:
        return False
    return True


@given(data=st.data(), old=FIELDS, new=FIELDS)
@settings(max_examples=MAX_EXAMPLES, deadline=None)
def test_whatever_is_not_reported_can_be_read(data: Any, old: Any, new: Any) -> None:
    programs: list[tuple[Any, Any]] = []
    for fields in (old, new):
        values = {name: data.draw(st.from_type(kind)) for name, (kind, _) in fields.items()}
        cls = struct_of(fields, values)
        programs.append((cls, cls(**values)))
    (old_cls, old_event), (new_cls, new_event) = programs
    found = breaking_changes(program(old_cls), program(new_cls))
    for writer, reader, event in ((OLD, new_cls, old_event), (NEW, old_cls, new_event)):
        message = msgspec.json.encode(event)
        if can_read(message, type(event)) and not any(each.writer == writer for each in found):
            msgspec.json.decode(message, type=reader)


@pytest.mark.parametrize("leaf", [{"type": "integer"}, {"type": "string"}])
def test_classes_that_share_classes_are_compared_once(leaf: dict[str, Any]) -> None:
    # A walk along each path would take five times as long for each level.
    levels = {
        f"L{level}": {
            "type": "object",
            "properties": {
                field: {"$ref": f"#/schemas/L{level + 1}"} for field in ("a", "b", "c", "d", "e")
            },
        }
        for level in range(20)
    }
    writer = {"schemas": {**levels, "L20": leaf}}
    reader = {"schemas": {**levels, "L20": {"type": "integer"}}}
    root = {"$ref": "#/schemas/L0"}
    found = Comparison(writer, reader).misfits(root, root)
    assert bool(found) is (leaf != {"type": "integer"})
    assert all(len(each.path.split(".")) == 20 for each in found)


def test_a_bound_that_no_float_can_hold_is_told() -> None:
    (misfit,) = Comparison({}, {}).misfits(
        {"type": "integer"}, {"type": "integer", "maximum": 10**400}
    )
    assert misfit.reason.endswith("a number beyond the range of a float")
