"""The settler of JetStream: it carries out the decisions about events.

An acknowledgement in JetStream is a publish without a reply, so it may be lost with the connection;
the event then comes again. Two orders matter. The number of releases is stored before an event is
returned, or the next bus would count the delivery. A dead letter is stored before the deliveries of
its event end, or a crash between the two would lose the event.
"""

from __future__ import annotations

from collections.abc import Sequence

from nats import errors

from goevent import DriverError
from goevent.drivers import Action

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
            arrival, verdict = decision.arrival, decision.verdict
            delivery: JetStreamDelivery = arrival.raw
            try:
                if verdict.action is Action.ACK:
                    await delivery.message.ack()
                elif verdict.action is Action.RETRY:
                    await delivery.message.nak(delay=verdict.after)
                elif verdict.action is Action.RELEASE:
                    await delivery.message.nak()
                else:
                    await self._dead_letter(decision)
            except (errors.Error, OSError) as error:
                self._connection.host.report(to_driver_error(error), arrival.name)
            finally:
                # Even if the server has no decision: it redelivers an event without signs of life.
                delivery.consumer.forget(delivery.sequence)

    async def _store_releases(self, decisions: Sequence[Decision]) -> None:
        releases: list[tuple[str, int, int]] = []
        for decision in decisions:
            verdict = decision.verdict
            if verdict.action is Action.RELEASE and not verdict.started:
                delivery: JetStreamDelivery = decision.arrival.raw
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
            await delivery.message.nak(delay=DEAD_LETTER_RETRY_SECONDS)
            return
        await delivery.message.term()
        report_dead_letter(self._connection.host, decision)
