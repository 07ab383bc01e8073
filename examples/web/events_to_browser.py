"""Server-sent events: a browser follows the events of a bus, on Starlette under Trio.

Run it with `python examples/web/events_to_browser.py 8000`, open http://127.0.0.1:8000 and pay an
order: `curl -X POST http://127.0.0.1:8000/orders/7`.
"""

import signal
import sys
from collections.abc import AsyncGenerator

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve  # pyright: ignore[reportUnknownVariableType]
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.routing import Route

from goevent import Event, GoEvent

PAGE = """<!doctype html><title>Orders</title><ul id="orders"></ul><script>
new EventSource("events").onmessage = message => {
  const item = document.createElement("li");
  item.textContent = `order ${message.data} is paid`;
  orders.append(item);
};
</script>"""


class OrderPaid(Event, name="order.paid"):
    order_id: int


def make_app(bus: GoEvent) -> Starlette:
    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(PAGE)

    async def pay(request: Request) -> JSONResponse:
        handle = await bus.dispatch(OrderPaid(int(request.path_params["order_id"])))
        return JSONResponse({"listeners": handle.listeners})

    # --8<-- [start:events]
    async def lines() -> AsyncGenerator[str]:
        # A browser that is too slow misses the oldest events, and holds up nobody.
        async with bus.stream(OrderPaid, buffer=100, overflow="drop_old") as events:
            yield ": the stream has begun\n\n"
            async for event in events:
                yield f"data: {event.order_id}\n\n"

    async def follow(request: Request) -> StreamingResponse:
        return StreamingResponse(lines(), media_type="text/event-stream")

    # --8<-- [end:events]

    return Starlette(
        routes=[
            Route("/", page),
            Route("/events", follow),
            Route("/orders/{order_id}", pay, methods=["POST"]),
        ]
    )


async def wait_for_signal() -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)


async def main(port: int) -> None:
    config = HypercornConfig()
    config.bind = [f"127.0.0.1:{port}"]
    async with GoEvent() as bus:
        await serve(make_app(bus), config, shutdown_trigger=wait_for_signal)  # type: ignore[arg-type]


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
