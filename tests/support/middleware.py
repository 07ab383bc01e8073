"""Middleware that only passes on, for tests of the routes and options that it changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import trio

from goevent import Delivery, DispatchHandle


class AroundCall:
    def around_call(self, delivery: Delivery, /) -> Iterator[None]:
        yield


class AsyncAroundCall:
    async def around_call(self, delivery: Delivery, /) -> AsyncIterator[None]:
        yield


class AroundDispatch:
    """Makes every route special."""

    def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
        yield


class AsyncScopedCall:
    """Opens a cancel scope around a run."""

    async def around_call(self, delivery: Delivery, /) -> AsyncIterator[None]:
        with trio.CancelScope():
            yield


class ScopedCall:
    """Opens a cancel scope around a run, in a hook that is not async."""

    def around_call(self, delivery: Delivery, /) -> Iterator[None]:
        with trio.CancelScope():
            yield
