"""Redis pub/sub: events arrive at the other buses, once and in order."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import (
    REGISTRY,
    Bus,
    Deep,
    OrderLost,
    Paid,
    User,
    bus_on,
    listening,
    numbers,
    opened,
    plain_link,
    sent,
    tls_contexts,
    until,
)
from tests.support.redis_server import acl_user, fault_proxy, redis_server

from goevent import (
    Config,
    DispatchHandle,
    DriverConnectionError,
    DriverError,
    DriverInUse,
    EncodeError,
    Event,
    GapDetected,
    GoEvent,
    JsonCodec,
    current_delivery,
)
from goevent_redis import RedisConfig, RedisDriver


async def test_events_arrive_in_order_with_equal_payload() -> None:
    async with redis_server() as server:
        one, two = bus_on(server), bus_on(server)
        seen = two.seen(Paid)
        async with opened(two, one):
            events = [Paid(n=n, text=f"ä\u2028<>&\x01 {n}") for n in range(500)]
            for event in events:
                await one.dispatch(event)
            await one.wait()
            await until(lambda: len(seen) == 500)
        assert seen == events
        assert not one.told
        assert not two.told


async def test_buses_are_opened_by_url_and_by_name() -> None:
    async with redis_server() as server:
        one = GoEvent(Config(driver=RedisDriver.from_url(server.url), registry=REGISTRY))
        two = bus_on(server)
        seen = two.seen(Paid)
        async with opened(two, one):
            await one.dispatch(Paid(n=1))
            await until(lambda: seen)


def test_a_bare_scheme_means_its_defaults() -> None:
    plain, secure = RedisDriver.from_url("redis").config, RedisDriver.from_url("rediss").config
    assert plain.addr == secure.addr == "localhost:6379"
    assert (plain.tls, secure.tls) == (None, True)
    with pytest.raises(ValueError, match="path"):
        RedisDriver.from_url("unix")


async def test_own_listeners_get_each_event_once_and_the_echo_is_dropped() -> None:
    async with redis_server() as server:
        one, two = bus_on(server), bus_on(server)
        mine, theirs = one.seen(Paid), two.seen(Paid)
        async with opened(one, two):
            for n in range(20):
                await sent(one, Paid(n=n))
                assert numbers(mine) == list(range(n + 1))
            await sent(two, Paid(n=99))
            await until(lambda: numbers(mine) == [*range(20), 99])
            await until(lambda: numbers(theirs) == [*range(20), 99])
        assert numbers(mine) == [*range(20), 99]


async def test_an_echo_that_cannot_be_decoded_here_is_no_error() -> None:
    async with redis_server() as server:
        one = bus_on(server)
        seen = one.seen("adhoc.*")
        after = one.seen(Paid)
        other = bus_on(server)
        async with opened(one, other):
            await sent(one, Event("adhoc.thing", {"n": 1}))
            await sent(other, Paid(n=1))
            await until(lambda: after)
        assert len(seen) == 1
        assert not one.told


async def test_patterns_and_names_deliver_once_each() -> None:
    async with redis_server() as server:
        one, two = bus_on(server), bus_on(server)
        exact = two.seen(Paid)
        narrow = two.seen("order.*")
        wide = two.seen("order.**")
        both = two.seen("**", Paid)
        end = two.seen("*.paid")
        async with opened(two, one):
            for n in range(20):
                await one.dispatch(Paid(n=n))
                await one.dispatch(Deep(n=n))
                await one.dispatch(OrderLost(n=n))
            await one.dispatch(User(n=7))
            await until(lambda: len(both) >= 61)
            await two.wait()
        twenty = list(range(20))
        assert numbers(exact) == numbers(end) == twenty
        assert sorted(numbers(narrow)) == sorted(twenty * 2)
        assert sorted(numbers(wide)) == sorted(twenty * 3)
        assert sorted(numbers(both)) == sorted([*twenty * 3, 7])
        assert not two.told


@pytest.mark.parametrize("steady", ["order.paid", "order.*", "order.**", "**"])
async def test_nothing_is_lost_or_doubled_while_subscriptions_come_and_go(steady: str) -> None:
    """The steady listener's messages come from another subscription after each change."""
    coming = ["order.paid", "order.*", "order.**", "*.paid", "**", "**.paid"]
    async with redis_server() as server:
        one, two = bus_on(server), bus_on(server)
        seen = two.seen(steady)
        stop = trio.Event()

        async def publish() -> None:
            n = 0
            while not stop.is_set():
                await one.dispatch(Paid(n=n))
                n += 1
                if n % 50 == 0:
                    await one.wait()
            await sent(one, Paid(n=-1))

        async def change() -> None:
            for turn in range(40):
                name = coming[turn % len(coming)]
                registration = two.subscribe(ignore, name)
                await registration.ready()
                if turn % 3 == 0:
                    second = two.subscribe(ignore, coming[(turn + 2) % len(coming)])
                    await second.ready()
                    second.unregister()
                registration.unregister()
                await until(lambda turn=turn: len(seen) > turn * 20)  # type: ignore[misc]
            stop.set()

        async with opened(two, one), trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            nursery.start_soon(change)
        assert numbers(seen) == [*range(len(seen) - 1), -1]
        assert not two.told


def ignore(event: Any) -> None:
    """Do nothing: a listener."""


async def test_ready_means_that_events_arrive() -> None:
    async with redis_server() as server:
        one, two = bus_on(server), bus_on(server)
        async with opened(one, two):
            for turn in range(10):
                seen: list[Any] = []
                registration = two.subscribe(seen.append, Paid if turn % 2 else "order.*")
                await registration.ready()
                handle = await sent(one, Paid(n=turn))
                assert handle.receivers == 1
                await until(lambda seen=seen: seen)  # type: ignore[misc]
                registration.unregister()


async def test_receivers_count_the_others_and_zero_is_visible() -> None:
    async with redis_server() as server:
        buses = [bus_on(server) for _ in range(4)]
        for bus in buses[1:]:
            bus.seen(Paid)
        async with opened(*buses):
            assert (await sent(buses[0], Paid())).receivers == 3
            assert (await sent(buses[1], Paid())).receivers == 2
            assert (await sent(buses[1], User())).receivers == 0
            for name in ("order.*", "**", "order.**"):
                buses[1].seen(name)
            await buses[1].ready()
            assert (await sent(buses[1], Paid())).receivers == 2
            assert (await sent(buses[1], User())).receivers == 0
            assert (await sent(buses[1], Deep())).receivers == 0


class TraceHeaders:
    """Adds headers to each dispatch."""

    def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
        handle.headers.update(traceparent="00-ab-cd-01", text="grüß dich, 世界")
        yield


async def test_headers_and_handle_ids_travel() -> None:
    async with redis_server() as server:
        driver = RedisDriver(RedisConfig(addr=server.addr))
        one = GoEvent(Config(driver=driver, registry=REGISTRY, middleware=(TraceHeaders(),)))
        two = bus_on(server)
        headers: list[dict[str, str]] = []
        payloads: list[bytes] = []

        @two.listener(Paid)
        async def _(event: Paid) -> None:
            headers.append(dict(current_delivery().headers))

        async with opened(two, one), listening(server, payloads):
            handle = await one.dispatch(Paid(n=1))
            await handle.wait()
            await until(lambda: headers and payloads)
        assert json.loads(payloads[0])["handle_id"] == handle.id
        assert headers == [{"traceparent": "00-ab-cd-01", "text": "grüß dich, 世界"}]


async def test_large_events_arrive_and_too_large_ones_fail_on_their_handle() -> None:
    size = 3 << 20
    async with redis_server() as server:
        codec = JsonCodec(max_size=4 << 20)
        one, two, small = (
            Bus(RedisDriver(RedisConfig(addr=server.addr, max_event_size=limit)), codec)
            for limit in (4 << 20, 4 << 20, 1000)
        )
        mine, seen, refused = one.seen(Paid), two.seen(Paid), small.seen(Paid)
        async with opened(small, two, one):
            handle = await sent(one, Paid(n=1, text="x" * size))
            assert not handle.errors
            await until(lambda: seen)
            assert len(seen[0].text) == size
            too_large = await sent(one, Paid(n=2, text="x" * (4 << 20)))
            (error,) = too_large.errors
            assert isinstance(error.__cause__, EncodeError)
            assert "4194304" in str(error)
            assert not (await sent(one, Paid(n=3))).errors
            await until(lambda: len(seen) == 2 and refused)
        assert numbers(mine) == [1, 2, 3]
        assert numbers(seen) == [1, 3]
        assert numbers(refused) == [3]
        assert small.says("max_event_size") == 1
        assert not two.told
        assert not small.causes(GapDetected)


async def test_unsubscribed_names_stay_silent() -> None:
    async with redis_server() as server:
        one, two = bus_on(server), bus_on(server)
        seen: list[Any] = []
        steady = two.seen(User)
        async with opened(two, one), plain_link(server) as link:
            registration = two.subscribe(seen.append, Paid, "order.*")
            await registration.ready()
            await sent(one, Paid(n=1))
            await until(lambda: seen)
            registration.unregister()
            with trio.fail_after(HANG_SECONDS):
                while await link.execute("PUBSUB", "NUMPAT"):
                    await trio.sleep(0.005)
            await until_no_subscriber(link, "goevent:order.paid")
            assert (await sent(one, Paid(n=2))).receivers == 0
            await sent(one, User())
            await until(lambda: steady)
        assert numbers(seen) == [1]


async def test_queued_events_are_dropped_when_their_slow_listener_is_unregistered() -> None:
    """And a subscription can be added while a listener blocks."""
    async with redis_server() as server:
        one, two = bus_on(server), bus_on(server)
        gate, users = trio.Event(), two.seen(User)
        ran: list[int] = []

        async def slow(event: Paid) -> None:
            ran.append(event.n)
            await gate.wait()

        async with opened(two, one):
            stuck = two.subscribe(slow, Paid, mailbox=1)
            other = two.subscribe(ignore, OrderLost)
            await two.ready()
            for n in range(10):
                await sent(one, Paid(n=n))
            await until(lambda: ran)
            other.unregister()
            added = two.subscribe(ignore, Deep)
            with trio.fail_after(HANG_SECONDS):
                await added.ready()
            assert (await sent(one, OrderLost())).receivers == 0
            stuck.unregister()
            with trio.fail_after(HANG_SECONDS):
                while (await sent(one, Paid(n=99))).receivers:
                    pass
            gate.set()
            await sent(one, User(n=1))
            await until(lambda: users)
        assert len(ran) <= 3
        assert 99 not in ran


async def until_no_subscriber(link: Any, channel: str) -> None:
    with trio.fail_after(HANG_SECONDS):
        while (await link.execute("PUBSUB", "NUMSUB", channel))[1]:
            await trio.sleep(0.005)


async def test_close_hands_over_all_events_that_have_arrived() -> None:
    async with redis_server() as server:
        one, two = bus_on(server), bus_on(server)
        seen: list[int] = []

        @two.listener(Paid, mailbox=5000)
        async def keep(event: Paid) -> None:
            await trio.lowlevel.checkpoint()
            seen.append(event.n)

        async with one:
            async with two:
                for n in range(2000):
                    await one.dispatch(Paid(n=n))
                await one.wait()
            # The server had sent these events to `two` before `two` was closed.
            assert seen == list(range(2000))
        assert not two.told


async def test_a_closing_bus_announces_its_last_numbers() -> None:
    """Other buses learn the last numbers of a closed bus at once."""
    async with redis_server() as server:
        one = bus_on(server)
        marks: list[bytes] = []
        async with listening(server, marks, "goevent:$marks"):
            async with one:
                await sent(one, Paid(n=1))
                await sent(one, Paid(n=2))
                await sent(one, User())
            await until(lambda: marks)
        assert json.loads(marks[0])["marks"] == {"order.paid": 2, "user.created": 1}


async def test_ten_buses_share_a_server_and_open_again() -> None:
    async with redis_server() as server:
        buses = [bus_on(server) for _ in range(10)]
        lists = [bus.seen("**") for bus in buses]
        for _ in range(2):
            for seen in lists:
                seen.clear()
            async with opened(*buses):
                for n, bus in enumerate(buses):
                    handle = await sent(bus, Paid(n=n))
                    assert handle.receivers == 9
                await until(lambda: all(len(seen) == 10 for seen in lists))
            assert all(sorted(numbers(seen)) == list(range(10)) for seen in lists)
        assert not [bus.told for bus in buses if bus.told]


async def test_prefixes_separate_buses_and_may_contain_globs() -> None:
    async with redis_server() as server:
        odd = "a*[b]?\\é:"
        one, two = bus_on(server, channel_prefix=odd), bus_on(server, channel_prefix=odd)
        other = bus_on(server, channel_prefix="axb:")
        seen, exact, foreign = two.seen("order.*"), two.seen(Paid), other.seen("**")
        async with opened(two, other, one):
            assert (await sent(one, Paid(n=1))).receivers == 2
            await until(lambda: seen)
            await sent(one, Paid(n=2))
            await until(lambda: len(seen) == 2)
        assert numbers(seen) == numbers(exact) == [1, 2]
        assert foreign == []


async def test_one_connection_serves_ten_thousand_names() -> None:
    async with redis_server() as server:
        one, two = bus_on(server), bus_on(server, client_name="two")
        for n in range(10_000):
            two.subscribe(ignore, f"many.n{n}")
        seen = two.seen(Paid)
        async with opened(two, one), plain_link(server) as link:
            await sent(one, Paid(n=1))
            await until(lambda: seen)
            clients: bytes = await link.execute("CLIENT", "LIST")
            assert str(clients).count("name=two") == 1
            assert b"sub=10002" in bytes(clients)


async def test_a_unix_socket_can_be_used() -> None:
    async with redis_server() as server:
        one = Bus(RedisDriver.from_url(f"unix://{server.socket_path}"))
        two = Bus(RedisDriver(RedisConfig(path=server.socket_path)))
        seen = two.seen(Paid)
        async with opened(two, one):
            await sent(one, Paid(n=1))
            await until(lambda: seen)


async def test_tls_is_verified_and_used() -> None:
    server_context, client_context = tls_contexts()
    async with redis_server() as server, fault_proxy(server.port, server_context) as proxy:
        url = f"rediss://localhost:{proxy.port}"
        one, two = (Bus(RedisDriver(RedisConfig(url=url, tls=client_context))) for _ in "ab")
        seen = two.seen(Paid)
        async with opened(two, one):
            await sent(one, Paid(n=1))
            await until(lambda: seen)
        assert proxy.dials == 2


async def test_a_user_of_the_access_list_needs_only_the_channels() -> None:
    rules = acl_user(
        "events", "pw", "-@all", "+hello", "+auth", "+ping", "+subscribe", "+psubscribe",
        "+unsubscribe", "+punsubscribe", "+publish", "&goevent:*", "&goevent:order.*",
    )  # fmt: skip
    async with redis_server(rules) as server:
        one, two = (bus_on(server, username="events", password="pw") for _ in "ab")
        exact, seen = two.seen(User), two.seen("order.*")
        async with opened(two, one):
            await sent(one, Paid(n=1))
            await sent(one, User(n=1))
            await until(lambda: seen and exact)
            refused = two.subscribe(ignore, "user.*")
            with pytest.raises(DriverError, match="a right of its own"):
                await refused.ready()
            # The refusal affects nothing else, not even subscriptions of the same moment.
            two.subscribe(ignore, "user.**")
            late = two.subscribe(ignore, OrderLost)
            await late.ready()
            await sent(one, Paid(n=2))
            await until(lambda: len(seen) == 2)
        assert not one.told


async def test_the_client_serves_other_commands_while_the_bus_is_open() -> None:
    async with redis_server() as server:
        bus = bus_on(server)
        with pytest.raises(DriverConnectionError, match="open its bus"):
            _ = bus.driver.client
        async with bus:
            client = bus.driver.client
            await client.set("key", "value")
            assert await client.get("key") == b"value"
            pushed: Any = await client.rpush("list", "a")
            assert pushed == 1
            popped: Any = await client.blpop(["list"], timeout=1)
            assert tuple(popped) == (b"list", b"a")


@pytest.mark.parametrize("scheme", ["redis", "redis+streams"])
async def test_a_driver_serves_one_bus_at_a_time(scheme: str) -> None:
    async with redis_server("appendonly yes") as server:
        one = GoEvent(f"{scheme}://{server.addr}")
        two = GoEvent(one.driver)
        for _ in range(2):
            async with one:
                with pytest.raises(DriverInUse, match="one bus at a time"):
                    async with two:
                        pytest.fail("it opened")
                handle = await one.dispatch(Event("one.at.a.time", {}))
                await handle.wait()
                assert handle.errors == ()
        async with two:  # one after the other
            pass
