"""The table: how each broker speaks of what goevent speaks of.

`MAPPINGS` is for reading, and the code reads it, too: a driver finds here which module knows a
broker, by the URL's scheme or by the class of the broker object, and which extra installs it. To
add a broker, add a row and write that module.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import Protocol, cast

from goevent import DriverError, UnknownDriverError

from ._adapter.contract import Adapter
from ._config import BrokerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """One broker, in words; `{prefix}`, `{name}` and `{group}` stand for themselves.

    Attributes:
        schemes: the URL schemes.
        module: where the functions of `AdapterModule` are.
        broker: the module in which the class of FastStream's broker is defined.
        durable: it is the one that is meant when a group or an address is given with a broker
            object, and it needs a group to listen.
        extra: what installs it: `pip install goevent[extra]`.
        prefix: the default of `BrokerConfig.prefix`.
        name: what an event name becomes.
        group: what a group becomes.
        key: what becomes of an event's key.
        travels: where headers, handle id and origin travel.
        patterns: what a pattern becomes.
        settles: what acknowledges, brings again, hands back, and what a dead letter is.
        address: the class of FastStream that may be given for details.
    """

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


_KAFKA = Mapping(
    schemes=("kafka",),
    module="goevent_faststream._kafka.aiokafka_client",
    broker="faststream.kafka",
    durable=True,
    extra="kafka",
    prefix="goevent.",
    name="topic {prefix}{name}, made if it is missing",
    group="one consumer group for each group and topic, {group}.{prefix}{name}",
    key="message key, and so the partition: events of one key stay in order",
    travels="in the JSON envelope; the handle id is the header correlation_id, too",
    patterns="the topics that exist and match, and new ones, looked for every second",
    settles=(
        "the committed offset, which moves over the settled prefix of a partition; a failed "
        "event comes again here, and holds back that offset and its key; with the offset go "
        "the deliveries of what is behind it; a dead letter goes to the topic "
        "{prefix}{name}..dead and is then settled"
    ),
    address="Topic, for the prefix and for how topics are made",
)

MAPPINGS: tuple[Mapping, ...] = (
    Mapping(
        schemes=("nats",),
        module="goevent_faststream._nats.core",
        broker="faststream.nats",
        durable=False,
        extra="nats",
        prefix="goevent.",
        name="subject {prefix}{name}",
        group="none: every bus gets every event, as with Redis pub/sub",
        key="none: all events of one bus and name stay in order",
        travels="in the JSON envelope",
        patterns="* is *, ** is > and what it matches too much is dropped here",
        settles="nothing: at most once",
        address="none",
    ),
    Mapping(
        schemes=("nats+js",),
        module="goevent_faststream._nats.jetstream",
        broker="faststream.nats",
        durable=True,
        extra="nats",
        prefix="{stream}.",
        name="subject {prefix}{name}, held by one stream (goevent-js) for all names",
        group="one durable pull consumer for each group and name",
        key="none: consumers of a group compete, so there is no order",
        travels="in the JSON envelope; the handle id is the Nats-Msg-Id, too",
        patterns="the names that exist and match, and new ones as they come",
        settles=(
            "+ACK; -NAK with a delay; -NAK at once; a dead letter goes to the stream {stream}-dead "
            "and is then +TERM"
        ),
        address="JStream",
    ),
    Mapping(
        schemes=("amqp", "amqps"),
        module="goevent_faststream._rabbit.adapter",
        broker="faststream.rabbit",
        durable=False,
        extra="rabbit",
        prefix="",
        name="routing key {prefix}{name} on one topic exchange (goevent, or the option stream)",
        group="none: every bus has a queue of its own, which goes with its connection",
        key="none: all events of one bus and name stay in order",
        travels="in the JSON envelope; the handle id is the message_id, too",
        patterns="* is *, ** is # and what it matches too much is dropped here",
        settles="nothing: at most once; an acknowledgement makes room for the next",
        address="RabbitExchange",
    ),
    Mapping(
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
        travels="in the JSON envelope; the handle id is the message_id, too",
        patterns="* is *, ** is #; they get what matches and has no queue of its own name",
        settles=(
            "basic.ack; basic.nack after the pause, which the queue counts; a copy that says how "
            "often it was delivered, and basic.ack; a dead letter goes to the queue "
            "{stream}:{group}:+dead and is then acknowledged"
        ),
        address="RabbitExchange, RabbitQueue",
    ),
    Mapping(
        schemes=("mqtt", "mqtts"),
        module="goevent_faststream._mqtt.adapter",
        broker="faststream.mqtt",
        durable=False,
        extra="mqtt",
        prefix="goevent.",
        name="topic {prefix}{name} with / for each dot",
        group="shared subscription $share/{group}/...; without one, every bus gets every event",
        key="none: a server whose window for a bus is full changes the order",
        travels="in the JSON envelope; the handle id is the correlation data, too",
        patterns=(
            "* is +, ** is # and what it matches too much is dropped here; patterns that overlap "
            "become one wider filter, so that a message comes once"
        ),
        settles="PUBACK when it is with the bus: at most once, also in a group",
        address="none",
    ),
    _KAFKA,
    replace(
        _KAFKA,
        schemes=("kafka+confluent",),
        module="goevent_faststream._kafka.confluent_client",
        broker="faststream.confluent",
        extra="confluent",
    ),
)


class AdapterModule(Protocol):
    """What the module of a broker has to define."""

    def make_broker(self, url: str) -> object:
        """Return FastStream's broker for a URL that has no options of ours any more.

        Raises:
            ValueError: the URL makes no sense.
        """
        ...

    def make_adapter(self, broker: object, config: BrokerConfig, address: object) -> Adapter:
        """Return what knows such a broker.

        Raises:
            TypeError: the address is none of this broker.
            ValueError: the configuration has what the broker cannot do.
        """
        ...


def mapping_for_scheme(scheme: str, *, durable: bool = False) -> Mapping:
    """Return the row of a URL scheme.

    Args:
        durable: take the durable one, if the scheme has two.

    Raises:
        UnknownDriverError: there is none.
    """
    found = [mapping for mapping in MAPPINGS if scheme in mapping.schemes]
    for mapping in found:
        if mapping.durable == durable:
            return mapping
    if found:
        return found[0]
    raise UnknownDriverError(f"no broker of FastStream is mapped to the scheme {scheme!r}")


def mapping_for_broker(broker: object, *, durable: bool) -> Mapping:
    """Return the row of a broker object.

    Args:
        durable: take the durable one, if the broker has two.

    Raises:
        TypeError: FastStream has no such broker, or it is not mapped.
    """
    modules = [cls.__module__ for cls in type(broker).__mro__]
    found = [each for each in MAPPINGS if any(_within(each.broker, name) for name in modules)]
    for mapping in found:
        if mapping.durable == durable:
            return mapping
    if found:
        return found[0]
    known = ", ".join(sorted({mapping.broker for mapping in MAPPINGS}))
    kind = type(broker).__qualname__
    raise TypeError(f"a broker is one of FastStream's ({known}), not a {kind}")


def load_adapter_module(mapping: Mapping) -> AdapterModule:
    """Return the module that knows a broker.

    Raises:
        DriverError: what it needs is not installed; says what to install.
    """
    try:
        return cast("AdapterModule", import_module(mapping.module))
    except ImportError as error:
        raise DriverError(
            f"{mapping.schemes[0]}:// needs a package that is not installed ({error}): "
            f'pip install "goevent[{mapping.extra}]"'
        ) from error


def _within(package: str, module: str) -> bool:
    return module == package or module.startswith(f"{package}.")
