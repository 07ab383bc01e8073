"""Kafka: two services read the same orders in order per key; one event becomes a dead letter.

Run it with `kafka://host:9092`, or without a URL. Then it starts its own broker in this process,
the mock that confluent-kafka ships for tests. `kafka+confluent://...` uses the other client.
"""

import os
import sys

# --8<-- [start:setup]
import trio
from confluent_kafka import Producer

from goevent import Event, EventError, GoEvent

# --8<-- [end:setup]

ORDERS, STEPS = 8, 5
TOTAL = ORDERS * STEPS
RUN = os.getpid()


# --8<-- [start:event]
class OrderMoved(Event, name="order.moved", key="order"):
    order: str
    step: int


# --8<-- [end:event]


# --8<-- [start:services]
async def serve(url: str) -> tuple[dict[str, list[int]], list[str]]:
    billing = GoEvent(f"{url}?group=billing-{RUN}")
    mail = GoEvent(f"{url}?group=mail-{RUN}&max_deliveries=3&backoff=0.05")
    billed: dict[str, list[int]] = {}
    mailed: list[str] = []
    given_up: list[str] = []
    finished = trio.Event()

    def check() -> None:
        if sum(map(len, billed.values())) >= TOTAL and len(mailed) >= TOTAL - 1 and given_up:
            finished.set()

    @billing.listener(OrderMoved)
    def bill(event: OrderMoved) -> None:
        billed.setdefault(event.order, []).append(event.step)
        check()

    @mail.listener(OrderMoved)
    async def write(event: OrderMoved) -> None:
        if event.order == f"{RUN}-3" and event.step == 2:
            raise ValueError("there is no such address")
        mailed.append(event.order)
        check()

    @mail.on_error
    def look(error: EventError) -> None:
        if "dead letter" in str(error):
            given_up.append(str(error).rpartition(" after ")[2])
            check()

    async with billing, mail, GoEvent(url) as shop:
        await send(shop)
        with trio.fail_after(30):
            await finished.wait()
    return billed, given_up


# --8<-- [end:services]


# --8<-- [start:send]
async def send(shop: GoEvent) -> None:
    handles = [
        await shop.dispatch(OrderMoved(order=f"{RUN}-{order}", step=step))
        for step in range(STEPS)
        for order in range(ORDERS)
    ]
    for handle in handles:
        await handle.wait()  # the brokers have accepted it
        handle.raise_errors()
    print(f"accepted: {len(handles)} events, the first as {handles[0].receipt.partition('-')[0]}")


# --8<-- [end:send]


def main() -> None:
    if sys.argv[1:]:
        url = sys.argv[1]
    else:
        brokers = Producer(
            {"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 0}
        )
        (broker,) = brokers.list_topics(timeout=10).brokers.values()
        url = f"kafka://{broker.host}:{broker.port}"
    billed, given_up = trio.run(serve, url)
    in_order = all(steps == sorted(steps) for steps in billed.values())
    print(f"billed: {sum(map(len, billed.values()))}, each order in order: {in_order}")
    print(f"mail gave up after {given_up[0]}")


if __name__ == "__main__":
    main()
