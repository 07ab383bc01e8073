"""The brake: pauses partitions of which enough waits, and reads on from those with room again."""

from __future__ import annotations

from collections.abc import Mapping

from .client import KafkaConsumer
from .offsets import Window


class Brake:
    """Which partitions of one member of a group are paused.

    Args:
        most: messages between committed and read, in one partition.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._paused: set[int] = set()

    def release(self, partition: int) -> None:
        """Take note that a partition is read of, as each one is that is taken over."""
        self._paused.discard(partition)

    def pause(self, consumer: KafkaConsumer, partitions: set[int]) -> None:
        """Read no more of partitions."""
        more = partitions - self._paused
        if more:
            consumer.pause(more)
            self._paused |= more

    def fit(self, consumer: KafkaConsumer, windows: Mapping[int, Window]) -> None:
        """Pause partitions that are full, and read on from those that are half empty again."""
        self.pause(consumer, {p for p, w in windows.items() if len(w.records) >= self._most})
        again = {p for p in self._paused if p in windows}
        again = {p for p in again if 2 * len(windows[p].records) <= self._most}
        if again:
            consumer.resume(again)
            self._paused -= again
