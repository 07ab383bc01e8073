"""The server as telemetry names it, for both drivers."""

from __future__ import annotations

from goevent.drivers import BrokerIdentity

from ._link.config import RedisConfig


def server_identity(config: RedisConfig, group: str | None = None) -> BrokerIdentity:
    """Return the identity of a server.

    Args:
        config: Its address.
        group: The consumer group of the bus.
    """
    address, port = (config.path, 0) if config.path is not None else config.host_and_port()
    return BrokerIdentity(system="redis", address=address, port=port, group=group or "")
