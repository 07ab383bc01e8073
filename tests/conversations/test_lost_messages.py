"""Conversations whose direct messages are lost, repeated or late, and buses that fall silent."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from tests.support.conversing_buses import ConversingBus, HeldPrices, PriceAsked
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import GoEventError, MemoryHub, NoResponder, RequestLost, RequestTimeout

NOTICE_SECONDS = 0.1
"""After this time the dispatcher knows that a bus has its event."""

SIGN_SECONDS = 1.1
"""The time until the next sign of life, and a little more."""

SILENCE_SECONDS = 5.0
"""The time after which a bus that sends no signs of life has ended."""


class LossyBuses:
    """A bus that asks, and one that answers."""

    def __init__(self) -> None:
        hub = MemoryHub()
        self.asking, self.answering = ConversingBus(hub), ConversingBus(hub)
        self.held = HeldPrices()
        self.errors: list[Exception] = []
        self.answers: list[int] = []

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[trio.Nursery]:
        async with self.answering, self.asking, trio.open_nursery() as nursery:
            yield nursery
            # The tables are empty when the last messages were taken.
            await wait_all_tasks_blocked()
            assert (self.asking.under_way, self.answering.under_way) == (0, 0)

    async def ask(self, n: int = 0, timeout: float | None = None) -> None:
        try:
            self.answers.append(await self.asking.request(PriceAsked(n=n), int, timeout=timeout))
        except GoEventError as error:
            self.errors.append(error)


@pytest.fixture
def pair() -> LossyBuses:
    return LossyBuses()


async def at_once(event: PriceAsked) -> int:
    return event.n


@pytest.mark.parametrize(("kind", "loser"), [("request", "asking"), ("reply", "answering")])
async def test_a_lost_request_or_reply_is_noticed_at_the_next_sign_of_life(
    pair: LossyBuses, autojump_clock: MockClock, kind: str, loser: str
) -> None:
    pair.answering.respond(at_once, PriceAsked)
    async with pair.opened():
        await pair.ask(1)
        getattr(pair, loser).tap.lost = {kind}
        began = trio.current_time()
        await pair.ask(2)
        assert trio.current_time() - began <= SIGN_SECONDS
    assert pair.answers == [1]
    assert [type(error) for error in pair.errors] == [RequestLost]


async def test_a_lost_failure_is_noticed_at_the_next_sign_of_life(
    pair: LossyBuses, autojump_clock: MockClock
) -> None:
    async def fail(event: PriceAsked) -> int:
        raise LookupError

    pair.answering.respond(fail, PriceAsked)
    async with pair.opened():
        pair.answering.tap.lost = {"failed"}
        with trio.fail_after(SIGN_SECONDS):
            await pair.ask()
    assert [type(error) for error in pair.errors] == [RequestLost]


async def test_a_lost_cancellation_comes_with_the_next_sign_of_life(
    pair: LossyBuses, autojump_clock: MockClock
) -> None:
    pair.answering.respond(pair.held.respond, PriceAsked, concurrency=2)
    async with pair.opened() as nursery:
        # Another request keeps the signs of life going.
        nursery.start_soon(pair.ask, 1)
        await pair.held.wait_begun(1)
        pair.asking.tap.lost = {"cancel"}
        async with trio.open_nursery() as cancelled:
            cancelled.start_soon(pair.ask, 2)
            await pair.held.wait_begun(2)
            cancelled.cancel_scope.cancel()
        pair.asking.tap.lost = set()
        with trio.fail_after(SIGN_SECONDS):
            await pair.held.wait_cancelled()
        pair.held.go.set()
    assert pair.answers == [1]
    assert len(pair.held.cancelled_at) == 1


async def test_a_lost_search_and_a_lost_offer_are_made_good(
    pair: LossyBuses, autojump_clock: MockClock
) -> None:
    pair.answering.respond(at_once, PriceAsked)
    async with pair.opened() as nursery:
        pair.asking.tap.lost, pair.answering.tap.lost = {"search"}, {"offer"}
        nursery.start_soon(pair.ask, 1)
        await trio.sleep(1.5)
        pair.asking.tap.lost = set()
        await trio.sleep(1)
        assert pair.answers == []
        pair.answering.tap.lost = set()
        await trio.sleep(SIGN_SECONDS)
        assert pair.answers == [1]


async def test_nobody_comes_forward_when_all_searches_are_lost(
    pair: LossyBuses, autojump_clock: MockClock
) -> None:
    pair.answering.respond(at_once, PriceAsked)
    async with pair.opened():
        pair.asking.tap.lost = {"search"}
        await pair.ask(timeout=7)
        assert trio.current_time() == pytest.approx(7, abs=0.1)
        assert pair.asking.tap.sent_kinds.count("search") == 7
    assert [type(error) for error in pair.errors] == [NoResponder]


async def test_repeated_messages_are_taken_once(
    pair: LossyBuses, autojump_clock: MockClock
) -> None:
    runs: list[int] = []

    async def note(event: PriceAsked) -> int:
        runs.append(event.n)
        return event.n

    pair.answering.respond(note, PriceAsked)
    pair.asking.tap.copies = pair.answering.tap.copies = 3
    async with pair.opened():
        for n in range(20):
            await pair.ask(n)
    assert runs == pair.answers == [*range(20)]
    assert pair.asking.snapshot().requests.late == 40


async def test_a_late_reply_is_dropped_and_counted(
    pair: LossyBuses, autojump_clock: MockClock
) -> None:
    pair.answering.respond(at_once, PriceAsked)
    async with pair.opened():
        pair.answering.tap.kept = {"reply"}
        await pair.ask(1, timeout=0.5)
        pair.answering.tap.release()
        await pair.ask(2)
    counts = pair.asking.snapshot().requests
    assert [type(error) for error in pair.errors] == [RequestTimeout]
    assert pair.answers == [2]
    assert (counts.late, counts.timed_out, counts.answered) == (1, 1, 1)


async def test_a_requester_that_falls_silent_cancels_its_responder(
    pair: LossyBuses, autojump_clock: MockClock
) -> None:
    pair.answering.respond(pair.held.respond, PriceAsked)
    async with pair.opened() as nursery:
        nursery.start_soon(pair.ask)
        await pair.held.wait_begun()
        pair.asking.tap.is_dead = True
        with trio.fail_after(SILENCE_SECONDS):
            await pair.held.wait_cancelled()
    # Both believe that the other one has ended.
    assert [type(error) for error in pair.errors] == [RequestLost]


async def test_a_responder_that_falls_silent_ends_its_requests(
    pair: LossyBuses, autojump_clock: MockClock
) -> None:
    pair.answering.respond(pair.held.respond, PriceAsked)
    async with pair.opened() as nursery:
        nursery.start_soon(pair.ask)
        await pair.held.wait_begun()
        pair.answering.tap.is_dead = True
        with trio.fail_after(SILENCE_SECONDS):
            while not pair.errors:
                await trio.sleep(0.1)
        await pair.held.wait_cancelled()
    assert "has ended" in str(pair.errors[0])


async def test_a_long_request_outlives_many_signs_of_life(
    pair: LossyBuses, autojump_clock: MockClock
) -> None:
    pair.answering.respond(pair.held.respond, PriceAsked)
    async with pair.opened() as nursery:
        nursery.start_soon(pair.ask, 1)
        await trio.sleep(600)
        pair.held.go.set()
    assert (pair.answers, pair.errors) == ([1], [])


async def test_nothing_is_sent_without_conversations(
    pair: LossyBuses, autojump_clock: MockClock
) -> None:
    pair.answering.respond(at_once, PriceAsked)
    async with pair.opened():
        await pair.ask(1)
        await trio.sleep(5)
        sent = len(pair.asking.tap.sent_kinds), len(pair.answering.tap.sent_kinds)
        await trio.sleep(600)
        assert sent == (len(pair.asking.tap.sent_kinds), len(pair.answering.tap.sent_kinds))


@pytest.mark.parametrize("kind", ["done", "received"])
async def test_a_lost_report_is_told(
    pair: LossyBuses, autojump_clock: MockClock, kind: str
) -> None:
    async def hold(event: PriceAsked) -> None:
        await pair.held.respond(event)

    pair.answering.subscribe(hold, PriceAsked)
    async with pair.opened():
        pair.answering.tap.lost = {kind}
        handle = await pair.asking.dispatch(PriceAsked(), scope="all")
        await pair.held.wait_begun()
        await trio.sleep(2 * NOTICE_SECONDS)
        pair.held.go.set()
        began = trio.current_time()
        await handle.wait(scope="all", timeout=10)
        took = trio.current_time() - began
        if kind == "done":
            assert took <= SIGN_SECONDS
            assert [report.missing for report in handle.remote] == [
                "its report was lost on the way"
            ]
            assert str(handle.outcome) == "partial(missing=1)"
        else:
            assert handle.outcome.complete
            assert took < 0.1
        await trio.sleep(SILENCE_SECONDS)


async def test_a_bus_that_falls_silent_is_missing(
    pair: LossyBuses, autojump_clock: MockClock
) -> None:
    async def hold(event: PriceAsked) -> None:
        await pair.held.respond(event)

    pair.answering.subscribe(hold, PriceAsked)
    async with pair.opened():
        handle = await pair.asking.dispatch(PriceAsked(), scope="all")
        await pair.held.wait_begun()
        await trio.sleep(2 * NOTICE_SECONDS)
        pair.answering.tap.is_dead = True
        began = trio.current_time()
        await handle.wait(scope="all", timeout=60)
        assert trio.current_time() - began <= SILENCE_SECONDS
        assert [report.missing for report in handle.remote] == ["the bus has ended"]
        pair.held.go.set()
        await trio.sleep(SILENCE_SECONDS)
