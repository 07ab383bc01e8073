"""The table of brokers: the meaning of goevent's terms in the terms of each broker.

`MAPPINGS` is documentation that the code uses, too: `FastStreamDriver` finds here the module that
makes the adapter, by the scheme of a URL or by the class of a broker object, and the extra that
installs it. To add a broker, add a row and write that module.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Protocol, cast

from goevent import DriverError, UnknownDriverError, UnsupportedError
from goevent.drivers import TLS_OPTIONS

from ._adapter.contract import Adapter
from ._config import BrokerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """One row of the table.

    In the texts `{prefix}`, `{name}`, `{group}` and `{stream}` stand for the settings of the bus.

    Attributes:
        title: The name of the broker in texts.
        schemes: The URL schemes.
        module: The module that implements `AdapterModule`.
        broker: The package of FastStream that defines the broker's class.
        durable: Whether the broker keeps events, and needs a group to listen. Of two rows with the
            same scheme, the durable one is used with a group or an address.
        extra: The extra that installs the client: `pip install goevent[extra]`.
        prefix: The default of `BrokerConfig.prefix`.
        name: The broker's name for an event name.
        group: The broker's name for a consumer group.
        key: The broker's use of an event's key.
        travels: Where headers, handle id and origin travel.
        patterns: How a pattern receives its events.
        direct: Where requests, replies and reports travel, beside the events.
        settles: How events are acknowledged, retried, released and dead-lettered, in this order.
        address: The class of FastStream that may be given as `address`.
        url_options: The options of a URL that go to the broker's client.
        refused: The settings of `BrokerConfig` that the broker cannot honour, each with the reason.

    Example:
        ::

            for mapping in MAPPINGS:
                print(mapping.schemes, mapping.group)
    """

    title: str
    schemes: tuple[str, ...]
    module: str
    broker: str
    durable: bool
    extra: str
    prefix: str
    name: str
    group: str
    key: str
    travels: str
    patterns: str
    settles: str
    address: str
    direct: str = "none: there are no requests and replies"
    url_options: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict[str, str])

    def check(self, config: BrokerConfig) -> None:
        """Check that the broker can honour all settings.

        Raises:
            UnsupportedError: It cannot honour one that differs from its default.
        """
        for name, reason in self.refused.items():
            if getattr(config, name) != getattr(BrokerConfig, name):
                raise UnsupportedError(
                    f"{self.schemes[0]}:// cannot honour the setting {name!r}: {reason}"
                )


# The settings that make sense only if the broker keeps events.
_DURABLE_SETTINGS = ("start", "max_deliveries", "backoff", "max_backoff", "claim_idle")

_KAFKA = Mapping(
    title="Kafka",
    schemes=("kafka", "kafka+tls"),
    module="goevent_faststream._kafka.aiokafka_client",
    broker="faststream.kafka",
    durable=True,
    extra="kafka",
    prefix="goevent.",
    name="topic {prefix}{name}, created if it is missing",
    group="one consumer group for each group and topic, {group}.{prefix}{name}",
    key="message key, and so the partition: events of one key stay in order",
    travels="in the JSON envelope; the handle id also in the header correlation_id",
    patterns="every existing topic that matches, and new ones, which are looked for every second",
    settles=(
        "the committed offset, which moves over the settled prefix of a partition; a failed "
        "event is retried by the same bus, and holds back the offset and the events of its key; "
        "the offset's metadata holds the deliveries of the events behind it; a dead letter is "
        "written to the topic {prefix}{name}..dead, and its event is then settled"
    ),
    address="Topic, for the prefix and the settings of created topics",
    url_options=("sasl", "tls", *TLS_OPTIONS),
    refused={"stream": "Kafka has no streams; each event name has a topic"},
)

_AIO_PIKA_OPTIONS = (
    *("auth", "fail_fast", "happy_eyeballs_delay", "heartbeat", "interleave", "name"),
    *("reconnect_interval", "timeout"),
    *TLS_OPTIONS,
)

MAPPINGS: tuple[Mapping, ...] = (
    Mapping(
        title="NATS",
        schemes=("nats", "nats+tls"),
        module="goevent_faststream._nats.core",
        broker="faststream.nats",
        durable=False,
        extra="nats",
        prefix="goevent.",
        name="subject {prefix}{name}",
        group="none: every bus gets every event, as with Redis pub/sub",
        key="none: all events of one bus and name stay in order",
        travels="in the JSON envelope",
        patterns="* is *, ** is >; the driver drops events that > matches and ** does not",
        settles="nothing: at most once",
        address="none",
        direct="subject $GOEVENT.{prefix}{address}",
        url_options=TLS_OPTIONS,
        refused=dict.fromkeys(
            ("group", "stream", *_DURABLE_SETTINGS),
            "core NATS has no groups and no streams: all buses get all events; nats+js:// has it",
        ),
    ),
    Mapping(
        title="NATS JetStream",
        schemes=("nats+js", "nats+js+tls"),
        module="goevent_faststream._nats.jetstream",
        broker="faststream.nats",
        durable=True,
        extra="nats",
        prefix="{stream}.",
        name="subject {prefix}{name}, held by one stream (goevent-js) for all names",
        group="one durable pull consumer for each group and name",
        key="none: consumers of a group compete, so there is no order",
        travels="in the JSON envelope; the handle id also in the header Nats-Msg-Id",
        patterns="every existing name that matches, and new ones as soon as they come",
        settles=(
            "+ACK; -NAK with a delay; -NAK at once; a dead letter is written to the stream "
            "{stream}-dead, then +TERM"
        ),
        address="JStream",
        direct="core subject $GOEVENT.{prefix}{address}, which the stream does not hold",
        url_options=TLS_OPTIONS,
    ),
    Mapping(
        title="RabbitMQ",
        schemes=("amqp", "amqps"),
        module="goevent_faststream._rabbit.adapter",
        broker="faststream.rabbit",
        durable=False,
        extra="rabbit",
        prefix="",
        name="routing key {prefix}{name} on one topic exchange (goevent, or the option stream)",
        group="none: every bus has a queue of its own, which is deleted with its connection",
        key="none: all events of one bus and name stay in order",
        travels="in the JSON envelope; the handle id also in the property message_id",
        patterns="* is *, ** is *.#",
        settles="nothing: at most once; an acknowledgement only asks for the next event",
        address="RabbitExchange",
        direct="routing key {prefix}{address} on the direct exchange {stream}:+direct",
        url_options=_AIO_PIKA_OPTIONS,
        refused=dict.fromkeys(
            _DURABLE_SETTINGS, "without a group RabbitMQ keeps no events; add the option group"
        ),
    ),
    Mapping(
        title="RabbitMQ",
        schemes=("amqp", "amqps"),
        module="goevent_faststream._rabbit.adapter",
        broker="faststream.rabbit",
        durable=True,
        extra="rabbit",
        prefix="",
        name="routing key {prefix}{name} on one topic exchange (goevent, or the option stream)",
        group=(
            "one durable quorum queue {stream}:{group}:{name} for each name, and one, "
            "{stream}:{group}:##, for the patterns, behind an exchange of the group"
        ),
        key="none: consumers of a group compete, so there is no order",
        travels="in the JSON envelope; the handle id also in the property message_id",
        patterns="* is *, ** is *.#; they get the events that match and have no queue of their own",
        settles=(
            "basic.ack; basic.nack after the pause, which the queue counts; a copy with the number "
            "of its deliveries, then basic.ack; a dead letter is written to the queue "
            "{stream}:{group}:+dead, then basic.ack"
        ),
        address="RabbitExchange, RabbitQueue",
        direct="routing key {prefix}{address} on the direct exchange {stream}:+direct",
        url_options=_AIO_PIKA_OPTIONS,
        refused={
            "claim_idle": "the server gives the events of a bus that it has lost to another bus by "
            "itself; the option heartbeat sets how soon"
        },
    ),
    Mapping(
        title="MQTT",
        schemes=("mqtt", "mqtts"),
        module="goevent_faststream._mqtt.adapter",
        broker="faststream.mqtt",
        durable=False,
        extra="mqtt",
        prefix="goevent.",
        name="topic {prefix}{name} with / for each dot",
        group="shared subscription $share/{group}/...; without one, every bus gets every event",
        key="none: servers change the order while too many events are unacknowledged",
        travels="in the JSON envelope; the handle id also in the correlation data",
        patterns=(
            "* is +, ** is #; the driver drops events that # matches and ** does not; patterns "
            "that overlap become one wider filter, so that a message comes once"
        ),
        settles="PUBACK as soon as the bus has the event: at most once, even in a group",
        address="none",
        direct="topic goevent.direct/{prefix}{address} with / for each dot, by a second connection",
        url_options=("client_id", "keepalive", "version", *TLS_OPTIONS),
        refused={
            "stream": "MQTT has no streams: it keeps nothing",
            **dict.fromkeys(
                _DURABLE_SETTINGS[:-1], "MQTT delivers events at most once and keeps none"
            ),
        },
    ),
    _KAFKA,
    replace(
        _KAFKA,
        title="Kafka with librdkafka",
        schemes=("kafka+confluent", "kafka+confluent+tls"),
        module="goevent_faststream._kafka.confluent_client",
        broker="faststream.confluent",
        extra="confluent",
    ),
)


class AdapterModule(Protocol):
    """The functions of the module of a broker."""

    def make_broker(self, url: str) -> object:
        """Return FastStream's broker for a URL, from which goevent's options are removed.

        Raises:
            ValueError: The URL makes no sense.
        """
        ...

    def make_adapter(self, broker: object, config: BrokerConfig, address: object) -> Adapter:
        """Return the adapter for a broker.

        Raises:
            TypeError: The broker or the address has another class than this module expects.
            ValueError: The broker cannot honour a setting.
        """
        ...


def mapping_for_scheme(scheme: str, *, durable: bool = False) -> Mapping:
    """Return the row for a URL scheme.

    Args:
        durable: Prefer the durable row, if the scheme has two.

    Raises:
        UnknownDriverError: No row has the scheme.
    """
    found = [mapping for mapping in MAPPINGS if scheme in mapping.schemes]
    if not found:
        raise UnknownDriverError(f"no broker of FastStream is mapped to the scheme {scheme!r}")
    return _prefer(found, durable=durable)


def title_of_scheme(url: str) -> str:
    """Return the name of the broker for the scheme of a URL; empty if it is unknown."""
    scheme = url.partition("://")[0].lower()
    return next((each.title for each in MAPPINGS if scheme in each.schemes), "")


def mapping_for_broker(broker: object, *, durable: bool) -> Mapping:
    """Return the row for a broker object.

    Args:
        durable: Prefer the durable row, if the broker has two.

    Raises:
        TypeError: FastStream has no such broker, or it is not mapped.
    """
    # A broker of the user's own derives from one of FastStream's.
    modules = [cls.__module__ for cls in type(broker).__mro__]
    found = [each for each in MAPPINGS if any(_is_within(each.broker, name) for name in modules)]
    if not found:
        known = ", ".join(sorted({mapping.broker for mapping in MAPPINGS}))
        kind = type(broker).__qualname__
        raise TypeError(f"a broker is one of FastStream's ({known}), not a {kind}")
    return _prefer(found, durable=durable)


def load_adapter_module(mapping: Mapping) -> AdapterModule:
    """Import the module of a broker; only then is its client needed.

    Raises:
        DriverError: A package is not installed; the text names the extra to install.
    """
    try:
        return cast("AdapterModule", import_module(mapping.module))
    except ImportError as error:
        # FastStream's own text names an extra of FastStream, and its cause names the package.
        missing = error.__cause__ or error
        raise DriverError(
            f"{mapping.schemes[0]}:// needs a package that is not installed ({missing}): "
            f'pip install "goevent[{mapping.extra}]"'
        ) from error


def _prefer(found: list[Mapping], *, durable: bool) -> Mapping:
    return next((mapping for mapping in found if mapping.durable == durable), found[0])


def _is_within(package: str, module: str) -> bool:
    return module == package or module.startswith(f"{package}.")
