"""One subscription of the MQTT client: its queue, and the messages that the server sends again.

Theory of operation: The adapter acknowledges a message once it is delivered to the bus. The last
acknowledgements before the connection is lost may not reach the server, which then sends their
messages again on the next connection. Two messages with the same content may also be two events, so
content alone does not tell a repetition. MQTT marks repetitions with the DUP flag, and the server
sends all of them before any new message. `MqttSubscription` therefore remembers the messages that
were delivered last on a connection; on the next one, it drops messages with the DUP flag that are
among them, until the first message without the flag arrives.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import zmqtt
from zmqtt._internal.packets.subscribe import SubscriptionRequest


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


class MqttMessageQueue(asyncio.Queue[Any]):
    """The messages of one subscription that have arrived and wait; bounds messages of QoS 0.

    The server sends messages of QoS 1 only until its window is full, but it sends messages of QoS 0
    without any limit.

    Args:
        max_unlimited: The length of the queue from which on messages of QoS 0 are dropped.
        on_drop: Called with the first message of each series that is dropped.
    """

    def __init__(self, max_unlimited: int, on_drop: Callable[[zmqtt.Message], object]) -> None:
        super().__init__()
        self._max_unlimited = max_unlimited
        self._on_drop = on_drop
        self._is_dropping = False

    async def put(self, item: Any) -> None:
        """Add a message, or drop it."""
        is_full = item.qos is zmqtt.QoS.AT_MOST_ONCE and self.qsize() >= self._max_unlimited
        # One report for each series, because very many reports would reach the supervisor.
        if is_full and not self._is_dropping:
            self._on_drop(item)
        self._is_dropping = is_full
        if not is_full:
            await super().put(item)


class MqttSubscription:
    """One filter of the bus, over all its connections.

    Args:
        prefetch: The number of messages that the server sends without an acknowledgement.

    Attributes:
        client_subscription: The subscription of the client, on the current connection.
        task: The task that delivers its messages, on the current connection.
        refusal: The server's refusal of the filter on a later connection; empty if it accepts it.
    """

    task: asyncio.Task[None]

    def __init__(self, prefetch: int) -> None:
        self.client_subscription: Any = None
        self.refusal = ""
        # At most `prefetch` messages are unacknowledged at a time.
        self._delivered: deque[int] = deque(maxlen=prefetch)
        # A counter, since equal messages may be several events.
        self._delivered_before: Counter[int] = Counter()

    def is_on(self, client: Any) -> bool:
        """Tell whether the filter was subscribed to on the connection of a client."""
        return self.client_subscription is not None and self.client_subscription._client is client

    def connection_lost(self) -> None:
        """Stop delivering; the last acknowledgements may have been lost with the connection."""
        self.task.cancel()
        self._delivered_before = Counter(self._delivered)
        self._delivered.clear()

    def is_repetition(self, message: zmqtt.Message) -> bool:
        """Tell whether a message was delivered on the connection before."""
        if not isinstance(message, RepeatedMessage):
            # The server has sent all its repetitions by now.
            self._delivered_before.clear()
            return False
        key = content_key(message)
        is_known = self._delivered_before[key] > 0
        self._delivered_before[key] -= 1
        return is_known

    def note_delivery(self, message: zmqtt.Message) -> None:
        """Remember a message that is delivered.

        Not earlier: a message that is still waiting for room when the connection is lost must be
        delivered when it comes again.
        """
        self._delivered.append(content_key(message))


def content_key(message: zmqtt.Message) -> int:
    """Return a hash that is the same for messages with the same content."""
    return hash((message.topic, message.payload))


def requests_of(client_subscription: Any) -> list[SubscriptionRequest]:
    """Return the requests by which the client subscribed, to send them again."""
    return [
        SubscriptionRequest(
            topic_filter=topic_filter,
            qos=client_subscription._qos,
            retain_handling=client_subscription._retain_handling,
        )
        for topic_filter in client_subscription._filters
    ]
