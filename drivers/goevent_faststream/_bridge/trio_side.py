"""The Trio side of an open bus.

It owns the loop thread and two tasks: one delivers arrivals to the bus in order; the other passes
on replies to publishes, reports and the end of the client. Neither waits for the other: a full
mailbox holds back arrivals but not replies.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import trio

from goevent import DecodeError, DriverConnectionError, DriverError
from goevent.drivers import (
    EXHAUSTED,
    RELEASE,
    Inbox,
    Message,
    Receipt,
    Settlement,
    Verdict,
    undecodable,
    verdict,
)

from .._adapter.contract import Adapter, Arrival, Decision, Outgoing, Result
from .._adapter.formats import Format
from .._config import BrokerConfig
from .loop_side import End, Freed, LoopNotice, LoopRequest, LoopSide, Report
from .loop_thread import IslandClosed, LoopThread
from .queues import ToLoopQueue, ToTrioQueue

T = TypeVar("T")

SLICE = 0.0005  # seconds of work between two yields to Trio
CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 10.0  # for subscriptions, and whatever else is asked
FAREWELL = 1.8  # seconds to tell the last ends and to disconnect, as the bus ends


class TrioSide:
    """One open bus."""

    def __init__(
        self, adapter: Adapter, broker: str, inbox: Inbox, config: BrokerConfig, form: Format
    ) -> None:
        self._adapter = adapter
        self._broker = broker
        self._inbox = inbox
        self._config = config
        self._format = form
        self._durable = adapter.capabilities.durable
        token = trio.lowlevel.current_trio_token()
        self._arrivals: ToTrioQueue[Arrival] = ToTrioQueue(token)
        self._news: ToTrioQueue[LoopNotice] = ToTrioQueue(token)
        self._loop_side = LoopSide(adapter, broker, config.prefetch, self._arrivals, self._news)
        self._loop_thread = LoopThread(f"goevent-{broker}", self._loop_side.report, adapter.close)
        self._to_loop: ToLoopQueue[LoopRequest] | None = None
        self._names: set[str] = set()
        self._stopped = False
        self._busy = False
        self._idle = trio.lowlevel.ParkingLot()
        self._freed = 0

    @property
    def connected(self) -> bool:
        """False while the broker cannot be reached."""
        return self._to_loop is not None and self._loop_side.connected

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Connect, and serve until cancelled.

        Raises:
            DriverConnectionError: the broker cannot be reached, or does not let us in.
            DriverError: the client has given up, or its loop has ended.
        """
        failure: DriverError | None = None
        # What is ours is to be handed back at the end, and a client that has begun must close.
        thread_scope = trio.CancelScope(shield=True)

        async def live() -> None:
            nonlocal failure
            try:
                with thread_scope:
                    await self._loop_thread.run()
            except DriverError as error:  # it has crashed
                failure = failure or error
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(live)
            try:
                try:
                    await self._loop_thread.begun()
                    to_loop = await self._open()
                    async with trio.open_nursery() as works:
                        works.start_soon(self._take_arrivals)
                        works.start_soon(self._take_news)
                        works.start_soon(to_loop.wake_loop)
                        task_status.started()
                except* DriverError as group:
                    failure = _first(group)
            finally:
                try:
                    await self._farewell()
                finally:  # else the thread would outlive whatever a client fails with as it closes
                    thread_scope.shield = False
                    thread_scope.cancel()
        if failure is not None:
            raise failure

    async def _open(self) -> ToLoopQueue[LoopRequest]:
        try:
            with trio.fail_after(CONNECT_TIMEOUT + 1):
                await self._loop_thread.call(self._adapter.open, self._loop_side)
        except trio.TooSlowError:
            raise DriverConnectionError(
                f"{self._broker} has not answered within {CONNECT_TIMEOUT:g} s"
            ) from None
        self._loop_side.connected = True
        self._to_loop = to_loop = ToLoopQueue(self._loop_thread.loop, self._loop_side.receive)
        return to_loop

    async def _farewell(self) -> None:
        """Tell the last ends, and disconnect."""
        to_loop, self._to_loop = self._to_loop, None
        with trio.CancelScope(shield=True, deadline=trio.current_time() + FAREWELL):
            try:
                if to_loop is not None:
                    if self._durable:
                        for arrival in self._arrivals.items:
                            to_loop.post(Decision(arrival, RELEASE))
                    await self._loop_thread.call(self._last_words, to_loop)
                await self._loop_thread.call(self._adapter.close)
            except IslandClosed:
                pass  # it has crashed, which is raised where it ran

    async def _last_words(self, to_loop: ToLoopQueue[LoopRequest]) -> None:
        to_loop.flush()
        await self._loop_side.close(tells=self._durable)

    # -- names

    async def subscribe(self, names: Sequence[str]) -> None:
        """Receive events of names and patterns."""
        self._names.update(names)
        try:
            await self.ask(self._adapter.subscribe, names)
        except DriverError:
            self._names.difference_update(names)
            raise

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Receive them no more; what has arrived is handed back, or dropped."""
        self._names.difference_update(names)
        await self.ask(self._adapter.unsubscribe, names)

    async def drain(self) -> None:
        """Receive no more, and return when all that has arrived is handed over, or back."""
        if self._durable:
            self._stopped = True
        if self.connected:
            try:
                await self._loop_thread.call(self._adapter.stop_receiving)
            except DriverError as error:
                self._inbox.report(error)
        if self._durable:
            while self._arrivals.items:  # nor must they wait for whoever waits for a mailbox
                self._settle(self._arrivals.items.popleft(), RELEASE)
        while self._busy or self._arrivals.items:
            await self._idle.park()
        self._stopped = True

    async def ask(self, work: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Return what the adapter says.

        Raises:
            DriverConnectionError: it has not said it in time.
        """
        try:
            with trio.fail_after(ANSWER_TIMEOUT):
                return await self._loop_thread.call(work, *args)
        except trio.TooSlowError:
            raise DriverConnectionError(
                f"{self._broker} has not confirmed it within {ANSWER_TIMEOUT:g} s"
            ) from None

    # -- to the broker

    def publish_nowait(self, message: Message, replied: Callable[[Result], None]) -> None:
        """Send an event on its way; `replied` gets the broker's answer."""
        if self._to_loop is None or not self._loop_side.connected:
            raise trio.WouldBlock
        self._post(message, replied)

    async def publish(self, message: Message) -> Receipt | None:
        """Send an event, and wait for the broker's answer."""
        answered = trio.Event()
        answers: list[Result] = []

        def replied(result: Result) -> None:
            answers.append(result)
            answered.set()

        if self._to_loop is None:
            raise IslandClosed(f"the driver for {self._broker} does not run: open its bus first")
        self._post(message, replied)
        await answered.wait()
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    def _post(self, message: Message, replied: Callable[[Result], None]) -> None:
        if self._to_loop is None:
            raise trio.WouldBlock
        body, headers = self._format.write(message)
        self._to_loop.post(
            Outgoing(
                message.event_name,
                body,
                headers,
                message.handle_id,
                message.key,
                replied,
                self._news.post,
            )
        )

    # -- from the broker

    async def _take_news(self) -> None:
        """Pass on replies and reports, until cancelled."""
        items = self._news.items
        while True:
            await self._news.wait()
            while items:
                news = items.popleft()
                if isinstance(news, Report):
                    self._inbox.report(news.error, news.event_name)
                elif isinstance(news, End):
                    raise news.error
                else:
                    news.replied(news.result)

    async def _take_arrivals(self) -> None:
        """Bring what arrives to the bus, in order, until cancelled."""
        items = self._arrivals.items
        while True:
            await self._arrivals.wait()
            self._busy = True
            until = perf_counter() + SLICE
            while items:
                await self._bring(items.popleft())
                if perf_counter() > until:
                    self._tell_freed()
                    await trio.lowlevel.checkpoint()
                    until = perf_counter() + SLICE
            self._tell_freed()
            self._busy = False
            self._idle.unpark_all()

    async def _bring(self, arrival: Arrival) -> None:
        if arrival.via not in self._names or (self._durable and self._stopped):
            self._settle(arrival, RELEASE)
            return
        if self._durable and arrival.deliveries > self._config.max_deliveries:
            self._settle(arrival, EXHAUSTED)
            return
        settle = partial(self._settled, arrival) if self._durable else None
        deliveries = arrival.deliveries
        try:
            envelope = self._format.read(arrival, self._inbox)
        except DecodeError as error:
            self._inbox.report(error, arrival.name)
            self._settle(arrival, undecodable(error))
            return
        if not self._inbox.deliver_nowait(envelope, settle, deliveries=deliveries):
            self._tell_freed()
            await self._inbox.deliver(envelope, settle, deliveries=deliveries)
        if not self._durable:
            self._freed += 1

    def _tell_freed(self) -> None:
        if self._freed and self._to_loop is not None:
            freed, self._freed = self._freed, 0
            self._to_loop.post(Freed(freed))

    # -- settlements

    def _settled(self, arrival: Arrival, settlement: Settlement) -> None:
        self._settle(arrival, verdict(settlement, arrival.deliveries, self._config))

    def _settle(self, arrival: Arrival, decided: Verdict) -> None:
        if self._to_loop is None:
            return  # nothing can be told any more; the broker delivers it again
        if self._durable:
            self._to_loop.post(Decision(arrival, decided))
        else:
            self._freed += 1


def _first(group: BaseExceptionGroup[DriverError]) -> DriverError:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise RuntimeError("a group has members")
