"""Exceptions, events and callables whose own code raises errors or lies, for tests of reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from goevent import Event
from tests.support.events import REGISTRY


def raise_hostile(*_: object, **__: object) -> NoReturn:
    raise ZeroDivisionError("code of a hostile object ran")


# Not typed, so that it takes the place of any method.
refuse: Any = raise_hostile


def returning(value: object) -> Callable[[object], object]:
    return lambda self: value


class Slotted(Exception):
    __slots__ = ()


@dataclass(frozen=True)
class Frozen(Exception):
    code: int = 7


class HostileText(str):
    """A text whose methods raise an error."""

    __slots__ = ()
    __format__ = __str__ = __repr__ = __len__ = __eq__ = __hash__ = encode = refuse


class HostileMeta(type):
    """A metaclass whose methods raise an error."""

    # Without `__subclasscheck__`: Python could not even raise the exception.
    __instancecheck__ = __eq__ = __hash__ = __repr__ = refuse
    __bool__ = __len__ = refuse

    __name__ = __module__ = cast("Any", property(refuse))


def with_code(name: str, code: Any = refuse, base: type[Exception] = Exception) -> type[Exception]:
    """Return an exception class that has code under a name."""
    return type(f"Hostile{name.strip('_').title()}", (base,), {name: code})


class HostileMetaclass(Exception, metaclass=HostileMeta):
    pass


class HostileGroup(ExceptionGroup[Exception]):
    """A group that cannot be divided, with members that have code of their own."""

    def derive(self, excs: Sequence[Any]) -> Any:
        refuse()

    split = subgroup = refuse


def in_a_cycle() -> Exception:
    one, other = ValueError("one"), KeyError("other")
    one.__cause__ = one.__context__ = other
    other.__cause__ = other.__context__ = one
    return one


def with_hostile_cause() -> Exception:
    error = ValueError("plain")
    error.__cause__ = with_code("__getattribute__")()
    error.__context__ = Frozen()
    return error


def with_notes(notes: object) -> Callable[[], Exception]:
    def make() -> Exception:
        error = ValueError("noted")
        vars(error)["__notes__"] = notes
        return error

    return make


EXCEPTIONS: dict[str, Callable[[], Exception]] = {
    "slotted": Slotted,
    "frozen": Frozen,
    "metaclass": HostileMetaclass,
    "group": lambda: HostileGroup("several", [Frozen(), with_code("__str__")("x"), KeyError(1)]),
    "group of a frozen one": lambda: ExceptionGroup("some", [Frozen(), Slotted()]),
    "cycle": in_a_cycle,
    "hostile cause": with_hostile_cause,
    "notes: an int": with_notes(7),
    "notes: a list of ints": with_notes([1, 2]),
    "notes: hostile texts": with_notes([HostileText("x")]),
    "surrogate": lambda: ValueError("\ud800"),
    "hostile text": with_code("__str__", returning(HostileText("x"))),
    "text that is no str": with_code("__str__", returning(7)),
    "class that lies": with_code("__class__", property(returning(KeyboardInterrupt))),
    "traceback of None": with_code("__traceback__", property(returning(None))),
    "unhashable": with_code("__hash__", None),
    "empty": with_code("__len__", returning(0)),
    **{
        name: with_code(name)
        for name in (
            "__setattr__",
            "__getattribute__",
            "__delattr__",
            "__str__",
            "__repr__",
            "__format__",
            "__eq__",
            "__ne__",
            "__hash__",
            "__bool__",
            "__len__",
            "__reduce__",
            "__reduce_ex__",
            "__getstate__",
            "__dir__",
            "__copy__",
            "with_traceback",
            "add_note",
        )
    },
    **{
        f"property {name}": with_code(name, property(refuse))
        for name in (
            "__class__",
            "__traceback__",
            "__cause__",
            "__context__",
            "__suppress_context__",
            "__notes__",
            "__dict__",
            "__doc__",
            "args",
        )
    },
}


class HostileEvent(Event, name="test.hostile", registry=REGISTRY):
    """An event whose own code raises errors once it is made."""

    n: int = 0

    __repr__ = __str__ = __eq__ = __hash__ = __bool__ = __len__ = __format__ = refuse


class HostileCallable:
    """A listener whose own code raises errors, all but its call."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, event: Any) -> Any:
        return self.function(event)

    __repr__ = __str__ = __eq__ = __hash__ = __bool__ = __len__ = __format__ = refuse

    def __getattr__(self, name: str) -> Any:
        if name in ("__name__", "__qualname__"):
            refuse()
        raise AttributeError(name)
