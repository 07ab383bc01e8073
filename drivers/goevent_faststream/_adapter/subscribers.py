"""The subscribers of FastStream that adapters use to run middlewares or to receive."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from faststream.middlewares import AckPolicy


async def undecoded(message: Any) -> Any:
    """Return the message itself: the format decodes its bytes, on Trio's side."""
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
    """Give a subscriber its handler, and remove it from its broker; the caller starts and stops it.

    The broker would start it at each of its own starts, and has no public way to forget it.

    Args:
        subscriber: Made with `SUBSCRIBER_OPTIONS`.
    """
    subscriber(handler)
    broker._subscribers.discard(subscriber)
