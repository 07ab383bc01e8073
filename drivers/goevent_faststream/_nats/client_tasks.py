"""The tasks of nats-py's client, which may end without a word and leave the client dead.

`NatsConnection` owns one `ClientTasks` for the client of its broker. It adds callbacks to the tasks
of the client, and has no task of its own.

The client reads, pings and writes in three tasks, and connects again in a fourth. An exception that
the client does not expect ends such a task, while the client still counts as connected or as
connecting again. Then events neither come nor go, and a lost server goes unnoticed. Some of these
exceptions come from functions that the user has given to the broker, for a token or a signature.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client

TASK_NAMES = {"_reading_task": "reader", "_ping_interval_task": "pinger", "_flusher_task": "writer"}


class ClientTasks:
    """Watches the tasks of one client.

    Args:
        on_ended: Called with the name of a task that has ended while the client is connected, and
            with its exception, if it is known.
        on_reconnection_failed: Called with the exception that ended the task that connects again.
    """

    def __init__(
        self,
        client: Any,
        on_ended: Callable[[str, BaseException | None], object],
        on_reconnection_failed: Callable[[BaseException], object],
    ) -> None:
        self._client = client
        self._on_ended = on_ended
        self._on_reconnection_failed = on_reconnection_failed
        self._reconnection: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Watch the tasks of a new connection."""
        for attribute in TASK_NAMES:
            task: asyncio.Task[None] = getattr(self._client, attribute)
            task.add_done_callback(self._on_done)

    def watch_reconnection(self) -> None:
        """Watch the task that connects again, if there is one."""
        task: asyncio.Task[None] | None = self._client._reconnection_task
        if task is not None and task is not self._reconnection:
            self._reconnection = task
            task.add_done_callback(self._on_reconnection_done)

    def reconnect(self) -> None:
        """Connect again in a new task of the client, whose last one has failed."""
        client: Any = self._client
        if client.is_closed or client.is_connected:
            return
        client._status = Client.RECONNECTING
        loop = asyncio.get_running_loop()
        client._reconnection_task = loop.create_task(client._attempt_reconnect())
        self.watch_reconnection()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        client = self._client
        names = [name for name in TASK_NAMES if getattr(client, name) is task]
        error = None if task.cancelled() else task.exception()
        # A task of an earlier connection is none of these, and one that has noticed the end of the
        # connection leaves the client reconnecting.
        if names and client.is_connected and not client.is_draining:
            self._on_ended(TASK_NAMES[names[0]], error)

    def _on_reconnection_done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._client.is_closed:
            self._on_reconnection_failed(error)
