"""The checks of options: types, ranges, and the fit with the kind of listener."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from tests.support.middleware import AroundCall, AroundDispatch, AsyncAroundCall
from trio.testing import wait_all_tasks_blocked

from goevent import (
    Config,
    Event,
    EventRegistry,
    GoEvent,
    ListenerOptions,
    Retry,
    Supervision,
    current_delivery,
)

REGISTRY = EventRegistry()


class Ping(Event, name="options.ping", key="n", registry=REGISTRY):
    n: int = 0


def plain(event: Ping) -> None:
    """An inline listener."""


async def coroutine(event: Ping) -> None:
    """A listener with a mailbox."""


async def is_wanted(event: Ping) -> bool:
    """An async predicate, which is refused because nothing would await it."""
    return False


def make(**config: Any) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, **config))


INF, NAN = float("inf"), float("nan")

# Each option with values of a wrong type and values that are out of range.
WRONG_TYPES: list[tuple[str, Any]] = [
    *[
        (option, value)
        for option in ("async_", "thread", "context", "once")
        for value in (1, "yes")
    ],
    *[("mailbox", value) for value in ("10", 1.5, True)],
    *[("overflow", value) for value in (1, True, ["block"])],
    *[("concurrency", value) for value in ("2", 2.0, True)],
    *[("ordering_key", value) for value in (True, 1, ["n"])],
    *[("timeout", value) for value in ("1", True, [1])],
    *[("slow_after", value) for value in ("1", True)],
    *[("retry", value) for value in (3, True, Retry)],
    *[("supervision", value) for value in ("stop", Supervision)],
    *[
        ("middleware", value)
        for value in (AroundCall(), 5, (AroundCall,), ("AroundCall",), (object(),))
    ],
    ("middleware", (AroundDispatch(),)),
    *[("priority", value) for value in ("1", 1.5, True)],
    *[("when", value) for value in (True, "n > 1", is_wanted)],
    ("ordering_key", is_wanted),
    *[("name", value) for value in (1, plain, b"it")],
]
OUT_OF_RANGE: list[tuple[str, Any]] = [
    *[("mailbox", value) for value in (0, -1)],
    ("overflow", "drop"),
    *[("concurrency", value) for value in (0, -1)],
    *[(option, value) for option in ("timeout", "slow_after") for value in (0, -1, INF, NAN)],
    ("name", ""),
    ("ordering_key", ""),
]


@pytest.mark.parametrize(("option", "value"), WRONG_TYPES)
def test_a_value_of_the_wrong_type_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        ListenerOptions(**{option: value})
    if option == "overflow":
        assert "overflow" in str(caught.value)
    else:
        assert type(caught.value) is TypeError
    assert option in str(caught.value) or option == "middleware"


def test_middleware_that_is_not_iterable_is_refused_by_name() -> None:
    given: Any = AroundCall()
    with pytest.raises(TypeError, match=r"middleware must be a tuple of objects, not .*AroundCall"):
        ListenerOptions(middleware=given)


@pytest.mark.parametrize(("option", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        ListenerOptions(**{option: value})


def test_a_decorator_refuses_a_wrong_value_before_there_is_a_listener() -> None:
    bus = make()
    with pytest.raises(ValueError, match="mailbox"):
        bus.listener(Ping, mailbox=0)
    with pytest.raises(ValueError, match="timeout"):
        bus.subscribe(coroutine, Ping, timeout=-1)
    assert bus.snapshot().listeners == ()


def test_an_unknown_option_is_refused() -> None:
    options: dict[str, Any] = {"asynchronous": True}
    with pytest.raises(TypeError, match="asynchronous"):
        make().subscribe(plain, Ping, **options)


def test_middleware_may_be_any_iterable_and_is_kept_as_a_tuple() -> None:
    around = AroundCall()
    given: Any = [around]
    assert ListenerOptions(middleware=given).middleware == (around,)


@pytest.mark.parametrize(
    "options",
    [
        {"async_": True, "thread": False, "context": False, "once": False, "priority": None},
        {"mailbox": 1, "overflow": "drop_old", "concurrency": 1, "name": "it"},
        {"ordering_key": "n", "concurrency": 2},
        {"ordering_key": False},
        {"timeout": 1, "slow_after": None},
        {"timeout": 0.5, "retry": Retry(), "supervision": Supervision("stop")},
        {"when": bool, "once": True, "mailbox": 1},
    ],
)
def test_valid_values_are_accepted(options: dict[str, Any]) -> None:
    bus = make()
    bus.subscribe(coroutine, Ping, **options)
    assert len(bus.snapshot().listeners) == 1


# -- combinations that no kind of listener supports

ALWAYS_SENSELESS: list[tuple[dict[str, Any], str]] = [
    ({"async_": False, "mailbox": 5}, "no mailbox"),
    ({"async_": False, "overflow": "drop_new"}, "no mailbox"),
    ({"async_": False, "thread": True}, "thread=True"),
    ({"concurrency": 1, "ordering_key": "n"}, "ordering_key"),
    ({"once": True, "concurrency": 2}, "once=True"),
    ({"once": True, "ordering_key": "n"}, "once=True"),
]


@pytest.mark.parametrize(("options", "message"), ALWAYS_SENSELESS)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ListenerOptions(**options)


# -- options that one kind of listener does not support

KINDS: dict[str, tuple[Callable[[Ping], Any], dict[str, Any]]] = {
    "inline": (plain, {}),
    "inline async": (coroutine, {"async_": False}),
    "mailbox": (coroutine, {}),
    "blocking": (plain, {"async_": True}),
    "thread": (plain, {"thread": True}),
}
VALUES: dict[str, Any] = {
    "mailbox": 5,
    "overflow": "error",
    "concurrency": 2,
    "ordering_key": "n",
    "context": True,
    "timeout": 1.0,
    "retry": Retry(),
    "supervision": Supervision("stop"),
    "middleware": (AroundCall(),),
    "priority": 1,
    "slow_after": 0.5,
    "when": bool,
    "once": True,
    "name": "it",
}
FITS: dict[str, set[str]] = {
    "inline": {"supervision", "middleware", "priority", "slow_after", "when", "once", "name"},
    "inline async": {
        "timeout",
        "retry",
        "supervision",
        "middleware",
        "priority",
        "when",
        "once",
        "name",
    },
    "mailbox": set(VALUES) - {"priority", "slow_after"},
    "blocking": set(VALUES) - {"priority", "slow_after", "timeout"},
    "thread": set(VALUES) - {"priority", "slow_after"},
}


@pytest.mark.parametrize("option", VALUES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_listener_accepts_its_options_and_refuses_the_others(
    kind: str, option: str
) -> None:
    bus = make()
    handler, options = KINDS[kind]
    given = {**options, option: VALUES[option]}
    if option in FITS[kind]:
        bus.subscribe(handler, Ping, **given)
        assert len(bus.snapshot().listeners) == 1
        return
    with pytest.raises(ValueError, match=option):
        bus.subscribe(handler, Ping, **given)
    assert bus.snapshot().listeners == ()


@pytest.mark.parametrize("kind", ["inline", "mailbox", "thread"])
def test_the_error_names_the_listener_and_a_remedy(kind: str) -> None:
    handler, options = KINDS[kind]
    misfit: dict[str, Any] = {"mailbox": 5} if kind == "inline" else {"priority": 1}
    with pytest.raises(ValueError, match=r"plain|coroutine") as caught:
        make().subscribe(handler, Ping, **options, **misfit)
    assert "mailbox" in str(caught.value)


def test_a_coroutine_function_cannot_run_in_a_thread() -> None:
    with pytest.raises(ValueError, match=r"coroutine is an `async def`.*thread"):
        make().subscribe(coroutine, Ping, thread=True)


def test_async_middleware_is_refused_for_an_inline_def() -> None:
    bus = make()
    with pytest.raises(ValueError, match="AsyncAroundCall"):
        bus.subscribe(plain, Ping, middleware=(AsyncAroundCall(),))
    bus.subscribe(plain, Ping, middleware=(AsyncAroundCall(),), async_=True)
    bus.subscribe(plain, Ping, middleware=(AsyncAroundCall(),), thread=True)
    bus.subscribe(coroutine, Ping, middleware=(AsyncAroundCall(),))
    bus.subscribe(coroutine, Ping, middleware=(AsyncAroundCall(),), async_=False)
    assert len(bus.snapshot().listeners) == 4


def test_a_class_listener_with_invalid_options_is_not_registered() -> None:
    class Fine:
        event_name = "options.ping"

        def on_event(self, event: Ping) -> None: ...

    class Senseless(Fine):
        options = ListenerOptions(timeout=1)

    bus = make()
    with pytest.raises(ValueError, match=r"Senseless.*timeout"):
        bus.register_listener(Fine(), Senseless())
    assert bus.snapshot().listeners == ()


# -- defaults of the bus


@pytest.mark.parametrize("option", VALUES)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_default_that_does_not_fit_a_listener_is_left_out(kind: str, option: str) -> None:
    handler, options = KINDS[kind]
    ran: list[Ping] = []

    def note(event: Ping) -> None:
        ran.append(event)

    async def note_async(event: Ping) -> None:
        ran.append(event)

    default = ListenerOptions(**{option: VALUES[option]})
    async with make(listener=default) as bus:
        bus.subscribe(note if handler is plain else note_async, Ping, **options)
        (listener,) = bus.snapshot().listeners
        assert listener.inline == kind.startswith("inline")
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
        assert handle.errors == ()
    assert ran == [Ping(1)]


ALL_DEFAULTS = ListenerOptions(
    **{
        option: value
        for option, value in VALUES.items()
        if option not in ("once", "concurrency", "name")
    }
)


@pytest.mark.parametrize("kind", KINDS)
async def test_all_defaults_together_fit_every_listener(kind: str) -> None:
    handler, options = KINDS[kind]
    async with make(listener=ALL_DEFAULTS) as bus:
        bus.subscribe(handler, Ping, **options)
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
        assert handle.errors == ()


# A default, the explicit options of a listener, and the expected result.
AGAINST_DEFAULTS: list[tuple[dict[str, Any], Callable[[Ping], Any], dict[str, Any], bool]] = [
    ({"thread": True}, coroutine, {}, False),
    ({"thread": True}, coroutine, {"async_": False}, True),
    ({"thread": True}, plain, {}, False),
    ({"thread": True}, plain, {"async_": False}, True),
    ({"thread": True}, plain, {"thread": False}, True),
    ({"thread": True}, plain, {"thread": False, "priority": 1}, True),
    ({"async_": False}, coroutine, {}, True),
    ({"async_": False}, coroutine, {"async_": True}, False),
    ({"async_": False}, plain, {"thread": True}, False),
    ({"async_": False}, plain, {}, True),
    ({"async_": True}, plain, {}, False),
    ({"async_": True}, plain, {"async_": False}, True),
    ({"mailbox": 3, "overflow": "error"}, coroutine, {"async_": False}, True),
    ({"mailbox": 3, "overflow": "error"}, plain, {"async_": False}, True),
    ({"once": True}, coroutine, {"concurrency": 2}, False),
    ({"once": True}, coroutine, {"ordering_key": "n"}, False),
    ({"concurrency": 5}, coroutine, {"once": True}, False),
    ({"ordering_key": "n"}, coroutine, {"once": True}, False),
    ({"ordering_key": "n"}, coroutine, {"concurrency": 1}, False),
    ({"concurrency": 1}, coroutine, {"ordering_key": "n"}, False),
    ({"concurrency": 1}, coroutine, {"concurrency": 2, "ordering_key": "n"}, False),
    ({"async_": False}, coroutine, {"mailbox": 5}, False),
    ({"async_": False}, coroutine, {"overflow": "error"}, False),
    ({"timeout": 1.0}, plain, {"async_": True}, False),
    ({"middleware": (AsyncAroundCall(),)}, plain, {}, True),
]


@pytest.mark.parametrize(("default", "handler", "asked", "inline"), AGAINST_DEFAULTS)
async def test_explicit_options_win_over_contradicting_defaults(
    default: dict[str, Any], handler: Callable[[Ping], Any], asked: dict[str, Any], inline: bool
) -> None:
    async with make(listener=ListenerOptions(**default)) as bus:
        bus.subscribe(handler, Ping, **asked)
        (listener,) = bus.snapshot().listeners
        assert listener.inline is inline
        handle = await bus.dispatch(Ping(1))
        await handle.wait()
        assert handle.errors == ()


async def test_a_default_of_once_does_not_apply_to_a_listener_with_concurrency() -> None:
    async with make(listener=ListenerOptions(once=True)) as bus:
        bus.subscribe(coroutine, Ping, concurrency=2)
        await bus.dispatch(Ping())
        assert len(bus.snapshot().listeners) == 1


async def test_an_explicit_ordering_key_wins_over_a_default_concurrency_of_one() -> None:
    working = 0
    most = 0
    go = trio.Event()

    async with make(listener=ListenerOptions(concurrency=1)) as bus:

        @bus.listener(Ping, ordering_key="n")
        async def it(event: Ping) -> None:
            nonlocal working, most
            working += 1
            most = max(most, working)
            await go.wait()

        for n in range(4):
            await bus.dispatch(Ping(n))
        await wait_all_tasks_blocked()
        go.set()
    assert most == 4


async def test_none_leaves_an_option_to_the_default() -> None:
    async with make(listener=ListenerOptions(name="default", async_=True)) as bus:
        bus.subscribe(plain, Ping, async_=None, name=None)
        (listener,) = bus.snapshot().listeners
        assert (listener.name, listener.inline) == ("default", False)


async def test_the_options_of_a_class_listener_go_over_the_defaults() -> None:
    seen: list[str] = []

    class Named:
        event_name = "options.ping"
        options = ListenerOptions(async_=True)

        def on_event(self, event: Ping) -> None:
            seen.append(current_delivery().listener)

    async with make(listener=ListenerOptions(mailbox=7, name="default")) as bus:
        bus.register_listener(Named)
        await (await bus.dispatch(Ping())).wait()
    assert seen == [Named.__name__]


# -- the bus's own settings


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("close_timeout", -1),
        ("close_timeout", float("nan")),
        ("max_nesting", 0),
        ("max_nesting", 151),
        ("threads", 0),
        ("slow_after", 0),
    ],
)
def test_a_setting_out_of_range_is_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=setting):
        Config(**{setting: value})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("threads", True),
        ("threads", "4"),
        ("slow_after", "0.1"),
        ("close_timeout", "10"),
        ("max_nesting", "10"),
        ("max_nesting", 2.5),
        ("listener", {"async_": True}),
        ("middleware", 5),
        ("middleware", (AroundCall,)),
        ("middleware", (object(),)),
    ],
)
def test_a_setting_of_the_wrong_type_is_refused(setting: str, value: Any) -> None:
    with pytest.raises(TypeError):
        Config(**{setting: value})
