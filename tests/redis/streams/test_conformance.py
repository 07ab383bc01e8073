"""The conformance suite on Redis Streams, against a real server behind a proxy."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tests.support.limits import PUBLISH_SECONDS
from tests.support.proxied_cases import ProxiedCases
from tests.support.redis_buses import patient_config
from tests.support.streams_buses import streams_server

from goevent import Driver
from goevent_redis import RedisStreamsDriver, StreamsConfig


class TestRedisStreamsDriver(ProxiedCases):
    __test__ = True
    partitions = 1

    @asynccontextmanager
    async def server(self) -> AsyncGenerator[int]:
        async with streams_server() as server:
            yield server.port

    def make_driver(self, port: int, group: str) -> Driver:
        return RedisStreamsDriver(
            patient_config(port),
            StreamsConfig(group=group, publish_timeout=PUBLISH_SECONDS, partitions=self.partitions),
        )


class TestRedisStreamsDriverWithPartitions(TestRedisStreamsDriver):
    partitions = 4
