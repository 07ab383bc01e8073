"""What becomes of events from Kafka: settled, again, or among the dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from goevent import DriverError
from goevent.drivers import Action

from .._adapter.contract import Decision
from .._adapter.dead_letters import dead_letter_headers, report_dead_letter
from .client import KafkaClient
from .connection import KafkaConnection
from .consumer import Feed
from .offsets import Record
from .topics import DEAD

PATIENCE = 0.7  # seconds to wait for what is being written, before others are settled
PAUSE = 1.0  # seconds until it is tried again to write one


class Undertaker:
    """Carries decisions out. It owns a task for each dead letter that is being written.

    A dead letter goes to the topic `<topic>..dead`, with the key and the bytes of the event; its
    headers tell why: goevent-reason, -details, -id, -deliveries, -group and -consumer, beside the
    event's own.
    """

    def __init__(self, client: KafkaClient, link: KafkaConnection, group: str) -> None:
        self._client = client
        self._link = link
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Take note of what becomes of events; a dead letter is written before it is settled."""
        burials: list[asyncio.Task[None]] = []
        for decision in decisions:
            feed, record = decision.arrival.raw
            if decision.verdict.action is Action.ACK:
                feed.settle(record)
            elif decision.verdict.action is Action.RETRY:
                feed.again(record, decision.verdict.after)
            elif decision.verdict.action is Action.RELEASE:
                feed.back(record, begun=decision.verdict.started)
            else:
                burials.append(asyncio.create_task(self._bury(decision, feed, record)))
        if burials:
            self._tasks.update(burials)
            for task in burials:
                task.add_done_callback(self._tasks.discard)
            await asyncio.wait(burials, timeout=PATIENCE)

    async def close(self) -> None:
        """Give up what is not written; it comes again."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _bury(self, decision: Decision, feed: Feed, record: Record) -> None:
        arrival, told = decision.arrival, False
        topic = feed.topic + DEAD
        headers = {**arrival.headers, **dead_letter_headers(decision, self._group)}
        while True:
            try:
                await self._client.ensure(topic)
                await self._client.write(topic, record.key, record.value, headers)
                break
            except DriverError as error:
                if not told:
                    self._link.host.report(error, arrival.name)
                told = True
                await asyncio.sleep(PAUSE)
        feed.settle(record)
        report_dead_letter(self._link.host, decision)
