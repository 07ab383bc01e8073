"""The conformance suite on the Redis driver, against a real server behind a proxy."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from tests.support.redis_server import FaultProxy, fault_proxy, redis_server

from goevent import Driver
from goevent.testing import DriverConformance
from goevent_redis import RedisConfig, RedisDriver


class TestRedisDriver(DriverConformance):
    deadline = 60.0

    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], Driver]]:
        async with redis_server() as server, fault_proxy(server.port) as proxy:
            self.proxy: FaultProxy = proxy
            yield lambda group: RedisDriver(RedisConfig(addr=proxy.addr))

    @asynccontextmanager
    async def outage(self) -> AsyncGenerator[None]:
        self.proxy.refuse()
        self.proxy.reset()
        try:
            yield
        finally:
            await self.proxy.accept()
