"""Forks with an open bus on Redis: the server sees nothing of the child, and the bus works on."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any, Self

import pytest
import redis
import trio
from tests.support.forks import CHILD_SECONDS, attempt, calls_of, in_child, not_refused
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Bus, Paid, tls_contexts, until
from tests.support.redis_server import RedisServer, fault_proxy, redis_server
from tests.support.streams_buses import StreamsBus
from trio.testing import wait_all_tasks_blocked

from goevent import DriverError, GoEvent
from goevent_redis import LinkClosed, RedisConfig, RedisDriver

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


NO_STATUS, WRONG_STATUS = 97, 96


class Watch:
    """A client that observes a server; the parent sends nothing while it waits for a child."""

    def __init__(self, server: RedisServer) -> None:
        self._client: Any = redis.Redis(port=server.port)
        self._client.ping()

    def state(self) -> tuple[int, int, list[str]]:
        """Return the numbers of commands and connections so far, and the open connections."""
        stats: Any = self._client.info("stats")
        clients: Any = self._client.client_list()
        return (
            stats["total_commands_processed"],
            stats["total_connections_received"],
            sorted(client["id"] for client in clients),
        )

    def close(self) -> None:
        self._client.close()


def assert_untouched(watch: Watch, use: Callable[[], None]) -> None:
    """Check that the server sees nothing while a function runs."""
    first = watch.state()
    own = watch.state()[0] - first[0]
    before = watch.state()
    use()
    after = watch.state()
    assert after[0] - before[0] == own, "the server has got a command"
    assert after[1:] == before[1:], "a connection has come or gone"


class ChildEnd:
    """Ends the process of a child that leaves a block of its parent, with a status.

    So neither the run loop nor the server of the test, which are the parent's, end in the child.

    Attributes:
        status: The exit code of the child.
    """

    def __init__(self) -> None:
        self.status = NO_STATUS
        self._parent = os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if os.getpid() != self._parent:
            os._exit(self.status)


def told_of_parent(text: str) -> int:
    """Return the exit code of a child whose call has failed with this text."""
    return 0 if "belongs to the parent" in text else WRONG_STATUS


async def wait_for_child(pid: int) -> None:
    """Wait for the end of a child that has found everything as it should be."""
    with trio.fail_after(HANG_SECONDS):
        ended = await trio.to_thread.run_sync(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


def pubsub(addr: str) -> tuple[GoEvent, GoEvent]:
    return Bus(RedisDriver(RedisConfig(addr=addr))), Bus(RedisDriver(RedisConfig(addr=addr)))


def streams(addr: str) -> tuple[GoEvent, GoEvent]:
    return StreamsBus(addr), StreamsBus(addr, group="another")


def partitions(addr: str) -> tuple[GoEvent, GoEvent]:
    return StreamsBus(addr, partitions=2), StreamsBus(addr, group="another", partitions=2)


each_driver = pytest.mark.parametrize("make", [pubsub, streams, partitions])


@each_driver
async def test_the_server_sees_nothing_of_a_child_that_uses_the_bus(
    make: Callable[[str], tuple[GoEvent, GoEvent]],
) -> None:
    async with redis_server("appendonly yes") as server:
        watch = Watch(server)
        bus, receiver = make(server.addr)
        got: list[int] = []
        registration = bus.subscribe(lambda event: None, Paid)
        receiver.subscribe(lambda event: got.append(event.n), Paid)
        async with receiver, bus:
            handle = await bus.dispatch(Paid(n=0))
            await handle.wait()
            await until(lambda: got == [0])
            driver: Any = bus.driver
            client, link = driver.client, driver._link  # pyright: ignore[reportPrivateUsage]
            letters = None if make is pubsub else driver.dead_letters
            calls = {
                **calls_of(bus, Paid(n=9), registration, handle),
                "client": lambda: driver.client,
                **({"list": letters.list, "replay_all": letters.replay_all} if letters else {}),
            }

            def use() -> str:
                refused = [
                    attempt(lambda: client.set("key", "value")),
                    attempt(lambda: client.blpop("key", 1)),
                    attempt(lambda: link.pipeline([("SET", "key", "value")])),
                    attempt(lambda: link.post_nowait("SET", "key", "value")),
                    attempt(lambda: link.subscribe("SUBSCRIBE", "channel")),
                ]
                return f"{not_refused(calls)} {set(refused) - {LinkClosed.__name__}}"

            assert_untouched(watch, lambda: check(in_child(use), "{} set()"))
            for n in range(1, 20):
                handle = await bus.dispatch(Paid(n=n))
                await handle.wait()
                assert handle.errors == ()
            await until(lambda: sorted(got) == [*range(20)])
            assert bus.errors == receiver.errors == ()
        watch.close()


def check(told: str, expected: str) -> None:
    assert told == expected


@each_driver
@pytest.mark.parametrize("leaves_by", [SystemExit(4), None])
def test_the_server_sees_nothing_of_a_child_that_leaves_the_bus(
    make: Callable[[str], tuple[GoEvent, GoEvent]], leaves_by: SystemExit | None
) -> None:
    child = ChildEnd()
    child.status = 99 if leaves_by is None else 4

    async def main() -> None:
        async with redis_server("appendonly yes") as server:
            watch = Watch(server)
            bus, receiver = make(server.addr)
            got: list[int] = []
            receiver.subscribe(lambda event: got.append(event.n), Paid)
            async with receiver:
                with child:
                    async with bus:
                        await (await bus.dispatch(Paid(n=0))).wait()
                        await until(lambda: got == [0])
                        watch.state()
                        first = watch.state()
                        own = watch.state()[0] - first[0]
                        before = watch.state()
                        pid = os.fork()
                        if pid == 0:
                            signal.alarm(CHILD_SECONDS)
                            if leaves_by is not None:
                                raise leaves_by
                            return
                        _, status = os.waitpid(pid, 0)
                        assert os.waitstatus_to_exitcode(status) == child.status
                        after = watch.state()
                        assert after[0] - before[0] == own
                        assert after[1:] == before[1:]
                        for n in range(1, 20):
                            await (await bus.dispatch(Paid(n=n))).wait()
                        await until(lambda: sorted(got) == [*range(20)])
                        assert bus.errors == receiver.errors == ()
            watch.close()

    with ChildEnd():
        trio.run(main)


async def test_a_child_sends_no_end_of_tls() -> None:
    context, client_context = tls_contexts()
    async with redis_server() as server, fault_proxy(server.port, context) as proxy:
        config = RedisConfig(url=f"rediss://{proxy.addr.replace('127.0.0.1', 'localhost')}")
        bus = Bus(RedisDriver(RedisConfig(url=config.url, tls=client_context)))
        async with bus:
            await (await bus.dispatch(Paid(n=0))).wait()
            pid = os.fork()
            if pid == 0:
                signal.alarm(CHILD_SECONDS)
                attempt(lambda: bus.__aexit__(None, None, None))
                os._exit(0)
            with trio.fail_after(HANG_SECONDS):
                await trio.to_thread.run_sync(os.waitpid, pid, 0)
            for n in range(5):
                handle = await bus.dispatch(Paid(n=n))
                await handle.wait()
                assert handle.errors == ()
            assert proxy.dials == 1


@pytest.mark.parametrize("pattern", ["order.paid", "order.**"])
@pytest.mark.parametrize("make", [pubsub, streams])
def test_the_server_sees_nothing_of_a_child_with_an_open_tail(
    make: Callable[[str], tuple[GoEvent, GoEvent]], pattern: str
) -> None:
    child = ChildEnd()

    async def main() -> None:
        async with redis_server("appendonly yes") as server:
            watch = Watch(server)
            bus, sender = make(server.addr)
            driver: Any = bus.driver
            with child:
                async with sender, bus, driver.tail(pattern) as shown:
                    await (await sender.dispatch(Paid(n=0))).wait()
                    with trio.fail_after(HANG_SECONDS):
                        await shown.receive()
                    numbers = watch.state()[1:]
                    pid = os.fork()
                    if pid == 0:
                        signal.alarm(CHILD_SECONDS)
                        try:
                            await shown.receive()
                        except DriverError as error:
                            child.status = told_of_parent(str(error))
                        return
                    await wait_for_child(pid)
                    assert watch.state()[1:] == numbers, "a connection has come or gone"
                    for n in range(1, 50):
                        await (await sender.dispatch(Paid(n=n))).wait()
                    with trio.fail_after(HANG_SECONDS):
                        events = [await shown.receive() for _ in range(1, 50)]
                    assert [event.missed for event in events] == [0] * 49
                    assert all(f'"n":{n}'.encode() in e.data for n, e in enumerate(events, 1))
            watch.close()

    with ChildEnd():
        trio.run(main)


async def call_and_note(call: Callable[[], Awaitable[object]], outcomes: list[str]) -> None:
    try:
        outcomes.append(str(await call()))
    except LinkClosed as error:
        outcomes.append(str(error))


async def fork_while_waiting(outcomes: list[str], child: ChildEnd) -> bool:
    """Fork while a call waits: in the child it fails, with its status; return True there.

    The parent returns once the child has ended.
    """
    pid = os.fork()
    if pid:
        await wait_for_child(pid)
        return False
    signal.alarm(CHILD_SECONDS)
    await until(lambda: outcomes != [])
    child.status = told_of_parent(outcomes[0])
    return True


async def check_waiting_call(client: Any, outcomes: list[str]) -> None:
    """Check that the call of the parent, which waits for a job, gets one."""
    await client.rpush("jobs", "mow")
    await until(lambda: outcomes != [])
    assert outcomes == ["(b'jobs', b'mow')"]


@pytest.mark.parametrize("tls", [False, True])
def test_a_connection_that_is_being_opened_stays_with_the_parent(tls: bool) -> None:
    child = ChildEnd()

    async def main() -> None:
        context, client_context = tls_contexts() if tls else (None, None)
        async with redis_server() as server, fault_proxy(server.port, context) as proxy:
            url = f"{'rediss' if tls else 'redis'}://localhost:{proxy.port}"
            patient = RedisConfig(
                url=url, tls=client_context, dial_timeout=HANG_SECONDS, read_timeout=HANG_SECONDS
            )
            driver = RedisDriver(patient)
            outcomes: list[str] = []
            with child:
                async with Bus(driver), trio.open_nursery() as nursery:
                    client = driver.client
                    # The login gets no reply, and with TLS the handshake gets none.
                    proxy.swallow()
                    nursery.start_soon(call_and_note, lambda: client.blpop("jobs", 60), outcomes)
                    await until(lambda: proxy.dials == 2)
                    await wait_all_tasks_blocked(0.01)
                    if await fork_while_waiting(outcomes, child):
                        return
                    proxy.pass_on()
                    await check_waiting_call(client, outcomes)
                    assert proxy.dials == 2

    with ChildEnd():
        trio.run(main)


@pytest.mark.parametrize("tls", [False, True])
def test_a_reply_that_a_borrowed_connection_waits_for_stays_with_the_parent(tls: bool) -> None:
    child = ChildEnd()

    async def main() -> None:
        context, client_context = tls_contexts()
        async with redis_server() as server, fault_proxy(server.port, context) as proxy:
            secure = RedisConfig(
                url=f"rediss://{proxy.addr.replace('127.0.0.1', 'localhost')}", tls=client_context
            )
            driver = RedisDriver(secure if tls else RedisConfig(addr=server.addr))
            outcomes: list[str] = []
            with child:
                async with Bus(driver), trio.open_nursery() as nursery:
                    client = driver.client
                    nursery.start_soon(call_and_note, lambda: client.blpop("jobs", 60), outcomes)
                    await until(lambda: b"blpop" in server_commands(server))
                    if await fork_while_waiting(outcomes, child):
                        return
                    await check_waiting_call(client, outcomes)

    with ChildEnd():
        trio.run(main)


def server_commands(server: RedisServer) -> bytes:
    """Return the commands that the clients of a server have sent last."""
    client: Any = redis.Redis(port=server.port)
    try:
        return b" ".join(str(each["cmd"]).encode() for each in client.client_list())
    finally:
        client.close()
