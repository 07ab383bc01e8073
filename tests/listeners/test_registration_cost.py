"""The short way of a registration: the decisions are those of the long way."""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from typing import Any

import pytest
from tests.support.events import REGISTRY, Ping

from goevent import Config, EventRegistry, GoEvent, ListenerOptions
from goevent._kernel.actor import Actor
from goevent._options.options import resolve
from goevent._options.signature import first_parameter


def plain(event: Ping) -> None: ...
def not_annotated(event): ...  # type: ignore[no-untyped-def]
def with_default(event: Ping | None = None) -> None: ...
def with_more(event: Ping, other: int = 1) -> None: ...
def with_keyword(event: Ping, *, other: int = 1) -> None: ...
def needs_keyword(event: Ping, *, other: int) -> None: ...
def needs_two(event: Ping, other: int) -> None: ...
def takes_any(*events: Ping) -> None: ...
def takes_all(event: Ping, *events: int, **options: str) -> None: ...
def takes_none() -> None: ...
def positional(event: Ping, /) -> None: ...
def only_options(**options: Ping) -> None: ...


def counted(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def with_signature(whatever: object) -> None: ...


with_signature.__signature__ = inspect.signature(with_more)  # type: ignore[attr-defined]


class Owner:
    def method(self, event: Ping) -> None: ...

    @staticmethod
    def static(event: Ping) -> None: ...

    def __call__(self, event: Ping) -> None: ...


HANDLERS: list[Any] = [
    plain,
    not_annotated,
    with_default,
    with_more,
    with_keyword,
    needs_keyword,
    needs_two,
    takes_any,
    takes_all,
    takes_none,
    positional,
    only_options,
    counted(plain),
    with_signature,
    Owner().method,
    Owner.method,
    Owner.static,
    Owner(),
    functools.partial(with_more, other=2),
    functools.partial(plain, Ping()),
    print,
    deque[Any]().append,
]


@pytest.mark.parametrize("handler", HANDLERS)
def test_the_first_parameter_is_that_of_the_signature(handler: Callable[[Any], Any]) -> None:
    try:
        signature = inspect.signature(handler)
        signature.bind(None)
    except TypeError:
        with pytest.raises(TypeError, match="cannot be called with one event"):
            first_parameter(handler, "it")
        return
    except ValueError:  # a builtin without a signature
        assert first_parameter(handler, "it") is None
        return
    first = next(iter(signature.parameters.values()))
    assert first_parameter(handler, "it") == (first.name, first.annotation)


DEFAULTS = [
    ListenerOptions(),
    ListenerOptions(mailbox=7, overflow="drop_old", timeout=1.0),
    ListenerOptions(async_=True, concurrency=3),
    ListenerOptions(async_=False, priority=3),
    ListenerOptions(thread=True),
    ListenerOptions(once=True, when=bool),
    ListenerOptions(context=True),
    ListenerOptions(priority=0, once=False, context=False),
]


async def suspending(event: Ping) -> None: ...


@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("handler", [plain, suspending])
def test_a_listener_without_options_is_as_one_that_leaves_all_to_the_defaults(
    default: ListenerOptions, handler: Callable[[Ping], Any]
) -> None:
    bus = GoEvent(Config(registry=REGISTRY, listener=default))
    bus.subscribe(handler, Ping)
    bus.subscribe(handler, Ping)
    bus.subscribe(handler, Ping, name=None, retry=None)
    first, second, explicit = bus._router.listeners()  # pyright: ignore[reportPrivateUsage]

    def decided(actor: Actor) -> tuple[object, ...]:
        return (
            actor.options,
            actor.inline,
            actor.capacity,
            actor.overflow,
            len(actor.lanes),
            actor.recovery is None,
        )

    assert decided(first) == decided(second) == decided(explicit)


def test_the_options_are_resolved_once_for_all_listeners_that_ask_for_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    resolved: list[str] = []

    def note(*args: Any, **options: Any) -> Any:
        resolved.append(options["listener"])
        return resolve(*args, **options)

    monkeypatch.setattr("goevent._listeners.plan.resolve", note)
    for _ in range(10):
        bus.subscribe(plain, Ping)
        bus.subscribe(suspending, Ping)
    assert resolved == ["plain", "suspending"]
    bus.subscribe(plain, Ping, priority=1)
    assert len(resolved) == 3


def test_a_plain_function_is_registered_without_inspect(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    asked: list[object] = []
    original = inspect.signature

    def signature(handler: Any, **options: Any) -> inspect.Signature:
        asked.append(handler)
        return original(handler, **options)

    monkeypatch.setattr(inspect, "signature", signature)
    handlers: list[Any] = [plain, not_annotated, suspending, positional]
    for handler in handlers:
        bus.subscribe(handler, Ping)
    assert asked == []
    bus.subscribe(with_keyword, Ping)
    assert asked == [with_keyword]


# -- annotated listeners of patterns


class CountingMeta(type):
    """Counts the tests whether a class is a subclass of one of this type."""

    tests = 0

    def __subclasscheck__(cls, subclass: type) -> bool:
        CountingMeta.tests += 1
        return super().__subclasscheck__(subclass)


class Record(metaclass=CountingMeta):
    """The base class of the events with a pattern."""


@dataclass
class Kept(Record):
    number: int = 0


@dataclass
class Stranger:
    number: int = 0


def keep(event: Record) -> None: ...


@pytest.mark.parametrize(
    ("pattern", "most"), [("**", 300), ("*.n{}.kept", 300), ("**.n{}.**", 300), ("other{}.*", 0)]
)
def test_each_pattern_is_tested_on_few_types(
    pattern: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = EventRegistry()
    bus = GoEvent(Config(registry=registry))
    for number in range(300):
        registry.register_as(f"record.n{number}.kept", Kept)
    monkeypatch.setattr(CountingMeta, "tests", 0)
    for number in range(300):
        bus.subscribe(keep, pattern.format(number))
    assert CountingMeta.tests == most


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("a.*.b", "a.x.b"),
        ("**.n7.**", "c.n7.c.c"),
        ("*.*.*", "c.c.c"),
        ("a.**", "a.c"),
        ("**.b", "c.c.b"),
        ("c.*.c.**", "c.b.c.c"),
    ],
)
def test_a_type_that_was_registered_later_is_tested_too(pattern: str, name: str) -> None:
    registry = EventRegistry()
    bus = GoEvent(Config(registry=registry))
    for number in range(100):
        registry.register_as(f"a.n{number}.b", Kept)
    bus.subscribe(keep, "**")
    bus.subscribe(keep, pattern)
    registry.register_as("c", Stranger)
    bus.subscribe(keep, "a.*")
    registry.register_as(name, Stranger)
    with pytest.raises(TypeError, match=f"which '{name}' .Stranger. matches"):
        bus.subscribe(keep, pattern)


def test_a_type_that_was_defined_again_is_tested_again() -> None:
    registry = EventRegistry()
    bus = GoEvent(Config(registry=registry))
    for number in range(100):
        registry.register_as(f"a.n{number}", Kept)
    bus.subscribe(keep, "**")
    again: Any = make_dataclass("Kept", [])
    again.__module__, again.__qualname__ = Kept.__module__, Kept.__qualname__
    registry.register_as("a.n50", again)
    with pytest.raises(TypeError, match=r"which 'a.n50' \(Kept\) matches"):
        bus.subscribe(keep, "**")
