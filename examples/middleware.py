"""Middleware around dispatches and listeners: your own, and the shipped ones."""

# --8<-- [start:setup]
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar

import trio

from goevent import Config, Delivery, DispatchHandle, Event, GoEvent, Veto
from goevent.middleware import Deduplicate, LogEvents, RateLimit


class OrderPlaced(Event, name="order.placed"):
    order: str


# --8<-- [end:setup]


# --8<-- [start:own]
request: ContextVar[str] = ContextVar("request")


class Tracing:
    """Carries the id of a request to the listeners of its events, even on other buses."""

    def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
        handle.headers["request"] = request.get()
        yield

    def around_call(self, delivery: Delivery, /) -> Iterator[None]:
        request.set(delivery.headers["request"])
        yield


class OpeningHours:
    """Vetoes events while the shop is closed."""

    closed = False

    def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
        if self.closed:
            raise Veto("the shop is closed")
        yield


class Kettle:
    """Lets one listener at a time use the only kettle."""

    def __init__(self) -> None:
        self.lock = trio.Lock()

    async def around_call(self, delivery: Delivery, /) -> AsyncIterator[None]:
        async with self.lock:
            print(f"  {delivery.listener} has the kettle")
            yield
        print(f"  {delivery.listener} is done")


async def tea_shop() -> None:
    hours = OpeningHours()
    bus = GoEvent(Config(middleware=(Tracing(), hours)))
    kettle = Kettle()

    @bus.listener(OrderPlaced, middleware=(kettle,), name="black")
    @bus.listener(OrderPlaced, middleware=(kettle,), name="green")
    async def brew(event: OrderPlaced) -> None:
        print(f"  {request.get()}: {event.order}")
        await trio.sleep(0.01)

    async with bus:
        request.set("request 1")
        handle = await bus.dispatch(OrderPlaced(order="two teas"))
        await handle.wait()

        hours.closed = True
        handle = await bus.dispatch(OrderPlaced(order="one more"))
        print(*handle.errors)
    # --8<-- [end:own]


# --8<-- [start:shipped]
async def mail_room() -> None:
    bus = GoEvent(Config(middleware=(LogEvents(), Deduplicate("order"))))

    @bus.listener(OrderPlaced, middleware=(RateLimit(2, per=60, excess="veto"),), name="mail")
    async def mail(event: OrderPlaced) -> None: ...

    async with bus:
        for order in ("A-1", "A-2", "A-1", "A-3"):
            handle = await bus.dispatch(OrderPlaced(order=order))
            await handle.wait()
    # --8<-- [end:shipped]


def show_the_log() -> None:
    # --8<-- [start:log]
    shown = logging.StreamHandler(sys.stdout)
    shown.setFormatter(logging.Formatter("%(stage)s %(listener)s %(reason)r %(outcome)s"))
    logger = logging.getLogger("goevent.middleware")
    logger.addHandler(shown)
    logger.setLevel(logging.DEBUG)
    # --8<-- [end:log]


if __name__ == "__main__":
    trio.run(tea_shop)
    show_the_log()
    trio.run(mail_room)
