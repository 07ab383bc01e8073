"""Ten thousand requests of which a third is cancelled, and responders that end in every way."""

from __future__ import annotations

import gc
from collections import Counter
from random import Random

import pytest
import trio
from tests.support.conversing_buses import ConversingBus, PriceAsked
from trio.testing import MockClock

from goevent import Event, MemoryHub, RemoteError, RequestLost
from goevent._conversations.asked_request import AskedRequest
from goevent._conversations.request_run import RequestRun

REQUESTS = 10_000
ASKING_TASKS = 100


@pytest.mark.parametrize("same", [True, False], ids=["one bus", "three buses"])
async def test_ten_thousand_requests_leave_nothing(autojump_clock: MockClock, same: bool) -> None:
    hub = MemoryHub()
    asking, *others = (ConversingBus(hub) for _ in range(3))
    answering = [asking] if same else others
    random = Random(17)
    ends: Counter[str] = Counter()

    async def respond(event: PriceAsked) -> int:
        if event.n % 2:
            await trio.sleep(0.001 * (event.n % 7))
        if event.n % 50 == 1:
            raise LookupError(event.sku)
        return event.n

    async def cancel_soon(scope: trio.CancelScope, steps: int) -> None:
        if steps % 2:
            await trio.sleep(0.0005 * steps)
        else:
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
        scope.cancel()

    async def ask(numbers: range) -> None:
        for n in numbers:
            async with trio.open_nursery() as nursery:
                if random.random() < 1 / 3:
                    nursery.start_soon(cancel_soon, nursery.cancel_scope, random.randrange(20))
                try:
                    assert await asking.request(PriceAsked(n=n), int) == n
                    ends["answered"] += 1
                except RemoteError:
                    ends["failed"] += 1
                except trio.Cancelled:
                    ends["cancelled"] += 1
                    raise
                nursery.cancel_scope.cancel()

    for bus in answering:
        bus.respond(respond, PriceAsked, concurrency=10, mailbox=20)
    async with asking, others[0], others[1]:
        async with trio.open_nursery() as nursery:
            for first in range(ASKING_TASKS):
                nursery.start_soon(ask, range(first, REQUESTS, ASKING_TASKS))
        # The last cancellations are at their responders.
        await trio.sleep(1)
        assert [bus.under_way for bus in (asking, *others)] == [0, 0, 0]
        for bus in (asking, *others):
            bus.clear_errors()  # the newest failures keep what they refer to
        gc.collect()
        left = [each for each in gc.get_objects() if isinstance(each, (AskedRequest, RequestRun))]
        # A worker may refer to its last event.
        assert len(left) <= 60
    counts = asking.snapshot().requests
    assert ends.total() == counts.asked == REQUESTS
    assert ends == {
        "answered": counts.answered,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
    }
    assert counts.timed_out == 0
    assert min(ends.values()) > 100
    for bus in answering:
        ledger = bus.snapshot().ledger
        done = ledger.completed + ledger.failed + ledger.dropped + ledger.abandoned
        assert done == ledger.accepted


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_an_exit_inside_a_responder_ends_its_bus_and_the_request(
    autojump_clock: MockClock, kind: type[BaseException]
) -> None:
    hub = MemoryHub()
    asking, answering = ConversingBus(hub), ConversingBus(hub)
    errors: list[Exception] = []

    async def leave(event: Event) -> int:
        await trio.lowlevel.checkpoint()
        raise kind

    answering.respond(leave, PriceAsked)

    async def ask() -> None:
        try:
            await asking.request(PriceAsked(), int, timeout=60)
        except (RemoteError, RequestLost) as error:
            errors.append(error)

    async def answer(nursery: trio.Nursery) -> None:
        async with answering:
            nursery.start_soon(ask)
            await trio.sleep_forever()

    async with asking, trio.open_nursery() as nursery:
        with pytest.raises(kind):
            await answer(nursery)
        with trio.fail_after(10):
            while not errors:
                await trio.sleep(0.1)
        assert asking.under_way == 0
    assert len(errors) == 1
