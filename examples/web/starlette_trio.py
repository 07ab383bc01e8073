"""Starlette on hypercorn under Trio: one loop for the web server and the bus, and no portal.

Run it with `python examples/web/starlette_trio.py 8000`.
"""

# --8<-- [start:app]
import signal
import sys

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve  # pyright: ignore[reportUnknownVariableType]
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from goevent import Event, GoEvent


class OrderPaid(Event, name="order.paid"):
    order_id: int


def make_app(bus: GoEvent, invoices: list[int]) -> Starlette:
    @bus.listener(OrderPaid)
    async def send_invoice(event: OrderPaid) -> None:
        invoices.append(event.order_id)

    async def pay(request: Request) -> JSONResponse:
        handle = await bus.dispatch(OrderPaid(int(request.path_params["order_id"])))
        await handle.wait()
        return JSONResponse({"invoices": invoices})

    return Starlette(routes=[Route("/orders/{order_id}", pay, methods=["POST"])])


async def wait_for_signal() -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)


async def main(port: int) -> None:
    config = HypercornConfig()
    config.bind = [f"127.0.0.1:{port}"]
    bus = GoEvent()
    app = make_app(bus, [])
    async with bus:  # closes after the last request
        await serve(app, config, shutdown_trigger=wait_for_signal)  # type: ignore[arg-type]


# --8<-- [end:app]


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
