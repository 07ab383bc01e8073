"""Metrics of a bus for Prometheus, served by a thread of their own."""

# --8<-- [start:setup]
from prometheus_client import REGISTRY, start_http_server

from goevent import Config, Event, GoEvent
from goevent.telemetry.prometheus import RunDurations, SnapshotCollector


class OrderPaid(Event, name="order.paid"):
    cents: int


bus = GoEvent(Config(middleware=(RunDurations(bus="orders"),)))
REGISTRY.register(SnapshotCollector(bus, name="orders"))
# --8<-- [end:setup]

from urllib.request import urlopen  # noqa: E402

import trio  # noqa: E402


@bus.listener(OrderPaid, name="bill")
async def bill(event: OrderPaid) -> None: ...


@bus.listener(OrderPaid, name="refuse_free_orders")
def refuse_free_orders(event: OrderPaid) -> None:
    if event.cents == 0:
        raise ValueError("nothing to pay")


@bus.on_error
def report(error: object) -> None: ...


SHOWN = ("goevent_deliveries_total", "goevent_mailbox", "goevent_run_duration_seconds_count")


def scrape(port: int) -> list[str]:
    with urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        return str(response.read(), "utf-8").splitlines()


async def main() -> None:
    # --8<-- [start:serve]
    server, thread = start_http_server(0, "127.0.0.1")  # 0 is any free port
    async with bus:
        # --8<-- [end:serve]
        for cents in (500, 0, 700):
            await bus.dispatch(OrderPaid(cents=cents))
        await bus.wait()
        for line in await trio.to_thread.run_sync(scrape, server.server_port):
            if line.startswith(SHOWN):
                print(line)
    server.shutdown()
    thread.join()
    server.server_close()


if __name__ == "__main__":
    trio.run(main)
