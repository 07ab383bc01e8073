"""The pool: connections that a task needs for itself, for instance for blocking commands.

`Pool.run` is the actor. It opens idle connections in advance, and closes the idle ones when it
ends. The readers of streams and `RedisClient` borrow connections; a borrowed connection belongs to
the task that borrowed it, until the task returns it.

Theory of operation
-------------------
Each borrower holds one of `RedisConfig.pool_size` permits, and so does a connection that is being
opened in advance. The permits are handed out in order. Idle connections hold no permit; the one
that was used last is lent first, so the others may grow old. A server closes old connections, and a
firewall may drop them silently. So a connection is checked before it is lent: it must have nothing
to read, because unread bytes are the end of the stream or an unexpected reply. After
`PING_AFTER_IDLE_SECONDS` it must also answer a PING.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import trio

from .config import RedisConfig
from .connection import Opening, RedisConnection, open_connection
from .errors import LinkClosed, PoolTimeout, RedisLinkError, require_trio
from .service import running

PING_AFTER_IDLE_SECONDS = 15.0
"""How long a connection may be idle and still be lent without a PING."""

REFILL_PAUSE_SECONDS = 1.0
"""The pause after a failed attempt to open connections in advance."""


@dataclass
class IdleConnection:
    """A connection that can be lent.

    Attributes:
        since: When it became idle.
        renewals: How often the pool had been renewed when it was opened.
    """

    connection: RedisConnection
    since: float
    renewals: int


class Pool:
    """At most `RedisConfig.pool_size` connections, each used by one task at a time.

    Use it as `async with pool.open():`, or start `pool.run` in a nursery of your own.

    Example:
        ```python
        async with Pool(RedisConfig()).open() as pool, pool.connection() as connection:
            await connection.call("BLPOP", "jobs", 10, timeout=15)
        ```

    Args:
        config: The address of the server, the login and the size of the pool.
    """

    def __init__(self, config: RedisConfig) -> None:
        self.config = config
        self._idle: deque[IdleConnection] = (
            deque()
        )  # the one that was used last is at the right end
        # What a fork has to close: the tasks of the borrowers go on in it.
        self._lent: set[RedisConnection] = set()
        self._openings: set[Opening] = set()
        self._permits = trio.CapacityLimiter(config.pool_size)
        self._running = False
        self._is_forked = False
        self._renewals = 0
        self._refill = trio.Event()

    @property
    def idle(self) -> int:
        """How many connections can be lent without opening one."""
        return len(self._idle)

    @property
    def in_use(self) -> int:
        """How many connections are lent or being opened."""
        return self._permits.borrowed_tokens

    @asynccontextmanager
    async def connection(self, *, patience: float = math.inf) -> AsyncGenerator[RedisConnection]:
        """Borrow a connection while the body runs; tasks are served in order.

        A connection with a failed or cancelled request is closed and not returned to the pool:
        after a cancelled `XREADGROUP BLOCK`, the server would still send it the next entry.

        Args:
            patience: Seconds to wait for a free connection.

        Raises:
            PoolTimeout: No connection was free in time.
            RedisLinkError: A new connection could not be opened; the class says why.
            LinkClosed: The pool does not run.
        """
        require_trio()
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_running()
        # Not the task: it may borrow several connections.
        owner = object()
        with trio.move_on_after(patience) as waiting:
            await self._permits.acquire_on_behalf_of(owner)
        if waiting.cancelled_caught:
            raise PoolTimeout(f"none of {self.config.pool_size} connections was free in time")
        try:
            renewals = self._renewals
            connection = await self._get()
            self._lent.add(connection)
            try:
                yield connection
            finally:
                self._lent.discard(connection)
                # A pool that has ended keeps no connection open.
                if connection.usable and self._running and renewals == self._renewals:
                    self._idle.append(IdleConnection(connection, trio.current_time(), renewals))
                else:
                    await connection.aclose()
        finally:
            self._permits.release_on_behalf_of(owner)
            self._refill.set()

    @asynccontextmanager
    async def further_connection(self) -> AsyncGenerator[RedisConnection]:
        """Open a connection beside those of the pool, and close it when the body has ended.

        Raises:
            RedisLinkError: It could not be opened; the class says why.
        """
        self._check_process()
        connection = await self._open_one()
        self._lent.add(connection)
        try:
            yield connection
        finally:
            self._lent.discard(connection)
            await connection.aclose()

    async def _get(self) -> RedisConnection:
        # A fork may have come while the task waited for its turn, or for a PING.
        self._check_process()
        while self._idle:
            idle = self._idle.pop()
            connection = idle.connection
            self._refill.set()
            # A dead one is closed by the check, and the next one is tried.
            if idle.renewals != self._renewals:
                await connection.aclose()
            elif await self._is_alive(connection, trio.current_time() - idle.since):
                return connection
            self._check_process()
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_running()
        return await self._open_one()

    async def _is_alive(self, connection: RedisConnection, idle_for: float) -> bool:
        """Return True if an idle connection can be lent; close it if not."""
        # No reply is due. Unread bytes are the end of the stream, or an unexpected reply.
        alive = not connection.is_readable()
        if alive and idle_for > PING_AFTER_IDLE_SECONDS:
            self._lent.add(connection)
            try:
                await connection.call("PING")
            except RedisLinkError:
                alive = False
            finally:
                self._lent.discard(connection)
        if not alive:
            await connection.aclose()
        return alive

    async def _open_one(self) -> RedisConnection:
        opening = Opening()
        self._openings.add(opening)
        try:
            return await open_connection(self.config, opening)
        finally:
            self._openings.discard(opening)

    def renew(self) -> None:
        """Lend no connection again that is open by now.

        The address may lead to another server than before, and the old one may live on.
        """
        self._renewals += 1

    def open(self) -> AbstractAsyncContextManager[Pool]:
        """Run the pool while the body runs.

        An exception of the start or of the body is raised as it is, not in a group.
        """
        return running(self)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep `RedisConfig.min_idle_conns` idle connections; started when they are open.

        Raises:
            RedisLinkError: One of the first could not be opened; later failures are tried again.
        """
        require_trio()
        if self._running:
            raise RuntimeError("the pool is running already")
        self._running = True
        try:
            await self._fill()
            task_status.started()
            while True:
                # Before filling: a connection that is borrowed meanwhile wakes the next round.
                self._refill = trio.Event()
                try:
                    await self._fill()
                except RedisLinkError:
                    await trio.sleep(REFILL_PAUSE_SECONDS)
                else:
                    await self._refill.wait()
        finally:
            self._running = False
            while self._idle:
                await self._idle.pop().connection.aclose()

    async def _fill(self) -> None:
        """Open connections until enough are idle, or the pool has its full size."""
        owner = object()
        while len(self._idle) < self.config.min_idle_conns:
            if len(self._idle) + self._permits.borrowed_tokens >= self.config.pool_size:
                return
            # A connection that is being opened counts, so that borrowers cannot exceed the size.
            self._permits.acquire_on_behalf_of_nowait(owner)
            try:
                renewals = self._renewals
                connection = await open_connection(self.config)
                # At the left end: connections that were used lately are lent first.
                self._idle.appendleft(IdleConnection(connection, trio.current_time(), renewals))
            finally:
                self._permits.release_on_behalf_of(owner)

    def fork(self) -> None:
        """Lend no more connections: this process is a fork of the one that owns them."""
        self._running, self._is_forked = False, True
        for connection in self._lent:
            connection.fork()
        for opening in self._openings:
            opening.fork()

    def _check_process(self) -> None:
        if self._is_forked:
            raise LinkClosed("the pool belongs to the parent of this process")

    def _check_running(self) -> None:
        self._check_process()
        if not self._running:
            raise LinkClosed("the pool is not open")
