"""The commands on every broker: each works, or says in one line that the driver cannot."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
from tests.support.command import run_goevent, started_goevent
from tests.support.kafka_mock import kafka_mock
from tests.support.limits import HANG_SECONDS
from tests.support.mqtt_server import mqtt_server
from tests.support.nats_server import nats_server
from tests.support.rabbit_server import rabbit_sandbox
from tests.support.redis_server import redis_server

from goevent import Event, GoEvent

NAME = "order.paid"


class Urls(NamedTuple):
    """The URLs of a server: for a bus that listens, and for commands, which name no group."""

    bus: str
    command: str


@asynccontextmanager
async def jetstream() -> AsyncGenerator[Urls]:
    async with nats_server() as server:
        yield Urls(f"nats+js://{server.addr}?group=shop", f"nats+js://{server.addr}")


@asynccontextmanager
async def nats() -> AsyncGenerator[Urls]:
    async with nats_server() as server:
        yield Urls(server.url, server.url)


@asynccontextmanager
async def rabbit() -> AsyncGenerator[Urls]:
    async with rabbit_sandbox("shop") as sandbox:
        yield Urls(sandbox.url("shop"), sandbox.url())


@asynccontextmanager
async def kafka() -> AsyncGenerator[Urls]:
    async with kafka_mock() as mock:
        await trio.to_thread.run_sync(mock.topic, f"goevent.{NAME}")
        url = f"kafka://{mock.addr}"
        yield Urls(f"{url}?group=shop", url)


@asynccontextmanager
async def mqtt() -> AsyncGenerator[Urls]:
    async with mqtt_server() as server:
        yield Urls(server.url(), server.url())


@asynccontextmanager
async def redis() -> AsyncGenerator[Urls]:
    async with redis_server() as server:
        yield Urls(server.url, server.url)


class Broker(NamedTuple):
    """A broker, and the commands of `OF_GROUPS` that its URL answers."""

    running: Callable[[], AbstractAsyncContextManager[Urls]]
    answers: tuple[str, ...] = ()
    has_groups: bool = True


BROKERS = {
    "jetstream": Broker(jetstream, answers=("lag", "dead", "top")),
    # A URL does not tell the events of the group; a bus with listeners does.
    "rabbit": Broker(rabbit),
    "kafka": Broker(kafka, answers=("lag", "top")),
    "nats": Broker(nats, has_groups=False),
    "mqtt": Broker(mqtt, has_groups=False),
    "redis": Broker(redis, has_groups=False),
}
OF_GROUPS = {"lag": (), "dead": ("list",), "top": ("--once",)}
PROGRAM = """
from goevent import Event, GoEvent

bus = GoEvent({url!r})


@bus.listener("order.paid")
def note(event: Event) -> None: ...
"""


@pytest.mark.parametrize("broker", BROKERS.values(), ids=BROKERS.keys())
async def test_each_command_works_or_says_that_the_driver_cannot(
    broker: Broker, tmp_path: Path
) -> None:
    arrived = trio.Event()
    async with broker.running() as urls, GoEvent(urls.bus) as bus:

        @bus.listener(NAME)
        def note(event: Event) -> None:
            if event.payload() == {"by": "the command"}:
                arrived.set()

        await bus.ready()
        published = await run_goevent(
            *("publish", urls.command, NAME, '{"by": "the command"}', "--wait"), fresh=True
        )
        assert (published.returncode, published.stderr) == (0, "")
        with trio.fail_after(HANG_SECONDS):
            await arrived.wait()
        checked = await run_goevent("check", urls.command, "--json", fresh=True)
        assert checked.returncode == 0, checked
        line = await tailed(bus, urls.command)
        assert (line["event"], line["payload"]) == (NAME, {"by": "a bus"})
        for name, options in OF_GROUPS.items():
            asked = (name, *options, urls.command, "--group", "shop", "--json")
            result = await run_goevent(*asked, fresh=name in broker.answers)
            if name in broker.answers:
                assert (result.returncode, result.stderr) == (0, ""), name
                assert json.loads(result.stdout)
            else:
                assert (result.returncode, result.stdout) == (2, ""), name
                assert len(result.stderr.splitlines()) == 1
                assert "Traceback" not in result.stderr
        if broker.has_groups:
            (tmp_path / "shop.py").write_text(PROGRAM.format(url=urls.bus))
            result = await run_goevent("lag", "shop:bus", "--json", cwd=tmp_path)
            assert (result.returncode, result.stderr) == (0, "")
            assert [each["event_name"] for each in json.loads(result.stdout)["backlogs"]] == [NAME]


async def tailed(bus: GoEvent, url: str) -> dict[str, object]:
    """Return the first event that `goevent tail` shows of those that a bus publishes meanwhile."""
    tail = started_goevent("tail", url, "order.*", "--json", "--count", "1")
    async with tail as process, trio.open_nursery() as nursery:

        async def publish() -> None:
            while True:
                await (await bus.dispatch(Event(NAME, {"by": "a bus"}))).wait()
                await trio.sleep(0.1)

        nursery.start_soon(publish)
        assert process.stdout is not None
        text = b""
        with trio.fail_after(HANG_SECONDS):
            async for data in process.stdout:
                text += data
        nursery.cancel_scope.cancel()
    found: dict[str, object] = json.loads(text)
    return found
