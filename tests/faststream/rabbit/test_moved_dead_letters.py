"""Dead letters that an operator moves back run once more, counted as first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from faststream.rabbit import RabbitBroker, RabbitQueue
from pamqp.commands import Basic
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.limits import HANG_SECONDS
from tests.support.rabbit_node import RabbitNode
from tests.support.rabbit_server import RabbitSandbox, with_channel
from tests.support.redis_buses import Paid, User, numbers, opened, until

from goevent import current_delivery
from goevent_faststream import BrokerConfig, FastStreamDriver

Move = Callable[[RabbitNode, RabbitSandbox, str], Awaitable[None]]


async def publish_again(sandbox: RabbitSandbox, exchange: str, key: str) -> None:
    """Move all dead letters as a script does: get each, publish it with its headers, and ack."""

    async def move(channel: Any) -> None:
        while (message := await channel.basic_get(sandbox.queue("+dead"))).delivery_tag:
            await channel.basic_publish(
                message.body,
                exchange=exchange,
                routing_key=key,
                properties=message.header.properties,
            )
            await channel.basic_ack(message.delivery_tag)

    await with_channel(sandbox.port, move)


WAYS: dict[str, Move] = {
    "published to the queue": lambda _, sandbox, name: publish_again(
        sandbox, "", sandbox.queue(name)
    ),
    "published to the exchange": lambda _, sandbox, _name: publish_again(
        sandbox, sandbox.exchange, "order.paid"
    ),
    "shovelled to the queue": lambda node, sandbox, name: node.move_messages(
        sandbox.queue("+dead"), {"dest-queue": sandbox.queue(name)}
    ),
    "shovelled to the exchange": lambda node, sandbox, _: node.move_messages(
        sandbox.queue("+dead"),
        {"dest-exchange": sandbox.exchange, "dest-exchange-key": "order.paid"},
    ),
}


async def look_at(sandbox: RabbitSandbox, times: int) -> None:
    """Take the first dead letter and return it, as an operator does who looks at it."""

    async def look(channel: Any) -> None:
        for _ in range(times):
            message = await channel.basic_get(sandbox.queue("+dead"))
            await channel.basic_nack(message.delivery_tag, requeue=True)

    await with_channel(sandbox.port, look)


def bus_on(sandbox: RabbitSandbox, queue_type: str) -> FastStreamBus:
    """Return a bus whose queues are of a type."""
    url = f"amqp://guest:guest@127.0.0.1:{sandbox.port}/"
    stem = f"{sandbox.exchange}:shop"
    queue = RabbitQueue(stem, durable=True, arguments={"x-queue-type": queue_type})  # type: ignore[call-overload]
    config = BrokerConfig(group="shop", stream=sandbox.exchange, backoff=0.02, max_deliveries=2)
    return FastStreamBus(FastStreamDriver(RabbitBroker(url, logger=None), config, address=queue))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_dead_letter_that_is_moved_back_is_a_new_event_of_its_group(
    node: RabbitNode, queue_type: str, way: str
) -> None:
    sandbox = node.sandbox()
    bus, mail, alone = bus_on(sandbox, queue_type), sandbox.bus("mail"), sandbox.bus(None)
    tries = bus.tries(fail=lambda event: event.n == 1 and len(tries) != 6)
    mailed, seen = mail.seen(), alone.seen()
    async with opened(bus, mail, alone):
        (handle,) = await accepted(alone, 1)
        for moved in range(1, 3):
            await until(lambda moved=moved: bus.count_reports("after 2 deliveries") == moved)  # type: ignore[misc]
            await look_at(sandbox, times=3)
            await WAYS[way](node, sandbox, "order.paid")
        await until(lambda: len(tries) == 6)
        await until(
            lambda: all(b.lag == b.pending == 0 for b in (*bus.backlogs(), *mail.backlogs()))
        )
        await accepted(alone, 2)
        await until(lambda: 2 in numbers(mailed) and 2 in numbers(seen))
    assert tries[:6] == [(1, 1), (1, 2)] * 3
    assert numbers(mailed) == numbers(seen) == [1, 2]
    assert handle.receipt is not None
    assert await sandbox.take_messages(sandbox.queue("+dead")) == []


async def test_listener_sees_the_headers_of_the_event_only(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    bus = sandbox.bus(max_deliveries=1, format="faststream")
    seen: list[dict[str, str]] = []

    async def fail_at_first(event: Paid) -> None:
        seen.append(dict(current_delivery().headers))
        if len(seen) == 1:
            raise ValueError(event.n)

    bus.subscribe(fail_at_first, Paid)
    async with bus:
        await accepted(bus, 1)
        await until(lambda: bus.count_reports("is a dead letter"))
        await WAYS["published to the queue"](node, sandbox, "order.paid")
        await until(lambda: len(seen) == 2)
    assert seen[0] == seen[1]


async def test_dead_letter_that_is_moved_to_another_group_runs_there(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    bus, mail = sandbox.bus(max_deliveries=1), sandbox.bus("mail")
    bus.tries(fail=lambda _: True)
    mailed = mail.tries(fail=lambda _: False)
    async with opened(bus, mail):
        await accepted(bus, 1)
        await until(lambda: mailed and bus.count_reports("is a dead letter"))
        await publish_again(sandbox, "", sandbox.queue(group="mail"))
        await until(lambda: mailed == [(1, 1), (1, 1)])


@pytest.mark.parametrize("listens_to", ["user.created", "user.*"])
async def test_event_that_the_server_has_dead_lettered_runs_when_it_is_moved_back(
    node: RabbitNode, listens_to: str
) -> None:
    sandbox = node.sandbox()
    bus = sandbox.bus()
    queue = sandbox.queue("##" if "*" in listens_to else listens_to)
    bus.subscribe(lambda _: None, listens_to)
    async with bus:
        pass
    policy = f"{sandbox.exchange}-expire"
    await node.ctl(
        "set_policy", policy, f"^{queue}$", '{"message-ttl":1}', "--apply-to", "queues"
    )  # fmt: skip
    async with sandbox.bus(None) as sender:
        await (await sender.dispatch(User(n=1))).wait()

    async def count(channel: Any) -> int:
        reply = await channel.queue_declare(sandbox.queue("+dead"), passive=True)
        return int(reply.message_count)

    with trio.fail_after(HANG_SECONDS):
        while not await with_channel(sandbox.port, count):
            await trio.sleep(0.05)
    await node.ctl("clear_policy", policy)
    again = sandbox.bus()
    seen = again.seen(listens_to)
    async with again:
        await publish_again(sandbox, "", queue)
        await until(lambda: numbers(seen) == [1])
    assert not again.reports


async def test_event_of_another_sender_in_the_queue_of_a_name_has_this_name(
    node: RabbitNode,
) -> None:
    sandbox = node.sandbox()
    bus = sandbox.bus(format="faststream")
    tries = bus.tries(fail=lambda _: False)

    async def publish(channel: Any) -> None:
        await channel.basic_publish(
            b'{"n":1}',
            routing_key=sandbox.queue(),
            properties=Basic.Properties(headers={"x-delivery-count": 9}),
        )

    async with bus:
        await accepted(bus, 0)
        await with_channel(sandbox.port, publish)
        await until(lambda: tries == [(0, 1), (1, 1)])
