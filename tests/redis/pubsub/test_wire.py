"""Bytes on the wire: the Go library's are received, and its reader accepts these."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from tests.support.redis_buses import listening, opened, plain_link, until
from tests.support.redis_server import redis_server
from tests.wire.test_go import RECORDED, REGISTRY, PlainEvent, UserCreated

from goevent import Config, DispatchHandle, Event, GoEvent, JsonCodec
from goevent_redis import RedisConfig, RedisDriver

KEYS = ["event_name", "event_type", "event_data", "handle_id", "timestamp"]
OURS = ["origin", "seq", "reply_to", "headers"]
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d*[1-9])?(Z|[+-]\d\d:\d\d)")


def go_bus(addr: str, **options: Any) -> GoEvent:
    driver = RedisDriver(RedisConfig(addr=addr))
    return GoEvent(Config(driver=driver, registry=REGISTRY, slow_after=None, **options))


async def test_events_published_by_go_are_received() -> None:
    async with redis_server() as server:
        bus = go_bus(server.addr)
        seen: list[Any] = []
        bus.subscribe(seen.append, UserCreated, PlainEvent)
        by_pattern: list[Any] = []
        bus.subscribe(by_pattern.append, "*.*")
        async with bus, plain_link(server) as link:
            for record in RECORDED:
                assert await link.execute("PUBLISH", record["channel"], record["payload"]) == 2
            await until(lambda: len(seen) == len(by_pattern) == len(RECORDED))
            assert not bus.errors
        codec = JsonCodec()
        for event, record in zip(seen, RECORDED, strict=True):
            name = record["channel"].removeprefix("goevent:")
            data = record["payload"].encode()
            assert event == codec.decode(data, event_name=name, registry=REGISTRY).event
        assert by_pattern == seen


class OddHeaders:
    def around_dispatch(self, handle: DispatchHandle) -> Any:
        if isinstance(handle.event, UserCreated):
            handle.headers["trace"] = "<&>\u2028"
        yield


def user(**fields: Any) -> UserCreated:
    values: dict[str, Any] = {
        "seq": 1, "user_id": "u", "email": "e", "name": "n", "big": 0,
        "created_at": datetime(2024, 2, 29, 12, 34, 56, 789000, UTC),
        "tags": None, "meta": None, "nick": None,
    }  # fmt: skip
    return UserCreated(**{**values, **fields})


SENT: list[Event] = [
    user(),
    user(name='Zoë 日本 😀 \u2028\u2029 <b>&"\\/\t\x00\x01 \x7f\ufffd', tags=[], meta={}),
    user(big=2**63 - 1, seq=-(2**63)),
    user(created_at=datetime(1, 1, 1, tzinfo=UTC)),
    user(created_at=datetime(2024, 1, 1, 1, 1, 1, 123456, timezone(timedelta(hours=7)))),
    user(tags=["a", ""], meta={"f": 1.5, "list": [1, None, {"x": {}}], "": True}, nick=""),
    user(email="x" * 100_000),
    PlainEvent(UserID="u", Count=3),
]


async def test_published_events_satisfy_every_rule_of_the_go_reader() -> None:
    async with redis_server() as server:
        bus, other = go_bus(server.addr, middleware=(OddHeaders(),)), go_bus(server.addr)
        seen: list[Any] = []
        other.subscribe(seen.append, "**")
        payloads: list[bytes] = []
        async with (
            opened(other, bus),
            listening(server, payloads, "goevent:user.created"),
            listening(server, payloads, "goevent:plain.event"),
        ):
            handles = [await bus.dispatch(event) for event in SENT]
            for handle in handles:
                await handle.wait()
                assert handle.receivers == 2
            await until(lambda: len(seen) == len(payloads) == len(SENT))
        assert seen == SENT
        by_id = {json.loads(data)["handle_id"]: data for data in payloads}
        seqs = {"user.created": 0, "plain.event": 0}
        for event, handle in zip(SENT, handles, strict=True):
            seqs[event.event_name] += 1
            check_envelope(by_id[handle.id], event.event_name, handle, seqs[event.event_name])
        assert len({json.loads(data)["origin"] for data in payloads}) == 1


def check_envelope(data: bytes, name: str, handle: DispatchHandle, seq: int) -> None:
    text = data.decode()  # strict UTF-8
    sent = json.loads(text, parse_constant=refuse, object_pairs_hook=without_doubles)
    assert text[0] == "{"
    assert text[-1] == "}"
    assert not re.search(r"[\x00-\x1f]", text)
    assert '": ' not in re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)  # compact
    extra = [key for key in OURS if key in sent]
    assert list(sent) == [*KEYS, *extra]
    assert sent["event_name"] == sent["event_type"] == name
    assert isinstance(sent["event_data"], dict)
    assert re.fullmatch("[0-9a-f]{16}", sent["handle_id"])
    assert sent["handle_id"] == handle.id
    assert type(sent["timestamp"]) is int
    assert 0 < sent["timestamp"] < 2**62
    assert re.search(r'"timestamp":\d+[,}]', text)
    assert re.fullmatch("[0-9a-f]{32}", sent["origin"])
    assert sent["seq"] == seq
    assert "reply_to" not in sent
    if name == "user.created":
        assert sent["headers"] == {"trace": "<&>\u2028"}
        assert RFC_3339.fullmatch(sent["event_data"]["created_at"])
        assert list(sent["event_data"]) == [
            "seq", "user_id", "email", "name", "big", "created_at", "tags", "meta", "nick",
        ]  # fmt: skip
        for field in ("seq", "big"):
            assert -(2**63) <= sent["event_data"][field] < 2**63
    else:
        assert "headers" not in sent
        assert list(sent["event_data"]) == ["UserID", "Count"]


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)
