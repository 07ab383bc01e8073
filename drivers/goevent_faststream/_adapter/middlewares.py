"""The middlewares of FastStream's broker, around messages that an adapter receives itself.

Kafka's consumers have `_kafka.middlewares` instead, as their records arrive one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from faststream._internal.endpoint.subscriber import SubscriberUsecase

from .subscribers import adopt_subscriber


class MiddlewareChain:
    """The middlewares of one broker, if it has any.

    They run in a subscriber of FastStream that receives nothing by itself. The subscriber gives its
    handler the message only, so the chain keeps the `deliver` of each message by its identity.
    """

    def __init__(self) -> None:
        self._subscriber: Any = None
        self._inside: dict[int, Callable[[], object]] = {}

    async def open(self, broker: Any, make_subscriber: Callable[[], Any]) -> None:
        """Prepare the subscriber; the broker must be started.

        Args:
            make_subscriber: Returns a subscriber of the broker, made with `SUBSCRIBER_OPTIONS`.
        """
        self._inside.clear()
        self._subscriber = None
        if broker.middlewares:
            self._subscriber = make_subscriber()
            handler: Callable[[Any], Coroutine[Any, Any, None]] = self._passed
            adopt_subscriber(broker, self._subscriber, handler)
            # The base class's start only: the broker's own would begin to receive.
            await SubscriberUsecase[Any].start(self._subscriber)

    @property
    def is_active(self) -> bool:
        """True if the broker has middlewares."""
        return self._subscriber is not None

    async def run(self, raw: Any, deliver: Callable[[], object]) -> bool:
        """Run the middlewares around a message; `deliver` is called behind the innermost one.

        Returns:
            False if a middleware has not passed the message on.

        Raises:
            Exception: A middleware has failed.
        """
        self._inside[id(raw)] = deliver
        try:
            await self._subscriber.process_message(raw)
        finally:
            was_kept = self._inside.pop(id(raw), None) is not None
        return not was_kept

    async def _passed(self, message: Any) -> None:
        deliver = self._inside.pop(id(message.raw_message), None)
        if deliver is not None:
            deliver()
