"""The base of the connections to brokers: the state of a connection, and its tasks.

A subclass connects and disconnects, and records with `_connectivity` what its client reports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from .connection_tasks import ConnectionTasks
from .connectivity import Connectivity
from .contract import AdapterHost

T = TypeVar("T")
B = TypeVar("B")


def checked_broker(broker: object, broker_class: type[B]) -> B:
    """Return the broker, checked to be one of a class of FastStream.

    Raises:
        TypeError: It is an object of another class.
    """
    if not isinstance(broker, broker_class):
        raise TypeError(f"the broker must be a {broker_class.__name__}, not {broker!r}")
    return broker


class BrokerConnection:
    """The connection of one broker object.

    Args:
        broker_name: The name of the broker in error texts.
        wait_seconds: How long a caller waits for a lost connection.
    """

    def __init__(self, broker_name: str, wait_seconds: float) -> None:
        self._connectivity = Connectivity(broker_name, wait_seconds)
        self._tasks = ConnectionTasks(broker_name)

    @property
    def host(self) -> AdapterHost:
        """The host of the adapter.

        Raises:
            DriverConnectionError: The bus is not open.
        """
        return self._connectivity.host

    @property
    def is_up(self) -> bool:
        """True while there is a connection that is ready for use."""
        return self._connectivity.is_up

    def deadline(self) -> float:
        """Return the loop's time at which a request that begins now stops waiting."""
        return self._connectivity.deadline()

    async def wait_until_up(self, deadline: float | None = None) -> None:
        """Wait until there is a connection.

        Args:
            deadline: The end of the wait, from `deadline` at the beginning of the request; None
                counts from now.

        Raises:
            DriverConnectionError: There was no connection in time.
        """
        await self._connectivity.wait_until_up(deadline)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine in a task that ends with the connection."""
        return self._tasks.start(work)

    async def run_shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine that continues if the caller is cancelled.

        Raises:
            DriverConnectionError: The connection ended first; the broker may have got the request.
        """
        return await self._tasks.run_shielded(work)
