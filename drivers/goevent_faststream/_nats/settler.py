"""What becomes of messages of JetStream: acknowledged, given back, or among the dead letters."""

from __future__ import annotations

from collections.abc import Sequence

from nats import errors

from goevent import DriverError
from goevent.drivers import Action

from .._adapter.contract import Arrival, Decision
from .._adapter.dead_letters import report_dead_letter
from .connection import NatsLink, to_driver_error
from .dead_letters import JetStreamDeadLetters
from .released import Returns


async def settle(
    decisions: Sequence[Decision], dead: JetStreamDeadLetters, returns: Returns, link: NatsLink
) -> None:
    """Carry decisions out; what cannot be told now comes again."""
    await _note_returns(decisions, returns, link)
    for decision in decisions:
        arrival = decision.arrival
        feed, sequence, message, _ = arrival.raw
        try:
            if decision.verdict.action is Action.ACK:
                await message.ack()
            elif decision.verdict.action is Action.RETRY:
                await message.nak(delay=decision.verdict.after)
            elif decision.verdict.action is Action.RELEASE:
                await message.nak()
            else:
                await _bury(decision, dead, link)
        except (errors.Error, OSError) as error:
            link.host.report(to_driver_error(error), arrival.name)
        finally:
            feed.settled(sequence)


async def _note_returns(decisions: Sequence[Decision], returns: Returns, link: NatsLink) -> None:
    """Note what nobody has begun with; before it is handed back, or the next bus finds no note."""
    noted: list[tuple[str, int, int]] = []
    for decision in decisions:
        if decision.verdict.action is Action.RELEASE and not decision.verdict.started:
            feed, sequence, _, returned = decision.arrival.raw
            noted.append((feed.durable, sequence, returned + 1))
    if noted:
        try:
            await returns.note(noted)
        except (errors.Error, OSError, DriverError) as error:
            returns.lost()
            link.host.report(to_driver_error(error))


async def _bury(decision: Decision, dead: JetStreamDeadLetters, link: NatsLink) -> None:
    """Write a dead letter and then, not before, end the event's deliveries."""
    arrival: Arrival = decision.arrival
    try:
        await link.unbroken(dead.write(decision))
    except (errors.Error, OSError, DriverError) as error:
        dead.lost()
        link.host.report(to_driver_error(error), arrival.name)
        await arrival.raw[2].nak(delay=1.0)
        return
    await arrival.raw[2].term()
    report_dead_letter(link.host, decision)
