"""Deadlocks: responders that wait for each other, on one bus or on several.

A request that a responder makes carries the chain of the requests around it, so a responder that
works on one of these is found at once. This module finds the other case: two responders that each
work on a request of somebody else, and each ask the other one.

Theory of operation. It is the edge-chasing algorithm of Chandy, Misra and Haas. A request that
waits in a mailbox waits for the request on which that responder works. If that one in turn waits
for the answers to requests of its own, a probe follows them, to the mailboxes in which they wait.
If a probe arrives at a responder that works on a request of the chain with which it began, they
wait for each other, and the request that began it fails. The request that closes a circle is the
last one that begins to wait, and each of them sends a probe, so each circle is found.

Only responders that work on one request at a time are followed: another one goes on with a request
as soon as any of its lanes is free. Such circles end by their deadlines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .messages import Probe, Refused
from .request_run import RequestRun, run_of

if TYPE_CHECKING:
    from .link import ConversationLink
    from .responders import Responders

MAX_PROBE_HOPS = 32
"""The requests that a probe follows; it may come from a stranger."""


class DeadlockSearch:
    """The search for deadlocks of one bus.

    Args:
        responders: The responders of the bus.
        find_run: Returns a request at a responder of the bus by its id.
        fail: Ends a request of the bus, by its id and with a text.

    Attributes:
        link: The way to the other buses; None while there is none.
    """

    def __init__(
        self,
        responders: Responders,
        find_run: Callable[[str], RequestRun | None],
        fail: Callable[[str, str], None],
    ) -> None:
        self._responders = responders
        self._find_run = find_run
        self._fail = fail
        self.link: ConversationLink | None = None

    def begin(self, run: RequestRun) -> None:
        """Look whether a request that now waits in a mailbox waits for itself."""
        if run.chain and not run.is_refused:
            own = "" if self.link is None else self.link.channel.address
            self.follow(Probe(run.id, run.address or own, [*run.chain], run.id))

    def follow(self, probe: Probe) -> None:
        """Follow a probe that has arrived at a request of this bus."""
        run = self._find_run(probe.waits_for)
        actor = None if run is None else self._responders.actor(run.event_name)
        if actor is None or len(actor.lanes) != 1 or probe.hops >= MAX_PROBE_HOPS:
            return
        holder = run_of(actor.lanes[0].current)
        if holder is None:
            return
        if holder is not run and holder.id in probe.chain:
            self._found(probe, f"{actor.name} works on a request that waits for this one")
            return
        for asked in [*holder.asks]:
            if asked.is_over:
                continue
            following = Probe(probe.id, probe.reply_to, probe.chain, asked.id, probe.hops + 1)
            if asked.run is not None:
                self.follow(following)
            elif asked.address and self.link is not None:
                self.link.channel.send(asked.address, following)

    def _found(self, probe: Probe, text: str) -> None:
        link = self.link
        if link is None or probe.reply_to == link.channel.address:
            self._fail(probe.id, text)
        else:
            link.channel.send(probe.reply_to, Refused(probe.id, "deadlock", text))
