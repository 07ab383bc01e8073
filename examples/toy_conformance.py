"""Tests of the toy driver: the conformance suite of goevent.

Run `pytest examples/toy_conformance.py`.
"""

# --8<-- [start:setup]
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio
from toy_driver import ToyDriver, broker

from goevent.testing import DriverConformance

# --8<-- [end:setup]


# --8<-- [start:suite]
class TestToyDriver(DriverConformance):
    reconnects = False  # the driver ends its bus when the connection is lost

    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], ToyDriver]]:
        async with trio.open_nursery() as self.nursery:
            self.port = await self.nursery.start(self.serve, 0)
            yield lambda group: ToyDriver("127.0.0.1", self.port)
            self.nursery.cancel_scope.cancel()

    async def serve(self, port: int, task_status: trio.TaskStatus[int]) -> None:
        with trio.CancelScope() as self.serving:
            await broker(port, task_status=task_status)

    @asynccontextmanager
    async def outage(self) -> AsyncGenerator[None]:
        self.serving.cancel()
        yield
        await self.nursery.start(self.serve, self.port)


# --8<-- [end:suite]
