"""Buses on durable brokers that stop: they release the events that no listener has begun."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import pytest
import trio
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.faststream_durable import DURABLE
from tests.support.kafka_mock import kafka_mock
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Paid, until
from tests.support.redis_server import fault_proxy


@asynccontextmanager
async def kafka(scheme: str) -> AsyncGenerator[str]:
    async with kafka_mock() as mock:
        yield f"{scheme}://{mock.addr}?claim_idle=1.2&backoff=0.02&max_deliveries=2"


BROKERS: dict[str, Callable[[], AbstractAsyncContextManager[str]]] = {
    **DURABLE,
    "kafka": partial(kafka, "kafka"),
    "confluent": partial(kafka, "kafka+confluent"),
}


def pending(bus: FastStreamBus) -> int:
    return sum(backlog.pending for backlog in bus.backlogs())


@pytest.mark.parametrize("kind", BROKERS)
async def test_stop_counts_as_a_delivery_only_for_events_that_were_begun(kind: str) -> None:
    begun: list[int] = []

    async def stuck(event: Paid) -> None:
        begun.append(event.n)
        await trio.sleep_forever()

    async with BROKERS[kind]() as plain:
        url = f"{plain}&group=shop"
        first = FastStreamBus(url)
        first.subscribe(stuck, Paid, mailbox=3)
        async with first:
            await accepted(first, *range(10))
            await until(lambda: begun and pending(first) == 10)
            await first.close(timeout=0.1)
        bus = FastStreamBus(url)
        tries = bus.tries(fail=lambda _: False)
        async with bus:
            await until(lambda: len(tries) >= 10)
            await until(lambda: pending(bus) == 0)
        assert len(begun) == 1
        assert sorted(tries) == [(n, 1 + begun.count(n)) for n in range(10)]


@asynccontextmanager
async def behind_proxy(kind: str) -> AsyncGenerator[tuple[str, BlackHole]]:
    async with DURABLE[kind]() as url:
        port = urlsplit(url).port or 0
        async with fault_proxy(port) as proxy:

            def hole(swallow: bool) -> None:
                if swallow:
                    proxy.swallow()
                else:
                    proxy.reset()
                    proxy.pass_on()

            yield url.replace(str(port), str(proxy.port)), hole


@asynccontextmanager
async def slow_mock(scheme: str) -> AsyncGenerator[tuple[str, BlackHole]]:
    async with kafka_mock() as mock:
        yield f"{scheme}://{mock.addr}?", lambda swallow: mock.slow(20_000 if swallow else 0)


BlackHole = Callable[[bool], None]
BLACK_HOLES: dict[str, Callable[[], AbstractAsyncContextManager[tuple[str, BlackHole]]]] = {
    **{kind: partial(behind_proxy, kind) for kind in DURABLE},
    "kafka": partial(slow_mock, "kafka"),
    "confluent": partial(slow_mock, "kafka+confluent"),
}
"""Each yields a URL and a function that makes the broker a black hole, or a broker again."""


@pytest.mark.parametrize("kind", BLACK_HOLES)
async def test_bus_closes_in_a_black_hole_leaves_no_thread_and_opens_again(
    kind: str,
) -> None:
    begun: list[int] = []
    gate = trio.Event()

    async def stuck(event: Paid) -> None:
        begun.append(event.n)
        await gate.wait()

    async with BLACK_HOLES[kind]() as (url, hole):
        before = {*threading.enumerate()}
        bus = FastStreamBus(f"{url}&group=shop")
        bus.subscribe(stuck, Paid, mailbox=3)
        async with bus:
            await accepted(bus, *range(10))
            await until(lambda: begun and pending(bus) == 10)
            hole(True)
            with trio.fail_after(HANG_SECONDS):
                await bus.close(timeout=0)
        gate.set()
        hole(False)
        await until(lambda: {*threading.enumerate()} <= before, 30)
        async with bus:
            await accepted(bus, 10)
