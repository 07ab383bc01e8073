"""The settings of the driver, and the options of its URLs."""

from __future__ import annotations

import math

import pytest

from goevent_faststream import BrokerConfig, FastStreamDriver


def test_options_of_the_url_become_fields_of_the_config() -> None:
    driver = FastStreamDriver.from_url(
        "nats+js://host:1?group=billing&prefetch=7&start=latest&backoff=0.1&max_deliveries=2"
    )
    assert driver.config == BrokerConfig(
        group="billing",
        prefetch=7,
        start="latest",
        backoff=0.1,
        max_deliveries=2,
    )
    assert driver.capabilities.durable
    assert not FastStreamDriver.from_url("nats://").capabilities.durable


@pytest.mark.parametrize(
    "url",
    [
        "nats://h?group=a",
        "nats+js://h?group=a&group=b",
        "nats+js://h?prefetch=none",
        "nats+js://h?max_deliveries=0",
        "nats+js://h?group=a b",
        "nats+js://h?publish_timeout=60",
        "nats+js://h?backoff=-1",
        "nats+js://h?start=2024-01-01",
    ],
)
def test_malformed_options_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"must be|no groups|twice|no sense|at most|time zone"):
        FastStreamDriver.from_url(url)


def test_pause_doubles_up_to_its_limit() -> None:
    config = BrokerConfig(backoff=0.5, max_backoff=3.0)
    assert [config.pause(n) for n in (1, 2, 3, 4, 1000)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert not math.isinf(config.pause(10_000))
