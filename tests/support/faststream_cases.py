"""The conformance suite on any of FastStream's brokers, behind a proxy that causes outages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from goevent import Driver
from goevent.testing import DriverConformance
from goevent_faststream import FastStreamDriver
from tests.support.redis_server import FaultProxy, fault_proxy


class FastStreamCases(DriverConformance):
    """The cases for one broker; define `url` and `server`, and set `__test__ = True`.

    Attributes:
        url: The driver's URL, with placeholders `{port}` and `{group}`.
        driver: The class of the driver.
    """

    __test__ = False
    deadline = 60.0
    url: str
    driver: type[FastStreamDriver] = FastStreamDriver

    def server(self) -> AbstractAsyncContextManager[int]:
        """Return a context manager that runs a broker and yields its port."""
        raise NotImplementedError

    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], Driver]]:
        async with self.server() as port, fault_proxy(port) as proxy:
            self.proxy: FaultProxy = proxy
            yield lambda group: self.driver.from_url(self.url.format(port=proxy.port, group=group))

    @asynccontextmanager
    async def outage(self) -> AsyncGenerator[None]:
        self.proxy.refuse()
        self.proxy.reset()
        try:
            yield
        finally:
            await self.proxy.accept()
