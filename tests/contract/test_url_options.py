"""The options of URLs: the same names for every scheme, and clear errors for all others."""

from __future__ import annotations

from dataclasses import fields

import pytest
from tests.support.redis_buses import REGISTRY, Paid, until
from tests.support.redis_server import redis_server

from goevent import Config, GoEvent, UnsupportedError
from goevent.drivers import DurableConfig
from goevent_faststream import MAPPINGS, BrokerConfig, FastStreamDriver, Mapping
from goevent_redis import RedisDriver, RedisStreamsDriver, StreamsConfig
from goevent_redis._link.config import URL_OPTIONS, RedisConfig
from goevent_redis._pubsub.driver import REFUSED_OPTIONS

SCHEMES = [
    "kafka+confluent",
    "redis",
    "rediss",
    "redis+streams",
    "nats",
    "nats+js",
    "amqp",
    "mqtt",
    "kafka",
]
VALUES = {
    "group": "billing",
    "prefetch": "7",
    "start": "latest",
    "max_deliveries": "2",
    "backoff": "0.25",
    "max_backoff": "4",
    "claim_idle": "20",
    "publish_timeout": "3",
    "prefix": "shop.",
}
DURABLE = ["redis+streams", "nats+js", "kafka", "kafka+confluent", "amqp"]


def settings_of(driver: object) -> tuple[DurableConfig, str | None]:
    if isinstance(driver, RedisStreamsDriver):
        return driver.streams, driver.config.channel_prefix
    assert isinstance(driver, FastStreamDriver)
    return driver.config, driver.config.prefix


@pytest.mark.parametrize("scheme", DURABLE)
def test_durable_schemes_read_each_option_alike(scheme: str) -> None:
    # The server of RabbitMQ itself notices that a bus is gone.
    options = {k: v for k, v in VALUES.items() if (scheme, k) != ("amqp", "claim_idle")}
    query = "&".join(f"{name}={text}" for name, text in options.items())
    config, prefix = settings_of(GoEvent(f"{scheme}://h:1?{query}").driver)
    assert (config.group, config.prefetch, config.start) == ("billing", 7, "latest")
    assert (config.max_deliveries, config.backoff, config.max_backoff) == (2, 0.25, 4.0)
    assert config.publish_timeout == 3.0
    assert prefix == "shop."
    if scheme != "amqp":
        assert config.claim_idle == 20.0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_has_the_option_prefix(scheme: str) -> None:
    driver = GoEvent(f"{scheme}://h:1?prefix=shop.").driver
    if isinstance(driver, RedisDriver):
        assert driver.config.channel_prefix == "shop."
    else:
        assert settings_of(driver)[1] == "shop."


@pytest.mark.parametrize("scheme", SCHEMES)
def test_unknown_option_is_an_error_that_suggests_and_lists(scheme: str) -> None:
    with pytest.raises(
        ValueError, match=r"unknown options: prefex.*did you mean 'prefix'"
    ) as caught:
        GoEvent(f"{scheme}://h:1?prefex=a")
    assert f"({scheme}:// has: " in str(caught.value)
    with pytest.raises(ValueError, match="unknown options: colour"):
        GoEvent(f"{scheme}://h:1?colour=red")


@pytest.mark.parametrize(
    ("scheme", "option"),
    [
        ("redis", "group=a"),
        ("redis", "max_deliveries=5"),
        ("redis", "partitions=8"),
        ("redis", "format=goevent"),
        ("redis+streams", "format=goevent"),
        ("redis+streams", "stream=a"),
        ("nats", "group=a"),
        ("nats", "backoff=0.5"),
        ("nats", "start=latest"),
        ("amqp", "max_deliveries=3"),
        ("amqp", "claim_idle=3&group=a"),
        ("mqtt", "max_deliveries=3&group=a"),
        ("mqtt", "stream=a"),
        ("kafka", "stream=a"),
        ("kafka+confluent", "stream=a"),
    ],
)
def test_option_that_a_scheme_cannot_honour_is_refused_with_the_reason(
    scheme: str, option: str
) -> None:
    name = option.partition("=")[0]
    with pytest.raises(UnsupportedError, match=f"cannot honour the option '{name}': .{{10}}"):
        GoEvent(f"{scheme}://h:1?{option}")


@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: mapping.title)
def test_setting_that_a_broker_cannot_honour_is_refused_in_a_config_too(mapping: Mapping) -> None:
    others = {"stream": "a", "group": "a", "start": "latest", "max_deliveries": 2, "backoff": 3.0}
    others |= {"max_backoff": 7.0, "claim_idle": 11.0}
    refused = mapping.refused
    for name in refused:
        with pytest.raises(UnsupportedError, match=f"cannot honour the setting '{name}'"):
            mapping.check(BrokerConfig(**{name: others[name]}))  # type: ignore[arg-type]
    mapping.check(BrokerConfig())


def test_pub_sub_refuses_every_option_of_streams_by_its_name() -> None:
    options = {field.name for field in fields(StreamsConfig)}
    assert options - REFUSED_OPTIONS.keys() == {"prefetch_bytes"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_has_the_option_prefetch_bytes(scheme: str) -> None:
    driver = GoEvent(f"{scheme}://h:1?prefetch_bytes=5000").driver
    config = driver.config if isinstance(driver, RedisDriver) else settings_of(driver)[0]
    assert config.prefetch_bytes == 5000
    for text in ("", "1.5", "many", "0", "-1"):
        with pytest.raises(ValueError, match="prefetch_bytes"):
            GoEvent(f"{scheme}://h:1?prefetch_bytes={text}")


@pytest.mark.parametrize("name", ["username", "password", "client_name", "prefix"])
def test_options_of_redis_are_decoded_once(name: str) -> None:
    field = {"prefix": "channel_prefix"}.get(name, name)
    assert getattr(RedisConfig(url=f"redis://h?{name}=50%2525"), field) == "50%25"
    assert name in URL_OPTIONS


@pytest.mark.parametrize(("scheme", "more"), [("redis", ""), ("redis+streams", "&group=a")])
async def test_buses_with_different_prefixes_do_not_meet(scheme: str, more: str) -> None:
    arrived: list[str] = []
    async with redis_server() as server:
        urls = [f"{scheme}://{server.addr}?prefix={each}:{more}" for each in "ab"]
        one, two = (GoEvent(Config(driver=url, registry=REGISTRY)) for url in urls)
        one.subscribe(lambda _: arrived.append("one"), Paid)
        two.subscribe(lambda _: arrived.append("two"), Paid)
        async with one, two:
            await (await one.dispatch(Paid(n=1))).wait()
            await until(lambda: arrived)
    assert arrived == ["one"]
