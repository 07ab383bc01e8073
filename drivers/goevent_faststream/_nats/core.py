"""The adapter for core NATS: every bus gets every event, at most once; nothing is stored.

Theory of operation: NATS does not reply to a publish. `NatsAdapter` therefore sends a PING behind
the events that it has published; the PONG says that the server has taken all of them. One PING is
under way at a time, and events that are published meanwhile wait for the next one. An event that
was sent on an earlier connection fails: a later PONG says nothing about it. So does an event that
waits for longer than `publish_timeout`, counted from its publish. Both may have arrived. If the
server refuses an event, its error line names the subject and comes before that PONG; the first
event of that subject that waits fails with it. A subscription is confirmed by a PONG in the same
way.

A bus that subscribes to a name and to patterns may receive a message once for each subscription
that matches it. `OverlapFilter` lets one of these copies through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from faststream.nats import NatsBroker
from nats import errors

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Backlog, Capabilities

from .._adapter.connection import checked_broker
from .._adapter.contract import (
    MAX_IN_FLIGHT_EVENTS,
    Adapter,
    AdapterHost,
    Arrival,
    Decision,
    Outgoing,
)
from .._adapter.errors import connection_lost, may_have_arrived, no_answer
from .._adapter.overlap import OverlapFilter
from .._adapter.subscribers import SUBSCRIBER_OPTIONS, adopt_subscriber
from .._config import BrokerConfig
from .connection import (
    NatsConnection,
    make_broker as make_broker,
    to_driver_error,
)
from .core_inspection import CoreInspection
from .direct import NatsDirectMessages
from .subjects import DIRECT_ROOT, check_prefix, covering_subject

DEFAULT_SUBJECT_PREFIX = "goevent."
# The messages that wait in the client are lost beyond its limit, so a smaller `prefetch_bytes` does
# not lower it.
MIN_PENDING_BYTES = 32 << 20


def make_adapter(broker: object, config: BrokerConfig, address: object) -> Adapter:
    """Return the adapter for core NATS.

    Raises:
        TypeError: The broker is not a NatsBroker, or there is an address.
        ValueError: The config has a group or a stream.
    """
    if address is not None:
        raise TypeError(f"core NATS has no addresses of events but subjects, not {address!r}")
    if config.group is not None or config.stream is not None:
        raise ValueError("core NATS has no groups and no streams: all buses get all events")
    return NatsAdapter(checked_broker(broker, NatsBroker), config)


@dataclass(slots=True, eq=False)
class SentEvent:
    """An event that was sent and waits for the PONG.

    Attributes:
        losses: The number of connections that were lost before it was sent.
        deadline: The end of its wait, on the loop's clock.
        refusal: The server's refusal of the event.
    """

    outgoing: Outgoing
    losses: int
    deadline: float
    refusal: DriverError | None = None


class NatsAdapter:
    """Core NATS, over one connection."""

    def __init__(self, broker: NatsBroker, config: BrokerConfig) -> None:
        self._broker = broker
        self._prefix = DEFAULT_SUBJECT_PREFIX if config.prefix is None else config.prefix
        check_prefix(self._prefix)
        self._publish_timeout = config.publish_timeout
        self._connection = NatsConnection(
            broker, config.publish_timeout, max(MIN_PENDING_BYTES, config.prefetch_bytes)
        )
        self.direct = NatsDirectMessages(self._connection, self._prefix)
        self._connection.on_down = self.direct.connection_lost
        self.inspection = CoreInspection(self._connection, self._prefix)
        self._overlap = OverlapFilter()
        self._subscriptions: dict[str, Any] = {}
        self._publish_lock = asyncio.Lock()
        self._connection.refusals.on_event_refused = self._on_event_refused
        self._unconfirmed: list[SentEvent] = []
        self._confirming: list[SentEvent] = []
        self._is_confirming = False
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def capabilities(self) -> Capabilities:
        """The guarantees of core NATS."""
        return Capabilities(lossless=False, in_flight=MAX_IN_FLIGHT_EVENTS, replies=True)

    async def open(self, host: AdapterHost) -> None:
        """Connect.

        Raises:
            DriverConnectionError: No server answers, or it rejects the login.
        """
        self._overlap = OverlapFilter()
        self._publish_lock = asyncio.Lock()
        self._subscriptions.clear()
        self._unconfirmed, self._confirming, self._is_confirming = [], [], False
        self._expiry = None
        self.direct.open()
        await self._connection.open(host)

    async def close(self) -> None:
        """Disconnect."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._subscriptions.clear()
        await self._connection.close()
        self.direct.close()

    # -- subscriptions

    async def subscribe(self, names: Sequence[str]) -> None:
        """Subscribe to names and patterns; returns when the server has confirmed it."""
        await self._connection.wait_until_up()
        refusals, refused = self._connection.refusals, list[DriverError]()
        try:
            with ExitStack() as waits:
                # The server does not name a subject if the user has too many subscriptions.
                for subject in {"", *map(self._subject_of, names)}:
                    waits.enter_context(refusals.waiting(subject, refused.append))
                for name in names:
                    await self._subscribe(name)
                await self._connection.flush()
            if refused:
                raise refused[0]
        except DriverError:
            await self.unsubscribe(names)
            raise
        except (errors.Error, OSError) as error:
            await self.unsubscribe(names)
            raise to_driver_error(error) from error

    def _subject_of(self, pattern: str) -> str:
        return self._prefix + covering_subject(pattern)

    async def _subscribe(self, pattern: str) -> None:
        overlap, prefix, host = self._overlap, self._prefix, self._connection.host

        async def on_message(message: Any) -> None:
            name, body = message.subject.removeprefix(prefix), message.data
            # Without a prefix, a pattern may cover them.
            if not prefix and name.startswith(DIRECT_ROOT):
                return
            if not overlap.is_first(pattern, name, body):
                return
            # For all subscriptions that match it: their copies are dropped.
            arrival = Arrival(name, "", body, message.headers or {})
            try:
                await host.deliver(arrival)
            except asyncio.CancelledError:
                # The client ends the wait with the subscription.
                if pattern not in overlap:
                    host.deliver_nowait(arrival)
                raise

        overlap.add(pattern)
        subject = self._subject_of(pattern)
        if self._broker.middlewares:
            subscription = await self._subscribe_with_middlewares(subject, on_message)
        else:
            # FastStream's consume costs many times as much as all the rest, and without
            # middlewares it achieves nothing here.
            # The connection bounds the bytes of all subscriptions together.
            subscription = await self._connection.client.subscribe(
                subject, cb=on_message, pending_bytes_limit=0
            )
        self._subscriptions[pattern] = subscription

    async def _subscribe_with_middlewares(
        self, subject: str, on_message: Callable[[Any], Coroutine[Any, Any, None]]
    ) -> Any:
        """Subscribe by a subscriber of FastStream, around which the broker's middlewares run."""

        async def handler(message: Any) -> None:
            await on_message(message.raw_message)

        broker: Any = self._broker
        subscriber = broker.subscriber(subject, **SUBSCRIBER_OPTIONS)
        adopt_subscriber(broker, subscriber, handler)
        await subscriber.start()
        subscription, subscriber.subscription = subscriber.subscription, None
        return subscription

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Unsubscribe from names and patterns."""
        for name in names:
            self._overlap.remove(name)
            subscription = self._subscriptions.pop(name, None)
            if subscription is not None:
                try:
                    await subscription.unsubscribe()
                except (errors.Error, OSError) as error:
                    raise to_driver_error(error) from error

    async def stop_receiving(self) -> None:
        """Unsubscribe from everything, and deliver the messages that have arrived."""
        for subscription in self._subscriptions.values():
            try:
                await self._connection.run_while_connected(subscription.drain())
            except (errors.Error, OSError) as error:
                raise to_driver_error(error) from error
        self._subscriptions.clear()

    # -- publishing

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish events; one PONG confirms all that were sent before its PING."""
        deadline = self._connection.deadline()
        if self._publish_lock.locked():
            try:
                async with asyncio.timeout_at(deadline):
                    await self._publish_lock.acquire()
            except TimeoutError:
                await self._fail_unsent(burst, deadline)
                return
        else:
            await self._publish_lock.acquire()
        try:
            await self._send(burst, deadline)
        finally:
            self._publish_lock.release()
        if self._unconfirmed:
            if self._expiry is None:
                self._plan_expiry()
            if not self._is_confirming:
                self._is_confirming = True
                try:
                    while self._unconfirmed:
                        await self._confirm()
                finally:
                    self._is_confirming = False

    async def _send(self, burst: Sequence[Outgoing], deadline: float) -> None:
        """Send events, and answer those that cannot be sent."""
        prefix, connection = self._prefix, self._connection
        # FastStream's publish costs five times as much as the client's, which does the same as long
        # as there are no middlewares.
        has_middlewares = bool(self._broker.middlewares)
        for index, outgoing in enumerate(burst):
            try:
                if not connection.is_up:
                    await connection.wait_until_up(deadline)
                error = connection.size_error(outgoing.name, outgoing.body, outgoing.headers)
                if error is not None:
                    outgoing.done(error)
                    continue
                if has_middlewares:
                    publishing = self._publish_with_middlewares(outgoing)
                else:
                    publishing = connection.client.publish(
                        prefix + outgoing.name,
                        outgoing.body,
                        headers={**outgoing.headers} if outgoing.headers else None,
                    )
                if not connection.would_wait(len(outgoing.body)):
                    await publishing
                elif not await connection.send_in_time(publishing, deadline):
                    await self._fail_unsent(burst[index:], deadline)
                    return
            except DriverError as failure:
                outgoing.done(failure)
            except Exception as failure:  # noqa: BLE001 - the client's, or a middleware's own
                outgoing.done(to_driver_error(failure))
            else:
                self._unconfirmed.append(SentEvent(outgoing, connection.losses, deadline))

    async def _fail_unsent(self, burst: Sequence[Outgoing], deadline: float) -> None:
        """Answer events that could not be sent in time."""
        error: DriverConnectionError = no_answer("NATS", self._publish_timeout)
        try:
            await self._connection.wait_until_up(deadline)
        except DriverConnectionError as no_connection:
            error = no_connection
        for outgoing in burst:
            outgoing.done(error)

    async def _publish_with_middlewares(self, outgoing: Outgoing) -> None:
        await self._broker.publish(
            outgoing.body,
            self._prefix + outgoing.name,
            headers={**outgoing.headers},
            correlation_id=outgoing.id,
        )

    async def _confirm(self) -> None:
        """Wait until the server has taken the events that were sent before."""
        sent, self._unconfirmed = self._unconfirmed, []
        self._confirming = sent
        result: DriverError | None = None
        try:
            await self._connection.flush()
        except DriverConnectionError as error:
            result = may_have_arrived(error)
        except DriverError as error:
            result = error
        except (errors.Error, OSError) as error:
            result = to_driver_error(error)
        self._confirming = []
        losses = self._connection.losses
        for event in sent:
            if event.outgoing.is_done:
                continue
            if event.refusal is not None:
                event.outgoing.done(event.refusal)
            elif result is None and event.losses != losses:
                # The PONG says nothing about an event that was sent on an earlier connection.
                event.outgoing.done(may_have_arrived(connection_lost("NATS")))
            else:
                event.outgoing.done(result)

    def _plan_expiry(self) -> None:
        """Plan the call of `_expire` for the event that has waited for the longest.

        One timer serves all events, since a timer for each one would cost too much.
        """
        self._expiry = None
        for event in (*self._confirming, *self._unconfirmed):
            if not event.outgoing.is_done:
                loop = asyncio.get_running_loop()
                self._expiry = loop.call_at(event.deadline, self._expire)
                return

    def _expire(self) -> None:
        """Answer the events that have waited for their time, while the server is silent."""
        now = asyncio.get_running_loop().time()
        for event in (*self._confirming, *self._unconfirmed):
            if event.deadline <= now and not event.outgoing.is_done:
                no_pong = may_have_arrived(no_answer("NATS", self._publish_timeout))
                event.outgoing.done(event.refusal or no_pong)
        self._plan_expiry()

    def _on_event_refused(self, subject: str, error: DriverError) -> bool:
        """Give a refusal to the first event of its subject; the server refuses them in order."""
        for event in (*self._confirming, *self._unconfirmed):
            is_waiting = event.refusal is None and not event.outgoing.is_done
            if is_waiting and self._prefix + event.outgoing.name == subject:
                event.refusal = error
                return True
        return False

    # -- the rest of the contract

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Do nothing: core NATS has no acknowledgements."""

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return nothing: core NATS stores nothing."""
        return ()
