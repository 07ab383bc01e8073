"""Workers on durable brokers, in processes that are killed."""

from __future__ import annotations

import pytest
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.faststream_durable import DURABLE
from tests.support.redis_buses import until
from tests.support.worker_process import running


@pytest.mark.parametrize("kind", DURABLE)
async def test_events_of_a_killed_worker_are_redelivered_and_counted(kind: str) -> None:
    async with DURABLE[kind]() as plain:
        url = f"{plain}&group=shop"
        bus = FastStreamBus(url)
        async with running("bus_worker", url, "30") as worker:
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
        assert not bus.reports
