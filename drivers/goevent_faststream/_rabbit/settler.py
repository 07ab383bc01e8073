"""The settler of RabbitMQ: it knows what the bus holds, and tells the server what became of it.

RabbitMQ has no delayed return. What has failed stays unacknowledged for its pause, in this bus, and
is then returned; so it counts for the window of this bus, as it should when everything fails, and
if the bus dies meanwhile, the server returns it. A quorum queue counts each return.

What nobody has begun with must not count, so it goes back as a copy that says how often it was
delivered, and the copy is confirmed before the original is acknowledged. A queue that does not
count gets a copy of what has failed, too.

When the connection is lost, the server returns what was unacknowledged at once, also to this bus,
which may be at work on it, or may have sent an acknowledgement that was lost. It knows these again
by their message ids, and does not run them twice.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from typing import Any

from goevent import DriverError
from goevent.drivers import ACK, Action, Verdict, in_one_line

from .._adapter.contract import Arrival, Decision
from .._adapter.dead_letters import report_dead_letter
from .._config import BrokerConfig
from .connection import CLIENT, RabbitLink, to_driver_error
from .names import Names
from .publisher import PERSISTENT, Letter, send
from .receiver import COUNTED, DELIVERIES, NAME, Raw

REMEMBERED = 10_000  # acknowledged messages, of which the acknowledgement may be lost
MANY = 100  # copies at a time, so that the first are confirmed while the last are written


class Settler:
    """Settles what has come on the link's channel for deliveries.

    Attributes:
        held: what the bus has of this channel, by delivery tag, and so in the order of arrival.
    """

    def __init__(
        self, link: RabbitLink, names: Names, config: BrokerConfig, *, counted: bool
    ) -> None:
        self.held: OrderedDict[int, Arrival] = OrderedDict()
        self._link = link
        self._names = names
        self._config = config
        self._counted = counted
        self._pausing: dict[int, tuple[asyncio.TimerHandle, Arrival]] = {}
        self._hurry = False
        self._orphans: dict[tuple[str, str], Arrival] = {}
        self._done: OrderedDict[tuple[str, str], None] = OrderedDict()

    def begin(self) -> None:
        """Forget all: another bus begins."""
        self.held.clear()
        self._pausing.clear()
        self._orphans.clear()
        self._done.clear()
        self._hurry = False

    def lose(self, waiting: Collection[Arrival]) -> None:
        """Take note that the server has returned all that was held.

        Args:
            waiting: what was held and will never be handed over.
        """
        for timer, _ in self._pausing.values():
            timer.cancel()
        gone = {id(arrival) for arrival in waiting}
        gone.update(id(arrival) for _, arrival in self._pausing.values())
        self._orphans.update(
            (_key(arrival), arrival) for arrival in self.held.values() if id(arrival) not in gone
        )
        self._pausing.clear()
        self.held.clear()

    def came(self, arrival: Arrival) -> bool:
        """Take note of a message, in the order in which they come; tell whether it is to be run."""
        raw: Raw = arrival.raw
        if raw.channel is not self._link.consuming:
            return False
        self.held[raw.tag] = arrival
        if not raw.redelivered or not arrival.id:
            return True
        key = _key(arrival)
        orphan = self._orphans.pop(key, None)
        if orphan is not None:
            orphan.raw = raw  # its decision settles this delivery
            self.held[raw.tag] = orphan
            return False
        if key in self._done:
            self._link.do(self.settle_quietly(Decision(arrival, ACK)))
            return False
        return True

    async def settle_quietly(self, decision: Decision) -> None:
        """Carry one decision out; if the connection is lost meanwhile, the message comes again."""
        with suppress(DriverError):
            await self.settle([decision])

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Carry decisions out; what cannot be told now comes again."""
        done: list[int] = []
        back: list[Arrival] = []
        begun: list[Arrival] = []
        for decision in decisions:
            if decision.verdict.action is Action.ACK:
                self._remember(decision.arrival)
            if not self._is_ours(decision.arrival):
                self._orphans.pop(_key(decision.arrival), None)
                self._disown(decision.arrival)
                continue
            raw: Raw = decision.arrival.raw
            if decision.verdict.action is Action.ACK:
                done.append(raw.tag)
            elif decision.verdict.action is Action.RELEASE:
                (begun if decision.verdict.started else back).append(decision.arrival)
            elif decision.verdict.action is Action.RETRY:
                self._again_after(decision)
        try:
            await self._acknowledge(done)
            for at in range(0, len(back), MANY):
                await self._copy(back[at : at + MANY], before=-1)
            for arrival in begun:
                await self._again(arrival)
            for decision in decisions:
                if decision.verdict.action is Action.DEAD_LETTER and self._is_ours(
                    decision.arrival
                ):
                    await self._bury(decision)
        except CLIENT as error:
            raise to_driver_error(error) from error

    def _is_ours(self, arrival: Arrival) -> bool:
        raw: Raw = arrival.raw
        mine = self.held.get(raw.tag) is arrival
        channel = self._link.consuming
        return mine and self._link.is_up and raw.channel is channel and not channel.is_closed

    def _remember(self, arrival: Arrival) -> None:
        self._done[_key(arrival)] = None
        if len(self._done) > REMEMBERED:
            self._done.popitem(last=False)

    def _disown(self, arrival: Arrival) -> None:
        if self.held.get(arrival.raw.tag) is arrival:
            del self.held[arrival.raw.tag]

    async def _acknowledge(self, tags: Sequence[int]) -> None:
        """Acknowledge, by one frame for all that have come before anything that is still held."""
        if not tags:
            return
        channel = self._link.consuming
        for tag in tags:
            self.held.pop(tag, None)
        first_held = next(iter(self.held), None)
        before = [tag for tag in tags if first_held is None or tag < first_held]
        if before:
            await channel.basic_ack(max(before), multiple=True, wait=False)
        for tag in tags:
            if first_held is not None and tag > first_held:
                await channel.basic_ack(tag, wait=False)

    # -- back to the queue

    def _again_after(self, decision: Decision) -> None:
        arrival = decision.arrival
        pause = 0.0 if self._hurry else decision.verdict.after
        begin: Callable[[], object] = partial(self._begin_again, arrival)
        timer = asyncio.get_running_loop().call_later(pause, begin)
        self._pausing[arrival.raw.tag] = timer, arrival

    def _begin_again(self, arrival: Arrival) -> None:
        if self._pausing.pop(arrival.raw.tag, None) is not None:
            self._link.do(self._again(arrival))

    async def _again(self, arrival: Arrival) -> None:
        if self._is_ours(arrival):
            with suppress(*CLIENT, DriverError):  # the connection is lost, and it comes again
                if self._counted:
                    await self._return(arrival)
                else:
                    await self._copy([arrival], before=0)

    async def hurry(self) -> None:
        """Return what has failed at once, from now on: this bus ends, and another may try."""
        self._hurry = True
        pausing = [arrival for _, arrival in self._pausing.values()]
        for timer, _ in self._pausing.values():
            timer.cancel()
        self._pausing.clear()
        for arrival in pausing:
            await self._again(arrival)

    async def _return(self, arrival: Arrival) -> None:
        self.held.pop(arrival.raw.tag, None)
        await arrival.raw.channel.basic_nack(arrival.raw.tag, requeue=True, wait=False)

    async def _copy(self, arrivals: Sequence[Arrival], *, before: int) -> None:
        """Put copies into the queues that they came from, and then acknowledge.

        Args:
            before: what to add to the number of deliveries that the copies tell.
        """
        taken: list[int] = []
        letters: list[Letter] = []
        for arrival in arrivals:
            raw: Raw = arrival.raw
            headers = {DELIVERIES: arrival.deliveries + before, NAME: arrival.name}

            def answer(error: DriverError | None, tag: int = raw.tag) -> None:
                if error is None:
                    taken.append(tag)

            properties = _with(raw.properties, headers)
            letters.append(Letter("", raw.queue, arrival.body, properties, answer))
        await send(self._link, letters)
        await self._acknowledge(sorted(taken))
        for arrival in arrivals:
            if self._is_ours(arrival):
                await self._return(arrival)  # the server has not taken the copy

    # -- among the dead letters

    async def _bury(self, decision: Decision) -> None:
        """Write a dead letter and then, not before, acknowledge."""
        arrival, answers = decision.arrival, list[DriverError | None]()
        raw: Raw = arrival.raw
        headers = {
            NAME: arrival.name,
            DELIVERIES: arrival.deliveries,
            "goevent-reason": in_one_line(decision.verdict.reason),
            "goevent-details": decision.verdict.details,
            "goevent-id": arrival.id,
            "goevent-group": self._config.group or "",
        }
        letter = Letter(
            self._names.dead_exchange,
            self._names.dead,
            arrival.body,
            _with(raw.properties, headers),
            answers.append,
        )
        try:
            await send(self._link, [letter])
        except DriverError as error:
            answers.append(error)
        if answers[0] is not None:
            self._link.host.report(answers[0], arrival.name)
            self._again_after(Decision(arrival, Verdict(Action.RETRY, after=1.0)))
            return
        if self._is_ours(arrival):
            await self._acknowledge([raw.tag])
        report_dead_letter(self._link.host, decision)


def _key(arrival: Arrival) -> tuple[str, str]:
    return arrival.raw.queue, arrival.id


def _with(properties: Any, headers: dict[str, Any]) -> Any:
    """Return properties of AMQP with more headers, for a copy that is kept."""
    changed = copy(properties)
    kept: dict[str, Any] = {**(properties.headers or {})}
    kept.pop(COUNTED, None)
    changed.headers = {**kept, **headers}
    changed.delivery_mode = PERSISTENT
    return changed
