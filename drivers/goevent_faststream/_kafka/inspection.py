"""The inspection of a Kafka cluster: the backlog of any group, tails, and dangerous settings.

It joins no group, commits nothing and creates no topic.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from goevent import compile_pattern
from goevent.drivers import Backlog, Finding

from .._adapter.contract import ShowEvent
from .client import KafkaClient
from .connection import KafkaConnection
from .limits import LIMIT_OF_TOPIC, parse_limit
from .tail import TopicTail
from .topic_reader import ClusterLayout, Place, TopicReader
from .topics import colliding_topic, consumer_group, name_of, topic_of

REQUESTS_AT_ONCE = 16
# For the first records behind the commits; without them the age is unknown.
OLDEST_RECORD_SECONDS = 3.0
# A shorter retention deletes events while a service is down for a night.
SHORT_RETENTION_SECONDS = 24 * 3600.0
TAIL_CLOSE_SECONDS = 0.7
MILLISECONDS_PER_SECOND = 1000


class KafkaInspection:
    """The questions about one cluster.

    Args:
        prefix: The beginning of topic names.
        max_event_bytes: The largest event that the driver takes.
    """

    def __init__(
        self, client: KafkaClient, connection: KafkaConnection, prefix: str, max_event_bytes: int
    ) -> None:
        self._client = client
        self._connection = connection
        self._prefix = prefix
        self._max_event_bytes = max_event_bytes
        self._tails: set[asyncio.Task[Any]] = set()

    # -- the events that pass

    async def tail(self, pattern: str, show: ShowEvent, started: Callable[[], None]) -> None:
        """Show events by a reader without a group, until cancelled.

        Raises:
            DriverError: The broker refuses it for good.
        """
        tail = TopicTail(self._client, self._connection, self._prefix, pattern, show, started)
        task = asyncio.current_task()
        if task is not None:
            self._tails.add(task)
            task.add_done_callback(self._tails.discard)
        await tail.run()

    async def wait_for_tails(self) -> None:
        """Give the readers of cancelled tails a moment to close."""
        if self._tails:
            await asyncio.wait({*self._tails}, timeout=TAIL_CLOSE_SECONDS)

    # -- the backlog of a group

    async def lag(self, group: str, names: Sequence[str] = ()) -> list[Backlog]:
        """Return the backlog of a group for each topic in which it has committed.

        Events whose listeners run count as not delivered: the broker knows the commits only. A
        topic of a long event name shows only a digest of it, and is left out.

        Raises:
            DriverError: A broker does not answer, or refuses the request.
        """
        await self._connection.wait_until_up()
        layout = await self._client.layout()
        named = {topic: name_of(self._prefix, topic) for topic in layout.topics}
        known = {topic: name for topic, name in sorted(named.items()) if name is not None}
        committed = await self._committed(group, layout, [*known])
        if not committed:
            return []
        reader = self._client.reader()
        try:
            await reader.start()
            return await self._backlogs(reader, known, layout, committed)
        finally:
            await reader.stop()

    async def _committed(
        self, group: str, layout: ClusterLayout, topics: Sequence[str]
    ) -> dict[str, Mapping[int, int]]:
        """Return the committed offsets of the group in the topics where it has some."""
        found: dict[str, Mapping[int, int]] = {}
        for first in range(0, len(topics), REQUESTS_AT_ONCE):
            part = topics[first : first + REQUESTS_AT_ONCE]
            answers = await asyncio.gather(
                *(
                    self._client.committed(
                        consumer_group(group, topic),
                        topic,
                        [partition for _, partition in layout.places([topic])],
                    )
                    for topic in part
                )
            )
            found.update(zip(part, answers, strict=True))
        return {topic: offsets for topic, offsets in found.items() if offsets}

    async def _backlogs(
        self,
        reader: TopicReader,
        names: Mapping[str, str],
        layout: ClusterLayout,
        committed: Mapping[str, Mapping[int, int]],
    ) -> list[Backlog]:
        places = layout.places([*committed])
        firsts = await reader.first_offsets(places)
        ends = await reader.end_offsets(places)
        # A partition without a commit is younger than the group, which begins at its first record.
        # Records behind an old commit may have been deleted.
        begins = {
            (topic, partition): max(
                committed[topic].get(partition, 0), firsts.get((topic, partition), 0)
            )
            for topic, partition in places
        }
        lags = {place: max(0, ends.get(place, 0) - begins[place]) for place in places}
        behind = {place: begins[place] for place in places if lags[place]}
        times = await _first_times(reader, behind)
        now = time.time()
        backlogs: list[Backlog] = []
        for topic in committed:
            late = [place for place in behind if place[0] == topic]
            oldest = min((times[place] for place in late if place in times), default=None)
            age: float | None = 0.0
            if late:
                age = None if oldest is None else max(0.0, now - oldest)
            lag = sum(count for place, count in lags.items() if place[0] == topic)
            backlogs.append(Backlog(event_name=names[topic], lag=lag, oldest_waiting=age))
        return backlogs

    # -- settings

    async def check(self, names: Sequence[str]) -> list[Finding]:
        """Look for settings of the topics and the brokers that lose or refuse events.

        Raises:
            DriverError: A broker does not answer, or refuses the request.
        """
        await self._connection.wait_until_up()
        layout = await self._client.layout()
        findings: list[Finding] = []
        wanted: dict[str, None] = {}
        is_any_missing = any("*" in name for name in names)
        for name in names:
            if "*" in name:
                matches = compile_pattern(name)
                found = ((name_of(self._prefix, topic), topic) for topic in sorted(layout.topics))
                wanted.update((topic, None) for each, topic in found if each and matches(each))
                continue
            topic = topic_of(self._prefix, name)
            if topic in layout.topics:
                wanted[topic] = None
                continue
            is_any_missing = True
            other = colliding_topic(topic, layout.topics)
            if other is not None:
                text = (
                    f"Kafka: the topic {topic!r} cannot be created beside {other!r}: their names "
                    "differ only in '.' and '_'"
                )
                findings.append(Finding(severity="error", text=text))
        for topic in wanted:
            findings += _check_replicas(layout, topic)
            settings = await self._client.topic_settings(topic)
            findings += self._check_topic(layout, topic, settings)
        if is_any_missing:
            findings += await self._check_new_topics(layout)
        return findings

    def _check_topic(
        self, layout: ClusterLayout, topic: str, settings: Mapping[str, str]
    ) -> list[Finding]:
        """Look at the settings of a topic; those that the broker does not tell are missing."""
        partitions = layout.topics[topic]
        replicas = min((each.replicas for each in partitions), default=0)
        in_sync = min((each.in_sync for each in partitions), default=0)
        texts: list[str] = []
        errors: list[str] = []
        limit = parse_limit(settings.get(LIMIT_OF_TOPIC))
        if limit is not None and limit < self._max_event_bytes:
            texts.append(f"{LIMIT_OF_TOPIC} is {limit}: larger events are refused")
        least = parse_limit(settings.get("min.insync.replicas"))
        if least is not None and replicas:
            if least > replicas:
                errors.append(
                    f"min.insync.replicas is {least} and there are {replicas} replicas: every "
                    "event is refused"
                )
            elif in_sync < least:
                errors.append(
                    f"{in_sync} of {replicas} replicas are in sync and min.insync.replicas is "
                    f"{least}: events are refused until a broker is back"
                )
            elif least == 1 and replicas > 1:
                texts.append(
                    "min.insync.replicas is 1: an event is confirmed while only one broker has it"
                )
        retention = parse_limit(settings.get("retention.ms"))
        if retention is not None and retention < SHORT_RETENTION_SECONDS * MILLISECONDS_PER_SECOND:
            texts.append(
                f"retention.ms is {retention}: older events are deleted, even if a group has not "
                "had them"
            )
        kept = parse_limit(settings.get("retention.bytes"))
        if kept is not None:
            texts.append(
                f"retention.bytes is {kept}: beyond it the oldest events are deleted, even if a "
                "group has not had them"
            )
        if "compact" in settings.get("cleanup.policy", ""):
            texts.append("cleanup.policy is compact: of each key only the last event is kept")
        if settings.get("unclean.leader.election.enable") == "true":
            texts.append(
                "unclean.leader.election.enable is true: a broker that misses events may lead"
            )
        return [
            *(Finding(severity="error", text=_about(topic, text)) for text in errors),
            *(Finding(severity="warning", text=_about(topic, text)) for text in texts),
        ]

    async def _check_new_topics(self, layout: ClusterLayout) -> list[Finding]:
        """Look at the settings with which the brokers create missing topics."""
        if len(layout.brokers) < 2:
            return []
        settings = await self._client.broker_settings(layout.brokers[0])
        if settings.get("auto.create.topics.enable") != "true":
            return []
        if settings.get("default.replication.factor") != "1":
            return []
        text = (
            f"Kafka: default.replication.factor is 1 and there are {len(layout.brokers)} brokers: "
            "a new topic is lost with its broker"
        )
        return [Finding(severity="warning", text=text)]


def _check_replicas(layout: ClusterLayout, topic: str) -> list[Finding]:
    """Tell that a topic has a single replica although there are several brokers."""
    replicas = min((each.replicas for each in layout.topics[topic]), default=0)
    if replicas != 1 or len(layout.brokers) < 2:
        return []
    text = (
        f"there is one replica and there are {len(layout.brokers)} brokers: the loss of its "
        "broker loses events"
    )
    return [Finding(severity="warning", text=_about(topic, text))]


def _about(topic: str, text: str) -> str:
    return f"Kafka: the topic {topic!r}: {text}"


async def _first_times(reader: TopicReader, positions: Mapping[Place, int]) -> dict[Place, float]:
    """Return the times of the first records at or behind offsets, of those that come in time."""
    times: dict[Place, float] = {}
    if not positions:
        return times
    clock = asyncio.get_running_loop().time
    until = clock() + OLDEST_RECORD_SECONDS
    await reader.assign(positions)
    while (missing := positions.keys() - times.keys()) and (left := until - clock()) > 0:
        for topic, record in await reader.read(len(missing), min(0.5, left)):
            if record.published >= 0:
                times.setdefault((topic, record.partition), record.published)
    return times
