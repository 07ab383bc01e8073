"""A Redis bus closes in time and leaves nothing open, for each fault of its connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from tests.support.checks import adds_up
from tests.support.limits import PROMPT_SECONDS
from tests.support.redis_buses import Bus, Paid, User, bus_at, bus_on, numbers, opened, sent, until
from tests.support.redis_server import FaultProxy, RedisServer, fault_proxy, redis_server
from tests.support.steps import open_sockets
from tests.support.stopwatch import Stopwatch

from goevent import DriverConnectionError

Fault = Callable[[RedisServer, FaultProxy], None]


def nothing(server: RedisServer, proxy: FaultProxy) -> None:
    """Do nothing to the server: the case without a fault."""


def killed(server: RedisServer, proxy: FaultProxy) -> None:
    server.kill()


def frozen(server: RedisServer, proxy: FaultProxy) -> None:
    server.freeze()


def swallowed(server: RedisServer, proxy: FaultProxy) -> None:
    proxy.swallow()


def refused(server: RedisServer, proxy: FaultProxy) -> None:
    proxy.refuse()
    proxy.reset()


def cut(server: RedisServer, proxy: FaultProxy) -> None:
    proxy.cut_after(3)  # less than a reply


def trickling(server: RedisServer, proxy: FaultProxy) -> None:
    # Without a pause: the pieces count here, and a busy machine makes long ones of short pauses.
    proxy.trickle(3, 0)


FAULTS = pytest.mark.parametrize(
    "fault", [nothing, killed, frozen, swallowed, refused, cut, trickling]
)


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def used(bus: Bus) -> None:
    """Use every part of a bus: names, patterns, publishing, and the client."""
    bus.seen(Paid, "order.*")
    await bus.ready()
    await sent(bus, Paid(n=1))
    await bus.driver.client.execute_command("PING")


@FAULTS
@pytest.mark.usefixtures("brief_downtime")
async def test_a_bus_closes_in_time_with_publishes_in_flight(fault: Fault) -> None:
    """Each publish ends with an error or a reply, and the bus closes within its timeout."""
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        before = tasks()
        bus = bus_at(proxy.addr)
        with trio.fail_after(PROMPT_SECONDS):  # `close_timeout` is 10 seconds
            async with bus:
                await used(bus)
                fault(server, proxy)
                handles = [await bus.dispatch(Paid(n=n)) for n in range(20)]
        with trio.fail_after(PROMPT_SECONDS):
            for handle in handles:
                await handle.wait()
        failed = [handle for handle in handles if handle.errors]
        assert all(handle.receivers is not None for handle in handles if not handle.errors)
        assert len(failed) == (0 if fault in (nothing, trickling) else 20)
        server.thaw()
        proxy.pass_on()
        assert adds_up(bus.snapshot().ledger)
        await until(lambda: tasks() <= before)


@FAULTS
async def test_a_bus_that_is_cancelled_ends_at_once(fault: Fault) -> None:
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        bus, began = bus_at(proxy.addr), None
        with trio.CancelScope() as scope:
            async with bus:
                await used(bus)
                fault(server, proxy)
                for n in range(20):
                    await bus.dispatch(Paid(n=n))
                began = Stopwatch()
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert began is not None
        assert began.unhindered_seconds < 2.5
        server.thaw()


async def lived_through(
    fault: Callable[[], None], server: RedisServer, proxy: FaultProxy, *, restart: bool = False
) -> None:
    """Open a bus, break its connection, wait until it is back, and close the bus."""
    one, two = bus_at(proxy.addr), bus_on(server)
    seen = two.seen(Paid)
    async with opened(two, one):
        await used(one)
        fault()
        with trio.move_on_after(0.01):
            await sent(one, Paid(n=2))
        if restart:
            await server.start()
        proxy.pass_on()
        await until(lambda: one.says("connected to Redis again"))
        await until(lambda: two.driver.snapshot().connected)
        await sent(one, Paid(n=3))
        await until(lambda: 3 in numbers(seen))


async def test_buses_leave_no_socket_open_after_faults() -> None:
    before = open_sockets()
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        await lived_through(proxy.reset, server, proxy)
        await lived_through(lambda: proxy.cut_after(3), server, proxy)
        await lived_through(server.kill, server, proxy, restart=True)
    await until(lambda: open_sockets() <= before)


async def test_a_bus_that_is_closed_during_an_outage_opens_again_after_it() -> None:
    async with redis_server() as server:
        one, two = bus_on(server), bus_on(server)
        seen = two.seen(Paid)
        async with opened(two, one):
            server.kill()
            await until(lambda: one.says("lost"))
        with pytest.raises(DriverConnectionError):
            async with one:
                raise AssertionError("there is no server")
        await server.start()
        async with opened(two, one):
            assert (await sent(one, Paid(n=1))).receivers == 1
            assert (await sent(one, User())).receivers == 0
            await until(lambda: seen)
        assert numbers(seen) == [1]
