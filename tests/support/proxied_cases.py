"""The conformance suite on a real server behind a proxy that causes outages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from goevent import Driver
from goevent.testing import DriverConformance
from tests.support.limits import HANG_SECONDS
from tests.support.redis_server import FaultProxy, fault_proxy


class ProxiedCases(DriverConformance):
    """The cases for one driver; define `server` and `make_driver`, and set `__test__ = True`."""

    __test__ = False
    deadline = HANG_SECONDS

    def server(self) -> AbstractAsyncContextManager[int]:
        """Return a context manager that runs a server and yields its port."""
        raise NotImplementedError

    def make_driver(self, port: int, group: str) -> Driver:
        """Return a driver of a consumer group that connects to a port of this machine."""
        raise NotImplementedError

    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], Driver]]:
        async with self.server() as port, fault_proxy(port) as proxy:
            self.proxy: FaultProxy = proxy
            yield lambda group: self.make_driver(proxy.port, group)

    @asynccontextmanager
    async def outage(self) -> AsyncGenerator[None]:
        self.proxy.refuse()
        self.proxy.reset()
        try:
            yield
        finally:
            await self.proxy.accept()
