"""The tail of topics: the events that come from now on, read without a group.

`KafkaInspection` runs one `TopicTail` for each tail. It begins at the ends of the partitions that
exist, and looks for new topics and partitions every second; those it reads from their first record
on, because they were created meanwhile. It remembers the offset behind the last record that it has
shown of each partition. If its reader fails, another one goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from goevent import DriverConnectionError, DriverError, compile_pattern
from goevent.drivers import TailedEvent

from .._adapter.contract import ShowEvent
from .client import KafkaClient
from .connection import KafkaConnection
from .offsets import KafkaRecord
from .topic_reader import Place, TopicReader
from .topics import name_of, topic_of

LOOK_PAUSE_SECONDS = 1.0
TAIL_READ_SECONDS = 0.25
MAX_TAIL_RECORDS = 250
TAIL_RETRY_SECONDS = 0.5
TAIL_GIVE_UP_SECONDS = 30.0  # of refusals one after the other


class TopicTail:
    """The events of the topics that match a pattern, from now on.

    Args:
        prefix: The beginning of topic names.
        show: Takes one event.
        started: Called once, when the first positions are known.
    """

    def __init__(
        self,
        client: KafkaClient,
        connection: KafkaConnection,
        prefix: str,
        pattern: str,
        show: ShowEvent,
        started: Callable[[], None],
    ) -> None:
        self._client = client
        self._connection = connection
        self._prefix = prefix
        self._pattern = pattern
        self._matches = compile_pattern(pattern)
        self._show = show
        self._started = started
        self._is_started = False
        # The next offset of each partition, even while its topic is missing.
        self._positions: dict[Place, int] = {}
        self._assigned: set[Place] = set()
        self._failing_since: float | None = None

    async def run(self) -> None:
        """Show events until cancelled.

        Raises:
            DriverError: The brokers refuse it.
        """
        clock = asyncio.get_running_loop().time
        while True:
            await self._connection.wait_until_up(float("inf") if self._is_started else None)
            reader = self._client.reader()
            self._assigned = set()
            try:
                await reader.start()
                await self._read(reader)
            except DriverError as error:
                if not self._is_started:
                    raise
                if self._failing_since is None:
                    self._failing_since = clock()
                is_passing = isinstance(error, DriverConnectionError)
                if not is_passing and clock() - self._failing_since > TAIL_GIVE_UP_SECONDS:
                    raise
            finally:
                await reader.stop()
            await asyncio.sleep(TAIL_RETRY_SECONDS)

    async def _read(self, reader: TopicReader) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            try:
                await self._look(reader)
            except DriverConnectionError:
                # The client connects again by itself.
                if not self._is_started:
                    raise
            if not self._is_started:
                self._is_started = True
                self._started()
            until = clock() + LOOK_PAUSE_SECONDS
            if not self._assigned:
                await asyncio.sleep(LOOK_PAUSE_SECONDS)
            while self._assigned and clock() < until:
                for topic, record in await reader.read(MAX_TAIL_RECORDS, TAIL_READ_SECONDS):
                    await self._show_record(topic, record)
                    self._failing_since = None

    async def _look(self, reader: TopicReader) -> None:
        """Read the matching partitions that exist, new ones from their first record on."""
        layout = await self._client.layout()
        wanted = {*layout.places([topic for topic in layout.topics if self._name(topic)])}
        new = wanted - self._positions.keys()
        if new:
            places = sorted(new)
            ask = reader.first_offsets if self._is_started else reader.end_offsets
            self._positions.update(await ask(places))
        wanted &= self._positions.keys()
        if wanted != self._assigned:
            await reader.assign({place: self._positions[place] for place in sorted(wanted)})
            self._assigned = wanted

    def _name(self, topic: str) -> str | None:
        """Return the event name of a topic; None if it does not match the pattern."""
        if "*" not in self._pattern:
            # The end of a long name is missing in its topic.
            return self._pattern if topic == topic_of(self._prefix, self._pattern) else None
        name = name_of(self._prefix, topic)
        return name if name is not None and self._matches(name) else None

    async def _show_record(self, topic: str, record: KafkaRecord) -> None:
        name = self._name(topic)
        if name is not None:
            await self._show(
                TailedEvent(
                    event_name=name,
                    data=record.value,
                    id=f"{topic}-{record.partition}@{record.offset}",
                    headers=record.headers,
                    time=_time(record.published),
                )
            )
        self._positions[topic, record.partition] = record.offset + 1


def _time(seconds: float) -> datetime | None:
    """Return the time of a record; None if it has none, or one that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds >= 0 else None
    except (ValueError, OverflowError, OSError):
        return None
