"""The tail of pub/sub: a subscription over a connection of its own.

The driver runs `show_events` for each `tail`. The server sends the events to this connection as to
any subscriber, and keeps none: those that find the channel of a slow reader full are counted as
missed, so that the server's buffer never fills up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from redis import exceptions as redis_errors

from goevent import compile_pattern
from goevent.drivers import TailChannel, TailedEvent

from .._event_names import is_event_name
from .._link.config import RedisConfig
from .._link.connectivity import Disconnected
from .._link.conversation import Conversation
from .._link.errors import LASTING_ERRORS, LinkClosed
from .._link.link import Link
from .channels import Channels


class PubSubTail:
    """One tail.

    Args:
        pattern: An event name or a pattern.

    Raises:
        ValueError: The pattern makes no sense.
    """

    def __init__(self, config: RedisConfig, pattern: str) -> None:
        self._config = config
        self._matches = compile_pattern(pattern)
        self._channels = Channels(config.channel_prefix)
        is_pattern = "*" in pattern
        self._command = "PSUBSCRIBE" if is_pattern else "SUBSCRIBE"
        self._channel = (self._channels.glob if is_pattern else self._channels.channel)(pattern)
        self._link: Link | None = None
        self._failure: Exception | None = None
        self._failed = trio.Event()

    async def show_events(self, channel: TailChannel, started: Callable[[], None]) -> None:
        """Show events, until cancelled.

        Raises:
            RedisLinkError: The server cannot be reached, or does not let this user in again.
            redis.exceptions.ResponseError: The server refuses the subscription.
        """

        def push(frames: list[Any]) -> None:
            for frame in frames:
                event = self._tailed(frame)
                if event is not None:
                    channel.put_nowait(event)

        self._link = link = Link(
            self._config,
            on_push=push,
            on_connect=self._subscribe,
            on_disconnected=self._disconnected,
        )
        async with link.open():
            started()
            await self._failed.wait()
        if self._failure is not None:
            raise self._failure

    async def _subscribe(self, conversation: Conversation) -> None:
        conversation.check_master()
        await conversation.subscribe(self._command, self._channel)

    def _disconnected(self, event: Disconnected) -> None:
        """End the tail if another attempt to connect would fail, too."""
        reason = event.reason
        if isinstance(reason, (redis_errors.ResponseError, *LASTING_ERRORS)):
            self._failure = reason
            self._failed.set()

    def fork(self) -> None:
        """End the tail: this process is a fork of the one that owns its connection."""
        if self._link is not None:
            self._failure = LinkClosed("the tail belongs to the parent of this process")
            self._link.leave_to_parent()
        # In another thread than that of the run loop no task runs again.
        if trio.lowlevel.in_trio_run():
            self._failed.set()

    def _tailed(self, frame: list[Any]) -> TailedEvent | None:
        """Return the event of a push frame; None if it is something else."""
        if frame[0] not in (b"message", b"pmessage"):
            return None
        channel, data = frame[-2], frame[-1]
        # The glob of a pattern matches more than the pattern.
        name = self._channels.name(channel.decode("utf-8", "replace"))
        if name is None or not self._matches(name) or not is_event_name(name):
            return None
        return TailedEvent(event_name=name, data=bytes(data))
