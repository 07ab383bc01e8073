"""Mistakes of a first day: each error says what was wrong and what to write instead."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from goevent import (
    BusClosed,
    Config,
    DispatchHandle,
    Event,
    EventRegistry,
    GoEvent,
    ListenerOptions,
    MemoryDriver,
    MemoryHub,
    MsgpackCodec,
    Retry,
    Supervision,
    UnknownDriverError,
    UnknownEventError,
    Veto,
    register_event_type,
)
from goevent.middleware import RateLimit
from goevent.testing import record

REGISTRY = EventRegistry()
LISTEN = 'write @bus.listener("event.name") or @bus.listener(EventClass)'
EXAMPLE = 'Event("order.paid", {"order_id": 7})'
OBJECT = "a listener must be an object with event_name and on_event, or a class of such objects; "


class Paid(Event, name="mistakes.paid", registry=REGISTRY):
    order: int = 0


class Abstract(Event):
    order: int = 0


class PaidLate(Paid):
    days: int = 0


@register_event_type(name="mistakes.sent", registry=REGISTRY)
@dataclass
class Sent:
    order: int = 0


class SentLate(Sent):
    pass


class Elsewhere(Event, name="mistakes.elsewhere", registry=EventRegistry()):
    pass


class Nothing:
    pass


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any) -> Any:
        return function(*args)

    return call


class Service:
    def on_paid(self, event: Any) -> None: ...
    def lonely(self) -> None: ...
    async def later(self, event: Any) -> None: ...

    @decorated
    def wrapped(self, event: Any) -> None: ...

    @classmethod
    def of_the_class(cls, event: Any) -> None: ...

    @staticmethod
    def without_self(event: Any) -> None: ...


class Listens:
    event_name = "mistakes.paid"

    def on_event(self, event: Any) -> None: ...


def note(event: Any) -> None: ...


@pytest.fixture
def closed_bus() -> GoEvent:
    return GoEvent(Config(registry=REGISTRY))


def numbers(cases: Sequence[object]) -> list[str]:
    """Return ids that are the same in every process; functions are shown with their addresses."""
    return [str(number) for number in range(len(cases))]


def message_of(call: Callable[[], Any], kind: type[Exception] = TypeError) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


# -- dispatch


async def coroutine() -> Paid:
    return Paid()


NO_EVENTS: list[tuple[Any, str]] = [
    (Paid, "type[Paid] is not an event type: this is the class itself; write Paid(...)"),
    (Nothing, "type[Nothing] is not an event type: this is the class itself; write Nothing(...)"),
    (Event, f"type[Event] is not an event type: this is the class itself; write {EXAMPLE}"),
    (
        "mistakes.paid",
        "str is not an event type: this is only a name; write Event('mistakes.paid', {...})",
    ),
    ("no name", f"str is not an event type: this is only a name; write {EXAMPLE}"),
    ({"order": 1}, f"dict is not an event type: this is only a payload; write {EXAMPLE}"),
    (None, f"NoneType is not an event type: dispatch takes an event such as {EXAMPLE}"),
    (7, f"int is not an event type: dispatch takes an event such as {EXAMPLE}"),
    (b"a.b", f"bytes is not an event type: dispatch takes an event such as {EXAMPLE}"),
    ([Paid()], "list is not an event type: dispatch takes one event; dispatch them in turn"),
    ((Paid(),), "tuple is not an event type: dispatch takes one event; dispatch them in turn"),
    (note, "function is not an event type: call it, and dispatch its result"),
    (Service().on_paid, "method is not an event type: call it, and dispatch its result"),
    (
        Nothing(),
        (
            "Nothing is not an event type: give the class a name "
            '(`class Nothing(Event, name="...")`) or use register_event_type'
        ),
    ),
    (
        Abstract(),
        (
            "Abstract is not an event type: give the class a name "
            '(`class Abstract(Event, name="...")`) or use register_event_type'
        ),
    ),
    (
        PaidLate(),
        (
            "PaidLate is not an event type: its base class Paid is one, but a subclass needs a "
            "name of "
            'its own (`class PaidLate(Paid, name="...")`)'
        ),
    ),
    (
        SentLate(),
        (
            "SentLate is not an event type: its base class Sent is one, but a subclass needs a "
            "name of "
            "its own; give it one with register_event_type"
        ),
    ),
    (
        Elsewhere(),
        (
            "Elsewhere ('mistakes.elsewhere') is not in the registry of this bus: register it "
            "there, "
            "or give the bus that registry (`Config(registry=...)`)"
        ),
    ),
]


@pytest.mark.parametrize(("thing", "message"), NO_EVENTS, ids=numbers(NO_EVENTS))
async def test_what_is_no_event_is_refused_with_what_to_write(
    bus: GoEvent, thing: Any, message: str
) -> None:
    assert message_of(lambda: bus.dispatch_nowait(thing)) == message
    with pytest.raises(TypeError) as caught:
        await bus.dispatch(thing)
    assert str(caught.value) == message
    with pytest.raises(TypeError) as caught:
        await trio.to_thread.run_sync(bus.dispatch_from_thread, thing)
    assert str(caught.value) == message


async def test_a_coroutine_has_to_be_awaited_first(bus: GoEvent) -> None:
    event: Any = coroutine()
    assert message_of(lambda: bus.dispatch_nowait(event)) == (
        "coroutine is not an event type: await it, and dispatch its result"
    )
    await event


async def test_a_forgotten_await_names_dispatch(bus: GoEvent) -> None:
    with pytest.warns(RuntimeWarning, match=r"coroutine 'GoEvent\.dispatch' was never awaited"):
        bus.dispatch(Paid())  # type: ignore[unused-coroutine]  # pyright: ignore


async def test_a_bus_that_is_not_open_says_how_to_open_it(closed_bus: GoEvent) -> None:
    new = "dispatch needs an open bus: enter `async with bus` first"
    closed = "the bus is closed or closing and takes no events; dispatch inside `async with bus`"
    assert message_of(lambda: closed_bus.dispatch_nowait(Paid()), RuntimeError) == new
    assert message_of(lambda: closed_bus.dispatch_from_thread(Paid()), RuntimeError) == new
    async with closed_bus:
        pass
    assert message_of(lambda: closed_bus.dispatch_nowait(Paid()), BusClosed) == closed
    with pytest.raises(BusClosed) as caught:
        await closed_bus.dispatch(Paid())
    assert str(caught.value) == closed


# -- registration


def no_function(handler: object, hint: str = "") -> str:
    return f"a listener must be a function, not {handler!r}{hint}"


FUNCTION_FIRST = "; the function comes first: bus.subscribe(function, "
REGISTER = "; register listener objects and their classes with bus.register_listener"
LISTENER = Listens()
MISTAKEN_SUBSCRIPTIONS: list[tuple[tuple[Any, ...], str]] = [
    (("mistakes.paid", note), no_function("mistakes.paid", f"{FUNCTION_FIRST}'mistakes.paid')")),
    ((Paid, note), no_function(Paid, f"{FUNCTION_FIRST}Paid)")),
    ((LISTENER, Paid), no_function(LISTENER, REGISTER)),
    ((Listens, Paid), no_function(Listens, REGISTER)),
    ((Nothing, Paid), no_function(Nothing)),
    ((None, Paid), no_function(None, "; leave out the () if they call the function")),
    ((7, Paid), no_function(7)),
    (([note], Paid), no_function([note])),
    ((note,), f"a listener needs an event: {LISTEN}"),
    ((note, []), f"a listener needs an event: {LISTEN}"),
    ((note, 7), f"an event is given by its name or by its class, not by 7; {LISTEN}"),
    ((note, None), f"an event is given by its name or by its class, not by None; {LISTEN}"),
    (
        (note, [Paid], Paid),
        f"an event is given by its name or by its class, not by [{Paid!r}]; {LISTEN}",
    ),
    (
        (note, Paid()),
        f"give the class of an event and not an event: Paid, not Paid(...); {LISTEN}",
    ),
    (
        (note, Listens),
        (
            "Listens is not an event type; a class of listeners is registered with "
            "bus.register_listener(Listens)"
        ),
    ),
    (
        (Service.on_paid, Paid),
        (
            "Service.on_paid is a method, and nothing says of which object: register it where "
            "there "
            "is one, bus.subscribe(self.on_paid, Paid)"
        ),
    ),
    (
        (Service.later, "mistakes.paid", Sent),
        (
            "Service.later is a method, and nothing says of which object: register it where "
            "there is "
            "one, bus.subscribe(self.later, 'mistakes.paid', Sent)"
        ),
    ),
    (
        (Service.lonely, Paid),
        (
            "Service.lonely is a method, and nothing says of which object: register it where "
            "there is "
            "one, bus.subscribe(self.lonely, Paid)"
        ),
    ),
    (
        (Service.wrapped, Paid),
        (
            "Service.wrapped is a method, and nothing says of which object: register it where "
            "there is one, bus.subscribe(self.wrapped, Paid)"
        ),
    ),
    (
        (vars(Service)["of_the_class"], Paid),
        (
            "Service.of_the_class is a method, and nothing says of which class: register it where "
            "there is one, bus.subscribe(cls.of_the_class, Paid)"
        ),
    ),
]


@pytest.mark.parametrize(
    ("arguments", "message"), MISTAKEN_SUBSCRIPTIONS, ids=numbers(MISTAKEN_SUBSCRIPTIONS)
)
def test_a_mistaken_subscription_says_what_to_write(
    closed_bus: GoEvent, arguments: tuple[Any, ...], message: str
) -> None:
    assert message_of(lambda: closed_bus.subscribe(*arguments)) == message
    handler, *events = arguments
    if not any(callable(event) and not isinstance(event, type) for event in events):
        assert message_of(lambda: closed_bus.listener(*events)(handler)) == message
    assert closed_bus.snapshot().listeners == ()


def test_the_result_of_an_async_function_is_no_listener(closed_bus: GoEvent) -> None:
    called: Any = coroutine()
    assert message_of(lambda: closed_bus.subscribe(called, Paid)) == no_function(
        called, "; leave out the (), which call the function"
    )


def test_a_decorator_without_parentheses_says_how_to_write_it(closed_bus: GoEvent) -> None:
    listener: Any = closed_bus.listener
    assert message_of(lambda: listener(note)) == (
        f"an event is given by its name or by its class, not by {note!r}; {LISTEN}"
    )
    assert message_of(lambda: listener(Nothing)) == (
        "Nothing is not an event type: give the class a name "
        '(`class Nothing(Event, name="...")`) or use register_event_type'
    )
    assert message_of(lambda: listener()) == f"a listener needs an event: {LISTEN}"


def test_methods_that_have_their_object_are_listeners(closed_bus: GoEvent) -> None:
    for method in (Service().on_paid, Service.of_the_class, Service.without_self):
        closed_bus.subscribe(method, Paid)

    def later(self: Any) -> None: ...

    closed_bus.subscribe(later, Paid)
    closed_bus.listener(Paid)(vars(Service)["without_self"])
    assert closed_bus.snapshot().listeners[-1].name == "Service.without_self"


@pytest.mark.parametrize("events", [[Paid, Sent], (Paid, "mistakes.sent"), ["mistakes.*"]])
async def test_events_may_be_given_in_a_list(bus: GoEvent, events: Any) -> None:
    seen: list[object] = []
    bus.listener(events)(seen.append)
    bus.subscribe(seen.append, events)
    bus.dispatch_nowait(Paid(1))
    bus.dispatch_nowait(Sent(2))
    assert seen == [Paid(1), Paid(1), Sent(2), Sent(2)]


class NoEvent:
    event_name = "mistakes.paid"


class NoName:
    def on_event(self, event: Any) -> None: ...


class WrongName(NoName):
    event_name = 7


class WrongEvent(NoEvent):
    on_event = 7


class WrongOptions(Listens):
    options: Any = {"mailbox": 3}  # noqa: RUF012


class Needs(Listens):
    def __init__(self, argument: int) -> None: ...


NO_LISTENERS: list[tuple[Any, str]] = [
    (NoEvent(), f"{OBJECT}NoEvent has no on_event"),
    (NoEvent, f"{OBJECT}NoEvent has no on_event"),
    (NoName(), f"{OBJECT}NoName has no event_name"),
    (Nothing(), f"{OBJECT}Nothing has no event_name and no on_event"),
    (None, f"{OBJECT}None has no event_name and no on_event"),
    ("mistakes.paid", f"{OBJECT}the str has no event_name and no on_event"),
    ([Listens()], f"{OBJECT}the list has no event_name and no on_event"),
    (
        note,
        (
            "a listener must be an object with event_name and on_event, and note is a function: "
            "register it with bus.subscribe(note, ...) or @bus.listener(...)"
        ),
    ),
    (
        partial(note),
        (
            "a listener must be an object with event_name and on_event, and an object of partial "
            "is a function: register it with bus.subscribe(it, ...) or @bus.listener(...)"
        ),
    ),
    (
        Service().on_paid,
        (
            "a listener must be an object with event_name and on_event, and Service.on_paid is a "
            "function: register it with bus.subscribe(self.on_paid, ...) or @bus.listener(...)"
        ),
    ),
    (
        Needs,
        (
            "Needs needs arguments: register an object of it, or a function without arguments that "
            "makes one"
        ),
    ),
    (WrongName, "WrongName.event_name must be an event name, not 7"),
    (WrongEvent, "WrongEvent.on_event must be a method, not 7"),
    (WrongOptions, "WrongOptions.options must be a ListenerOptions, not {'mailbox': 3}"),
    (lambda: None, f"{OBJECT}None has no event_name and no on_event"),
]


@pytest.mark.parametrize(("thing", "message"), NO_LISTENERS, ids=numbers(NO_LISTENERS))
def test_an_incomplete_listener_object_says_what_is_missing(
    closed_bus: GoEvent, thing: Any, message: str
) -> None:
    assert message_of(lambda: closed_bus.register_listener(Listens(), thing)) == message
    assert closed_bus.snapshot().listeners == ()


def no_parameters() -> None: ...


def test_a_callback_for_errors_is_checked(closed_bus: GoEvent) -> None:
    on_error: Any = closed_bus.on_error
    assert message_of(lambda: on_error(7)) == "on_error takes a function of one EventError, not 7"
    assert message_of(lambda: on_error(no_parameters)) == (
        "the on_error function cannot be called with one EventError: too many positional arguments"
    )
    on_error(print)


def test_methods_that_take_an_event_name_say_what_one_is(closed_bus: GoEvent) -> None:
    unregister: Any = closed_bus.unregister_listeners_for_event
    assert message_of(lambda: unregister(7)) == (
        "an event is given by its name or by its class, not by 7"
    )
    assert message_of(lambda: unregister(Paid())) == (
        "give the class of an event and not an event: Paid, not Paid(...)"
    )


# -- event types


def test_an_unknown_event_name_comes_with_the_nearest_one() -> None:
    message = "no event type is registered as 'mistakes.piad'; did you mean 'mistakes.paid'?"
    assert message_of(lambda: REGISTRY.create("mistakes.piad"), UnknownEventError) == message
    assert message_of(lambda: REGISTRY.upcast("mistakes.piad", to=Paid), UnknownEventError) == (
        message
    )


def define(**options: Any) -> object:
    class Defined(Event, registry=REGISTRY, **options):
        user_id: int = 0

    return Defined


# Type checkers would refuse most of these calls.
untyped_event: Any = Event
untyped_registry: Any = REGISTRY
untyped_register: Any = register_event_type


MISTAKEN_TYPES: list[tuple[Callable[..., Any], str]] = [
    (
        partial(define, nmae="mistakes.defined"),
        "Defined: an event class has no option 'nmae'; did you mean 'name'?",
    ),
    (
        partial(define, name="mistakes.defined", key="userid"),
        (
            f"{__name__}.define.<locals>.Defined has no field 'userid' to be its key; "
            "did you mean 'user_id'?"
        ),
    ),
    (
        partial(untyped_register, Nothing, registry=7),
        "registry must be an EventRegistry, not 7",
    ),
    (
        partial(untyped_register, "mistakes.x"),
        "write register_event_type(name='mistakes.x'): the name goes by keyword",
    ),
    (partial(untyped_registry.create, 7), "an event name is a str, not int"),
    (partial(untyped_registry.create, []), "an event name is a str, not list"),
    (partial(untyped_registry.register_as, 7, Sent), "an event name is a str, not int"),
    (
        lambda: untyped_registry.upcast(Sent, to=Paid)(7),
        "an upcast is a function of the old event, not 7",
    ),
    (untyped_event, f"Event takes a name and a payload: {EXAMPLE}"),
    (partial(untyped_event, name="a.b"), f"Event takes a name and a payload: {EXAMPLE}"),
    (partial(untyped_event, "a.b", order_id=7), f"Event takes a name and a payload: {EXAMPLE}"),
    (partial(untyped_event, 7), "an event name is a str, not int"),
    (partial(untyped_event, Paid), "an event name is a str, not the class Paid"),
    (partial(untyped_event, "a.b", 7), "the payload of an event is a mapping, not int"),
]


@pytest.mark.parametrize(("call", "message"), MISTAKEN_TYPES, ids=numbers(MISTAKEN_TYPES))
def test_a_mistaken_event_type_says_what_to_write(call: Callable[..., Any], message: str) -> None:
    assert message_of(call) == message


# -- settings

WRONG_SETTINGS: list[tuple[Callable[..., Any], Mapping[str, Any], str]] = [
    (Config, {"registry": 3}, "registry must be an EventRegistry, not 3"),
    (Config, {"registry": None}, "registry must be an EventRegistry, not None"),
    (
        Config,
        {"driver": 3},
        "a driver is a URL, a name or a driver object, not a int",
    ),
    (
        Config,
        {"driver": MemoryDriver},
        "a driver is a URL, a name or a driver object, not a class: write MemoryDriver(...)",
    ),
    (Config, {"listener": {}}, "listener must be a ListenerOptions, not {}"),
    (Config, {"codec": MsgpackCodec}, "codec must be an object: write MsgpackCodec()"),
    (
        Config,
        {"codec": 3},
        (
            "codec must have encode, decode and content_type; 3 has no content_type and no "
            "encode and "
            "no decode"
        ),
    ),
    (Config, {"close_timeout": "soon"}, "close_timeout must be a number of seconds, not 'soon'"),
    (Config, {"close_timeout": None}, "close_timeout must be a number of seconds, not None"),
    (Config, {"close_timeout": True}, "close_timeout must be a number of seconds, not True"),
    (Config, {"max_nesting": 1.5}, "max_nesting must be an int, not 1.5"),
    (Config, {"middleware": 3}, "middleware must be a tuple of objects, not 3"),
    (Config, {"threads": "4"}, "threads must be an int, not '4'"),
    (Config, {"slow_after": "1"}, "slow_after must be a number of seconds, not '1'"),
    (GoEvent, {"config": 3}, "a driver is a URL, a name or a driver object, not a int"),
    (GoEvent, {"driver": "x"}, "GoEvent has no option 'driver'; write GoEvent(Config(driver=...))"),
    (GoEvent, {"confg": "x"}, "GoEvent has no option 'confg'; did you mean 'config'?"),
    (Retry, {"attempts": "3"}, "attempts must be an int, not '3'"),
    (Retry, {"jitter": "0.5"}, "jitter must be a number from 0 to 1, not '0.5'"),
    (Retry, {"backoff": None}, "backoff must be a number of seconds, not None"),
    (
        Retry,
        {"on": [ValueError]},
        f"on must be Exception classes in a tuple, or a function, not [{ValueError!r}]",
    ),
    (
        Retry,
        {"on": KeyboardInterrupt},
        f"on must be Exception classes in a tuple, or a function, not {KeyboardInterrupt!r}",
    ),
    (Retry, {"on": int}, f"on must be Exception classes in a tuple, or a function, not {int!r}"),
    (
        Retry,
        {"on": coroutine},
        f"on is called during dispatch and cannot be async: {coroutine!r}",
    ),
    (Retry, {"not_on": note}, f"not_on must be Exception classes in a tuple, not {note!r}"),
    (
        Supervision,
        {"strategy": None},
        "strategy must be one of resume, restart, stop, escalate, not None",
    ),
    (Supervision, {"jitter": None}, "jitter must be a number from 0 to 1, not None"),
    (Supervision, {"within": "1"}, "within must be a number of seconds, not '1'"),
    (
        ListenerOptions,
        {"overflow": 3},
        "overflow must be one of block, error, drop_new, drop_old, not 3",
    ),
    (ListenerOptions, {"thread": "yes"}, "thread must be True or False, not 'yes'"),
    (ListenerOptions, {"retry": 3}, "retry must be a Retry, not 3"),
    (ListenerOptions, {"name": 3}, "name must be a str, not 3"),
    (MemoryHub, {"inbox": "1"}, "inbox must be a number of events, not '1'"),
    (MemoryDriver, {"hub": 3}, "hub must be a MemoryHub, not 3"),
]


@pytest.mark.parametrize(
    ("make", "settings", "message"), WRONG_SETTINGS, ids=numbers(WRONG_SETTINGS)
)
def test_a_setting_of_the_wrong_type_is_named(
    make: Callable[..., Any], settings: Mapping[str, Any], message: str
) -> None:
    assert message_of(lambda: make(**settings)) == message


UNKNOWN_CHOICES: list[tuple[Callable[..., Any], Mapping[str, Any], str]] = [
    (
        Supervision,
        {"strategy": "restrat"},
        (
            "strategy must be one of resume, restart, stop, escalate, not 'restrat'; "
            "did you mean 'restart'?"
        ),
    ),
    (
        ListenerOptions,
        {"overflow": "drop-old"},
        (
            "overflow must be one of block, error, drop_new, drop_old, not 'drop-old'; "
            "did you mean 'drop_old'?"
        ),
    ),
]


@pytest.mark.parametrize(
    ("make", "settings", "message"), UNKNOWN_CHOICES, ids=numbers(UNKNOWN_CHOICES)
)
def test_an_unknown_choice_comes_with_the_nearest_one(
    make: Callable[..., Any], settings: Mapping[str, Any], message: str
) -> None:
    assert message_of(lambda: make(**settings), ValueError) == message


@pytest.mark.parametrize(
    ("driver", "meant"),
    [("redsi://localhost", "redis"), ("kafak://localhost", "kafka"), ("memroy", "memory")],
)
def test_a_misspelled_scheme_comes_with_the_nearest_one(driver: str, meant: str) -> None:
    scheme = driver.partition("://")[0]
    message = message_of(lambda: GoEvent(driver), UnknownDriverError)
    assert message.startswith(f"no driver for {scheme!r} is installed (there is: ")
    assert message.endswith(f"; did you mean {meant!r}?")


@pytest.mark.parametrize(
    ("driver", "scheme"),
    [("nats:/secret@localhost", "nats"), ("localhost:6379", "redis"), ("", "redis")],
)
def test_a_url_without_its_scheme_says_how_one_begins(driver: str, scheme: str) -> None:
    message = message_of(lambda: GoEvent(driver), UnknownDriverError)
    assert message.startswith("no driver for a text that is no URL and no name is installed")
    assert message.endswith(f"; a URL begins with its scheme: {scheme}://")
    assert "secret" not in message


async def test_close_checks_its_timeout_before_it_closes(bus: GoEvent) -> None:
    for timeout, kind, message in (
        ("soon", TypeError, "timeout must be a number of seconds, not 'soon'"),
        (-1, ValueError, "timeout must be at least 0 seconds, not -1"),
        (float("nan"), ValueError, "timeout must be at least 0 seconds, not nan"),
    ):
        wrong: Any = timeout
        with pytest.raises(kind) as caught:
            await bus.close(wrong)
        assert str(caught.value) == message
    assert bus.snapshot().state == "open"


# -- names of listeners


def make_listener() -> Callable[[Any], None]:
    def handle(event: Any) -> None: ...

    return handle


def make_another_listener() -> Callable[[Any], None]:
    def handle(event: Any) -> None: ...

    return handle


def handle(event: Any) -> None: ...


def test_a_nested_function_is_called_by_its_own_name(closed_bus: GoEvent) -> None:
    class Nested(Service):
        def on_paid(self, event: Any) -> None: ...

    class NestedListener(Listens):
        pass

    registrations = [
        closed_bus.subscribe(make_listener(), Paid),
        closed_bus.subscribe(Nested().on_paid, Paid),
        closed_bus.subscribe(lambda event: None, Paid),
        closed_bus.subscribe(partial(make_listener()), Paid),
        closed_bus.register_listener(NestedListener()),
        closed_bus.subscribe(note, Paid),
    ]
    assert [registration.names for registration in registrations] == [
        ("handle",),
        ("Nested.on_paid",),
        ("test_a_nested_function_is_called_by_its_own_name.<lambda>",),
        ("handle",),
        ("NestedListener",),
        ("note",),
    ]
    assert repr(registrations[0]) == "<Registration of handle for mistakes.paid>"


def test_two_functions_of_the_same_name_have_two_names(closed_bus: GoEvent) -> None:
    first = closed_bus.subscribe(make_listener(), Paid)
    second = closed_bus.subscribe(make_another_listener(), Paid)
    again = closed_bus.subscribe(make_listener(), Paid)
    foreign = make_another_listener()
    foreign.__module__ = "another.module"
    third = closed_bus.subscribe(foreign, Paid)
    top = closed_bus.subscribe(handle, Paid)
    assert first.names == again.names == ("handle",)
    assert second.names == ("make_another_listener.handle",)
    assert third.names == ("another.module.make_another_listener.handle",)
    assert top.names == (f"{__name__}.handle",)


async def test_a_recorder_tells_functions_of_the_same_name_apart(closed_bus: GoEvent) -> None:
    first, second = make_listener(), make_another_listener()
    closed_bus.subscribe(first, Paid)
    closed_bus.subscribe(second, Sent)
    recorder = record(closed_bus)
    async with closed_bus:
        await closed_bus.dispatch(Paid(1))
        await closed_bus.dispatch(Sent(2))
    assert recorder.ran(first) == recorder.ran("handle") == [Paid(1)]
    assert recorder.ran(second) == [Sent(2)]


async def test_middleware_keeps_functions_of_the_same_name_apart() -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    once = RateLimit(1, per=1000, excess="veto")
    bus.subscribe(make_listener(), Paid, middleware=(once,))
    bus.subscribe(make_another_listener(), Paid, middleware=(once,))
    async with bus:
        handle = await bus.dispatch(Paid(1))
        again = await bus.dispatch(Paid(1))
    assert (len(handle.errors), len(again.errors)) == (0, 2)


# -- nobody listens


def unheard(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]


async def test_a_name_without_listeners_is_logged_once_with_the_nearest_name(
    bus: GoEvent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "goevent")
    bus.subscribe(note, "mistakes.order.paid")
    for _ in range(3):
        bus.dispatch_nowait(Event("mistakes.oder.paid"))
        bus.dispatch_nowait(Event("nothing.like.it"))
        bus.dispatch_nowait(Sent())
        bus.dispatch_nowait(Event("mistakes.order.paid"))
    registration = bus.subscribe(note, "mistakes.oder.paid")
    registration.unregister()
    bus.dispatch_nowait(Event("mistakes.oder.paid"))
    assert unheard(caplog) == [
        "nobody listens to 'mistakes.oder.paid'; did you mean 'mistakes.order.paid'?",
        "nobody listens to 'nothing.like.it'",
        "nobody listens to 'mistakes.sent'",
    ]


async def test_names_from_outside_are_logged_up_to_a_limit(
    bus: GoEvent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "goevent")
    for number in range(1_500):
        bus.dispatch_nowait(Event(f"hostile.{number}"))
    assert len(unheard(caplog)) == 1_000


async def test_an_observed_bus_logs_unheard_names_too(
    closed_bus: GoEvent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "goevent")
    record(closed_bus)
    async with closed_bus:
        handle = closed_bus.dispatch_nowait(Event("mistakes.nothing"))
    assert handle.listeners == 0
    assert unheard(caplog) == ["nobody listens to 'mistakes.nothing'"]


# -- the number of listeners


class Hook:
    def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
        if isinstance(handle.event, Paid) and handle.event.order < 0:
            raise Veto("negative")
        yield
        if isinstance(handle.event, Paid) and handle.event.order > 100:
            raise ValueError("too late")


@pytest.mark.parametrize("middleware", [(), (Hook(),)])
async def test_the_handle_counts_the_listeners_that_got_the_event(
    autojump_clock: MockClock, middleware: Any
) -> None:
    bus = GoEvent(Config(registry=REGISTRY, middleware=middleware))

    @bus.listener(Paid, mailbox=1)
    async def later(event: Paid) -> None:
        await trio.sleep(1)

    bus.subscribe(note, Paid)
    bus.subscribe(note, Paid, when=lambda event: event.order % 2)
    bus.subscribe(note, Paid, once=True, when=lambda event: event.order == 5)
    async with bus:
        assert (await bus.dispatch(Sent())).listeners == 0
        handles = [await bus.dispatch(Paid(order)) for order in (1, 2, 4, 5, 5, 7)]
        await bus.wait()
        assert [handle.listeners for handle in handles] == [3, 2, 2, 4, 3, 3]
        assert bus.dispatch_nowait(Paid(8)).listeners == 2
        if middleware:
            assert bus.dispatch_nowait(Paid(-1)).listeners == 0
            late = await bus.dispatch(Paid(102))
            assert (late.listeners, len(late.errors)) == (2, 1)


async def test_the_count_does_not_change_when_listeners_go(bus: GoEvent) -> None:
    registration = bus.subscribe(note, Paid)
    handle = bus.dispatch_nowait(Paid())
    registration.unregister()
    assert handle.listeners == 1
