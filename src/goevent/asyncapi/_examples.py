"""Examples of events, made from their schemas.

`_document` calls `example_of` for each event class and shows the example if the class accepts it.
The same schema always gives the same example. A field shows its own example, if its class gives one
by `msgspec.Meta(examples=[...])` or pydantic's `Field(examples=[...])`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ._schemas import COMPONENTS, Schema, list_of

MAX_EXAMPLE_DEPTH = 8

_TEXTS = {
    "date-time": "2026-01-01T12:00:00Z",
    "date": "2026-01-01",
    "time": "12:00:00Z",
    "duration": "PT1M",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "decimal": "1.5",
    "email": "someone@example.org",
    "uri": "https://example.org/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
}


class NoExample(Exception):
    """The schema has no example of a reasonable size."""


def example_of(schema: Schema, components: Mapping[str, Schema], depth: int = 0) -> Any:
    """Return a value that fits a schema.

    Args:
        schema: The schema.
        components: The schemas that it may refer to.
        depth: The levels above this one.

    Raises:
        NoExample: The schema nests too deep.
    """
    if depth > MAX_EXAMPLE_DEPTH:
        raise NoExample
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(COMPONENTS)
        return example_of(components.get(name, {}), components, depth)
    for key in ("examples", "enum"):
        if schema.get(key):
            return list_of(schema[key])[0]
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return _example_of_any(list_of(schema[key]), components, depth)
    if "allOf" in schema:
        return example_of(list_of(schema["allOf"])[0], components, depth)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = list_of(kind)[0]
    if kind == "object" or "properties" in schema:
        return _example_of_object(schema, components, depth)
    if kind == "array":
        return _example_of_array(schema, components, depth)
    if kind in ("integer", "number"):
        return _example_of_number(schema, whole=kind == "integer")
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    return _example_of_text(schema)


def _example_of_any(choices: list[Schema], components: Mapping[str, Schema], depth: int) -> Any:
    for choice in choices:
        try:
            return example_of(choice, components, depth + 1)
        except NoExample:
            continue
    raise NoExample


def _example_of_object(schema: Schema, components: Mapping[str, Schema], depth: int) -> Any:
    required = list_of(schema.get("required", []))
    shown: dict[str, Any] = {}
    for name, field in cast("dict[str, Schema]", schema.get("properties", {})).items():
        try:
            shown[name] = example_of(field, components, depth + 1)
        except NoExample:
            if name in required:
                raise
    return shown


def _example_of_array(schema: Schema, components: Mapping[str, Schema], depth: int) -> Any:
    items = schema.get("items", {})
    if isinstance(items, list):
        each = list_of(items)
        return [example_of(item, components, depth + 1) for item in each]
    try:
        item = example_of(cast("Schema", items) or {"type": "string"}, components, depth + 1)
    except NoExample:
        if schema.get("minItems"):
            raise
        return []
    return [item] * max(1, int(schema.get("minItems", 1))) if schema.get("maxItems") != 0 else []


def _example_of_number(schema: Schema, *, whole: bool) -> Any:
    value: float = 1
    if "minimum" in schema:
        value = max(value, schema["minimum"])
    if "exclusiveMinimum" in schema:
        value = max(value, schema["exclusiveMinimum"] + 1)
    if "maximum" in schema:
        value = min(value, schema["maximum"])
    if "exclusiveMaximum" in schema:
        value = min(value, schema["exclusiveMaximum"] - 1)
    if step := schema.get("multipleOf"):
        value = -(-value // step) * step
    return int(value) if whole else float(value)


def _example_of_text(schema: Schema) -> str:
    text = _TEXTS.get(str(schema.get("format", "")))
    if text is None:
        text = "YWJj" if schema.get("contentEncoding") == "base64" else "text"
        text = text[: schema.get("maxLength", len(text))]
        text = text.ljust(int(schema.get("minLength", 0)), "x")
    return text
