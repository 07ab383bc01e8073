"""`goevent describe`: all that the code of a program tells without a broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.command import goevent_command

PROGRAM = """
from dataclasses import dataclass

import pydantic

from goevent import Config, Event, EventRegistry, GoEvent, Retry, register_event_type

registry = EventRegistry()
bus = GoEvent(Config(driver="redis+streams://me:hunter2@127.0.0.1:1?group=billing",
                     registry=registry))

class Paid(Event, name="order.paid", key="order", registry=registry):
    order: int
    note: str = ""

@register_event_type(name="order.sent.late", registry=registry)
@dataclass
class Sent:
    order: int

register_event_type(pydantic.create_model("Rated", stars=(int, ...)), name="order.rated",
                    registry=registry)

class Odd(Event, name="order.odd", registry=registry):
    thing: "type"

def only_big(event):
    return True

@bus.listener(Paid, when=only_big)
def note(event): ...

@bus.listener("order.*", retry=Retry(attempts=3), timeout=5.0, concurrency=4)
async def follow(event): ...

@bus.listener("order.sent.late", thread=True, name="[red]print")
def report(event): ...
"""

RESPONDER = """
from goevent import Event, GoEvent

bus = GoEvent()

class Price(Event, name="price"):
    cents: int

@bus.responder("price.asked", Price)
async def price(event): ...

@bus.listener("**")
async def note(event): ...
"""


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("shop")
    (directory / "shop.py").write_text(PROGRAM)
    result = goevent_command("describe", "shop:bus", "--json", cwd=directory, fresh=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "hunter2" not in result.stdout
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_listeners_have_their_way_to_run_and_their_options(description: dict[str, Any]) -> None:
    note, follow, report = description["listeners"]
    assert (note["name"], note["events"], note["runs"]) == ("note", ["order.paid"], "inline")
    assert note["options"] == {"when": "shop.only_big"}
    assert follow["runs"] == "mailbox"
    assert follow["options"]["timeout"] == 5.0
    assert follow["options"]["concurrency"] == 4
    assert "attempts=3" in follow["options"]["retry"]
    assert (report["name"], report["runs"]) == ("[red]print", "mailbox, thread")


def test_event_types_have_their_class_and_their_schema(description: dict[str, Any]) -> None:
    types = {each["event"]: each for each in description["event_types"]}
    assert types["order.paid"]["class"] == "shop.Paid"
    assert types["order.paid"]["key"] == "order"
    paid = types["order.paid"]["schema"]["$defs"]["Paid"]
    assert paid["required"] == ["order"]
    sent = types["order.sent.late"]["schema"]["$defs"]["Sent"]
    assert sent["properties"] == {"order": {"type": "integer"}}
    assert types["order.rated"]["schema"]["properties"]["stars"]["type"] == "integer"


def test_a_class_without_a_schema_says_so(description: dict[str, Any]) -> None:
    types = {each["event"]: each for each in description["event_types"]}
    assert "has no JSON schema" in types["order.odd"]["schema"]["description"]


def test_routes_lead_from_names_to_listeners(description: dict[str, Any]) -> None:
    assert description["routes"] == {
        "order.odd": ["follow"],
        "order.paid": ["note", "follow"],
        "order.rated": ["follow"],
        "order.sent.late": ["[red]print"],
    }


def test_the_driver_has_its_settings_and_promises(description: dict[str, Any]) -> None:
    driver = description["driver"]
    assert (driver["class"], driver["group"]) == ("RedisStreamsDriver", "billing")
    assert driver["capabilities"]["durable"] is True
    assert driver["settings"]["max_deliveries"] == 5
    assert not {"password", "url"} & driver["settings"].keys()


def test_a_url_shows_the_driver_only() -> None:
    result = goevent_command("describe", "nats+js://a:hunter2@127.0.0.1:1?group=g", "--json")
    found = json.loads(result.stdout)
    assert found.keys() == {"target", "driver"}
    assert found["target"] == "nats+js://***@127.0.0.1:1"
    assert "hunter2" not in result.stdout


def test_tables_in_a_pipe_have_no_colour(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(PROGRAM)
    result = goevent_command("describe", "shop:bus", cwd=tmp_path, env={"FORCE_COLOR": "1"})
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    assert "order.paid       shop.Paid" in result.stdout
    assert "order: integer, note?: string" in result.stdout
    assert "[red]print" in result.stdout


def test_a_responder_responds_to_an_event_and_listens_to_none(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(RESPONDER)
    result = goevent_command("describe", "shop:bus", "--json", cwd=tmp_path, fresh=True)
    found = json.loads(result.stdout)
    price, _ = found["listeners"]
    assert (price["events"], price["responds_to"]) == ([], "price.asked")
    assert price["answer"] == "shop.Price"
    assert found["responders"] == {"price.asked": "price"}
    assert found["routes"] == {"price": ["note"]}
    shown = goevent_command("describe", "shop:bus", cwd=tmp_path).stdout
    assert "responds to price.asked with Price" in shown
    assert "goevent.requests" not in shown
