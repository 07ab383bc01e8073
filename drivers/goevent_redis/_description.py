"""The description of a Redis server for documents. AsyncAPI has no bindings for Redis yet."""

from __future__ import annotations

from collections.abc import Mapping

from goevent.drivers import BrokerDescription, PlaceDescription, ServerDescription

from ._link.config import RedisConfig


def describe(
    config: RedisConfig, addresses: Mapping[str, str], group: str | None = None
) -> BrokerDescription:
    """Return the description of a server.

    Args:
        config: The configuration of the connection; its logins are left out.
        addresses: The channel or the stream of each event name.
        group: The consumer group of the bus, if it has one.
    """
    path = "" if config.path is None else config.path
    tls = bool(config.tls)
    server = ServerDescription(
        host="localhost" if path else str(config.addr),
        protocol="rediss" if tls else "redis",
        path=path,
        tls=tls,
    )
    return BrokerDescription(
        servers=(server,),
        places={name: PlaceDescription(address=each) for name, each in addresses.items()},
        group=group,
    )
