"""The settler of Kafka: it carries out verdicts, and writes dead letters.

A dead letter goes to the topic `<topic>..dead`, with the key and the bytes of the event; its
headers are those of `dead_letters` beside the event's own. Kafka cannot delete single records, so
goevent shows no dead letters there: they are read like any other topic. One that is copied back to
the topic of the event with its headers runs in the group that they name, as a new event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from goevent import DriverError
from goevent.drivers import Action, jittered

from .._adapter.contract import Decision
from .._adapter.dead_letters import (
    DEAD_LETTER_RETRY_SECONDS,
    DETAILS_HEADER,
    dead_letter_headers,
    report_dead_letter,
)
from .client import KafkaClient
from .connection import KafkaConnection
from .consumer import KafkaConsumer
from .limits import BatchTooLargeError
from .offsets import KafkaRecord
from .topics import DEAD_LETTER_SUFFIX

# How long later verdicts wait for a dead letter that is being written.
DEAD_LETTER_WAIT_SECONDS = 0.7


class KafkaSettler:
    """Carries out verdicts; it owns a task for each dead letter that is being written."""

    def __init__(self, client: KafkaClient, connection: KafkaConnection, group: str) -> None:
        self._client = client
        self._connection = connection
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Carry out verdicts. The consumers commit the result."""
        writing: list[asyncio.Task[None]] = []
        for decision in decisions:
            consumer, record = decision.arrival.raw
            verdict = decision.verdict
            if verdict.action is Action.ACK:
                consumer.settle(record)
            elif verdict.action is Action.RETRY:
                consumer.retry(record, verdict.after)
            elif verdict.action is Action.RELEASE:
                consumer.release(record, started=verdict.started)
            else:
                write = self._dead_letter(decision, consumer, record)
                writing.append(asyncio.create_task(write))
        if writing:
            self._tasks.update(writing)
            for task in writing:
                task.add_done_callback(self._tasks.discard)
            await asyncio.wait(writing, timeout=DEAD_LETTER_WAIT_SECONDS)

    async def close(self) -> None:
        """Give up unwritten dead letters; their events come again."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _dead_letter(
        self, decision: Decision, consumer: KafkaConsumer, record: KafkaRecord
    ) -> None:
        """Write a dead letter, again and again until it is written, and then settle the record."""
        arrival, is_reported = decision.arrival, False
        topic = consumer.topic + DEAD_LETTER_SUFFIX
        headers = {**arrival.headers, **dead_letter_headers(decision, self._group)}
        while True:
            try:
                await self._client.ensure_topic(topic)
                await self._client.write(topic, record.key, record.value, headers)
                break
            except DriverError as error:
                if isinstance(error, BatchTooLargeError) and headers.pop(DETAILS_HEADER, ""):
                    # The event itself was not too large, so try it without the traceback.
                    continue
                if not is_reported:
                    self._connection.host.report(error, arrival.name)
                is_reported = True
                await asyncio.sleep(jittered(DEAD_LETTER_RETRY_SECONDS))
        consumer.settle(record)
        report_dead_letter(self._connection.host, decision)
