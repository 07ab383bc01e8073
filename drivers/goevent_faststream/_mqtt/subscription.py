"""Feeds: one subscription of the client each, and what may come by it a second time.

The acknowledgement of a message may be lost with the connection, and then the server sends it on
the next one again, and says that it does. Only that tells it from another message that is equal.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import zmqtt


class Again(zmqtt.Message):
    """A message that the server says it has sent before."""

    __slots__ = ()


def received(publish: Any) -> zmqtt.Message:
    """Return the message in a packet, as the client does, which forgets that it comes again."""
    kind = Again if publish.dup else zmqtt.Message
    return kind(
        topic=publish.topic,
        payload=publish.payload,
        qos=publish.qos,
        retain=publish.retain,
        properties=publish.properties,
    )


class Buffer(asyncio.Queue[Any]):
    """What has come of one subscription and waits; of what has no window, not too much.

    Args:
        most: messages of QoS 0, which the server sends without waiting for an answer.
        lost: is told of the first message that is dropped, each time that this begins.
    """

    def __init__(self, most: int, lost: Callable[[zmqtt.Message], object]) -> None:
        super().__init__()
        self._most = most
        self._lost = lost
        self._losing = False

    async def put(self, item: Any) -> None:
        """Add a message."""
        full = item.qos is zmqtt.QoS.AT_MOST_ONCE and self.qsize() >= self._most
        if full and not self._losing:
            self._lost(item)
        self._losing = full
        if not full:
            await super().put(item)


class Feed:
    """One subscription of the client."""

    task: asyncio.Task[None]

    def __init__(self, prefetch: int) -> None:
        self.subscription: Any = None
        self._last: deque[int] = deque(maxlen=prefetch)
        self._unsure: Counter[int] = Counter()

    def lose(self) -> None:
        """Take note that the connection is lost, perhaps with the last acknowledgements."""
        self.task.cancel()
        self._unsure = Counter(self._last)
        self._last.clear()

    def is_known(self, message: zmqtt.Message) -> bool:
        """Tell whether a message was handed over on the connection before."""
        if not isinstance(message, Again):
            self._unsure.clear()  # the server begins with what it has not heard the end of
            return False
        key = key_of(message)
        known = self._unsure[key] > 0
        self._unsure[key] -= 1
        return known

    def handed(self, message: zmqtt.Message) -> None:
        """Take note that a message is with the bus; not before, or it would be lost on its way."""
        self._last.append(key_of(message))


def key_of(message: zmqtt.Message) -> int:
    """Return what equal messages have in common."""
    return hash((message.topic, message.payload))
