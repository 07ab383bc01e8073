"""What type checkers must refuse of requests: exactly the lines with a mark; checked, never run."""

from dataclasses import dataclass

from goevent import Event, GoEvent


class PriceAsked(Event, name="price.asked"):
    sku: str


class StockAsked(Event, name="stock.asked"):
    sku: str


class Price(Event, name="price"):
    cents: int


@dataclass
class Stock:
    count: int


bus = GoEvent()


@bus.responder(PriceAsked, Price)  # E: this one takes another event
async def of_another_event(event: StockAsked) -> Price:
    return Price(1)


@bus.responder(PriceAsked, Price)  # E: this one returns another answer
async def of_another_answer(event: PriceAsked) -> Stock:
    return Stock(1)


@bus.responder(PriceAsked, Price)  # E: this plain one returns another answer
def plain_of_another_answer(event: PriceAsked) -> int:
    return 1


@bus.responder(PriceAsked, Price)  # E: this one returns nothing
async def of_no_answer(event: PriceAsked) -> None: ...


@bus.responder(PriceAsked)  # E: this one takes another event, with any answer
async def of_another_event_alone(event: StockAsked) -> Price:
    return Price(1)


@bus.responder(PriceAsked, Price)  # E: this one takes nothing
async def of_no_event() -> Price:
    return Price(1)


@bus.responder(PriceAsked, Price, retries=3)  # E: there is no such option
async def with_unknown_option(event: PriceAsked) -> Price:
    return Price(1)


async def ask() -> None:
    price: Stock = await bus.request(PriceAsked("a"), Price)  # E: the answer is a Price
    assert (await bus.request(PriceAsked("a"), Price)).count  # E: a Price has no count
    number: str = await bus.request(PriceAsked("a"), int)  # E: the answer is an int
    names: list[int] = await bus.request(PriceAsked("a"), list[str])  # E: they are texts
    await bus.request(PriceAsked("a"))  # E: the type of the answer is missing
    await bus.request(PriceAsked("a"), Price(1))  # E: a value in place of a type
    await bus.request(PriceAsked("a"), Price, timeout="2")  # E: no number of seconds
    handle = await bus.dispatch(PriceAsked("a"), scope="everywhere")  # E: there is no such scope
    await handle.wait(scope="some")  # E: there is no such scope
    await handle.wait(scope="all", expect="3")  # E: no number of reports
    assert price
    assert number
    assert names
    assert handle.outcome.lost  # E: an outcome has no such attribute
