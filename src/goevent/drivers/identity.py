"""The identity of a broker: its names in telemetry. Drivers state it, and telemetry reads it.

It is not a part of `BrokerDescription`: telemetry reads it at each opening of a bus, for which it
has to cost nothing, and its words are those of OpenTelemetry. A description is made for given event
names, in the words of AsyncAPI.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from .contract import Driver


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerIdentity:
    """The broker that a driver is configured for, without secrets.

    A driver may have one as its attribute `identity`.

    Attributes:
        system: The kind of broker, as OpenTelemetry names it: `"kafka"`, `"rabbitmq"`, `"nats"`,
            `"mqtt"`, `"redis"`.
        address: The host of the server, or the path of its unix socket; empty if unknown. Of
            several servers it is the first one.
        port: The port of the server; 0 if unknown.
        group: The consumer group; empty without one.
    """

    system: str
    address: str = ""
    port: int = 0
    group: str = ""

    @classmethod
    def of_url(cls, system: str, urls: str | Iterable[str], group: str | None) -> BrokerIdentity:
        """Return the identity of a broker at a URL, or at the first of several.

        A URL may be a host and a port only. Its user and its password are left out. A URL that
        cannot be read gives no address.
        """
        url = urls if isinstance(urls, str) else next(iter(urls), "")
        try:
            parts = urlsplit(url if "://" in url else f"//{url}")
            address, port = parts.hostname or "", parts.port or 0
        except ValueError:
            address, port = "", 0
        return cls(system=system, address=address, port=port, group=group or "")


def broker_identity(driver: Driver) -> BrokerIdentity | None:
    """Return the identity of a driver's broker; None if the driver has none, or does not tell."""
    found = cast("object", getattr(driver, "identity", None))
    return found if isinstance(found, BrokerIdentity) else None
