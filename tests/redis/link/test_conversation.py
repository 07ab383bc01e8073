"""One connection and many tasks: order, pipelines, cancellation and timeouts."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import pytest
import trio
from redis import exceptions as redis_errors
from tests.support.limits import HANG_SECONDS
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from goevent_redis._link.config import RedisConfig
from goevent_redis._link.connection import RedisConnection
from goevent_redis._link.conversation import (
    MAX_READ_TIMEOUTS_PER_REPLY,
    MAX_WRITE_BYTES,
    Conversation,
)
from goevent_redis._link.errors import ConnectionBroken, ProtocolBroken, ReplyTimeout
from goevent_redis._link.queue import RequestQueue
from goevent_redis._link.request import (
    CallbackPipelineRequest,
    CallbackRequest,
    CommandRequest,
    PipelineRequest,
)
from goevent_redis._link.resp import ReplyReader, pack

Pair = Callable[[], tuple[Any, Any]]


def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return two streams over which a single request is sent at once."""
    ours, theirs = trio.socket.socketpair()
    return trio.SocketStream(ours), trio.SocketStream(theirs)


both_streams = pytest.mark.parametrize("pair", [memory_stream_pair, socket_pair])


class Peer:
    """The server's end of a conversation: the bytes it got, and replies from the test."""

    def __init__(self, config: RedisConfig, keepalive: float, pair: Pair) -> None:
        ours, self.stream = pair()
        self.pushes: list[list[Any]] = []
        self.ended: list[Exception] = []
        self.ended_at = math.nan
        self.conversation = Conversation(
            RedisConnection(ours, ReplyReader(config.max_reply_size), config),
            on_push=self.pushes.append,
            on_writable=lambda: None,
            on_end=self._note_end,
            keepalive=keepalive,
        )
        self._received = b""

    def _note_end(self, reason: Exception) -> None:
        self.ended.append(reason)
        self.ended_at = trio.current_time()

    async def listen(self) -> None:
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            async for chunk in self.stream:
                self._received += chunk

    async def received(self) -> bytes:
        """Return the bytes that were sent since the last call."""
        await wait_all_tasks_blocked()
        arrived, self._received = self._received, b""
        return arrived

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)
        await wait_all_tasks_blocked()


@asynccontextmanager
async def talking(
    keepalive: float = math.inf, pair: Pair = memory_stream_pair, **fields: Any
) -> AsyncGenerator[Peer]:
    peer = Peer(RedisConfig(**fields), keepalive, pair)
    async with peer.stream, trio.open_nursery() as nursery:
        nursery.start_soon(peer.conversation.run)
        nursery.start_soon(peer.listen)
        await wait_all_tasks_blocked()
        yield peer
        nursery.cancel_scope.cancel()


class PendingCall:
    """A request of a task of its own."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.outcome: Any = None

    @property
    def done(self) -> bool:
        return self.outcome is not None

    async def run(self, function: Callable[..., Any], *args: Any) -> None:
        with self.scope:
            try:
                self.outcome = await function(*args)
            except redis_errors.RedisError as error:
                self.outcome = error


async def start_call(
    nursery: trio.Nursery, function: Callable[..., Any], *args: Any
) -> PendingCall:
    call = PendingCall()
    nursery.start_soon(call.run, function, *args)
    await wait_all_tasks_blocked()
    return call


async def test_requests_that_pile_up_are_sent_in_one_piece() -> None:
    async with talking() as peer, trio.open_nursery() as nursery:
        execute = peer.conversation.execute
        several = [PendingCall() for _ in range(5)]
        for number, call in enumerate(several):
            nursery.start_soon(call.run, execute, "ECHO", number)
        sent_data = await peer.received()
        order = [int(part[6:7]) for part in sent_data.split(b"ECHO")[1:]]
        assert sorted(order) == [0, 1, 2, 3, 4]
        await peer.send(b"".join(b":%d\r\n" % n for n in order))
        assert [call.outcome for call in several] == [0, 1, 2, 3, 4]


class CountedReads:
    """Counts the reads of one socket, and may let one of them find nothing."""

    def __init__(self, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
        stream: Any = vars(peer.conversation)["_connection"].stream
        self._number = stream.socket.fileno()
        self._read = os.read
        self.count = 0
        self.find_nothing_next = False
        monkeypatch.setattr(os, "read", self.read)

    def read(self, number: int, size: int) -> bytes:
        if number == self._number:
            self.count += 1
            if self.find_nothing_next:
                self.find_nothing_next = False
                raise BlockingIOError
        return self._read(number, size)


@pytest.mark.skipif(sys.platform == "win32", reason="a socket has no descriptor there")
async def test_each_reply_takes_one_read_of_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking(pair=socket_pair) as peer, trio.open_nursery() as nursery:
        reads = CountedReads(peer, monkeypatch)
        for number in range(10):
            call = await start_call(nursery, peer.conversation.execute, "GET", number)
            await peer.send(b":%d\r\n" % number)
            assert call.outcome == number
        assert reads.count == 10


@pytest.mark.skipif(sys.platform == "win32", reason="a socket has no descriptor there")
async def test_read_that_finds_nothing_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking(pair=socket_pair) as peer, trio.open_nursery() as nursery:
        reads = CountedReads(peer, monkeypatch)
        reads.find_nothing_next = True
        call = await start_call(nursery, peer.conversation.execute, "GET", "a")
        await peer.send(b":7\r\n")
        assert call.outcome == 7
        assert reads.count == 2
        assert not peer.ended


async def test_cancelled_request_keeps_its_slot() -> None:
    async with talking() as peer, trio.open_nursery() as nursery:
        execute = peer.conversation.execute
        first = await start_call(nursery, execute, "GET", "a")
        second = await start_call(nursery, execute, "GET", "b")
        await peer.received()
        first.scope.cancel()
        await peer.send(b"+a\r\n+b\r\n")
        assert (first.outcome, second.outcome) == (None, b"b")
        assert first.scope.cancelled_caught


async def test_request_of_a_cancelled_task_is_never_sent() -> None:
    async with talking() as peer:
        with trio.CancelScope() as scope:
            scope.cancel()
            await peer.conversation.execute("SET", "a", 1)
        assert scope.cancelled_caught
        assert await peer.received() == b""


async def test_error_reply_is_raised_and_keeps_the_order() -> None:
    async with talking() as peer, trio.open_nursery() as nursery:
        bad = await start_call(nursery, peer.conversation.execute, "BAD")
        good = await start_call(nursery, peer.conversation.execute, "GOOD")
        await peer.send(b"-ERR no\r\n+yes\r\n")
        assert isinstance(bad.outcome, redis_errors.ResponseError)
        assert good.outcome == b"yes"


async def test_pipeline_collects_replies_and_errors() -> None:
    async with talking() as peer, trio.open_nursery() as nursery:
        several = await start_call(nursery, peer.conversation.pipeline, [("A",), ("B",), ("C",)])
        single = await start_call(nursery, peer.conversation.execute, "D")
        await peer.send(b":1\r\n-ERR no\r\n")
        assert not several.done
        await peer.send(b">2\r\n+x\r\n+y\r\n*1\r\n:3\r\n:4\r\n")
        replies: list[Any] = several.outcome
        one, two, three = replies
        assert (one, three) == (1, [3])
        assert isinstance(two, redis_errors.ResponseError)
        assert single.outcome == 4
        assert await peer.conversation.pipeline([]) == []


async def test_push_frames_come_in_one_call_for_each_read() -> None:
    async with talking() as peer, trio.open_nursery() as nursery:
        call = await start_call(nursery, peer.conversation.execute, "PING")
        message = b">3\r\n+message\r\n+a\r\n+%d\r\n"
        await peer.send(message % 1 + message % 2 + b"+PONG\r\n" + message % 3)
        await peer.send(message % 4)
        assert [[frame[2] for frame in batch] for batch in peer.pushes] == [
            [b"1", b"2", b"3"],
            [b"4"],
        ]
        assert call.outcome == b"PONG"


async def test_subscription_is_answered_by_push_frames() -> None:
    async with talking() as peer, trio.open_nursery() as nursery:
        before = await start_call(nursery, peer.conversation.execute, "ONE")
        call = await start_call(nursery, peer.conversation.subscribe, "SUBSCRIBE", "a", "b")
        after = await start_call(nursery, peer.conversation.execute, "TWO")
        # The server sends such a frame unasked when it takes a channel away.
        await peer.send(
            b">3\r\n+sunsubscribe\r\n+z\r\n:0\r\n:1\r\n>3\r\n+subscribe\r\n+a\r\n:1\r\n"
        )
        assert (before.outcome, call.outcome) == (1, None)
        assert not call.scope.cancelled_caught
        await peer.send(b">3\r\n+message\r\n+a\r\n+hi\r\n>3\r\n+subscribe\r\n+b\r\n:2\r\n:2\r\n")
        assert after.outcome == 2
        assert [frame[0] for batch in peer.pushes for frame in batch] == [
            b"sunsubscribe",
            b"subscribe",
            b"message",
            b"subscribe",
        ]


async def test_refused_subscription_raises_and_keeps_the_order() -> None:
    async with talking() as peer, trio.open_nursery() as nursery:
        good = await start_call(nursery, peer.conversation.subscribe, "SUBSCRIBE", "a")
        bad = await start_call(nursery, peer.conversation.subscribe, "PSUBSCRIBE", "b", "c")
        after = await start_call(nursery, peer.conversation.execute, "PING")
        await peer.send(b">3\r\n+subscribe\r\n+a\r\n:1\r\n-NOPERM no\r\n+PONG\r\n")
        assert good.outcome is None
        assert isinstance(bad.outcome, redis_errors.NoPermissionError)
        assert after.outcome == b"PONG"


async def test_cancelled_subscription_keeps_its_slot() -> None:
    async with talking() as peer, trio.open_nursery() as nursery:
        call = await start_call(nursery, peer.conversation.subscribe, "UNSUBSCRIBE", "a", "b")
        call.scope.cancel()
        after = await start_call(nursery, peer.conversation.execute, "PING")
        confirmation = b">3\r\n+unsubscribe\r\n+a\r\n:0\r\n"
        await peer.send(confirmation + confirmation + b"+PONG\r\n")
        assert after.outcome == b"PONG"


@pytest.mark.parametrize(
    "data",
    [b"+unasked\r\n", b"-ERR max number of clients reached\r\n", b"garbage\r\n", b"*99999999\r\n"],
)
async def test_server_that_breaks_the_rules_loses_the_connection(data: bytes) -> None:
    async with talking() as peer:
        await peer.send(b">1\r\n+good\r\n" + data)
        assert isinstance(peer.conversation.reason, ProtocolBroken)
        assert peer.ended == [peer.conversation.reason]
        assert peer.pushes == [[[b"good"]]]


async def test_reply_in_place_of_a_subscription_breaks_the_connection() -> None:
    async with talking() as peer, trio.open_nursery() as nursery:
        call = await start_call(nursery, peer.conversation.subscribe, "SUBSCRIBE", "a")
        await peer.send(b":1\r\n")
        assert isinstance(call.outcome, ConnectionBroken)


@both_streams
async def test_end_of_stream_fails_all_pending_requests(pair: Pair) -> None:
    async with talking(pair=pair) as peer, trio.open_nursery() as nursery:
        sent = await start_call(nursery, peer.conversation.execute, "INCR", "a")
        several = await start_call(nursery, peer.conversation.pipeline, [("A",), ("B",)])
        await peer.send(b":1\r\n:1\r\n")
        await peer.stream.aclose()
        await wait_all_tasks_blocked()
        assert sent.outcome == 1
        assert isinstance(several.outcome, ConnectionBroken)
        assert several.outcome.maybe_executed
        assert "may have been executed" in str(several.outcome)
        assert several.outcome.__cause__ is peer.conversation.reason
        with pytest.raises(ConnectionBroken) as caught:
            await peer.conversation.execute("PING")
        assert not caught.value.maybe_executed


async def test_unsent_request_was_not_executed() -> None:
    async with talking() as peer, trio.open_nursery() as nursery:
        gate = WriteGate(peer)
        first = await start_call(nursery, peer.conversation.execute, "FIRST")
        second = await start_call(nursery, peer.conversation.execute, "SECOND")
        assert gate.waiting
        await peer.stream.send_eof()
        await wait_all_tasks_blocked()
        assert isinstance(first.outcome, ConnectionBroken)
        assert isinstance(second.outcome, ConnectionBroken)
        assert first.outcome.maybe_executed
        assert not second.outcome.maybe_executed


class WriteGate:
    """Blocks all writing."""

    def __init__(self, peer: Peer) -> None:
        self.waiting = False
        # The hook of the memory stream runs before the bytes are sent.
        stream: Any = vars(peer.conversation)["_connection"].stream
        stream.send_stream.send_all_hook = self._hold

    async def _hold(self) -> None:
        self.waiting = True
        await trio.sleep_forever()


async def test_partly_sent_pipeline_may_have_been_executed() -> None:
    async with talking(pair=socket_pair) as peer:
        several = PipelineRequest(2)
        first = pack(("SET", "a", 1))
        peer.conversation.submit(first + pack(("SET", "b", bytes(1 << 24))), several)
        peer.conversation.end(ProtocolBroken("enough"))
        assert (await peer.received()).startswith(first)
        with pytest.raises(ConnectionBroken) as caught:
            await several.answer()
        assert caught.value.maybe_executed


async def test_eager_partial_and_late_writes_keep_the_order() -> None:
    async with talking(pair=socket_pair) as peer:
        sent_data, arrived = b"", b""
        for count in (1, 1, 8, 1, 8):
            replies: list[Any] = []
            for number in range(count):
                data = pack(("ECHO", bytes([65 + number]) * (1 if number % 2 else 1 << 20)))
                peer.conversation.submit(data, CallbackRequest(replies.append))
                sent_data += data
                await trio.lowlevel.checkpoint()  # the writer is in the middle of it
            while len(arrived) < len(sent_data):
                arrived += await peer.received()
            await peer.send(b":1\r\n" * count)
            assert len(replies) == count
        assert arrived == sent_data


@pytest.mark.parametrize("seed", range(12))
async def test_pieces_keep_the_order_and_received_requests_may_have_been_executed(
    seed: int,
) -> None:
    random = Random(seed)
    sizes = [random.choice((1, 100, 3000, 9000, 70_000)) for _ in range(120)]
    commands = [pack(("ECHO", bytes([65 + n % 26]) * size)) for n, size in enumerate(sizes)]
    sent_data, arrived = b"".join(commands), b""
    stop_at = random.choice((len(sent_data), random.randrange(len(sent_data))))
    results: list[Any] = []
    async with talking(pair=socket_pair) as peer:

        async def listen() -> None:
            nonlocal arrived
            while len(arrived) < stop_at:
                arrived += await peer.received()
                for _ in range(random.randrange(4)):
                    await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            for data in commands:
                peer.conversation.submit(data, CallbackRequest(results.append))
                for _ in range(random.choice((0, 0, 0, 0, 1, 2))):
                    await trio.lowlevel.checkpoint()
        assert sent_data.startswith(arrived)
        peer.conversation.end(ConnectionBroken("enough"))
    whole = 0
    for data, result in zip(commands, results, strict=True):
        whole += len(data)
        assert isinstance(result, ConnectionBroken)
        assert result.maybe_executed or whole > len(arrived)


async def test_callback_gets_the_reply_or_the_failure() -> None:
    async with talking() as peer:
        got: list[Any] = []
        peer.conversation.submit(pack(("ONE",)), CallbackRequest(got.append))
        peer.conversation.submit(pack(("TWO",)), CallbackRequest(got.append))
        await peer.send(b":1\r\n")
        await peer.stream.aclose()
        await wait_all_tasks_blocked()
        assert got[0] == 1
        assert isinstance(got[1], ConnectionBroken)


async def test_callback_that_raises_does_not_stop_the_others_from_failing() -> None:
    def raises(_: Any) -> None:
        raise RuntimeError("mine")

    call = CommandRequest()

    async def scenario() -> None:
        async with talking() as peer:
            peer.conversation.submit(pack(("ONE",)), CallbackRequest(raises))
            peer.conversation.submit(pack(("TWO",)), call)
            await peer.stream.aclose()
            await wait_all_tasks_blocked()

    with pytest.raises(ExceptionGroup) as caught:
        await scenario()
    assert caught.group_contains(RuntimeError, match="mine")
    assert isinstance(call.result, ConnectionBroken)


@both_streams
async def test_no_reply_breaks_the_connection(autojump_clock: MockClock, pair: Pair) -> None:
    async with talking(pair=pair, read_timeout=3.0) as peer, trio.open_nursery() as nursery:
        await trio.sleep(100)
        start = trio.current_time()
        late = await start_call(nursery, peer.conversation.execute, "ONE")
        await trio.sleep(10)
        assert isinstance(late.outcome, ReplyTimeout)
        assert late.outcome.maybe_executed
        assert peer.ended_at - start == 3.0


async def test_late_reply_breaks_the_connection(autojump_clock: MockClock) -> None:
    async with talking(read_timeout=3.0) as peer, trio.open_nursery() as nursery:
        await trio.sleep(100)
        start = trio.current_time()
        answered = await start_call(nursery, peer.conversation.execute, "ONE")
        late = await start_call(nursery, peer.conversation.execute, "TWO")
        await trio.sleep(2)
        await peer.send(b":1\r\n")
        await trio.sleep(10)
        assert answered.outcome == 1
        assert isinstance(late.outcome, ReplyTimeout)
        assert isinstance(late.outcome, redis_errors.TimeoutError)
        # Bytes arrived at 2 s, and the reply could have been behind them.
        assert peer.ended_at - start == 5.0


async def test_trickle_does_not_postpone_the_timeout_for_ever(autojump_clock: MockClock) -> None:
    async with talking(read_timeout=3.0) as peer, trio.open_nursery() as nursery:
        start = trio.current_time()
        call = await start_call(nursery, peer.conversation.execute, "ONE")
        await peer.stream.send_all(b"$1000\r\n")
        while call.outcome is None:
            await peer.stream.send_all(b"x")
            await trio.sleep(1)
        assert isinstance(call.outcome, ReplyTimeout)
        assert peer.ended_at - start == MAX_READ_TIMEOUTS_PER_REPLY * 3.0


async def test_silence_is_broken_by_a_ping(autojump_clock: MockClock) -> None:
    async with talking(keepalive=5.0, read_timeout=3.0) as peer:
        for _ in range(3):
            await trio.sleep(4.5)
            assert await peer.received() == b""
            await trio.sleep(0.5)
            assert await peer.received() == pack(("PING",))
            await peer.send(b"+PONG\r\n")
        assert peer.conversation.reason is None


async def test_black_hole_is_detected(autojump_clock: MockClock) -> None:
    async with talking(keepalive=5.0, read_timeout=3.0) as peer:
        start = trio.current_time()
        await trio.sleep(20)
        assert isinstance(peer.conversation.reason, ReplyTimeout)
        assert peer.ended_at - start == 8.0


async def test_messages_keep_the_connection_without_pings(autojump_clock: MockClock) -> None:
    async with talking(keepalive=5.0) as peer:
        for _ in range(30):
            await trio.sleep(1)
            await peer.send(b">1\r\n+message\r\n")
        assert await peer.received() == b""


async def test_server_that_accepts_no_data_loses_the_connection(autojump_clock: MockClock) -> None:
    async with talking(write_timeout=3.0) as peer, trio.open_nursery() as nursery:
        await trio.sleep(100)
        start = trio.current_time()
        gate = WriteGate(peer)
        call = await start_call(nursery, peer.conversation.execute, "ONE")
        assert gate.waiting
        await trio.sleep(20)
        assert isinstance(call.outcome, ReplyTimeout)
        assert "accepted no data" in str(call.outcome)
        assert peer.ended_at - start == 3.0


async def test_write_timeout_is_for_each_piece(autojump_clock: MockClock) -> None:
    async with talking(write_timeout=3.0) as peer, trio.open_nursery() as nursery:
        stream: Any = vars(peer.conversation)["_connection"].stream

        async def slowly() -> None:
            await trio.sleep(2)

        stream.send_stream.send_all_hook = slowly
        call = await start_call(
            nursery, peer.conversation.execute, "SET", "k", b"x" * 5 * MAX_WRITE_BYTES
        )
        await trio.sleep(11)
        await peer.send(b"+OK\r\n")
        assert call.outcome == b"OK"


async def test_late_process_does_not_blame_the_server(mock_clock: MockClock) -> None:
    async with talking(read_timeout=3.0) as peer, trio.open_nursery() as nursery:
        call = await start_call(nursery, peer.conversation.execute, "ONE")
        # The reply has arrived and the deadline has passed, before any task runs.
        await peer.stream.send_all(b":1\r\n")
        mock_clock.jump(60)
        await wait_all_tasks_blocked()
        assert call.outcome == 1
        assert peer.conversation.reason is None


async def test_server_that_sends_but_accepts_no_data_loses_the_connection(
    mock_clock: MockClock,
) -> None:
    async with talking(write_timeout=3.0) as peer, trio.open_nursery() as nursery:
        gate = WriteGate(peer)
        nursery.start_soon(PendingCall().run, peer.conversation.execute, "ONE")
        await wait_all_tasks_blocked()
        assert gate.waiting
        mock_clock.jump(3.5)
        with suppress(trio.BrokenResourceError):
            for _ in range(50):
                await peer.stream.send_all(b">1\r\n+message\r\n")
        assert isinstance(peer.conversation.reason, ReplyTimeout)


async def test_infinite_timeouts_wait_for_ever(autojump_clock: MockClock) -> None:
    async with (
        talking(read_timeout=math.inf, write_timeout=math.inf) as peer,
        trio.open_nursery() as nursery,
    ):
        call = await start_call(nursery, peer.conversation.execute, "ONE")
        await trio.sleep(1e6)
        await peer.send(b":1\r\n")
        assert call.outcome == 1


async def test_request_cancelled_in_the_queue_is_never_submitted() -> None:
    queue = RequestQueue()
    scope = trio.CancelScope()

    async def wait() -> None:
        with scope, queue.place(lambda: b"", CommandRequest()) as queued:
            await queued.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert len(queue) == 1
        scope.cancel()
        # Its task has not run yet, but the link must not find the request any more.
        assert not queue


async def test_error_of_on_push_ends_the_conversation() -> None:
    def raises(_: Any) -> None:
        raise RuntimeError("mine")

    ours, theirs = memory_stream_pair()
    conversation = Conversation(
        RedisConnection(ours, ReplyReader(1 << 20), RedisConfig()),
        on_push=raises,
        on_writable=lambda: None,
        on_end=lambda _: None,
        keepalive=math.inf,
    )
    await theirs.send_all(b">1\r\n+a\r\n")
    with pytest.raises(ExceptionGroup) as caught, trio.fail_after(HANG_SECONDS):
        await conversation.run()
    assert caught.group_contains(RuntimeError, match="mine")
    assert conversation.reason is not None


async def test_callback_of_a_pipeline_gets_all_replies_in_one_call() -> None:
    async with talking() as peer:
        calls: list[list[Any]] = []
        for count in (3, 2):
            data = pack(("ONE",)) * count
            peer.conversation.submit(data, CallbackPipelineRequest(count, calls.append))
        await peer.send(b":1\r\n-ERR two\r\n")
        await wait_all_tasks_blocked()
        assert calls == []
        await peer.send(b":3\r\n:4\r\n")
        await wait_all_tasks_blocked()
        assert len(calls) == 1
        assert [type(reply) for reply in calls[0]] == [int, redis_errors.ResponseError, int]
        # The replies that have come are kept; only the missing ones are failures.
        await peer.stream.aclose()
        await wait_all_tasks_blocked()
        assert calls[1][0] == 4
        assert isinstance(calls[1][1], ConnectionBroken)
        assert len(calls) == 2
