"""The page tells the state of the bus, its failures and its dead letters as JSON."""

from typing import Literal

import msgspec
import pydantic
import pytest
import trio
from starlette.applications import Starlette
from starlette.routing import Mount
from tests.support.checks import ignore_error
from tests.support.redis_buses import Paid
from tests.support.streams_buses import StreamsBus, streams_server
from tests.support.web_pages import TOKEN, asking

from goevent import DecodeError, Event, EventRegistry, GoEvent
from goevent.web import Page

SECRET = "the-secret-of-an-event"


async def test_the_snapshot_is_json(bus: GoEvent) -> None:
    bus.subscribe(lambda event: None, "order.*", name="log")
    await bus.dispatch(Event("order.paid"))
    async with asking(Page(bus)) as client:
        told = (await client.get("/api/snapshot")).json()
    assert told["ledger"]["completed"] == 1
    assert told["listeners"][0]["name"] == "log"


async def test_failures_are_listed_with_their_tracebacks() -> None:
    bus = GoEvent()
    bus.on_error(ignore_error)

    async def fail(event: Event) -> None:
        raise ValueError(f"no {event.payload()['n']}")

    bus.subscribe(fail, "order.paid", name="book")
    async with bus, asking(Page(bus)) as client:
        for number in range(3):
            await bus.dispatch(Event("order.paid", {"n": number}))
        await bus.wait()
        told = (await client.get("/api/errors")).json()
        assert told["count"] == 3
        assert [each["reason"] for each in told["errors"]] == [
            "ValueError: no 2",
            "ValueError: no 1",
            "ValueError: no 0",
        ]
        one = (await client.get("/api/errors/2")).json()
        assert one["listener"] == "book"
        assert one["reason"] == "ValueError: no 1"
        assert 'raise ValueError(f"no {event.payload' in one["details"]
        assert (await client.get("/api/errors/4")).status_code == 404
        for wrong in ("0", "-1", "one", "\u0662", "9" * 5000):
            assert (await client.get(f"/api/errors/{wrong}")).status_code == 404


async def test_a_look_at_the_failures_does_not_keep_them_from_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = GoEvent()
    bus.subscribe(lambda event: 1 / 0, "order.paid", name="book")
    async with bus, asking(Page(bus)) as client:
        await (await bus.dispatch(Event("order.paid"))).wait()
        assert (await client.get("/api/errors")).json()["count"] == 1
    assert "nobody handled: book failed" in caplog.text


@pytest.mark.parametrize("show", [False, True])
async def test_bytes_of_messages_are_shown_only_if_asked_for(show: bool) -> None:
    bus = GoEvent()
    bus.on_error(ignore_error)

    def fail(event: Event) -> None:
        raise DecodeError("order.paid", "not an order", excerpt=f'{{"card": "{SECRET}"}}')

    bus.subscribe(fail, "order.paid")
    async with bus, asking(Page(bus, show_payloads=show)) as client:
        await (await bus.dispatch(Event("order.paid"))).wait()
        for path in ("/api/errors", "/api/errors/1"):
            text = (await client.get(path)).text
            assert "not an order" in text
            assert (SECRET in text) == show


@pytest.mark.parametrize("show", [False, True])
async def test_a_value_that_does_not_fit_is_shown_only_if_asked_for(show: bool) -> None:
    class Order(pydantic.BaseModel):
        total: int

    class Card(msgspec.Struct):
        kind: Literal["visa", "other"]

    registry = EventRegistry()
    registry.register_as("order.paid", Order)
    registry.register_as("card.used", Card)
    bus = GoEvent()
    bus.on_error(ignore_error)

    def decode_order(event: Event) -> None:
        registry.create("order.paid", event.payload())

    def decode_card(event: Event) -> None:
        registry.create("card.used", event.payload())

    bus.subscribe(decode_order, "order.paid")
    bus.subscribe(decode_card, "card.used")
    async with bus, asking(Page(bus, show_payloads=show)) as client:
        for name, field in (("order.paid", "total"), ("card.used", "kind")):
            payload = {field: f"{SECRET} in {SECRET}"}
            await (await bus.dispatch(Event(name, payload))).wait()
        for path in ("/api/errors", "/api/errors/1", "/api/errors/2"):
            text = (await client.get(path)).text
            assert "cannot decode" in text
            assert (SECRET in text) == show
        for number in ("1", "2"):
            assert "registry.create" in (await client.get(f"/api/errors/{number}")).text


async def test_a_name_that_is_not_unicode_breaks_nothing() -> None:
    bus = GoEvent()
    bus.on_error(ignore_error)
    bus.subscribe(lambda event: 1 / 0, "order.paid", name="half \ud800")
    async with bus, asking(Page(bus)) as client:
        await (await bus.dispatch(Event("order.paid"))).wait()
        told = (await client.get("/api/snapshot")).json()
        assert told["listeners"][0]["name"] == "half ?"
        for path in ("/api/errors", "/asyncapi.json", "/metrics"):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert "half ?" in answer.text


async def test_a_bus_without_dead_letters_says_so(bus: GoEvent) -> None:
    async with asking(Page(bus, actions=True)) as client:
        answer = await client.get("/api/dead-letters")
        assert answer.status_code == 404
        assert "keeps no dead letters" in answer.json()["error"]


@pytest.mark.parametrize("show", [False, True])
async def test_dead_letters_are_listed_replayed_and_discarded(show: bool) -> None:
    async with streams_server() as server:
        bus = StreamsBus(server.addr, max_deliveries=1)
        ran = bus.tries(fail=lambda event: True)
        page = Page(bus, actions=True, show_payloads=show)
        async with bus, asking(page) as client:
            for number in range(3):
                await bus.dispatch(Paid(n=number, text=SECRET))
            letters = await listed(client, 3)
            assert [each["event_name"] for each in letters] == ["order.paid"] * 3
            assert "ValueError: no 0" in letters[0]["reason"]
            assert (SECRET in (letters[0]["data"] or "")) == show
            answer = await client.post(
                "/api/dead-letters/discard", json={"ids": [letters[0]["id"]]}
            )
            assert answer.json() == {"done": 1}
            answer = await client.post("/api/dead-letters/replay", json={"ids": [letters[1]["id"]]})
            assert answer.json() == {"done": 1}
            answer = await client.post("/api/dead-letters/replay", json={"all": True})
            assert answer.json()["done"] >= 1
            while len(ran) < 5:
                await trio.testing.wait_all_tasks_blocked(0.01)


async def listed(client: object, count: int) -> list[dict[str, str]]:
    """Wait until there are so many dead letters; return them."""
    import httpx

    assert isinstance(client, httpx.AsyncClient)
    while True:
        told = (await client.get("/api/dead-letters")).json()
        if told["count"] >= count:
            letters: list[dict[str, str]] = told["letters"]
            return letters


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"ids": []}',
        b'{"ids": [1]}',
        b'{"ids": ["1"], "all": true}',
        b'{"ids": [""]}',
        b'{"id": "1"}',
        b'{"all": "yes"}',
        b'{"ids": ["%s"]}' % (b"x" * 600),
        b'{"ids": [%s]}' % b",".join([b'"1"'] * 101),
        b"\xff\xfe",
    ],
)
async def test_an_action_with_a_wrong_body_is_refused(bus: GoEvent, body: bytes) -> None:
    async with asking(Page(bus, actions=True)) as client:
        answer = await client.post(
            "/api/dead-letters/replay", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400


async def test_unknown_addresses_and_methods_are_refused(bus: GoEvent) -> None:
    async with asking(Page(bus, actions=True)) as client:
        assert (await client.get("/nothing")).status_code == 404
        answer = await client.post("/api/snapshot")
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
        assert (await client.delete("/")).status_code == 405
        answer = await client.post("/api/dead-letters/burn", json={"all": True})
        assert answer.status_code == 404


async def test_a_page_is_mounted_in_another_application(bus: GoEvent) -> None:
    app = Starlette(routes=[Mount("/bus", Page(bus, token=TOKEN))])
    async with asking(app) as client:
        assert (await client.get("/bus")).headers["location"].endswith("/bus/")
        assert (await client.get("/bus/")).status_code == 401
        assert (await client.get("/bus/page.css")).status_code == 200
        assert (await client.get("/bus/page.js")).status_code == 401
        answer = await client.post("/bus/login", data={"token": TOKEN})
        assert answer.headers["location"] == "/bus/"
        assert "Path=/bus/" in answer.headers["set-cookie"]
        assert (await client.get("/bus/api/snapshot")).status_code == 200


async def test_a_page_on_another_thread_names_the_reason(bus: GoEvent) -> None:
    page = Page(bus)

    def ask_elsewhere() -> None:
        async def ask() -> None:
            async with asking(page) as client:
                await client.get("/api/snapshot")

        trio.run(ask)

    with pytest.raises(RuntimeError, match="another thread"):
        await trio.to_thread.run_sync(ask_elsewhere)


def test_a_page_on_another_loop_names_the_reason() -> None:
    import asyncio

    async def ask() -> None:
        async with asking(Page(GoEvent())) as client:
            await client.get("/")

    with pytest.raises(RuntimeError, match=r"[Tt]rio"):
        asyncio.run(ask())
