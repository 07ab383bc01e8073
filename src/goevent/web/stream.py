"""Server-sent events: sends the frames of a page to one browser, while it listens.

`/events` of the page returns a `FrameStream`. It runs in the task of the request, and ends when the
browser goes away, when the bus has closed, or when the connection takes no bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio
from starlette.types import Receive, Scope, Send

from .guard import SECURITY_HEADERS
from .sampler import Sampler

MAX_STREAMS = 200
"""How many browsers may listen at once to one page."""
SEND_SECONDS = 30.0
"""The time in which a connection has to take a frame."""
RECONNECT_MILLISECONDS = 2000


class OpenStreams:
    """The open streams of one page."""

    def __init__(self) -> None:
        self._count = 0

    @property
    def are_full(self) -> bool:
        """True if no further browser can listen."""
        return self._count >= MAX_STREAMS

    @asynccontextmanager
    async def counted(self) -> AsyncGenerator[None]:
        """Count a stream while the body runs."""
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1


class FrameStream:
    """One response that lasts: each frame is an event named `frame`.

    A browser that cannot keep up gets the newest frame once it has taken the one before. Frames in
    between are left out.

    Args:
        sampler: The source of the frames.
        streams: The streams of the page.
    """

    def __init__(self, sampler: Sampler, streams: OpenStreams) -> None:
        self._sampler = sampler
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, as an ASGI application."""
        headers = {
            **SECURITY_HEADERS,
            "Content-Type": "text/event-stream; charset=utf-8",
            # Proxies as nginx would keep the events until a buffer is full.
            "X-Accel-Buffering": "no",
        }
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        async with self._streams.counted(), trio.open_nursery() as nursery:
            nursery.start_soon(cancel_when_gone, receive, nursery.cancel_scope)
            await send({"type": "http.response.start", "status": 200, "headers": encoded})
            await self._send_frames(send)
            nursery.cancel_scope.cancel()

    async def _send_frames(self, send: Send) -> None:
        await send_part(send, b"retry: %d\n\n" % RECONNECT_MILLISECONDS)
        # A first browser must not wait for the next period.
        if not self._sampler.number or self._sampler.is_stale:
            self._sampler.sample()
        number = -1
        while True:
            data = self._sampler.message_after(number)
            number = self._sampler.number
            is_over = self._sampler.is_over
            with trio.move_on_after(SEND_SECONDS) as sending:
                await send_part(send, b"event: frame\ndata: %b\n\n" % data)
            if sending.cancelled_caught:
                return
            if is_over:
                # Without this, the browser would connect again at once.
                await send_part(send, b"event: end\ndata: {}\n\n", more=False)
                return
            await self._sampler.wait(number)


async def send_part(send: Send, body: bytes, *, more: bool = True) -> None:
    """Send a part of the body."""
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    """Cancel a scope when the browser has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
