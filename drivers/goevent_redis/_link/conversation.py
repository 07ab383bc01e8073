"""The conversation over one connection: many tasks send requests, replies arrive in order.

It owns the connection. The link makes one conversation for each connection that it opens, and
submits the requests of all tasks to it. The link also opens the next connection.

Theory of operation
-------------------
*Pipelining.* A submitted request puts its bytes into the write buffer and itself at the end of
`_pending`. The writer task sends everything that has piled up in one piece. So the requests of many
tasks share one system call, without any task waiting for another. Two kinds of requests do not wait
until the writer's task runs: a request that comes alone is sent at once, and so is a buffer that
has reached `EAGER_SEND_BYTES`, because the server can work on it while the next piece is made.

*Replies.* The server answers in the order of the requests, so the reader task hands each reply to
the first request of `_pending`. A cancelled request keeps its slot there, and its reply is dropped.
Push frames belong to no request: they go to a callback, one call for each read of the socket.
SUBSCRIBE and its like are answered by push frames, so such a request is confirmed by them, in the
order of its slot.

*The bounded write buffer.* The conversation only counts the bytes that it has buffered. The link
stops submitting above its limit and queues the requests, and `on_writable` tells it when the writer
has taken the buffer over.

*Timeouts.* The watch task notices three things: a reply that is overdue, a write that the server
does not accept, and silence, which it breaks with a PING. So a server that has vanished without
closing the connection is noticed within the keepalive and the read timeout. The watch sleeps until
the earliest deadline. Later deadlines are not moved with each request: the watch computes the next
deadline when it wakes.

Any failure ends the conversation: every pending request fails, and `run` returns with the reason in
`reason`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_task_rescheduled

from .connection import RedisConnection, broken_connection
from .errors import ConnectionBroken, LinkClosed, ProtocolBroken, ReplyTimeout
from .request import (
    CallbackPipelineRequest,
    CallbackRequest,
    CommandRequest,
    PendingRequest,
    PipelineRequest,
    SubscribeRequest,
    ignore_reply,
)
from .resp import Encodable, pack
from .server import check_identity

MAX_WRITE_BYTES = 1 << 18
"""The size of the pieces that are written; the server has the write timeout for each of them."""

EAGER_SEND_BYTES = 1 << 13
"""The size of the write buffer from which it is sent before the writer's task runs."""

MAX_READ_TIMEOUTS_PER_REPLY = 4
"""How many read timeouts a reply may take while other bytes do arrive."""

PING_COMMAND = pack(("PING",))

_CONFIRMATIONS = {
    kind
    for name in ("subscribe", "psubscribe", "ssubscribe")
    for kind in (name.encode(), name.replace("sub", "unsub", 1).encode())
}


class Conversation:
    """Requests and replies over one connection, from any number of tasks.

    Args:
        connection: The connection; the conversation closes it.
        on_push: Called with the push frames of each read of the socket.
        on_writable: Called when the write buffer has become empty.
        on_end: Called with the reason when the conversation ends.
        keepalive: Seconds of silence until a PING.

    Attributes:
        buffered: Bytes in the write buffer.
        reason: The reason why the conversation ended; None while it runs.
    """

    def __init__(
        self,
        connection: RedisConnection,
        *,
        on_push: Callable[[list[Any]], None],
        on_writable: Callable[[], None],
        on_end: Callable[[Exception], None],
        keepalive: float,
    ) -> None:
        self.buffered = 0
        self.reason: Exception | None = None
        self._connection = connection
        self._config = connection.config
        self._on_push = on_push
        self._on_writable = on_writable
        self._on_end = on_end
        self._keepalive = keepalive
        self._buffer: list[bytes] = []
        # Requests that were submitted and are not fully answered, in order.
        self._pending: deque[PendingRequest] = deque()
        self._submitted = 0  # how many requests there have ever been
        self._sent = 0  # how many of them are sent, or are with the writer
        self._last_was_alone = True  # the writer's last piece was a single request
        self._confirming = 0  # how many pending requests are answered by push frames
        # For each piece that is sent: `_sent` after it, and when it was sent.
        self._sent_at: deque[tuple[int, float]] = deque()
        self._writer: Task | None = None  # set while the writer waits for the buffer to fill
        self._socket_accepts = True  # the socket took the last piece whole; nothing is being sent
        self._writing_since = math.inf
        # Trio's `current_time` would find the clock anew for each request.
        self._now = trio.lowlevel.current_clock().current_time
        self._received_at = self._now()
        self._scope = trio.CancelScope()
        self._watch_scope = trio.CancelScope()
        self._watch_until = math.inf  # the deadline of that scope, which costs more to ask
        self._grace_until = -math.inf  # no reply counts as overdue before this time

    def check_master(self) -> None:
        """Refuse a server that is no single master; used while the link connects.

        Raises:
            WrongServer: It is a node of a cluster, a sentinel, or a replica.
        """
        check_identity(self._connection.server, self._config.where())

    # -- sending requests ------------------------------------------------------------------------

    async def execute(self, *args: Encodable) -> Any:
        """Send a command and return its reply, as `Link.execute`; used while the link connects."""
        return await self._request(pack(args), CommandRequest())

    async def pipeline(self, commands: Sequence[tuple[Encodable, ...]]) -> list[Any]:
        """Send commands in one piece, as `Link.pipeline`; used while the link connects."""
        if not commands:
            return []
        data = b"".join(map(pack, commands))
        return list(await self._request(data, PipelineRequest(len(commands))))

    async def subscribe(self, command: str, *channels: str | bytes) -> None:
        """Send a SUBSCRIBE or its like, as `Link.subscribe`; used while the link connects."""
        await self._request(pack((command, *channels)), SubscribeRequest(len(channels)))

    async def _request(self, data: bytes, request: CommandRequest) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        self.submit(data, request)
        return await request.answer()

    def submit(self, data: bytes, request: PendingRequest) -> None:
        """Put the bytes of a request into the write buffer, and the request into its slot.

        Raises:
            ConnectionBroken: The conversation has ended; nothing was sent.
        """
        if self.reason is not None:
            raise self._failure(self.reason, sent=False)
        writer, pending = self._writer, self._pending
        # While other requests are pending, waiting for the writer collects more of them into one
        # piece.
        send_now = writer is not None and self._last_was_alone and not pending
        pending.append(request)
        self._submitted += 1
        if request.answered_by_push:
            self._confirming += 1
        if send_now and (sent := self._connection.send_now(data)):
            # Part of it may have left. Of several commands, the first may have left whole.
            self._sent = self._submitted
            if sent == len(data):
                self._expect_replies()
                return
            data = data[sent:]
        self._buffer.append(data)
        self.buffered = buffered = self.buffered + len(data)
        if writer is not None:
            reschedule(writer)
            self._writer = None
        if buffered >= EAGER_SEND_BYTES and self._socket_accepts:
            self._send_buffer_now()

    def _send_buffer_now(self) -> None:
        """Send as much of the buffer as the socket takes, without waiting for the writer's task."""
        data = b"".join(self._buffer)
        self._buffer.clear()
        if sent := self._connection.send_now(data):
            self._sent = self._submitted
        self.buffered = len(data) - sent
        if self.buffered:
            # The writer is awake already, and waits until the socket takes the rest.
            self._buffer.append(data[sent:])
            self._socket_accepts = False
        else:
            self._expect_replies()

    # -- running ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Talk until the connection breaks or `end` is called; the reason is in `reason` then.

        Cancellation ends the conversation, too. The connection is closed in any case.
        """
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._watch)
            finally:
                self.end(LinkClosed("the link was closed"))
                await self._connection.aclose()

    def end(self, reason: Exception) -> None:
        """End the conversation: all pending requests fail now. The first reason counts."""
        if self.reason is not None:
            return
        self.reason = reason
        self._scope.cancel()
        sent = self._sent - (self._submitted - len(self._pending))
        pending, self._pending = self._pending, deque()
        self._buffer.clear()
        # An exit stack runs every callback, even after one that raises. It runs the last callback
        # first, so the requests are pushed in reverse: they fail in their order, and `on_end` is
        # called first, when the link must already know that it is down.
        with ExitStack() as stack:
            for slot in reversed(range(len(pending))):
                stack.callback(pending[slot].fail, self._failure(reason, sent=slot < sent))
            stack.callback(self._on_end, reason)

    def fork(self, error: Callable[[], LinkClosed]) -> None:
        """Fail the waits for replies, which the parent of this process receives.

        The callbacks of other requests belong to the parent, too, and are not called.
        """
        pending, self._pending = self._pending, deque()
        for request in pending:
            if isinstance(request, CommandRequest):
                request.fail(error())

    def _failure(self, reason: Exception, *, sent: bool) -> ConnectionBroken:
        kind = ReplyTimeout if isinstance(reason, ReplyTimeout) else ConnectionBroken
        consequence = "may have been executed" if sent else "was not sent"
        failure = kind(f"{reason}; the request {consequence}", maybe_executed=sent)
        failure.__cause__ = reason
        return failure

    async def _write(self) -> None:
        send_all = self._connection.stream.send_all
        while True:
            while not self._buffer:
                self._socket_accepts = True
                self._writer = current_task()
                await wait_task_rescheduled(self._abort_writer)
            data = b"".join(self._buffer)
            self._buffer.clear()
            self.buffered = 0
            self._last_was_alone = self._submitted - self._sent == 1
            # Before the bytes leave: from here on a failure cannot tell how much was sent.
            self._sent = self._submitted
            self._socket_accepts = False
            self._on_writable()
            try:
                for start in range(0, len(data), MAX_WRITE_BYTES):
                    self._writing_since = self._now()
                    self._check_within(self._config.write_timeout, self._writing_since)
                    whole = len(data) <= MAX_WRITE_BYTES
                    await send_all(data if whole else data[start : start + MAX_WRITE_BYTES])
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.end(broken_connection(self._config, error))
                return
            self._writing_since = math.inf
            self._socket_accepts = True
            self._expect_replies()

    def _abort_writer(self, raise_cancel: RaiseCancelT) -> Abort:
        self._writer = None
        return Abort.SUCCEEDED

    def _expect_replies(self) -> None:
        """Start the read timeout for everything that has been sent."""
        now, timeout = self._now(), self._config.read_timeout
        self._oldest_sent_at()  # drops the pieces that are answered, so that the deque stays short
        self._sent_at.append((self._sent, now))
        if self._watch_until > now + timeout:
            self._check_within(timeout, now)

    async def _read(self) -> None:
        connection = self._connection
        receive, reader = connection.receive, connection.reader
        while True:
            try:
                chunk = await receive()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.end(broken_connection(self._config, error))
                return
            if not chunk:
                self.end(broken_connection(self._config, None))
                return
            self._received_at = self._now()
            # The frames before a damaged one are good, so they are handed on before the end.
            self._hand_out(reader.read(chunk))
            if reader.failure is not None:
                self.end(reader.failure)
            if self.reason is not None:
                return

    def _hand_out(self, frames: list[Any]) -> None:
        """Hand replies to the pending requests, and push frames to `on_push`."""
        push_type = self._connection.reader.push_type
        pending = self._pending
        pushes: list[Any] = []
        # The replies to a batch come in one piece, as a rule.
        while pending and len(frames) > 1 and type(pending[0]) is CallbackPipelineRequest:
            batch = pending[0]
            replies = frames[: batch.missing]
            if push_type in {*map(type, replies)}:
                break
            if batch.receive_replies(replies):
                pending.popleft()
            frames = frames[len(replies) :]
        for frame in frames:
            if type(frame) is push_type:
                pushes.append(frame)
                if self._confirming and frame and frame[0] in _CONFIRMATIONS:
                    self._confirm()
            elif not pending:
                # A server may explain so that it closes the connection: too many clients.
                text = f": {frame}" if isinstance(frame, Exception) else ""
                self.end(ProtocolBroken(f"a reply came without a request{text}"))
                break
            elif not (first := pending[0]).answered_by_push:
                if first.receive_reply(frame):
                    pending.popleft()
            elif isinstance(frame, Exception):
                self._confirming -= 1
                pending.popleft().fail(frame)
            else:
                self.end(ProtocolBroken("a reply came in place of a subscription"))
                break
        if pushes:
            self._on_push(pushes)

    def _confirm(self) -> None:
        # The server also sends such a frame unasked, when it takes a channel away. The first
        # pending request is then no subscription, and its slot stays.
        first = self._pending[0]
        if isinstance(first, SubscribeRequest) and first.receive_confirmation():
            self._confirming -= 1
            self._pending.popleft()

    # -- timeouts --------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while self.reason is None:
            now = self._now()
            if (due := self._next_deadline()) > now:
                self._watch_scope, self._watch_until = trio.CancelScope(deadline=due), due
                with self._watch_scope:
                    await trio.sleep_forever()
                continue
            # Perhaps this process was late and not the server. Let the reader take the bytes that
            # may have been in the socket for long, before they count as overdue.
            received = self._received_at
            for _ in range(2):
                await trio.lowlevel.checkpoint()
            if self._received_at != received:
                self._grace_until = now + self._config.read_timeout
            if self._next_deadline() <= now:
                self._meet_deadline(now)

    def _check_within(self, seconds: float, now: float) -> None:
        """Have the watch wake within some seconds; it may wake earlier."""
        if self._watch_until > now + seconds:
            self._watch_scope.deadline = self._watch_until = now + seconds

    def _next_deadline(self) -> float:
        """Return when the watch has to act, if nothing happens before."""
        write_deadline = self._writing_since + self._config.write_timeout
        if (sent_at := self._oldest_sent_at()) is not None:
            return min(write_deadline, self._reply_deadline(sent_at))
        if self._pending:
            return write_deadline
        return min(write_deadline, self._received_at + self._keepalive)

    def _reply_deadline(self, sent_at: float) -> float:
        # While bytes arrive, the reply may be right behind them. But a server must not be able to
        # keep a request waiting for ever by a trickle of bytes.
        timeout = self._config.read_timeout
        since_last_bytes = max(sent_at, self._received_at) + timeout
        latest = sent_at + MAX_READ_TIMEOUTS_PER_REPLY * timeout
        return max(self._grace_until, min(since_last_bytes, latest))

    def _oldest_sent_at(self) -> float | None:
        """Return when the oldest unanswered request was sent; None if there is no such request."""
        answered = self._submitted - len(self._pending)
        sent_at = self._sent_at
        while sent_at and sent_at[0][0] <= answered:
            sent_at.popleft()
        return sent_at[0][1] if sent_at else None

    def _meet_deadline(self, now: float) -> None:
        """End the conversation for a timeout, or break the silence with a PING."""
        config = self._config
        if now >= self._writing_since + config.write_timeout:
            text = f"{config.where()} accepted no data for {config.write_timeout:g} s"
            self.end(ReplyTimeout(text))
        elif (sent_at := self._oldest_sent_at()) is not None and now >= self._reply_deadline(
            sent_at
        ):
            text = f"{config.where()} did not reply within {config.read_timeout:g} s"
            self.end(ReplyTimeout(text))
        elif not self._pending:
            self.submit(PING_COMMAND, CallbackRequest(ignore_reply))
