"""RedisConfig: the fields, the URL, and that no text of them shows a password."""

from __future__ import annotations

import dataclasses
import math
import ssl
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import trustme

from goevent_redis._link.config import RedisConfig

SECRET = "s3cr3t-p4ss"


def test_defaults_are_those_of_the_go_library() -> None:
    config = RedisConfig()
    assert config.addr == "localhost:6379"
    assert (config.password, config.db, config.tls) == (None, 0, None)
    assert config.channel_prefix == "goevent:"
    assert config.max_event_size == 1 << 20
    assert (config.pool_size, config.min_idle_conns) == (10, 0)
    assert (config.dial_timeout, config.read_timeout, config.write_timeout) == (5.0, 3.0, 3.0)
    assert config.ssl_context() is None


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("redis://", {"addr": "localhost:6379"}),
        ("redis://example.org", {"addr": "example.org:6379", "db": 0}),
        ("redis://example.org:7000/5", {"addr": "example.org:7000", "db": 5}),
        ("redis://[::1]:7000", {"addr": "[::1]:7000"}),
        ("redis://u:p%23%2F@h", {"username": "u", "password": "p#/", "addr": "h:6379"}),
        ("redis://:p@h?db=3", {"username": None, "password": "p", "db": 3}),
        ("redis://h?client_name=me", {"client_name": "me"}),
        ("redis://h", {"prefetch_bytes": 32 << 20}),
        ("redis://h?prefetch_bytes=1000", {"prefetch_bytes": 1000}),
        ("rediss://h", {"addr": "h:6379", "tls": True}),
        ("unix:///run/redis.sock?db=2", {"path": "/run/redis.sock", "db": 2, "tls": None}),
        ("unix://u:p@/run/redis.sock", {"username": "u", "password": "p"}),
    ],
)
def test_url_fills_the_fields(url: str, fields: dict[str, Any]) -> None:
    config = RedisConfig(url=url)
    assert {name: getattr(config, name) for name in fields} == fields


def test_url_and_fields_may_agree() -> None:
    config = RedisConfig(url="redis://u:p@h:1/2", addr="h:1", db=2, username="u", password="p")
    assert config == RedisConfig(url="redis://u:p@h:1/2")
    assert RedisConfig(url="redis://h", db=3).db == 3
    assert RedisConfig(url="redis://u@h", password=SECRET).password == SECRET
    context = ssl.create_default_context()
    assert RedisConfig(url="rediss://h", tls=context).ssl_context() is context


@pytest.mark.parametrize(
    ("url", "fields", "field"),
    [
        ("redis://h:1", {"addr": "h:2"}, "addr"),
        ("redis://h/1", {"db": 2}, "db"),
        ("redis://h/1", {"db": 0}, "db"),
        ("redis://u@h", {"username": "v"}, "username"),
        ("redis://:p@h", {"password": SECRET}, "password"),
        ("redis://h", {"path": "/run/redis.sock"}, "path"),
        ("unix:///a", {"path": "/b"}, "path"),
        ("unix:///a", {"addr": "h:1"}, "addr"),
        ("rediss://h", {"tls": False}, "tls"),
        ("redis://h", {"tls": True}, "tls"),
        ("redis://h?client_name=a", {"client_name": "b"}, "client_name"),
    ],
)
def test_url_and_fields_that_contradict_each_other_are_refused(
    url: str, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        RedisConfig(url=url, **fields)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"http://:{SECRET}@h",
        f"redis://:{SECRET}#x@h",
        f"redis://:{SECRET}/x@h:y",
        f"redis://u:{SECRET}@h:port",
        f"redis://u:{SECRET}@h:0",
        f"redis://u:{SECRET}@h:99999",
        f"redis://u:{SECRET}@h/notanumber",
        f"redis://u:{SECRET}@h?db=x",
        f"redis://u:{SECRET}@h?nonsense={SECRET}",
        f"redis://u:{SECRET}@[::1",
        f"redis://u:{SECRET}@h#fragment",
        f"rediss://u:{SECRET}@h?ssl_cert_reqs=maybe",
        f"rediss://u:{SECRET}@h?ssl_magic=1",
        f"redis://u:{SECRET}@h?ssl_cert_reqs=none",
        f"unix://u:{SECRET}@",
        f"unix://u:{SECRET}@?password={SECRET}",
        "",
        "localhost:6379",
    ],
)
def test_urls_that_cannot_be_read_are_refused_without_quoting_them(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        RedisConfig(url=url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


def test_password_is_never_shown() -> None:
    by_field = RedisConfig(password=SECRET, username="u")
    by_url = RedisConfig(url=f"redis://u:{SECRET}@h")
    for config in (by_field, by_url):
        assert SECRET not in repr(config) + str(config) + f"{config}" + config.where()


@pytest.mark.parametrize(
    "fields",
    [
        {"addr": "h"},
        {"addr": ":1"},
        {"addr": "h:"},
        {"addr": "h:0"},
        {"addr": "h:65536"},
        {"addr": "h:x"},
        {"addr": "::1:6379"},
        {"addr": "a b:1"},
        {"db": -1},
        {"db": True},
        {"db": "1"},
        {"max_event_size": 0},
        {"pool_size": 0},
        {"pool_size": 1.5},
        {"min_idle_conns": -1},
        {"min_idle_conns": 11},
        {"dial_timeout": 0},
        {"read_timeout": -1},
        {"write_timeout": math.nan},
        {"write_timeout": "3"},
        {"read_timeout": True},
        {"channel_prefix": "a\r\nb"},
        {"channel_prefix": b"a"},
        {"username": "a\0"},
        {"password": 5},
        {"client_name": "a b"},
        {"client_name": "ä"},
        {"tls": "yes"},
        {"tls": True, "path": "/run/redis.sock"},
        {"addr": "h:1", "path": "/run/redis.sock"},
        {"max_event_size": 1 << 26},
        {"max_reply_size": 0},
    ],
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="|".join(fields)):
        RedisConfig(**fields)


def test_limits_may_be_infinite_and_fields_replaced() -> None:
    config = RedisConfig(url="redis://h", read_timeout=math.inf)
    assert dataclasses.replace(config, db=4).db == 4
    assert dataclasses.replace(RedisConfig(path="/a"), db=4).path == "/a"
    with_options = RedisConfig(url="rediss://h?ssl_cert_reqs=none")
    assert dataclasses.replace(with_options, db=4).tls is with_options.tls
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.db = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_true_means_a_context_that_verifies() -> None:
    context = RedisConfig(tls=True).ssl_context()
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_tls_options_of_a_url_make_a_context(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("me")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "me.pem"))
    context = RedisConfig(
        url=f"rediss://h?ssl_ca_certs={tmp_path}/ca.pem&ssl_certfile={tmp_path}/me.pem"
        "&ssl_check_hostname=false"
    ).ssl_context()
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert not context.check_hostname
    careless = RedisConfig(url="rediss://h?ssl_cert_reqs=none").ssl_context()
    assert careless is not None
    assert careless.verify_mode is ssl.CERT_NONE


def test_without_the_redis_package_a_bus_says_what_to_install() -> None:
    # By `argv`: since Python 3.13, a traceback shows the lines of such a program.
    program = """
import sys, traceback
sys.modules["redis"] = None
from goevent import DriverError, GoEvent
try:
    GoEvent(sys.argv[1])
except DriverError:
    traceback.print_exc(file=sys.stdout)
"""
    command = [sys.executable, "-c", program, f"redis://u:{SECRET}@h"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, last_line = done.stdout.splitlines()
    assert last_line.count('pip install "goevent[redis]"') == 1
    assert SECRET not in done.stdout
