"""Direct messages over NATS and JetStream, with servers that are killed, freeze and refuse."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from tests.faststream.nats.test_refusals import LOGIN, users
from tests.support.direct_messages import DirectBus, check_reached
from tests.support.faststream_buses import accepted
from tests.support.faststream_checks import gated_listener
from tests.support.nats_server import NatsServer, nats_server, with_client
from tests.support.redis_buses import opened, until

from goevent import DriverConnectionError, DriverError
from goevent_faststream import FastStreamDriver
from goevent_faststream._nats import direct as direct_module

SCHEMES = ["nats", "nats+js"]
ANSWER = "goevent.replies.a1"
each_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def bus_on(
    server: NatsServer, scheme: str = "nats", options: str = "", login: str = ""
) -> DirectBus:
    """Return a bus; on JetStream it has a group."""
    group = "group=shop&" if scheme == "nats+js" else ""
    where = f"{login}@{server.addr}" if login else server.addr
    return DirectBus(f"{scheme}://{where}?{group}{options}")


@each_scheme
async def test_result_is_0_where_no_bus_has_the_address(scheme: str) -> None:
    async with nats_server() as server:
        bus, other = bus_on(server, scheme), bus_on(server, scheme)
        async with opened(bus, other):
            await other.open_addresses(ANSWER)
            bus.post("nobody.1", b"1")
            bus.post(ANSWER, b"2")
            bus.post("nobody.2", b"3")
            bus.post(ANSWER, b"4")
            await until(lambda: len(bus.results) == 4)
            assert sorted(bus.results, key=str) == [0, 0, None, None]
            await other.driver.close_addresses([ANSWER])
            await until_closed(bus)
            assert other.taken == [(ANSWER, b"2"), (ANSWER, b"4")]


async def until_closed(bus: DirectBus) -> None:
    """Send until the server knows that nobody has the address."""
    while await bus.send(ANSWER, b"5") != [0]:
        await trio.lowlevel.checkpoint()


@each_scheme
async def test_neither_patterns_nor_the_stream_get_direct_messages(scheme: str) -> None:
    async with nats_server() as server:
        bus, other = bus_on(server, scheme), bus_on(server, scheme)
        foreign = bus_on(server, "nats", "prefix=foreign.")
        unprefixed = bus_on(server, "nats", "prefix=")
        seen, all_seen = other.seen("**"), unprefixed.seen("**")
        async with opened(bus, other, foreign, unprefixed), unprefixed.driver.tail("**") as tail:
            await other.open_addresses(ANSWER)
            # The server takes the pattern without a prefix for a bus with this address.
            assert await foreign.send(ANSWER, b"0") == [None]
            await check_reached(bus, other, ANSWER, b"1")
            assert other.taken == [(ANSWER, b"1")]
            await accepted(bus, 7)
            await accepted(unprefixed, 8)
            await until(lambda: seen and all_seen)
            assert [event.n for event in seen] == [7]
            while (event := await tail.receive()).event_name != "order.paid":
                assert "$" not in event.event_name
            if scheme == "nats+js":

                async def stored(client: Any) -> int:
                    info = await client.jetstream().stream_info("goevent-js")
                    return int(info.state.messages)

                assert await with_client(server, stored) <= 1
        assert not any("$GOEVENT" in str(report) for report in unprefixed.reports)
        assert [event.n for event in all_seen] == [8]


@each_scheme
async def test_addresses_are_open_again_after_the_server_was_killed(scheme: str) -> None:
    async with nats_server() as server:
        sender, receiver = bus_on(server, scheme), bus_on(server, scheme)
        async with opened(sender, receiver):
            await receiver.open_addresses(ANSWER, "second")
            await receiver.driver.close_addresses(["second"])
            await check_reached(sender, receiver, ANSWER, b"before")
            server.kill()
            await until(lambda: not sender.is_connected() and not receiver.is_connected())
            (lost,) = await sender.send(ANSWER, b"lost")
            assert isinstance(lost, DriverConnectionError)
            with pytest.raises(DriverConnectionError):
                await bus_with_short_wait(receiver)
            await server.start()
            await until(lambda: sender.is_connected() and receiver.is_connected())
            await check_reached(sender, receiver, ANSWER, b"after")
            assert await sender.send("second", b"none") == [0]
            assert await sender.send("third", b"none") == [0]
        assert (ANSWER, b"lost") not in receiver.taken


async def bus_with_short_wait(bus: DirectBus) -> None:
    """Open an address while there is no connection; the wait for one is cut short."""
    adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
    connectivity = adapter._connection._connectivity
    seconds, connectivity._wait_seconds = connectivity._wait_seconds, 0.05
    try:
        await bus.open_addresses("third")
    finally:
        connectivity._wait_seconds = seconds


async def test_messages_under_way_fail_when_the_connection_is_lost() -> None:
    async with nats_server() as server:
        sender = bus_on(server)
        async with sender:
            await sender.open_addresses(ANSWER)
            server.freeze()
            sender.post(ANSWER, *(b"%d" % n for n in range(100)))
            await trio.testing.wait_all_tasks_blocked()
            assert sender.results == []
            server.kill()
            await until(lambda: len(sender.results) == 100)
            assert all(isinstance(each, DriverConnectionError) for each in sender.results)
            await server.start()
            await until(sender.is_connected)
            await check_reached(sender, sender, ANSWER, b"after")


async def test_connection_to_a_silent_server_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_module, "REPLY_SECONDS", 0.2)
    async with nats_server() as server:
        sender = bus_on(server)
        async with sender:
            server.freeze()
            (result,) = await sender.send(ANSWER, b"1")
            assert isinstance(result, DriverConnectionError)
            monkeypatch.undo()
            server.thaw()
            await until(sender.is_connected)
            assert await sender.send(ANSWER, b"2") == [0]


@each_scheme
async def test_refused_messages_and_addresses_fail_and_the_others_do_not(scheme: str) -> None:
    prefix = "goevent" if scheme == "nats" else "goevent-js"
    denied = (
        f'publish: {{ deny: ["$GOEVENT.{prefix}.secret.>"] }}, '
        f'subscribe: {{ deny: ["$GOEVENT.{prefix}.closed.>"] }}'
    )
    async with nats_server(config=users(denied)) as server:
        bus = bus_on(server, scheme, login=LOGIN)
        async with bus:
            await bus.open_addresses(ANSWER)
            bus.post(ANSWER, b"1")
            bus.post("secret.1", b"2")
            bus.post(ANSWER, b"3")
            bus.post("secret.2", b"4")
            await until(lambda: len(bus.results) == 4)
            failed = [each for each in bus.results if each is not None]
            assert len(failed) == 2
            assert all("Permissions Violation" in str(each) for each in failed)
            with pytest.raises(DriverError, match="Permissions Violation"):
                await bus.open_addresses("open.1", "closed.1")
            # None of a refused call is open.
            assert await bus.send("open.1", b"5") == [0]
            await bus.open_addresses("open.1")
            assert await bus.send("open.1", b"6") == [None]
            await until(lambda: len(bus.taken) == 3)
        assert bus.reports == []


async def test_large_message_fails_alone_and_the_connection_stays() -> None:
    async with nats_server(config="max_payload: 1000") as server:
        bus = bus_on(server)
        async with bus:
            await bus.open_addresses(ANSWER)
            bus.post(ANSWER, b"x" * 1000, b"x" * 1001, b"y")
            await until(lambda: len(bus.results) == 3 and len(bus.taken) == 2)
            failed = [each for each in bus.results if each is not None]
            assert len(failed) == 1
            assert "1001 bytes are above the limit of 1000" in str(failed[0])
        assert bus.reports == []


async def test_many_bytes_wait_for_the_server_in_order() -> None:
    async with nats_server(config="max_payload: 1000000") as server:
        sender, receiver = bus_on(server), bus_on(server)
        async with opened(sender, receiver):
            await receiver.open_addresses(ANSWER)
            messages = [b"%4d" % n + b"x" * 900_000 for n in range(30)]
            sender.post(ANSWER, *messages)
            await until(lambda: len(receiver.taken) == len(messages))
            assert [data for _, data in receiver.taken] == messages
            await until(lambda: sender.results == [None] * len(messages))


@each_scheme
async def test_full_mailbox_holds_back_no_direct_message(scheme: str) -> None:
    async with nats_server() as server:
        sender, receiver = bus_on(server, scheme), bus_on(server, scheme, "prefetch=2")
        gate, finished = gated_listener(receiver, mailbox=1)
        async with opened(sender, receiver):
            await receiver.ready()
            await receiver.open_addresses(ANSWER)
            await accepted(sender, *range(20))
            await check_reached(sender, receiver, ANSWER, b"1")
            await check_reached(receiver, receiver, ANSWER, b"2")
            assert finished == []
            gate.set()
            await until(lambda: len(finished) == 20)


async def test_messages_sent_at_the_end_arrive_and_have_results() -> None:
    async with nats_server() as server:
        receiver = bus_on(server)
        async with receiver:
            await receiver.open_addresses(ANSWER)
            sender = bus_on(server)
            async with sender:
                sender.post(ANSWER, b"1", b"2")
            assert len(sender.results) == 2
            sender.post(ANSWER, b"3")
            assert isinstance(sender.results[2], DriverConnectionError)
            await until(lambda: len(receiver.taken) == 2)


async def test_bus_opens_again_without_its_addresses() -> None:
    async with nats_server() as server:
        driver = FastStreamDriver.from_url(server.url)
        for _ in range(2):
            bus = DirectBus(driver)
            async with bus:
                assert await bus.send(ANSWER, b"1") == [0]
                await bus.open_addresses(ANSWER)
                await check_reached(bus, bus, ANSWER, b"2")


async def test_forged_answers_of_the_server_change_no_result() -> None:
    async with nats_server() as server:
        bus = bus_on(server)
        async with bus:
            await bus.open_addresses(ANSWER)
            assert await bus.send(ANSWER, b"1") == [None]
            adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
            answers = adapter.direct._answers_root

            async def forge(client: Any) -> None:
                for end in ("2", "x", "9" * 300, "-1"):
                    await client.publish(answers + end, b"NATS/1.0 503")
                await client.publish(f"{answers}3", b"", headers={"Status": "503"})
                await client.flush()

            await with_client(server, forge)
            await check_reached(bus, bus, ANSWER, b"4")
            await check_reached(bus, bus, ANSWER, b"5")
        assert bus.reports == []


async def test_patterns_of_a_group_leave_reserved_names_alone() -> None:
    name = "goevent-js.goevent.requests.price.asked"

    async def publish(client: Any) -> None:
        await client.jetstream().publish(name, b"a request to another group")

    async def consumers(client: Any) -> list[str]:
        found = await client.jetstream().consumers_info("goevent-js")
        return [each.config.filter_subject for each in found]

    async with nats_server() as server:
        bus = bus_on(server, "nats+js")
        seen = bus.seen("**")
        async with bus:
            await bus.ready()
            # One before the connection is renewed, which looks for names, and one behind it.
            await with_client(server, publish)
            server.kill()
            await until(lambda: not bus.is_connected())
            await server.start()
            await until(bus.is_connected)
            await with_client(server, publish)
            await accepted(bus, 7)
            await until(lambda: seen)
            assert [event.n for event in seen] == [7]
            assert await with_client(server, consumers) == ["goevent-js.order.paid"]
        assert not any("requests" in str(report) for report in bus.reports)
