"""What buses on durable brokers give back as they stop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest
import trio
from faststream_buses import FastStreamBus, accepted
from faststream_durable import DURABLE
from kafka_mock import kafka_mock
from redis_buses import Paid, until


@asynccontextmanager
async def kafka(scheme: str) -> AsyncGenerator[str]:
    async with kafka_mock() as mock:
        yield f"{scheme}://{mock.addr}?claim_idle=1.2&backoff=0.02&max_deliveries=2"


PLACES: dict[str, Callable[[], AbstractAsyncContextManager[str]]] = {
    **DURABLE,
    "kafka": partial(kafka, "kafka"),
    "confluent": partial(kafka, "kafka+confluent"),
}


def pending(bus: FastStreamBus) -> int:
    return sum(backlog.pending for backlog in bus.backlogs())


@pytest.mark.parametrize("kind", PLACES)
async def test_stop_counts_as_a_delivery_only_of_what_was_begun(kind: str) -> None:
    begun: list[int] = []

    async def stuck(event: Paid) -> None:
        begun.append(event.n)
        await trio.sleep_forever()

    async with PLACES[kind]() as plain:
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
