"""FastAPI on asyncio: the bus runs in a thread of its own, and endpoints await events.

Run it with `uvicorn fastapi_app:app --app-dir examples/web`.
"""

# --8<-- [start:app]
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio
from fastapi import FastAPI, Request

from goevent import Event, GoEvent
from goevent.portal import Portal, portal


class OrderPaid(Event, name="order.paid"):
    order_id: int


bus = GoEvent()
invoices: list[int] = []


@bus.listener(OrderPaid)
async def send_invoice(event: OrderPaid) -> None:
    await trio.sleep(0.01)  # listeners run on Trio, in the bus's thread
    invoices.append(event.order_id)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with portal(bus) as app.state.events:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders/{order_id}")
async def pay(order_id: int, request: Request) -> dict[str, object]:
    events: Portal = request.app.state.events
    await events.dispatch_async(OrderPaid(order_id))  # returns when the bus has the event
    return {"accepted": order_id}


@app.post("/orders/{order_id}/now")
async def pay_now(order_id: int, request: Request) -> dict[str, object]:
    events: Portal = request.app.state.events
    handle = await events.dispatch(OrderPaid(order_id))  # returns when all listeners are done
    return {"invoices": invoices, "errors": [str(error) for error in handle.errors]}


# --8<-- [end:app]


@app.post("/blocking/{order_id}")
def pay_in_a_thread(order_id: int, request: Request) -> dict[str, object]:
    events: Portal = request.app.state.events
    events.dispatch(OrderPaid(order_id)).wait(timeout=5.0)
    return {"invoices": invoices}
