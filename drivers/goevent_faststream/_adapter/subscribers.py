"""What every adapter does with FastStream's subscribers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from faststream.middlewares import AckPolicy


async def undecoded(message: Any) -> Any:
    """Decode a message to itself: its bytes are decoded on the other side."""
    return message


# The options of a subscriber around which only the broker's middlewares run. The adapter receives,
# decodes and acknowledges by itself, and `persistent=False` lets it own the subscriber.
SUBSCRIBER_OPTIONS: Mapping[str, Any] = {
    "decoder": undecoded,
    "ack_policy": AckPolicy.MANUAL,
    "no_reply": True,
    "persistent": False,
}


def adopt_subscriber(
    broker: Any, subscriber: Any, handler: Callable[[Any], Coroutine[Any, Any, None]]
) -> None:
    """Have a subscriber that was made for a name call a handler, and take it from its broker.

    The broker would start it again, at the next start, for as long as anything refers to it, and
    has no public way to forget it. Its owner starts and stops it.

    Args:
        subscriber: Made with `SUBSCRIBER_OPTIONS`.
    """
    subscriber(handler)
    broker._subscribers.discard(subscriber)
