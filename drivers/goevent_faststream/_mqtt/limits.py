"""The limits of an MQTT server, which it announces in its answer to a connection.

A server ends the connection of a client that exceeds one of them, and the events of others are lost
with it. So the subscriptions and the publisher compare first. MQTT 3.1.1 announces nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from goevent import DriverError, EncodeError

from .reason_codes import REASON_TEXTS

# The longest topic, header and property of any packet, and the longest packet.
MAX_TEXT_BYTES = 65_535
MAX_PACKET_BYTES = 268_435_460


class OversizedPacket(Exception):
    """A packet that the server does not accept.

    Attributes:
        size: Its bytes.
        limit: The server's Maximum Packet Size.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"{size} bytes are above the server's Maximum Packet Size of {limit}")
        self.size = size
        self.limit = limit

    def of_event(self, name: str) -> EncodeError:
        """Return the error of the event in the packet."""
        return EncodeError(name, str(self))


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The limits of one connection.

    Attributes:
        max_packet_bytes: The largest packet, with its topic and its properties.
        max_unacknowledged: The events that the server accepts without an acknowledgement; None for
            the limit of MQTT.
        max_qos: The highest quality of service of an event.
        has_wildcards: Whether filters may have wildcards.
        has_shared_subscriptions: Whether a group may share a subscription.
    """

    max_packet_bytes: int = MAX_PACKET_BYTES
    max_unacknowledged: int | None = None
    max_qos: int = 2
    has_wildcards: bool = True
    has_shared_subscriptions: bool = True

    def filter_refusal(self, topic_filter: str) -> str | None:
        """Return the reason if the server has no filters of this kind; None if it has."""
        if topic_filter.startswith("$share/") and not self.has_shared_subscriptions:
            return REASON_TEXTS[0x9E]
        if not self.has_wildcards and ("+" in topic_filter or "#" in topic_filter):
            return REASON_TEXTS[0xA2]
        return None

    def refuse_qos(self, qos: int) -> None:
        """Refuse a quality of service that the server does not have.

        Raises:
            DriverError: It is above the server's Maximum QoS.
        """
        if qos > self.max_qos:
            raise DriverError(
                f"MQTT: the server takes only events of QoS {self.max_qos} (its Maximum QoS), "
                f"and goevent publishes with QoS {qos}"
            )


def limits_of(properties: Any) -> ServerLimits:
    """Return the limits in the properties of the server's answer; None stands for no properties."""
    if properties is None:
        return ServerLimits()
    return ServerLimits(
        max_packet_bytes=properties.maximum_packet_size or MAX_PACKET_BYTES,
        max_unacknowledged=properties.receive_maximum,
        max_qos=2 if properties.maximum_qos is None else properties.maximum_qos,
        has_wildcards=properties.wildcard_subscription_available is not False,
        has_shared_subscriptions=properties.shared_subscription_available is not False,
    )


def filter_error(topic_filter: str, reason: str, *, others: int = 0) -> DriverError:
    """Return the error of a filter that the server refuses, and of others for the same reason."""
    more = f" and {others} others" if others else ""
    return DriverError(
        f"MQTT: the server refuses the subscription to {topic_filter!r}{more}: {reason}"
    )
