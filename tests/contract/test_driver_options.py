"""Options that the classes of a driver do not have are refused with a suggestion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from goevent_faststream import FastStreamDriver
from goevent_redis import Link, Pool, RedisConfig, RedisDriver, RedisStreamsDriver

UNKNOWN_OPTIONS: list[tuple[Callable[..., Any], str, str]] = [
    (RedisConfig, "adr", "RedisConfig has no option 'adr'; did you mean 'addr'?"),
    (
        RedisDriver,
        "addr",
        "RedisDriver has no option 'addr'; write RedisDriver(RedisConfig(addr=...))",
    ),
    (
        RedisStreamsDriver,
        "group",
        (
            "RedisStreamsDriver has no option 'group'; write "
            "RedisStreamsDriver(streams=StreamsConfig(group=...))"
        ),
    ),
    (
        FastStreamDriver,
        "group",
        (
            "FastStreamDriver has no option 'group'; write "
            "FastStreamDriver(config=BrokerConfig(group=...))"
        ),
    ),
    (Link, "confg", "Link has no option 'confg'; did you mean 'config'?"),
    (Pool, "pool_size", "Pool has no option 'pool_size'; write Pool(RedisConfig(pool_size=...))"),
]


@pytest.mark.parametrize(("make", "option", "message"), UNKNOWN_OPTIONS)
def test_an_unknown_option_is_refused_with_a_suggestion(
    make: Callable[..., Any], option: str, message: str
) -> None:
    with pytest.raises(TypeError) as caught:
        make(**{option: "x"})
    assert str(caught.value) == message


def test_a_redis_config_takes_its_options_by_keyword() -> None:
    make: Any = RedisConfig
    with pytest.raises(TypeError, match="by keyword only"):
        make("localhost:6379")
