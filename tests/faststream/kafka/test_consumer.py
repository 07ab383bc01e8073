"""A member of a Kafka group, on a client of paper: how it treats its group."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

from goevent_faststream import BrokerConfig
from goevent_faststream._kafka.consumer import COMMIT, Feed
from goevent_faststream._kafka.offsets import Place


class PaperClient:
    """A client with one consumer."""

    def __init__(self, consumer: RefusingConsumer) -> None:
        self._consumer = consumer

    def consumer(self, *_: object) -> RefusingConsumer:
        """Return it."""
        return self._consumer


class RefusingConsumer:
    """A member of a group that shares out anew, again and again."""

    def __init__(self) -> None:
        self.commits = 0
        self.takes = False

    async def start(self) -> None:
        """Join."""

    async def stop(self) -> None:
        """Leave."""

    async def read(self, most: int, patience: float) -> list[Any]:
        """Find nothing."""
        await asyncio.sleep(patience)
        return []

    async def find(self, partitions: Collection[int], start: Any) -> Mapping[int, int]:
        """Begin at the beginning."""
        return dict.fromkeys(partitions, 0)

    async def commit(self, places: Mapping[int, Place]) -> bool:
        """Take it, or not now."""
        self.commits += 1
        return self.takes


def test_group_that_refuses_commits_is_asked_less_and_less() -> None:
    async def main() -> None:
        consumer = RefusingConsumer()
        client: Any = PaperClient(consumer)
        broker: Any = SimpleNamespace(middlewares=())
        host: Any = SimpleNamespace(room=lambda: 1)
        feed = Feed(broker, client, host, BrokerConfig(group="g"), "order", "order", "earliest")
        joined = asyncio.get_running_loop().create_task(feed.start())
        for _ in range(20):
            await feed.assigned({0: None})
            await asyncio.sleep(COMMIT)
            feed.lost([0])
        # With pauses of 1, 2, 4, 8, 16 times COMMIT, and COMMIT after each.
        assert 1 < consumer.commits <= 5
        consumer.takes = True
        await feed.assigned({0: None})
        await feed.stop()
        assert feed.backlog().pending == 0
        await joined

    asyncio.run(main())
