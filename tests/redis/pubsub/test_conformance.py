"""The conformance suite on the Redis driver, against a real server behind a proxy."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tests.support.proxied_cases import ProxiedCases
from tests.support.redis_buses import patient_config
from tests.support.redis_server import redis_server

from goevent import Driver
from goevent_redis import RedisDriver


class TestRedisDriver(ProxiedCases):
    __test__ = True

    @asynccontextmanager
    async def server(self) -> AsyncGenerator[int]:
        async with redis_server() as server:
            yield server.port

    def make_driver(self, port: int, group: str) -> Driver:
        return RedisDriver(patient_config(port))
