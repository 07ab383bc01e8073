"""`goevent trace`: the tree of what one event causes in a program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.command import goevent_command, run_goevent
from tests.support.redis_server import redis_server

PROGRAM = """
import trio

from goevent import Config, Event, EventRegistry, GoEvent

registry = EventRegistry()
bus = GoEvent(Config(registry=registry))

class Placed(Event, name="order.placed", registry=registry):
    order: int

class Due(Event, name="payment.due", registry=registry):
    order: int

class Paid(Event, name="order.paid", registry=registry):
    order: int

@bus.listener(Placed)
async def ask_for_payment(event):
    print("a listener prints")
    await bus.dispatch(Due(event.order))

@bus.listener(Due)
def note(event): ...

@bus.listener(Due)
async def pay(event):
    if event.order == 13:
        raise ValueError("no money \\x1b[2J")
    if event.order == 99:
        await trio.sleep_forever()
    await bus.dispatch(Paid(event.order))
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shop")
    (directory / "shop.py").write_text(PROGRAM)
    return directory


def shapes(text: str) -> list[str]:
    """Return the lines of a tree without their times."""
    return [line.split(" at +")[0] for line in text.splitlines()[1:]]


def test_the_tree_stands_alone_on_stdout(shop: Path) -> None:
    result = goevent_command(
        "trace", "shop:bus", "order.placed", '{"order": 7}', cwd=shop, fresh=True
    )
    assert (result.returncode, result.stderr) == (0, "a listener prints\n")
    assert shapes(result.stdout) == [
        "order.placed",
        "  - ask_for_payment completed",
        "  payment.due",
        "    - note completed",
        "    - pay completed",
        "    order.paid",
    ]


def test_a_failure_is_in_the_tree_and_ends_with_1(shop: Path) -> None:
    result = goevent_command("trace", "shop:bus", "order.placed", '{"order": 13}', cwd=shop)
    assert result.returncode == 1
    assert shapes(result.stdout)[-1] == "    - pay failed: ValueError: no money \\x1b[2J"


def test_the_time_that_everything_has_is_bounded(shop: Path) -> None:
    result = goevent_command(
        *("trace", "shop:bus", "order.placed", '{"order": 99}', "--timeout", "0.5"), cwd=shop
    )
    assert result.returncode == 1
    assert "    - pay running" in result.stdout
    assert "not everything was done within 0.5 s" in result.stderr


def test_json_has_the_whole_tree(shop: Path) -> None:
    result = goevent_command(
        "trace", "shop:bus", "order.placed", '{"order": 13}', "--json", cwd=shop
    )
    placed = json.loads(result.stdout)
    (due,) = placed["children"]
    assert (placed["event"], due["event"]) == ("order.placed", "payment.due")
    assert due["causation_id"] == due["correlation_id"] == placed["id"]
    assert [each["outcome"] for each in due["listeners"]] == ["completed", "failed"]
    assert due["listeners"][1]["reason"] == "ValueError: no money \x1b[2J"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["redis://127.0.0.1:1", "order.placed", "{}"], "a URL has no listeners to trace"),
        (["shop:bus", "order.placd", "{}"], "did you mean 'order.placed'"),
        (["shop:bus", "order.placed", "[]"], "the payload of an event is a JSON object"),
        (["shop:bus", "order.placed", "{}", "--timeout", "0"], "--timeout must be above 0"),
        (["shop:bus", "order.placed", '{"order": "seven"}'], "order"),
    ],
)
def test_wrong_use_is_refused(shop: Path, arguments: list[str], text: str) -> None:
    result = goevent_command("trace", *arguments, cwd=shop)
    assert result.returncode == 2
    assert text in result.stderr


def test_an_ad_hoc_event_is_traced_if_that_is_asked_for(shop: Path) -> None:
    result = goevent_command("trace", "shop:bus", "order.lost", "{}", "--ad-hoc", cwd=shop)
    assert result.returncode == 0
    assert shapes(result.stdout) == ["order.lost"]


async def test_events_that_come_back_from_a_durable_broker_are_in_the_tree(tmp_path: Path) -> None:
    async with redis_server("appendonly yes") as server:
        url = f"redis+streams://{server.addr}?group=shop"
        program = PROGRAM.replace("Config(", f"Config(driver={url!r}, ")
        (tmp_path / "shop.py").write_text(program)
        result = await run_goevent(
            *("trace", "shop:bus", "order.placed", '{"order": 7}'), cwd=tmp_path
        )
    assert (result.returncode, result.stderr) == (0, "a listener prints\n")
    assert shapes(result.stdout) == [
        "order.placed",
        "  - driver published",
        "  - ask_for_payment completed",
        "  payment.due",
        "    - driver published",
        "    - note completed",
        "    - pay completed",
        "    order.paid",
        "      - driver published",
    ]
