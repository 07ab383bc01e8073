"""Events whose name has no class: they arrive as ad-hoc events, unless the registry is strict."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from goevent import (
    Codec,
    Config,
    DecodeError,
    Envelope,
    Event,
    EventRegistry,
    GoEvent,
    JsonCodec,
    MsgpackCodec,
    UnknownEventError,
)

REGISTRY = EventRegistry()
STRICT = EventRegistry(strict=True)
NAME = "github.push"


class Known(Event, name="github.known", registry=REGISTRY):
    n: int = 0


both = pytest.mark.parametrize("make", [JsonCodec, MsgpackCodec])
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=5)
    # A float without a fraction is an integer in JSON.
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda n: not n.is_integer()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def write(codec: Codec, **fields: Any) -> bytes:
    """Return the bytes of an envelope with these keys, as a stranger may have written them."""
    wire = {"event_name": NAME, "event_type": NAME, "event_data": {"n": 1}, "handle_id": ""}
    data = {**wire, "timestamp": 0, **fields}
    return json.dumps(data).encode() if codec.content_type.endswith("json") else pack(data)


def pack(data: Any) -> bytes:
    return msgspec.msgpack.encode(data)


def read(codec: Codec, data: bytes, name: str = NAME, registry: EventRegistry = REGISTRY) -> Any:
    return codec.decode(data, event_name=name, registry=registry).event


def refusal(codec: Codec, data: bytes, name: str = NAME, registry: EventRegistry = REGISTRY) -> str:
    with pytest.raises(DecodeError) as caught:
        codec.decode(data, event_name=name, registry=registry)
    return caught.value.reason


@both
@given(payload=st.dictionaries(st.text(max_size=5), JSON_VALUES))
def test_an_ad_hoc_event_survives_a_round_trip(
    make: Callable[[], Codec], payload: dict[str, Any]
) -> None:
    codec, event = make(), Event(NAME, payload)
    data = codec.encode(Envelope(event_name=NAME, event=event))
    decoded = codec.decode(data, event_name=NAME, registry=REGISTRY)
    assert decoded.event == event
    assert type(decoded.event) is type(event)
    assert (decoded.event_name, decoded.event_type) == (NAME, NAME)


@both
def test_metadata_and_unknown_keys_do_not_disturb(make: Callable[[], Codec]) -> None:
    codec = make()
    data = write(codec, seq=7, origin="ab", headers={"a": "b"}, unknown=[1])
    envelope = codec.decode(data, event_name=NAME, registry=REGISTRY)
    assert envelope.event == Event(NAME, {"n": 1})
    assert (envelope.seq, envelope.origin, envelope.headers) == (7, "ab", {"a": "b"})


@both
@pytest.mark.parametrize("event", [Event(NAME, {"n": {"m": [1, 2.5, None]}}), Known(7)])
def test_a_request_is_read_as_the_event_that_it_asks_for(
    make: Callable[[], Codec], event: Event
) -> None:
    codec, name = make(), f"goevent.requests.{event.event_name}"
    data = codec.encode(Envelope(event_name=name, event_type=event.event_name, event=event))
    decoded = codec.decode(data, event_name=name, registry=REGISTRY)
    assert (decoded.event, type(decoded.event)) == (event, type(event))
    assert (decoded.event_name, decoded.event_type) == (name, event.event_name)


@both
def test_null_data_is_an_empty_payload(make: Callable[[], Codec]) -> None:
    codec = make()
    assert read(codec, write(codec, event_data=None)) == Event(NAME, {})


@both
@pytest.mark.parametrize("body", [[1], "text", 7, True])
def test_data_that_is_no_object_is_one_decode_error(make: Callable[[], Codec], body: Any) -> None:
    codec = make()
    refusal(codec, write(codec, event_data=body))


@both
def test_a_name_with_a_class_is_read_into_the_class(make: Callable[[], Codec]) -> None:
    codec = make()
    data = codec.encode(Envelope(event_name="github.known", event=Event("github.known", {"n": 7})))
    assert read(codec, data, "github.known") == Known(7)
    bad = codec.encode(Envelope(event_name="github.known", event=Event("github.known", {"n": "x"})))
    refusal(codec, bad, "github.known")


@both
@pytest.mark.parametrize("event_type", ["github.pull", "*main.Push", "", "github.push ", "**"])
def test_another_type_than_the_name_stays_a_decode_error(
    make: Callable[[], Codec], event_type: str
) -> None:
    codec = make()
    refusal(codec, write(codec, event_type=event_type))
    # The same under a name that has a class: the data is never taken as untyped.
    other = write(codec, event_name="github.known", event_type=event_type or "x.y")
    assert "is not registered" in refusal(codec, other, "github.known")


@both
def test_an_unregistered_type_under_a_registered_name_stays_a_decode_error(
    make: Callable[[], Codec],
) -> None:
    codec = make()
    data = write(codec, event_name="github.known")
    assert "'github.push' is not registered" in refusal(codec, data, "github.known")


@both
def test_the_name_must_be_that_of_the_channel(make: Callable[[], Codec]) -> None:
    codec = make()
    data = write(codec, event_name="github.pull", event_type="github.pull")
    assert "not the channel's" in refusal(codec, data)


@both
@pytest.mark.parametrize("name", ["a b", "a.*", "a..b", "\u00e9", "x" * 256])
def test_a_text_that_is_no_event_name_is_one_decode_error(
    make: Callable[[], Codec], name: str
) -> None:
    codec = make()
    refusal(codec, write(codec, event_name=name, event_type=name), name)


@pytest.mark.parametrize("make", [JsonCodec, MsgpackCodec])
def test_a_go_type_name_is_accepted_only_by_an_option(make: Callable[..., Codec]) -> None:
    codec = make(accept_go_type_names=True)
    data = write(codec, event_type="*main.Push")
    assert read(codec, data) == Event(NAME, {"n": 1})
    assert "is not registered" in refusal(make(), data)
    assert "is not registered" in refusal(codec, data, registry=STRICT)


@both
def test_a_strict_registry_refuses_the_event(make: Callable[[], Codec]) -> None:
    codec = make()
    assert "'github.push' is not registered" in refusal(codec, write(codec), registry=STRICT)


def test_the_limits_of_json_hold() -> None:
    deep: Any = 1
    for _ in range(70):
        deep = [deep]
    codec = JsonCodec()
    assert "deeper than 64" in refusal(codec, write(codec, event_data={"deep": deep}))
    assert "400 digits" in refusal(
        codec,
        b'{"event_name":"github.push","event_type":"github.push","event_data":{"n":%b}}'
        % (b"7" * 500),
    )
    assert "above the limit" in refusal(JsonCodec(max_size=60), write(codec))
    for number in (b"NaN", b"Infinity", b"1e999"):
        data = (
            b'{"event_name":"github.push","event_type":"github.push","event_data":{"n":%b}}'
            % number
        )
        refusal(codec, data)


def test_the_limits_of_messagepack_hold() -> None:
    deep: Any = 1
    for _ in range(70):
        deep = [deep]
    codec = MsgpackCodec()
    assert "deeper than 64" in refusal(codec, write(codec, event_data={"deep": deep}))
    assert "not a finite number" in refusal(codec, write(codec, event_data={"n": float("nan")}))
    assert "above the limit" in refusal(MsgpackCodec(max_size=60), write(codec))
    refusal(codec, write(codec, event_data={7: "a key that is no text"}))
    assert "extension" in refusal(
        codec, write(codec, event_data={"n": msgspec.msgpack.Ext(5, b"x")})
    )


def test_a_strict_registry_says_so() -> None:
    assert STRICT.strict
    assert not REGISTRY.strict


async def test_a_bus_with_a_strict_registry_refuses_to_dispatch_an_unknown_name() -> None:
    registry = EventRegistry(strict=True)

    class Push(Event, name="github.push", registry=registry):
        n: int = 0

    bus = GoEvent(Config(registry=registry))
    seen: list[Any] = []
    bus.subscribe(seen.append, "github.**")
    async with bus:
        await bus.dispatch(Event("github.push", {"n": 1}))
        with pytest.raises(
            UnknownEventError, match=r"'github\.pushed'; did you mean 'github\.push'"
        ):
            bus.dispatch_nowait(Event("github.pushed", {}))
        with pytest.raises(UnknownEventError):
            await bus.dispatch(Event("github.pushed", {}))
    assert seen == [Push(1)]
