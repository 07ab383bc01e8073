"""Redis pub/sub reports its losses, and the number of lost events, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import pytest
import trio
from tests.support.limits import HANG_SECONDS, PROMPT_SECONDS
from tests.support.redis_buses import (
    Bus,
    Deep,
    Paid,
    User,
    bus_at,
    bus_on,
    listening,
    numbers,
    opened,
    plain_link,
    sent,
    until,
)
from tests.support.redis_server import SMALL_OUTPUT_BUFFER, RedisServer, fault_proxy, redis_server
from tests.support.stopwatch import Stopwatch

from goevent import DriverConnectionError, DriverError, EncodeError, GapDetected
from goevent_redis import RedisDriver
from goevent_redis._pubsub import sequencer

ORIGIN = "0123456789abcdef" * 2


def envelope(n: int, seq: int | None, origin: str = ORIGIN) -> bytes:
    """Return an event as another bus would send it."""
    sent: dict[str, Any] = {
        "event_name": "order.paid",
        "event_type": "order.paid",
        "event_data": {"n": n},
        "handle_id": "0" * 16,
        "timestamp": 1,
        "origin": origin,
    }
    if seq is not None:
        sent["seq"] = seq
    return json.dumps(sent).encode()


def marks(number: int, origin: str = ORIGIN) -> bytes:
    return json.dumps({"origin": origin, "marks": {"order.paid": number}}).encode()


# -- the server goes away


async def test_a_killed_server_is_reported_and_used_again_within_a_second() -> None:
    async with redis_server() as server:
        one, two = bus_on(server), bus_on(server)
        mine, seen, deep = one.seen(Paid), two.seen("order.*"), two.seen(Deep)
        async with opened(two, one):
            await sent(one, Paid(n=1))
            await until(lambda: seen)
            for n in (2, 3):
                one_told, two_told = one.says("lost"), two.says("lost")
                server.kill()
                await until(lambda before=one_told: one.says("lost") > before)  # type: ignore[misc]
                await until(lambda before=two_told: two.says("lost") > before)  # type: ignore[misc]
                again = two.says("connected to Redis again")
                await server.start()
                started = Stopwatch()
                await until(lambda again=again: two.says("connected to Redis again") > again)  # type: ignore[misc]
                assert started.unhindered_seconds < 1.0
                assert (await sent(one, Paid(n=n))).receivers == 1
                await sent(one, Deep(n=n))
                await until(lambda n=n: len(seen) == n and len(deep) == n - 1)  # type: ignore[misc]
        assert numbers(mine) == numbers(seen) == [1, 2, 3]
        assert two.says("is lost") == two.says("connected to Redis again") == 2


@pytest.mark.usefixtures("brief_downtime")
async def test_a_publish_without_a_server_fails_clearly_and_local_listeners_have_run() -> None:
    async with redis_server() as server:
        one = bus_on(server)
        mine = one.seen(Paid)
        async with one:
            server.kill()
            await until(lambda: one.says("lost"))
            started = Stopwatch()
            handle = await one.dispatch(Paid(n=1))
            assert numbers(mine) == [1]
            await handle.wait()
            assert started.unhindered_seconds < 10
            (error,) = handle.errors
            assert isinstance(error.__cause__, DriverConnectionError)
            assert server.addr in str(error)
            assert "not connected" in str(error)
            await server.start()
            await until(
                lambda: one.says("again")
            )  # the publish does not wait for so long an outage
            assert not (await sent(one, Paid(n=2))).errors
        assert numbers(mine) == [1, 2]


@pytest.mark.usefixtures("brief_downtime")
async def test_each_of_many_publishes_in_an_outage_fails_within_ten_seconds() -> None:
    took: list[float] = []
    async with redis_server() as server:
        bus = bus_on(server)

        async def publish(n: int) -> None:
            began = trio.current_time()
            handle = await bus.dispatch(Paid(n=n))
            await handle.wait()
            assert handle.errors
            took.append(trio.current_time() - began)

        async with bus:
            server.kill()
            await until(lambda: bus.says("lost"))
            async with trio.open_nursery() as nursery:
                for n in range(3_000):
                    nursery.start_soon(publish, n)
    assert len(took) == 3_000
    assert max(took) < 10


@pytest.mark.usefixtures("brief_downtime")
async def test_a_server_that_goes_away_while_the_bus_opens_is_an_error_in_time() -> None:
    failed = 0
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        for budget in range(150, 700, 50):
            proxy.pass_on()
            bus = bus_at(proxy.addr)
            bus.seen(Paid)
            proxy.cut_after(budget)  # and later connections are cut at once
            with trio.fail_after(PROMPT_SECONDS):
                try:
                    async with bus:
                        pass
                except DriverError:
                    failed += 1
    assert failed


async def test_a_publish_waits_for_a_server_that_comes_back_soon() -> None:
    async with redis_server() as server:
        one = bus_on(server)
        async with one:
            server.kill()
            await until(lambda: one.says("lost"))
            handle = await one.dispatch(Paid(n=1))
            await server.start()
            await handle.wait()
            assert not handle.errors
            assert handle.receivers == 0


async def test_events_that_were_accepted_and_lost_with_the_server_are_a_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sequencer, "MARKS_INTERVAL_SECONDS", 0.5)
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        one, two = bus_on(server), bus_at(proxy.addr)
        seen = two.seen(Paid)
        async with opened(two, one):
            await sent(one, Paid(n=1))
            await until(lambda: seen)
            proxy.swallow()
            for n in range(2, 9):
                assert not (await sent(one, Paid(n=n))).errors
            proxy.reset()
            server.kill()
            proxy.pass_on()
            await server.start()
            await until(lambda: two.causes(GapDetected))
        (gap,) = two.causes(GapDetected)
        assert gap.missing == 7
        assert gap.channel == "goevent:order.paid"
        assert numbers(seen) == [1]


async def test_a_cut_connection_is_a_gap_of_exactly_the_missing_events() -> None:
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        one, two = bus_on(server), bus_at(proxy.addr)
        seen = two.seen(Paid, "order.*")
        async with opened(two, one):
            for turn in range(3):
                base = turn * 10
                await sent(one, Paid(n=base))
                await until(lambda base=base: base in numbers(seen))  # type: ignore[misc]
                proxy.swallow()
                for n in range(1, 5):
                    await sent(one, Paid(n=base + n))
                again = two.says("connected to Redis again")
                proxy.reset()
                proxy.pass_on()
                await until(lambda again=again: two.says("connected to Redis again") > again)  # type: ignore[misc]
                await sent(one, Paid(n=base + 9))
                await until(lambda base=base: base + 9 in numbers(seen))  # type: ignore[misc]
            await until(lambda: len(seen) + two.missing() == 18)
        assert len(two.causes(GapDetected)) == 3
        assert not one.told


# -- numbers


async def test_gaps_are_counted_per_origin_and_channel() -> None:
    async with redis_server() as server:
        bus = bus_on(server)
        seen = bus.seen(Paid)
        other = "f" * 32
        async with bus, plain_link(server) as link:
            for n, (seq, origin) in enumerate(
                [(5, ORIGIN), (6, ORIGIN), (70, other), (10, ORIGIN), (71, other), (9, ORIGIN)]
            ):
                await link.execute("PUBLISH", "goevent:order.paid", envelope(n, seq, origin))
            await until(lambda: len(seen) == 6)
        gaps = [(gap.origin, gap.missing) for gap in bus.causes(GapDetected)]
        assert gaps == [(ORIGIN, 3), (ORIGIN, -1)]
        assert all(error.event_name == "order.paid" for error in bus.told)


async def test_lost_last_messages_are_found_by_the_marks() -> None:
    async with redis_server() as server:
        bus = bus_on(server)
        seen, after = bus.seen(Paid), bus.seen(User)
        async with bus, plain_link(server) as link:
            await link.execute("PUBLISH", "goevent:$marks", marks(3))  # the channel is unknown
            await link.execute("PUBLISH", "goevent:order.paid", envelope(1, 4))
            await link.execute("PUBLISH", "goevent:$marks", marks(4))
            await link.execute("PUBLISH", "goevent:$marks", marks(9))
            await link.execute("PUBLISH", "goevent:$marks", marks(9))
            await link.execute("PUBLISH", "goevent:order.paid", envelope(2, 10))
            await until(lambda: len(seen) == 2)
        assert [gap.missing for gap in bus.causes(GapDetected)] == [5]
        assert len(bus.told) == 1
        assert after == []


async def test_marks_are_announced_every_five_seconds_while_there_are_new_ones() -> None:
    async with redis_server() as server:
        one = bus_on(server)
        announced: list[bytes] = []
        async with one, listening(server, announced, "goevent:$marks"):
            began = trio.current_time()
            for n in range(3):
                await sent(one, Paid(n=n))
            await until(lambda: announced)
            assert trio.current_time() - began > 4
            (first,) = announced
            assert json.loads(first)["marks"] == {"order.paid": 3}
        assert announced == [first]  # there were no new messages after it


async def test_malformed_marks_are_reported_once_each() -> None:
    bad = [
        b"",
        b"{",
        b"[]",
        b'{"origin":1}',
        b'{"origin":"a","marks":{"x":"y"}}',
        b"\xff",
        b"[" * 10**5,
    ]
    async with redis_server() as server:
        bus = bus_on(server)
        seen = bus.seen("**")
        async with bus, plain_link(server) as link:
            for data in bad:
                await link.execute("PUBLISH", "goevent:$marks", data)
            await link.execute("PUBLISH", "goevent:order.paid", envelope(1, 4))
            await until(lambda: seen)
        assert len(bus.told) == len(bad)


async def test_last_messages_lost_by_a_cut_are_found_while_the_publisher_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sequencer, "MARKS_INTERVAL_SECONDS", 0.5)
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        one, two = bus_on(server), bus_at(proxy.addr)
        seen = two.seen(Paid)
        async with opened(two, one):
            await sent(one, Paid(n=1))
            await until(lambda: seen)
            proxy.swallow()
            for n in range(2, 7):
                await sent(one, Paid(n=n))
            proxy.reset()
            proxy.pass_on()
            await until(two.missing)
        assert [gap.missing for gap in two.causes(GapDetected)] == [5]


# -- no false alarm


async def test_refused_and_cancelled_publishes_and_late_subscribers_are_no_gaps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sequencer, "MARKS_INTERVAL_SECONDS", 0.05)
    async with redis_server() as server:
        one, two, late = (bus_on(server, max_event_size=500) for _ in range(3))
        seen = two.seen(Paid)
        async with opened(two, one):
            for n in range(30):
                refused = await sent(one, Paid(n=-1, text="x" * 600))
                assert isinstance(refused.errors[0].__cause__, EncodeError)
                invalid = await sent(one, Paid(n=-1, text="\ud800"))
                assert isinstance(invalid.errors[0].__cause__, EncodeError)
                with trio.move_on_after(0):
                    await one.dispatch(Paid(n=-2))
                await sent(one, Paid(n=n))
            async with late:
                late_seen = late.seen(Paid)
                await late.ready()
                for n in range(30, 60):
                    await sent(one, Paid(n=n))
                await until(lambda: len(late_seen) == 30)
                # Leave the channel, miss some events, and come back.
                late.unregister_listeners_for_event(Paid)
                probe = late.seen(User)
                await late.ready()
                for n in range(60, 70):
                    await sent(one, Paid(n=n))
                late_seen = late.seen(Paid)
                await late.ready()
                await sent(one, Paid(n=70))
                await sent(one, User())
                await until(lambda: late_seen and probe)
            await until(lambda: len(seen) == 71)
        assert numbers(seen) == list(range(71))
        assert not two.told
        assert not late.told


async def test_a_publisher_that_reconnects_is_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequencer, "MARKS_INTERVAL_SECONDS", 0.05)
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        one, two = bus_at(proxy.addr), bus_on(server)
        seen, mine = two.seen(Paid), one.seen(Paid)
        async with opened(two, one):
            n = failed = 0
            for turn in range(5):
                for _ in range(20):
                    await sent(one, Paid(n=n))
                    n += 1
                handles = [await one.dispatch(Paid(n=n + k)) for k in range(20)]
                n += 20
                proxy.reset()
                for handle in handles:
                    await handle.wait()
                    failed += len(handle.errors)
                await until(lambda turn=turn: one.says("connected to Redis again") > turn)  # type: ignore[misc]
            await sent(one, Paid(n=n))
            await until(lambda: n in numbers(seen))
            assert len(mine) == n + 1
            assert len(seen) >= n + 1 - failed
        assert numbers(seen) == sorted(set(numbers(seen)))
        assert not two.told


async def test_forked_processes_have_different_origins() -> None:
    """The bus is made before the fork, and each process opens it after the fork."""
    script = """
import os, sys, trio
sys.path[:0] = sys.argv[2].split(os.pathsep)
from tests.support.redis_buses import Paid, bus_at, sent
bus = bus_at(sys.argv[1])
pids = []
async def main(child):
    async with bus:
        for n in range(50):
            await sent(bus, Paid(n=child * 100 + n))
for child in range(4):
    pid = os.fork()
    if not pid:
        trio.run(main, child)
        os._exit(0)
    pids.append(pid)
sys.exit(max(os.waitpid(pid, 0)[1] for pid in pids))
"""
    async with redis_server() as server:
        bus = bus_on(server)
        seen = bus.seen(Paid)
        async with bus:
            with trio.fail_after(HANG_SECONDS):
                await trio.run_process(
                    [sys.executable, "-c", script, server.addr, os.pathsep.join(sys.path)]
                )
            await until(lambda: len(seen) == 200)
        assert sorted(numbers(seen)) == [c * 100 + n for c in range(4) for n in range(50)]
        assert not bus.told


# -- subscribers that are too slow


async def test_a_subscriber_cut_by_the_output_buffer_limit_recovers_and_reports() -> None:
    async with redis_server(SMALL_OUTPUT_BUFFER) as server, fault_proxy(server.port) as proxy:
        one, two = bus_on(server), bus_at(proxy.addr)
        seen = two.seen(Paid)
        async with opened(two, one), plain_link(server) as link:
            await sent(one, Paid(n=0))
            await until(lambda: seen)
            proxy.swallow()
            count = 0
            with trio.fail_after(HANG_SECONDS):
                while True:
                    count += 1
                    handle = await sent(one, Paid(n=count, text="x" * 100_000))
                    if handle.receivers == 0:
                        break
            proxy.pass_on()
            await until(lambda: two.says("connected to Redis again"))
            await link.execute("PING")
            await sent(one, Paid(n=count + 1))
            await until(lambda: count + 1 in numbers(seen))
            await until(lambda: len(seen) + two.missing() == count + 2)
        assert two.says("is lost") == 1
        assert two.missing() > 0
        assert numbers(seen) == sorted(set(numbers(seen)))


async def test_a_slow_subscriber_keeps_its_memory_limit_and_reports_its_losses() -> None:
    script = """
import os, sys, trio
sys.path[:0] = sys.argv[2].split(os.pathsep)
from tests.support.redis_buses import Paid, User, bus_at, until
from goevent import GapDetected

def rss():
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmRSS"):
                return int(line.split()[1]) // 1024
    raise RuntimeError

async def main():
    # A fourth of the default, which fills in a fourth of the time.
    bus = bus_at(sys.argv[1], prefetch_bytes=8 << 20)
    gate, seen, most = trio.Event(), [0, 0], rss()
    base = most

    @bus.listener(Paid, mailbox=100)
    async def slow(event):
        await gate.wait()
        seen[0] += 1
        seen[1] = event.n

    async with bus:
        print("ready", flush=True)
        while not bus.says("too slow"):
            most = max(most, rss())
            await trio.sleep(0.01)
        for _ in range(50):
            most = max(most, rss())
            await trio.sleep(0.01)
        print("told", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        most = max(most, rss())
        gate.set()
        await until(lambda: seen[1] == -1, 60)
        most = max(most, rss())
        print(most - base, seen[0], bus.missing(), bus.says("were dropped"), flush=True)

trio.run(main)
"""
    async with redis_server() as server:
        process = subprocess.Popen(
            [sys.executable, "-c", script, server.addr, os.pathsep.join(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process:
            try:
                read_line = process.stdout.readline
                with trio.fail_after(HANG_SECONDS):
                    assert await trio.to_thread.run_sync(read_line) == "ready\n"
                    count = await flood(server, read_line, "told\n")
                    process.stdin.write("\n")
                    process.stdin.flush()
                    line = await after(server, read_line)
            finally:
                process.kill()
        growth, arrived, missing, reports = map(int, line.split())
        assert growth < 20
        assert arrived + missing >= count  # the rest were sent while it recovered
        assert missing > 0
        assert reports >= 1


async def flood(server: RedisServer, read_line: Any, last: str) -> int:
    """Publish numbered events until the subscriber has printed a line; return how many."""
    done = trio.Event()

    async def listen() -> None:
        assert await trio.to_thread.run_sync(read_line) == last
        done.set()

    count = 0
    async with trio.open_nursery() as nursery, plain_link(server) as link:
        nursery.start_soon(listen)
        while not done.is_set():
            batch = [
                ("PUBLISH", "goevent:order.paid", envelope(n, n)[:-1] + b" " * 150 + b"}")
                for n in range(count + 1, count + 2001)
            ]
            await link.pipeline(batch)
            count += len(batch)
    seqs["next"] = count + 1
    return count


seqs: dict[str, int] = {}


async def after(server: RedisServer, read_line: Any) -> str:
    """Publish last events until the subscriber has got one and has printed its result."""
    result: list[str] = []
    async with plain_link(server) as link, trio.open_nursery() as nursery:

        async def listen() -> None:
            result.append(await trio.to_thread.run_sync(read_line))
            nursery.cancel_scope.cancel()

        nursery.start_soon(listen)
        while True:
            number = seqs["next"]
            seqs["next"] += 1
            await link.execute("PUBLISH", "goevent:order.paid", envelope(-1, number))
            await trio.sleep(0.05)
    return result[0]


async def test_a_listener_that_blocks_the_loop_is_no_lost_connection() -> None:
    async with redis_server() as server:
        one, two = bus_on(server, read_timeout=0.5), bus_on(server, read_timeout=0.5)
        two.subscribe(lambda event: time.sleep(1.2), User)
        seen = two.seen(Paid)
        async with opened(two, one):
            await sent(one, User())
            await sent(one, Paid(n=1))
            await until(lambda: seen)
        assert not one.told
        assert not two.told


async def test_events_in_the_queue_of_a_closed_bus_are_reported() -> None:
    async with redis_server() as server:
        one, two = bus_on(server), bus_on(server)
        started = trio.Event()

        @two.listener(Paid, mailbox=1)
        async def _(event: Paid) -> None:
            started.set()
            await trio.sleep_forever()

        async with one:
            await two.__aenter__()
            for n in range(20):
                await sent(one, Paid(n=n))
            await started.wait()
            await two.close(timeout=0.2)
            await two.__aexit__(None, None, None)
        abandoned = [error for error in two.told if error.outcome == "abandoned"]
        assert len(abandoned) == 20


async def test_dropped_messages_are_counted_in_the_report() -> None:
    async with redis_server() as server:
        bus = bus_on(server, prefetch_bytes=10_000)
        gate, seen = trio.Event(), list[int]()

        @bus.listener(Paid, mailbox=1)
        async def _(event: Paid) -> None:
            await gate.wait()
            seen.append(event.n)

        async with bus, plain_link(server) as link:
            for n in range(1, 101):
                await link.execute("PUBLISH", "goevent:order.paid", envelope(n, n))
            await until(lambda: bus.says("too slow"))
            gate.set()
            await until(lambda: bus.says("were dropped"))
            with suppress(AssertionError):
                await until(lambda: not seen, 0.05)
            await link.execute("PUBLISH", "goevent:order.paid", envelope(101, 101))
            await until(lambda: 101 in seen)
        assert len(seen) + bus.missing() == 101
        (dropped,) = [e for e in bus.causes(DriverError) if "were dropped" in str(e)]
        assert str(dropped).startswith(f"{bus.missing()} message(s)")


async def test_a_message_larger_than_the_queue_passes_alone_and_does_not_stop_later_ones() -> None:
    async with redis_server() as server:
        bus = bus_on(server, prefetch_bytes=60_000)
        gate, seen = trio.Event(), list[int]()

        @bus.listener(Paid, mailbox=1)
        async def _(event: Paid) -> None:
            await gate.wait()
            seen.append(event.n)

        async with bus, plain_link(server) as link:
            for n in range(
                1, 4
            ):  # one runs, one is in the mailbox, one is with the receiver: the queue is empty
                await link.execute("PUBLISH", "goevent:order.paid", envelope(n, n))
            client: Any = bus.driver.client
            await client.ping()  # its reply comes after them
            for n in (4, 5):
                large = envelope(n, n)[:-1] + b" " * 100_000 + b"}"
                await link.execute("PUBLISH", "goevent:order.paid", large)
            await until(lambda: bus.says("too slow: 60,000 bytes"))
            gate.set()
            await until(lambda: bus.says("were dropped"))
            batch = [("PUBLISH", "goevent:order.paid", envelope(n, n)) for n in range(6, 106)]
            await link.pipeline(batch)
            await until(lambda: 105 in seen)
        assert seen == [1, 2, 3, 4, *range(6, 106)]
        assert bus.missing() == 1


async def test_one_read_fills_the_queue_and_only_its_rest_is_dropped() -> None:
    """The limit holds for messages, not for what one read of the socket happens to bring."""
    async with redis_server() as server:
        url = f"redis://{server.addr}?prefetch_bytes=20000"
        bus = Bus(RedisDriver(url))
        gate, seen = trio.Event(), list[int]()

        @bus.listener(Paid, mailbox=1)
        async def _(event: Paid) -> None:
            await gate.wait()
            seen.append(event.n)

        async with bus, plain_link(server) as link:
            for n in range(1, 4):
                await link.execute("PUBLISH", "goevent:order.paid", envelope(n, n))
            client: Any = bus.driver.client
            await client.ping()
            padded = [
                (b"message", b"goevent:order.paid", envelope(n, n)[:-1] + b" " * 4000 + b"}")
                for n in range(4, 24)
            ]
            driver: Any = bus.driver
            driver._receiver.push([list(frame) for frame in padded])
            gate.set()
            await until(lambda: bus.says("were dropped"))
            await link.execute("PUBLISH", "goevent:order.paid", envelope(24, 24))
            await until(lambda: 24 in seen)
        # Five messages of about 4,550 bytes: the fifth reaches the limit.
        assert seen == [*range(1, 9), 24]
        assert bus.missing() == 15


async def test_the_queue_counts_the_bytes_of_channel_names() -> None:
    async with redis_server() as server:
        bus = bus_on(server, prefetch_bytes=60_000)
        gate = trio.Event()

        @bus.listener("order.**", mailbox=1)
        async def _(event: Any) -> None:
            await gate.wait()

        async with bus, plain_link(server) as link:
            for n in range(1, 4):
                await link.execute("PUBLISH", "goevent:order.paid", envelope(n, n))
            await link.pipeline([("PUBLISH", "goevent:order." + "x" * 5000, b"{}")] * 60)
            await until(lambda: bus.says("too slow"))
            gate.set()
