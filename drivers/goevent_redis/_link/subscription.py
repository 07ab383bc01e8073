"""Subscriptions to many channels: sent in pieces, and sent again until the server confirms them.

Both drivers use it: for the channels of events, and for those of direct messages.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from .conversation import Conversation
from .errors import LinkClosed, NotConnected, RedisLinkError
from .link import Link

MAX_CHANNELS_PER_COMMAND = 1000
"""The number of channels in one SUBSCRIBE."""


async def subscribe_all(link: Link | Conversation, command: str, channels: Sequence[str]) -> None:
    """Send SUBSCRIBE or its like for any number of channels, and wait for the confirmations.

    Raises:
        RedisLinkError: The connection broke.
        redis.exceptions.ResponseError: The server refuses one of the channels.
    """
    for start in range(0, len(channels), MAX_CHANNELS_PER_COMMAND):
        await link.subscribe(command, *channels[start : start + MAX_CHANNELS_PER_COMMAND])


async def confirm_all(
    link: Link, command: str, channels: Sequence[str], *, patience: float
) -> None:
    """Send SUBSCRIBE or its like until it is confirmed, over a new connection if one breaks.

    Args:
        link: The link, which reports each lost connection.
        command: The command.
        channels: Its channels; nothing is sent if there are none.
        patience: Seconds to wait for each new connection.

    Raises:
        NotConnected: No connection came in time.
        LinkClosed: The link does not run.
        redis.exceptions.ResponseError: The server refuses one of the channels.
    """
    while channels:
        try:
            with trio.move_on_after(patience) as waiting:
                await link.ready()
            if waiting.cancelled_caught:
                raise NotConnected(f"there is no connection to {link.config.where()}")
            await subscribe_all(link, command, channels)
        except (LinkClosed, NotConnected):
            raise
        except RedisLinkError:
            continue
        return
