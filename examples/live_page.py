"""A bus with its live page: `python examples/live_page.py 8080`, then open the printed address.

Without a port the example serves the page at any free one, asks it for the state of the bus as a
browser would, and ends.
"""

import json
import random
import sys
from urllib.request import urlopen

# --8<-- [start:imports]
import trio
from starlette.applications import Starlette
from starlette.routing import Mount

from goevent import Event, GoEvent
from goevent.web import Page, serve_http

# --8<-- [end:imports]


class OrderPlaced(Event, name="order.placed"):
    order: int
    cents: int


bus = GoEvent()


@bus.listener(OrderPlaced, name="billing")
async def charge(event: OrderPlaced) -> None:
    await trio.sleep(0.001)
    if event.cents <= 0:
        raise ValueError(f"order {event.order} costs nothing")


@bus.listener("order.*", name="audit")
def write_audit(event: Event) -> None: ...


@bus.on_error
def note(error: object) -> None: ...


async def place_orders(count: float) -> None:
    order = 0
    while order < count:
        await bus.dispatch(OrderPlaced(order=order, cents=random.randrange(-1, 50)))  # noqa: S311
        await trio.sleep(0.001)
        order += 1


def show(url: str) -> None:
    with urlopen(f"{url}api/snapshot") as answer:  # noqa: S310 - the page of this program
        snapshot = json.load(answer)
    print(snapshot["state"], [each["name"] for each in snapshot["listeners"]])
    with urlopen(url) as answer:  # noqa: S310
        print(answer.status, answer.headers["content-type"])


# --8<-- [start:mount]
app = Starlette(routes=[Mount("/bus", Page(bus))])


# --8<-- [end:mount]
# --8<-- [start:serve]
async def main(port: int) -> None:
    async with bus, trio.open_nursery() as nursery:
        url = await nursery.start(serve_http, Page(bus), f"127.0.0.1:{port}")
        print(f"open {url}" if port else "served")
        # --8<-- [end:serve]
        if port:
            await place_orders(float("inf"))
        await place_orders(20)
        await bus.wait()
        await trio.to_thread.run_sync(show, url)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 0)
