"""The link: one connection to a Redis server, shared by many tasks and opened again when it breaks.

`Link.run` is the actor. It owns every task of the link: it opens a connection, lets the driver
prepare it (`on_connect`), runs a conversation over it and opens the next connection when that one
broke. The drivers call `execute`, `pipeline`, `subscribe` and `post_nowait`.

Theory of operation
-------------------
A request goes straight into the write buffer of the current conversation. It waits in the request
queue if there is no connection, if the write buffer is full, or if other requests wait already. So
requests enter the write buffer in the order in which they were made. When the buffer has room, or a
connection is up, `_submit_queued` submits the first requests on behalf of their tasks, at once: if
it only woke them, a request made in between could overtake them.

A request that has entered the write buffer is never sent again by the link. If the connection
breaks, the request fails with `ConnectionBroken`, and `maybe_executed` tells if the server may have
executed it. Requests in the queue were not sent, so they wait for the next connection, for their
`patience`.
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
from .connection import Opening, open_connection
from .connectivity import Connected, Disconnected
from .conversation import Conversation
from .errors import LinkClosed, NotConnected, RedisLinkError, require_trio
from .queue import RequestQueue
from .request import (
    SUBSCRIBE_COMMANDS,
    CallbackRequest,
    CommandRequest,
    PendingRequest,
    PipelineRequest,
    SubscribeRequest,
    subscribe_command_error,
)
from .resp import Encodable, pack
from .service import running

MIN_RECONNECT_DELAY_SECONDS = 0.05
"""The delay before the second attempt to connect; each further delay is twice as long."""

MAX_RECONNECT_DELAY_SECONDS = 0.8
"""Below a second, so that a server that is back is used within a second."""

STABLE_AFTER_SECONDS = 2.0
"""How long a connection has to live for the next attempt to be made without a delay again."""

Extend = Callable[[], Sequence[Encodable] | None]


def _ignore(_: Any) -> None:
    """Do nothing: the default callback."""


async def _prepare_nothing(_: Conversation) -> None:
    """Do nothing: the default preparation."""


class Link:
    """A connection to a Redis server that many tasks share and that is opened again if it breaks.

    Use it as `async with link.open():`, or start `link.run` in a nursery of your own. All methods
    are for tasks of the same Trio run.

    Example:
        ```python
        async with Link(RedisConfig(addr="localhost:6379")).open() as link:
            await link.execute("SET", "greeting", "hello")
            print(await link.execute("GET", "greeting"))
        ```

    Args:
        config: The address of the server, the login and the limits.
        on_push: Called with the push frames of each read of the socket, in order; a frame is a
            list such as `[b"message", channel, payload]`. Confirmations of subscriptions are among
            them. It must not block and must not raise: an exception ends the link.
        on_connect: Awaited for each new connection before the link is up, to subscribe again; a
            Redis error in it counts as a failed attempt. Push frames may come meanwhile.
        on_connected: Called when the link is up.
        on_disconnected: Called when a connection broke, and for each attempt to connect that failed
            after it. An exception in this or the other callbacks ends the link.
        keepalive: Seconds of silence until a PING. A server that vanished is noticed within the sum
            of these and `RedisConfig.read_timeout`.
        buffer_size: Bytes in the write buffer above which requests have to wait. The bytes that are
            with the writer may be as many again.
        patience: Seconds that requests wait for a connection if they do not say otherwise.

    Attributes:
        up_count: How often the link has been up since it runs.
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
        self._is_forked = False
        self._conversation: Conversation | None = None  # None while the link is down
        self._opening: Opening | None = None  # knows the stream of the latest connection
        self._reason: Exception | None = None  # why it is down
        self._prepare_scope = trio.CancelScope()  # around `on_connect`
        self._changed = trio.Event()  # replaced whenever the link goes up or down
        self._queue = RequestQueue()
        self.up_count = 0
        self._up_at = self._down_at = -math.inf

    # -- sending requests ------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """True while the link is up."""
        return self._conversation is not None

    @property
    def down_for(self) -> float:
        """Seconds since the link went down; 0 while it is up."""
        return 0.0 if self.connected else trio.current_time() - self._down_at

    async def ready(self) -> None:
        """Wait until the link is up.

        Raises:
            LinkClosed: The link is not running, or has ended meanwhile.
        """
        require_trio()
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

        Cancellation before the bytes enter the write buffer means that nothing is sent. After that
        the command is sent, and its reply is dropped. This method is not for commands that block,
        that change the connection (SELECT, MULTI, HELLO, CLIENT REPLY), or that subscribe.

        Args:
            command: The name of the command.
            args: Its arguments.
            extend: Called when the bytes enter the write buffer, in the order in which they are
                sent, perhaps by another task; its result is appended to `args`.
            patience: Seconds to wait for a connection while there is none; 0 fails at once. A full
                write buffer is waited for without a limit.

        Raises:
            redis.exceptions.ResponseError: The server answers with an error.
            ConnectionBroken: The connection broke before the reply; `maybe_executed` tells if the
                server may have executed the command.
            NotConnected: There was no connection; nothing was sent.
            LinkClosed: The link does not run; nothing was sent.
            ValueError: The command subscribes, so it has no reply.
        """
        if command in SUBSCRIBE_COMMANDS:
            raise subscribe_command_error(command)
        request = CommandRequest()
        # The only checkpoint before the bytes are in the write buffer.
        require_trio()
        await checkpoint_if_cancelled()
        conversation = self._conversation
        if conversation is None or self._queue or conversation.buffered >= self._buffer_size:
            await self._submit_in_turn(lambda: _pack(command, args, extend), request, patience)
        else:
            conversation.submit(_pack(command, args, extend), request)
        return await request.answer()

    async def pipeline(
        self, commands: Sequence[tuple[Encodable, ...]], *, patience: float | None = None
    ) -> list[Any]:
        """Send commands in one piece, with nothing in between, and return their replies.

        Error replies are exceptions in the list; everything else is as for `execute`. MULTI and
        EXEC may be used here, in pairs.
        """
        require_trio()
        await checkpoint_if_cancelled()
        if not commands:
            return []
        for command in commands:
            if not command:
                raise ValueError("a command of the pipeline is empty")
            if command[0] in SUBSCRIBE_COMMANDS:
                raise subscribe_command_error(command[0])
        data = b"".join(map(pack, commands))
        return list(await self._request(data, PipelineRequest(len(commands)), patience))

    async def subscribe(
        self, command: str, *channels: str | bytes, patience: float | None = None
    ) -> None:
        """Send SUBSCRIBE, PSUBSCRIBE, UNSUBSCRIBE or their like, and wait for the confirmations.

        The confirmations are push frames. `on_push` has got them when this method returns.
        Everything else is as for `execute`.

        Args:
            command: SUBSCRIBE or its like.
            channels: At least one channel, because the server sends one confirmation for each.
            patience: As for `execute`.
        """
        if not channels or command not in SUBSCRIBE_COMMANDS:
            raise ValueError(f"{command} is not SUBSCRIBE or its like, or has no channel")
        require_trio()
        await checkpoint_if_cancelled()
        await self._request(pack((command, *channels)), SubscribeRequest(len(channels)), patience)

    def post_nowait(
        self,
        command: str | bytes,
        *args: Encodable,
        extend: Extend | None = None,
        then: Callable[[Any], None] = _ignore,
    ) -> None:
        """Send a command; the reply, or the exception in its place, goes to a callback.

        Args:
            command: The name of the command.
            args: Its arguments.
            extend: As for `execute`.
            then: Called once, by another task; it must not raise.

        Raises:
            trio.WouldBlock: The write buffer is full.
            NotConnected: There is no connection.
            LinkClosed: The link does not run.
            ValueError: The command subscribes, so it has no reply.
        """
        if command in SUBSCRIBE_COMMANDS:
            raise subscribe_command_error(command)
        conversation = self.writable()
        if conversation is None:
            self._check_running()
            if self._conversation is None:
                raise self._not_connected()
            raise trio.WouldBlock
        conversation.submit(_pack(command, args, extend), CallbackRequest(then))

    def unsubscribe_nowait(
        self, command: str, channels: Sequence[str | bytes]
    ) -> SubscribeRequest | None:
        """Send UNSUBSCRIBE or its like at once, also into a full write buffer.

        Requests that wait for room in the buffer are sent after it.

        Returns:
            The request, whose confirmation may be waited for; None if there is no connection.
        """
        conversation = self._conversation
        if conversation is None or not channels:
            return None
        request = SubscribeRequest(len(channels))
        conversation.submit(pack((command, *channels)), request)
        return request

    async def post_in_turn(
        self, encode: Callable[[], bytes], request: PendingRequest, *, patience: float
    ) -> None:
        """Submit a request after those that wait already; return when its bytes are on their way.

        Args:
            encode: Returns the bytes when they enter the write buffer, perhaps in another task.
            request: Takes the replies.
            patience: As for `execute`.

        Raises:
            NotConnected: There was no connection; `encode` was not called.
            LinkClosed: The link does not run; `encode` was not called.
        """
        conversation = self.writable()
        if conversation is None:
            await self._submit_in_turn(encode, request, patience)
        else:
            conversation.submit(encode(), request)

    def writable(self) -> Conversation | None:
        """Return the conversation that takes a request right now; None if it would have to wait."""
        conversation = self._conversation
        if conversation is None or self._queue or conversation.buffered >= self._buffer_size:
            return None
        return conversation

    @property
    def writable_bytes(self) -> int:
        """How many bytes the write buffer takes right now; 0 if a request would have to wait."""
        conversation = self.writable()
        return 0 if conversation is None else self._buffer_size - conversation.buffered

    async def drain(self) -> None:
        """Wait until all requests that were sent before have been answered."""
        await self.execute(b"PING")

    def renew(self, reason: Exception) -> None:
        """Close the connection and open another one; all pending requests fail with `reason`."""
        if self._conversation is not None:
            self._conversation.end(reason)

    async def _request(self, data: bytes, request: CommandRequest, patience: float | None) -> Any:
        conversation = self._conversation
        if conversation is None or self._queue or conversation.buffered >= self._buffer_size:
            await self._submit_in_turn(lambda: data, request, patience)
        else:
            conversation.submit(data, request)
        return await request.answer()

    async def _submit_in_turn(
        self, encode: Callable[[], bytes], request: PendingRequest, patience: float | None
    ) -> None:
        """Wait until a request has been submitted, after the requests that wait already."""
        patience = self._patience if patience is None else patience
        with self._queue.place(encode, request) as queued:
            # Each change of the link wakes all queued requests, to find out if they go on waiting.
            while not queued.done:
                await checkpoint_if_cancelled()
                self._check_running()
                down = self._conversation is None
                if down and patience <= 0:
                    raise self._not_connected()
                with trio.move_on_after(patience if down else math.inf) as waiting:
                    await queued.wait()
                if waiting.cancelled_caught:
                    raise self._not_connected()
        if queued.error is not None:
            raise queued.error

    def _submit_queued(self) -> None:
        """Submit queued requests, in their order, while the write buffer has room."""
        while (conversation := self._conversation) is not None and self._queue:
            if conversation.buffered >= self._buffer_size:
                # The writer calls again when it has taken the buffer over.
                return
            self._queue.pop().submit(conversation)

    def fork(self) -> None:
        """Refuse all requests: this process is a fork of the one that owns the connection."""
        conversation, self._conversation = self._conversation, None
        self._running, self._is_forked = False, True
        # In another thread than that of the run loop no task runs again.
        if trio.lowlevel.in_trio_run():
            if conversation is not None:
                conversation.fork(_of_the_parent)
            self._notify_changed()
            self._queue.wake_all()

    def leave_to_parent(self) -> None:
        """Close the copy of the connection, in a fork in which the tasks of the link go on."""
        self._is_forked = True
        if self._opening is not None:
            self._opening.fork()

    def _check_running(self) -> None:
        if self._is_forked:
            raise _of_the_parent()
        if not self._running:
            raise LinkClosed("the link is not open")

    def _not_connected(self) -> NotConnected:
        error = NotConnected(f"not connected to {self.config.where()}: {self._reason}")
        error.__cause__ = self._reason
        return error

    # -- running ---------------------------------------------------------------------------------

    def open(self) -> AbstractAsyncContextManager[Link]:
        """Run the link while the body runs; the body begins when the link is up.

        An exception of the first connection or of the body is raised as it is, not in a group.
        """
        return running(self)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, and stay connected until cancelled; started when the link is up.

        Only the first attempt may fail. Later the link tries for ever: at once after a connection
        that had lived for a while, then with growing delays of up to 0.8 s.

        Raises:
            RedisLinkError: The first connection failed; the class says why.
            redis.exceptions.ResponseError: The server refused a request of `on_connect`, the first
                time.
        """
        require_trio()
        if self._running:
            raise RuntimeError("the link is running already")
        self._running, self.up_count, self._reason = True, 0, None
        try:
            await self._stay_connected(task_status)
        finally:
            self._running = False
            self._queue.wake_all()
            self._notify_changed()

    async def _stay_connected(self, task_status: trio.TaskStatus[None]) -> None:
        dials, delay = 0, 0.0
        while True:
            up_count = self.up_count
            reason = await self._connect_and_talk(task_status)
            if not self.up_count:
                raise reason
            if self.up_count == up_count:
                # The link was not up, so `_go_down` has reported nothing.
                dials += 1
                self._reason = reason
                self._on_disconnected(Disconnected(reason, dials))
            else:
                dials = 0
            lived = trio.current_time() - self._up_at if self.up_count > up_count else 0.0
            if lived >= STABLE_AFTER_SECONDS:
                delay = 0.0
            else:
                delay = min(
                    max(2 * delay, MIN_RECONNECT_DELAY_SECONDS), MAX_RECONNECT_DELAY_SECONDS
                )
            # Many clients lose the same server at the same time. Jitter keeps them from coming back
            # at the same time.
            await trio.sleep(random.uniform(0.5, 1) * delay)  # noqa: S311

    async def _connect_and_talk(self, task_status: trio.TaskStatus[None]) -> Exception:
        """Use one connection until it ends; return why it ended, or could not be opened."""
        try:
            self._opening = opening = Opening()
            connection = await open_connection(self.config, opening)
        except RedisLinkError as error:
            return error
        self._prepare_scope = trio.CancelScope()
        conversation = Conversation(
            connection,
            on_push=self._on_push,
            on_writable=self._submit_queued,
            on_end=self._go_down,
            keepalive=self._keepalive,
        )
        async with trio.open_nursery() as nursery:
            # The nursery ends with the conversation, so this waits until the connection breaks.
            nursery.start_soon(conversation.run)
            try:
                with self._prepare_scope:
                    await self._on_connect(conversation)
            except redis_errors.RedisError as error:
                conversation.end(error)
            # No checkpoint between the two: the conversation cannot end in between.
            if conversation.reason is None:
                self._go_up(conversation)
                if self.up_count == 1:
                    task_status.started()
        return conversation.reason or LinkClosed("the link was closed")

    def _go_up(self, conversation: Conversation) -> None:
        now = trio.current_time()
        downtime = now - self._down_at if self.up_count else 0.0
        self._conversation, self._reason, self._up_at = conversation, None, now
        self.up_count += 1
        # Before any task runs: the queued requests were made before those that see the link up.
        self._submit_queued()
        self._queue.wake_all()
        self._notify_changed()
        self._on_connected(Connected(self.up_count, downtime))

    def _go_down(self, reason: Exception) -> None:
        if self._conversation is None:
            # The link was not up yet, so `on_connect` still runs. It may wait for something that
            # never comes.
            self._prepare_scope.cancel()
            return
        self._conversation, self._reason = None, reason
        self._down_at = trio.current_time()
        # Requests whose patience is 0 fail at once.
        self._queue.wake_all()
        self._notify_changed()
        if not isinstance(reason, LinkClosed):
            self._on_disconnected(Disconnected(reason, 0))

    def _notify_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _pack(command: Encodable, args: tuple[Encodable, ...], extend: Extend | None) -> bytes:
    more = extend() if extend is not None else None
    return pack((command, *args, *more)) if more else pack((command, *args))


def _of_the_parent() -> LinkClosed:
    return LinkClosed("the link belongs to the parent of this process")
