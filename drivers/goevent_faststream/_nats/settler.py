"""The settler of JetStream: it carries out the decisions about events.

An acknowledgement in JetStream is a publish without a reply, so it may be lost with the connection;
the event then comes again. Two orders matter. The number of releases is stored before an event is
returned, or the next bus would count the delivery. A dead letter is stored before the deliveries of
its event end, or a crash between the two would lose the event.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from nats import errors

from goevent import DriverError
from goevent.drivers import Action, Verdict

from .._adapter.contract import Decision
from .._adapter.dead_letters import DEAD_LETTER_RETRY_SECONDS, report_dead_letter
from .connection import NatsConnection, to_driver_error
from .dead_letters import JetStreamDeadLetters
from .pull_consumer import JetStreamDelivery
from .released import ReleasedDeliveries, released_key
from .stream import NatsStream

MAX_DEAD_LETTER_RETRY_SECONDS = 30.0  # while the server refuses a dead letter
MAX_UNWRITTEN_DEAD_LETTERS = 1000

EventKey = tuple[str, int, datetime | None]
"""A durable consumer, a sequence and the creation of its stream."""


class JetStreamSettler:
    """Carries out the decisions about events of one group."""

    def __init__(
        self,
        connection: NatsConnection,
        stream: NatsStream,
        dead_letters: JetStreamDeadLetters,
        released: ReleasedDeliveries,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._dead_letters = dead_letters
        self._released = released
        self._retry_seconds = DEAD_LETTER_RETRY_SECONDS
        self._failure = ""  # the last reported one; empty after a success
        # The deliveries and the verdict of events whose dead letter could not be written. They come
        # again, and a later verdict would only say that they came too often.
        self._unwritten: OrderedDict[EventKey, tuple[int, Verdict]] = OrderedDict()

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Carry out decisions; an event comes again if its decision cannot be sent."""
        await self._store_releases(decisions)
        for decision in decisions:
            arrival, verdict = decision.arrival, decision.verdict
            delivery: JetStreamDelivery = arrival.raw
            try:
                if delivery.stream_created is not self._stream.created:
                    await self._settle_of_lost_stream(decision)
                elif verdict.action is Action.ACK:
                    # First, because the event may come again while this waits.
                    self._stream.settlements.add(delivery.sequence, delivery.stored)
                    await delivery.message.ack()
                elif verdict.action is Action.DEAD_LETTER:
                    await self._dead_letter(decision)
                elif verdict.action is Action.RETRY:
                    self._count(decision, arrival.deliveries)
                    await delivery.message.nak(delay=verdict.after)
                else:
                    self._count(decision, arrival.deliveries - (not verdict.started))
                    await delivery.message.nak()
            except (errors.Error, OSError) as error:
                self._connection.host.report(to_driver_error(error), arrival.name)
            finally:
                # Even if the server has no decision: it redelivers an event without signs of life.
                delivery.consumer.forget(arrival)

    def _count(self, decision: Decision, deliveries: int) -> None:
        """Remember the deliveries of an event that is returned."""
        delivery: JetStreamDelivery = decision.arrival.raw
        if deliveries:
            self._stream.settlements.count(delivery.sequence, delivery.stored, deliveries)

    async def _settle_of_lost_stream(self, decision: Decision) -> None:
        """Settle an event whose number may stand for another event by now."""
        action = decision.verdict.action
        if action is not Action.ACK:
            if action is not Action.DEAD_LETTER:
                reason = "its stream was deleted while a bus held the event"
                verdict = Verdict(Action.DEAD_LETTER, reason=reason)
                decision = replace(decision, verdict=verdict)
            await self._dead_letter(decision)

    async def _store_releases(self, decisions: Sequence[Decision]) -> None:
        releases: list[tuple[str, str, int]] = []
        for decision in decisions:
            verdict = decision.verdict
            delivery: JetStreamDelivery = decision.arrival.raw
            is_unbegun = verdict.action is Action.RELEASE and not verdict.started
            if is_unbegun and self._is_current(delivery):
                releases.append(
                    (
                        delivery.consumer.durable,
                        released_key(delivery.message),
                        delivery.released + 1,
                    )
                )
        if releases:
            try:
                await self._released.store(releases)
            except (errors.Error, OSError, DriverError) as error:
                # The events are returned nevertheless, and count once too often.
                self._released.forget_stream()
                self._report_once(to_driver_error(error))

    def _report_once(self, error: DriverError, event_name: str = "") -> None:
        """Report an error that each event may have again, once until a dead letter is written."""
        if str(error) != self._failure:
            self._failure = str(error)
            self._connection.host.report(error, event_name)

    def _is_current(self, delivery: JetStreamDelivery) -> bool:
        """Tell whether the stream that held an event still exists."""
        return delivery.stream_created is self._stream.created

    async def _dead_letter(self, decision: Decision) -> None:
        """Write a dead letter, and then end the deliveries of its event."""
        arrival = decision.arrival
        delivery: JetStreamDelivery = arrival.raw
        key = delivery.consumer.durable, delivery.sequence, delivery.stream_created
        if (unwritten := self._unwritten.pop(key, None)) is not None:
            arrival.deliveries, verdict = unwritten
            decision = replace(decision, verdict=verdict)
        try:
            await self._connection.run_while_connected(self._dead_letters.write(decision))
        except (errors.Error, OSError, DriverError) as error:
            self._unwritten[key] = arrival.deliveries, decision.verdict
            if len(self._unwritten) > MAX_UNWRITTEN_DEAD_LETTERS:
                self._unwritten.popitem(last=False)
            self._dead_letters.forget_stream()
            self._report_once(self._dead_letters.write_error(error), arrival.name)
            if self._is_current(delivery):
                await delivery.message.nak(delay=self._retry_seconds)
            self._retry_seconds = min(MAX_DEAD_LETTER_RETRY_SECONDS, 2 * self._retry_seconds)
            return
        self._retry_seconds, self._failure = DEAD_LETTER_RETRY_SECONDS, ""
        if self._is_current(delivery):
            self._stream.settlements.add(delivery.sequence, delivery.stored)
            await delivery.message.term()
        report_dead_letter(self._connection.host, decision)
