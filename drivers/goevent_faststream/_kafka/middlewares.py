"""The gate: the middlewares of the broker, which each message passes, if it has any."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .._adapter.subscribers import SUBSCRIBER_OPTIONS, adopt_subscriber
from .offsets import Record


class Gate:
    """A subscriber of FastStream that reads nothing: it would commit what is not settled.

    Args:
        through: is called with what has passed.
    """

    def __init__(
        self, broker: Any, topic: str, group: str, through: Callable[[Record], Awaitable[None]]
    ) -> None:
        self._through = through
        self._passing: list[Record] = []
        self._subscriber: Any = None
        if broker.middlewares:
            self._subscriber = subscriber = broker.subscriber(
                topic,
                group_id=group,
                **SUBSCRIBER_OPTIONS,
            )
            adopt_subscriber(broker, subscriber, self._passed)
            subscriber._build_fastdepends_model()
            subscriber._post_start()

    @property
    def is_open(self) -> bool:
        """True if there are no middlewares."""
        return self._subscriber is None

    async def passes(self, record: Record) -> bool:
        """Have a message pass; False if one of them keeps it, or fails, which FastStream logs."""
        self._passing.append(record)
        await self._subscriber.consume(record.raw)
        kept = bool(self._passing)
        self._passing.clear()
        return not kept

    async def _passed(self, _: Any) -> None:
        if self._passing:
            await self._through(self._passing.pop())
