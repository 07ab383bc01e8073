"""Redis pub/sub and hostile payloads: each one is delivered or reported, once."""

from __future__ import annotations

import random

import pytest
from tests.support.redis_buses import (
    Bus,
    OrderLost,
    Paid,
    bus_on,
    listening,
    numbers,
    plain_link,
    sent,
    until,
)
from tests.support.redis_resp import PythonReader
from tests.support.redis_server import redis_server

from goevent import DecodeError, Event, GapDetected

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


def mutant(chance: random.Random, good: bytes = GOOD) -> bytes:
    """Return a valid payload with one or more random changes."""
    data = bytearray(good)
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


async def expect_all_told(payloads: list[bytes], where: str = "order.paid") -> Bus:
    """Send payloads; check that each is delivered or refused, and that the next one arrives."""
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
            refused = [error for error in bus.errors if "GapDetected" not in error.reason]
            assert len(seen) - 1 + len(refused) == len(payloads)
            assert all(type(event) is Paid for event in seen)
            assert bus.snapshot().state == "open"
        assert all(error.event_name == "order.paid" for error in bus.told)
        assert {error.reason.split(":")[0] for error in refused} == {"DecodeError"}
    return bus


async def test_hand_made_payloads_are_delivered_or_reported() -> None:
    assert len(HAND_MADE) >= 60
    await expect_all_told(HAND_MADE)


async def test_hand_made_payloads_by_a_pattern_are_delivered_or_reported() -> None:
    await expect_all_told(HAND_MADE, "**")


async def test_five_thousand_mutants_are_delivered_or_reported() -> None:
    chance = random.Random(4)
    await expect_all_told([mutant(chance) for _ in range(5_000)])


@pytest.mark.parametrize("seed", range(2))
async def test_mutants_of_this_librarys_payloads_are_delivered_or_reported(seed: int) -> None:
    """With all keys that this library sends; a changed number may also be reported as a gap."""
    chance = random.Random(seed)
    ours = (
        f'1,"origin":"{"a" * 32}","seq":1,"reply_to":"r","headers":{{"traceparent":"00-ab-cd-01"}}'
    )
    good = changed(b"1795410955", ours.encode())
    bus = await expect_all_told([mutant(chance, good) for _ in range(2_500)])
    assert bus.causes(GapDetected)


async def test_mutants_of_marks_are_reported_and_do_no_harm() -> None:
    chance = random.Random(6)
    good = f'{{"origin":"{"a" * 32}","marks":{{"order.paid":7,"order.lost":1}}}}'.encode()
    payloads = [mutant(chance, good) for _ in range(1_000)]
    async with redis_server() as server:
        bus = bus_on(server)
        seen = bus.seen(Paid)
        async with bus, plain_link(server) as link:
            for start in range(0, len(payloads), 50):
                await link.pipeline(
                    [("PUBLISH", "goevent:$marks", p) for p in payloads[start : start + 50]]
                )
                await link.execute("PUBLISH", "goevent:order.paid", GOOD)
            await until(lambda: len(seen) == 20, 60)
        assert len(bus.causes(DecodeError)) > 100
        assert bus.missing() == 0  # the origin is unknown, so there is no baseline


@pytest.mark.parametrize("where", ["order.paid", "**"])
async def test_hand_made_payloads_are_delivered_or_reported_with_the_python_reader(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goevent_redis._link.connection.ReplyReader", PythonReader)
    await expect_all_told(HAND_MADE, where)


async def test_an_event_of_another_name_than_its_channel_reaches_nobody() -> None:
    async with redis_server() as server:
        bus = bus_on(server)
        seen, lost = bus.seen(Paid), bus.seen(OrderLost)
        async with bus, plain_link(server) as link:
            forged = changed(b'"event_type":"order.paid"', b'"event_type":"order.lost"')
            await link.execute("PUBLISH", "goevent:order.paid", forged)
            await link.execute("PUBLISH", "goevent:order.paid", GOOD)
            await until(lambda: seen)
        assert numbers(seen) == [1]
        assert lost == []
        (error,) = bus.told
        assert "of the type 'order.lost'" in str(error)


async def test_a_refused_payload_with_a_number_is_no_gap() -> None:
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


async def test_channels_without_an_event_name_are_ignored() -> None:
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


async def test_harmful_names_never_reach_the_broker() -> None:
    bad = ["a*", "a?b", "a[b]", "a\r\nb", "a\x00b", "a b", "", "a..b", "$marks", "é", "a.*"]
    async with redis_server() as server:
        bus = bus_on(server)
        payloads: list[bytes] = []
        async with bus, plain_link(server) as link, listening(server, payloads):
            await link.execute("CONFIG", "SET", "slowlog-log-slower-than", "0")
            for name in bad:
                with pytest.raises(ValueError, match=r"name|pattern"):
                    await bus.dispatch(Event(name, {}))
                with pytest.raises(ValueError, match=r"name|pattern"):
                    bus.dispatch_nowait(Event(name, {}))
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
