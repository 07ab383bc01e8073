"""What becomes of messages of JetStream: acknowledged, given back, or among the dead letters."""

from __future__ import annotations

from collections.abc import Sequence

from nats import errors

from goevent import DriverError

from .._adapter.contract import Arrival, Fate, Verdict
from .connection import NatsLink, refusal
from .dead_letters import JetStreamCemetery
from .released import Returns


async def settle(
    verdicts: Sequence[Verdict], dead: JetStreamCemetery, returns: Returns, link: NatsLink
) -> None:
    """Carry verdicts out; what cannot be told now comes again."""
    await _note_returns(verdicts, returns, link)
    for verdict in verdicts:
        arrival = verdict.arrival
        feed, sequence, message, _ = arrival.raw
        try:
            if verdict.fate is Fate.DONE:
                await message.ack()
            elif verdict.fate is Fate.AGAIN:
                await message.nak(delay=verdict.pause)
            elif verdict.fate is Fate.BACK:
                await message.nak()
            else:
                await _bury(verdict, dead, link)
        except (errors.Error, OSError) as error:
            link.shore.report(refusal(error), arrival.name)
        finally:
            feed.settled(sequence)


async def _note_returns(verdicts: Sequence[Verdict], returns: Returns, link: NatsLink) -> None:
    """Note what nobody has begun with; before it is handed back, or the next bus finds no note."""
    noted: list[tuple[str, int, int]] = []
    for verdict in verdicts:
        if verdict.fate is Fate.BACK and not verdict.begun:
            feed, sequence, _, returned = verdict.arrival.raw
            noted.append((feed.durable, sequence, returned + 1))
    if noted:
        try:
            await returns.note(noted)
        except (errors.Error, OSError, DriverError) as error:
            returns.lost()
            link.shore.report(refusal(error))


async def _bury(verdict: Verdict, dead: JetStreamCemetery, link: NatsLink) -> None:
    """Write a dead letter and then, not before, end the event's deliveries."""
    arrival: Arrival = verdict.arrival
    try:
        await link.unbroken(dead.write(verdict))
    except (errors.Error, OSError, DriverError) as error:
        dead.lost()
        link.shore.report(refusal(error), arrival.name)
        await arrival.raw[2].nak(delay=1.0)
        return
    await arrival.raw[2].term()
    if not verdict.reported:
        link.shore.report(
            DriverError(
                f"the event {arrival.id} of {arrival.name!r} is a dead letter after "
                f"{arrival.deliveries} deliveries: {verdict.reason}"
            ),
            arrival.name,
        )
