"""What type checkers must accept of requests; checked, never run."""

from dataclasses import dataclass
from typing import assert_type

from goevent import Event, GoEvent, RemoteReport


class PriceAsked(Event, name="price.asked"):
    sku: str


class Price(Event, name="price"):
    cents: int


@dataclass
class Stock:
    count: int


bus = GoEvent()


@bus.responder(PriceAsked, Price, concurrency=10, timeout=2.0)
async def price(event: PriceAsked) -> Price:
    return Price(len(event.sku))


@bus.responder("stock.asked", Stock)
def stock(event: Event) -> Stock:
    return Stock(1)


@bus.responder("any.asked")
async def anything(event: Event) -> dict[str, int]:
    return {}


async def ask() -> None:
    assert_type(await price(PriceAsked("a")), Price)
    assert_type(await bus.request(PriceAsked("a"), Price), Price)
    assert_type(await bus.request(Event("stock.asked", {}), Stock, timeout=None), Stock)
    assert_type(await bus.request(PriceAsked("a"), list[int], timeout=1), list[int])
    registration = bus.respond(stock, "stock.asked", Stock, thread=True)
    await registration.ready()
    handle = await bus.dispatch(PriceAsked("a"), scope="all")
    await handle.wait(scope="all", timeout=1, expect=2)
    assert_type(handle.remote, tuple[RemoteReport, ...])
    assert_type(handle.outcome.missing, int)
