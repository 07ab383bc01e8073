"""The description of FastStream's brokers for documents: servers, addresses and bindings.

`FastStreamDriver.describe` calls `describe`. The names follow the texts of the table of `_brokers`;
the adapters, which use the same names at the broker, need not be connected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from goevent.drivers import BrokerDescription, PlaceDescription, ServerDescription

from ._brokers import Mapping
from ._config import BrokerConfig

DEFAULT_STREAM = "goevent-js"
DEFAULT_EXCHANGE = "goevent"
AMQP_BINDING = "0.3.0"
KAFKA_BINDING = "0.5.0"
MQTT_BINDING = "0.2.0"
NATS_BINDING = "0.1.0"
TRANSIENT, PERSISTENT = 1, 2  # the delivery modes of AMQP
AT_LEAST_ONCE = 1  # a quality of service of MQTT


def describe(
    mapping: Mapping, broker: object, config: BrokerConfig, address: object, names: Sequence[str]
) -> BrokerDescription:
    """Return the description of a broker.

    Args:
        mapping: The row of the broker.
        broker: FastStream's broker.
        config: The settings of the bus.
        address: The broker's own description of the place of events, or None.
        names: The event names; a segment in braces is a parameter.
    """
    stream = config.stream or getattr(address, "name", None)
    return BrokerDescription(
        servers=_servers(broker),
        places={name: _place(mapping, config, stream, name) for name in names},
        group=config.group,
        enveloped=config.format == "goevent",
    )


def _servers(broker: Any) -> tuple[ServerDescription, ...]:
    specification = broker.specification
    protocol = str(specification.protocol or "")
    secure = "secure" in protocol or (protocol.endswith("s") and protocol not in ("nats",))
    version = str(specification.protocol_version or "")
    servers: list[ServerDescription] = []
    for url in specification.url:
        scheme, found, _ = url.partition("://")
        parts = urlsplit(url if found else f"//{url}")
        # Everything before the at sign may be a login.
        host = parts.netloc.rpartition("@")[2]
        servers.append(
            ServerDescription(
                host=host,
                protocol=protocol,
                version="" if version in ("auto", "custom") else version,
                path=parts.path if protocol.startswith("amqp") else "",
                tls=secure or (bool(found) and scheme in ("amqps", "mqtts", "tls")),
            )
        )
    return tuple(servers)


def _place(
    mapping: Mapping, config: BrokerConfig, stream: str | None, name: str
) -> PlaceDescription:
    prefix = config.prefix
    if prefix is None:
        prefix = mapping.prefix.format(stream=stream or DEFAULT_STREAM)
    address = f"{prefix}{name}"
    group = config.group
    kind = mapping.broker.rpartition(".")[2]
    if kind in ("kafka", "confluent"):
        receive: dict[str, object] = {"bindingVersion": KAFKA_BINDING}
        if group is not None:
            receive["groupId"] = {"type": "string", "enum": [f"{group}.{address}"]}
        return PlaceDescription(
            address=address,
            channel={"kafka": {"topic": address, "bindingVersion": KAFKA_BINDING}},
            receive={"kafka": receive},
            message={"kafka": {"key": {"type": "string"}, "bindingVersion": KAFKA_BINDING}},
        )
    if kind == "rabbit":
        exchange = stream or DEFAULT_EXCHANGE
        channel: dict[str, object] = {
            "is": "routingKey",
            "exchange": {"name": exchange, "type": "topic", "durable": True, "autoDelete": False},
            "bindingVersion": AMQP_BINDING,
        }
        consume: dict[str, object] = {"ack": True, "bindingVersion": AMQP_BINDING}
        if mapping.durable and group is not None:
            # A channel of AsyncAPI is a routing key or a queue. The queue is that of the receiver.
            consume["x-queue"] = f"{exchange}:{group}:{'##' if '{' in name else name}"
        delivery = PERSISTENT if mapping.durable else TRANSIENT
        return PlaceDescription(
            address=address,
            channel={"amqp": channel},
            receive={"amqp": consume},
            send={"amqp": {"deliveryMode": delivery, "bindingVersion": AMQP_BINDING}},
        )
    if kind == "mqtt":
        quality = {"mqtt": {"qos": AT_LEAST_ONCE, "bindingVersion": MQTT_BINDING}}
        return PlaceDescription(address=address.replace(".", "/"), receive=quality, send=quality)
    queue_binding: dict[str, object] = {"bindingVersion": NATS_BINDING}
    if group is not None:
        queue_binding["queue"] = group
    return PlaceDescription(address=address, receive={"nats": queue_binding})
