"""Exchanges, queues and bindings that are deleted while a bus runs are created again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from faststream.rabbit import RabbitBroker
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.faststream_checks import recording_middleware
from tests.support.limits import HANG_SECONDS
from tests.support.rabbit_node import RabbitNode
from tests.support.rabbit_server import RabbitSandbox, with_channel
from tests.support.redis_buses import Paid, User, numbers, opened, until

from goevent import DispatchHandle, current_delivery
from goevent_faststream import BrokerConfig, FastStreamDriver
from goevent_faststream._rabbit.publish_channel import PublishChannel

Delete = Callable[[Any, RabbitSandbox], Awaitable[object]]


async def delete(sandbox: RabbitSandbox, work: Delete) -> None:
    """Delete something on the server."""

    async def with_names(channel: Any) -> None:
        await work(channel, sandbox)

    await with_channel(sandbox.port, with_names)


async def arrives(sender: FastStreamBus, seen: list[Any], n: int) -> None:
    """Dispatch an event until the receiver has it; each dispatch is accepted."""
    with trio.fail_after(HANG_SECONDS):
        while n not in numbers(seen):
            await accepted(sender, n)
            await trio.sleep(0.05)


DELETED: dict[str, Delete] = {
    "exchange for events": lambda channel, sandbox: channel.exchange_delete(sandbox.exchange),
    "exact exchange": lambda channel, sandbox: channel.exchange_delete(f"{sandbox.exchange}:shop"),
    "patterns exchange": lambda channel, sandbox: channel.exchange_delete(
        f"{sandbox.exchange}:shop:##"
    ),
    "queue": lambda channel, sandbox: channel.queue_delete(sandbox.queue()),
    "patterns queue": lambda channel, sandbox: channel.queue_delete(sandbox.queue("##")),
    "binding of a queue": lambda channel, sandbox: channel.queue_unbind(
        sandbox.queue(), f"{sandbox.exchange}:shop", "order.paid"
    ),
    "binding of a group": lambda channel, sandbox: channel.exchange_unbind(
        f"{sandbox.exchange}:shop", sandbox.exchange, "order.paid"
    ),
    "binding of a pattern": lambda channel, sandbox: channel.queue_unbind(
        sandbox.queue("##"), f"{sandbox.exchange}:shop:##", "user.*"
    ),
}

DELETED_DEAD_LETTERS: dict[str, Delete] = {
    "queue": lambda channel, sandbox: channel.queue_delete(sandbox.queue("+dead")),
    "exchange": lambda channel, sandbox: channel.exchange_delete(f"{sandbox.exchange}:+dead"),
    "binding": lambda channel, sandbox: channel.queue_unbind(
        sandbox.queue("+dead"), f"{sandbox.exchange}:+dead", sandbox.queue("+dead")
    ),
}


@pytest.mark.parametrize("lost", DELETED)
async def test_group_listens_again_after_a_loss(node: RabbitNode, lost: str) -> None:
    sandbox = node.sandbox()
    bus, sender = sandbox.bus(), sandbox.bus(None)
    seen, users = bus.seen(), bus.seen("user.*")
    async with opened(bus, sender):
        await accepted(sender, 1)
        await until(lambda: seen)
        await delete(sandbox, DELETED[lost])
        await arrives(sender, seen, 2)
        with trio.fail_after(HANG_SECONDS):
            while not users:
                await sandbox.publish(b'{"n":3}', "user.created")
                if users or bus.count_reports("DecodeError"):
                    break
                await trio.sleep(0.05)
    assert bus.count_reports("is lost") == sender.count_reports("is lost") == 0
    if "binding" not in lost:
        assert bus.count_reports("deleted") + sender.count_reports("deleted") >= 1
        assert bus.count_reports("deleted") <= 1


@pytest.mark.parametrize("with_middleware", [False, True])
async def test_own_events_reach_the_group_at_once_although_a_binding_was_deleted(
    node: RabbitNode, with_middleware: bool
) -> None:
    sandbox = node.sandbox()
    middlewares = [recording_middleware()[0]] if with_middleware else []
    url = f"amqp://guest:guest@127.0.0.1:{node.port}/"
    broker = RabbitBroker(url, middlewares=middlewares, logger=None)
    config = BrokerConfig(stream=sandbox.exchange, group="shop")
    bus = FastStreamBus(FastStreamDriver(broker, config))
    seen = bus.seen()
    async with bus:
        await accepted(bus, 1)
        await delete(sandbox, DELETED["binding of a group"])
        await accepted(bus, 2)
        await until(lambda: len(seen) == 2)
        await delete(sandbox, DELETED["exchange for events"])
        await accepted(bus, 3)
        await until(lambda: len(seen) == 3)
        await delete(sandbox, DELETED["queue"])
        await accepted(bus, 4)
        await until(lambda: 4 in numbers(seen))


async def test_event_of_another_bus_is_kept_until_the_group_has_bound_again(
    node: RabbitNode,
) -> None:
    sandbox = node.sandbox()
    bus, sender = sandbox.bus(), sandbox.bus(None)
    seen = bus.seen()
    async with opened(bus, sender):
        await accepted(sender, 1)
        await delete(sandbox, DELETED["exchange for events"])
        await accepted(sender, *range(2, 12))
        await until(lambda: len({*numbers(seen)}) == 11)


@pytest.mark.parametrize("lost", ["queue", "binding of a queue", "binding of a group"])
async def test_event_of_another_bus_is_kept_although_its_queue_was_deleted(
    node: RabbitNode, lost: str
) -> None:
    sandbox = node.sandbox()
    bus, sender = sandbox.bus(), sandbox.bus(None)
    seen = bus.seen()
    async with opened(bus, sender):
        await accepted(sender, 1)
        await until(lambda: seen)
        await delete(sandbox, DELETED[lost])
        await accepted(sender, 2)
        await until(lambda: 2 in numbers(seen))


@pytest.mark.parametrize("group", [None, "mail"])
async def test_event_whose_queue_is_gone_for_good_is_told_to_its_sender(
    node: RabbitNode, group: str | None
) -> None:
    sandbox = node.sandbox()
    bus, sender = sandbox.bus(), sandbox.bus(group)
    bus.seen()
    async with opened(sender):
        async with opened(bus):
            await accepted(sender, 1)
        await delete(sandbox, DELETED["queue"])
        for n in (2, 3):
            handle = await sender.dispatch(Paid(n=n))
            await handle.wait()
            if group is None:
                # It may be that the bus that listened is gone, as buses without a group go.
                assert not handle.errors
                assert handle.receivers == 0
            else:
                (error,) = handle.errors
                assert "no queue takes 'order.paid' any more" in str(error)
        other = sandbox.bus()
        seen = other.seen()
        async with opened(other):
            await accepted(sender, 4)
            await until(lambda: numbers(seen) == [4])


async def test_event_that_nobody_has_listened_to_has_no_receivers(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    async with sandbox.bus(None) as sender:
        (handle,) = await accepted(sender, 1)
        assert handle.receivers == 0


async def test_events_that_nobody_listens_to_are_not_written_one_by_one(
    node: RabbitNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = PublishChannel._runs  # pyright: ignore[reportPrivateUsage]
    alone: list[bool] = []

    def noted(channel: PublishChannel, messages: Any) -> Any:
        for run, is_alone in runs(channel, messages):
            alone.append(is_alone)
            yield run, is_alone

    monkeypatch.setattr(PublishChannel, "_runs", noted)
    async with node.sandbox().bus(None) as bus:
        await accepted(bus, 0)
        await accepted(bus, *range(1, 20))
    assert sum(alone) == 1


async def test_closing_bus_dispatches_to_names_of_its_own_without_an_error(
    node: RabbitNode,
) -> None:
    bus = node.sandbox().bus(None)
    started, closing = trio.Event(), trio.Event()
    handles: list[DispatchHandle] = []

    async def listen(event: Paid) -> None:
        started.set()
        await closing.wait()
        for _ in range(20):
            await trio.sleep(0.02)
            handles.append(await bus.dispatch(User(n=event.n)))

    bus.subscribe(listen, Paid)
    bus.seen(User)
    async with bus:
        await bus.dispatch(Paid(n=1))
        await started.wait()
        closing.set()
    assert len(handles) == 20
    assert not bus.reports


@pytest.mark.parametrize("lost", ["exchange", "bindings", "queue"])
async def test_bus_without_a_group_listens_again_after_a_loss(node: RabbitNode, lost: str) -> None:
    sandbox = node.sandbox()
    bus, sender = sandbox.bus(None), sandbox.bus(None)
    seen = bus.seen()
    async with opened(bus, sender):
        await accepted(sender, 1)
        await until(lambda: seen)
        adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
        queue: str = adapter._queue

        async def lose(channel: Any) -> None:
            await channel.exchange_delete(sandbox.exchange)
            if lost == "bindings":
                await channel.exchange_declare(
                    sandbox.exchange, exchange_type="topic", durable=True
                )

        if lost == "queue":
            # An exclusive queue belongs to its connection; only an operator can delete it.
            await node.ctl("delete_queue", queue)
        else:
            await with_channel(sandbox.port, lose)
        await arrives(sender, seen, 2)
    assert bus.count_reports("is lost") == 0
    assert bus.count_reports("deleted") <= 1


async def test_dead_letter_waits_until_its_queue_is_there_again(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    bus = sandbox.bus(max_deliveries=2)
    bus.tries(fail=lambda _: True)
    async with bus:
        for n, lost in enumerate(DELETED_DEAD_LETTERS):
            await accepted(bus, n)
            await until(lambda n=n: bus.count_reports("is a dead letter") == n + 1)  # type: ignore[misc]
            await delete(sandbox, DELETED_DEAD_LETTERS[lost])
        await accepted(bus, 3)
        await until(lambda: bus.count_reports("is a dead letter") == 4)
    stored = await sandbox.take_messages(sandbox.queue("+dead"))
    # The first one was deleted with its queue.
    assert len(stored) == 3
    assert all("no " in each.header.properties.headers["goevent-reason"] for each in stored)


async def test_event_whose_queue_is_deleted_while_it_runs_is_tried_again(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    bus = sandbox.bus(max_deliveries=3)
    gate = trio.Event()
    tries: list[tuple[int, int]] = []

    async def listen(event: Paid) -> None:
        count = current_delivery().deliveries
        tries.append((event.n, count))
        if count == 1:
            await gate.wait()
            raise ValueError(event.n)

    bus.subscribe(listen, Paid, concurrency=3)
    async with bus:
        await accepted(bus, 1, 2, 3)
        await until(lambda: len(tries) == 3)
        await delete(sandbox, DELETED["queue"])
        await until(lambda: bus.count_reports("was deleted"))
        gate.set()
        await until(lambda: len(tries) == 6)
        assert sorted(tries) == [(n, count) for n in (1, 2, 3) for count in (1, 2)]
        await until(lambda: bus.backlogs()[0].lag == 0)
    assert await sandbox.take_messages(sandbox.queue()) == []


async def test_server_that_comes_back_empty_is_set_up_again(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    bus, alone, sender = sandbox.bus(max_deliveries=2), sandbox.bus(None), sandbox.bus(None)
    gate, failing = trio.Event(), [True]
    tries: list[tuple[int, int]] = []

    async def listen(event: Paid) -> None:
        tries.append((event.n, current_delivery().deliveries))
        await gate.wait()
        if failing:
            raise ValueError(event.n)

    bus.subscribe(listen, Paid)
    seen = alone.seen()
    async with opened(bus, alone, sender):
        await accepted(sender, 1)
        await until(lambda: tries and seen)
        await node.reset()
        await until(lambda: all(b.driver.snapshot().connected for b in (bus, alone, sender)), 60)
        await until(lambda: bus.count_reports("deleted"))
        gate.set()
        # The server has lost the event, and the bus has not.
        await until(lambda: tries == [(1, 1), (1, 2)])
        await until(lambda: bus.count_reports("is a dead letter after 2 deliveries"))
        failing.clear()
        await arrives(sender, seen, 2)
        await until(lambda: (2, 1) in tries)
    for each in (bus, alone, sender):
        assert each.count_reports("connection to amqp is lost") == 1
    assert bus.count_reports("deleted") == 1
    assert len(await sandbox.take_messages(sandbox.queue("+dead"))) == 1


async def test_purge_of_a_queue_changes_nothing(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    bus = sandbox.bus(prefetch=1)
    gate = trio.Event()
    done: list[int] = []

    async def listen(event: Paid) -> None:
        await gate.wait()
        done.append(event.n)

    bus.subscribe(listen, Paid)
    async with bus:
        await accepted(bus, 1, 2, 3)
        await until(lambda: [(b.lag, b.pending) for b in bus.backlogs()] == [(2, 1)])
        await delete(sandbox, lambda channel, _: channel.queue_purge(sandbox.queue()))
        gate.set()
        await accepted(bus, 4)
        await until(lambda: done == [1, 4])
    assert not bus.reports
