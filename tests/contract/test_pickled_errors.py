"""Every public exception can be pickled and copied, and keeps what it says.

The table is made from the public names of the packages, so a new exception is in it at once.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import threading
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from goevent import (
    BusClosed,
    DecodeError,
    DriverError,
    EventAbandoned,
    EventDropped,
    EventError,
    GoEventError,
    UnknownEventError,
    Veto,
)

PACKAGES = (
    "goevent",
    "goevent.drivers",
    "goevent.middleware",
    "goevent.testing",
    "goevent_redis",
    "goevent_faststream",
)

Way = Callable[[Any], Any]


def pickled(error: Any, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(error, protocol))


PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
WAYS: dict[str, Way] = {
    **{f"protocol {protocol}": partial(pickled, protocol=protocol) for protocol in PROTOCOLS},
    "pickled twice": lambda error: pickled(pickled(error, 4), 2),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def public_exceptions() -> list[type[BaseException]]:
    found: dict[type[BaseException], None] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        names = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
        for name in names:
            value = getattr(module, name)
            if isinstance(value, type) and issubclass(value, BaseException):
                found[value] = None
    return [*found]


def sample(cls: type[BaseException]) -> BaseException:
    """Return an exception with a value of its own for each parameter, a note and a cause."""
    args: list[Any] = []
    options: dict[str, Any] = {}
    own = next(base for base in cls.__mro__ if "__init__" in vars(base))
    has_signature = own.__module__ != "builtins"
    parameters: dict[str, Any] = {**inspect.signature(cls).parameters} if has_signature else {}
    if not has_signature:
        args.append("a text of one line")
    for name, parameter in parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            options[name] = {
                "bool": not parameter.default,
                "str": f"the {name}",
                "tuple[BaseException, ...]": (OSError("first"), KeyError("second")),
            }[parameter.annotation]
        elif parameter.default is parameter.empty:
            args.append({"str": f"the.{name}", "int": 7}[parameter.annotation])
    error = cls(*args, **options)
    error.add_note("a note")
    error.__cause__ = raised(LookupError("no such order", 7))
    return error


def raised(error: BaseException) -> BaseException:
    """Return an exception with a traceback."""
    try:
        raise error
    except BaseException as caught:  # the one of the line above
        return caught


def attributes(error: BaseException) -> dict[str, Any]:
    names = {*vars(error), *(n for cls in type(error).__mro__ for n in vars(cls))}
    names.discard("details")  # the traceback
    values = {name: getattr(error, name) for name in names if not name.startswith("_")}
    shown = (str, int, bool)
    return {name: value for name, value in values.items() if isinstance(value, shown)}


@pytest.mark.parametrize("cls", public_exceptions())
def test_every_public_exception_keeps_what_it_says(cls: type[BaseException]) -> None:
    for way in WAYS.values():
        error = sample(cls)
        other = way(error)
        assert type(other) is cls
        assert other is not error
        assert str(other) == str(error)
        assert repr(other) == repr(error)
        assert other.args == error.args
        assert attributes(other) == attributes(error)
        assert other.__notes__ == ["a note"]
        assert repr(other.__cause__) == "LookupError('no such order', 7)"
        assert other.__suppress_context__


@pytest.mark.parametrize("cls", public_exceptions())
def test_every_public_exception_without_a_cause_has_none_afterwards(
    cls: type[BaseException],
) -> None:
    for way in WAYS.values():
        error = sample(cls)
        error.__cause__ = None
        error.__suppress_context__ = False
        other = way(error)
        assert other.__cause__ is None
        assert str(other) == str(error)


def test_the_table_has_the_exceptions_of_all_packages() -> None:
    found = public_exceptions()
    assert {GoEventError, EventError, Veto} < {*found}
    assert {cls.__module__.partition(".")[0] for cls in found} == {
        "goevent",
        "goevent_redis",
        "goevent_faststream",
    }


# -- causes that cannot be pickled


class WithLock(Exception):
    """Cannot be written: a lock cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class TwoArguments(Exception):
    """Can be written and not read, as many exceptions of libraries."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class RaisingReduce(Exception):
    def __reduce__(self) -> Any:
        raise OSError("no")


class NonsenseReduce(Exception):
    def __reduce__(self) -> Any:
        return 7


class NoExceptionReduce(Exception):
    """Is read as something that can be no cause."""

    def __reduce__(self) -> Any:
        return str, ("nothing",)


class RaisingText(Exception):
    def __str__(self) -> str:
        raise OSError("no text")

    def __reduce__(self) -> Any:
        raise OSError("no")


class Endless(Exception):
    """Refers to the error that it is the cause of."""

    outer: BaseException | None = None


HOSTILE: list[BaseException] = [
    WithLock("no such order"),
    TwoArguments("no such order", 7),
    RaisingReduce("no such order"),
    NonsenseReduce("no such order"),
    NoExceptionReduce("no such order"),
    RaisingText(),
    ExceptionGroup("several", [ValueError("good"), WithLock("bad")]),
    type("Local", (Exception,), {})("a class that no other process can import"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cause", HOSTILE, ids=lambda cause: type(cause).__name__)
def test_a_cause_that_cannot_be_pickled_becomes_text(cause: BaseException, way: str) -> None:
    for cls in public_exceptions():
        error = sample(cls)
        error.__cause__ = cause
        other = WAYS[way](error)
        assert str(other) == str(error)
        assert attributes(other) == attributes(error)
        if "copy" not in way and isinstance(error, EventError):
            assert other.__cause__ is None
        else:
            shown = "".join(traceback.format_exception_only(other.__cause__)).rstrip()
            assert type(cause).__name__ in shown


def test_a_cause_that_refers_to_its_error_becomes_text_somewhere() -> None:
    cause = Endless("round and round")
    error = EventError("order.paid", "mail", cause)
    cause.outer = error
    other = pickle.loads(pickle.dumps(error))
    assert str(other) == str(error)


def test_one_attempt_that_cannot_be_pickled_does_not_hide_the_others() -> None:
    earlier = (OSError(5, "first"), WithLock("second"), KeyError("third"))
    error = EventError("order.paid", "mail", ValueError("last"), earlier=earlier)
    other = pickle.loads(pickle.dumps(error))
    assert [repr(cause) for cause in other.causes] == [
        "OSError(5, 'first')",
        "Exception('WithLock: second')",
        "KeyError('third')",
        "ValueError('last')",
    ]
    assert other.attempts == 4


def test_a_chain_of_errors_keeps_every_cause() -> None:
    error: BaseException = ValueError("the root")
    for depth in range(30):
        outer = DriverError(f"level {depth}")
        outer.__cause__ = error
        error = outer
    other = pickle.loads(pickle.dumps(error))
    depth = 0
    while isinstance(other, DriverError):
        depth += 1
        other = other.__cause__
    assert (depth, repr(other)) == (30, "ValueError('the root')")


def test_the_traceback_of_a_pickled_error_stays_readable() -> None:
    for cause in (raised(ValueError("no such order")), raised(WithLock("no such order"))):
        other = pickle.loads(pickle.dumps(EventError("order.paid", "mail", cause)))
        assert "in raised" in other.details
        assert other.details.endswith(f"{type(cause).__name__}: no such order")
        assert pickle.loads(pickle.dumps(other)).details == other.details


def test_an_error_that_was_kept_as_text_keeps_its_traceback() -> None:
    text = EventError("order.paid", "mail", raised(ValueError("no such order"))).as_text()
    other = pickle.loads(pickle.dumps(text))
    assert other.details == text.details
    assert "in raised" in other.details


# -- classes of users


class Refused(EventError):
    """Has an `__init__` of its own, slots, private slots and a value that cannot be pickled."""

    __slots__ = ("__secret", "code", "empty", "lock")

    def __init__(self, code: int) -> None:
        super().__init__("order.paid", "mail", reason=f"code {code}")
        self.code = code
        self.__secret = [code]
        self.lock = threading.Lock()

    @property
    def secret(self) -> list[int]:
        return self.__secret


class Frozen(DriverError):
    """Allows no attribute to be set."""

    def __init__(self, *, host: str) -> None:
        super().__init__(f"no connection to {host}")
        vars(self)["host"] = host

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is read-only")


class Missing(UnknownEventError, KeyError):
    """Has a second base class."""


@pytest.mark.parametrize("way", WAYS)
def test_a_subclass_of_a_user_keeps_its_slots(way: str) -> None:
    error = Refused(7)
    other = WAYS[way](error)
    assert (other.code, other.secret, str(other)) == (7, [7], str(error))
    assert not hasattr(other, "empty")
    if "copy" in way:
        assert other.lock is error.lock  # it cannot be copied, so both have it
    else:
        assert "lock" in other.lock


@pytest.mark.parametrize("way", WAYS)
def test_a_subclass_of_a_user_may_have_any_signature_and_other_bases(way: str) -> None:
    frozen = WAYS[way](Frozen(host="example.org"))
    assert (frozen.host, str(frozen)) == ("example.org", "no connection to example.org")
    missing = WAYS[way](Missing("order.paid"))
    assert (type(missing), missing.args) == (Missing, ("order.paid",))


@pytest.mark.parametrize("way", WAYS)
def test_an_exception_group_keeps_the_errors_in_it(way: str) -> None:
    group = ExceptionGroup("2 failed", [EventDropped("a", "b", reason="c"), BusClosed("d")])
    other = WAYS[way](group)
    assert [str(error) for error in other.exceptions] == ["b dropped on 'a': c", "d"]


def test_a_copy_has_notes_of_its_own_and_the_same_cause() -> None:
    error = EventError("order.paid", "mail", raised(WithLock("no such order")))
    error.add_note("first")
    for other in (copy.copy(error), copy.deepcopy(error)):
        other.add_note("second")
        assert other.error is error.error
        assert other.details == error.details
    assert error.__notes__ == ["first"]


def test_a_deep_copy_has_attributes_of_its_own() -> None:
    error = DecodeError("order.paid", "no JSON")
    vars(error)["seen"] = seen = [1]
    assert copy.copy(error).seen is seen  # type: ignore[attr-defined]
    other = copy.deepcopy(error)
    seen.append(2)
    assert other.seen == [1]  # type: ignore[attr-defined]


def test_an_abandoned_event_tells_whether_its_listener_had_started() -> None:
    for started in (True, False):
        error = EventAbandoned("order.paid", "mail", reason="the bus ended", started=started)
        assert [way(error).started for way in WAYS.values()] == [started] * len(WAYS)
