"""Registration: accepted and refused listeners, and the error messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Optional, Union
from unittest.mock import AsyncMock, Mock

import pytest
from tests.support.events import REGISTRY, Ping, Pong

from goevent import Config, Event, EventRegistry, GoEvent, Listener, ListenerOptions, Registration

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers


class Base(Event):
    n: int = 0


class Derived(Base, name="listener.derived", registry=REGISTRY):
    more: int = 0


@dataclass
class Plain:
    n: int


@pytest.fixture
def closed_bus() -> GoEvent:
    return GoEvent(Config(registry=REGISTRY))


def listens(bus: GoEvent) -> list[tuple[str, tuple[str, ...], bool]]:
    return [(one.name, one.event_names, one.inline) for one in bus.snapshot().listeners]


# -- accepted listeners


async def test_functions_methods_callables_partials_lambdas_and_builtins(bus: GoEvent) -> None:
    seen: list[Any] = []

    def function(event: Ping) -> None:
        seen.append("function")

    class Object:
        def method(self, event: Ping) -> None:
            seen.append("method")

        @classmethod
        def class_method(cls, event: Ping) -> None:
            seen.append("class method")

        @staticmethod
        def static_method(event: Ping) -> None:
            seen.append("static method")

        def __call__(self, event: Ping) -> None:
            seen.append("callable")

    def two(what: str, event: Ping) -> None:
        seen.append(what)

    def defaults(event: Ping, more: int = 1, *rest: int, **others: int) -> None:
        seen.append("defaults")

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)

    one = Object()
    bus.subscribe(function, Ping)
    bus.subscribe(one.method, Ping)
    bus.subscribe(Object.class_method, Ping)
    bus.subscribe(Object.static_method, Ping)
    bus.subscribe(one, Ping)
    bus.subscribe(partial(two, "partial"), Ping)
    bus.subscribe(partial(partial(two), "partial of a partial"), Ping)
    bus.subscribe(lambda event: seen.append("lambda"), Ping)
    bus.subscribe(wrapped, Ping)
    bus.subscribe(seen.append, Ping)
    bus.subscribe(defaults, Ping)
    assert bus.dispatch_nowait(Ping(1)).errors == ()
    assert seen == [
        "function",
        "method",
        "class method",
        "static method",
        "callable",
        "partial",
        "partial of a partial",
        "lambda",
        "function",
        Ping(1),
        "defaults",
    ]
    assert [name.rpartition(".")[2] for name, _, inline in listens(bus) if inline] == [
        "function",
        "method",
        "class_method",
        "static_method",
        "Object",
        "two",
        "two",
        "<lambda>",
        "function",
        "append",
        "defaults",
    ]


async def test_every_shape_of_async_def_gets_a_mailbox(bus: GoEvent) -> None:
    seen: list[str] = []

    async def function(event: Ping) -> None:
        seen.append("function")

    async def two(what: str, event: Ping) -> None:
        seen.append(what)

    class Object:
        async def method(self, event: Ping) -> None:
            seen.append("method")

        async def __call__(self, event: Ping) -> None:
            seen.append("callable")

    bus.subscribe(function, Ping)
    bus.subscribe(partial(two, "partial"), Ping)
    bus.subscribe(Object().method, Ping)
    bus.subscribe(Object(), Ping)
    bus.subscribe(partial(Object()), Ping)
    handle = bus.dispatch_nowait(Ping())
    assert not seen
    assert not any(inline for _, _, inline in listens(bus))
    await handle.wait()
    assert seen == ["function", "partial", "method", "callable", "callable"]


async def test_mocks_listen(bus: GoEvent) -> None:
    sync, async_ = Mock(), AsyncMock()
    bus.subscribe(sync, Ping)
    bus.subscribe(async_, Ping)
    await (await bus.dispatch(Ping(3))).wait()
    sync.assert_called_once_with(Ping(3))
    async_.assert_awaited_once_with(Ping(3))


def test_the_decorator_returns_the_function_unchanged(closed_bus: GoEvent) -> None:
    def sync(event: Ping) -> None: ...
    async def later(event: Ping) -> None: ...

    assert closed_bus.listener(Ping)(sync) is sync
    assert closed_bus.listener("test.ping", mailbox=3)(later) is later
    assert [inline for _, _, inline in listens(closed_bus)] == [True, False]


def test_a_name_given_twice_counts_once(closed_bus: GoEvent) -> None:
    registration = closed_bus.subscribe(Mock(), Ping, "test.ping", Pong, Ping, name="one")
    assert registration.event_names == ("test.ping", "test.pong")
    assert registration.names == ("one",)
    assert repr(registration) == "<Registration of one for test.ping, test.pong>"
    assert registration.active


# -- refused listeners


def takes_nothing() -> None: ...
def takes_two(one: Any, two: Any) -> None: ...
def takes_a_keyword(*, event: Any) -> None: ...
def takes_a_keyword_too(event: Any, *, more: Any) -> None: ...


HANDLERS: list[tuple[Any, str]] = [
    (Ping, "not <class"),
    (Plain, "not <class"),
    (None, "not None"),
    ("handler", "not 'handler'"),
    (7, "not 7"),
    (takes_nothing, "cannot be called with one event: too many"),
    (takes_two, "cannot be called with one event: missing"),
    (takes_a_keyword, "cannot be called with one event"),
    (takes_a_keyword_too, "cannot be called with one event: missing"),
    (partial(takes_two, 1, 2), "cannot be called with one event: too many"),
]


@pytest.mark.parametrize(("handler", "message"), HANDLERS)
def test_a_function_that_cannot_be_called_with_one_event_is_refused(
    closed_bus: GoEvent, handler: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        closed_bus.subscribe(handler, Ping)
    with pytest.raises(TypeError, match=message):
        closed_bus.listener(Ping)(handler)
    assert listens(closed_bus) == []


@pytest.mark.parametrize("events", [(), (7,), (None,), (Ping(),), (Ping, 7), (b"test.ping",)])
def test_the_decorator_accepts_names_and_classes_only(
    closed_bus: GoEvent, events: tuple[Any, ...]
) -> None:
    with pytest.raises(TypeError, match=r"@bus\.listener"):
        closed_bus.listener(*events)
    with pytest.raises(TypeError):
        closed_bus.subscribe(Mock(), *events)
    assert listens(closed_bus) == []


def test_the_decorator_without_parentheses_says_how_to_write_it(closed_bus: GoEvent) -> None:
    listener: Any = closed_bus.listener

    def note(event: Ping) -> None: ...

    with pytest.raises(TypeError, match=r'write @bus\.listener\("event\.name"\)'):
        listener(note)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("listener ping", "' '"),
        ("listener.x*", r"'x\*'"),
        ("test.ping!", "'!'"),
        ("listener.é", r"'\\xe9'"),
        ("", "empty"),
        ("listener..ping", "empty segment"),
        (".ping", "empty segment"),
        ("x" * 256, "256 bytes"),
    ],
)
def test_an_invalid_name_is_refused_with_the_character(
    closed_bus: GoEvent, name: str, shown: str
) -> None:
    for register in (
        lambda: closed_bus.listener(name)(Mock()),
        lambda: closed_bus.subscribe(Mock(), name),
        lambda: closed_bus.unregister_listeners_for_event(name),
    ):
        with pytest.raises(ValueError, match=shown):
            register()
    assert listens(closed_bus) == []


@pytest.mark.parametrize("cls", [int, Plain, Base, Event, Mock])
def test_a_class_that_is_not_an_event_type_is_refused(closed_bus: GoEvent, cls: type[Any]) -> None:
    with pytest.raises(TypeError, match=f"{cls.__name__} is not an event type"):
        closed_bus.listener(cls)(Mock())


# -- annotations


def test_a_handler_of_another_event_is_refused_with_both_names(closed_bus: GoEvent) -> None:
    def handler(event: Pong) -> None: ...

    mistaken: Any
    for mistaken in (Ping, "test.ping"):
        with pytest.raises(TypeError, match=r"'test\.ping' \(Ping\)") as caught:
            closed_bus.subscribe(handler, mistaken)
        assert "'test.pong' (Pong)" in str(caught.value)
        assert "handler" in str(caught.value)
    assert listens(closed_bus) == []


def test_the_annotation_must_fit_every_event(closed_bus: GoEvent) -> None:
    def one(event: Ping) -> None: ...
    def both(event: Ping | Pong) -> None: ...

    with pytest.raises(TypeError, match=r"test\.pong"):
        closed_bus.listener("test.ping", "test.pong")(one)
    closed_bus.listener("test.ping", "test.pong")(both)
    closed_bus.listener(Ping, Pong)(both)
    closed_bus.listener(Ping)(both)
    with pytest.raises(TypeError, match=r"'test\.ping \| test\.pong' \(Ping \| Pong\)"):
        closed_bus.listener("listener.derived")(both)


def test_unions_are_understood_in_both_spellings(closed_bus: GoEvent) -> None:
    def old(event: Union[Ping, Pong]) -> None: ...  # noqa: UP007
    def optional(event: Optional[Ping]) -> None: ...  # noqa: UP045
    def text(event: "Ping | Pong") -> None: ...  # noqa: UP037

    for handler in (old, optional, text):
        closed_bus.listener("test.ping")(handler)
        with pytest.raises(TypeError, match=r"listener\.derived"):
            closed_bus.listener("listener.derived")(handler)


def test_a_handler_of_a_base_class_accepts_its_subclasses(closed_bus: GoEvent) -> None:
    def base(event: Base) -> None: ...
    def anything(event: Event) -> None: ...
    def thing(event: object) -> None: ...
    def untyped(event: Any) -> None: ...

    for handler in (base, anything, thing, untyped):
        closed_bus.listener("listener.derived")(handler)
    for handler in (anything, thing, untyped):
        closed_bus.listener("test.ping", "listener.nobody_knows")(handler)
    with pytest.raises(TypeError, match="Base"):
        closed_bus.listener("test.ping")(base)


def test_annotations_of_methods_callables_and_partials_are_checked(closed_bus: GoEvent) -> None:
    class Object:
        def method(self, event: Pong) -> None: ...

        def __call__(self, event: Pong) -> None: ...

    def two(what: str, event: Pong) -> None: ...
    async def later(event: Pong) -> None: ...

    handlers: list[Callable[[Any], Any]] = [
        Object().method,
        Object(),
        partial(two, "x"),
        partial(Object()),
        later,
    ]
    for handler in handlers:
        closed_bus.subscribe(handler, Pong)
        with pytest.raises(TypeError, match=r"'test\.pong' \(Pong\)"):
            closed_bus.subscribe(handler, Ping)
    assert len(listens(closed_bus)) == len(handlers)


def test_annotations_may_name_local_classes(closed_bus: GoEvent) -> None:
    registry = EventRegistry()

    class Local(Event, name="listener.local", registry=registry):
        n: int = 0

    class Other(Event, name="listener.other_local", registry=registry):
        n: int = 0

    bus = GoEvent(Config(registry=registry))

    @bus.listener(Local)
    def fits(event: Local) -> None: ...

    def does_not(event: Other) -> None: ...

    with pytest.raises(TypeError, match=r"listener\.other_local"):
        bus.listener("listener.local")(does_not)
    with pytest.raises(TypeError, match=r"listener\.other_local"):
        bus.subscribe(does_not, Local)  # type: ignore[arg-type]  # pyright: ignore


def test_an_annotation_imported_for_type_checkers_only_is_not_checked(closed_bus: GoEvent) -> None:
    def handler(event: OnlyForCheckers) -> None: ...

    closed_bus.listener("test.ping")(handler)
    assert len(listens(closed_bus)) == 1


def test_a_plain_class_is_registered_by_the_first_annotation() -> None:
    registry = EventRegistry()
    bus = GoEvent(Config(registry=registry))

    def handler(event: Plain) -> None: ...

    bus.listener("listener.plain")(handler)
    assert registry.type_of("listener.plain") is Plain
    with pytest.raises(TypeError, match=r"'listener\.elsewhere' \(a name without a type\)"):
        bus.listener("listener.elsewhere")(handler)


def test_further_name_alone_is_refused_with_the_name_to_listen_to() -> None:
    registry = EventRegistry()

    class Placed(Event, name="order.placed", registry=registry):
        n: int

    registry.register_as("order.placed.v2", Placed)
    bus = GoEvent(Config(registry=registry))
    with pytest.raises(ValueError, match=r"'order.placed.v2', a further name .* 'order.placed'"):
        bus.subscribe(lambda _: None, "order.placed.v2")
    bus.subscribe(lambda _: None, "order.placed.v2", "order.placed")
    bus.subscribe(lambda _: None, "order.placed.v2", "order.*")
    bus.subscribe(lambda _: None, "order.placed")
    bus.subscribe(lambda _: None, "order.**")


def test_an_event_class_is_not_registered_under_another_name(closed_bus: GoEvent) -> None:
    def handler(event: Ping) -> None: ...

    with pytest.raises(TypeError, match=r"listener\.typo"):
        closed_bus.listener("listener.typo")(handler)
    assert not REGISTRY.is_registered("listener.typo")


# -- options


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"mailbox": 0}, ValueError, "at least 1"),
        ({"mailbox": -1}, ValueError, "at least 1"),
        ({"mailbox": 1.5}, TypeError, "mailbox must be an int"),
        ({"mailbox": True}, TypeError, "mailbox must be an int"),
        ({"mailbox": "many"}, TypeError, "mailbox must be an int"),
        ({"overflow": "explode"}, ValueError, "overflow must be one of block, error"),
        ({"async_": False, "mailbox": 3}, ValueError, "has no mailbox"),
        ({"async_": False, "overflow": "error"}, ValueError, "no overflow"),
        ({"unknown": 1}, TypeError, "unknown"),
    ],
)
def test_invalid_options_are_refused(
    closed_bus: GoEvent, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        closed_bus.listener(Ping, **options)
    with pytest.raises(kind, match=message):
        closed_bus.subscribe(Mock(), Ping, **options)
    with pytest.raises(kind, match=message):
        ListenerOptions(**options)


@pytest.mark.parametrize("options", [{"mailbox": 3}, {"overflow": "error"}])
def test_an_inline_listener_refuses_a_mailbox_option(
    closed_bus: GoEvent, options: dict[str, Any]
) -> None:
    def handler(event: Ping) -> None: ...

    with pytest.raises(ValueError, match=r"handler runs inline.*async_=True"):
        closed_bus.listener(Ping, **options)(handler)
    closed_bus.listener(Ping, async_=True, **options)(handler)
    assert [inline for _, _, inline in listens(closed_bus)] == [False]


def test_a_default_mailbox_of_the_bus_does_not_apply_to_inline_listeners() -> None:
    bus = GoEvent(Config(registry=REGISTRY, listener=ListenerOptions(mailbox=3)))

    @bus.listener(Ping)
    def inline(event: Ping) -> None: ...

    @bus.listener(Ping)
    async def later(event: Ping) -> None: ...

    assert [inline for _, _, inline in listens(bus)] == [True, False]


def test_options_fall_back_to_those_of_the_bus() -> None:
    bus = GoEvent(Config(registry=REGISTRY, listener=ListenerOptions(async_=True)))

    @bus.listener(Ping)
    def later(event: Ping) -> None: ...

    @bus.listener(Ping, async_=False)
    def inline(event: Ping) -> None: ...

    assert {name.rpartition(".")[2]: inline for name, _, inline in listens(bus)} == {
        "later": False,
        "inline": True,
    }


def test_the_name_option_names_the_listener(closed_bus: GoEvent) -> None:
    closed_bus.listener(Ping, name="audit")(Mock())
    assert listens(closed_bus) == [("audit", ("test.ping",), True)]


# -- objects


class Audit:
    event_name = "test.ping"

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_event(self, event: Ping) -> None:
        self.seen.append(event.n)


class Welcome(Audit):
    options = ListenerOptions(async_=True, mailbox=2, overflow="drop_new", name="greeter")


class Mail(Audit):
    @property
    def event_name(self) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        return "test.pong"

    async def on_event(self, event: Pong) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self.seen.append(event.n)


async def test_objects_listen_with_their_options(bus: GoEvent) -> None:
    audit, welcome, mail = Audit(), Welcome(), Mail()
    assert isinstance(audit, Listener)
    registration = bus.register_listener(audit, welcome, mail)
    assert isinstance(registration, Registration)
    assert listens(bus) == [
        ("Audit", ("test.ping",), True),
        ("greeter", ("test.ping",), False),
        ("Mail", ("test.pong",), False),
    ]
    handles = [bus.dispatch_nowait(Ping(n)) for n in range(3)]
    handles.append(bus.dispatch_nowait(Pong(7)))
    assert audit.seen == [0, 1, 2]
    await bus.wait()
    assert (welcome.seen, mail.seen) == ([0, 1], [7])
    assert [len(handle.errors) for handle in handles] == [0, 0, 1, 0]
    registration.unregister()
    assert not registration.active
    assert listens(bus) == []


NO_LISTENERS: list[Any] = [object(), None, "test.ping", takes_two]


@pytest.mark.parametrize("thing", NO_LISTENERS)
def test_if_one_object_is_not_a_listener_none_is_registered(
    closed_bus: GoEvent, thing: Any
) -> None:
    with pytest.raises(TypeError, match="must be an object with event_name and on_event"):
        closed_bus.register_listener(Audit(), thing)
    assert listens(closed_bus) == []


def test_objects_are_checked_like_functions(closed_bus: GoEvent) -> None:
    class Mismatch:
        event_name = "test.pong"

        def on_event(self, event: Ping) -> None: ...

    class BadName:
        event_name = "listener pong"

        def on_event(self, event: Any) -> None: ...

    class BadArity:
        event_name = "test.ping"

        def on_event(self) -> None: ...

    with pytest.raises(TypeError, match=r"Mismatch.*test\.pong.*test\.ping"):
        closed_bus.register_listener(Audit(), Mismatch())
    with pytest.raises(ValueError, match="' '"):
        closed_bus.register_listener(Audit(), BadName())
    arity: Any = BadArity()
    with pytest.raises(TypeError, match="cannot be called with one event"):
        closed_bus.register_listener(Audit(), arity)
    assert listens(closed_bus) == []


def test_unregistering_an_event_without_listeners_does_nothing(closed_bus: GoEvent) -> None:
    for _ in range(2):
        closed_bus.unregister_listeners_for_event("listener.nobody")
        closed_bus.unregister_listeners_for_event(Ping)
    thing: Any = 7
    with pytest.raises(TypeError):
        closed_bus.unregister_listeners_for_event(thing)


async def test_unregistering_an_event_keeps_the_listeners_of_others(bus: GoEvent) -> None:
    seen: list[Any] = []
    both = bus.subscribe(seen.append, Ping, Pong)
    only = bus.subscribe(seen.append, Ping)
    bus.unregister_listeners_for_event(Ping)
    assert (both.active, only.active) == (True, False)
    assert both.event_names == ("test.pong",)
    bus.dispatch_nowait(Ping())
    bus.dispatch_nowait(Pong())
    assert seen == [Pong()]
    bus.unregister_listeners_for_event("test.pong")
    assert not both.active


async def test_listeners_registered_before_the_bus_opens_stay_over_reopening(
    closed_bus: GoEvent,
) -> None:
    seen: list[int] = []
    closed_bus.subscribe(lambda event: seen.append(event.n), Ping)
    for n in range(3):
        async with closed_bus:
            await closed_bus.dispatch(Ping(n))
            assert (await closed_bus.close()).accepted == 1
    assert seen == [0, 1, 2]
