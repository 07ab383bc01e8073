"""Failed events are delivered again after pauses, and finally become dead letters."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import trio
from tests.support.limits import HANG_SECONDS, PROMPT_SECONDS
from tests.support.redis_buses import Paid, numbers, opened, until
from tests.support.streams_buses import (
    STREAM,
    StreamsBus,
    command_client,
    pending,
    publish,
    streams_server,
    until_settled,
)

from goevent import DeadLettered, DecodeError, DriverConnectionError, UnsupportedError
from goevent_redis._link.connection import RedisConnection
from goevent_redis._streams.stream import parse_id


async def test_poison_event_is_tried_max_deliveries_times_and_becomes_one_dead_letter() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, max_deliveries=4)
        tries = bus.tries(fail=lambda event: event.n == 7)
        async with bus:
            ids = await publish(bus, *range(20))
            await until_settled(ask)
            (letter,) = await bus.driver.dead_letters.list()
            assert await bus.driver.dead_letters.count() == 1
        assert await ask("XLEN", "goevent:dead:shop") == 1
    assert [deliveries for n, deliveries in tries if n == 7] == [1, 2, 3, 4]
    assert sorted(n for n, _ in tries if n != 7) == [n for n in range(20) if n != 7]
    assert {deliveries for n, deliveries in tries if n != 7} == {1}
    assert letter.event_name == "order.paid"
    assert letter.event_id == ids[7]
    assert b'"n":7' in letter.data
    assert letter.deliveries == 4
    assert "no 7" in letter.reason
    assert "Traceback" in letter.details
    assert letter.consumer
    assert bus.says("is a dead letter after 4 deliveries") == 1
    (report,) = bus.causes(DeadLettered)
    assert (report.event_name, report.id) == (letter.event_name, letter.event_id)
    assert (report.reason, report.deliveries) == (letter.reason, 4)


async def test_pauses_between_deliveries_grow() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, max_deliveries=4, backoff=0.1)
        times: list[float] = []

        def fail(event: Paid) -> None:
            times.append(trio.current_time())
            raise ValueError

        bus.subscribe(fail, Paid)
        async with bus:
            await publish(bus, 1)
            await until_settled(ask)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps) == 3
    # A busy machine may make any pause longer, so only the whole has a limit: it is below the time
    # after which an entry is claimed from a consumer that says nothing.
    for gap, least in zip(gaps, (0.1, 0.2, 0.4), strict=True):
        assert least <= gap
    assert sum(gaps) < PROMPT_SECONDS


async def test_failure_of_one_listener_delivers_the_event_to_all_listeners_again() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        seen = bus.seen()
        tries = bus.tries(fail=lambda event: len(tries) < 2)
        async with bus:
            await publish(bus, 1)
            await until_settled(ask)
    assert tries == [(1, 1), (1, 2)]
    assert numbers(seen) == [1, 1]


@pytest.mark.parametrize("options", [{}, {"async_": True}, {"thread": True}], ids=str)
async def test_listener_that_does_not_run_has_its_event_delivered_again(
    options: dict[str, Any],
) -> None:
    async def charge(event: Paid) -> None:
        raise AssertionError("nobody should await this")

    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, max_deliveries=2)
        bus.subscribe(lambda event: charge(event), Paid, name="charge", **options)
        async with bus:
            await publish(bus, 1)
            await until_settled(ask)
            (letter,) = await bus.driver.dead_letters.list()
    assert letter.deliveries == 2
    assert "charge failed" in letter.reason
    assert "returned a coroutine" in letter.reason
    assert bus.says("returned a coroutine") >= 2


async def test_undecodable_bytes_are_a_dead_letter_at_once() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        seen = bus.seen()
        async with bus:
            await ask("XADD", STREAM, "*", "e", b"\xff{no json")
            await ask("XADD", STREAM, "*", "other", "field")
            await publish(bus, 1)
            await until_settled(ask)
            first, second = await bus.driver.dead_letters.list()
    assert numbers(seen) == [1]
    assert first.data == b"\xff{no json"
    assert first.deliveries == 1
    assert "no field 'e'" in second.reason
    assert len(bus.causes(DecodeError)) == 2


async def test_dead_letters_are_replayed_inspected_and_discarded() -> None:
    async with streams_server() as server, command_client(server) as ask:
        broken = [True]
        bus = StreamsBus(server.addr, max_deliveries=1)
        tries = bus.tries(fail=lambda _: broken[0])
        audit = StreamsBus(server.addr, "audit")
        seen = audit.seen()
        async with opened(bus, audit):
            letters = bus.driver.dead_letters
            await publish(bus, *range(6))
            await until(lambda: len(tries) == 6)
            await until_settled(ask)
            found = await letters.list(2)
            assert [b'"n":0' in each.data for each in found] == [True, False]
            rest = await letters.list(after=found[1].id)
            assert len(rest) == 4
            assert await letters.get(found[0].id) == found[0]
            assert await letters.get("1-1") is None
            assert await letters.discard(found[0], found[1].id, "1-1") == 2
            broken[0] = False
            tries.clear()
            assert await letters.replay(rest[0], rest[1].id, "1-1") == 2
            await until(lambda: len(tries) == 2)
            assert await letters.count() == 2
            assert await letters.replay_all() == 2
            await until(lambda: len(tries) == 4)
            assert sorted(tries) == [(n, 1) for n in range(2, 6)]
            assert await letters.count() == 0
            assert await letters.replay_all() == 0
            # Finished events are deleted from the stream of replayed events.
            with trio.fail_after(HANG_SECONDS):
                while await ask("XLEN", "goevent:again:shop:order.paid"):
                    await trio.sleep(0.01)
    # The replay does not concern the other group.
    assert sorted(numbers(seen)) == [*range(6)]


async def test_dead_letters_need_a_group_and_an_open_bus() -> None:
    with pytest.raises(UnsupportedError, match="group"):
        StreamsBus("127.0.0.1:1", None).driver.dead_letters  # noqa: B018
    with pytest.raises(DriverConnectionError, match="open its bus"):
        await StreamsBus("127.0.0.1:1").driver.dead_letters.count()


async def test_entry_whose_consumers_died_with_it_runs_alone_and_is_given_up_in_the_end() -> None:
    async with streams_server() as server, command_client(server) as ask:
        sender = StreamsBus(server.addr, None)
        bus = StreamsBus(server.addr, claim_idle=0.2, max_deliveries=3)
        running: set[int] = set()
        beside: dict[int, set[int]] = {}
        tries: list[int] = []

        async def work(event: Paid) -> None:
            tries.append(event.n)
            running.add(event.n)
            await trio.sleep(0.01)
            beside[event.n] = set(running)
            running.discard(event.n)

        bus.subscribe(work, Paid, concurrency=50)
        await ask("XGROUP", "CREATE", STREAM, "shop", "0", "MKSTREAM")
        async with sender:
            ids = await publish(sender, *range(10))
        # A consumer died with ten entries, and one of them had killed three consumers before.
        await ask("XREADGROUP", "GROUP", "shop", "dead", "COUNT", 10, "STREAMS", STREAM, ">")
        claim = partial(ask, "XCLAIM", STREAM, "shop", "dead", 0)
        await claim(ids[3], "RETRYCOUNT", 3, "JUSTID")
        async with bus:
            await publish(bus, *range(10, 20))
            await until_settled(ask)
            (letter,) = await bus.driver.dead_letters.list()
    assert sorted(tries) == [n for n in range(20) if n != 3]
    assert letter.event_id == ids[3]
    assert "have ended" in letter.reason
    assert all(beside[n] == {n} for n in range(10) if n != 3)
    assert any(len(beside[n]) > 1 for n in range(10, 20))


async def test_trimmed_while_pending_is_reported_by_id() -> None:
    async with streams_server() as server, command_client(server) as ask:
        sender = StreamsBus(server.addr, None)
        await ask("XGROUP", "CREATE", STREAM, "shop", "0", "MKSTREAM")
        async with sender:
            ids = await publish(sender, *range(5))
        await ask("XREADGROUP", "GROUP", "shop", "dead", "COUNT", 5, "STREAMS", STREAM, ">")
        await ask("XTRIM", STREAM, "MINID", ids[3])
        bus = StreamsBus(server.addr, claim_idle=0.2)
        seen = bus.seen()
        async with bus:
            await until_settled(ask)
    assert sorted(numbers(seen)) == [3, 4]
    assert [bus.says(f"{each} of 'order.paid' was trimmed") for each in ids] == [1, 1, 1, 0, 0]


async def test_silent_consumers_are_removed_once_they_own_nothing() -> None:
    async with streams_server() as server, command_client(server) as ask:
        await ask("XGROUP", "CREATE", STREAM, "shop", "0", "MKSTREAM")
        await ask("XADD", STREAM, "*", "e", "x")
        await ask("XREADGROUP", "GROUP", "shop", "dead", "STREAMS", STREAM, ">")
        await ask("XGROUP", "CREATECONSUMER", STREAM, "shop", "idle")
        bus = StreamsBus(server.addr, claim_idle=0.2)
        bus.seen()
        async with bus:
            with trio.fail_after(HANG_SECONDS):
                names = [b"dead"]
                while {b"dead", b"idle"} & {*names}:
                    found = await ask("XINFO", "CONSUMERS", STREAM, "shop")
                    names = [each[b"name"] for each in found]
                    await trio.sleep(0.01)
            # Only the bus itself is left.
            assert len(names) == 1
        assert await ask("XINFO", "CONSUMERS", STREAM, "shop") == []
        assert await pending(ask) == 0


async def test_isolated_event_that_waits_for_a_long_listener_delays_others_only_briefly() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, claim_idle=1.0)
        done: list[int] = []
        gate = trio.Event()

        async def work(event: Paid) -> None:
            if event.n == 0:
                await gate.wait()
            done.append(event.n)

        bus.subscribe(work, Paid, concurrency=10)
        await ask("XGROUP", "CREATE", STREAM, "shop", "0", "MKSTREAM")
        async with StreamsBus(server.addr, None) as sender:
            await publish(sender, 1)
            await ask("XREADGROUP", "GROUP", "shop", "dead", "STREAMS", STREAM, ">")
            async with bus:
                await publish(sender, 0)
                # The bus takes the event over that may have killed its consumer.
                await trio.sleep(1.5)
                assert await pending(ask) == 2
                await publish(sender, *range(2, 50))
                await until(lambda: {*range(2, 50)} <= {*done})
                assert 1 not in done
                gate.set()
                await until_settled(ask)
        assert sorted(done) == [*range(50)]


async def test_a_bus_without_listeners_lists_replays_and_discards_for_a_group() -> None:
    async with streams_server() as server:
        bus, operator = StreamsBus(server.addr, max_deliveries=1), StreamsBus(server.addr)
        failing, seen = {1, 2, 3}, list[int]()

        def take(event: Paid) -> None:
            seen.append(event.n)
            if event.n in failing:
                raise ValueError

        bus.subscribe(take, Paid)
        async with opened(bus, operator):
            for n in (1, 2, 3):
                await (await bus.dispatch(Paid(n=n))).wait()
            letters = operator.driver.dead_letters
            await until(lambda: bus.says("dead letter") == 3)
            failing.clear()
            first, second, third = await letters.list()
            assert await letters.discard(second) == 1
            assert await letters.replay(first, third) == 2
            await until(lambda: len(seen) == 5)
            assert await operator.replay(Paid) == 3
            await until(lambda: len(seen) == 8)
            assert operator.told == []


async def test_entry_that_the_monitor_sees_before_its_read_is_answered_is_no_repeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The monitor asks over a connection of its own, so its answer may be here first.
    call, looked = RedisConnection.call, trio.Event()

    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        tries = bus.tries()

        def has_seen(newest: tuple[int, int]) -> bool:
            consumer = bus.driver._consumer  # pyright: ignore[reportPrivateUsage]
            assert consumer is not None
            (stream,) = consumer._reader.streams.values()  # pyright: ignore[reportPrivateUsage]
            return stream.highest_id >= newest

        async def read_late(
            connection: RedisConnection, *args: Any, timeout: float | None = None
        ) -> Any:
            reply = await call(connection, *args, timeout=timeout)
            if args[0] == "XREADGROUP" and reply:
                await until(partial(has_seen, parse_id(reply[STREAM.encode()][-1][0])))
                looked.set()
            return reply

        monkeypatch.setattr(RedisConnection, "call", read_late)
        async with bus:
            await publish(bus, 1)
            await until_settled(ask)
            await publish(bus, 2)
            await until_settled(ask)
    assert looked.is_set()
    assert tries == [(1, 1), (2, 1)]
