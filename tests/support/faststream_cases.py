"""The conformance suite on any of FastStream's brokers, behind a proxy that makes outages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from goevent import Driver
from goevent.testing import DriverConformance
from goevent_faststream import FastStreamDriver
from tests.support.redis_server import FaultProxy, fault_proxy


class FastStreamCases(DriverConformance):
    """What all brokers have in common; give `url` and `server`, and set `__test__ = True`.

    Attributes:
        url: of the driver, with `{port}` and `{group}` to be filled in.
        driver: the class of the driver; one that takes notes, perhaps.
    """

    __test__ = False
    deadline = 60.0
    url: str
    driver: type[FastStreamDriver] = FastStreamDriver

    def server(self) -> AbstractAsyncContextManager[int]:
        """Return a context manager inside of which a broker runs, and that yields its port."""
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
