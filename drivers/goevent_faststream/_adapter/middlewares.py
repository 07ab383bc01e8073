"""The middlewares of a broker, around messages that an adapter receives itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from faststream._internal.endpoint.subscriber import SubscriberUsecase

from .subscribers import adopt_subscriber


class MiddlewareChain:
    """Lets messages pass the middlewares, if there are any."""

    def __init__(self) -> None:
        self._subscriber: Any = None
        self._passing: dict[int, Callable[[], object]] = {}

    async def open(self, broker: Any, make: Callable[[], Any]) -> None:
        """Make what the middlewares run around; the broker has to be started.

        Args:
            make: returns a subscriber of the broker, which receives nothing by itself.
        """
        self._passing.clear()
        self._subscriber = None
        if broker.middlewares:
            self._subscriber = make()
            handler: Callable[[Any], Coroutine[Any, Any, None]] = self._passed
            adopt_subscriber(broker, self._subscriber, handler)
            # All of the start of a subscriber but for what makes it receive.
            await SubscriberUsecase[Any].start(self._subscriber)

    @property
    def is_active(self) -> bool:
        """True if there is anything to pass."""
        return self._subscriber is not None

    async def run(self, raw: Any, arrives: Callable[[], object]) -> bool:
        """Let a message pass, and call `arrives` behind the innermost middleware.

        Returns:
            False if a middleware has kept it.

        Raises:
            Exception: what a middleware has failed with.
        """
        self._passing[id(raw)] = arrives
        try:
            await self._subscriber.process_message(raw)
        finally:
            kept = self._passing.pop(id(raw), None) is not None
        return not kept

    async def _passed(self, message: Any) -> None:
        arrives = self._passing.pop(id(message.raw_message), None)
        if arrives is not None:
            arrives()
