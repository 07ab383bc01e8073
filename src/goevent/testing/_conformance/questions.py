"""Cases about the questions of operators: `lag` and `tail` of `goevent.drivers.Inspects`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from ... import UnsupportedError
from ...drivers import Backlog, TailedEvent, inspected
from .environment import CaseEnvironment
from .expect import NotApplicable, expect, expect_each
from .received import MARKER_NUMBER

if TYPE_CHECKING:
    from ... import Driver, GoEvent
    from .received import NumberedEvent

LAG_INTERVAL_SECONDS = 0.05
"""The pause between two questions for a backlog: no broker tells when it has changed."""

UNREAD_EVENTS = 100
MAX_ENDING_CHECKS = 100
"""How often the tasks of an ended tail are looked for before they count as left behind."""


class TailRecord:
    """The events that one tail has shown.

    Attributes:
        events: The events, without the markers.
        markers: How many markers were shown.
    """

    def __init__(self, env: CaseEnvironment) -> None:
        self._env = env
        self.events: list[TailedEvent] = []
        self.markers = 0

    async def read(self, channel: trio.abc.ReceiveChannel[TailedEvent]) -> None:
        """Record the events of a tail, until cancelled."""
        async for event in channel:
            if _number_of(event) == MARKER_NUMBER:
                self.markers += 1
            else:
                self.events.append(event)
            self._env.notify()

    @property
    def numbers(self) -> list[int]:
        """The numbers of the events."""
        return [_number_of(event) for event in self.events]

    async def flush(self, sender: GoEvent, event_type: type[NumberedEvent]) -> None:
        """Send a marker, and wait until the tail has shown it."""
        before = self.markers
        handle = await sender.dispatch(event_type(n=MARKER_NUMBER))
        await self._env.wait_until(
            lambda: self.markers > before,
            lambda: f"a tail to show the marker after {len(self.events)} events",
        )
        await handle.wait()


class AskedLag:
    """The backlog of one group and name, as last asked for.

    Attributes:
        waiting: How many events the group has not acknowledged.
        oldest_waiting: As `Backlog.oldest_waiting`.
    """

    def __init__(self, env: CaseEnvironment, driver: Driver, group: str, name: str) -> None:
        self._env = env
        self._driver = driver
        self._group = group
        self._name = name
        self.waiting = 0
        self.oldest_waiting: float | None = None

    async def ask(self) -> None:
        """Ask once.

        Raises:
            NotApplicable: The broker cannot tell how many events wait.
        """
        backlogs = await _backlogs(self._driver, self._group)
        found = [each for each in backlogs if each.event_name == self._name]
        expect(len(found) == 1, f"a group that reads one name has {len(found)} backlogs for it")
        (backlog,) = found
        if backlog.lag is None:
            raise NotApplicable("the broker does not tell how many events wait")
        self.waiting = backlog.lag + backlog.pending
        self.oldest_waiting = backlog.oldest_waiting
        self._env.notify()

    async def keep_asking(self) -> None:
        """Ask until cancelled."""
        while True:
            await self.ask()
            await trio.sleep(LAG_INTERVAL_SECONDS)

    async def wait_for(self, count: int) -> None:
        """Wait until so many events are not acknowledged."""
        await self._env.wait_until(
            lambda: self.waiting == count,
            lambda: f"{count} events to wait for the group, for which {self.waiting} wait",
        )


async def a_tail_shows_each_event_once(env: CaseEnvironment) -> None:
    event_type, other = env.event_type(), env.event_type("other")
    watching = env.driver()
    watcher, sender, reader = env.bus(watching), env.bus(), env.bus()
    received = env.listen(reader, event_type)
    async with env.open(watcher, reader, sender):
        await _dispatch(sender, event_type, range(10))
        async with _tailing(env, watching, event_type.event_name) as record:
            await _dispatch(sender, other, range(100, 110))
            await _dispatch(sender, event_type, range(10, 60))
            await record.flush(sender, event_type)
            await env.flush(sender, event_type, received)
    expect_each(record.numbers, range(10, 60), "shown by a tail that began at 10")
    names = {event.event_name for event in record.events}
    expect(names == {event_type.event_name}, f"a tail of one name has shown {sorted(names)}")
    expect_each(received.numbers, range(60), "received by a listener beside a tail")


async def a_tail_shows_the_events_of_a_pattern(env: CaseEnvironment) -> None:
    one, two, deep = (env.event_type(each) for each in ("one", "two", "two.deep"))
    watching = env.driver()
    watcher, sender = env.bus(watching), env.bus()
    async with env.open(watcher, sender):
        await _dispatch(sender, one, range(5))
        async with _tailing(env, watching, f"{env.prefix}.*") as record:
            # The second name is new to the broker.
            for event_type in (one, deep, two):
                await _dispatch(sender, event_type, range(10, 20))
            for event_type in (one, two):
                await record.flush(sender, event_type)
    for event_type in (one, two):
        numbers = [
            _number_of(event)
            for event in record.events
            if event.event_name == event_type.event_name
        ]
        expect_each(numbers, range(10, 20), "shown by a tail of a pattern")
    expected = {one.event_name, two.event_name}
    names = {event.event_name for event in record.events}
    expect(names == expected, f"a tail of {env.prefix}.* has shown {sorted(names)}")


async def a_tail_leaves_nothing_behind(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    watching = env.driver()
    watcher, sender, reader = env.bus(watching), env.bus(), env.bus()
    received = env.listen(reader, event_type)
    async with env.open(watcher, reader, sender):
        await env.flush(sender, event_type, received)
        before = env.tasks()
        with trio.CancelScope() as scope:
            async with _opened(watching, event_type.event_name):
                # Its reader never reads, and holds up nobody else.
                await _dispatch(sender, event_type, range(UNREAD_EVENTS))
                await env.wait_for(received, UNREAD_EVENTS)
                scope.cancel()
                await trio.sleep_forever()
        for _ in range(MAX_ENDING_CHECKS):
            # A tail whose broker is in another thread may end a little later than its block.
            if not env.tasks() - before:
                break
            await trio.sleep(LAG_INTERVAL_SECONDS)
        env.expect_no_tasks_since(before, "by a cancelled tail")
        async with _tailing(env, watching, event_type.event_name) as record:
            await _dispatch(sender, event_type, [1000])
            await record.flush(sender, event_type)
        await env.flush(sender, event_type, received)
    expect_each(record.numbers, [1000], "shown by the second tail")
    expect_each(received.numbers, [*range(UNREAD_EVENTS), 1000], "received beside the tails")


async def a_tail_goes_on_after_an_outage(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    watching = env.driver()
    watcher, sender = env.bus(watching, failing=True), env.bus(failing=True)
    outage = env.outage()
    if outage is None:
        raise TypeError("the suite has an outage and cannot make it")
    async with (
        env.open(watcher, sender),
        _tailing(env, watching, event_type.event_name) as record,
    ):
        await _dispatch(sender, event_type, range(5))
        await record.flush(sender, event_type)
        async with outage:
            pass
        shown = record.markers
        while record.markers == shown:
            # An event that is sent before the tail is back may be lost.
            handle = await sender.dispatch(event_type(n=MARKER_NUMBER))
            await handle.wait()
            with trio.move_on_after(LAG_INTERVAL_SECONDS * 2):
                await env.wait_until(
                    lambda: record.markers > shown, lambda: "a tail to go on after an outage"
                )
    expect_each(record.numbers, range(5), "shown before an outage")


async def the_lag_counts_what_waits(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    watching, driver = env.driver(), env.driver("lagging")
    watcher, sender, first, second = (
        env.bus(watching),
        env.bus(),
        env.bus(driver),
        env.bus(driver),
    )
    name, group = event_type.event_name, f"{env.prefix}-lagging"
    received, again = env.listen(first, event_type), env.listen(second, event_type)
    async with env.open(watcher, sender):
        async with env.open(first):
            await env.flush(sender, event_type, received)
        await _dispatch(sender, event_type, range(10))
        async with _asking(env, watching, group, name) as asked:
            await asked.wait_for(10)
            oldest = asked.oldest_waiting
            expect(oldest is None or oldest >= 0, f"the oldest event waits for {oldest} s")
            async with env.open(second):
                await env.wait_for(again, 10)
                await asked.wait_for(0)
    expect_each(again.numbers, range(10), "received by a group whose lag was asked for")


async def an_unknown_group_has_no_lag(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    watching = env.driver()
    watcher, sender, reader = env.bus(watching), env.bus(), env.bus()
    received = env.listen(reader, event_type)
    async with env.open(watcher, sender, reader):
        await env.flush(sender, event_type, received)
        found = await _backlogs(watching, f"{env.prefix}-nobody")
        # Asking must not create the group, either.
        again = await _backlogs(watching, f"{env.prefix}-nobody")
    expect(not found and not again, f"a group that nobody knows has the lag {[*found, *again]}")


def _number_of(event: TailedEvent) -> int:
    """Return the number of an event in an envelope, or in a body that is just the event."""
    try:
        body: Any = msgspec.json.decode(event.data)
        fields: Any = body.get("event_data", body)
        return int(fields["n"])
    except (AttributeError, KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
        raise AssertionError(f"a tail has shown {event.data[:100]!r}, which is no event") from error


async def _dispatch(
    sender: GoEvent, event_type: type[NumberedEvent], numbers: Sequence[int]
) -> None:
    for n in numbers:
        handle = await sender.dispatch(event_type(n=n))
        await handle.wait()


@asynccontextmanager
async def _opened(
    driver: Driver, pattern: str
) -> AsyncGenerator[trio.abc.ReceiveChannel[TailedEvent]]:
    """Open a tail; skip the case if this driver has none as it is configured."""
    async with AsyncExitStack() as stack:
        try:
            channel = await stack.enter_async_context(inspected(driver, "tail").tail(pattern))
        except UnsupportedError as error:
            raise NotApplicable(str(error)) from error
        yield channel


@asynccontextmanager
async def _tailing(
    env: CaseEnvironment, driver: Driver, pattern: str
) -> AsyncGenerator[TailRecord]:
    """Record the events of a tail during a block."""
    record = TailRecord(env)
    async with _opened(driver, pattern) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(record.read, channel)
        yield record
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _asking(
    env: CaseEnvironment, driver: Driver, group: str, name: str
) -> AsyncGenerator[AskedLag]:
    """Ask for the backlog of a name again and again during a block."""
    asked = AskedLag(env, driver, group, name)
    await asked.ask()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked.keep_asking)
        yield asked
        nursery.cancel_scope.cancel()


async def _backlogs(driver: Driver, group: str) -> Sequence[Backlog]:
    try:
        return await inspected(driver, "lag").lag(group)
    except UnsupportedError as error:
        raise NotApplicable(str(error)) from error
