"""Batches on Redis Streams: one write, a receipt for each event, and retries of single events."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.partition_buses import BASE, PARTITIONS, Moved, PartitionedBus
from tests.support.redis_buses import Paid, User, numbers, opened, until
from tests.support.redis_server import fault_proxy
from tests.support.streams_buses import STREAM, StreamsBus, command_client, streams_server

from goevent import BatchHandle, DriverError, current_delivery
from goevent_redis._link.conversation import Conversation
from goevent_redis._streams.deliverer import RETRIED_HEADER


async def answered(bus: StreamsBus, events: list[Any]) -> BatchHandle:
    """Dispatch a batch, and wait for the receipts."""
    batch = await bus.dispatch_many(events)
    with trio.fail_after(HANG_SECONDS):
        await batch.wait()
    return batch


def paid(count: int, first: int = 0) -> list[Paid]:
    return [Paid(n=n) for n in range(first, first + count)]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all requests that are submitted to a connection, in bytes."""
    sizes: list[int] = []
    submit = Conversation.submit

    def record(self: Conversation, data: bytes, request: Any) -> None:
        sizes.append(len(data))
        submit(self, data, request)

    monkeypatch.setattr(Conversation, "submit", record)
    return sizes


@pytest.mark.parametrize(
    "options", [{}, {"maxlen": 1000}, {"max_age": 3600.0}], ids=["plain", "maxlen", "max_age"]
)
async def test_a_batch_is_one_request_with_a_receipt_for_each_event(
    options: dict[str, Any], requests: list[int]
) -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, None, **options)
        async with bus:
            # The first event of a name also notes the name.
            await answered(bus, paid(1))
            requests.clear()
            first = await answered(bus, paid(100))
            assert len(requests) == 1
            await answered(bus, paid(100))
            assert len(requests) == 2
        entries = await ask("XRANGE", STREAM, "-", "+")
        assert first.receipts == tuple(entry[0].decode() for entry in entries[1:101])
        assert not bus.told


async def test_an_event_that_the_server_refuses_fails_alone() -> None:
    async with streams_server() as server, command_client(server) as ask:
        await ask("SET", STREAM, "no stream")
        bus = StreamsBus(server.addr, None)
        async with bus:
            batch = await answered(bus, [User(n=0), Paid(n=1), User(n=2), Paid(n=3)])
        assert [handle.event for handle in batch.failed] == [Paid(n=1), Paid(n=3)]
        assert all(isinstance(error.__cause__, DriverError) for error in batch.errors)
        assert [bool(receipt) for receipt in batch.receipts] == [True, False, True, False]


async def test_a_batch_survives_a_lost_connection() -> None:
    async with streams_server() as server, fault_proxy(server.port) as proxy:
        sender, receiver = StreamsBus(proxy.addr, None), StreamsBus(server.addr)
        got: list[tuple[int, bool]] = []

        @receiver.listener(Paid)
        async def take(event: Paid) -> None:
            got.append((event.n, RETRIED_HEADER in current_delivery().headers))

        async with opened(receiver, sender):
            await answered(sender, paid(1))
            # The connection ends in the middle of the replies.
            proxy.cut_after(200)
            batch = await sender.dispatch_many(paid(60, 1))
            await until(lambda: sender.says("connection") or batch.done)
            proxy.pass_on()
            with trio.fail_after(HANG_SECONDS):
                await batch.wait()
            batch.raise_errors()
            assert all(batch.receipts)
            await until(lambda: {n for n, _ in got} == {*range(61)})
        # The events that had their receipts were not sent again. The others may have come twice,
        # and their second copies say so.
        flagged = {n for n, retried in got if retried}
        assert 0 < min(flagged) < 20
        assert flagged == {*range(min(flagged), 61)}
        unflagged = [n for n, retried in got if not retried]
        assert len(unflagged) == len({*unflagged})


async def test_a_batch_without_a_connection_is_sent_on_the_next_one() -> None:
    async with streams_server() as server, fault_proxy(server.port) as proxy:
        sender, receiver = StreamsBus(proxy.addr, None), StreamsBus(server.addr)
        seen = receiver.seen()
        async with opened(receiver, sender):
            proxy.refuse()
            proxy.reset()
            await until(lambda: sender.says("connection"))
            batch = await sender.dispatch_many(paid(20))
            assert not batch.done
            await proxy.accept()
            with trio.fail_after(HANG_SECONDS):
                await batch.wait()
            batch.raise_errors()
            await until(lambda: {*numbers(seen)} == {*range(20)})


async def test_large_events_do_not_all_enter_the_write_buffer(requests: list[int]) -> None:
    async with streams_server() as server:
        bus, receiver = StreamsBus(server.addr, None), StreamsBus(server.addr)
        seen = receiver.seen()
        async with opened(receiver, bus):
            await answered(bus, paid(1))
            requests.clear()
            batch = await answered(bus, [Paid(n=n, text="x" * 300_000) for n in range(1, 31)])
            batch.raise_errors()
            await until(lambda: len(seen) == 31)
        # The write buffer takes events until it has a megabyte.
        assert max(requests) < 1_400_000
        assert sum(requests) > 30 * 300_000
        assert {*numbers(seen)} == {*range(31)}


async def test_partitions_get_a_batch_in_order(requests: list[int]) -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = PartitionedBus(server.addr, None)
        async with bus:
            for first in (0, 60):
                requests.clear()
                batch = await answered(
                    bus, [Moved(account=f"a{n % 7}", n=n) for n in range(first, first + 60)]
                )
                batch.raise_errors()
                assert all(batch.receipts)
            # The first batch has shown that the server takes events.
            assert len(requests) == 1
        found: list[tuple[str, int]] = []
        for number in range(PARTITIONS):
            for _, fields in await ask("XRANGE", f"{BASE}:{number}", "-", "+"):
                event = bus_event(dict(zip(fields[::2], fields[1::2], strict=True))[b"e"])
                found.append((event["account"], event["n"]))
        for account in range(7):
            moves = [n for each, n in found if each == f"a{account}"]
            assert moves == [*range(account, 60, 7), *range(60 + (account - 4) % 7, 120, 7)]


def bus_event(data: bytes) -> dict[str, Any]:
    """Return the fields of the event in an envelope."""
    return dict(json.loads(data)["event_data"])
