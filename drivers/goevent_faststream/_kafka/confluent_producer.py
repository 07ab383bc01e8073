"""The producer of confluent-kafka: how it is watched from its first poll on, and stopped.

`ConfluentClient` has one producer at a time, and replaces a failed one. FastStream makes the
client's producer and polls it in a task.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaException
from faststream.confluent.helpers.client import AsyncConfluentProducer

from .confluent_errors import is_fatal


class WatchedProducer:
    """A client's producer that tells its failure.

    The client raises a fatal error once, when it is polled, and not through its error callback.
    FastStream polls, and ignores the errors.

    Args:
        failed: Called with the fatal error.
    """

    def __init__(self, producer: Any, failed: Callable[[KafkaException], None]) -> None:
        self._producer = producer
        self._failed = failed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def poll(self, seconds: float) -> int:
        """Poll, as the client's producer does."""
        return self._watched(self._producer.poll, seconds)

    def flush(self, *seconds: float) -> int:
        """Flush, as the client's producer does."""
        return self._watched(self._producer.flush, *seconds)

    def _watched(self, function: Callable[..., int], *args: float) -> int:
        try:
            return function(*args)
        except KafkaException as error:
            if is_fatal(error.args[0]):
                self._failed(error)
            raise


class NewProducer:
    """Stands in for FastStream's producer until that gets the client's producer.

    Args:
        use: Called with the client's producer before anything polls it.
    """

    def __init__(self, producer: Any, use: Callable[[AsyncConfluentProducer], None]) -> None:
        self.producer = producer
        self._use = use

    def connect(self, native: AsyncConfluentProducer, **options: Any) -> None:
        """Connect, as the producer of FastStream does."""
        self._use(native)
        self.producer.connect(native, **options)


async def stop_producer(producer: AsyncConfluentProducer) -> None:
    """Stop a producer, and give up what it has not sent."""
    # Unsent events would keep it from ending.
    producer.producer.purge()
    # It may raise the failure of the producer once more.
    with suppress(KafkaException):
        await producer.stop()
