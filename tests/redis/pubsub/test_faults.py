"""Redis pub/sub over a faulty network: no half event, no duplicate, no silent loss."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import (
    Bus,
    Paid,
    User,
    bus_at,
    bus_on,
    numbers,
    opened,
    sent,
    tls_contexts,
    until,
)
from tests.support.redis_resp import PythonReader
from tests.support.redis_server import FaultProxy, fault_proxy, redis_server

from goevent import DecodeError, DispatchHandle, DriverConnectionError, Envelope, JsonCodec
from goevent_redis import RedisConfig, RedisDriver
from goevent_redis._link.connection import Opening, open_connection

BACK = "connected to Redis again"


class MessageStub:
    """A message that the test publishes by itself."""

    handle_id = "0" * 16
    key = None
    headers: Mapping[str, str] = {}

    def __init__(self, event: Paid) -> None:
        self.event = event
        self.event_name = event.event_name

    def envelope(self) -> Envelope:
        return Envelope(event_name=self.event_name, event=self.event)

    def encode(self, *, origin: str | None = None, seq: int | None = None) -> bytes:
        envelope = Envelope(
            event_name=self.event_name, event=self.event, origin=origin or "", seq=seq
        )
        return JsonCodec().encode(envelope)


async def test_resets_lose_only_reported_events() -> None:
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        one, two = bus_on(server), bus_at(proxy.addr)
        seen = two.seen(Paid, "order.*")
        async with opened(two, one):
            for n in range(300):
                await sent(one, Paid(n=n))
                if n == 0:
                    await until(lambda: seen)
                if n % 60 == 59:
                    again = two.says(BACK)
                    proxy.reset()
                    await until(lambda again=again: two.says(BACK) > again)  # type: ignore[misc]
            await sent(one, Paid(n=300))
            await until(lambda: 300 in numbers(seen))
        assert len(seen) + two.missing() == 301
        assert numbers(seen) == sorted(set(numbers(seen)))
        assert two.says("is lost") == two.says(BACK) == 5
        assert not one.told


async def check_no_half_and_no_double(
    one: Bus, two: Bus, proxy: FaultProxy, faults: Sequence[Callable[[], None]]
) -> None:
    """Send events through connections that break; each arrives whole and once, or is missing."""
    seen = two.seen(Paid)
    async with opened(two, one):
        await sent(one, Paid(n=0, text="x" * 300))
        await until(lambda: seen)
        n = 0
        for fault in faults:
            again = two.says(BACK)
            fault()
            while two.says("is lost") <= again:
                n += 1
                await sent(one, Paid(n=n, text="x" * 300))
            proxy.pass_on()
            await until(lambda again=again: two.says(BACK) > again)  # type: ignore[misc]
        n += 1
        await sent(one, Paid(n=n, text="x" * 300))
        await until(lambda: n in numbers(seen))
    assert len(seen) + two.missing() == n + 1
    assert numbers(seen) == sorted(set(numbers(seen)))
    assert {event.text for event in seen} == {"x" * 300}
    assert not two.causes(DecodeError)


@pytest.mark.parametrize("seed", range(4))
async def test_a_cut_in_the_middle_of_a_frame_delivers_no_half_and_no_double(seed: int) -> None:
    chance = random.Random(seed)
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        one, two = bus_on(server), bus_at(proxy.addr)
        cuts = [lambda: proxy.cut_after(chance.randrange(1, 3000))] * 8
        await check_no_half_and_no_double(one, two, proxy, cuts)


async def test_cuts_and_resets_over_tls_deliver_no_half_and_no_double() -> None:
    chance = random.Random(5)
    context, client_context = tls_contexts()
    async with redis_server() as server, fault_proxy(server.port, context) as proxy:
        url = f"rediss://localhost:{proxy.port}"
        one, two = bus_on(server), Bus(RedisDriver(RedisConfig(url=url, tls=client_context)))
        cuts = [lambda: proxy.cut_after(chance.randrange(1, 3000)), proxy.reset] * 3
        await check_no_half_and_no_double(one, two, proxy, cuts)


async def test_faults_are_survived_with_the_python_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[PythonReader] = []

    def make(limit: int) -> PythonReader:
        made.append(PythonReader(limit))
        return made[-1]

    monkeypatch.setattr("goevent_redis._link.connection.ReplyReader", make)
    await test_a_cut_in_the_middle_of_a_frame_delivers_no_half_and_no_double(9)
    assert len(made) >= 10  # two connections, and eight more


async def test_a_server_that_refuses_for_three_seconds_is_not_hammered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dials = 0

    async def counted(config: RedisConfig, opening: Opening) -> Any:
        nonlocal dials
        dials += 1
        return await open_connection(config, opening)

    monkeypatch.setattr("goevent_redis._link.link.open_connection", counted)
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        one, two = bus_on(server), bus_at(proxy.addr)
        seen = two.seen(Paid)
        async with opened(two, one):
            proxy.refuse()
            proxy.reset()
            before = dials
            await trio.sleep(3)
            assert 3 <= dials - before <= 15
            added = two.subscribe(lambda event: None, User)
            await proxy.accept()
            await until(lambda: two.says(BACK))
            await added.ready()
            assert (await sent(one, User())).receivers == 1
            await sent(one, Paid(n=1))
            await until(lambda: seen)
        # A reason is reported once, for any number of failed attempts.
        assert two.says("is lost") == two.says("cannot connect") == two.says(BACK) == 1


async def test_a_black_hole_is_detected_within_fifteen_seconds() -> None:
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        one, two = bus_on(server), bus_at(proxy.addr)
        seen = two.seen(Paid)
        async with opened(two, one):
            await sent(one, Paid(n=1))
            await until(lambda: seen)
            proxy.swallow()
            await sent(one, Paid(n=2))
            # docs/operate/delivery-guarantees.md promises these 15 seconds.
            await until(lambda: two.says("is lost"), 15)
            proxy.pass_on()
            await until(lambda: two.says(BACK))
            await sent(one, Paid(n=3))
            await until(lambda: 3 in numbers(seen))
            await until(lambda: len(seen) + two.missing() == 3)


async def test_a_publish_into_a_black_hole_fails_within_ten_seconds() -> None:
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        one = bus_at(proxy.addr)
        mine = one.seen(Paid)
        async with one:
            proxy.swallow()
            with trio.fail_after(10):
                handle = await sent(one, Paid(n=1))
            (error,) = handle.errors
            assert isinstance(error.__cause__, DriverConnectionError)
            assert "may have been executed" in str(error)
            assert numbers(mine) == [1]
            proxy.pass_on()


async def test_dispatches_into_a_black_hole_wait() -> None:
    """The number of waiting events is limited, and each of them gets its error."""
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        one = bus_at(proxy.addr)
        handles: list[DispatchHandle] = []
        stopped = trio.Event()

        async def flood() -> None:
            while not stopped.is_set():
                handles.append(await one.dispatch(Paid(text="x" * 10_000)))
                most.append(sum(not handle.done for handle in handles))
                del handles[: len(handles) - 5_000]

        most: list[int] = []
        async with one:
            proxy.swallow()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                await until(lambda: one.says("is lost"))
                stopped.set()
            proxy.pass_on()
            with trio.fail_after(HANG_SECONDS):
                for handle in handles:
                    await handle.wait()
            failures = [error.__cause__ for handle in handles for error in handle.errors]
            assert failures
            assert all(isinstance(failure, DriverConnectionError) for failure in failures)
            assert (await sent(one, Paid())).errors == ()
        assert 100 < max(most) <= 2_100  # 1,000 in flight and 1,024 that wait


async def test_a_trickle_delivers_everything() -> None:
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        one, two = bus_on(server), bus_at(proxy.addr)
        seen = two.seen(Paid)
        async with opened(two, one):
            proxy.trickle(7, 0.0005)
            for n in range(60):
                await sent(one, Paid(n=n))
            await until(lambda: len(seen) == 60, 30)
            proxy.pass_on()
        assert numbers(seen) == list(range(60))
        assert not two.told


@pytest.mark.parametrize("seed", range(2))
async def test_cancelled_publishes_do_not_mix_up_replies(seed: int) -> None:
    chance = random.Random(seed)
    async with redis_server() as server:
        one, two = bus_on(server), bus_on(server)
        seen = two.seen(Paid)

        async def publish(n: int) -> None:
            scope = trio.CancelScope()
            when = chance.choice(["before", "steps", "time"])
            if when == "before":
                scope.cancel()
            elif when == "time":
                scope.deadline = trio.current_time() + chance.random() * 0.002
            async with trio.open_nursery() as nursery:
                if when == "steps":
                    nursery.start_soon(cancel_after, scope, chance.randrange(4))
                with scope:
                    await one.driver.publish(MessageStub(Paid(n=n)))

        async with opened(two, one):
            async with trio.open_nursery() as nursery:
                for n in range(400):
                    nursery.start_soon(publish, n)
                    if n % 20 == 0:
                        await trio.sleep(0)
            client = one.driver.client
            for n in range(50):
                assert await client.execute_command("ECHO", f"reply {n}") == f"reply {n}".encode()
                receipt = await one.driver.publish(MessageStub(Paid(n=1000 + n)))
                assert receipt.receivers == 1
            await until(lambda: 1049 in numbers(seen))
        assert numbers(seen) == list(dict.fromkeys(numbers(seen)))
        assert set(range(1000, 1050)) <= set(numbers(seen))
        assert not one.told
        assert not two.told  # no gap: a cancelled event took no number, or was sent


@pytest.mark.parametrize("seed", range(2))
async def test_cancelled_dispatches_reach_all_listeners_or_none(seed: int) -> None:
    """Cancelled while the bus dispatches, and while the handle waits."""
    chance = random.Random(seed)
    async with redis_server() as server:
        one, two = bus_on(server), bus_on(server)
        mine, theirs = one.seen(Paid), two.seen(Paid)
        handles: dict[int, DispatchHandle] = {}

        async def dispatch(n: int) -> None:
            with trio.CancelScope() as scope:
                if chance.random() < 0.2:
                    scope.cancel()
                elif chance.random() < 0.5:
                    scope.deadline = trio.current_time() + chance.random() * 0.002
                handles[n] = await one.dispatch(Paid(n=n))
                await handles[n].wait()

        async with opened(two, one):
            async with trio.open_nursery() as nursery:
                for n in range(400):
                    nursery.start_soon(dispatch, n)
                    if n % 20 == 0:
                        await trio.sleep(0)
            client = one.driver.client
            for n in range(1000, 1050):
                assert await client.execute_command("ECHO", f"reply {n}") == f"reply {n}".encode()
                handles[n] = await sent(one, Paid(n=n))
            await until(lambda: 1049 in numbers(theirs))
        assert numbers(theirs) == numbers(mine)
        assert sorted(numbers(mine)) == sorted(handles)
        assert 100 < len(mine) < 450  # some were cancelled, and some were not
        assert all(handle.receivers == 1 for handle in handles.values())
        assert not one.told
        assert not two.told


async def cancel_after(scope: trio.CancelScope, steps: int) -> None:
    for _ in range(steps):
        await trio.sleep(0)
    scope.cancel()


async def test_changing_subscriptions_survive_faults() -> None:
    """Listeners come and go while connections break; at the end all subscriptions are right."""
    chance = random.Random(7)
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        one, two = bus_on(server), bus_at(proxy.addr)
        seen = two.seen("order.**")
        names = ["order.*", "order.paid", "**", "user.*", "user.created"]
        async with opened(two, one):
            kept: dict[str, Any] = {}
            for turn in range(60):
                name = chance.choice(names)
                if name in kept:
                    kept.pop(name).unregister()
                else:
                    kept[name] = two.subscribe(lambda event: None, name)
                if turn % 6 == 5:
                    proxy.reset()
                await trio.sleep(chance.random() * 0.01)
            await until(lambda: two.says(BACK) == two.says("is lost"))
            with trio.fail_after(HANG_SECONDS):
                await two.ready()
            # Until the bus has unsubscribed from everything that was unregistered.
            for registration in kept.values():
                registration.unregister()
            with trio.fail_after(HANG_SECONDS):
                while (await sent(one, User())).receivers:
                    pass
            for n in range(5):
                assert (await sent(one, Paid(n=n))).receivers == 1
            await until(lambda: len(seen) == 5)
        assert numbers(seen) == list(range(5))
        assert two.says("is lost") == two.says(BACK) > 0
