"""The output of `goevent tail` for single events, without a broker."""

from __future__ import annotations

import json

import pytest

from goevent.cli.tail import write_event
from goevent.drivers import TailedEvent


def test_events_that_a_slow_reader_has_missed_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_event(TailedEvent(event_name="order.paid", data=b"{}", missed=7), as_json=False)
    write_event(TailedEvent(event_name="order.paid", data=b"{}", missed=7), as_json=True)
    write_event(TailedEvent(event_name="order.paid", data=b"{}"), as_json=True)
    shown = capsys.readouterr()
    _, *lines = shown.out.splitlines()
    assert [json.loads(line)["missed"] for line in lines] == [7, 0]
    assert shown.err.count("7 events before the next one are not shown") == 2


@pytest.mark.parametrize("depth", [10, 200, 900, 100_000])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_deeply_nested_payload_is_shown(
    capsys: pytest.CaptureFixture[str], depth: int, as_json: bool
) -> None:
    event = TailedEvent(event_name="x", data=b"[" * depth + b"]" * depth)
    write_event(event, as_json=as_json)
    assert "[[[" in capsys.readouterr().out


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\x00",
        b"1e999",
        b'"\\ud800"',
        b"9" * 5000,
        b'{"event_data": 1, "headers": [1], "timestamp": 1e300}',
        b'{"event_data": 1, "headers": {"a": {}}, "timestamp": 68719476735}',
        b'{"event_data": 1, "timestamp": true}',
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_hostile_bytes_are_one_printable_line(
    capsys: pytest.CaptureFixture[str], data: bytes, as_json: bool
) -> None:
    write_event(TailedEvent(event_name="x", data=data), as_json=as_json)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isprintable()
