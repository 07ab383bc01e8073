"""The messages that RabbitMQ refuses: the server closes the channel and names none of them.

`PublishChannel` asks these functions, which do not touch the server. The server looks at the
messages of a channel in order, and at none behind the one that it refuses. Its reason has the size,
the exchange or the routing key of that message. The reasons that have none of these concern
properties that only few messages have; such a message is written alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

_SIZE = re.compile(r"than configured max size (\d+)")
_TOPIC = re.compile(r"topic '([^']*)' in exchange '([^']*)'")
_EXCHANGE = re.compile(r"exchange '([^']*)' in vhost")
_DEFAULT_EXCHANGE = "amq.default"  # its name in reasons
_CHECKED_HEADERS = ("CC", "BCC")  # further routing keys


class Refusable(Protocol):
    """A message, as far as the server can name it."""

    @property
    def exchange(self) -> str:
        """The exchange."""
        ...

    @property
    def routing_key(self) -> str:
        """The routing key."""
        ...

    @property
    def body(self) -> bytes:
        """The body."""
        ...


def has_checked_properties(properties: Any) -> bool:
    """Tell whether a message has AMQP properties that the server checks."""
    if properties.user_id is not None or properties.expiration is not None:
        return True
    headers = properties.headers
    return bool(headers) and any(name in headers for name in _CHECKED_HEADERS)


def find_refused(reason: str, messages: Sequence[Refusable]) -> list[int]:
    """Return the places of the messages that a reason fits, in order.

    The first one is the message that the server has refused; it would refuse the others, too. There
    is none if the reason fits no message and any one of several may be meant.
    """
    if len(messages) == 1:
        return [0]
    fits = _condition(reason)
    return [place for place, message in enumerate(messages) if fits(message)]


def _condition(reason: str) -> Callable[[Refusable], bool]:
    limit = size_limit(reason)
    if limit is not None:
        return lambda message: len(message.body) > limit
    if (named := _TOPIC.search(reason)) is not None:
        key, exchange = named[1], _exchange(named[2])
        return lambda message: message.routing_key == key and message.exchange == exchange
    if (named := _EXCHANGE.search(reason)) is not None:
        exchange = _exchange(named[1])
        return lambda message: message.exchange == exchange
    return lambda _: False


def _exchange(name: str) -> str:
    return "" if name == _DEFAULT_EXCHANGE else name


def size_limit(reason: str) -> int | None:
    """Return the largest size of a message that a reason tells, or None."""
    found = _SIZE.search(reason)
    return None if found is None else int(found[1])
