"""The pool: connections for those who need one for themselves, such as blocking readers.

`Pool.run` is the actor: it opens the idle connections ahead and, when it ends, closes what is idle.
A connection that is taken belongs to the task that took it, until it gives it back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import cast

import trio

from .config import RedisConfig
from .connection import Connection, open_connection
from .errors import LinkClosed, PoolTimeout, RedisLinkError
from .service import opened

DOUBTFUL = 15.0
"""Seconds of rest after which a connection has to answer a PING before it is used."""

PAUSE = 1.0
"""Seconds until idle connections are opened ahead again after it has failed."""


@dataclass
class _Idle:
    connection: Connection
    since: float


class Pool:
    """At most `RedisConfig.pool_size` connections, each used by one task at a time.

    Use it as `async with pool.open():`, or start `pool.run` in a nursery of your own.
    """

    def __init__(self, config: RedisConfig) -> None:
        self.config = config
        self._idle: deque[_Idle] = deque()  # the one used last is at the right end
        self._permits = trio.CapacityLimiter(config.pool_size)
        self._running = False
        self._wanted = trio.Event()

    @property
    def idle(self) -> int:
        """How many connections wait for somebody to take them."""
        return len(self._idle)

    @property
    def in_use(self) -> int:
        """How many connections are taken or being opened."""
        return self._permits.borrowed_tokens

    @asynccontextmanager
    async def connection(self, *, patience: float = math.inf) -> AsyncGenerator[Connection]:
        """Take a connection while the body runs; first come, first served.

        A connection whose request failed or was cancelled is closed instead of given back: a
        cancelled `XREADGROUP BLOCK` would swallow the next entry otherwise.

        Args:
            patience: Seconds to wait until one is free.

        Raises:
            PoolTimeout: None was free in time.
            RedisLinkError: A new one was needed and could not be opened; the class says why.
            LinkClosed: The pool does not run.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_running()
        owner = object()
        with trio.move_on_after(patience) as waiting:
            await self._permits.acquire_on_behalf_of(owner)
        if waiting.cancelled_caught:
            raise PoolTimeout(f"none of {self.config.pool_size} connections was free in time")
        try:
            connection = await self._take()
            try:
                yield connection
            finally:
                if connection.usable and self._running:
                    self._idle.append(_Idle(connection, trio.current_time()))
                else:
                    await connection.aclose()
        finally:
            self._permits.release_on_behalf_of(owner)
            self._wanted.set()

    async def _take(self) -> Connection:
        while self._idle:
            idle = self._idle.pop()
            connection = idle.connection
            self._wanted.set()
            if await _is_alive(connection, trio.current_time() - idle.since):
                return connection
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_running()
        return await open_connection(self.config)

    def open(self) -> AbstractAsyncContextManager[Pool]:
        """Run the pool while the body runs.

        What opening ahead fails with, and what the body raises, leaves as itself.
        """
        return opened(self)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep `RedisConfig.min_idle_conns` connections open ahead; started when they are.

        Raises:
            RedisLinkError: The first of them could not be opened; later failures are tried again.
        """
        if self._running:
            raise RuntimeError("the pool is running already")
        self._running = True
        try:
            await self._fill()
            task_status.started()
            while True:
                self._wanted = trio.Event()
                try:
                    await self._fill()
                except RedisLinkError:
                    await trio.sleep(PAUSE)
                else:
                    await self._wanted.wait()
        finally:
            self._running = False
            while self._idle:
                await self._idle.pop().connection.aclose()

    async def _fill(self) -> None:
        """Open connections until enough are idle, or all that the pool may have are there."""
        owner = object()
        while len(self._idle) < self.config.min_idle_conns:
            if len(self._idle) + self._permits.borrowed_tokens >= self.config.pool_size:
                return
            self._permits.acquire_on_behalf_of_nowait(owner)
            try:
                connection = await open_connection(self.config)
                # At the left end: those that have been used lately are used first.
                self._idle.appendleft(_Idle(connection, trio.current_time()))
            finally:
                self._permits.release_on_behalf_of(owner)

    def _check_running(self) -> None:
        if not self._running:
            raise LinkClosed("the pool is not open")


async def _is_alive(connection: Connection, rest: float) -> bool:
    """Tell whether a connection that has rested can be used; closed if not."""
    # Nothing is due to arrive: what is readable is the end of the stream, or out of step.
    alive = not _is_readable(connection.stream)
    if alive and rest > DOUBTFUL:
        try:
            await connection.call("PING")
        except RedisLinkError:
            alive = False
    if not alive:
        await connection.aclose()
    return alive


def _is_readable(stream: trio.abc.Stream) -> bool:
    if isinstance(stream, trio.SSLStream):
        return _is_readable(cast("trio.SSLStream[trio.abc.Stream]", stream).transport_stream)
    return isinstance(stream, trio.SocketStream) and stream.socket.is_readable()
