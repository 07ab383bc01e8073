"""A WSGI application, such as one of Django or Flask: its threads wait for events.

Run it with `python examples/web/wsgi_app.py 8000`, or make the application in each worker of
gunicorn.
"""

# --8<-- [start:app]
import sys
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import make_server

from goevent import Event, GoEvent
from goevent.portal import Portal, portal

Start = Callable[[str, list[tuple[str, str]]], object]


class OrderPaid(Event, name="order.paid"):
    order_id: int


def make_bus(invoices: list[int]) -> GoEvent:
    bus = GoEvent()

    @bus.listener(OrderPaid)
    async def send_invoice(event: OrderPaid) -> None:
        invoices.append(event.order_id)

    return bus


def make_app(events: Portal, invoices: list[int]) -> Callable[[dict[str, Any], Start], Any]:
    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        order_id = int(environ["PATH_INFO"].removeprefix("/orders/"))
        events.dispatch(OrderPaid(order_id)).wait(timeout=5.0)
        start("200 OK", [("Content-Type", "text/plain")])
        return [f"invoices: {invoices}\n".encode()]

    return app


def main(port: int) -> None:
    invoices: list[int] = []
    with (
        portal(make_bus(invoices)) as events,
        make_server("127.0.0.1", port, make_app(events, invoices)) as server,
    ):
        print(f"http://127.0.0.1:{server.server_port}/orders/7", flush=True)
        server.serve_forever()


# --8<-- [end:app]


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
    except KeyboardInterrupt:
        print("closed")
