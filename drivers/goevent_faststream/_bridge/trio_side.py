"""The Trio side of an open bus.

It owns the loop thread and three tasks: one delivers arrivals to the bus in order; one passes
on replies to publishes, reports and the failure of the adapter; one hands over direct messages.
None waits for another: a full mailbox holds back arrivals but neither replies nor direct messages.
Each tail has a task of its own.
`FastStreamDriver` calls it; the adapter never does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import trio

from goevent import DecodeError, DriverConnectionError, DriverError, UnsupportedError
from goevent.drivers import (
    EXHAUSTED,
    RELEASE,
    BatchReplied,
    DirectSent,
    Inbox,
    Message,
    Receipt,
    Settlement,
    TakeDirect,
    Verdict,
    undecodable,
    verdict,
)

from .._adapter.contract import (
    Adapter,
    Arrival,
    Decision,
    DirectMessages,
    Outgoing,
    Result,
    TailsEvents,
)
from .._adapter.formats import Format
from .._adapter.subscribed_names import SubscribedNames
from .._config import BrokerConfig
from .direct import DirectBridge
from .loop_side import Freed, LoopFailure, LoopNotice, LoopReport, LoopRequest, LoopSide
from .loop_thread import IslandClosed, LoopThread
from .queues import ToLoopQueue, ToTrioQueue
from .tail import BridgedTail, Tail

T = TypeVar("T")

SECONDS_BETWEEN_YIELDS = 0.0005
CONNECT_TIMEOUT_SECONDS = 10.0
CALL_TIMEOUT_SECONDS = 10.0
SECONDS_PER_NAME = 0.05  # that brokers may take for each of many names in one request
CLOSE_SECONDS = 1.8
# Where a broker expects no verdicts, the bytes of a smaller event count until a mailbox has it: the
# mailbox bounds the number of its events, and to follow each one takes time.
MAX_SMALL_BODY_BYTES = 16 << 10


class TrioSide:
    """The Trio side of one open bus.

    Args:
        broker: The name of the broker in errors and in the name of the thread.
    """

    def __init__(
        self, adapter: Adapter, broker: str, inbox: Inbox, config: BrokerConfig, format_: Format
    ) -> None:
        self._adapter = adapter
        self._broker = broker
        self._inbox = inbox
        self._config = config
        self._format = format_
        self._durable = adapter.capabilities.durable
        token = trio.lowlevel.current_trio_token()
        self._arrivals: ToTrioQueue[Arrival] = ToTrioQueue(token)
        self._notices: ToTrioQueue[LoopNotice] = ToTrioQueue(token)
        self._loop_side = LoopSide(
            adapter, broker, config.prefetch, config.prefetch_bytes, self._arrivals, self._notices
        )
        self._loop_thread = LoopThread(
            f"goevent-{broker}-loop", self._loop_side.report, adapter.close
        )
        self._direct = DirectBridge(broker, self._loop_side.report)
        # None until the adapter is open, and again as soon as the bus closes.
        self._to_loop: ToLoopQueue[LoopRequest] | None = None
        self._names = SubscribedNames()
        self._is_drained = False
        self._is_delivering = False
        self._delivered = trio.lowlevel.ParkingLot()
        self._freed_arrivals = self._freed_bytes = 0
        # The nursery of the tails; None until the adapter is open, and when the bus closes.
        self._tasks: trio.Nursery | None = None
        self._tails: set[Tail] = set()

    @property
    def connected(self) -> bool:
        """False while the broker cannot be reached."""
        return self._to_loop is not None and self._loop_side.connected

    def fork(self) -> None:
        """Post nothing more: this process is a fork of the one that runs the loop."""
        self._to_loop = None
        self._loop_thread.fork()
        for tail in self._tails:
            tail.fork()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Connect, and serve until cancelled.

        Raises:
            DriverConnectionError: The broker cannot be reached, or refuses the login.
            DriverError: The adapter cannot go on, or its loop has ended.
        """
        try:
            await self._run(task_status)
        finally:
            self._direct.end()

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        failure: DriverError | None = None
        # The loop outlives a cancellation: held events are released on it, and its client closes.
        thread_scope = trio.CancelScope(shield=True)

        async def run_thread() -> None:
            nonlocal failure
            try:
                with thread_scope:
                    await self._loop_thread.run()
            except DriverError as error:
                # The loop has crashed.
                failure = failure or error
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_thread)
            try:
                try:
                    await self._loop_thread.wait_started()
                    to_loop = await self._open()
                    async with trio.open_nursery() as tasks:
                        tasks.start_soon(self._deliver_arrivals)
                        tasks.start_soon(self._pass_on_notices)
                        tasks.start_soon(self._direct.hand_over)
                        tasks.start_soon(to_loop.wake_loop)
                        self._tasks = tasks
                        task_status.started()
                except* DriverError as group:
                    failure = _first(group)
            finally:
                try:
                    await self._close()
                finally:
                    # Even if the client fails while it closes: otherwise the thread would outlive
                    # the bus.
                    thread_scope.shield = False
                    thread_scope.cancel()
        if failure is not None:
            raise failure

    async def _open(self) -> ToLoopQueue[LoopRequest]:
        try:
            # An adapter has a limit of its own; this one is for a loop that is blocked.
            with trio.fail_after(CONNECT_TIMEOUT_SECONDS + 1):
                await self._loop_thread.call(self._adapter.open, self._loop_side)
        except trio.TooSlowError:
            raise DriverConnectionError(
                f"{self._broker} has not answered within {CONNECT_TIMEOUT_SECONDS:g} s"
            ) from None
        except DriverConnectionError as error:
            # The text has the client's reason; its chain would be 100 lines of the client's frames.
            raise error.with_traceback(None) from None
        self._loop_side.connected = True
        self._to_loop = to_loop = ToLoopQueue(self._loop_thread.loop, self._loop_side.receive)
        return to_loop

    async def _close(self) -> None:
        """Release the arrivals that no listener has, settle the others, and disconnect."""
        to_loop, self._to_loop, self._tasks = self._to_loop, None, None
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
            try:
                if to_loop is not None:
                    if self._durable:
                        for arrival in self._arrivals.items:
                            to_loop.post(Decision(arrival, RELEASE))
                    await self._loop_thread.call(self._close_loop_side, to_loop)
                await self._loop_thread.call(self._adapter.close)
            except IslandClosed:
                # The loop has crashed; `run_thread` has the error.
                pass

    async def _close_loop_side(self, to_loop: ToLoopQueue[LoopRequest]) -> None:
        # No task wakes the loop any more, so the last posts are flushed here.
        to_loop.flush()
        await self._loop_side.close(settle=self._durable)

    # -- subscriptions

    async def subscribe(self, names: Sequence[str]) -> None:
        """Receive events of names and patterns."""
        # First, because events may arrive before the broker's confirmation does.
        for name in names:
            self._names.add(name)
        subscribed = False
        try:
            await self.call(self._adapter.subscribe, names, more_seconds=_seconds_for(names))
            subscribed = True
        finally:
            if not subscribed:
                self._forget(names)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Stop receiving them; their waiting arrivals are released, or dropped if not durable."""
        self._forget(names)
        await self.call(self._adapter.unsubscribe, names, more_seconds=_seconds_for(names))

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            self._names.remove(name)

    async def drain(self) -> None:
        """Stop receiving; returns when every arrival is delivered, or released if durable."""
        if self._durable:
            # From now on arrivals are released: the bus must end, and others can have them.
            self._is_drained = True
        if self.connected:
            try:
                await self._loop_thread.call(self._adapter.stop_receiving)
            except Exception as error:  # noqa: BLE001 - the bus ends all the same
                self._inbox.report(error)
        if self._durable:
            # Not by the delivering task: it may wait for a full mailbox.
            while self._arrivals.items:
                self._settle(self._arrivals.items.popleft(), RELEASE)
        while self._is_delivering or self._arrivals.items:
            await self._delivered.park()
        self._is_drained = True

    async def call(
        self,
        work: Callable[..., Coroutine[Any, Any, T]],
        *args: object,
        more_seconds: float = 0.0,
    ) -> T:
        """Run a method of the adapter on the loop, and return its result.

        Args:
            more_seconds: How much longer than usual it may take.

        Raises:
            DriverConnectionError: It has not returned in time.
        """
        seconds = CALL_TIMEOUT_SECONDS + more_seconds
        try:
            with trio.fail_after(seconds):
                return await self._loop_thread.call(work, *args)
        except trio.TooSlowError:
            raise DriverConnectionError(
                f"{self._broker} has not answered a request within {seconds:g} s"
            ) from None

    # -- direct messages

    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        """Receive the direct messages to addresses."""
        direct = self._direct_messages()
        opened = self._direct.open_among(addresses)
        # First, because messages may arrive before the broker's confirmation does.
        self._direct.open_addresses(addresses, take)
        is_open = False
        try:
            await self.call(
                *(direct.open_addresses, addresses, self._direct.take),
                more_seconds=_seconds_for(addresses),
            )
            is_open = True
        finally:
            if not is_open:
                self._direct.close_addresses([each for each in addresses if each not in opened])

    async def close_addresses(self, addresses: Sequence[str]) -> None:
        """Receive the direct messages to addresses no more."""
        direct = self._direct_messages()
        self._direct.close_addresses(addresses)
        await self.call(direct.close_addresses, addresses, more_seconds=_seconds_for(addresses))

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        """Post a direct message; `sent` gets the result."""
        if self._loop_side.direct_messages is None:
            sent(self._unsupported())
        elif self._to_loop is None or not self._loop_side.connected:
            sent(DriverConnectionError(f"{self._broker}: there is no connection"))
        else:
            self._direct.send(self._to_loop.post, address, data, sent)

    def _direct_messages(self) -> DirectMessages:
        if self._loop_side.direct_messages is None:
            raise self._unsupported()
        return self._loop_side.direct_messages

    def _unsupported(self) -> UnsupportedError:
        return UnsupportedError(f"the driver for {self._broker} carries no direct messages")

    @asynccontextmanager
    async def tail(self, inspection: TailsEvents, pattern: str) -> AsyncGenerator[BridgedTail]:
        """Show the events that match a pattern, while the block lasts.

        Raises:
            DriverConnectionError: The broker does not confirm in time.
            DriverError: The broker refuses it.
        """
        if self._tasks is None:
            raise IslandClosed(f"the driver for {self._broker} does not run: open its bus first")
        tail = Tail(inspection, self._broker, self._loop_thread, pattern)
        self._tails.add(tail)
        # Beside the bus, and not in a nursery of the reader: its errors stay single ones.
        self._tasks.start_soon(tail.run)
        try:
            await tail.wait_started(CALL_TIMEOUT_SECONDS)
            yield tail.events
        finally:
            self._tails.discard(tail)
            await tail.stop()

    # -- events to the broker

    def publish_nowait(self, message: Message, replied: Callable[[Result], None]) -> None:
        """Post an event; `replied` gets the broker's answer.

        Raises:
            trio.WouldBlock: There is no connection.
        """
        if self._to_loop is None or not self._loop_side.connected:
            raise trio.WouldBlock
        self._post(self._to_loop, message, replied)

    def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
        """Post events as one burst, and return how many are taken: none without a connection."""
        if self._to_loop is None or not self._loop_side.connected:
            return 0
        burst: list[Outgoing] = []
        for place, message in enumerate(messages):
            try:
                burst.append(self._outgoing(message, _in_batch(replied, place)))
            except Exception as error:  # noqa: BLE001 - it is the result of this event only
                replied([error], place)
        if burst:
            self._to_loop.post_all(burst)
        return len(messages)

    async def publish(self, message: Message) -> Receipt | None:
        """Post an event, and wait for the broker's answer."""
        answered = trio.Event()
        answers: list[Result] = []

        def replied(result: Result) -> None:
            answers.append(result)
            answered.set()

        # Without a connection the event is posted all the same: the adapter waits for one.
        if self._to_loop is None:
            raise IslandClosed(f"the driver for {self._broker} does not run: open its bus first")
        self._post(self._to_loop, message, replied)
        await answered.wait()
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    def _post(
        self,
        to_loop: ToLoopQueue[LoopRequest],
        message: Message,
        replied: Callable[[Result], None],
    ) -> None:
        to_loop.post(self._outgoing(message, replied))

    def _outgoing(self, message: Message, replied: Callable[[Result], None]) -> Outgoing:
        body, headers = self._format.write(message)
        return Outgoing(
            message.event_name,
            body,
            headers,
            message.handle_id,
            message.key,
            replied,
            self._notices.post,
        )

    # -- arrivals and notices from the loop

    async def _pass_on_notices(self) -> None:
        items = self._notices.items
        while True:
            await self._notices.wait()
            while items:
                notice = items.popleft()
                if isinstance(notice, LoopReport):
                    self._inbox.report(notice.error, notice.event_name)
                elif isinstance(notice, LoopFailure):
                    raise notice.error
                else:
                    notice.replied(notice.result)

    async def _deliver_arrivals(self) -> None:
        items = self._arrivals.items
        while True:
            await self._arrivals.wait()
            self._is_delivering = True
            until = perf_counter() + SECONDS_BETWEEN_YIELDS
            while items:
                await self._deliver(items.popleft())
                if perf_counter() > until:
                    self._post_freed()
                    await trio.lowlevel.checkpoint()
                    until = perf_counter() + SECONDS_BETWEEN_YIELDS
            self._post_freed()
            self._is_delivering = False
            self._delivered.unpark_all()

    async def _deliver(self, arrival: Arrival) -> None:
        # It may have been unsubscribed while the message was on its way.
        via = arrival.via or self._names.match(arrival.name)
        if via not in self._names or (self._durable and self._is_drained):
            self._settle(arrival, RELEASE)
            return
        # This may be the event that killed its processes, so no listener gets it again.
        if self._durable and arrival.deliveries > self._config.max_deliveries:
            self._settle(arrival, EXHAUSTED)
            return
        settle: Callable[[Settlement], None] | None = None
        body_bytes = 0
        if self._durable:
            settle = partial(self._settled, arrival)
        elif (body_bytes := len(arrival.body)) > MAX_SMALL_BODY_BYTES:
            settle = partial(self._free_large, body_bytes)
            body_bytes = 0
        # A repeat that the broker did not count must not look new.
        deliveries = max(2, arrival.deliveries) if arrival.is_repeat else arrival.deliveries
        try:
            envelope = self._format.read(arrival, self._inbox)
        except DecodeError as error:
            self._inbox.report(error, arrival.name)
            self._settle(arrival, undecodable(error))
            return
        if not self._inbox.deliver_nowait(envelope, settle, deliveries=deliveries):
            # The wait for a full mailbox may be long; the loop need not wait for what is freed.
            self._post_freed()
            await self._inbox.deliver(envelope, settle, deliveries=deliveries)
        if not self._durable:
            self._freed_arrivals += 1
            self._freed_bytes += body_bytes

    def _post_freed(self) -> None:
        # One request for a slice of work, because these brokers expect no verdicts one by one.
        if (self._freed_arrivals or self._freed_bytes) and self._to_loop is not None:
            freed = Freed(self._freed_arrivals, self._freed_bytes)
            self._freed_arrivals = self._freed_bytes = 0
            self._to_loop.post(freed)

    def _free_large(self, body_bytes: int, _: Settlement) -> None:
        """Free the bytes of a large event whose listeners are done with it."""
        self._freed_bytes += body_bytes
        if not self._is_delivering:
            self._post_freed()

    # -- settlements

    def _settled(self, arrival: Arrival, settlement: Settlement) -> None:
        self._settle(arrival, verdict(settlement, arrival.deliveries, self._config))

    def _settle(self, arrival: Arrival, decided: Verdict) -> None:
        if self._to_loop is None:
            # The bus has closed; the broker delivers the event again.
            return
        if self._durable:
            self._to_loop.post(Decision(arrival, decided))
        else:
            self._freed_arrivals += 1
            self._freed_bytes += len(arrival.body)


def _in_batch(replied: BatchReplied, place: int) -> Callable[[Result], None]:
    """Return the callback for one event of a batch."""
    return lambda result: replied([result], place)


def _seconds_for(names: Sequence[str]) -> float:
    """Return how much longer a request about many names may take."""
    return SECONDS_PER_NAME * len(names)


def _first(group: BaseExceptionGroup[DriverError]) -> DriverError:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise RuntimeError("a group has members")
