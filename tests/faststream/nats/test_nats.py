"""Core NATS: fan-out, lost connections, hostile messages and the end of the loop thread."""

from __future__ import annotations

import asyncio
import signal
import sys
import traceback
from typing import Any

import pytest
import trio
from faststream.nats import NatsBroker
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.faststream_checks import (
    check_failing_publish,
    check_pattern_that_leaves,
    check_restarts_under_load,
    check_single_delivery,
    driver_threads,
    gated_listener,
    recording_middleware,
)
from tests.support.limits import HANG_SECONDS, PROMPT_SECONDS
from tests.support.nats_server import nats_server
from tests.support.redis_buses import Deep, Paid, User, numbers, opened, until
from tests.support.redis_server import fault_proxy

from goevent import DriverError, DriverInUse
from goevent_faststream import FastStreamDriver
from goevent_faststream._nats.core import NatsAdapter


async def test_event_that_matches_a_name_and_three_patterns_arrives_once() -> None:
    async with nats_server() as server:
        sender, receiver = FastStreamBus(server.url), FastStreamBus(server.url)
        await check_single_delivery(sender, receiver)


async def test_a_name_gets_each_event_once_while_a_pattern_leaves() -> None:
    async with nats_server() as server:
        # More than the bus takes at once.
        await check_pattern_that_leaves(
            FastStreamBus(server.url), FastStreamBus(server.url), count=1000
        )


async def test_pattern_with_a_wider_subject_gets_only_matching_events() -> None:
    async with nats_server() as server:
        sender, receiver = FastStreamBus(server.url), FastStreamBus(server.url)
        within, all_of_them = receiver.seen("order.**.added"), receiver.seen("**")
        async with opened(sender, receiver):
            await accepted(sender, 1)
            await sender.dispatch(Deep(n=2))
            await until(lambda: len(all_of_them) == 2)
        assert numbers(within) == [2]


async def test_middlewares_of_a_given_broker_run_in_both_directions() -> None:
    middleware, calls = recording_middleware()
    async with nats_server() as server:
        broker = NatsBroker(server.url, middlewares=[middleware], logger=None)
        sender = FastStreamBus(FastStreamDriver(broker))
        receiver = FastStreamBus(server.url)
        back, there = sender.seen("user.created"), receiver.seen()
        async with opened(sender, receiver):
            await accepted(sender, 1)
            await until(lambda: there)
            await receiver.dispatch(User(n=2))
            await until(lambda: back)
    assert sorted(calls) == ["consume", "publish"]


async def test_undecodable_messages_do_not_stop_a_bus_from_receiving() -> None:
    head = b"NATS/1.0 503 \xff\r\n\r\n"
    hostile = (
        b"HPUB goevent.order.paid %d %d\r\n%b\r\n" % (len(head), len(head), head),
        b"PUB goevent.order.\xff 0\r\n\r\n",
    )
    async with nats_server() as server:
        sender, receiver = FastStreamBus(server.url), FastStreamBus(server.url)
        seen = receiver.seen("**")
        async with opened(sender, receiver):
            for count, bad in enumerate(hostile, 1):
                async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                    await stream.send_all(b'CONNECT {"headers":true}\r\n' + bad + b"PING\r\n")
                    received = b""
                    while b"PONG" not in received:
                        received += await stream.receive_some()
                await until(lambda count=count: len(receiver.reports) == count)  # type: ignore[misc]
                await accepted(sender, count)
                await until(lambda count=count: len(seen) == count)  # type: ignore[misc]
        assert not receiver.count_reports("is lost")


async def test_ping_is_sent_behind_messages_that_wait_for_a_slow_socket() -> None:
    written: list[bytes] = []

    async def publish_behind_a_slow_socket(client: Any) -> None:
        transport = client._transport
        write, is_slow = transport.write, asyncio.Event()

        def record(data: bytes) -> None:
            written.append(bytes(data))
            write(data)

        async def drain() -> None:
            await is_slow.wait()

        # The client's `writelines` is `write` here, as it would fail on a lost connection.
        transport.write, transport.drain = record, drain
        await client.publish("first")
        await asyncio.sleep(0)  # the client now waits for its socket
        await client.publish("second")
        flush = asyncio.create_task(client.flush())
        await asyncio.sleep(0)
        is_slow.set()
        await flush

    async with nats_server() as server, FastStreamBus(server.url) as bus:
        adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
        trio_side: Any = bus.driver._trio_side  # pyright: ignore[reportPrivateUsage]
        await trio_side.call(publish_behind_a_slow_socket, adapter._connection.client)
    sent = b"".join(written)
    assert sent.index(b"PUB first") < sent.index(b"PUB second") < sent.index(b"PING")


async def test_publish_during_an_outage_fails_in_time_with_a_connection_error() -> None:
    async with nats_server() as server:
        bus = FastStreamBus(f"{server.url}?publish_timeout=1")
        async with bus:
            await accepted(bus, 1)
            server.kill()
            await check_failing_publish(bus)
            await until(lambda: bus.count_reports("is lost"))
            assert not bus.driver.snapshot().connected


@pytest.mark.parametrize("query", ["nats://{}", "nats+js://{}?group=shop"])
async def test_server_that_does_not_answer_fails_a_publish_in_time(query: str) -> None:
    async with nats_server() as server, fault_proxy(server.port) as proxy:
        bus = FastStreamBus(query.format(proxy.addr))
        async with bus:
            await accepted(bus, 1)
            proxy.swallow()
            await check_failing_publish(bus)
            proxy.pass_on()
            await accepted(bus, 3)


async def test_wrong_password_is_an_error_at_once() -> None:
    async with nats_server("--user", "joe", "--pass", "secret") as server:
        bus = FastStreamBus(f"nats://joe:guess@{server.addr}")
        with trio.fail_after(PROMPT_SECONDS), pytest.raises(DriverError, match="Authorization"):
            async with bus:
                pass
        async with FastStreamBus(f"nats://joe:secret@{server.addr}") as bus:
            await accepted(bus, 1)


async def test_server_killed_and_restarted_under_load_is_reported_and_used_again() -> None:
    async with nats_server() as server:
        sender, receiver = FastStreamBus(server.url), FastStreamBus(server.url)
        seen, load = await check_restarts_under_load(sender, receiver, server, "nats")
        assert seen == sorted(set(seen))
        assert len(load.accepted) > 100


async def test_crash_of_the_loop_ends_the_bus_with_a_driver_error() -> None:
    async def crash() -> None:
        asyncio.get_running_loop().call_soon(sys.exit, 3)

    async def crashing(bus: FastStreamBus) -> None:
        async with bus:
            trio_side = bus.driver._trio_side  # pyright: ignore[reportPrivateUsage]
            assert trio_side is not None
            await trio_side._loop_thread.call(crash)  # pyright: ignore[reportPrivateUsage]
            await trio.sleep_forever()

    async with nats_server() as server:
        bus = FastStreamBus(server.url)
        with trio.fail_after(HANG_SECONDS), pytest.raises(DriverError, match="loop of the broker"):
            await crashing(bus)
        async with bus:
            await accepted(bus, 1)


async def test_defect_in_closing_the_client_fails_the_bus_and_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail() -> None:
        await close()
        raise TypeError("a defect of the client")

    async with nats_server() as server:
        bus = FastStreamBus(server.url)
        adapter = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
        close = adapter.close
        monkeypatch.setattr(adapter, "close", fail)
        with (
            trio.fail_after(HANG_SECONDS),
            pytest.raises(DriverError) as caught,
        ):
            async with bus:
                await accepted(bus, 1)
    assert "a defect of the client" in "".join(traceback.format_exception(caught.value))
    assert not driver_threads()


def test_keyboard_interrupt_ends_the_bus_and_its_thread() -> None:
    async def main() -> None:
        async with nats_server() as server, FastStreamBus(server.url) as bus:
            await accepted(bus, 1)
            signal.raise_signal(signal.SIGINT)
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert not driver_threads()


def has_no_capacity(bus: FastStreamBus) -> bool:
    """Tell whether the loop side of an open bus holds back arrivals."""
    trio_side = bus.driver._trio_side  # pyright: ignore[reportPrivateUsage]
    assert trio_side is not None
    return trio_side._loop_side.capacity() == 0  # pyright: ignore[reportPrivateUsage]


async def test_slow_listener_holds_back_the_loop_side() -> None:
    async with nats_server() as server:
        sender = FastStreamBus(server.url)
        receiver = FastStreamBus(f"{server.url}?prefetch=10")
        gate, done = gated_listener(receiver, mailbox=5)
        async with opened(sender, receiver):
            await accepted(sender, *range(200))
            await until(lambda: has_no_capacity(receiver))
            gate.set()
            await until(lambda: len(done) == 200)
        assert done == [*range(200)]


async def test_bytes_of_large_events_in_a_mailbox_hold_back_the_loop_side() -> None:
    async with nats_server() as server:
        sender = FastStreamBus(server.url)
        receiver = FastStreamBus(f"{server.url}?prefetch_bytes=250000")
        gate, done = gated_listener(receiver)
        async with opened(sender, receiver):
            for n in range(20):
                handle = await sender.dispatch(Paid(n=n, text="x" * 100_000))
                await handle.wait()
            await until(lambda: has_no_capacity(receiver))
            await until(lambda: receiver.snapshot().ledger.accepted >= 3)
            assert receiver.snapshot().ledger.accepted == 3
            gate.set()
            await until(lambda: len(done) == 20)
        assert done == [*range(20)]


async def test_bus_without_a_server_does_not_open() -> None:
    with trio.fail_after(HANG_SECONDS), pytest.raises(DriverError):
        async with FastStreamBus("nats://127.0.0.1:1"):
            pass


async def test_error_in_closing_the_client_does_not_keep_the_bus_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    close = NatsAdapter.close

    async def fail(self: NatsAdapter) -> None:
        await close(self)
        raise ValueError("no end")

    monkeypatch.setattr(NatsAdapter, "close", fail)
    async with nats_server() as server:
        with pytest.raises(DriverError, match="ValueError: no end") as caught:
            async with FastStreamBus(server.url):
                pass
        assert isinstance(caught.value.__cause__, ValueError)


async def test_a_driver_serves_one_bus_at_a_time() -> None:
    async with nats_server() as server:
        one = FastStreamBus(server.url)
        two = FastStreamBus(one.driver)
        async with one:
            with pytest.raises(DriverInUse, match="one bus at a time"):
                async with two:
                    pytest.fail("it opened")
            await accepted(one, 1)
        async with two:
            await accepted(two, 2)
