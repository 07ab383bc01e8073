"""Feeds: one durable consumer of JetStream each, pulled from by this bus.

Pull requests are made here and not by nats-py's `fetch`, which would lose what comes while it is
cancelled: messages of a pull arrive on an inbox, and an inbox can be drained.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from faststream.middlewares import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from nats import errors
from nats.js import api, errors as js_errors

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Backlog

from .._adapter.contract import Arrival
from .._adapter.subscribers import adopt_subscriber, undecoded
from .._config import BrokerConfig
from .connection import NatsLink, to_driver_error
from .dead_letters import FOR
from .released import Returns
from .subjects import consumer_name

BATCH = 250  # messages in one pull
EXPIRES = 10.0  # seconds after which the server ends a pull that got less
PAUSE = 0.5  # seconds until a pull that was refused is tried again
ACKS = "$JS.ACK."
NANOSECONDS = 1_000_000_000


class Feed:
    """One consumer.

    Attributes:
        name: the event's name.
        durable: the consumer's.
        vias: the names and patterns that it was subscribed to by.
        held: what the bus has of it, by the sequence in the stream.
        task: what pulls.
    """

    task: asyncio.Task[None]

    def __init__(
        self,
        broker: NatsBroker,
        link: NatsLink,
        config: BrokerConfig,
        stream: str,
        prefix: str,
        name: str,
        returns: Returns,
    ) -> None:
        self.name = name
        self.vias: dict[str, None] = {}
        self.held: dict[int, Arrival] = {}
        self._broker = broker
        self._link = link
        self._config = config
        self._stream = stream
        self._prefix = prefix
        self.durable = consumer_name(config.group or "", name)
        self._returns = returns
        self._inbox = ""
        self._inbox_subscription: Any = None
        self._subscriber: Any = None
        self._share: Callable[[], int] = int
        self._left = 0
        self._over = asyncio.Event()
        self._gone = False
        self._high = 0
        self._sign_due = 0.0
        self._lag: int | None = None
        self._pending = 0

    @property
    def _js(self) -> Any:
        return self._link.client.jetstream()

    # -- the consumer

    async def start(self, share: Callable[[], int], *, new: bool) -> None:
        """Have the consumer exist, and pull from it.

        Args:
            share: tells how many events may be asked for.
            new: the name came up while the group was listening, so that it misses none.
        """
        await self._ensure_consumer("earliest" if new else self._config.start)
        self._share = share
        client = self._link.client
        self._inbox = client.new_inbox()
        self._inbox_subscription = await client.subscribe(self._inbox, cb=self._came)
        if self._broker.middlewares:
            await self._make_subscriber()
        self.task = asyncio.get_running_loop().create_task(self._pull())

    async def _make_subscriber(self) -> None:
        """Have what comes pass the middlewares of the broker."""
        self._subscriber = subscriber = self._broker.subscriber(
            self._prefix + self.name,
            stream=JStream(self._stream, declare=False),
            pull_sub=PullSub(),
            durable=self.durable,
            decoder=undecoded,
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,
            persistent=False,
        )

        async def handed(message: Any) -> None:
            await self._handed(message.raw_message)

        adopt_subscriber(self._broker, subscriber, handed)
        # One that has a subscription makes none of its own, and handles what it is given.
        subscriber.subscription = self._inbox_subscription
        await subscriber.start()

    async def _ensure_consumer(self, start: str | datetime) -> None:
        js = self._js
        try:
            await js.consumer_info(self._stream, self.durable)
            return
        except js_errors.NotFoundError:
            pass
        config = api.ConsumerConfig(
            durable_name=self.durable,
            filter_subject=self._prefix + self.name,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=self._config.claim_idle,
            max_deliver=-1,  # deliveries are counted here: the server would drop without a word
            max_ack_pending=max(1000, 20 * self._config.prefetch),
        )
        if isinstance(start, datetime):
            config.deliver_policy = api.DeliverPolicy.BY_START_TIME
            config.opt_start_time = start.astimezone(UTC)
        elif start == "latest":
            config.deliver_policy = api.DeliverPolicy.NEW
        elif start != "earliest":
            config.deliver_policy = api.DeliverPolicy.BY_START_SEQUENCE
            config.opt_start_seq = int(start) + 1
        await js.add_consumer(self._stream, config)

    async def stop(self) -> None:
        """Pull no more, and hand over what the server has sent; the consumer stays."""
        self.task.cancel()
        subscription, self._inbox_subscription = self._inbox_subscription, None
        if subscription is not None:
            if self._subscriber is not None:
                self._subscriber.subscription = None
            # If the connection is lost, nothing more comes, and what had come comes again.
            with suppress(DriverConnectionError):
                await self._link.unbroken(subscription.drain())

    # -- pulling

    async def _pull(self) -> None:
        """Ask for as much as there is room for, again and again."""
        host = self._link.host
        while True:
            await self._link.ready(patience=float("inf"))
            await host.wait_for_capacity()
            try:
                await self._pull_once(min(BATCH, self._share()))
                if self._gone:
                    await self._make_again()
            except (errors.Error, OSError, DriverError) as error:
                if not isinstance(error, DriverConnectionError):
                    host.report(to_driver_error(error), self.name)
                await asyncio.sleep(PAUSE)

    async def _pull_once(self, count: int) -> None:
        self._left, self._over = count, asyncio.Event()
        wish = {"batch": count, "expires": int(EXPIRES * NANOSECONDS)}
        await self._link.client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self.durable}",
            json.dumps(wish).encode(),
            reply=self._inbox,
        )
        try:
            async with asyncio.timeout(EXPIRES + 1):
                await self._over.wait()
        except TimeoutError:
            pass  # the pull was lost with what led the consumer; the next one finds its successor

    async def _make_again(self) -> None:
        """Make the consumer anew, behind what the group is known to have had."""
        self._gone = False
        start = str(self._high) if self._high else self._config.start
        try:
            await self._js.consumer_info(self._stream, self.durable)
        except js_errors.NotFoundError:
            await self._ensure_consumer(start)
            self._link.host.report(
                DriverError(
                    f"the consumer {self.durable!r} of {self.name!r} had vanished, and begins "
                    f"anew behind {start}"
                ),
                self.name,
            )

    def nudge(self) -> None:
        """End the pull that is under way: its connection is lost."""
        self._over.set()

    async def _came(self, message: Any) -> None:
        """Take what has come to the inbox: a message, or the end of the pull."""
        if message.reply.startswith(ACKS):
            self._left -= 1
            if self._left <= 0:
                self._over.set()
            if self._subscriber is None:
                # FastStream's consume is many times the work of the rest, and does nothing here.
                await self._handed(message)
            else:
                await self._subscriber.consume(message)
            return
        headers: dict[str, str] = message.headers or {}
        if headers.get("Status") == "503" or "Deleted" in headers.get("Description", ""):
            self._gone = True
            await asyncio.sleep(PAUSE)  # whoever is asked too early has nothing better to say
        self._over.set()

    async def _handed(self, raw: Any) -> None:
        """Take what has passed the middlewares of the broker, if it has some."""
        headers: dict[str, str] = raw.headers or {}
        if FOR in headers and headers[FOR] != self._config.group:
            await raw.ack()
            return
        meta = raw.metadata
        sequence, deliveries, returned = meta.sequence.stream, meta.num_delivered, 0
        if deliveries > 1:
            returned = await self._returns.count(self.durable, sequence)
        arrival = Arrival(
            self.name,
            next(iter(self.vias), self.name),
            raw.data,
            headers,
            max(1, deliveries - returned),
            str(sequence),
            (self, sequence, raw, returned),
        )
        self.held[sequence] = arrival
        self._high = max(self._high, sequence)
        await self._link.host.deliver(arrival)

    def settled(self, sequence: int) -> None:
        """Take note that the bus does not hold it any more."""
        self.held.pop(sequence, None)

    # -- looking after it

    async def look_after(self) -> None:
        """Tell the server that what is held is worked on, and see what there is to do."""
        now = asyncio.get_running_loop().time()
        if now >= self._sign_due:
            self._sign_due = now + self._config.claim_idle / 3
            for arrival in [*self.held.values()]:
                await arrival.raw[2].in_progress()
        info = await self._js.consumer_info(self._stream, self.durable)
        self._lag, self._pending = info.num_pending, info.num_ack_pending

    def backlog(self) -> Backlog:
        """Return what the group has to do, as last seen."""
        held = [*self.held.values()]
        since = min((each.raw[2].metadata.timestamp for each in held), default=None)
        oldest = 0.0 if since is None else (datetime.now(UTC) - since).total_seconds()
        return Backlog(
            event_name=self.name,
            lag=self._lag,
            pending=max(self._pending, len(held)),
            oldest_pending=max(0.0, oldest),
        )
