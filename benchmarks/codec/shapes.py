"""The shapes of events: their fields, and the part that grows with the size."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from benchmarks.codec.kinds import EventKind, Fields, MakeClass

Values: TypeAlias = dict[str, Any]
"""The fields of an event as built-in values."""

PROSE = "The parcel left the depot at 7:40; the driver has called twice, and nobody was at home. "
QUOTED = 'He said "[no]", then {"path": "C:\\\\temp\\\\"}; she wrote "a\\b" [[[ twice.\n'
ACCENTED = "Zoë déjeune à Genève; 東京からの荷物は届きました。 Ещё два ящика 📦. "


@dataclass(frozen=True)
class Shape:
    """One shape.

    Attributes:
        title: Its name in the report.
        fields: Returns the fields of the event; it makes the classes of the objects within.
        values: Returns the values of an event that has grown by this many steps.
    """

    title: str
    fields: Callable[[MakeClass], Fields]
    values: Callable[[int], Values]

    def class_of(self, kind: EventKind) -> Any:
        """Return the class of the events, as a kind of class."""
        return kind.make_event("Order", self.fields(kind.make_part))

    def of_size(self, size: int) -> Values:
        """Return the values of the smallest event whose compact JSON has at least `size` bytes."""
        low, high = 0, 1
        while _size(self.values(high)) < size:
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            if _size(self.values(middle)) < size:
                low = middle
            else:
                high = middle
        return self.values(high)


def _size(values: Values) -> int:
    return len(json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode())


def _repeated(text: str, length: int) -> str:
    return (text * (length // len(text) + 1))[:length]


def _flat_fields(_: MakeClass) -> Fields:
    return {"id": int, "customer": str, "total": float, "paid": bool, "note": str}


def _flat_with(text: str) -> Callable[[int], Values]:
    def values(steps: int) -> Values:
        note = _repeated(text, steps)
        return {"id": 1042, "customer": "ann", "total": 99.5, "paid": True, "note": note}

    return values


def _nested_fields(make: MakeClass) -> Fields:
    address = make("Address", {"street": str, "city": str})
    customer = make("Customer", {"name": str, "address": address})
    line = make("Line", {"sku": str, "count": int, "price": float, "tags": list[str]})
    return {"id": int, "customer": customer, "lines": list[line]}  # type: ignore[valid-type]


def _nested_values(steps: int) -> Values:
    lines = [
        {"sku": f"sku-{n}", "count": n % 7, "price": 9.25 + n, "tags": ["new", "sale"][: n % 3]}
        for n in range(steps)
    ]
    address = {"street": "12 High St", "city": "Delft"}
    return {"id": 1042, "customer": {"name": "ann", "address": address}, "lines": lines}


def _mixed(number: int) -> Any:
    return [number * 3, f"item {number}", number / 8, {"ok": number % 2 == 0, "parts": [number]}][
        number % 4
    ]


def _numbers(steps: int) -> Values:
    return {
        "counts": [(n * 7919) % 100_003 for n in range(steps)],
        "ratios": [(n * 7919) % 100_003 / 977 for n in range(steps // 2)],
    }


def _times(steps: int) -> Values:
    first = datetime(2026, 11, 30, 12, 0, 0, 123_457, tzinfo=UTC)
    times = [(first + timedelta(seconds=7 * n)).isoformat() for n in range(steps + 1)]
    at, *seen = (each.replace("+00:00", "Z") for each in times)
    return {"id": 1042, "at": at, "seen": seen}


SHAPES = {
    shape.title: shape
    for shape in (
        Shape("flat", _flat_fields, _flat_with(PROSE)),
        Shape("nested", _nested_fields, _nested_values),
        Shape(
            "list of texts",
            lambda _: {"names": list[str]},
            lambda steps: {"names": [f"customer {n}" for n in range(steps)]},
        ),
        Shape(
            "map",
            lambda _: {"stock": dict[str, int]},
            lambda steps: {"stock": {f"sku-{n}": n % 97 for n in range(steps)}},
        ),
        Shape("datetimes", lambda _: {"id": int, "at": datetime, "seen": list[datetime]}, _times),
        Shape("numbers", lambda _: {"counts": list[int], "ratios": list[float]}, _numbers),
        Shape("quotes and brackets", _flat_fields, _flat_with(QUOTED)),
        Shape("not ASCII", _flat_fields, _flat_with(ACCENTED)),
        Shape(
            "untyped",
            lambda _: {"data": dict[str, Any]},
            lambda steps: {"data": {f"key {n}": _mixed(n) for n in range(steps)}},
        ),
    )
}
