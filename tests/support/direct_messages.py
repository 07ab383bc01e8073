"""Direct messages of buses, for tests: a bus that keeps the messages and the results."""

from __future__ import annotations

from collections.abc import Sequence

from goevent import DriverError
from goevent_faststream import FastStreamDriver
from tests.support.faststream_buses import EventsOnlyDriver, FastStreamBus
from tests.support.redis_buses import until


class DirectBus(FastStreamBus):
    """A bus that keeps the direct messages it gets, and the results of those it sends.

    Attributes:
        taken: The messages, with their addresses.
        results: The results of the sent messages, in the order in which they came.
    """

    def __init__(self, driver: FastStreamDriver | str) -> None:
        if isinstance(driver, str):
            # The bus itself opens no address, so that only those of the test are open.
            driver = EventsOnlyDriver.from_url(driver)
        super().__init__(driver)
        self.taken: list[tuple[str, bytes]] = []
        self.results: list[int | Exception | None] = []

    async def open_addresses(self, *addresses: str) -> None:
        """Open addresses."""
        await self.driver.open_addresses(addresses, self._take)

    def _take(self, address: str, data: bytes) -> None:
        self.taken.append((address, data))

    def post(self, address: str, *messages: bytes) -> None:
        """Send messages, without waiting for their results."""
        for data in messages:
            self.driver.send_directly(address, data, self.results.append)

    async def send(self, address: str, *messages: bytes) -> Sequence[int | Exception | None]:
        """Send messages, and return their results."""
        before = len(self.results)
        self.post(address, *messages)
        await until(lambda: len(self.results) == before + len(messages))
        return self.results[before:]

    def is_connected(self) -> bool:
        """Tell whether the broker can be reached."""
        return self.driver.snapshot().connected


async def check_reached(sender: DirectBus, receiver: DirectBus, address: str, data: bytes) -> None:
    """Check that a message which is sent now arrives, once."""
    results = await sender.send(address, data)
    assert results == [None]
    await until(lambda: (address, data) in receiver.taken)
    assert receiver.taken.count((address, data)) == 1


async def send_through_outage(sender: DirectBus, address: str, data: bytes) -> None:
    """Send a message again and again, until the broker takes it."""
    while isinstance((await sender.send(address, data))[0], DriverError):
        await until(sender.is_connected)
