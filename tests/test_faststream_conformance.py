"""The conformance suite on NATS and on JetStream, against a real server behind a proxy."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from nats_server import nats_server
from redis_server import FaultProxy, fault_proxy

from goevent import Driver
from goevent.testing import DriverConformance
from goevent_faststream import FastStreamDriver


class NatsCases(DriverConformance):
    """What both have in common.

    Attributes:
        url: of the driver, with the port and the group to be filled in.
    """

    __test__ = False
    deadline = 60.0
    url: str

    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], Driver]]:
        async with nats_server() as server, fault_proxy(server.port) as proxy:
            self.proxy: FaultProxy = proxy
            yield lambda group: FastStreamDriver.from_url(self.url.format(proxy.port, group))

    @asynccontextmanager
    async def outage(self) -> AsyncGenerator[None]:
        self.proxy.refuse()
        self.proxy.reset()
        try:
            yield
        finally:
            await self.proxy.accept()


class TestNats(NatsCases):
    __test__ = True
    url = "nats://127.0.0.1:{}?publish_timeout=0.5"


class TestJetStream(NatsCases):
    __test__ = True
    url = "nats+js://127.0.0.1:{}?group={}&publish_timeout=0.5&backoff=0.02"
