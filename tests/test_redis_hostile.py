"""Redis pub/sub and those who mean harm: every payload is delivered or reported, once."""

from __future__ import annotations

import logging
import random
import traceback
from typing import Any

import pytest
import trio
from redis import exceptions as redis_errors
from redis_buses import (
    Bus,
    Lost,
    Paid,
    bus_on,
    listening,
    numbers,
    opened,
    plain_link,
    sent,
    tls_contexts,
    until,
)
from redis_server import acl_user, fault_proxy, redis_server

from goevent import DriverConnectionError, DriverError, Event
from goevent_redis import RedisConfig, RedisDriver, RedisLinkError, TLSFailure, WrongPassword

SECRET = "s3cr3t-hunter2"

GOOD = (
    b'{"event_name":"order.paid","event_type":"order.paid","event_data":{"n":1,"text":"abc"},'
    b'"handle_id":"d2a38f019c9bfc61","timestamp":1795410955}'
)


def changed(old: bytes, new: bytes) -> bytes:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


DATA = b'{"n":1,"text":"abc"}'
HAND_MADE: list[bytes] = [
    b"", b" ", b"{", b"}", b"{}", b"[]", b"null", b"true", b"0", b'""', b"NaN", b"\x00", b"\xff",
    b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5_000, b"x" * 10_000_000, b'"' + b"a" * 100_000,
    GOOD[:-1], GOOD[:40], GOOD[1:], GOOD + b"x", GOOD + GOOD, GOOD + b"\x00",
    b"\xef\xbb\xbf" + GOOD,     GOOD.decode().encode("utf-16"), GOOD.decode().encode("utf-16-le"),
    GOOD.decode().encode("utf-32"), GOOD.replace(b"abc", b"\xff\xfe"),
    GOOD.replace(b"abc", b"\xed\xa0\x80"), GOOD.replace(b"abc", b"\xc0\x80"),
    GOOD.replace(b"abc", b"\\ud800"), GOOD.replace(b"abc", b"a\tb"),
    GOOD.replace(b"abc", b"a\x00b"),
    GOOD.replace(b"abc", b"x" * 10_000_000),
    changed(b'"n":1', b'"n":NaN'), changed(b'"n":1', b'"n":1e400'), changed(b'"n":1', b'"n":1.5'),
    changed(b'"n":1', b'"n":"1"'), changed(b'"n":1', b'"n":true'), changed(b'"n":1', b'"n":null'),
    changed(b'"n":1', b'"n":' + b"9" * 5_000), changed(b'"n":1', b'"n":9223372036854775808'),
    changed(b'"n":1', b'"n":' + b"[" * 100_000 + b"]" * 100_000),
    changed(DATA, b"[]"), changed(DATA, b'"{}"'), changed(DATA, b"7"), changed(DATA, b"null"),
    changed(DATA, b"{}"), changed(DATA, b'{"__class__":"os.system","n":2}'),
    changed(DATA, b'{"n":1,"__reduce__":["os.system","true"],"__dict__":{}}'),
    changed(b'"event_type":"order.paid"', b'"event_type":"no.such"'),
    changed(b'"event_type":"order.paid"', b'"event_type":"order.lost"'),
    changed(b'"event_type":"order.paid"', b'"event_type":null'),
    changed(b'"event_name":"order.paid"', b'"event_name":"order.lost"'),
    changed(b'"event_name":"order.paid"', b'"event_name":null'),
    changed(b'"event_name":"order.paid"', b'"event_name":"order.*"'),
    changed(b'"d2a38f019c9bfc61"', b"7"), changed(b'"d2a38f019c9bfc61"', b"null"),
    changed(b"1795410955", b"1.5"), changed(b"1795410955", b"1e9"), changed(b"1795410955", b'"x"'),
    changed(b"1795410955", b"9223372036854775808"), changed(b"1795410955", b"-1"),
    changed(b"1795410955", b'1,"seq":"1"'), changed(b"1795410955", b'1,"origin":7'),
    changed(b"1795410955", b'1,"headers":[]'), changed(b"1795410955", b'1,"headers":{"a":1}'),
    changed(b"1795410955", b'1,"__class__":"x"'),
    changed(b"1795410955", b'1,"Event_Name":"order.lost"'),
    changed(b"1795410955", b'1,"seq":99999999999999999999'),
    b"*3\r\n$7\r\nPUBLISH\r\n", b"\x80\x04\x95cposix\nsystem\n",
]  # fmt: skip

TOKENS = [
    b"null", b"NaN", b"1e400", b"{", b"}", b"[", b"]", b'"', b"\\", b"\\ud800", b"\xff", b"\x00",
    b"\r\n", b",", b":", b"-", b"9" * 30, b"true", b"\xef\xbb\xbf", b'"__class__":1,', b"*",
]  # fmt: skip


def mutant(chance: random.Random) -> bytes:
    """Return a payload that was good before something happened to it, once or more."""
    data = bytearray(GOOD)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        at = chance.randrange(len(data) + 1)
        to = min(len(data), at + chance.randrange(1, 12))
        match chance.randrange(6):
            case 0:
                data[at:to] = b""
            case 1:
                data[at:at] = chance.choice(TOKENS)
            case 2:
                data[at:to] = chance.randbytes(to - at)
            case 3:
                data[at:at] = data[chance.randrange(len(data) + 1) :]
            case 4:
                del data[at:]
            case _:
                data[at:to] = chance.choice(TOKENS)
    return bytes(data)


async def expect_all_told(payloads: list[bytes], where: str = "order.paid") -> None:
    async with redis_server() as server:
        bus = bus_on(server)
        seen = bus.seen(where)
        async with bus, plain_link(server) as link:
            for start in range(0, len(payloads), 50):
                await link.pipeline(
                    [("PUBLISH", "goevent:order.paid", p) for p in payloads[start : start + 50]]
                )
            await link.execute("PUBLISH", "goevent:order.paid", changed(b'"n":1', b'"n":4242'))
            await until(lambda: seen and seen[-1].n == 4242, 60)
            assert len(seen) - 1 + bus.error_count == len(payloads)
            assert all(type(event) is Paid for event in seen)
            assert bus.snapshot().state == "open"
        assert all(error.event_name == "order.paid" for error in bus.told)
        assert "DecodeError" in {error.reason.split(":")[0] for error in bus.told}


async def test_hand_made_payloads_are_delivered_or_reported() -> None:
    assert len(HAND_MADE) >= 60
    await expect_all_told(HAND_MADE)


async def test_hand_made_payloads_by_a_pattern_are_delivered_or_reported() -> None:
    await expect_all_told(HAND_MADE, "**")


async def test_five_thousand_mutants_are_delivered_or_reported() -> None:
    chance = random.Random(4)
    await expect_all_told([mutant(chance) for _ in range(5_000)])


async def test_an_event_of_another_name_than_its_channel_reaches_nobody() -> None:
    async with redis_server() as server:
        bus = bus_on(server)
        seen, lost = bus.seen(Paid), bus.seen(Lost)
        async with bus, plain_link(server) as link:
            forged = changed(b'"event_type":"order.paid"', b'"event_type":"order.lost"')
            await link.execute("PUBLISH", "goevent:order.paid", forged)
            await link.execute("PUBLISH", "goevent:order.paid", GOOD)
            await until(lambda: seen)
        assert numbers(seen) == [1]
        assert lost == []
        (error,) = bus.told
        assert "of the type 'order.lost'" in str(error)


async def test_a_refused_payload_with_a_number_is_no_gap_besides() -> None:
    async with redis_server() as server:
        bus = bus_on(server)
        seen = bus.seen(Paid)
        async with bus, plain_link(server) as link:
            for seq, n in ((1, "1"), (2, '"bad"'), (3, "3")):
                extra = f'1,"origin":"{"a" * 32}","seq":{seq}'.encode()
                data = changed(b"1795410955", extra).replace(b'"n":1', f'"n":{n}'.encode())
                await link.execute("PUBLISH", "goevent:order.paid", data)
            await until(lambda: len(seen) == 2)
        assert len(bus.told) == 1
        assert bus.missing() == 0


async def test_channels_that_are_no_event_names_bring_nothing() -> None:
    names = [
        b"",
        b".",
        b"a..b",
        b"a b",
        b"a\r\nb",
        b"a\x00b",
        b"\xff\xfe",
        b"a*",
        b"$marks2",
        b"x" * 300,
    ]
    async with redis_server() as server:
        bus = bus_on(server)
        seen = bus.seen("**")
        async with bus, plain_link(server) as link:
            for name in names:
                await link.execute("PUBLISH", b"goevent:" + name, GOOD)
            await link.execute("PUBLISH", "goevent:order.paid", GOOD)
            await until(lambda: seen)
        assert numbers(seen) == [1]
        assert all("DecodeError" in str(error) for error in bus.told)


async def test_names_that_could_hurt_never_reach_the_broker() -> None:
    bad = ["a*", "a?b", "a[b]", "a\r\nb", "a\x00b", "a b", "", "a..b", "$marks", "é", "a.*"]
    async with redis_server() as server:
        bus = bus_on(server)
        payloads: list[bytes] = []
        async with bus, plain_link(server) as link, listening(server, payloads):
            await link.execute("CONFIG", "SET", "slowlog-log-slower-than", "0")
            for name in bad:
                with pytest.raises(ValueError, match=r"name|pattern"):
                    await bus.dispatch(Event(name, {}))
                if name != "a.*":
                    with pytest.raises(ValueError, match=r"name|pattern"):
                        bus.subscribe(print, name)
            await bus.ready()
            await sent(bus, Paid(n=1))
            await until(lambda: payloads)
            log = await link.execute("SLOWLOG", "GET", "-1")
            commands = [[bytes(arg) for arg in entry[3]] for entry in log]
            assert [args[1] for args in commands if args[0] == b"PUBLISH"] == [
                b"goevent:order.paid"
            ]
            assert not [args for args in commands if args[0].endswith(b"SUBSCRIBE")]


# -- who is let in


def everything_said(error: BaseException, caplog: pytest.LogCaptureFixture, *others: Any) -> str:
    """Return all texts in which a password might show."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    chain: list[str] = []
    link: BaseException | None = error
    while link is not None:
        chain += [str(link), repr(link), repr(link.args)]
        link = link.__cause__ or link.__context__
    return "\n".join(["".join(told.format()), caplog.text, *chain, *map(repr, others)])


async def refused(bus: Bus, caplog: pytest.LogCaptureFixture) -> DriverError:
    caplog.set_level(logging.DEBUG)
    bus.seen(Paid)
    with pytest.raises(DriverError) as caught:
        async with bus:
            raise AssertionError("it was let in")
    said = everything_said(caught.value, caplog, bus, bus.driver, bus.driver.config)
    assert SECRET not in said
    return caught.value


async def test_a_wrong_password_is_a_typed_error(caplog: pytest.LogCaptureFixture) -> None:
    rules = acl_user("events", "right", "+@all", "&*")
    async with redis_server(rules) as server:
        for bus in (
            bus_on(server, username="events", password=SECRET),
            Bus(RedisDriver.from_url(f"redis://events:{SECRET}@{server.addr}/0")),
        ):
            error = await refused(bus, caplog)
            assert isinstance(error, DriverConnectionError)
            assert isinstance(error.__cause__, WrongPassword)
            assert server.addr in str(error)


async def test_a_password_that_is_wanted_and_not_given(caplog: pytest.LogCaptureFixture) -> None:
    async with redis_server(f"requirepass {SECRET}") as server:
        error = await refused(bus_on(server), caplog)
        assert isinstance(error.__cause__, WrongPassword)
        async with bus_on(server, password=SECRET) as bus:
            assert SECRET not in repr(bus.driver.config)


@pytest.mark.parametrize(
    "rules", [("+@all", "resetchannels"), ("+@all", "-subscribe", "&*"), ("+@all", "&goevent:x")]
)
async def test_a_missing_right_is_a_typed_error(
    rules: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    async with redis_server(acl_user("events", SECRET, *rules)) as server:
        error = await refused(bus_on(server, username="events", password=SECRET), caplog)
        assert isinstance(error.__cause__, redis_errors.NoPermissionError)
        assert "the user needs" in str(error)


async def test_a_missing_right_to_publish_is_on_the_handle() -> None:
    rules = acl_user("events", "pw", "+@all", "-publish", "&*")
    async with (
        redis_server(rules) as server,
        bus_on(server, username="events", password="pw") as bus,
    ):
        handle = await sent(bus, Paid())
        (error,) = handle.errors
        assert isinstance(error.__cause__, DriverError)
        assert "the user needs" in str(error)


async def test_a_self_signed_certificate_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    context, _ = tls_contexts()
    async with redis_server() as server, fault_proxy(server.port, context) as proxy:
        url = f"rediss://user:{SECRET}@localhost:{proxy.port}"
        error = await refused(Bus(RedisDriver.from_url(url)), caplog)
        assert isinstance(error.__cause__, TLSFailure)
        assert "certificate" in str(error)


async def test_a_plain_server_behind_rediss_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with redis_server() as server:
        url = f"rediss://user:{SECRET}@{server.addr}"
        config = RedisConfig(url=url, dial_timeout=1.0)
        with trio.fail_after(10):
            error = await refused(Bus(RedisDriver(config)), caplog)
        assert isinstance(error.__cause__, TLSFailure)
        assert "without TLS" in str(error)


async def test_nobody_there_is_a_typed_error(caplog: pytest.LogCaptureFixture) -> None:
    async with redis_server() as server:
        server.kill()
        error = await refused(bus_on(server, password=SECRET), caplog)
        assert isinstance(error, DriverConnectionError)
        assert isinstance(error.__cause__, RedisLinkError)


async def test_a_password_that_is_changed_while_connected_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rules = acl_user("events", SECRET, "+@all", "&*")
    async with redis_server(rules) as server, fault_proxy(server.port) as proxy:
        bus = Bus(RedisDriver(RedisConfig(addr=proxy.addr, username="events", password=SECRET)))
        async with opened(bus), plain_link(server) as link:
            await link.execute("ACL", "SETUSER", "events", "resetpass", ">new")
            proxy.reset()
            await until(lambda: bus.says("refuses the user name"))
            await link.execute("ACL", "SETUSER", "events", f">{SECRET}")
            await until(lambda: bus.says("connected to Redis again"))
        assert bus.says("refuses the user name") == 1
        for error in bus.told:
            assert SECRET not in everything_said(error, caplog) + error.details


def test_a_url_that_cannot_be_read_does_not_show_its_password() -> None:
    for url in (
        f"redis://u:{SECRET}@host:port",
        f"redis://u:{SECRET}/#@host",
        f"http://:{SECRET}@h",
    ):
        with pytest.raises(ValueError, match="url") as caught:
            RedisDriver.from_url(url)
        told = traceback.TracebackException.from_exception(caught.value)
        assert SECRET not in "".join(told.format())
