"""A conversation over one connection: many tasks ask, one writer sends, one reader sorts replies.

It owns the connection. Requests enter its write buffer; the writer sends all that has piled up in
one piece. A request that comes alone leaves at once, without waiting for the writer's turn, and so
does a large piece: the server works on it while the next one is made. The
reader hands replies to the requests in order, and push frames to a callback, one call for each
read. The watch notices what takes too long: a reply, a write, or silence, which it breaks with a
PING. Whatever goes wrong ends the conversation: every request in line fails, and `run` returns with
the reason in `reason`. The next conversation is the link's business.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_task_rescheduled

from .connection import READ_SIZE, Connection, broken
from .errors import ConnectionBroken, LinkClosed, ProtocolBroken, ReplyTimeout
from .request import Awaited, Batch, Confirmation, Posted, Request, ignore
from .resp import Encodable, pack

WRITE_SIZE = 1 << 18
"""How many bytes the server has to take within the write timeout."""

PIECE = 1 << 13
"""How many bytes pile up in one turn of the loop before the server gets something to do."""

PATIENCE = 4
"""How many read timeouts a reply may take while other bytes do arrive."""

PING = pack(("PING",))

_CONFIRMING = {
    kind
    for name in ("subscribe", "psubscribe", "ssubscribe")
    for kind in (name.encode(), name.replace("sub", "unsub", 1).encode())
}


class Conversation:
    """Requests and replies over one connection, from any number of tasks.

    Attributes:
        buffered: Bytes in the write buffer.
        reason: Why it ended, None while it runs.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        on_push: Callable[[list[Any]], None],
        on_room: Callable[[], None],
        on_end: Callable[[Exception], None],
        keepalive: float,
    ) -> None:
        self.buffered = 0
        self.reason: Exception | None = None
        self._connection = connection
        self._config = connection.config
        self._on_push = on_push
        self._on_room = on_room
        self._on_end = on_end
        self._keepalive = keepalive
        self._buffer: list[bytes] = []
        self._line: deque[Awaited] = deque()  # entered and not fully answered
        self._entered = 0  # requests that ever entered
        self._sent = 0  # how many of them are sent, or the writer has them
        self._alone = True  # the last one was sent with no other; the next may be alone, too
        self._confirming = 0  # how many in line are answered by push frames
        self._batches: deque[tuple[int, float]] = deque()  # (_sent then, when it was sent)
        self._writer: Task | None = None  # parked, waiting for the buffer to fill
        self._resting = True  # the writer sends nothing, and the socket took the last piece whole
        self._writing_since = math.inf
        self._received_at = trio.current_time()
        self._scope = trio.CancelScope()
        self._watching = trio.CancelScope()
        self._pardoned = -math.inf  # until when late replies are forgiven

    # -- asking ----------------------------------------------------------------------------------

    async def execute(self, *args: Encodable) -> Any:
        """Send a command and return its reply, as `Link.execute`; used while the link connects."""
        return await self._ask(pack(args), Request())

    async def pipeline(self, commands: Sequence[tuple[Encodable, ...]]) -> list[Any]:
        """Send commands in one piece, as `Link.pipeline`; used while the link connects."""
        if not commands:
            return []
        return list(await self._ask(b"".join(map(pack, commands)), Batch(len(commands))))

    async def subscribe(self, command: str, *channels: str | bytes) -> None:
        """Send a SUBSCRIBE or its like, as `Link.subscribe`; used while the link connects."""
        await self._ask(pack((command, *channels)), Confirmation(len(channels)))

    async def _ask(self, data: bytes, request: Request) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        self.enter(data, request)
        return await request.answer()

    def enter(self, data: bytes, request: Awaited) -> None:
        """Put a request's bytes into the write buffer and the request into the line.

        Raises:
            ConnectionBroken: The conversation has ended; nothing was sent.
        """
        if self.reason is not None:
            raise self._failure(self.reason, sent=False)
        writer, line = self._writer, self._line
        at_once = writer is not None and self._alone and not line
        line.append(request)
        self._entered += 1
        if request.confirms:
            self._confirming += 1
        if at_once and (sent := self._connection.send_now(data)):
            self._sent = self._entered  # of several commands, the first may have left whole
            if sent == len(data):
                self._expect_replies()
                return
            data = data[sent:]
        self._buffer.append(data)
        self.buffered = buffered = self.buffered + len(data)
        if writer is not None:
            reschedule(writer)
            self._writer = None
        if buffered >= PIECE and self._resting:
            self._push()

    def _push(self) -> None:
        """Send what has piled up, as far as it goes, without waiting for the writer's turn."""
        data = b"".join(self._buffer)
        self._buffer.clear()
        if sent := self._connection.send_now(data):
            self._sent = self._entered
        self.buffered = len(data) - sent
        if self.buffered:
            self._buffer.append(data[sent:])
            self._resting = False
        else:
            self._expect_replies()

    # -- living ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Talk until the connection breaks or `end` is called; the reason stands in `reason`.

        Cancellation ends it, too; the connection is closed in any case.
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
        """End the conversation; everything in line fails now. The first reason counts."""
        if self.reason is not None:
            return
        self.reason = reason
        self._scope.cancel()
        taken = self._sent - (self._entered - len(self._line))
        line, self._line = self._line, deque()
        self._buffer.clear()
        with ExitStack() as stack:  # last in, first out; one that raises does not stop the others
            for place in reversed(range(len(line))):
                stack.callback(line[place].settle, self._failure(reason, sent=place < taken))
            stack.callback(self._on_end, reason)

    def _failure(self, reason: Exception, *, sent: bool) -> ConnectionBroken:
        kind = ReplyTimeout if isinstance(reason, ReplyTimeout) else ConnectionBroken
        then = "may have been executed" if sent else "was not sent"
        failure = kind(f"{reason}; the request {then}", maybe_executed=sent)
        failure.__cause__ = reason
        return failure

    async def _write(self) -> None:
        send_all = self._connection.stream.send_all
        while True:
            while not self._buffer:
                self._resting = True
                self._writer = current_task()
                await wait_task_rescheduled(self._abort_writer)
            data = b"".join(self._buffer)
            self._buffer.clear()
            self.buffered = 0
            self._alone = self._entered - self._sent == 1
            self._sent = self._entered
            self._resting = False
            self._on_room()
            try:
                for start in range(0, len(data), WRITE_SIZE):
                    self._writing_since = trio.current_time()
                    self._look_within(self._config.write_timeout, self._writing_since)
                    piece = data if len(data) <= WRITE_SIZE else data[start : start + WRITE_SIZE]
                    await send_all(piece)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.end(broken(self._config, error))
                return
            self._writing_since = math.inf
            self._resting = True
            self._expect_replies()

    def _expect_replies(self) -> None:
        """Have the replies to all that is sent due from now on."""
        now = trio.current_time()
        self._oldest()  # forgets the batches that are answered
        self._batches.append((self._sent, now))
        self._look_within(self._config.read_timeout, now)

    def _abort_writer(self, raise_cancel: RaiseCancelT) -> Abort:
        self._writer = None
        return Abort.SUCCEEDED

    async def _read(self) -> None:
        connection = self._connection
        receive_some, reader = connection.stream.receive_some, connection.reader
        while True:
            try:
                chunk = await receive_some(READ_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.end(broken(self._config, error))
                return
            if not chunk:
                self.end(broken(self._config, None))
                return
            self._received_at = trio.current_time()
            self._sort(reader.read(bytes(chunk)))
            if reader.failure is not None:
                self.end(reader.failure)
            if self.reason is not None:
                return

    def _sort(self, frames: list[Any]) -> None:
        pushed = self._connection.reader.push_type
        line = self._line
        pushes: list[Any] = []
        for frame in frames:
            if type(frame) is pushed:
                pushes.append(frame)
                if self._confirming and frame and frame[0] in _CONFIRMING:
                    self._confirm()
            elif not line:
                # The server says why it hangs up: too many clients, for instance.
                said = f": {frame}" if isinstance(frame, Exception) else ""
                self.end(ProtocolBroken(f"a reply that nobody asked for came{said}"))
                break
            elif not (first := line[0]).confirms:
                if first.take(frame):
                    line.popleft()
            elif isinstance(frame, Exception):
                self._confirming -= 1
                line.popleft().settle(frame)
            else:
                self.end(ProtocolBroken("a reply came in place of a subscription"))
                break
        if pushes:
            self._on_push(pushes)

    def _confirm(self) -> None:
        # Also sent unasked, when a channel is taken away: then the first in line asked for a reply.
        first = self._line[0]
        if isinstance(first, Confirmation) and first.confirm():
            self._confirming -= 1
            self._line.popleft()

    # -- watching --------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while self.reason is None:
            now = trio.current_time()
            if (due := self._due()) > now:
                self._watching = trio.CancelScope(deadline=due)
                with self._watching:
                    await trio.sleep_forever()
                continue
            # It may be this process that was late. Let the reader take what has long arrived.
            received = self._received_at
            for _ in range(2):
                await trio.lowlevel.checkpoint()
            if self._received_at != received:
                self._pardoned = now + self._config.read_timeout
            if self._due() <= now:
                self._act(now)

    def _look_within(self, seconds: float, now: float) -> None:
        if self._watching.deadline > now + seconds:
            self._watching.deadline = now + seconds

    def _due(self) -> float:
        """Return when something has to be done, unless something comes before."""
        write_due = self._writing_since + self._config.write_timeout
        if (oldest := self._oldest()) is not None:
            return min(write_due, self._reply_due(oldest))
        return write_due if self._line else min(write_due, self._received_at + self._keepalive)

    def _reply_due(self, oldest: float) -> float:
        # While bytes arrive the reply may just be behind them, but a trickle is no excuse for ever.
        timeout = self._config.read_timeout
        quiet = max(oldest, self._received_at) + timeout
        return max(self._pardoned, min(quiet, oldest + PATIENCE * timeout))

    def _oldest(self) -> float | None:
        """Return when the oldest request that is sent and unanswered was sent."""
        answered = self._entered - len(self._line)
        batches = self._batches
        while batches and batches[0][0] <= answered:
            batches.popleft()
        return batches[0][1] if batches else None

    def _act(self, now: float) -> None:
        config = self._config
        if now >= self._writing_since + config.write_timeout:
            text = f"{config.where()} took nothing of what was written to it"
            self.end(ReplyTimeout(f"{text} for {config.write_timeout:g} s"))
        elif (oldest := self._oldest()) is not None and now >= self._reply_due(oldest):
            text = f"{config.where()} did not reply within {config.read_timeout:g} s"
            self.end(ReplyTimeout(text))
        elif not self._line:
            self.enter(PING, Posted(ignore))
