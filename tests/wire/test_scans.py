"""The bounds over the bytes of a message agree with a plain look at each byte."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from goevent import DecodeError, EncodeError, Envelope, Event, EventRegistry, JsonCodec

REGISTRY = EventRegistry()
MAX_DEPTH, MAX_DIGITS = 7, 30


class Part(msgspec.Struct):
    number: int


class Scanned(Event, name="scanned", registry=REGISTRY):
    note: str = ""
    number: int = 0
    ratio: float = 0.0
    parts: list[Part] = []  # noqa: RUF012 - msgspec copies an empty default


class Untyped(Event, name="untyped", registry=REGISTRY):
    value: Any = None


CODEC = JsonCodec(max_depth=MAX_DEPTH, max_digits=MAX_DIGITS)


def outside_of_strings(data: bytes) -> Iterator[str]:
    """Return the characters outside of strings, by a look at each of them."""
    inside = escaped = False
    for character in data.decode("latin-1"):
        if inside:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                inside = False
        elif character == '"':
            inside = True
        else:
            yield character


def depth(data: bytes) -> int:
    deepest = level = 0
    for character in outside_of_strings(data):
        if character in "[{":
            level += 1
            deepest = max(deepest, level)
        elif character in "]}":
            level -= 1
    return deepest


def most_digits(data: bytes) -> int:
    longest = digits = 0
    for character in outside_of_strings(data):
        if character in "0123456789":
            digits += 1
            longest = max(longest, digits)
        elif character not in "+-.eE":
            digits = 0
    return longest


def message(name: str, data: bytes) -> bytes:
    return b'{"event_name":"%b","event_type":"%b","event_data":%b}' % (
        name.encode(),
        name.encode(),
        data,
    )


def accepted(data: bytes, name: str = "scanned", codec: JsonCodec = CODEC) -> bool:
    try:
        codec.decode(data, event_name=name, registry=REGISTRY)
    except DecodeError:
        return False
    return True


texts = st.lists(
    st.sampled_from([*'[]{}"\\ \n,:07é😀', "[[[[", '\\"', '"[', "]}"]), max_size=8
).map("".join)
numbers = (
    st.integers(-(10**40), 10**40)
    | st.integers(-5, 5)
    | st.integers(10**18, 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=20,
)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """Return the JSON of an event with fields that its class does not have."""
    event: dict[str, Any] = {
        "note": draw(texts),
        "number": draw(st.integers(-(2**63), 2**63 - 1)),
        "parts": [{"number": draw(st.integers(0, 2**63 - 1)), "more": draw(values)}],
        draw(st.sampled_from(["more", "note2", "["])): draw(values),
    }
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]))
    text = json.dumps(event, separators=separators, ensure_ascii=draw(st.booleans()))
    return text.encode()


@given(data=documents())
@example(data=b'{"more":' + b"[" * 100 + b"]" * 100 + b"}")
@example(data=b'{"more":"' + b"[" * 100 + b'"}')
@example(data=b'{"more":["\\\\",[[[[[[[1]]]]]]],"\\\\"]}')
@example(data=b'{"more":["\\"",[[[[[[[1]]]]]]],"\\""]}')
@example(data=b'{"more":["","[",[[[[[1]]]]]]}')
@example(data=b'{"more":' + b"1" * 31 + b"}")
@example(data=b'{"more":"' + b"1" * 500 + b'"}')
def test_a_message_is_refused_exactly_if_it_breaks_a_limit(data: bytes) -> None:
    whole = message("scanned", data)
    expected = depth(whole) <= MAX_DEPTH and most_digits(whole) <= MAX_DIGITS
    assert accepted(whole) is expected
    # The limits do not depend on the class.
    ad_hoc = message("no.class", data)
    assert accepted(ad_hoc, "no.class") is expected
    # They also hold for a message whose sender has other limits.
    if expected:
        event = JsonCodec().decode(ad_hoc, event_name="no.class", registry=REGISTRY).event
        assert CODEC.encode(Envelope(event_name="no.class", event=event))


@given(value=values)
def test_an_untyped_value_is_refused_exactly_if_it_breaks_a_limit(value: Any) -> None:
    data = json.dumps({"value": value}, separators=(",", ":")).encode()
    whole = message("untyped", data)
    expected = depth(whole) <= MAX_DEPTH and most_digits(whole) <= MAX_DIGITS
    written = True
    try:
        CODEC.encode(Envelope(event_name="untyped", event=Untyped(value)))
    except EncodeError:
        written = False
    assert written is expected


@pytest.mark.parametrize("text", ['"[\\', "[\\", '\\"[', '""[[', "é[\\"])
def test_a_text_may_have_any_number_of_brackets_and_escapes(text: str) -> None:
    event = Scanned(note=text * 500, parts=[Part(n) for n in range(3)])
    data = CODEC.encode(Envelope(event_name="scanned", event=event))
    assert CODEC.decode(data, event_name="scanned", registry=REGISTRY).event == event
    # As written by another sender, and with keys that the class does not have.
    for levels in range(MAX_DEPTH + 1):
        more = b'{"more":' + b"[" * levels + b"1" + b"]" * levels + b","
        for whole in (data.replace(b'{"note":', more + b'"note":'), data.replace(b":", b": ")):
            assert accepted(whole) is (depth(whole) <= MAX_DEPTH)


pieces = st.sampled_from(
    [b"[", b"]", b"{", b"}", b'"', b"\\", b'\\"', b"\\\\", b",", b":", b"1", b" ", b"a", b"\xff"]
)


@given(parts=st.lists(pieces, max_size=60), cut=st.integers(0, 200))
@example(parts=[b"["] * 50, cut=200)
@example(parts=[b'{"":'] * 40, cut=200)
@example(parts=[b"\\", b'"'] + [b"["] * 40, cut=200)
def test_broken_bytes_are_refused(parts: list[bytes], cut: int) -> None:
    data = b"".join(parts)
    for whole in (message("scanned", data)[:cut], message("scanned", data), data):
        # Only JSON can be accepted, and the plain scan knows how deep that is.
        if accepted(whole):
            msgspec.json.decode(whole)
            assert depth(whole) <= MAX_DEPTH


@pytest.mark.parametrize("limit", [*range(1, 12), 64, 200])
def test_the_deepest_level_is_accepted_and_the_next_one_is_not(limit: int) -> None:
    codec = JsonCodec(max_depth=limit)
    for opened, closed in ((b"[", b"]"), (b'{"":', b"}"), (b'[{"[":', b"}]")):
        for levels in range(max(0, limit - 12), limit + 4):
            data = message("scanned", b'{"more":' + opened * levels + b"1" + closed * levels + b"}")
            assert accepted(data, codec=codec) is (depth(data) <= limit)


@pytest.mark.parametrize("max_digits", [1, 2, 3, 5, 6, 18, 19, 30, 400])
@pytest.mark.parametrize("place", [0, 1, 2, 300, 2000])
def test_the_longest_number_is_accepted_and_the_next_one_is_not(
    max_digits: int, place: int
) -> None:
    codec = JsonCodec(max_digits=max_digits)
    for digits in {max(1, max_digits - 1), max_digits, max_digits + 1, 3 * max_digits + 3}:
        third = digits // 3
        parts = ["1" * digits]
        if third:
            parts.append(f"{'1' * (digits - 2 * third)}.{'1' * third}e-{'0' * third}")
        for number in parts:
            note = "a" * place
            data = message(
                "scanned", f'{{"note":"{note}","more":[{number}],"note":"{note}"}}'.encode()
            )
            assert accepted(data, codec=codec) is (most_digits(data) <= max_digits), number


@pytest.mark.parametrize("before", [0, 1, 5, 200, 255, 256, 257, 270, 300, 1000, 2000])
@pytest.mark.parametrize("after", [0, 1, 5, 200, 230, 256, 257, 1000])
def test_an_integer_beyond_int64_is_found_at_every_place(before: int, after: int) -> None:
    letters = string.ascii_letters * 50
    for number in (2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**25):
        data = message(
            "scanned",
            json.dumps(
                {
                    "note": letters[:before],
                    "parts": [{"number": 1}, {"number": number}],
                    "more": letters[:after],
                }
            ).encode(),
        )
        assert accepted(data, codec=JsonCodec()) is (-(2**63) <= number < 2**63)
