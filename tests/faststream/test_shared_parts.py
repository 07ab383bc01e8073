"""The parts that adapters share: subscribed names, backlogs and the tasks of a connection."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from goevent import DriverConnectionError, compile_pattern
from goevent_faststream._adapter.backlogs import make_backlog
from goevent_faststream._adapter.connection_tasks import ConnectionTasks
from goevent_faststream._adapter.connectivity import Connectivity
from goevent_faststream._adapter.subscribed_names import SubscribedNames


def test_first_subscribed_name_that_matches_is_found() -> None:
    subscribed = SubscribedNames()
    for pattern in ("order.*", "order.paid", "**"):
        subscribed.add(pattern)
    assert subscribed.match("order.paid") == "order.*"
    assert subscribed.remove("order.*")
    assert not subscribed.remove("order.*")
    assert subscribed.match("order.paid") == "order.paid"
    assert subscribed.match("user.created") == "**"
    subscribed.clear()
    assert subscribed.match("order.paid") is None
    assert [*subscribed] == []


def test_all_names_and_patterns_that_match_are_found_in_order() -> None:
    subscribed = SubscribedNames()
    patterns = ("order.**", "order.paid", "*.paid", "user.*", "**", "order.paid")
    for pattern in patterns:
        subscribed.add(pattern)
    names = ("order.paid", "user.paid", "order", "order.", ".paid", "order..paid", "user.", "", ".")
    for _ in range(2):
        for name in names:
            tests = [each for each in dict.fromkeys(patterns) if compile_pattern(each)(name)]
            assert [*subscribed.matching(name)] == tests
    assert subscribed.remove("*.paid")
    assert [*subscribed.matching("order.paid")] == ["order.**", "order.paid", "**"]


def test_backlog_tells_the_age_of_the_oldest_event() -> None:
    now = datetime.now(UTC)
    published = [now - timedelta(seconds=5), now - timedelta(seconds=60)]
    backlog = make_backlog("order.paid", lag=3, pending=2, published=published)
    assert (backlog.event_name, backlog.lag, backlog.pending) == ("order.paid", 3, 2)
    assert backlog.oldest_pending >= 60


def test_age_is_zero_without_events_and_with_a_clock_that_is_ahead() -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    assert make_backlog("order.paid", lag=None, pending=0, published=[]).oldest_pending == 0
    assert make_backlog("order.paid", lag=0, pending=1, published=[ahead]).oldest_pending == 0


def test_shielded_request_continues_when_its_caller_is_cancelled() -> None:
    async def main() -> None:
        tasks, reply, done = ConnectionTasks("NATS"), asyncio.Event(), list[int]()

        async def request() -> None:
            await reply.wait()
            done.append(1)

        caller = asyncio.create_task(tasks.run_shielded(request()))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        reply.set()
        await asyncio.sleep(0)
        assert done == [1]

    asyncio.run(main())


def test_wait_for_a_connection_is_counted_from_the_request_and_not_from_the_loss() -> None:
    async def main() -> None:
        loop, now = asyncio.get_running_loop(), 0.0
        loop.time = lambda: now  # type: ignore[method-assign]
        connectivity = Connectivity("NATS", wait_seconds=5)
        connectivity.mark_up()
        connectivity.mark_down("for the test")
        now = 100.0
        first = asyncio.create_task(connectivity.wait_until_up())
        deadline = connectivity.deadline()
        await asyncio.sleep(0)
        now = 104.0
        second = asyncio.create_task(connectivity.wait_until_up())
        await asyncio.sleep(0)
        assert not first.done()
        now = 106.0
        with pytest.raises(DriverConnectionError, match="no connection for 5 s: for the test"):
            await first
        # A request that waited in a queue meanwhile does not begin anew.
        with pytest.raises(DriverConnectionError):
            await connectivity.wait_until_up(deadline)
        assert not second.done()
        connectivity.mark_up()
        await second
        await connectivity.wait_until_up(deadline)

    asyncio.run(main())


def test_requests_of_a_lost_connection_fail_with_a_connection_error() -> None:
    async def main() -> None:
        tasks = ConnectionTasks("NATS")
        caller = asyncio.create_task(tasks.run_shielded(asyncio.sleep(1000)))
        await asyncio.sleep(0)
        tasks.cancel()
        with pytest.raises(DriverConnectionError, match="NATS: the connection was lost"):
            await caller

    asyncio.run(main())
