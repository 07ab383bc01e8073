"""The wire format of the Go library: recorded, accepted and rejected messages."""

from __future__ import annotations

import json
import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from goevent._errors import DecodeError
from goevent._events.event import Event
from goevent._events.registry import EventRegistry
from goevent._wire.json_codec import JsonCodec

REGISTRY = EventRegistry()


class UserCreated(Event, name="user.created", registry=REGISTRY):
    seq: int
    user_id: str
    email: str
    name: str
    big: int
    created_at: datetime
    tags: list[str] | None
    meta: dict[str, Any] | None
    nick: str | None


class PlainEvent(Event, name="plain.event", registry=REGISTRY):
    UserID: str
    Count: int


class AllDefaults(Event, name="all_defaults", registry=REGISTRY):
    number: int = 0
    at: datetime | None = None


RECORDED = [
    json.loads(line)
    for line in (Path(__file__).with_name("recorded_from_go.jsonl")).read_text().splitlines()
]
FIRST: bytes = RECORDED[0]["payload"].encode()


def name_of(record: dict[str, str]) -> str:
    return record["channel"].removeprefix("goevent:")


def refusal(data: bytes, name: str = "user.created", codec: JsonCodec | None = None) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        (codec or JsonCodec()).decode(data, event_name=name, registry=REGISTRY)
    error = caught.value
    assert error.event_name == name
    assert error.reason
    assert len(error.excerpt) <= 120
    assert error.excerpt.isascii()
    assert not isinstance(error.__cause__, DecodeError)
    return error


def all_defaults(data: str, **envelope: Any) -> bytes:
    """Return an envelope around event_data that is given as JSON text."""
    keys = {"event_name": "all_defaults", "event_type": "all_defaults", **envelope}
    head = json.dumps(keys, separators=(",", ":"))[:-1]
    return f'{head},"event_data":{data}}}'.encode()


def decode(data: bytes, name: str = "all_defaults") -> Any:
    return JsonCodec().decode(data, event_name=name, registry=REGISTRY)


def changed(old: str, new: str) -> bytes:
    text = FIRST.decode()
    assert text.count(old) == 1
    return text.replace(old, new).encode()


@pytest.mark.parametrize("record", RECORDED)
def test_a_recorded_event_decodes_and_encodes_to_the_same_envelope(record: dict[str, str]) -> None:
    codec, sent = JsonCodec(), json.loads(record["payload"])
    envelope = codec.decode(
        record["payload"].encode(), event_name=name_of(record), registry=REGISTRY
    )
    assert type(envelope.event) in (UserCreated, PlainEvent)
    assert envelope.event.payload().keys() == sent["event_data"].keys()
    again = codec.encode(envelope)
    written = json.loads(again)
    assert list(written) == list(sent)
    assert list(written["event_data"]) == list(sent["event_data"])
    ours = written["event_data"].pop("created_at", None)
    theirs = sent["event_data"].pop("created_at", None)
    assert written == sent
    if theirs is not None and ours != theirs:
        assert theirs == "2024-02-29T12:34:56.123456789+07:00"
        assert ours == "2024-02-29T12:34:56.123457+07:00"
    decoded = codec.decode(again, event_name=name_of(record), registry=REGISTRY)
    assert decoded == envelope


@pytest.mark.parametrize("index", [0, 3, 4, 6])
def test_a_recorded_event_without_escapes_encodes_to_the_same_bytes(index: int) -> None:
    record = RECORDED[index]
    data = record["payload"].encode()
    codec = JsonCodec()
    envelope = codec.decode(data, event_name=name_of(record), registry=REGISTRY)
    assert codec.encode(envelope) == data


def test_the_recorded_messages_have_the_values_that_go_sent() -> None:
    events = [decode(r["payload"].encode(), name_of(r)) for r in RECORDED]
    assert events[0].handle_id == "d2a38f019c9bfc61"
    assert events[0].timestamp == 1795410955
    assert events[1].event.name == 'Zoë 日本 😀 \u2028 <b>&"\\/\t\x01 \x7f'
    assert events[2].event.big == 2**63 - 1
    assert events[3].event.created_at.isoformat() == "0001-01-01T00:00:00+00:00"
    assert events[4].event.name == "bad\ufffd\ufffdutf8"
    assert events[5].event.meta["big"] == 10**20
    assert events[5].event.meta["i64"] == 2**53 + 1


@pytest.mark.parametrize(
    "data",
    [
        changed('"d2a38f019c9bfc61"', "7"),
        changed('"d2a38f019c9bfc61"', '["d2"]'),
        changed("1795410955", "1795410955.0"),
        changed("1795410955", "1795410955.5"),
        changed("1795410955", "1e9"),
        changed("1795410955", '"1795410955"'),
        changed("1795410955", "9223372036854775808"),
        changed("1795410955", "-9223372036854775809"),
        changed('"event_type":"user.created",', ""),
        changed('"event_type":"user.created"', '"event_type":null'),
        changed('"event_type":"user.created"', '"event_type":""'),
        changed('"event_type":"user.created"', '"event_type":"no.such"'),
        changed('"event_type":"user.created"', '"event_type":7'),
        changed('"event_data":', '"event_dato":'),
        all_defaults("[]"),
        all_defaults('""'),
        all_defaults('"{}"'),
        all_defaults("7"),
        all_defaults("true"),
        changed('"user_id":"u-0"', '"user_id":0'),
        changed('"big":42', '"big":"42"'),
        changed('"big":42', '"big":42.5'),
        changed('"big":42', '"big":true'),
        changed('"big":42', '"big":9223372036854775808'),
        changed('"big":42', '"big":-9223372036854775809'),
        changed('"big":42', '"big":100000000000000000000000000'),
        changed('"tags":["a","b"]', '"tags":"a"'),
        changed("1.5", "NaN"),
        changed("1.5", "Infinity"),
        changed("1.5", "-Infinity"),
        changed("1.5", "1e400"),
        changed("1.5", "-1e400"),
        changed(".789Z", ".789"),
        changed("29T12", "29 12"),
        changed(".789Z", ".789z"),
        changed("29T12", "29t12"),
        changed(".789Z", ".789+0700"),
        changed("29T12", "29\\u002012"),
        changed("29T12:34:56.789Z", "29T12:34:56"),
        changed("29T12:34:56.789Z", "29"),
        changed('"2024-02-29T12:34:56.789Z"', "1709210096"),
        changed('"2024-02-29T12:34:56.789Z"', "1709210096.5"),
        changed('"2024-02-29T12:34:56.789Z"', '"1709210096"'),
        b"\xef\xbb\xbf" + FIRST,
        FIRST + b"x",
        FIRST + b"\x00",
        FIRST + FIRST,
        changed("Ada", "A\tda"),
        changed("Ada", "A\x00da"),
        changed("Ada", "A\nda"),
    ],
)
def test_a_message_that_go_rejects_is_one_decode_error(data: bytes) -> None:
    refusal(data, "all_defaults" if b'"all_defaults"' in data else "user.created")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (FIRST.decode().encode("utf-16"), "byte order mark"),
        (FIRST.decode().encode("utf-16-le"), "malformed"),
        (FIRST.decode().encode("utf-16-be"), "malformed"),
        (FIRST.decode().encode("utf-32"), "byte order mark"),
        (FIRST.decode().encode("utf-32-le"), "malformed"),
        (changed("Ada", "Zo\xeb").replace(b"\xc3\xab", b"\xeb"), "not UTF-8"),
        (changed("Ada", "@").replace(b"@example", b"A").replace(b"@", b"\xed\xa0\x80"), "UTF-8"),
        (changed('"nick":null', '"nick":null,"extra":"@"').replace(b'"@"', b'"\xff"'), "UTF-8"),
        (changed("Ada", "\\ud800"), "malformed"),
        (changed('{"event_name":"user', '{"event_name":"other'), "not the channel's"),
        (changed('"event_name":"user.created",', ""), "event_name is missing"),
        (changed('"event_name":"user.created"', '"event_name":null'), "event_name is missing"),
        (changed('"event_name"', '"Event_Name"'), "not spelled"),
        (changed('"handle_id"', '"HANDLE_ID"'), "not spelled"),
        (changed('"timestamp"', '"time\u017ftamp"'), "not spelled"),
        (FIRST[:-1] + b',"Event_Data":{}}', "not spelled"),
        (FIRST[:-1] + b',"extra":1,"SEQ":2}', "not spelled"),
        (FIRST[:-1] + b',"seq":"1"}', "int"),
        (FIRST[:-1] + b',"seq":9223372036854775808}', "seq is beyond"),
        (FIRST[:-1] + b',"origin":1}', "str"),
        (FIRST[:-1] + b',"reply_to":[]}', "str"),
        (FIRST[:-1] + b',"headers":{"a":1}}', "str"),
        (FIRST[:-1] + b',"headers":["a"]}', "object"),
        (changed("1.5", "[" * 64 + "]" * 64), "deeper than 64"),
        (changed("1.5", "[" * 100_000 + "]" * 100_000), "deeper than 64"),
        (changed("1.5", "[" * 100_000), "deeper than 64"),
        (changed("1.5", '{"a":' * 62 + "1" + "}" * 62), "deeper than 64"),
        (changed("1.5", "1" * 401), "more than 400 digits"),
        (changed("1.5", "1" * 5000), "more than 400 digits"),
        (changed("1.5", "0." + "1" * 400), "more than 400 digits"),
        (changed("1.5", "1e" + "0" * 400), "more than 400 digits"),
        (changed("Ada", "A" * (1 << 20)), "above the limit"),
        (b"", ""),
        (b" ", ""),
        (b"null", ""),
        (b"[]", ""),
        (b'"x"', ""),
        (b"{}", "event_name is missing"),
        (FIRST[:-1], ""),
        (FIRST[: len(FIRST) // 2], ""),
        (b"\x80\x04\x95", "UTF-8"),
    ],
)
def test_a_silently_harmful_message_is_one_decode_error(data: bytes, why: str) -> None:
    assert why in refusal(data).reason


@pytest.mark.parametrize("number", ["5", "-7", "0"])
def test_a_timestamp_may_be_any_integer(number: str) -> None:
    data = changed("1795410955", number)
    assert decode(data, "user.created").timestamp == int(number)


@pytest.mark.parametrize("key", ["handle_id", "timestamp", "origin", "seq", "reply_to", "headers"])
def test_keys_beside_the_event_may_be_null_or_missing(key: str) -> None:
    null = decode(all_defaults("{}", **{key: None}))
    assert null == decode(all_defaults("{}"))
    assert not getattr(null, key)


def test_keys_beside_the_event_are_read() -> None:
    envelope = decode(
        all_defaults("{}", handle_id="", origin="ab", seq=0, reply_to="r", headers={"a": "b"})
    )
    assert (envelope.handle_id, envelope.origin, envelope.seq) == ("", "ab", 0)
    assert (envelope.reply_to, envelope.headers) == ("r", {"a": "b"})


@pytest.mark.parametrize("data", ["null", "{}", "  { } ", '{"unknown":[1e999]}'])
def test_empty_data_is_an_event_of_defaults(data: str) -> None:
    assert decode(all_defaults(data)).event == AllDefaults()


def test_empty_data_for_required_fields_is_a_decode_error() -> None:
    assert "required" in refusal(b'{"event_name":"user.created","event_type":"user.created",'
                                 b'"event_data":null}').reason  # fmt: skip


def test_spaces_ascii_escapes_unknown_and_duplicate_keys_are_accepted() -> None:
    record = json.loads(RECORDED[1]["payload"])
    expected = decode(RECORDED[1]["payload"].encode(), "user.created")
    record["unknown"] = {"a": [1]}
    record["event_data"]["unknown"] = 1
    spaced = json.dumps(record, indent=2, ensure_ascii=True).encode()
    assert decode(spaced, "user.created") == expected
    twice = spaced.replace(b"{", b'{"timestamp": 1, ', 1)
    assert decode(twice, "user.created") == expected


def test_isoformat_datetimes_with_an_offset_are_accepted() -> None:
    for text in (
        "2024-02-29T12:34:56+00:00",
        "2024-02-29T12:34:56.789000-03:30",
        "2024-02-29T12:34:56.123456789Z",
        "\\u0032024-02-29T12:34:56Z",
    ):
        assert decode(all_defaults(f'{{"at":"{text}"}}')).event.at.utcoffset() is not None


def test_text_that_looks_like_a_loose_datetime_is_only_text() -> None:
    data = changed('"Ada"', '"2024-02-29 12:34:56"')
    assert decode(data, "user.created").event.name == "2024-02-29 12:34:56"


def test_depth_and_digits_at_their_limits_are_accepted() -> None:
    brackets = changed('"Ada"', f'"{"[{" * 200}\\"{"[" * 99}"')
    assert decode(brackets, "user.created").event.name.startswith("[{[{")
    digits = changed('"Ada"', f'"{"1" * 500}"')
    assert decode(digits, "user.created").event.name == "1" * 500
    deep = changed("1.5", "[" * 61 + "]" * 61)
    assert decode(deep, "user.created").event.meta["n"]
    long = changed("1.5", "1" * 400)
    assert decode(long, "user.created").event.meta["n"] == int("1" * 400)
    wide = changed("1.5", "[" + "[]," * 1000 + "{}]")
    assert len(decode(wide, "user.created").event.meta["n"]) == 1001


def test_a_go_type_name_is_accepted_only_by_an_option() -> None:
    codec = JsonCodec(accept_go_type_names=True)
    data = changed('"event_type":"user.created"', '"event_type":"*main.UserCreated"')
    refusal(data)
    envelope = codec.decode(data, event_name="user.created", registry=REGISTRY)
    assert envelope.event_type == "user.created"
    assert envelope.event.user_id == "u-0"
    for other in ("main", "*main", "*main.", "no.such", "**"):
        bad = changed('"event_type":"user.created"', f'"event_type":"{other}"')
        refusal(bad, codec=codec)


def test_a_refused_message_leaves_the_codec_as_it_was() -> None:
    codec = JsonCodec()
    refusal(b"\xff", codec=codec)
    refusal(changed("Ada", "\x01"), codec=codec)
    assert codec.decode(FIRST, event_name="user.created", registry=REGISTRY).event.name == "Ada"


def mutate(data: bytes, random_: random.Random) -> bytes:
    mutated = bytearray(data)
    interesting = b'{}[]":,\\0123456789.eE+-nullNaN\x00\xff\xc3\xed\xa0 TZ'
    for _ in range(random_.randint(1, 6)):
        at = random_.randrange(len(mutated) + 1)
        match random_.randrange(5):
            case 0:
                del mutated[at : at + random_.randint(1, 8)]
            case 1:
                mutated.insert(at, random_.choice(interesting))
            case 2:
                mutated[at : at + 1] = bytes([random_.randrange(256)])
            case 3:
                mutated[at:at] = mutated[at : at + random_.randint(1, 40)]
            case _:
                mutated[at : at + 1] = bytes([random_.choice(interesting)])
    return bytes(mutated)


@pytest.mark.parametrize("record", RECORDED)
def test_no_mutation_of_a_recorded_message_raises_anything_but_a_decode_error(
    record: dict[str, str],
) -> None:
    random_ = random.Random(record["payload"])
    codec, data, refused = JsonCodec(), record["payload"].encode(), 0
    for _ in range(3000):
        mutated = mutate(data, random_)
        try:
            envelope = codec.decode(mutated, event_name=name_of(record), registry=REGISTRY)
        except DecodeError as error:
            refused += len(error.excerpt) <= 120
        else:
            # An accepted message can be sent on, and arrives unchanged.
            again = codec.encode(envelope)
            assert codec.decode(again, event_name=name_of(record), registry=REGISTRY) == envelope
    assert 1000 < refused < 3000
