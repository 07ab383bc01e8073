"""A bus that ends releases unstarted events, and a slow listener keeps its event."""

from __future__ import annotations

from typing import Any

import trio
from tests.support.limits import HANG_SECONDS, PROMPT_SECONDS
from tests.support.redis_buses import Paid, numbers, opened, until
from tests.support.stopwatch import Stopwatch
from tests.support.streams_buses import (
    STREAM,
    StreamsBus,
    command_client,
    pending,
    publish,
    streams_server,
    until_settled,
)

from goevent import current_delivery


async def test_clean_stop_releases_unstarted_events_uncounted_within_a_second() -> None:
    async with streams_server() as server, command_client(server) as ask:
        first, second = StreamsBus(server.addr), StreamsBus(server.addr)
        done: list[int] = []
        gate = trio.Event()

        async def slow(event: Paid) -> None:
            await gate.wait()
            done.append(event.n)

        first.subscribe(slow, Paid, mailbox=10)
        tries = second.tries()
        async with first:
            await publish(first, *range(100))
            with trio.fail_after(PROMPT_SECONDS):
                while await pending(ask) < 100:
                    await trio.sleep(0.01)
            async with second, trio.open_nursery() as nursery:
                nursery.start_soon(first.close, 1.0)
                # Events in front of the mailbox are released while the listener still runs.
                await until(lambda: len(tries) >= 80)
                assert not done
                await until(lambda: first.snapshot().state == "closed")
                closed = Stopwatch()
                await until(lambda: len(tries) == 100)
                assert closed.unhindered_seconds < 1.0
                await until_settled(ask)
    assert sorted(n for n, _ in tries) == [*range(100)]
    # One had started and was abandoned; all others count as never delivered.
    assert sorted(deliveries for _, deliveries in tries) == [1] * 99 + [2]


async def test_stop_lets_listeners_finish_and_acknowledges_them() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        done: list[int] = []

        async def slow(event: Paid) -> None:
            await trio.sleep(0.05)
            done.append(event.n)

        bus.subscribe(slow, Paid, concurrency=20)
        async with bus:
            await publish(bus, *range(20))
            with trio.fail_after(HANG_SECONDS):
                while await pending(ask) < 20:
                    await trio.sleep(0.001)
            ledger = await bus.close(5.0)
        assert sorted(done) == [*range(20)]
        assert (ledger.abandoned, ledger.failed) == (0, 0)
        assert await pending(ask) == 0


async def test_twenty_graceful_stops_lose_no_event_and_deliver_none_twice() -> None:
    async with streams_server() as server, command_client(server) as ask:
        tries: list[tuple[int, int]] = []
        sender = StreamsBus(server.addr, None)
        async with sender:
            await publish(sender, *range(400))
        for _ in range(20):
            bus = StreamsBus(server.addr, prefetch=50)

            async def work(event: Paid, bus: StreamsBus = bus) -> None:
                tries.append((event.n, current_delivery().deliveries))
                await trio.sleep(0)

            bus.subscribe(work, Paid, concurrency=4)
            before = len(tries)
            async with bus:
                await until(lambda before=before: len(tries) >= before + 5 or len(tries) == 400)  # type: ignore[misc]
            assert not bus.told
        last = StreamsBus(server.addr)
        rest = last.tries()
        async with last:
            await until_settled(ask)
    everything = tries + rest
    assert sorted(n for n, _ in everything) == [*range(400)]
    assert {deliveries for _, deliveries in everything} == {1}


async def test_long_listener_keeps_its_event_however_long_it_takes() -> None:
    async with streams_server() as server, command_client(server) as ask:
        first = StreamsBus(server.addr, claim_idle=0.3)
        second = StreamsBus(server.addr, claim_idle=0.3)
        runs: list[str] = []

        def slowly(who: str) -> Any:
            async def work(event: Paid) -> None:
                runs.append(who)
                await trio.sleep(1.5)

            return work

        first.subscribe(slowly("first"), Paid)
        second.subscribe(slowly("second"), Paid)
        async with opened(first, second):
            await publish(first, 1)
            await until_settled(ask)
        assert len(runs) == 1
        assert not first.told + second.told


async def test_cancelled_bus_leaves_its_events_to_other_buses() -> None:
    async with streams_server() as server, command_client(server) as ask:
        first = StreamsBus(server.addr)
        seen = first.seen(async_=True)
        with trio.CancelScope() as scope:
            async with first:
                await publish(first, *range(10))
                await until(lambda: seen)
                scope.cancel()
        async with StreamsBus(server.addr, None) as sender:
            await publish(sender, *range(10, 20))
        second = StreamsBus(server.addr)
        more = second.seen()
        async with second:
            await until_settled(ask)
    assert {*numbers(seen + more)} == {*range(20)}


async def test_named_consumer_first_gets_the_events_that_it_held_at_a_crash() -> None:
    async with streams_server() as server, command_client(server) as ask:
        await ask("XGROUP", "CREATE", STREAM, "shop", "0", "MKSTREAM")
        async with StreamsBus(server.addr, None) as sender:
            await publish(sender, *range(4))
        read = ("XREADGROUP", "GROUP", "shop", "worker-1", "COUNT", 2, "STREAMS", STREAM, ">")
        # The consumer reads two events, and crashes.
        await ask(*read)
        bus = StreamsBus(server.addr, consumer="worker-1")
        tries = bus.tries()
        async with bus:
            await until_settled(ask)
    assert tries == [(0, 2), (1, 2), (2, 1), (3, 1)]
