"""The page serves the AsyncAPI document, the metrics and the probes, each where it is installed."""

import sys

import pytest
import yaml
from tests.support.web_pages import TOKEN, asking

from goevent import GoEvent
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
