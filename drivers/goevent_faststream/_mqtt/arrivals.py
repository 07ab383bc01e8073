"""The messages that have arrived: the queue of those that wait, and those that came before.

The client puts each message into the one `MessageQueue` of its connection, and a task of the
adapter takes them out. `transport` reads no more while the queue is full.

Theory of operation of `DeliveredMessages`: The adapter acknowledges a message once it is delivered
to the bus. The last acknowledgements before the connection is lost may not reach the server, which
then sends their messages again on the next connection. Two messages with the same content may also
be two events, so content alone does not tell a repetition. MQTT marks repetitions with the DUP
flag, and the server sends all of them before any new message of QoS 1. So the messages that were
delivered last on a connection are remembered; on the next one, messages with the DUP flag that are
among them are dropped, until the first message without the flag arrives.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import zmqtt


class RepeatedMessage(zmqtt.Message):
    """A message with the DUP flag: the server may have sent it before."""

    __slots__ = ()


def make_message(publish: Any) -> zmqtt.Message:
    """Return the message of a PUBLISH packet, as the client does, but with its DUP flag."""
    message_type = RepeatedMessage if publish.dup else zmqtt.Message
    return message_type(
        topic=publish.topic,
        payload=publish.payload,
        qos=publish.qos,
        retain=publish.retain,
        properties=publish.properties,
    )


class MessageQueue(asyncio.Queue[Any]):
    """The messages of one connection that have arrived and wait for the bus.

    The server sends messages of QoS 1 only until its window is full, but it sends messages of QoS 0
    without any limit. Nothing is read while the queue is full, unless the bus waits for an answer,
    which comes behind the messages. Messages of QoS 0 that arrive then are dropped.

    Args:
        max_messages: The number of messages at which the queue is full.
        max_bytes: The size of their payloads together at which it is full.
        on_drop: Called with the first message of each series that is dropped.

    Attributes:
        on_room: Called when the queue is full no more.
        is_overrun: Whether more is being read although the queue is full.
    """

    def __init__(
        self, max_messages: int, max_bytes: int, on_drop: Callable[[zmqtt.Message], object]
    ) -> None:
        super().__init__()
        self.on_room: Callable[[], object] = _do_nothing
        self.is_overrun = False
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._on_drop = on_drop
        self._bytes = 0
        self._is_dropping = False

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read."""
        return self.qsize() >= self._max_messages or self._bytes >= self._max_bytes

    async def put(self, item: Any) -> None:
        """Add a message, or drop it."""
        must_drop = self.is_overrun and self.is_full and item.qos is zmqtt.QoS.AT_MOST_ONCE
        # One report for each series, because very many reports would reach the supervisor.
        if must_drop and not self._is_dropping:
            self._on_drop(item)
        self._is_dropping = must_drop
        if not must_drop:
            await super().put(item)

    def _put(self, item: Any) -> None:
        super()._put(item)
        self._bytes += _payload_bytes(item)

    def _get(self) -> Any:
        was_full = self.is_full
        item = super()._get()
        self._bytes -= _payload_bytes(item)
        if was_full and not self.is_full:
            self.on_room()
        return item


class DeliveredMessages:
    """The messages that were delivered last, over all connections of the bus.

    Args:
        count: The number of messages that the server sends without an acknowledgement.
    """

    def __init__(self, count: int) -> None:
        self._delivered: deque[int] = deque(maxlen=count)
        # A counter, since equal messages may be several events.
        self._delivered_before: Counter[int] = Counter()

    def clear(self) -> None:
        """Forget everything."""
        self._delivered.clear()
        self._delivered_before.clear()

    def connection_lost(self) -> None:
        """Expect repetitions: the last acknowledgements may have been lost."""
        # Added, because an attempt to connect may fail before all repetitions have come.
        self._delivered_before.update(self._delivered)
        self._delivered.clear()

    def is_repetition(self, message: zmqtt.Message) -> bool:
        """Tell whether a message was delivered on the connection before."""
        if not isinstance(message, RepeatedMessage):
            if message.qos is not zmqtt.QoS.AT_MOST_ONCE:
                # The server has sent all its repetitions by now.
                self._delivered_before.clear()
            return False
        key = content_key(message)
        if self._delivered_before[key] <= 0:
            return False
        self._delivered_before[key] -= 1
        return True

    def note(self, message: zmqtt.Message) -> None:
        """Remember a message that is delivered.

        Not earlier: a message that is still waiting for room when the connection is lost must be
        delivered when it comes again.
        """
        self._delivered.append(content_key(message))


def content_key(message: zmqtt.Message) -> int:
    """Return a hash that is the same for messages with the same content."""
    return hash((message.topic, message.payload))


def _payload_bytes(item: Any) -> int:
    # None ends the queue.
    return 0 if item is None else len(item.payload)


def _do_nothing() -> None:
    """Do nothing: nobody waits for room."""
