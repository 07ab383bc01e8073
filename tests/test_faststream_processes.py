"""Workers on durable brokers that are killed, in processes of their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from faststream_buses import FastStreamBus, accepted
from nats_server import nats_server
from redis_buses import until
from worker_process import running


@asynccontextmanager
async def jetstream() -> AsyncGenerator[str]:
    async with nats_server() as server:
        yield f"nats+js://{server.addr}?group=shop&backoff=0.02&claim_idle=1"


# To add a broker: a line here.
DURABLE: dict[str, Callable[[], AbstractAsyncContextManager[str]]] = {"jetstream": jetstream}


@pytest.mark.parametrize("kind", DURABLE)
async def test_killed_worker_loses_nothing_that_it_had_and_it_comes_flagged(kind: str) -> None:
    async with DURABLE[kind]() as url:
        bus = FastStreamBus(url)
        async with running("bus_worker.py", url, "30") as worker:
            await worker.says("ready")
            async with FastStreamBus(url) as sender:
                await accepted(sender, *range(10))
            await worker.says("begun", 10)
            worker.process.kill()
            await worker.process.wait()
        tries = bus.tries(fail=lambda event: False)
        async with bus:
            await until(lambda: len(tries) >= 10, 20)
            await until(lambda: not any(b.pending for b in bus.backlogs()))
        assert sorted(tries) == [(n, 2) for n in range(10)]
        assert not bus.told
