"""The producer of aiokafka: how it is made and closed, and when it can send nothing more.

`AiokafkaClient` has one producer at a time, and replaces a failed one.

Theory of operation
-------------------

A producer sends with one task and keeps its metadata current with another one. An exception ends
such a task for good, for instance an answer that the task does not expect, or a refused request for
a new producer id. aiokafka only logs it. From then on the producer refuses every event, or keeps it
and never sends it. So the end of either task is watched, and counts as the failure of the producer.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from aiokafka import errors  # type: ignore[import-untyped]
from aiokafka.producer.producer import _missing  # type: ignore[import-untyped]
from faststream.kafka import KafkaBroker

from goevent import DriverError

from .aiokafka_requests import CLIENT_ERRORS
from .client import Failed, ProducerFailedError

AIOKAFKA_FLUSH_SECONDS = 0.4
AIOKAFKA_REQUEST_MILLISECONDS = 10_000
FASTSTREAM_REQUEST_MILLISECONDS = 40_000
# The answers of brokers that have no producer ids: an unknown error, or no such request.
NO_PRODUCER_ID_ERRORS = (
    errors.UnknownError,
    errors.UnsupportedVersionError,
    errors.IncompatibleBrokerVersion,
)


class NoProducerIdError(DriverError):
    """The broker gives no producer ids, which an idempotent producer needs."""


class UrlKafkaBroker(KafkaBroker):
    """A broker that was made for a URL, so that its settings are goevent's own."""


def set_unset_options(options: dict[str, Any]) -> None:
    """Set options of a broker object that its user has left at FastStream's defaults.

    The object's other settings win. FastStream's default of `enable_idempotence` looks like the
    user's own `False`, so goevent enables it for brokers that it makes itself.
    """
    if options.get("acks") is _missing:
        # An event is accepted when all replicas in sync have it.
        options["acks"] = "all"
    if options.get("request_timeout_ms") == FASTSTREAM_REQUEST_MILLISECONDS:
        options["request_timeout_ms"] = AIOKAFKA_REQUEST_MILLISECONDS


class ProducerInProgress:
    """Stands in for FastStream's producer while it connects, and keeps the client's producer.

    FastStream forgets a client whose connecting fails or is cancelled, and so would not close it.
    """

    def __init__(self, producer: Any) -> None:
        self.native: Any = None
        self.producer = producer

    async def connect(self, native: Any, **options: Any) -> None:
        """Connect, as the producer of FastStream does.

        Raises:
            NoProducerIdError: The producer is idempotent, and the broker gives it no id.
        """
        self.native = native
        try:
            await self.producer.connect(native, **options)
        except NO_PRODUCER_ID_ERRORS as error:
            if native._txn_manager is None:
                raise
            raise _no_producer_id() from error
        if native._txn_manager is not None and not native._txn_manager.has_pid():
            raise _no_producer_id()


def _no_producer_id() -> NoProducerIdError:
    return NoProducerIdError(
        "Kafka: the broker gives no producer id, which enable_idempotence needs: give the driver a "
        "KafkaBroker with enable_idempotence=False"
    )


def watch_tasks(producer: Any, failed: Failed) -> None:
    """Call `failed` when a task of a producer has ended, unless the producer was closed."""
    sender = producer._sender
    # It fails itself for a producer without transactions.
    sender.sender_task.remove_done_callback(sender._fail_all)

    def ended(task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if producer._closed:
            return
        cause = getattr(error, "__cause__", None) or error
        reason = "a task of it was cancelled" if cause is None else str(cause) or repr(cause)
        failure = ProducerFailedError(f"Kafka: the producer has failed: {reason}")
        failure.__cause__ = error
        _refuse_all(producer, failure)
        failed(failure)

    for task in (sender.sender_task, producer.client._sync_task):
        task.add_done_callback(ended)


def _refuse_all(producer: Any, error: ProducerFailedError) -> None:
    """Answer all events of a producer with an error, and let no request wait for its tasks."""
    accumulator = producer._message_accumulator
    accumulator.fail_all(error)
    for batches in accumulator._batches.values():
        for batch in batches:
            # asyncio would log an exception that nobody waits for.
            batch._drain_waiter.exception()
    updated = producer.client._md_update_fut
    if updated is not None and not updated.done():
        updated.set_result(False)


async def close_producer(producer: Any, *, flush: bool) -> None:
    """Close a producer; events that it cannot send within a moment are given up."""
    sender_task = producer._sender and producer._sender.sender_task
    if flush and sender_task is not None and not sender_task.done():
        with suppress(*CLIENT_ERRORS):
            async with asyncio.timeout(AIOKAFKA_FLUSH_SECONDS):
                await producer.flush()
    # The producer's own `stop` waits for all unsent events and closes nothing until then.
    producer._closed = True
    if sender_task is not None:
        sender_task.cancel()
        await asyncio.gather(sender_task, return_exceptions=True)
    client = producer.client
    if client._sync_task is not None and client._sync_task.done():
        # The client's own `close` would raise what ended it.
        client._sync_task = None
    await client.close()
