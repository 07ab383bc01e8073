"""The comparison of two schemas: whether a reader can read all that a writer may write.

`_changes` calls `misfits` for each message of two documents, in both directions.

Theory of operation. Both schemas are walked together. A writer may have several alternatives, and
each of them has to fit one alternative of the reader. References may lead in a circle; a pair of
schemas that is being compared is taken to fit, so the walk ends. A keyword that is unknown here
never makes a misfit: the comparison reports only what certainly can break a reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

from ._schemas import OMITS_DEFAULTS, Schema, list_of

MAX_MISFITS = 100
MAX_ALTERNATIVES = 64
MAX_SHOWN_CHARS = 80
NO_SCHEMA: Schema = {}

_LOWER_BOUNDS = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER_BOUNDS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_LENGTHS = ("minLength", "minItems", "minProperties")
_SAME_TEXTS = ("pattern", "format", "contentEncoding", "multipleOf")


@dataclass(frozen=True, slots=True)
class Misfit:
    """A value that the writer may write and the reader refuses.

    Attributes:
        path: The field, as in `items[].price`; empty for the whole event.
        reason: The reason, as the end of a sentence about the field.
    """

    path: str
    reason: str


@dataclass(slots=True)
class Comparison:
    """The comparison of the schemas of two documents.

    Attributes:
        writer: The document of the writer.
        reader: The document of the reader.
    """

    writer: Mapping[str, Any]
    reader: Mapping[str, Any]
    _open: set[str] = field(default_factory=set[str])
    # The open pairs that were taken to fit since the innermost open pair was entered.
    _assumed: set[str] = field(default_factory=set[str])
    _known: dict[str, list[Misfit]] = field(default_factory=dict[str, list[Misfit]])

    def misfits(self, writer: Any, reader: Any, path: str = "") -> list[Misfit]:
        """Return the values that a writer may write and a reader refuses; at most 100.

        Args:
            writer: The schema of the writer.
            reader: The schema of the reader.
            path: The field that both describe.
        """
        pair = _identity(writer, reader)
        if pair in self._open:
            self._assumed.add(pair)
            return []
        found = self._known.get(pair)
        if found is None:
            found = self._compare(pair, writer, reader)
        return [Misfit(_under(path, each.path), each.reason) for each in found]

    def _compare(self, pair: str, writer: Any, reader: Any) -> list[Misfit]:
        """Compare a pair, and keep the result unless it rests on an assumption.

        Classes that share others form a graph with very many paths.
        """
        outer, self._assumed = self._assumed, set()
        self._open.add(pair)
        found = self._misfits(writer, reader, "")[:MAX_MISFITS]
        self._open.discard(pair)
        self._assumed.discard(pair)
        if not self._assumed:
            self._known[pair] = found
        self._assumed |= outer
        return found

    def _misfits(self, writer: Any, reader: Any, path: str) -> list[Misfit]:
        if writer is False or reader in (True, {}):
            return []
        if reader is False:
            return [Misfit(path, "is not allowed by the reader")]
        # A union that leads to itself has no end of alternatives.
        written = [*islice(alternatives(self.writer, writer), MAX_ALTERNATIVES)]
        read = [*islice(alternatives(self.reader, reader), MAX_ALTERNATIVES)]
        found: list[Misfit] = []
        for each in written:
            tries = [self._misfits_of_one(each, other, path) for other in read]
            if not tries or any(not misfits for misfits in tries):
                continue
            # The alternative of the same type tells the most.
            alike = [
                misfits
                for misfits, other in zip(tries, read, strict=True)
                if types_of(each) & types_of(other)
            ]
            if len(alike) == 1 or len(tries) == 1:
                found += (alike or tries)[0]
            else:
                text = f"may be {shown_type(each)}, which the reader does not take"
                found.append(Misfit(path, text))
        return [*dict.fromkeys(found)]

    def _misfits_of_one(self, writer: Schema, reader: Schema, path: str) -> list[Misfit]:
        """Compare two schemas without alternatives."""
        extra = types_of(writer) - types_of(reader)
        if "number" in types_of(reader):
            extra -= {"integer"}
        if extra:
            return [
                Misfit(
                    path, f"may be {shown_type(writer)}, and the reader takes {shown_type(reader)}"
                )
            ]
        found = [*_value_misfits(writer, reader, path), *_bound_misfits(writer, reader, path)]
        common = types_of(writer) & types_of(reader)
        if "object" in common:
            found += self._object_misfits(writer, reader, path)
        if "array" in common:
            found += self._array_misfits(writer, reader, path)
        return found

    def _object_misfits(self, writer: Schema, reader: Schema, path: str) -> list[Misfit]:
        found: list[Misfit] = []
        written = _properties(writer)
        read = _properties(reader)
        required = _names(reader.get("required"))
        always = _names(writer.get("required"))
        # True for all fields that are not required, otherwise a list of names.
        omits = writer.get(OMITS_DEFAULTS)
        missing = _names(omits)
        for name in sorted(required):
            if name not in written:
                found.append(Misfit(_join(path, name), "is required and is not written"))
            elif name in missing or (omits is True and name not in always):
                found.append(Misfit(_join(path, name), "is required and is not always written"))
        rest = reader.get("additionalProperties", True)
        for name in written:
            if name in read:
                found += self.misfits(written[name], read[name], _join(path, name))
            elif rest is False:
                found.append(Misfit(_join(path, name), "is written and unknown, which is refused"))
            elif isinstance(rest, dict):
                found += self.misfits(written[name], rest, _join(path, name))
        values = writer.get("additionalProperties")
        if isinstance(values, dict) and isinstance(rest, dict):
            found += self.misfits(values, rest, _join(path, "*"))
        return found

    def _array_misfits(self, writer: Schema, reader: Schema, path: str) -> list[Misfit]:
        written, read = writer.get("items", True), reader.get("items", True)
        if isinstance(written, list) and isinstance(read, list):
            first, second = list_of(written), list_of(read)
            if len(first) != len(second):
                return [Misfit(path, f"has {len(first)} items, and the reader takes {len(second)}")]
            return [
                misfit
                for place, (ours, theirs) in enumerate(zip(first, second, strict=True))
                for misfit in self.misfits(ours, theirs, f"{path}[{place}]")
            ]
        if isinstance(written, list):
            return [
                misfit
                for place, ours in enumerate(list_of(written))
                for misfit in self.misfits(ours, read, f"{path}[{place}]")
            ]
        if isinstance(read, list):
            reason = f"is a list of any length, and the reader takes {len(list_of(read))} items"
            return [Misfit(path, reason)]
        return self.misfits(written, read, f"{path}[]")


def alternatives(document: Mapping[str, Any], schema: Any, depth: int = 0) -> Iterator[Schema]:
    """Return the alternatives of a schema: its parts under anyOf and oneOf, without references.

    Args:
        document: The document that its references belong to.
        schema: The schema.
        depth: The number of references and unions on the way here.
    """
    if not isinstance(schema, dict) or depth > MAX_ALTERNATIVES:
        yield {}
        return
    schema = cast("Schema", schema)
    if isinstance(schema.get("$ref"), str):
        yield from alternatives(document, resolve(document, schema["$ref"]), depth + 1)
        return
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            for each in list_of(schema[key]):
                yield from alternatives(document, each, depth + 1)
            return
    if isinstance(schema.get("allOf"), list):
        yield _merged(document, schema, depth)
        return
    kinds = schema.get("type")
    if isinstance(kinds, list):
        for kind in list_of(kinds):
            yield {**schema, "type": kind}
        return
    yield schema


def _merged(document: Mapping[str, Any], schema: Schema, depth: int) -> Schema:
    """Return one schema for those of allOf; the later ones are the narrower ones."""
    merged: Schema = {key: value for key, value in schema.items() if key != "allOf"}
    properties: Schema = dict(_properties(merged))
    required = _names(merged.get("required"))
    for each in list_of(schema["allOf"]):
        part = next(alternatives(document, each, depth + 1), NO_SCHEMA)
        properties.update(_properties(part))
        required |= _names(part.get("required"))
        merged.update({k: v for k, v in part.items() if k not in ("properties", "required")})
    if properties:
        merged["properties"] = properties
    if required:
        merged["required"] = sorted(required)
    return merged


def resolve(document: Mapping[str, Any], reference: str) -> Any:
    """Return the part of a document that a reference points to; `{}` if there is none."""
    if not reference.startswith("#/"):
        return {}
    found: Any = document
    for part in reference[2:].split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or key not in found:
            return {}
        found = cast("Mapping[str, Any]", found)[key]
    return found


def types_of(schema: Schema) -> set[str]:
    """Return the types of JSON that a schema allows."""
    kind = schema.get("type")
    if isinstance(kind, str):
        return {kind}
    if "enum" in schema or "const" in schema:
        values = list_of(schema.get("enum", [schema.get("const")]))
        return {_type_of(value) for value in values}
    if "properties" in schema:
        return {"object"}
    return {"object", "array", "string", "integer", "number", "boolean", "null"}


def shown_type(schema: Schema) -> str:
    """Return the type of a schema in words."""
    if "const" in schema or "enum" in schema:
        values = list_of(schema.get("enum", [schema.get("const")]))
        text = " or ".join(json.dumps(value) for value in values)
        return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."
    kinds = sorted(types_of(schema))
    if len(kinds) > 1:
        return "of any type"
    title = schema.get("title")
    if not kinds or not kinds[0]:  # a file may have any value as a type
        return "of no type"
    article = "an" if kinds[0][0] in "aeiou" else "a"
    name = kinds[0] if kinds[0] != "object" or not isinstance(title, str) else f"object {title}"
    return "null" if name == "null" else f"{article} {name}"


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    return {"str": "string", "list": "array"}.get(type(value).__name__, "object")


def _value_misfits(writer: Schema, reader: Schema, path: str) -> list[Misfit]:
    if "const" not in reader and "enum" not in reader:
        return []
    allowed = list_of(reader.get("enum", [reader.get("const")]))
    if "const" not in writer and "enum" not in writer:
        return [Misfit(path, f"may be any value, and the reader takes {shown_type(reader)} only")]
    written = list_of(writer.get("enum", [writer.get("const")]))
    # 1 and True are equal in Python and not in JSON.
    known = {json.dumps(value, sort_keys=True) for value in allowed}
    new = [value for value in written if json.dumps(value, sort_keys=True) not in known]
    if not new:
        return []
    return [Misfit(path, f"may be {shown_type({'enum': new})}, which the reader does not know")]


def _bound_misfits(writer: Schema, reader: Schema, path: str) -> list[Misfit]:
    found: list[Misfit] = []
    for key in (*_LOWER_BOUNDS, *_UPPER_BOUNDS):
        limit: Any = reader.get(key)
        if not isinstance(limit, int | float) or _values_keep(writer, key, limit):
            continue
        if limit == 0 and key in _LENGTHS:  # every length is at least 0
            continue
        own = writer.get(key)
        if not isinstance(own, int | float):
            own = _other_bound(writer, key, limit)
        if own is None or (own < limit if key in _LOWER_BOUNDS else own > limit):
            has = "no" if own is None else f"{_shown_number(own)} as"
            reason = f"has {has} {key}, and the reader requires {_shown_number(limit)}"
            found.append(Misfit(path, reason))
    for key in _SAME_TEXTS:
        if key not in reader or writer.get(key) == reader[key]:
            continue
        if "enum" not in writer and "const" not in writer:
            has = f"the {key} {writer[key]}" if key in writer else f"no {key}"
            found.append(Misfit(path, f"has {has}, and the reader requires {reader[key]}"))
    return found


def _other_bound(writer: Schema, key: str, limit: float) -> float | None:
    """Return a bound that the writer states by the other keyword, as far as it is as strict."""
    strict = {"minimum": "exclusiveMinimum", "maximum": "exclusiveMaximum"}.get(key)
    if strict is not None and isinstance(writer.get(strict), int | float):
        return cast("float", writer[strict])
    loose = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}.get(key)
    if loose is not None and isinstance(own := writer.get(loose), int | float) and own != limit:
        return cast("float", own)
    return None


def _values_keep(writer: Schema, key: str, limit: float) -> bool:
    """Tell whether each value of an enumeration keeps a bound."""
    if "enum" not in writer and "const" not in writer:
        return False
    values = list_of(writer.get("enum", [writer.get("const")]))
    for value in values:
        size: Any = len(cast("Any", value)) if isinstance(value, str | list | dict) else value
        if not isinstance(size, int | float):
            continue
        keeps = {
            "minimum": size >= limit,
            "maximum": size <= limit,
            "exclusiveMinimum": size > limit,
            "exclusiveMaximum": size < limit,
        }
        if not keeps.get(key, size >= limit if key.startswith("min") else size <= limit):
            return False
    return True


def _properties(schema: Schema) -> Schema:
    found = schema.get("properties")
    return cast("Schema", found) if isinstance(found, dict) else {}


def _names(required: Any) -> set[str]:
    return {str(name) for name in list_of(required)} if isinstance(required, list) else set()


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _under(path: str, inner: str) -> str:
    """Return the path of a field that lies at `inner` within the field at `path`."""
    return f"{path}{inner}" if inner.startswith("[") or not inner else _join(path, inner)


def _shown_number(number: float) -> str:
    try:
        return f"{number:g}"
    except OverflowError:  # an integer that no float can hold
        return "a number beyond the range of a float"


def _identity(writer: Any, reader: Any) -> str:
    return json.dumps([writer, reader], sort_keys=True, default=str)
