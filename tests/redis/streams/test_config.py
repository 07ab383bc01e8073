"""The fields of StreamsConfig, and their options in a URL."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from goevent import GoEvent, UnsupportedError
from goevent_redis import RedisConfig, RedisStreamsDriver, StreamsConfig

SECRET = "tops3cret"


def test_url_sets_every_field() -> None:
    url = (
        f"redis+streams://app:{SECRET}@example.org:7000/3?group=billing&consumer=worker-1"
        "&prefetch=50&start=2026-01-02T03:04:05%2B00:00&max_deliveries=3&backoff=0.25"
        "&max_backoff=2&claim_idle=10&publish_timeout=4&deduplicate=60&retention=acked"
        "&maxlen=1000&max_age=3600&ordered=false&partitions=1&client_name=me"
    )
    driver = RedisStreamsDriver.from_url(url)
    assert driver.streams == StreamsConfig(
        group="billing",
        consumer="worker-1",
        prefetch=50,
        start=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        max_deliveries=3,
        backoff=0.25,
        max_backoff=2.0,
        claim_idle=10.0,
        publish_timeout=4.0,
        deduplicate=60.0,
        retention="acked",
        maxlen=1000,
        max_age=3600.0,
    )
    said = driver.config
    assert (said.addr, said.db, said.username) == ("example.org:7000", 3, "app")
    assert (said.password, said.client_name) == (SECRET, "me")
    assert SECRET not in repr(driver.config) + repr(driver.streams)


@pytest.mark.parametrize(
    ("scheme", "where"),
    [
        ("redis+streams://localhost:1?group=a", "localhost:1"),
        ("rediss+streams://localhost:1?group=a", "localhost:1"),
        ("unix+streams:///tmp/redis.sock?group=a", "unix:/tmp/redis.sock"),
    ],
)
def test_schemes_are_found_by_the_bus(scheme: str, where: str) -> None:
    bus = GoEvent(scheme)
    driver = RedisStreamsDriver.from_url(scheme)
    assert driver.config.where() == where
    assert driver.streams.group == "a"
    assert bool(driver.config.tls) == scheme.startswith("rediss")
    assert "GoEvent" in repr(bus)


def test_bare_scheme_means_all_defaults() -> None:
    driver = RedisStreamsDriver.from_url("redis+streams")
    assert driver.streams == StreamsConfig()
    assert driver.config.addr == RedisConfig().addr


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("prefetch=many", "prefetch .* makes no sense: 'many'"),
        ("prefetch=0", "prefetch must be a whole number of at least 1"),
        ("group=", "group must be letters"),
        ("group=a b", "group must be letters"),
        ("group=a&group=b", "the option group twice"),
        ("start=tomorrow", "start .* makes no sense"),
        ("start=2026-01-02T03:04:05", "needs a time zone"),
        ("claim_idle=-1", "claim_idle must be a number of seconds above 0"),
        ("claim_idle=nan", "claim_idle must be"),
        ("retention=some", 'must be "all" or "acked"'),
        ("ordered=perhaps", "ordered .* makes no sense"),
        ("maxlen=0", "maxlen must be"),
        ("partitions=0", "partitions must be a whole number"),
        ("partitions=1025", "partitions must be at most 1024"),
        ("max_age=0", "max_age must be"),
        ("colour=red", "unknown options: colour"),
    ],
)
def test_bad_options_of_a_url_are_clear_errors_without_the_password(query: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        RedisStreamsDriver.from_url(f"redis+streams://app:{SECRET}@localhost/0?{query}")
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in repr(error)
        error = error.__cause__ or error.__context__


def test_order_is_refused_without_partitions() -> None:
    with pytest.raises(UnsupportedError, match="there is no order"):
        StreamsConfig(ordered=True)


@pytest.mark.parametrize("query", ["partitions=8", "partitions=8&ordered=true"])
def test_partitions_allow_order(query: str) -> None:
    driver = RedisStreamsDriver.from_url(f"redis+streams://localhost?group=a&{query}")
    assert driver.streams.partitions == 8
    assert driver.capabilities.ordered


def test_options_in_the_url_and_a_config_are_refused_together() -> None:
    with pytest.raises(ValueError, match="in the URL and in"):
        RedisStreamsDriver("redis+streams://localhost?group=a", StreamsConfig(group="b"))
    driver = RedisStreamsDriver("redis+streams://localhost", StreamsConfig(group="b"))
    assert driver.streams.group == "b"
    assert driver.capabilities.durable
    assert driver.capabilities.replay
    assert not driver.capabilities.ordered
    assert not driver.capabilities.fan_out


def test_pauses_double_up_to_a_limit() -> None:
    config = StreamsConfig(backoff=1.0, max_backoff=5.0, claim_idle=3.0)
    assert [config.pause(n) for n in (1, 2, 3, 100)] == [1.0, 2.0, 3.0, 3.0]
