"""The keyed driver: gives the messages of a driver a key that their class does not name.

`goevent publish --key` uses it: an event of a name without a class has no field that is the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import trio

from .. import Capabilities, Driver, Envelope, Inbox, Message, Receipt


class KeyedMessage:
    """A message with a key; implements `goevent.Message`."""

    def __init__(self, message: Message, key: str) -> None:
        self._message = message
        self._key = key

    @property
    def event_name(self) -> str:
        """The name under which the event was dispatched."""
        return self._message.event_name

    @property
    def event(self) -> Any:
        """The event."""
        return self._message.event

    @property
    def handle_id(self) -> str:
        """The id of the dispatch."""
        return self._message.handle_id

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the event."""
        return self._message.headers

    @property
    def key(self) -> str | None:
        """The key that was asked for."""
        return self._key

    def encode(self, *, origin: str | None = None, seq: int | None = None) -> bytes:
        """Return the envelope as bytes."""
        return self._message.encode(origin=origin, seq=seq)

    def envelope(self) -> Envelope:
        """Return the envelope."""
        return self._message.envelope()


class KeyedDriver:
    """Publishes by another driver, with the same key for each event.

    It has none of the optional methods for speed, so the bus calls `publish` for each event.

    Args:
        driver: The driver that does the work.
        key: The key.
    """

    schemes: tuple[str, ...] = ()

    def __init__(self, driver: Driver, key: str) -> None:
        self._driver = driver
        self._key = key

    @classmethod
    def from_url(cls, url: str) -> KeyedDriver:
        """Refuse: this driver is made from another one.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"a {cls.__name__} has no URL")

    @property
    def capabilities(self) -> Capabilities:
        """The promises of the driver."""
        return self._driver.capabilities

    async def run(self, inbox: Inbox, *, task_status: trio.TaskStatus[None]) -> None:
        """Run the driver."""
        await self._driver.run(inbox, task_status=task_status)

    async def subscribe(self, names: Sequence[str]) -> None:
        """Subscribe by the driver."""
        await self._driver.subscribe(names)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Unsubscribe by the driver."""
        await self._driver.unsubscribe(names)

    async def publish(self, message: Message) -> Receipt | None:
        """Publish an event with the key."""
        return await self._driver.publish(KeyedMessage(message, self._key))
