"""The output of the command: nothing that it prints moves the cursor of a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from tests.support.command import goevent_command

from goevent import DriverConnectionError, EncodeError, EventError, UnsupportedError
from goevent.cli.failures import CommandFinding, WrongUse, failure_of
from goevent.cli.output import ascii_json, printable, progress, write_table
from goevent.cli.tail import decoded


@given(st.text())
def test_each_text_becomes_printable(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


@given(st.recursive(st.text() | st.integers() | st.none(), lambda each: st.lists(each)))
def test_json_is_printable_ascii(value: object) -> None:
    text = ascii_json(value)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == value


@given(st.binary())
def test_any_bytes_of_a_message_can_be_shown(data: bytes) -> None:
    envelope, payload = decoded(data)
    assert ascii_json([envelope, payload]).isprintable()


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        (b'{"event_data":{"n":1},"event_name":"a"}', {"n": 1}),
        (b'{"n":1}', {"n": 1}),
        (b"\xff\x1b[2J", "\\xff\\x1b[2J"),
        (b"[" * 100_000, "[" * 100_000),
    ],
)
def test_the_payload_is_taken_out_of_an_envelope(data: bytes, payload: object) -> None:
    assert decoded(data)[1] == payload


def test_columns_of_a_table_in_a_pipe_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    write_table("Title", ("name", "count"), [("a", 1), ("[b]\x1b", 22), ("c", None)])
    assert capsys.readouterr().out == "Title\nname     count\na            1\n[b]\\x1b     22\nc\n"


def test_there_is_no_progress_bar_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("working", 3) as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (WrongUse("no"), 2, "no"),
        (CommandFinding(), 1, ""),
        (UnsupportedError("it cannot"), 2, "it cannot"),
        (DriverConnectionError("down"), 1, "down"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 0, ""),
        (ExceptionGroup("", [ExceptionGroup("", [WrongUse("no")])]), 2, "no"),
        (BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()]), 130, ""),
        (
            ValueError("of redis://me:hunter2@x\n\x1b[2J"),
            1,
            "ValueError: of redis://***@x \\x1b[2J",
        ),
        (EventError("a", "driver", EncodeError("a", "too large")), 2, "too large"),
    ],
)
def test_each_error_has_its_exit_code_and_one_line(
    error: BaseException, code: int, line: str
) -> None:
    failure = failure_of(error)
    assert failure.code == code
    assert line in failure.line if line else not failure.line


def test_a_traceback_shows_no_login(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "url = 'redis://ann:' + 'pass' + 'word1@h'\nraise OSError(url + '\\x1b[2J')\n"
    )
    result = goevent_command("--traceback", "describe", "shop:bus", cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert "OSError: redis://***@h\\x1b[2J" in result.stderr
    assert "password1" not in result.stderr
