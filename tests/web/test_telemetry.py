"""The page serves the AsyncAPI document, the metrics and the probes, each where it is installed."""

import sys

import pytest
import trio
import yaml
from tests.support.web_pages import TOKEN, asking
from trio.testing import MockClock

from goevent import Event, GoEvent
from goevent.telemetry.health import Health
from goevent.telemetry.prometheus import CONTENT_TYPE
from goevent.web import Page


async def test_the_asyncapi_document_is_served_as_json_and_yaml(bus: GoEvent) -> None:
    bus.subscribe(lambda event: None, "order.paid", name="audit")
    async with asking(Page(bus)) as client:
        as_json = (await client.get("/asyncapi.json")).json()
        assert as_json["asyncapi"].startswith("3.")
        assert (await client.get("/asyncapi")).json() == as_json
        assert yaml.safe_load((await client.get("/asyncapi.yaml")).text) == as_json
        shown = await client.get("/asyncapi", headers={"Accept": "text/html"})
        assert shown.headers["location"] == "./#asyncapi"


async def test_a_missing_extra_is_named(bus: GoEvent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "goevent.asyncapi", None)
    async with asking(Page(bus)) as client:
        answer = await client.get("/asyncapi.json")
        assert answer.status_code == 501
        assert "goevent[asyncapi]" in answer.json()["error"]


async def test_metrics_need_the_token(bus: GoEvent) -> None:
    async with asking(Page(bus, token=TOKEN)) as client:
        assert (await client.get("/metrics")).status_code == 401


async def test_the_metrics_are_those_of_the_bus(bus: GoEvent) -> None:
    bus.subscribe(lambda event: None, "order.paid", name="audit")
    await bus.dispatch(Event("order.paid"))
    async with asking(Page(bus)) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"] == CONTENT_TYPE
    assert 'listener="audit"' in answer.text


async def test_probes_need_no_token_and_tell_strangers_no_reasons() -> None:
    bus = GoEvent()
    async with asking(Page(bus, token=TOKEN)) as client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        for host in ("localhost", "10.0.0.7:8080", "pod.example"):
            answer = await client.get("/health/ready", headers={"Host": host})
            assert answer.status_code == 503
            assert answer.json() == {"healthy": False}
        told = (await client.get("/health/ready", headers=headers)).json()
        assert told == {"healthy": False, "reasons": ["the bus is not open yet"]}
        async with bus:
            for path in ("/health/live", "/health/ready"):
                answer = await client.get(path)
                assert (answer.status_code, answer.json()) == (200, {"healthy": True})


async def test_the_limits_of_the_probes_can_be_chosen(mock_clock: MockClock) -> None:
    bus = GoEvent()
    started = trio.Event()

    async def hang(event: Event) -> None:
        started.set()
        await trio.sleep_forever()

    bus.subscribe(hang, "order.paid", name="stuck")
    async with bus:
        page = Page(bus, health=Health(bus, stuck_after=5.0, clock=trio.current_time))
        async with asking(page) as client:
            await bus.dispatch(Event("order.paid"))
            await started.wait()
            assert (await client.get("/health/live")).status_code == 200
            mock_clock.jump(6)
            answer = await client.get("/health/live")
            assert answer.status_code == 503
            assert "stuck" in answer.json()["reasons"][0]
        await bus.close(timeout=0)
