"""The JSON Schema of each event class, as components of the document.

`_document` calls `schemas_of` once with all classes, so that classes which share a nested class
share its schema, too. The schemas are those of msgspec and pydantic: they say what a reader
requires. A writer writes every field, except one that `x-goevent-omits-defaults` allows to miss: it
is true for the fields that are not required, or lists the fields.

A class that has no schema does not make the document fail: its schema is `{}` with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast, get_origin

import msgspec
import msgspec.inspect

from .._events.event_types import PYDANTIC, adapter_of, describe_class, short_name

COMPONENTS = "#/components/schemas/"
OMITS_DEFAULTS = "x-goevent-omits-defaults"
MAX_SCHEMA_REASON_CHARS = 300

_NOT_IN_KEYS = re.compile(r"[^\w.-]", re.ASCII)
_AUTO_DOC = re.compile(r"\w+\(.*\)", re.DOTALL)

_WITH_FIELDS = (
    msgspec.inspect.StructType,
    msgspec.inspect.DataclassType,
    msgspec.inspect.TypedDictType,
)

Schema = dict[str, Any]


def schemas_of(classes: Iterable[type[Any]]) -> tuple[dict[type[Any], Schema], dict[str, Schema]]:
    """Return the schema of each class, and the components that the schemas refer to.

    Args:
        classes: Event classes of any kind, in a fixed order.
    """
    wanted = [*dict.fromkeys(classes)]
    natives = [cls for cls in wanted if adapter_of(cls) is not PYDANTIC]
    found: dict[type[Any], Schema] = {}
    components: dict[str, Schema] = {}
    _add(found, components, natives, _native_schemas)
    _add(found, components, [cls for cls in wanted if cls not in natives], _pydantic_schemas)
    return found, {name: components[name] for name in sorted(components)}


def _add(
    found: dict[type[Any], Schema],
    components: dict[str, Schema],
    classes: list[type[Any]],
    make: Any,
) -> None:
    """Add the schemas of one kind of classes; those that have none get the reason in its place."""
    possible: list[type[Any]] = []
    for cls in classes:
        try:
            make([cls])
        # The annotations are the user's code, and may raise anything.
        except Exception as error:  # noqa: BLE001 - the document shows the reason
            found[cls] = _no_schema(cls, error)
        else:
            possible.append(cls)
    if not possible:
        return
    nested = nested_classes(possible) if make is _native_schemas else []
    schemas, parts = make([*possible, *nested])
    renamed = {name: _free_key(name, components) for name in parts}
    for name, schema in parts.items():
        components[renamed[name]] = tidied(schema, renamed)
    for cls, schema in zip([*possible, *nested], schemas, strict=True):
        own = tidied(schema, renamed)
        _mark(cls, own, components)
        if cls not in nested:
            found[cls] = own


def _native_schemas(classes: list[type[Any]]) -> tuple[tuple[Schema, ...], dict[str, Schema]]:
    schemas, parts = msgspec.json.schema_components(classes, ref_template=f"{COMPONENTS}{{name}}")
    return tuple(schemas), parts


def _pydantic_schemas(classes: list[type[Any]]) -> tuple[tuple[Schema, ...], dict[str, Schema]]:
    # pydantic is installed, because there is a model.
    from pydantic.json_schema import models_json_schema

    # "validation" is the view of a reader; the codec writes and reads by alias.
    inputs = [(cls, "validation") for cls in classes]
    by_class, definitions = models_json_schema(
        cast("Any", inputs), by_alias=True, ref_template=f"{COMPONENTS}{{model}}"
    )
    schemas = tuple(by_class[cast("Any", (cls, "validation"))] for cls in classes)
    return schemas, definitions.get("$defs", {})


def _no_schema(cls: type[Any], error: Exception) -> Schema:
    reason = " ".join(str(error).split())[:MAX_SCHEMA_REASON_CHARS] or type(error).__name__
    return {
        "title": short_name(cls),
        "description": f"{describe_class(cls)} has no JSON Schema: {reason}",
    }


def _free_key(name: str, taken: Mapping[str, object]) -> str:
    """Return the key of a component: a name of msgspec and one of pydantic may be equal."""
    key = _NOT_IN_KEYS.sub("_", name) or "_"
    number = 2
    free = key
    while free in taken:
        free, number = f"{key}_{number}", number + 1
    return free


def nested_classes(classes: list[type[Any]]) -> list[type[Any]]:
    """Return the classes with fields that are part of others, by the view of msgspec.

    Args:
        classes: Classes that msgspec knows.
    """
    seen: dict[type[Any], None] = {}
    rest: list[object] = [*msgspec.inspect.multi_type_info(classes)]
    while rest:
        each = rest.pop()
        if isinstance(each, _WITH_FIELDS):
            if each.cls in seen:
                continue
            seen[each.cls] = None
            rest += [field.type for field in each.fields]
        elif isinstance(each, msgspec.inspect.Type):
            for name in each.__struct_fields__:
                value = getattr(each, name)
                rest += value if isinstance(value, tuple) else [value]
    return [cls for cls in seen if cls not in classes]


def _mark(cls: type[Any], schema: Schema, components: dict[str, Schema]) -> None:
    """Mark the schema of a class that does not write all of its fields."""
    own = components.get(str(schema.get("$ref", "")).removeprefix(COMPONENTS))
    omitted = _omitted(cls)
    if own is not None and omitted:
        own[OMITS_DEFAULTS] = omitted


def _omitted(cls: type[Any]) -> bool | list[str]:
    """Return the fields that a class may not write; True for those that are not required."""
    origin = get_origin(cls) or cls  # a nested class may be generic
    if adapter_of(origin) is PYDANTIC:
        fields = cast("Mapping[str, Any]", cls.__pydantic_fields__)
        return sorted(
            str(field.validation_alias or name)
            for name, field in fields.items()
            if field.exclude
            or (field.serialization_alias or name) != (field.validation_alias or name)
        )
    info = msgspec.inspect.type_info(cls)
    if isinstance(info, msgspec.inspect.TypedDictType):
        return not all(field.required for field in info.fields)
    config = getattr(origin, "__struct_config__", None)
    if config is not None and config.omit_defaults:
        return True
    if not isinstance(info, _WITH_FIELDS):
        return False
    # msgspec does not show `UNSET`: such a field is not required, and has no default.
    return sorted(
        field.encode_name
        for field in info.fields
        if not field.required
        and field.default is msgspec.NODEFAULT
        and field.default_factory is msgspec.NODEFAULT
    )


def tidied(schema: Any, renamed: Mapping[str, str]) -> Any:
    """Return a schema in the dialect of AsyncAPI, which is JSON Schema draft 7.

    Args:
        schema: A schema of msgspec or pydantic, or a part of one.
        renamed: The key of each component, by the name that references use.
    """
    if isinstance(schema, list):
        return [tidied(each, renamed) for each in list_of(schema)]
    if not isinstance(schema, dict):
        return schema
    result: Schema = {}
    for key, value in cast("Schema", schema).items():
        if key == "$ref" and isinstance(value, str):
            name = value.removeprefix(COMPONENTS)
            result[key] = f"{COMPONENTS}{renamed.get(name, name)}"
        elif key in ("default", "const", "enum", "examples", "example"):
            result[key] = _plain(value)
        elif key in ("properties", "patternProperties", "$defs", "definitions"):
            # A field may have the name of a keyword.
            fields = cast("Schema", value)
            result[key] = {name: tidied(each, renamed) for name, each in fields.items()}
        else:
            result[key] = tidied(value, renamed)
    if "prefixItems" in result:
        rest = result.pop("items", True)
        result["items"] = result.pop("prefixItems")
        result["additionalItems"] = rest
    if result.get("required") == []:
        del result["required"]
    if _AUTO_DOC.fullmatch(str(result.get("description", ""))):
        # A dataclass without a docstring shows its signature.
        del result["description"]
    return result


def _plain(value: Any) -> Any:
    """Return a value of the user's as JSON has it; a text if it has no form in JSON."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, msgspec.MsgspecError):
        return str(value)


def list_of(value: Any) -> list[Any]:
    """Return a value of a schema if it is a list; otherwise an empty list."""
    return [*cast("Sequence[Any]", value)] if isinstance(value, list) else []
