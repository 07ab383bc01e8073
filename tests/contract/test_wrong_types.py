"""Every setting refuses values of a wrong type by itself, and names the setting.

A value that passes here would fail much later, in the middle of a dispatch. An error that Python
raises inside a check, such as "'<' not supported", does not say which setting is wrong.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goevent import (
    Config,
    Event,
    EventRegistry,
    GoEvent,
    JsonCodec,
    ListenerOptions,
    MemoryDriver,
    MemoryHub,
    MsgpackCodec,
    Retry,
    Supervision,
    register_event_type,
)
from goevent.middleware import Deduplicate, LogEvents, RateLimit
from goevent.testing import record

REGISTRY = EventRegistry()


class Paid(Event, name="wrong_types.paid", registry=REGISTRY):
    order: int = 0


class Plain:
    def __repr__(self) -> str:
        return "<Plain>"


def function(event: object) -> None: ...


VALUES: list[Any] = [
    *(None, True, -1, 0, 1.5, float("nan"), "x", "", b"x", [], {}, (), [1], ("a",), {"a": 1}),
    *(object(), Plain(), Plain, Paid, Paid(), function, REGISTRY, GoEvent(), Retry()),
]

# Each with the arguments that it needs.
SETTINGS: dict[Callable[..., Any], tuple[Any, ...]] = {
    Config: (),
    ListenerOptions: (),
    Retry: (),
    Supervision: (),
    JsonCodec: (),
    MsgpackCodec: (),
    MemoryHub: (),
    MemoryDriver: (),
    RateLimit: (1,),
    Deduplicate: ("order",),
    LogEvents: (),
}


def options_of(make: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(make).parameters
    return [name for name in parameters if name not in ("rate", "key")]


def refusals(call: Callable[[Any], Any]) -> Iterator[tuple[object, Exception]]:
    """Call a function with each value; yield those that it refuses, with the error."""
    for value in VALUES:
        try:
            call(value)
        except Exception as error:
            yield value, error


def check_refusals(call: Callable[[Any], Any], name: str) -> int:
    """Check each refusal; return how many there are."""
    count = 0
    for value, error in refusals(call):
        assert isinstance(error, TypeError | ValueError | LookupError), (value, error)
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        assert traceback is not None
        file = traceback.tb_frame.f_code.co_filename
        line = linecache.getline(file, traceback.tb_lineno).strip()
        assert line.startswith("raise "), (value, error, line)
        assert name in str(error), (value, error)
        count += 1
    return count


@pytest.mark.parametrize(
    ("make", "option"), [(make, option) for make in SETTINGS for option in options_of(make)]
)
def test_a_setting_refuses_wrong_types_itself_and_names_the_setting(
    make: Callable[..., Any], option: str
) -> None:
    refused = check_refusals(lambda value: make(*SETTINGS[make], **{option: value}), option)
    assert refused > len(VALUES) // 2


def test_functions_that_take_events_refuse_wrong_types_themselves() -> None:
    bus: Any = GoEvent(Config(registry=REGISTRY))
    untyped_register: Any = register_event_type
    untyped_event: Any = Event
    untyped_record: Any = record
    calls: list[Callable[[Any], Any]] = [
        bus.listener,
        lambda value: bus.listener(Paid)(value),
        lambda value: bus.subscribe(value, Paid),
        lambda value: bus.subscribe(function, value),
        bus.register_listener,
        bus.unregister_listeners_for_event,
        bus.on_error,
        lambda value: untyped_register(Plain, name=value, registry=REGISTRY),
        lambda value: untyped_register(value, name="wrong_types.x", registry=REGISTRY),
        lambda value: untyped_register(Plain, registry=value),
        lambda value: untyped_event(value),
        lambda value: untyped_event("a.b", value),
        REGISTRY.create,
        REGISTRY.payload_of,
        lambda value: REGISTRY.upcast(value, to=Paid),
        lambda value: REGISTRY.upcast(Paid, to=value),
        untyped_record,
    ]
    for call in calls:
        assert check_refusals(call, "") > len(VALUES) // 2, call


async def test_methods_of_an_open_bus_refuse_wrong_types_themselves() -> None:
    async with GoEvent(Config(registry=REGISTRY)) as opened:
        bus: Any = opened
        assert check_refusals(bus.dispatch_nowait, "event") > len(VALUES) // 2
