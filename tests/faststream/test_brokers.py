"""The table of brokers: which module serves a URL or a broker object, and what may be missing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from faststream.nats import NatsBroker
from tests.support.brokers import missing

from goevent import UnknownDriverError
from goevent_faststream import MAPPINGS, FastStreamDriver
from goevent_faststream._brokers import load_adapter_module, mapping_for_scheme


def test_objects_that_are_no_broker_or_address_are_refused() -> None:
    with pytest.raises(TypeError, match=r"FastStream's"):
        FastStreamDriver(object())
    with pytest.raises(TypeError, match="JStream"):
        FastStreamDriver(NatsBroker(logger=None), address="orders")
    with pytest.raises(UnknownDriverError, match="gopher"):
        mapping_for_scheme("gopher")


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("nats://localhost", "faststream", "nats"),
        ("nats://localhost", "nats", "nats"),
        ("nats+js://localhost?group=g", "nats", "nats"),
        ("amqp://localhost", "aio_pika", "rabbit"),
        ("kafka://localhost", "aiokafka", "kafka"),
        ("kafka+confluent://localhost", "confluent_kafka", "confluent"),
        ("mqtt://localhost", "zmqtt", "mqtt"),
    ],
)
def test_a_missing_package_and_its_extra_are_named(url: str, package: str, extra: str) -> None:
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from goevent import GoEvent\n"
        f"try: GoEvent({url!r})\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (line,) = ran.stdout.splitlines()
    assert line.startswith("DriverError")
    assert package in line
    assert line.endswith(f'pip install "goevent[{extra}]"')
    assert line.count("pip install") == 1


def test_every_row_of_the_table_has_its_module() -> None:
    for mapping in MAPPINGS:
        module = load_adapter_module(mapping)
        assert callable(module.make_broker)
        assert callable(module.make_adapter)


@pytest.mark.parametrize(
    ("required", "outcome"), [("1", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_missing_server_is_a_skip_or_a_failure(
    required: str, outcome: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOEVENT_REQUIRE_BROKERS", required)
    with pytest.raises(outcome, match="there is none"):
        missing("there is none")
