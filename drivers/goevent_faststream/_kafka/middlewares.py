"""The middlewares of FastStream's broker, around the records of one group member."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .._adapter.subscribers import SUBSCRIBER_OPTIONS, adopt_subscriber
from .offsets import KafkaRecord


class KafkaMiddlewares:
    """A subscriber of FastStream that only runs the middlewares.

    It is never started: it would read by itself, and commit records that are not settled.

    Args:
        deliver: Called behind the innermost middleware.
    """

    def __init__(
        self,
        broker: Any,
        topic: str,
        group: str,
        deliver: Callable[[KafkaRecord], Awaitable[None]],
    ) -> None:
        self._deliver = deliver
        self._inside: list[KafkaRecord] = []
        self._subscriber: Any = None
        if broker.middlewares:
            self._subscriber = subscriber = broker.subscriber(
                topic,
                group_id=group,
                **SUBSCRIBER_OPTIONS,
            )
            adopt_subscriber(broker, subscriber, self._passed)
            # The part of a start that makes no consumer.
            subscriber._build_fastdepends_model()
            subscriber._post_start()

    @property
    def is_active(self) -> bool:
        """True if the broker has middlewares."""
        return self._subscriber is not None

    async def run(self, record: KafkaRecord) -> bool:
        """Run the middlewares around the delivery of a record.

        Returns:
            False if a middleware has not passed it on, or has failed, which FastStream logs.
        """
        self._inside.append(record)
        await self._subscriber.consume(record.raw)
        was_delivered = not self._inside
        self._inside.clear()
        return was_delivered

    async def _passed(self, _: Any) -> None:
        if self._inside:
            await self._deliver(self._inside.pop())
