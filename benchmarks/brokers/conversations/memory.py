"""Within one process: a request beside a dispatch with its wait, a stream beside a channel."""

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import trio

from benchmarks.brokers.contender import Measured, Place
from benchmarks.brokers.conversations.goevent import REGISTRY, OrderPaid, Price, PriceAsked
from goevent import Config, GoEvent

BUFFER = 100


def _measure(function: Callable[[int], Awaitable[None]], count: int) -> Measured:
    async def main() -> Measured:
        await function(count // 10)  # the warm-up
        start = time.perf_counter()
        await function(count)
        return Measured(1e6 * (time.perf_counter() - start) / count)

    return trio.run(main)


def request(place: Place, count: int) -> Measured:
    """Return the time of a request within one bus, in us."""

    async def ask(times: int) -> None:
        bus, event = GoEvent(Config(registry=REGISTRY)), PriceAsked("A")

        @bus.responder(PriceAsked, Price)
        async def price(event: PriceAsked) -> Price:
            return Price(250)

        async with bus:
            for _ in range(times):
                await bus.request(event, Price)

    return _measure(ask, count)


def dispatch(place: Place, count: int) -> Measured:
    """Return the time of a dispatch and of the wait for its listener, in us."""

    async def send(times: int) -> None:
        bus, event = GoEvent(Config(registry=REGISTRY)), PriceAsked("A")

        @bus.listener(PriceAsked)
        async def take(event: PriceAsked) -> None: ...

        async with bus:
            for _ in range(times):
                handle = await bus.dispatch(event)
                await handle.wait()

    return _measure(send, count)


def stream(place: Place, count: int) -> Measured:
    """Return the time of an event in a stream, in us."""

    async def send(times: int) -> None:
        bus, event = GoEvent(Config(registry=REGISTRY)), OrderPaid(1)

        async def dispatch_all() -> None:
            for _ in range(times):
                await bus.dispatch(event)

        left = times
        async with (
            bus,
            bus.stream(OrderPaid, buffer=BUFFER) as events,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(dispatch_all)
            async for _ in events:
                left -= 1
                if not left:
                    break

    return _measure(send, count)


def channel(place: Place, count: int) -> Measured:
    """Return the time of a value in a memory channel of Trio, in us."""

    async def send(times: int) -> None:
        sender, receiver = trio.open_memory_channel[OrderPaid](BUFFER)
        event = OrderPaid(1)

        async def send_all() -> None:
            async with sender:
                for _ in range(times):
                    await sender.send(event)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            async with aclosing(receiver):
                async for _ in receiver:
                    pass

    return _measure(send, count)
