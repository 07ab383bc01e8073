"""Writes the messages of conversations into their page: `python docs/_messages.py`."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import trio
from trio.testing import MockClock

from goevent import Config, Event, EventRegistry, GoEvent, MemoryDriver, MemoryHub
from goevent._conversations import messages
from goevent._conversations.messages import DirectMessage, ListenerFailure, encode_message
from goevent.drivers import DirectSent

PAGE = Path(__file__).parent / "inside" / "conversations.md"

ASKING = "9f86d081884c7d659a2feaa0c55ad015"
ANSWERING = "60303ae22b998861bce3b28f33eec1be"
ID = "0123456789abcdef"
BUS = "4f667e1c0a9b83d2"
TIMESTAMP = 1767225600
BUDGET_SECONDS = 2.0

EXAMPLES: dict[str, tuple[DirectMessage, ...]] = {
    "requests": (
        messages.Search("price.asked", ASKING),
        messages.Offer("price.asked", ANSWERING),
        messages.Started(ID, ANSWERING),
        messages.Reply(ID, msgspec.Raw(b'{"cents":250}')),
        messages.Failed(ID, "price", "KeyError", "'gold'", "failed", BUS),
        messages.Refused(ID, "closing", "the bus is closing"),
        messages.Cancel(ID, "the requester was cancelled, or its deadline has passed"),
    ),
    "life": (
        messages.Alive(ASKING, [ID], ["fedcba9876543210"]),
        messages.Unknown(ANSWERING, [ID]),
        messages.Leaving(ANSWERING),
    ),
    "deadlocks": (messages.Probe(ID, ASKING, ["fedcba9876543210"], "0f1e2d3c4b5a6978", 1),),
    "reports": (
        messages.Roll("price.changed", ASKING),
        messages.Present("price.changed", ANSWERING),
        messages.Received(ID, ANSWERING, BUS, 2),
        messages.Done(
            ID,
            ANSWERING,
            BUS,
            2,
            completed=3,
            errors=[ListenerFailure("index", "OSError", "the disk is full", "failed")],
            failed=1,
        ),
    ),
}


def sections() -> dict[str, str]:
    """Return each generated section under its name."""
    found = {name: "\n\n".join(map(described, group)) for name, group in EXAMPLES.items()}
    return {**found, "request": block(request_on_the_wire())}


def described(message: DirectMessage) -> str:
    """Return the heading, the keys and an example of a message."""
    cls = type(message)
    summary, keys = documented(cls)
    lines = ["| key | | |", "|---|---|---|"]
    for field in msgspec.structs.fields(cls):
        optional = "" if field.required else "may be missing"
        lines.append(f"| `{field.encode_name}` | {keys[field.name]} | {optional} |")
    kind = str(cls.__struct_config__.tag)
    example = block(json.loads(encode_message(message)))
    return f"### {kind}\n\n{summary}\n\n" + "\n".join(lines) + f"\n\n{example}"


def documented(cls: type[Any]) -> tuple[str, dict[str, str]]:
    """Return the first paragraph of a docstring, and the texts of the attributes."""
    text = inspect.cleandoc(cls.__doc__ or "")
    summary, _, attributes = text.partition("\n\nAttributes:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return " ".join(summary.split()), {name: " ".join(told.split()) for name, told in found}


def block(value: Any) -> str:
    """Return a value as a block of JSON, in lines that fit the page."""
    text = json.dumps(value)
    if len(text) > 110:
        text = json.dumps(value, indent=2)
    return f"```json\n{text}\n```"


# -- a request, taken off the wire


def request_on_the_wire() -> dict[str, Any]:
    """Return the message with which a bus asks another one."""
    sent: list[tuple[str, bytes]] = []
    trio.run(ask, sent, clock=MockClock())
    [data] = [data for _, data in sent if b'"event_data"' in data]
    request: dict[str, Any] = json.loads(data)
    fixed = {"handle_id": ID, "timestamp": TIMESTAMP, "origin": BUS, "reply_to": ASKING}
    return {name: fixed.get(name, value) for name, value in request.items()}


class Listening(MemoryDriver):
    """Notes each direct message that it sends."""

    def __init__(self, hub: MemoryHub, sent: list[tuple[str, bytes]]) -> None:
        super().__init__(hub)
        self._sent = sent

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        self._sent.append((address, data))
        super().send_directly(address, data, sent)


async def ask(sent: list[tuple[str, bytes]]) -> None:
    """Ask a bus, and note the messages."""
    registry, hub = EventRegistry(), MemoryHub()

    class PriceAsked(Event, name="price.asked", registry=registry):
        sku: str

    asking = GoEvent(Config(driver=Listening(hub, sent), registry=registry))
    answering = GoEvent(Config(driver=MemoryDriver(hub), registry=registry))
    answering.respond(lambda event: 250, PriceAsked, int)
    async with answering, asking:
        await asking.request(PriceAsked("tea"), int, timeout=BUDGET_SECONDS)


def written(page: str) -> str:
    """Return the page with its generated sections written anew from the code."""
    for name, text in sections().items():
        head, tail = f"<!-- messages: {name} -->", "<!-- end -->"
        before, _, rest = page.partition(head)
        _, _, after = rest.partition(tail)
        page = f"{before}{head}\n\n{text}\n\n{tail}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
