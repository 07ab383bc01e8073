"""The conformance suite on Redis Streams, against a real server behind a proxy."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from tests.support.redis_server import FaultProxy, fault_proxy
from tests.support.streams_buses import streams_server

from goevent import Driver
from goevent.testing import DriverConformance
from goevent_redis import RedisConfig, RedisStreamsDriver, StreamsConfig


class TestRedisStreamsDriver(DriverConformance):
    deadline = 60.0
    partitions = 1

    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], Driver]]:
        async with streams_server() as server, fault_proxy(server.port) as proxy:
            self.proxy: FaultProxy = proxy
            yield lambda group: RedisStreamsDriver(
                RedisConfig(addr=proxy.addr),
                StreamsConfig(group=group, publish_timeout=0.5, partitions=self.partitions),
            )

    @asynccontextmanager
    async def outage(self) -> AsyncGenerator[None]:
        self.proxy.refuse()
        self.proxy.reset()
        try:
            yield
        finally:
            await self.proxy.accept()


class TestRedisStreamsDriverWithPartitions(TestRedisStreamsDriver):
    partitions = 4
