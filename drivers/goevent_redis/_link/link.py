"""The link: one shared connection to a Redis server that stays up, whatever happens to it.

`Link.run` is the actor: it dials, prepares the connection (`on_connect`), lets it live and dials
again when it broke. It owns every task and dies with them. Requests of any task go straight into
the write buffer of the connection, or stand in a queue, first come first served, while there is no
connection or no room. Who lets them in from there acts in their place: at once, in their order.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio
from redis import exceptions as redis_errors
from trio.lowlevel import checkpoint_if_cancelled

from .config import MIB, RedisConfig
from .connection import open_connection
from .connectivity import Connected, Disconnected
from .conversation import Conversation
from .errors import LinkClosed, NotConnected, RedisLinkError
from .queue import Queue
from .request import SUBSCRIBING, Batch, Confirmation, Posted, Request, no_reply
from .resp import Encodable, pack
from .service import opened

FIRST_DELAY = 0.05
"""Seconds before the second dial; each further one waits twice as long, at most `LAST_DELAY`."""

LAST_DELAY = 0.8
"""Below a second, so that a server that is back is used within a second."""

SETTLED = 2.0
"""Seconds that a connection has to live for the next dial to be made at once again."""

Extend = Callable[[], Sequence[Encodable] | None]


def _ignore(_: Any) -> None:
    """Be the callback that nobody gave."""


async def _prepare_nothing(_: Conversation) -> None:
    """Be the preparation that nobody gave."""


class Link:
    """A connection to a Redis server that many tasks share and that comes back after it broke.

    Use it as `async with link.open():`, or start `link.run` in a nursery of your own. All methods
    are for tasks of the same Trio run.

    Args:
        config: Where the server is.
        on_push: Called with the push frames of each read of the socket, in order; a frame is a
            list such as `[b"message", channel, payload]`. Confirmations of subscriptions are among
            them. It must not block and must not raise: what it raises ends the link.
        on_connect: Awaited for each new connection before the link is up, to subscribe again; a
            Redis error in it counts as a failed dial. Push frames may come meanwhile.
        on_connected: Called when the link is up.
        on_disconnected: Called when a connection broke, and for each dial that failed after. As
            with the other callbacks, what it raises ends the link.
        keepalive: Seconds of silence until a PING. A server that vanished is noticed within these
            and `RedisConfig.read_timeout`.
        buffer_size: Bytes that the write buffer holds before requests have to wait for room; what
            the server has not taken yet may be as much again.
        patience: Seconds that requests wait for a connection if they do not say otherwise.
    """

    def __init__(
        self,
        config: RedisConfig,
        *,
        on_push: Callable[[list[Any]], None] = _ignore,
        on_connect: Callable[[Conversation], Awaitable[None]] = _prepare_nothing,
        on_connected: Callable[[Connected], None] = _ignore,
        on_disconnected: Callable[[Disconnected], None] = _ignore,
        keepalive: float = 5.0,
        buffer_size: int = MIB,
        patience: float = 0.0,
    ) -> None:
        self.config = config
        self._on_push = on_push
        self._on_connect = on_connect
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._keepalive = keepalive
        self._buffer_size = buffer_size
        self._patience = patience
        self._running = False
        self._conversation: Conversation | None = None  # None while the link is down
        self._reason: Exception | None = None  # why it is down
        self._preparing = trio.CancelScope()  # around `on_connect`
        self._changed = trio.Event()
        self._queue = Queue()
        self._count = 0
        self._up_at = self._down_at = -math.inf

    # -- asking ----------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """True while the link is up."""
        return self._conversation is not None

    @property
    def down_for(self) -> float:
        """Seconds since the link was up last; 0 while it is."""
        return 0.0 if self.connected else trio.current_time() - self._down_at

    async def ready(self) -> None:
        """Wait until the link is up.

        Raises:
            LinkClosed: It is not running, or ended meanwhile.
        """
        await trio.lowlevel.checkpoint()
        while self._conversation is None:
            self._check_running()
            await self._changed.wait()

    async def execute(
        self,
        command: str | bytes,
        *args: Encodable,
        extend: Extend | None = None,
        patience: float | None = None,
    ) -> Any:
        """Send a command and return its reply.

        Cancellation before the bytes entered the write buffer means that nothing is sent; after
        it, the command is sent and its reply dropped. Not for commands that block, that change
        the connection (SELECT, MULTI, HELLO, CLIENT REPLY), or that subscribe.

        Args:
            extend: Called at the moment the bytes enter the write buffer, in the order in which
                they are sent, perhaps by another task; its result is appended to `args`.
            patience: Seconds to wait for a connection while there is none; 0 fails at once. Room
                in the write buffer is waited for in any case.

        Raises:
            redis.exceptions.ResponseError: The server answers with an error.
            ConnectionBroken: There will be no reply; `maybe_executed` tells whether it matters.
            NotConnected: There was no connection; nothing was sent.
            LinkClosed: The link does not run; nothing was sent.
            ValueError: The command subscribes, so that it has no reply.
        """
        if command in SUBSCRIBING:
            raise no_reply(command)
        request = Request()
        await checkpoint_if_cancelled()
        conversation = self._conversation
        if conversation is None or self._queue or conversation.buffered >= self._buffer_size:
            await self._take_turn(lambda: _packed(command, args, extend), request, patience)
        else:
            conversation.enter(_packed(command, args, extend), request)
        return await request.answer()

    async def pipeline(
        self, commands: Sequence[tuple[Encodable, ...]], *, patience: float | None = None
    ) -> list[Any]:
        """Send commands in one piece, with nothing in between, and return their replies.

        Error replies stand in the list as exceptions; everything else is as for `execute`. MULTI
        and EXEC may be used here, in pairs.
        """
        await checkpoint_if_cancelled()
        if not commands:
            return []
        for command in commands:
            if not command:
                raise ValueError("a command of the pipeline is empty")
            if command[0] in SUBSCRIBING:
                raise no_reply(command[0])
        data = b"".join(map(pack, commands))
        return list(await self._ask(data, Batch(len(commands)), patience))

    async def subscribe(
        self, command: str, *channels: str | bytes, patience: float | None = None
    ) -> None:
        """Send SUBSCRIBE, PSUBSCRIBE, UNSUBSCRIBE or their like, and wait for the confirmations.

        The confirmations are push frames, and have been handed to `on_push` when this returns.
        Everything else is as for `execute`.

        Args:
            channels: At least one, because only then it is known how many confirmations come.
        """
        if not channels or command not in SUBSCRIBING:
            raise ValueError(f"{command} does not subscribe, or not to a channel")
        await checkpoint_if_cancelled()
        await self._ask(pack((command, *channels)), Confirmation(len(channels)), patience)

    def post_nowait(
        self,
        command: str | bytes,
        *args: Encodable,
        extend: Extend | None = None,
        then: Callable[[Any], None] = _ignore,
    ) -> None:
        """Send a command; its reply, or the exception in its place, goes to a callback.

        Args:
            extend: As for `execute`.
            then: Called once, by another task; it must not raise.

        Raises:
            trio.WouldBlock: The write buffer is full.
            NotConnected: There is no connection.
            LinkClosed: The link does not run.
            ValueError: The command subscribes, so that it has no reply.
        """
        if command in SUBSCRIBING:
            raise no_reply(command)
        conversation = self.writable()
        if conversation is None:
            self._check_running()
            if self._conversation is None:
                raise self._not_connected()
            raise trio.WouldBlock
        conversation.enter(_packed(command, args, extend), Posted(then))

    def writable(self) -> Conversation | None:
        """Return what a request may enter right now, or None if it would have to wait."""
        conversation = self._conversation
        if conversation is None or self._queue or conversation.buffered >= self._buffer_size:
            return None
        return conversation

    async def drain(self) -> None:
        """Wait until everything that was sent before has been answered."""
        await self.execute(b"PING")

    def renew(self, reason: Exception) -> None:
        """Give up the connection and make another one; everything that was sent has failed."""
        if self._conversation is not None:
            self._conversation.end(reason)

    async def _ask(self, data: bytes, request: Request, patience: float | None) -> Any:
        conversation = self._conversation
        if conversation is None or self._queue or conversation.buffered >= self._buffer_size:
            await self._take_turn(lambda: data, request, patience)
        else:
            conversation.enter(data, request)
        return await request.answer()

    async def _take_turn(
        self, make: Callable[[], bytes], request: Request, patience: float | None
    ) -> None:
        """Wait until the request has entered a conversation, behind those that wait already."""
        patience = self._patience if patience is None else patience
        with self._queue.turn(make, request) as turn:
            while not turn.over:
                await checkpoint_if_cancelled()
                self._check_running()
                down = self._conversation is None
                if down and patience <= 0:
                    raise self._not_connected()
                with trio.move_on_after(patience if down else math.inf) as waiting:
                    await turn.wait()
                if waiting.cancelled_caught:
                    raise self._not_connected()
        if turn.error is not None:
            raise turn.error

    def _admit(self) -> None:
        """Let waiting requests into the write buffer while there is room."""
        while (conversation := self._conversation) is not None and self._queue:
            if conversation.buffered >= self._buffer_size:
                return
            self._queue.pop().enter(conversation)

    def _check_running(self) -> None:
        if not self._running:
            raise LinkClosed("the link is not open")

    def _not_connected(self) -> NotConnected:
        error = NotConnected(f"not connected to {self.config.where()}: {self._reason}")
        error.__cause__ = self._reason
        return error

    # -- living ----------------------------------------------------------------------------------

    def open(self) -> AbstractAsyncContextManager[Link]:
        """Run the link while the body runs; entered when it is up.

        What the first connection fails with, and what the body raises, leaves as itself.
        """
        return opened(self)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, and stay connected until cancelled; started when the link is up.

        Only the first connection may fail; later on the link dials for ever, at once after a
        connection that had lived for a while, then with growing pauses of up to 0.8 s.

        Raises:
            RedisLinkError: The first connection failed; the class says why.
            redis.exceptions.ResponseError: What `on_connect` asked was refused, the first time.
        """
        if self._running:
            raise RuntimeError("the link is running already")
        self._running, self._count, self._reason = True, 0, None
        try:
            await self._stay_up(task_status)
        finally:
            self._running = False
            self._queue.wake()
            self._change()

    async def _stay_up(self, task_status: trio.TaskStatus[None]) -> None:
        dials, delay = 0, 0.0
        while True:
            count = self._count
            reason = await self._live(task_status)
            if not self._count:
                raise reason
            if self._count == count:
                dials += 1
                self._reason = reason
                self._on_disconnected(Disconnected(reason, dials))
            else:
                dials = 0
            if self._count > count and trio.current_time() - self._up_at >= SETTLED:
                delay = 0.0
            else:
                delay = min(max(2 * delay, FIRST_DELAY), LAST_DELAY)
            # Many clients lose the same server at the same time: they must not return in step.
            await trio.sleep(random.uniform(0.5, 1) * delay)  # noqa: S311

    async def _live(self, task_status: trio.TaskStatus[None]) -> Exception:
        """Live through one connection; return why it ended or never came to be."""
        try:
            connection = await open_connection(self.config)
        except RedisLinkError as error:
            return error
        self._preparing = trio.CancelScope()
        conversation = Conversation(
            connection,
            on_push=self._on_push,
            on_room=self._admit,
            on_end=self._down,
            keepalive=self._keepalive,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conversation.run)
            try:
                with self._preparing:
                    await self._on_connect(conversation)
            except redis_errors.RedisError as error:
                conversation.end(error)
            if conversation.reason is None:
                self._up(conversation)
                if self._count == 1:
                    task_status.started()
        return conversation.reason or LinkClosed("the link was closed")

    def _up(self, conversation: Conversation) -> None:
        now = trio.current_time()
        downtime = now - self._down_at if self._count else 0.0
        self._conversation, self._reason, self._up_at = conversation, None, now
        self._count += 1
        self._admit()
        self._queue.wake()
        self._change()
        self._on_connected(Connected(self._count, downtime))

    def _down(self, reason: Exception) -> None:
        if self._conversation is None:
            # It had not been up yet; what else the preparation waits for may never come.
            self._preparing.cancel()
            return
        self._conversation, self._reason = None, reason
        self._down_at = trio.current_time()
        self._queue.wake()
        self._change()
        if not isinstance(reason, LinkClosed):
            self._on_disconnected(Disconnected(reason, 0))

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _packed(command: Encodable, args: tuple[Encodable, ...], extend: Extend | None) -> bytes:
    more = extend() if extend is not None else None
    return pack((command, *args, *more)) if more else pack((command, *args))
