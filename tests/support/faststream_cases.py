"""The conformance suite on any of FastStream's brokers, behind a proxy that causes outages."""

from __future__ import annotations

from goevent import Driver
from goevent_faststream import FastStreamDriver
from tests.support.proxied_cases import ProxiedCases


class FastStreamCases(ProxiedCases):
    """The cases for one broker; define `url` and `server`, and set `__test__ = True`.

    Attributes:
        url: The driver's URL, with placeholders `{port}` and `{group}`.
        driver: The class of the driver.
    """

    url: str
    driver: type[FastStreamDriver] = FastStreamDriver

    def make_driver(self, port: int, group: str) -> Driver:
        return self.driver.from_url(self.url.format(port=port, group=group))
