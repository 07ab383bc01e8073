"""Suggestions: an unknown name in an error message comes with the nearest known one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from goevent import (
    Config,
    EventRegistry,
    GoEvent,
    ListenerOptions,
    MemoryDriver,
    MemoryHub,
    MsgpackCodec,
    Retry,
    Supervision,
    register_event_type,
    upcast,
)
from goevent.drivers import DurableConfig, did_you_mean, suggest_options
from goevent.middleware import Deduplicate, LogEvents, RateLimit

NAMES = ("timeout", "thread", "mailbox", "retry", "priority", "order.paid", "Order.Sent")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("timout", "timeout"),
        ("Timeout", "timeout"),
        ("threads", "thread"),
        ("retries", "retry"),
        ("prio", "priority"),
        ("mail_box", "mailbox"),
        ("order_paid", "order.paid"),
        ("order.piad", "order.paid"),
        ("order.sent", "Order.Sent"),
    ],
)
def test_the_nearest_name_is_suggested(written: str, meant: str) -> None:
    assert did_you_mean(written, NAMES) == f"; did you mean {meant!r}?"


@pytest.mark.parametrize("written", ["", "colour", "x", "order.paid" * 20, 7, None])
def test_nothing_is_suggested_for_a_name_that_is_like_no_other(written: object) -> None:
    assert did_you_mean(written, NAMES) == ""


def test_only_some_names_are_compared() -> None:
    compared: list[int] = []

    def names() -> Any:
        for number in range(1_000_000):
            compared.append(number)
            yield f"name.{number}"

    did_you_mean("nothing like these", names())
    assert len(compared) < 10_000
    assert did_you_mean("ab" * 40, ["ab" * 40_000]) == ""


UNKNOWN_OPTIONS: list[tuple[Callable[..., Any], str, str]] = [
    (ListenerOptions, "timout", "ListenerOptions has no option 'timout'; did you mean 'timeout'?"),
    (Config, "drver", "Config has no option 'drver'; did you mean 'driver'?"),
    (Retry, "atempts", "Retry has no option 'atempts'; did you mean 'attempts'?"),
    (
        Supervision,
        "max_restart",
        "Supervision has no option 'max_restart'; did you mean 'max_restarts'?",
    ),
    (
        register_event_type,
        "nmae",
        "register_event_type has no option 'nmae'; did you mean 'name'?",
    ),
    (MemoryHub, "inboxes", "MemoryHub has no option 'inboxes'; did you mean 'inbox'?"),
    (MemoryDriver, "hubs", "MemoryDriver has no option 'hubs'; did you mean 'hub'?"),
    (MsgpackCodec, "maxsize", "MsgpackCodec has no option 'maxsize'; did you mean 'max_size'?"),
    (RateLimit, "brust", "RateLimit has no option 'brust'; did you mean 'burst'?"),
    (Deduplicate, "windows", "Deduplicate has no option 'windows'; did you mean 'window'?"),
    (LogEvents, "payloads", "LogEvents has no option 'payloads'; did you mean 'payload'?"),
    (
        Config,
        "retry",
        "Config has no option 'retry'; write Config(listener=ListenerOptions(retry=...))",
    ),
    (
        Config,
        "mailboxes",
        (
            "Config has no option 'mailboxes'; did you mean "
            "Config(listener=ListenerOptions(mailbox=...))?"
        ),
    ),
    (
        GoEvent,
        "close_timout",
        "GoEvent has no option 'close_timout'; did you mean GoEvent(Config(close_timeout=...))?",
    ),
    (EventRegistry, "stric", "EventRegistry has no option 'stric'; did you mean 'strict'?"),
    (upcast, "too", "upcast has no option 'too'; did you mean 'to'?"),
    (DurableConfig, "groups", "DurableConfig has no option 'groups'; did you mean 'group'?"),
]


@pytest.mark.parametrize(("make", "option", "message"), UNKNOWN_OPTIONS)
def test_an_unknown_option_is_refused_with_a_suggestion(
    make: Callable[..., Any], option: str, message: str
) -> None:
    with pytest.raises(TypeError) as caught:
        make(**{option: 3})
    assert str(caught.value) == message


def test_all_options_are_listed_if_none_is_near() -> None:
    make: Any = Retry
    with pytest.raises(TypeError) as caught:
        make(times=3)
    assert str(caught.value) == (
        "Retry has no option 'times'; its options are "
        "attempts, backoff, max_backoff, jitter, on, not_on"
    )


def test_options_that_go_by_keyword_say_so() -> None:
    make: Any = Retry
    with pytest.raises(TypeError) as caught:
        make(5)
    assert str(caught.value) == ("Retry takes its options by keyword only: Retry(attempts=...)")


def test_a_class_with_suggestions_is_otherwise_unchanged() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Plain:
        size: int = 1

    suggesting: Any = suggest_options(Plain)
    assert suggesting is Plain
    assert suggesting(size=2) == replace(suggesting(), size=2)
    assert str(inspect.signature(Config)).startswith("(*, driver: 'str | Driver' = 'memory', ")
