"""Cases about conversations: requests and their answers, and the reports of all buses.

A broker with consumer groups takes a request to one bus of each group. So the buses that answer are
in one group, and the buses that ask are in others.
"""

# The cases look at the tables of conversations, which no user sees.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import trio

from ... import (
    BusClosed,
    Event,
    GoEvent,
    GoEventError,
    NoResponder,
    RemoteError,
    RequestLost,
    RequestTimeout,
)
from .environment import MARKER_INTERVAL_SECONDS, CaseEnvironment
from .expect import expect, expect_each
from .received import NumberedEvent

ANSWERING_GROUP = "answering"
ASKING_TASKS = 32
ASKED_REQUESTS = 500
MAX_CANCEL_STEPS = 60
DRAINING_STEPS = 20
MAX_CANCEL_SECONDS = 0.02
SHORT_TIMEOUT_SECONDS = 1.0
LONG_TIMEOUT_SECONDS = 25.0
"""The timeout of requests that end in another way, long before."""


@dataclass
class DoubledNumber:
    """The answer of a responder.

    Attributes:
        n: Twice the number of the event.
        text: The text of the event.
    """

    n: int
    text: str


class HeldResponder:
    """A responder that answers when it is let go; or a listener that ends then.

    Attributes:
        began: The numbers of the events with which it has begun, in order.
        cancelled: The numbers of those that were cancelled.
        go: Set to let all of them go.
    """

    def __init__(self, env: CaseEnvironment) -> None:
        self._env = env
        self.began: list[int] = []
        self.cancelled: list[int] = []
        self.go: trio.Event = trio.Event()

    async def respond(self, event: NumberedEvent) -> int:
        """Answer with the number of the event."""
        self.began.append(event.n)
        self._env.notify()
        try:
            await self.go.wait()
        except trio.Cancelled:
            self.cancelled.append(event.n)
            self._env.notify()
            raise
        return event.n

    async def listen(self, event: NumberedEvent) -> None:
        """Hold an event."""
        await self.respond(event)

    async def wait_begun(self, count: int) -> None:
        """Wait until it has begun with so many events."""
        await self._env.wait_until(
            lambda: len(self.began) >= count,
            lambda: f"{count} events to be held, of which {len(self.began)} are",
        )

    async def wait_cancelled(self, *numbers: int) -> None:
        """Wait until some events were cancelled."""
        await self._env.wait_until(
            lambda: {*numbers} <= {*self.cancelled},
            lambda: f"the responder to be cancelled with {numbers}; it was with {self.cancelled}",
        )


class RequestResults:
    """The ends of requests that tasks of their own make.

    Attributes:
        answers: The answers, by the numbers of the requests.
        errors: The errors, by the numbers of the requests.
    """

    def __init__(self, env: CaseEnvironment, bus: GoEvent, event_type: type[NumberedEvent]) -> None:
        self._env = env
        self._bus = bus
        self._event_type = event_type
        self.answers: dict[int, int] = {}
        self.errors: dict[int, Exception] = {}

    async def ask(self, number: int) -> None:
        """Make a request, and record its end."""
        event = self._event_type(n=number)
        try:
            self.answers[number] = await self._bus.request(event, int, timeout=LONG_TIMEOUT_SECONDS)
        except GoEventError as error:
            self.errors[number] = error
        self._env.notify()

    async def wait_for(self, *numbers: int) -> None:
        """Wait until some requests have ended."""
        await self._env.wait_until(
            lambda: {*numbers} <= {*self.answers, *self.errors},
            lambda: f"the requests {numbers} to end",
        )


async def add_hundred(event: NumberedEvent) -> int:
    """Answer with the number of the event and 100."""
    return event.n + 100


def answering_bus(env: CaseEnvironment, *, failing: bool = False) -> GoEvent:
    """Return a bus of the group that answers."""
    return env.bus(env.driver(ANSWERING_GROUP), failing=failing)


def under_way(*buses: GoEvent) -> int:
    """Return the entries in the tables of the conversations of some buses."""
    return sum(bus._conversations.under_way for bus in buses)


async def wait_nothing_under_way(env: CaseEnvironment, *buses: GoEvent) -> None:
    """Wait until the tables of the conversations are empty; their last messages may be under way.

    No call tells of an entry that was removed, so the condition is evaluated at intervals.
    """

    async def keep_looking() -> None:
        while True:
            env.notify()
            await trio.sleep(MARKER_INTERVAL_SECONDS)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_looking)
        await env.wait_until(
            lambda: not under_way(*buses),
            lambda: f"{under_way(*buses)} entries to leave the tables of conversations",
        )
        nursery.cancel_scope.cancel()


# -- requests


async def requests_are_answered(env: CaseEnvironment) -> None:
    event_type, answer_type = env.event_type("asked"), env.event_type("answer")
    asking, answering = env.bus(), answering_bus(env)
    list_name, event_name = f"{env.prefix}.list", f"{env.prefix}.again"
    text = "é\u2028\x00 \U0001f600"

    @answering.responder(event_type, DoubledNumber)
    async def double(event: NumberedEvent) -> DoubledNumber:
        return DoubledNumber(2 * event.n, event.text)

    @answering.responder(list_name)
    async def count(event: Any) -> list[int]:
        return [*range(event.payload()["n"])]

    @answering.responder(event_name)
    def answer_with_an_event(event: Any) -> NumberedEvent:
        return answer_type(n=event.payload()["n"], text=text)

    async with env.open(answering, asking):
        for n in range(20):
            got = await asking.request(event_type(n=n, text=f"{n} {text}"), DoubledNumber)
            expected = DoubledNumber(2 * n, f"{n} {text}")
            expect(got == expected, f"the answer {expected} arrived as {got}")
        numbers = await asking.request(Event(list_name, {"n": 3}), list[int])
        expect(numbers == [0, 1, 2], f"the answer [0, 1, 2] arrived as {numbers}")
        event = await asking.request(Event(event_name, {"n": 3}), answer_type)
        expect(event == answer_type(n=3, text=text), f"an event as the answer arrived as {event}")
        await wait_nothing_under_way(env, asking, answering)
    counts, served = asking.snapshot().requests, answering.snapshot().requests
    expect(counts.asked == counts.answered == 22, f"22 answered requests were counted as {counts}")
    expect(served.served == 22, f"22 requests were served {served.served} times")
    late, malformed = counts.late + served.late, counts.malformed + served.malformed
    expect(not late, f"{late} messages came for requests that were over")
    expect(not malformed, f"{malformed} messages made no sense")


async def failures_reach_the_requester(env: CaseEnvironment) -> None:
    event_type = env.event_type("asked")
    asking, answering = env.bus(), answering_bus(env, failing=True)

    @answering.responder(event_type, name="failing")
    async def fail(event: NumberedEvent) -> int:
        raise LookupError(f"no {event.n} é")

    async with env.open(answering, asking):
        for n in range(3):
            caught: RemoteError | None = None
            try:
                await asking.request(event_type(n=n), int)
            except RemoteError as error:
                caught = error
            if caught is None:
                raise AssertionError("the failure of a responder arrived as an answer")
            seen = (caught.event_name, caught.listener, caught.error_type, caught.text)
            expected = (event_type.event_name, "failing", "LookupError", f"no {n} é")
            expect(seen == expected, f"the failure {expected} arrived as {seen}")
            expect(caught.bus, "the failure does not name the bus of the responder")
        await wait_nothing_under_way(env, asking, answering)
    reported = len(env.expected_errors)
    expect(reported == 3, f"the answering bus has reported {reported} of 3 failures")
    counts = asking.snapshot().requests
    expect(counts.asked == counts.failed == 3, f"3 failed requests were counted as {counts}")


async def requests_without_a_responder_fail(env: CaseEnvironment) -> None:
    event_type = env.event_type("asked")
    asking, other = env.bus(), answering_bus(env)
    listening = env.listen(other, event_type)
    async with env.open(other, asking):
        began = trio.current_time()
        found = True
        try:
            await asking.request(event_type(), int, timeout=SHORT_TIMEOUT_SECONDS)
        except NoResponder:
            found = False
        took = trio.current_time() - began
        expect(not found, "a request that nobody responds to got an answer")
        expect(took < 5 * SHORT_TIMEOUT_SECONDS, f"it took {took:.1f} s to find that out")
        await wait_nothing_under_way(env, asking, other)
    expect(not listening.events, "a listener of the event got a request")


async def timeouts_cancel_the_responder(env: CaseEnvironment) -> None:
    event_type = env.event_type("asked")
    asking, answering = env.bus(), answering_bus(env)
    held = HeldResponder(env)
    answering.respond(held.respond, event_type)
    async with env.open(answering, asking):
        answered = True
        try:
            await asking.request(event_type(n=1), int, timeout=SHORT_TIMEOUT_SECONDS)
        except RequestTimeout:
            answered = False
        expect(not answered, "a request has got an answer that was not given")
        await held.wait_cancelled(1)
        # The responder is free again.
        held.go.set()
        got = await asking.request(event_type(n=2), int, timeout=LONG_TIMEOUT_SECONDS)
        expect(got == 2, f"the request 2, after a timeout, got the answer {got}")
        await wait_nothing_under_way(env, asking, answering)
    counts = asking.snapshot().requests
    expect((counts.timed_out, counts.answered) == (1, 1), f"they were counted as {counts}")


async def cancelled_requesters_cancel_the_responder(env: CaseEnvironment) -> None:
    event_type = env.event_type("asked")
    asking, answering = env.bus(), answering_bus(env)
    held = HeldResponder(env)
    answering.respond(held.respond, event_type, concurrency=10)
    results = RequestResults(env, asking, event_type)
    async with env.open(answering, asking), trio.open_nursery() as nursery:
        nursery.start_soon(results.ask, 0)
        await held.wait_begun(1)
        async with trio.open_nursery() as cancelled:
            for n in range(1, 6):
                cancelled.start_soon(results.ask, n)
            await held.wait_begun(6)
            cancelled.cancel_scope.cancel()
        await held.wait_cancelled(*range(1, 6))
        held.go.set()
        await results.wait_for(0)
        await wait_nothing_under_way(env, asking, answering)
    expect(results.answers == {0: 0}, f"the request beside the cancelled ones got {results.errors}")
    expect_each(held.cancelled, range(1, 6), "the requests whose responder was cancelled")
    counts, served = asking.snapshot().requests, answering.snapshot().requests
    expect((counts.cancelled, counts.answered) == (5, 1), f"they were counted as {counts}")
    expect(served.served_cancelled == 5, f"they were counted as {served} by the answering bus")


async def requests_end_with_their_bus(env: CaseEnvironment) -> None:
    event_type = env.event_type("asked")
    asking, answering = env.bus(), answering_bus(env)
    held = HeldResponder(env)
    answering.respond(held.respond, event_type, concurrency=10)
    results = RequestResults(env, asking, event_type)
    async with env.open(answering), trio.open_nursery() as nursery:
        async with asking:
            for n in range(3):
                nursery.start_soon(results.ask, n)
            await held.wait_begun(3)
        await results.wait_for(0, 1, 2)
        await held.wait_cancelled(0, 1, 2)
        await wait_nothing_under_way(env, asking, answering)
    wrong = [each for each in results.errors.values() if not isinstance(each, BusClosed)]
    expect(not wrong, f"requests of a closed bus ended with {wrong}")
    expect(len(results.errors) == 3, f"{len(results.errors)} of 3 requests ended with their bus")


async def closing_buses_finish_their_requests(env: CaseEnvironment) -> None:
    event_type = env.event_type("asked")
    asking, ending, staying = env.bus(), answering_bus(env), answering_bus(env)
    held = HeldResponder(env)
    ending.respond(held.respond, event_type, concurrency=10)
    staying.respond(add_hundred, event_type)
    results = RequestResults(env, asking, event_type)
    async with env.open(asking, ending), trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(results.ask, n)
        await held.wait_begun(3)
        async with env.open(staying):
            nursery.start_soon(ending.close)
            while ending.snapshot().state == "open":  # until the other task has run
                await trio.lowlevel.checkpoint()
            for n in range(3, 6):
                nursery.start_soon(results.ask, n)
            # A driver that keeps the order of keys may give them to no other bus before that one
            # has ended.
            for _ in range(DRAINING_STEPS):
                await trio.lowlevel.checkpoint()
            held.go.set()
            await results.wait_for(*range(6))
        await wait_nothing_under_way(env, asking, staying)
    expected = {0: 0, 1: 1, 2: 2, 3: 103, 4: 104, 5: 105}
    expect(not results.errors, f"while a bus closes, requests ended with {results.errors}")
    expect(results.answers == expected, f"while a bus closes, the answers were {results.answers}")


async def draining_buses_get_their_answers(env: CaseEnvironment) -> None:
    event_type, started_type = env.event_type("asked"), env.event_type("started")
    asking, answering = env.bus(), answering_bus(env)
    held = HeldResponder(env)
    answering.respond(held.respond, event_type)
    results = RequestResults(env, asking, event_type)

    @asking.listener(started_type)
    async def ask(event: NumberedEvent) -> None:
        await results.ask(event.n)

    async with env.open(answering):
        async with env.open(asking), trio.open_nursery() as nursery:
            await asking.dispatch(started_type(n=7))
            await held.wait_begun(1)
            nursery.start_soon(asking.close)
            while asking.snapshot().state == "open":  # until the other task has run
                await trio.lowlevel.checkpoint()
            # The bus may unsubscribe now.
            for _ in range(DRAINING_STEPS):
                await trio.lowlevel.checkpoint()
            held.go.set()
        await wait_nothing_under_way(env, asking, answering)
    expect(results.answers == {7: 7}, f"a bus that drains got {results.errors or 'no answer'}")


async def requests_of_an_ended_bus_end(env: CaseEnvironment) -> None:
    event_type = env.event_type("asked")
    asking = env.bus()
    ending, staying = answering_bus(env, failing=True), answering_bus(env)
    held = HeldResponder(env)
    ending.respond(held.respond, event_type)
    staying.respond(add_hundred, event_type)
    results = RequestResults(env, asking, event_type)
    async with env.open(asking), trio.open_nursery() as nursery:
        async with env.open(ending):
            nursery.start_soon(results.ask, 0)
            await held.wait_begun(1)
            # Time to stop receiving: a broker may give the request to the ending bus once more.
            await ending.close(timeout=SHORT_TIMEOUT_SECONDS)
        async with env.open(staying):
            await results.wait_for(0)
            await results.ask(1)
        await wait_nothing_under_way(env, asking, staying)
    expect(results.answers.get(1) == 101, f"the next bus answered {results.answers} and no 101")
    if env.capabilities.durable:
        expect(results.answers.get(0) == 100, f"the request went to no other bus: {results.errors}")
    else:
        error = results.errors.get(0)
        known = isinstance(error, (RemoteError, RequestLost))
        expect(known, f"a request of an ended bus ended with {error!r} or {results.answers}")


async def requests_can_be_cancelled_at_any_time(env: CaseEnvironment) -> None:
    """Many tasks make requests, and a third of them is cancelled at a random moment."""
    event_type = env.event_type("asked")
    asking, *answering = env.bus(), answering_bus(env), answering_bus(env)
    random = Random(17)  # noqa: S311 - no secret
    ends = {"answered": 0, "cancelled": 0}

    async def respond(event: NumberedEvent) -> int:
        for _ in range(event.n % 3):
            await trio.lowlevel.checkpoint()
        return event.n + 1

    async def cancel_soon(scope: trio.CancelScope) -> None:
        if random.random() < 0.5:
            await trio.sleep(MAX_CANCEL_SECONDS * random.random())
        else:
            for _ in range(random.randrange(MAX_CANCEL_STEPS)):
                await trio.lowlevel.checkpoint()
        scope.cancel()

    async def ask(numbers: range) -> None:
        for n in numbers:
            async with trio.open_nursery() as nursery:
                if n % 3 == 0:
                    nursery.start_soon(cancel_soon, nursery.cancel_scope)
                try:
                    got = await asking.request(event_type(n=n), int, timeout=LONG_TIMEOUT_SECONDS)
                except trio.Cancelled:
                    ends["cancelled"] += 1
                    raise
                ends["answered"] += 1
                expect(got == n + 1, f"the request {n} got the answer {got}")
                nursery.cancel_scope.cancel()

    for bus in answering:
        bus.respond(respond, event_type, concurrency=8)
    async with env.open(asking, *answering):
        before = env.tasks()
        async with trio.open_nursery() as nursery:
            for first in range(ASKING_TASKS):
                nursery.start_soon(ask, range(first, ASKED_REQUESTS, ASKING_TASKS))
        await wait_nothing_under_way(env, asking, *answering)
        # Once more, to all of them.
        for n in range(4):
            got = await asking.request(event_type(n=n), int, timeout=LONG_TIMEOUT_SECONDS)
            expect(got == n + 1, f"after all of them, the request {n} got the answer {got}")
        named = {task.name for task in env.tasks() - before}
        left = {name for name in named if "request" in name or "cancel_soon" in name}
        expect(not left, f"tasks are left: {left}")
    counts = asking.snapshot().requests
    expect(counts.asked == ASKED_REQUESTS + 4, f"{ASKED_REQUESTS + 4} were counted as {counts}")
    expect(counts.answered == ends["answered"] + 4, f"{ends} were counted as {counts}")
    expect(counts.cancelled == ends["cancelled"], f"{ends} were counted as {counts}")
    expect(not counts.failed + counts.timed_out, f"some requests failed: {counts}")
    served = sum(bus.snapshot().requests.served for bus in answering)
    most = counts.asked
    expect(counts.answered <= served <= most, f"{most} requests were served {served} times")


async def listeners_get_no_requests(env: CaseEnvironment) -> None:
    event_type = env.event_type("asked")
    recording = env.recording_driver()
    asking, answering, watching = env.bus(), answering_bus(env), env.bus(recording)
    wanted: list[type | str] = [event_type]
    if env.capabilities.patterns:
        wanted.append("**")
    records = [env.listen(bus, *wanted) for bus in (asking, answering, watching)]

    async def respond(event: NumberedEvent) -> int:
        return event.n

    answering.respond(respond, event_type)
    async with env.open(watching, answering, asking):
        for n in range(10):
            got = await asking.request(event_type(n=n), int, timeout=LONG_TIMEOUT_SECONDS)
            expect(got == n, f"the request {n} got the answer {got}")
        await asking.dispatch(event_type(n=100))
        await env.flush(asking, event_type, *records)
    for record in records:
        expect_each(record.numbers, [100], "by a listener of the requested event")
    names = {each.event_name for each in recording.delivered}
    foreign = names - {event_type.event_name}
    expect(not foreign, f"a bus without responders got requests or answers: {foreign}")


# -- the reports of all buses


@asynccontextmanager
async def reporting_buses(
    env: CaseEnvironment, event_type: type[NumberedEvent], held: HeldResponder
) -> AsyncGenerator[GoEvent]:
    """Keep four buses open: three listen to an event, and the returned one dispatches it.

    One of them has two listeners, one has a listener that fails, and one has a listener that holds
    the event. The dispatching bus has a listener of its own.
    """
    dispatching, two, failing, holding = (env.bus(failing=place == 2) for place in range(4))
    env.listen(dispatching, event_type)
    env.listen(two, event_type)
    env.listen(two, f"{env.prefix}.*" if env.capabilities.patterns else event_type)

    async def fail(event: NumberedEvent) -> None:
        raise LookupError(f"no {event.n}")

    failing.subscribe(fail, event_type, name="failing")
    holding.subscribe(held.listen, event_type, concurrency=10)
    silent = env.bus()
    env.listen(silent, f"{env.prefix}.other")
    async with env.open(two, failing, holding, silent, dispatching):
        yield dispatching
        await wait_nothing_under_way(env, dispatching, two, failing, holding)


async def all_buses_report(env: CaseEnvironment) -> None:
    event_type = env.event_type("reported")
    held = HeldResponder(env)
    held.go.set()
    async with reporting_buses(env, event_type, held) as bus:
        for n in range(5):
            handle = await bus.dispatch(event_type(n=n), scope="all")
            await handle.wait(scope="all", timeout=LONG_TIMEOUT_SECONDS)
            expect(handle.outcome.complete, f"the outcome is {handle.outcome}: {handle.remote}")
            reports = handle.remote
            expect(len(reports) == 3, f"3 buses have sent {len(reports)} reports: {reports}")
            completed = sorted((each.completed, each.failed) for each in reports)
            expect(completed == [(0, 1), (1, 0), (2, 0)], f"the reports are {reports}")
            errors = [error for each in reports for error in each.errors]
            texts = [(each.listener, each.error_type, each.text) for each in errors]
            expect(texts == [("failing", "LookupError", f"no {n}")], f"the failures are {texts}")
            expect(len({each.bus for each in reports}) == 3, "the reports do not name their buses")
    expect_each(held.began, range(5), "by a listener whose bus reports")


async def events_without_listeners_need_no_reports(env: CaseEnvironment) -> None:
    event_type = env.event_type("reported")
    bus, other = env.bus(), env.bus()
    env.listen(other, f"{env.prefix}.other")
    async with env.open(other, bus):
        handle = await bus.dispatch(event_type(n=1), scope="all")
        began = trio.current_time()
        await handle.wait(scope="all", timeout=LONG_TIMEOUT_SECONDS)
        took = trio.current_time() - began
        expect(handle.outcome.complete, f"nobody listens, and the outcome is {handle.outcome}")
        expect(not handle.remote, f"nobody listens, and there are reports: {handle.remote}")
        expect(took < LONG_TIMEOUT_SECONDS / 2, f"nobody listens, and the wait took {took:.1f} s")
        await wait_nothing_under_way(env, bus, other)


async def late_reports_complete_the_outcome(env: CaseEnvironment) -> None:
    event_type = env.event_type("reported")
    held = HeldResponder(env)
    async with reporting_buses(env, event_type, held) as bus:
        handle = await bus.dispatch(event_type(n=1), scope="all")
        await held.wait_begun(1)
        await handle.wait(scope="all", timeout=SHORT_TIMEOUT_SECONDS)
        missing = [each for each in handle.remote if each.missing]
        expect(str(handle.outcome) == "partial(missing=1)", f"the outcome is {handle.outcome}")
        expect(len(missing) == 1, f"one bus is slow, and the reports are {handle.remote}")
        held.go.set()
        await handle.wait(scope="all", timeout=LONG_TIMEOUT_SECONDS)
        expect(handle.outcome.complete, f"the late outcome is {handle.outcome}: {handle.remote}")
        # The caller knows of more buses, or waits for fewer.
        again = await bus.dispatch(event_type(n=2), scope="all")
        await again.wait(scope="all", expect=10, timeout=SHORT_TIMEOUT_SECONDS)
        weight = sum(each.weight for each in again.remote if not each.missing)
        expected = f"partial(missing={10 - weight})"
        expect(weight >= 3, f"3 buses report, and the reports are {again.remote}")
        expect(str(again.outcome) == expected, f"the outcome is {again.outcome}, not {expected}")


async def ending_buses_report(env: CaseEnvironment) -> None:
    event_type = env.event_type("reported")
    bus, ending = env.bus(), env.bus(failing=True)
    held = HeldResponder(env)
    ending.subscribe(held.listen, event_type)
    async with env.open(bus):
        async with env.open(ending):
            handle = await bus.dispatch(event_type(n=1), scope="all")
            await held.wait_begun(1)
            await ending.close(timeout=0)
        await handle.wait(scope="all", timeout=LONG_TIMEOUT_SECONDS)
        told = [each.abandoned == 1 or bool(each.missing) for each in handle.remote]
        expect(told == [True], f"the report of an ended bus is {handle.remote}")
        await wait_nothing_under_way(env, bus)
