"""Forks with an open bus on NATS: the server sees nothing of the child, and the bus works on."""

from __future__ import annotations

import json
import os
import signal
from typing import Any
from urllib.request import urlopen

import pytest
import trio
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.forks import CHILD_SECONDS, calls_of, in_child, not_refused
from tests.support.limits import HANG_SECONDS
from tests.support.nats_server import nats_server
from tests.support.redis_buses import Paid, until
from tests.support.redis_server import free_port

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def traffic(port: int) -> list[dict[str, Any]]:
    """Return the open connections of a server, each with the traffic so far."""
    with urlopen(f"http://127.0.0.1:{port}/connz") as answer:
        connections = json.load(answer)["connections"]
    wanted = ("cid", "in_msgs", "in_bytes", "subscriptions")
    return [{key: each[key] for key in wanted} for each in connections]


def _ignore(address: str, data: bytes) -> None:
    """Ignore a direct message: none comes."""


@pytest.mark.parametrize("durable", [False, True])
async def test_the_server_sees_nothing_of_a_child(durable: bool) -> None:
    monitor = free_port()
    async with nats_server("-m", str(monitor)) as server:
        url = f"nats+js://{server.addr}?group=forks" if durable else server.url
        bus = FastStreamBus(url)
        other = FastStreamBus(url.replace("forks", "others"))
        got = other.seen()
        registration = bus.subscribe(lambda event: None, Paid)
        async with other, bus:
            (handle,) = await accepted(bus, 0)
            await until(lambda: len(got) == 1)
            calls = calls_of(bus, Paid(n=9), registration, handle)
            calls = {**calls, "open addresses": lambda: bus.driver.open_addresses(["a"], _ignore)}
            if durable:
                calls = {**calls, "dead letters": bus.driver.dead_letters.list}
            before = traffic(monitor)
            assert in_child(lambda: not_refused(calls)) == "{}"
            if not durable:  # JetStream's consumers ask for events all the time
                assert traffic(monitor) == before
            assert [each["cid"] for each in traffic(monitor)] == [each["cid"] for each in before]
            await accepted(bus, *range(1, 20))
            await until(lambda: sorted(event.n for event in got) == [*range(20)])
            assert bus.errors == other.errors == ()


def test_a_child_that_exits_ends_neither_the_thread_nor_the_connection() -> None:
    parent = os.getpid()

    async def main() -> None:
        async with nats_server() as server:
            bus = FastStreamBus(server.url)
            try:
                async with bus:
                    await accepted(bus, 0)
                    pid = os.fork()
                    if pid == 0:
                        signal.alarm(CHILD_SECONDS)
                        raise SystemExit(4)
                    with trio.fail_after(HANG_SECONDS):
                        _, status = await trio.to_thread.run_sync(os.waitpid, pid, 0)
                    assert os.waitstatus_to_exitcode(status) == 4
                    await accepted(bus, *range(1, 20))
                    assert bus.errors == ()
            finally:
                if os.getpid() != parent:
                    os._exit(4)  # without the server's end, which is the parent's

    try:
        trio.run(main)
    finally:
        if os.getpid() != parent:
            os._exit(97)
