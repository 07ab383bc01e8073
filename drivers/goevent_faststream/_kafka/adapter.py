"""The adapter of Kafka: durable, at least once, in the order of keys.

Each event name has a topic, and each group has a consumer group of its own for each topic. One
bus of a group gets each event. A pattern stands for the topics that match it and for those that are
created later: the adapter looks for new topics every second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from goevent import DriverConnectionError, DriverError, compile_pattern
from goevent.drivers import Backlog, Capabilities

from .._adapter.contract import MAX_IN_FLIGHT_EVENTS, AdapterHost, Decision, Outgoing
from .._config import BrokerConfig
from .client import KafkaClient
from .connection import KafkaConnection
from .consumer import EventTopic, KafkaConsumer
from .flow_control import WaitingBytes
from .inspection import KafkaInspection
from .publisher import KafkaPublisher
from .settler import KafkaSettler
from .topics import check_prefix, name_of

T = TypeVar("T")

# Brokers take 1 MiB, headers included, unless they are configured otherwise.
MAX_EVENT_BYTES = 1_000_000
DEFAULT_PREFIX = "goevent."
DISCOVERY_PAUSE_SECONDS = 1.0


def check_address(address: object, topic_type: type[T]) -> T | None:
    """Return the address if it is a `Topic` of the broker's module, or None for none.

    Raises:
        TypeError: It is something else.
    """
    if address is None or isinstance(address, topic_type):
        return address
    raise TypeError(f"the address of events in Kafka is a Topic of its broker, not {address!r}")


class KafkaAdapter:
    """Kafka, through one of two clients.

    Args:
        broker: FastStream's broker.
        prefix: The beginning of topic names, unless the config has one; None for the default.

    Raises:
        ValueError: Kafka takes no topic with this prefix.
    """

    def __init__(
        self, broker: Any, client: KafkaClient, config: BrokerConfig, prefix: str | None
    ) -> None:
        if config.stream is not None:
            raise ValueError("Kafka has no streams; each event name has a topic")
        self._broker = broker
        self._client = client
        self._config = config
        self._prefix = config.prefix or prefix or DEFAULT_PREFIX
        check_prefix(self._prefix)
        timeout = config.publish_timeout
        self._connection = KafkaConnection(client, timeout)
        self._publisher = KafkaPublisher(client, self._connection, self._prefix, timeout)
        self._settler = KafkaSettler(client, self._connection, config.group or "")
        self._consumers: dict[str, KafkaConsumer] = {}
        self._waiting = WaitingBytes(config.prefetch_bytes)
        # The stops of consumers that no name needs any more. A cancelled call must not leave a
        # member behind: it would keep its partitions, and nobody would read them.
        self._leaving: set[asyncio.Task[None]] = set()
        self._patterns: dict[str, Callable[[str], object]] = {}
        # One change of the consumers at a time.
        self._changing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self.inspection = KafkaInspection(client, self._connection, self._prefix, MAX_EVENT_BYTES)

    @property
    def capabilities(self) -> Capabilities:
        """Events are in the order of their key, and not of their name."""
        return Capabilities(
            fan_out=False,
            durable=True,
            ordered=False,
            in_flight=MAX_IN_FLIGHT_EVENTS,
            max_size=MAX_EVENT_BYTES,
        )

    async def open(self, host: AdapterHost) -> None:
        """Connect."""
        self._changing = asyncio.Lock()
        self._consumers.clear()
        self._waiting = WaitingBytes(self._config.prefetch_bytes)
        self._patterns.clear()
        self._publisher.open()
        await self._connection.open(host, self._publisher.producer_failed)
        create = asyncio.get_running_loop().create_task
        self._tasks = [create(self._connection.watch()), create(self._watch_topics())]

    async def close(self) -> None:
        """Commit the settled events, leave the groups, and disconnect."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The bridge has cancelled them; their readers need a moment to close.
        await self.inspection.wait_for_tails()
        await self._settler.close()
        consumers, lost = [*self._consumers.values()], not self._connection.is_up
        self._consumers.clear()
        self._publisher.close()
        try:
            stops = (each.stop(lost=lost, wait=False) for each in consumers)
            await asyncio.gather(*stops, *self._leaving)
        finally:
            await self._connection.close()

    # -- receiving

    async def subscribe(self, names: Sequence[str]) -> None:
        """Join the consumer groups of names and patterns."""
        await self._connection.wait_until_up()
        try:
            for name in names:
                if "*" in name:
                    self._patterns[name] = compile_pattern(name)
            wanted = {name: name for name in names if "*" not in name}
            await self._consume(wanted, is_new=False)
            if self._patterns:
                await self._discover(is_new=False)
        except DriverError:
            await self.unsubscribe(names)
            raise

    async def _discover(self, *, is_new: bool) -> None:
        """Consume the topics that match a pattern and are not consumed for it yet."""
        for topic in await self._client.topics():
            name = name_of(self._prefix, topic)
            if name is None:
                continue
            for pattern, test in [*self._patterns.items()]:
                if test(name) and not self._is_consumed(name, pattern):
                    await self._consume({name: pattern}, is_new=is_new)

    def _is_consumed(self, name: str, subscribed_name: str) -> bool:
        return name in self._consumers and subscribed_name in self._consumers[name].subscribed_names

    async def _consume(self, wanted: dict[str, str], *, is_new: bool) -> None:
        """Start consumers that are missing.

        Args:
            wanted: For each event name the subscribed name or pattern that it matches.
            is_new: The topics were created while the group listened, so that it begins at their
                first event and misses none.
        """
        async with self._changing:
            started: list[KafkaConsumer] = []
            for name, subscribed_name in wanted.items():
                consumer = self._consumers.get(name)
                if consumer is None:
                    topic = (await self._publisher.topic(name)).topic
                    start = "earliest" if is_new else self._config.start
                    consumer = KafkaConsumer(
                        self._broker,
                        self._client,
                        self._connection.host,
                        self._config,
                        EventTopic(name, topic, start),
                        self._waiting,
                    )
                    started.append(consumer)
                    self._consumers[name] = consumer
                consumer.subscribed_names[subscribed_name] = None
            await asyncio.gather(*(each.start() for each in started))

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Leave the consumer groups; the broker keeps their commit points."""
        async with self._changing:
            unused: list[KafkaConsumer] = []
            for name in names:
                self._patterns.pop(name, None)
            for consumer in [*self._consumers.values()]:
                for name in names:
                    consumer.subscribed_names.pop(name, None)
                if not consumer.subscribed_names:
                    unused.append(self._consumers.pop(consumer.name))
            lost = not self._connection.is_up
            leaving = [asyncio.create_task(each.stop(lost=lost)) for each in unused]
            for task in leaving:
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)
            await asyncio.gather(*map(asyncio.shield, leaving))

    async def stop_receiving(self) -> None:
        """Deliver no more; the bus stays in its groups, to commit the events of its listeners."""
        self._patterns.clear()
        for consumer in self._consumers.values():
            consumer.stop_delivering()

    # -- sending and settling

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish a burst."""
        await self._publisher.publish(burst)

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Carry out verdicts."""
        await self._settler.settle(decisions)

    # -- watching

    async def _watch_topics(self) -> None:
        """Look for new topics, and after the consumers, until cancelled."""
        refusal = ""
        while True:
            await asyncio.sleep(DISCOVERY_PAUSE_SECONDS)
            consumers = [*self._consumers.values()]
            if not self._connection.is_up:
                for consumer in consumers:
                    consumer.pause_watch()
                continue
            try:
                if self._patterns:
                    await self._discover(is_new=True)
                refusal = ""
            except DriverConnectionError:
                # `connection` reports it.
                continue
            except DriverError as error:
                if refusal != str(error):
                    refusal = str(error)
                    self._connection.host.report(error)
            await asyncio.gather(*(consumer.look() for consumer in consumers))

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return the work in the partitions that this bus has, as last seen."""
        return tuple(consumer.backlog() for consumer in [*self._consumers.values()])
