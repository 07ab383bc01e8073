"""The settler of JetStream: it carries out the decisions about events.

An acknowledgement in JetStream is a publish without a reply, so it may be lost with the connection;
the event then comes again. Two orders matter. The number of releases is stored before an event is
returned, or the next bus would count the delivery. A dead letter is stored before the deliveries of
its event end, or a crash between the two would lose the event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nats import errors

from goevent import DriverError
from goevent.drivers import Action, Verdict

from .._adapter.contract import Decision
from .._adapter.dead_letters import DEAD_LETTER_RETRY_SECONDS, report_dead_letter
from .connection import NatsConnection, to_driver_error
from .dead_letters import JetStreamDeadLetters
from .pull_consumer import JetStreamDelivery
from .released import ReleasedDeliveries


class JetStreamSettler:
    """Carries out the decisions about events of one group."""

    def __init__(
        self,
        connection: NatsConnection,
        dead_letters: JetStreamDeadLetters,
        released: ReleasedDeliveries,
    ) -> None:
        self._connection = connection
        self._dead_letters = dead_letters
        self._released = released

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Carry out decisions; an event comes again if its decision cannot be sent."""
        await self._store_releases(decisions)
        for decision in decisions:
            decision = _of_lost_stream(decision)
            arrival, verdict = decision.arrival, decision.verdict
            delivery: JetStreamDelivery = arrival.raw
            try:
                if verdict.action is Action.DEAD_LETTER:
                    await self._dead_letter(decision)
                elif not delivery.is_current:
                    # Its number may stand for another event by now.
                    pass
                elif verdict.action is Action.ACK:
                    await delivery.message.ack()
                elif verdict.action is Action.RETRY:
                    await delivery.message.nak(delay=verdict.after)
                else:
                    await delivery.message.nak()
            except (errors.Error, OSError) as error:
                self._connection.host.report(to_driver_error(error), arrival.name)
            finally:
                # Even if the server has no decision: it redelivers an event without signs of life.
                delivery.consumer.forget(arrival)

    async def _store_releases(self, decisions: Sequence[Decision]) -> None:
        releases: list[tuple[str, int, int]] = []
        for decision in decisions:
            verdict = decision.verdict
            delivery: JetStreamDelivery = decision.arrival.raw
            is_unbegun = verdict.action is Action.RELEASE and not verdict.started
            if is_unbegun and delivery.is_current:
                releases.append(
                    (delivery.consumer.durable, delivery.sequence, delivery.released + 1)
                )
        if releases:
            try:
                await self._released.store(releases)
            except (errors.Error, OSError, DriverError) as error:
                # The events are returned nevertheless, and count once too often.
                self._released.forget_stream()
                self._connection.host.report(to_driver_error(error))

    async def _dead_letter(self, decision: Decision) -> None:
        """Write a dead letter, and then end the deliveries of its event."""
        arrival = decision.arrival
        delivery: JetStreamDelivery = arrival.raw
        try:
            await self._connection.run_while_connected(self._dead_letters.write(decision))
        except (errors.Error, OSError, DriverError) as error:
            self._dead_letters.forget_stream()
            self._connection.host.report(to_driver_error(error), arrival.name)
            if delivery.is_current:
                await delivery.message.nak(delay=DEAD_LETTER_RETRY_SECONDS)
            return
        if delivery.is_current:
            await delivery.message.term()
        report_dead_letter(self._connection.host, decision)


def _of_lost_stream(decision: Decision) -> Decision:
    """Return a decision, with a dead letter in place of a redelivery from a deleted stream."""
    delivery: JetStreamDelivery = decision.arrival.raw
    if delivery.is_current or decision.verdict.action in (Action.ACK, Action.DEAD_LETTER):
        return decision
    reason = "its stream was deleted while a bus held the event"
    return replace(decision, verdict=Verdict(Action.DEAD_LETTER, reason=reason))
