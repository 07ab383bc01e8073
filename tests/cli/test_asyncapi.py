"""`goevent asyncapi`: the document of a program, and the check of an older one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.support.command import goevent_command

from goevent.asyncapi import read_document

PROGRAM = """
from goevent import Event, GoEvent

class OrderPaid(Event, name="order.paid"):
    order_id: int
    cents: {type}

bus = GoEvent("redis://app:hunter2-secret@cache.example")

@bus.listener(OrderPaid)
async def bill(event: OrderPaid) -> None: ...
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_program(tmp_path, "int")
    return tmp_path


def write_program(folder: Path, kind: str) -> None:
    # Both programs have one size and perhaps one second, so Python would take the older bytecode.
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    (folder / "shop.py").write_text(PROGRAM.format(type=kind), encoding="utf-8")


@pytest.mark.parametrize("options", [[], ["--format", "json"], ["--json"]])
def test_document_is_printed_as_yaml_or_json(folder: Path, options: list[str]) -> None:
    result = goevent_command("asyncapi", "shop:bus", *options, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert "hunter2" not in result.stdout
    made = read_document(result.stdout)
    assert "receive.bill.order.paid" in str(made["operations"])
    assert result.stdout.startswith("{") == bool(options)


def test_title_version_and_published_events_are_given(folder: Path) -> None:
    options = ["--title", "shop", "--version", "2.0.0", "--publishes", "order.paid"]
    result = goevent_command("asyncapi", "shop:bus", *options, "--json", cwd=folder, fresh=True)
    made = json.loads(result.stdout)
    assert made["info"] == {"title": "shop", "version": "2.0.0"}
    assert "send.order.paid" in made["operations"]


def test_check_finds_nothing_in_the_same_program(folder: Path) -> None:
    written = goevent_command("asyncapi", "shop:bus", "--output", "api.yaml", cwd=folder)
    assert (written.returncode, written.stdout) == (0, "")
    checked = goevent_command("asyncapi", "shop:bus", "--check", "api.yaml", cwd=folder)
    assert (checked.returncode, checked.stdout) == (0, "no change breaks a reader\n")


def test_check_ends_with_1_and_names_field_reader_and_writer(folder: Path) -> None:
    goevent_command("asyncapi", "shop:bus", "--output", "api.yaml", cwd=folder)
    write_program(folder, "str")
    checked = goevent_command("asyncapi", "shop:bus", "--check", "api.yaml", cwd=folder)
    assert checked.returncode == 1
    first, second = checked.stdout.splitlines()
    assert first == (
        "order.paid: field cents may be an integer, and the reader takes a string "
        "(reader: bill of the new program; writer: the old program)"
    )
    assert second == (
        "order.paid: field cents may be a string, and the reader takes an integer "
        "(reader: bill of the old program; writer: the new program)"
    )
    assert checked.stderr == "goevent: 2 change(s) break a reader\n"
    as_json = goevent_command("asyncapi", "shop:bus", "--check", "api.yaml", "--json", cwd=folder)
    assert as_json.returncode == 1
    assert [each["field"] for each in json.loads(as_json.stdout)] == ["cents", "cents"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--check", "missing.yaml"], "missing.yaml cannot be read"),
        (["--check", "."], ". cannot be read"),
        (["--check", "broken.yaml"], "broken.yaml: this is neither YAML nor JSON"),
        (["--check", "shop.py"], "shop.py: this is n"),
        (["--output", "no/such/folder.yaml"], "no/such/folder.yaml cannot be written"),
        (["--output", "a", "--check", "b"], "--output and --check do not go together"),
        (["--publishes", "a..b"], "event name 'a..b' has an empty segment"),
        (["--format", "xml"], "'xml' is not one of"),
    ],
)
def test_wrong_use_is_one_line_and_ends_with_2(folder: Path, options: list[str], line: str) -> None:
    (folder / "broken.yaml").write_text("a: [", encoding="utf-8")
    result = goevent_command("asyncapi", "shop:bus", *options, cwd=folder)
    assert (result.returncode, result.stdout) == (2, "")
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
