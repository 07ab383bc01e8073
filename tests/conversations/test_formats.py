"""Conversations between buses whose events have the form of messages of FastStream."""

from __future__ import annotations

import pytest
from tests.support.nats_server import nats_server
from tests.support.redis_buses import REGISTRY, Paid

from goevent import Config, GoEvent


@pytest.mark.parametrize("scheme", ["nats", "nats+js"])
async def test_a_request_keeps_its_envelope(scheme: str) -> None:
    async with nats_server() as server:
        group = "group=shop&" if scheme == "nats+js" else ""
        url = f"{scheme}://{server.addr}?{group}format=faststream"
        asking, answering = (GoEvent(Config(driver=url, registry=REGISTRY)) for _ in range(2))
        answering.respond(lambda event: "paid", Paid, str)
        async with answering, asking:
            assert await asking.request(Paid(), str) == "paid"


async def test_other_buses_report_on_an_event() -> None:
    async with nats_server() as server:
        url = f"nats://{server.addr}?format=faststream"
        here, there = (GoEvent(Config(driver=url, registry=REGISTRY)) for _ in range(2))
        there.subscribe(lambda event: None, Paid)
        async with there, here:
            handle = await here.dispatch(Paid(), scope="all")
            await handle.wait(scope="all", expect=1)
    assert str(handle.outcome) == "complete"
    assert [report.completed for report in handle.remote] == [1]
