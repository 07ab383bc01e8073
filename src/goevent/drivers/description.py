"""The description of a broker: its servers, and the places at which it keeps events.

A driver may have the one method of `Describes`. `goevent.asyncapi` calls it for a bus that need not
be open. It reads the configuration only: it asks no broker, and returns no secrets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from .contract import Driver


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerDescription:
    """A server of the broker.

    Attributes:
        host: The host, and the port if there is one. Never a user or a password.
        protocol: The protocol as AsyncAPI names it, such as `"kafka"` or `"amqp"`.
        version: The version of the protocol; empty if it does not matter.
        path: The path within the server, such as a virtual host; empty for none.
        tls: True if the connection is encrypted.
    """

    host: str
    protocol: str
    version: str = ""
    path: str = ""
    tls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceDescription:
    """The place of the events of one name: a topic, a subject, a routing key or a stream.

    The bindings are those of AsyncAPI: the name of a protocol, and its object.

    Attributes:
        address: The broker's own name for the place.
        channel: The bindings of the channel.
        receive: The bindings of an operation that receives.
        send: The bindings of an operation that sends.
        message: The bindings of the messages.
    """

    address: str
    channel: Mapping[str, object] = field(default_factory=dict[str, object])
    receive: Mapping[str, object] = field(default_factory=dict[str, object])
    send: Mapping[str, object] = field(default_factory=dict[str, object])
    message: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerDescription:
    """A broker, as a driver is configured for it.

    Attributes:
        servers: The servers; none if there is no server.
        places: The place of each name that was asked for.
        group: The consumer group of the bus; None without one.
        enveloped: True if a message is goevent's envelope; False if it is the event alone.
    """

    servers: tuple[ServerDescription, ...] = ()
    places: Mapping[str, PlaceDescription] = field(default_factory=dict[str, PlaceDescription])
    group: str | None = None
    enveloped: bool = True


class Describes(Protocol):
    """A driver that can describe its broker."""

    def describe(self, names: Sequence[str]) -> BrokerDescription:
        """Describe the broker without asking it.

        Args:
            names: Event names. A segment in braces, as in `order.{segment1}`, is a parameter. It
                stays in the address as it is.
        """
        ...


def described(driver: Driver, names: Sequence[str]) -> BrokerDescription:
    """Return the description that a driver gives of its broker.

    For a driver that gives none, the address of an event is its name, and there are no servers.

    Args:
        driver: The driver.
        names: Event names, as `Describes.describe` takes them.
    """
    if not hasattr(driver, "describe"):
        return BrokerDescription(places={name: PlaceDescription(address=name) for name in names})
    return cast("Describes", driver).describe(names)
