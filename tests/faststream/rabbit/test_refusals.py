"""Requests that the server refuses: the error goes to the caller, and other requests go on."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.limits import HANG_SECONDS
from tests.support.rabbit_node import RabbitNode
from tests.support.rabbit_server import RabbitSandbox, with_channel
from tests.support.redis_buses import OrderLost, Paid, User, numbers, opened, until

from goevent import DriverConnectionError, DriverError

ALL = ".*"
NOT_LOST = r"^(?!.*order\.lost).*$"


class UserSandbox(RabbitSandbox):
    """Names on the server for one test, and a user."""

    user: str = "guest"

    def url(self, group: str | None = None, **options: object) -> str:
        return super().url(group, **options).replace("guest:guest", f"{self.user}:secret")


async def user_sandbox(
    node: RabbitNode, configure: str = ALL, write: str = ALL, read: str = ALL
) -> UserSandbox:
    """Return names on the server, with a user that has rights by these regular expressions."""
    sandbox = UserSandbox(node.port)
    sandbox.user = f"user-{uuid.uuid4().hex[:8]}"
    await node.ctl("add_user", sandbox.user, "secret")
    await allow(node, sandbox, configure, write, read)
    return sandbox


async def allow(
    node: RabbitNode,
    sandbox: UserSandbox,
    configure: str = ALL,
    write: str = ALL,
    read: str = ALL,
) -> None:
    """Change the rights of the user."""
    await node.ctl("set_permissions", "-p", "/", sandbox.user, configure, write, read)


async def declare_exchange(sandbox: RabbitSandbox) -> None:
    """Create the exchange for events, as an operator does."""

    async def declare(channel: Any) -> None:
        await channel.exchange_declare(sandbox.exchange, exchange_type="topic", durable=True)

    await with_channel(sandbox.port, declare)


async def test_user_that_may_only_write_publishes_to_an_exchange_of_the_operator(
    node: RabbitNode,
) -> None:
    sandbox = await user_sandbox(node, configure="^$", read="^$")
    await declare_exchange(sandbox)
    bus = sandbox.bus(None)
    async with bus:
        await accepted(bus, 1)
        registration = bus.subscribe(lambda _: None, Paid)
        with pytest.raises(DriverError, match="ACCESS_REFUSED"):
            await registration.ready()
        await accepted(bus, 2)
    # Those of the event, and of the address at which other buses ask who listens.
    assert bus.count_reports("ACCESS_REFUSED") == 2


async def test_exchange_that_the_user_may_not_create_ends_the_opening(node: RabbitNode) -> None:
    sandbox = await user_sandbox(node, configure="^$")
    with pytest.raises(DriverError, match=rf"ACCESS_REFUSED.*{sandbox.exchange}"):
        async with sandbox.bus(None):
            pass


@pytest.mark.parametrize(
    "rights", [{"configure": NOT_LOST}, {"read": NOT_LOST}, {"write": NOT_LOST}], ids=str
)
async def test_refused_subscription_disturbs_nothing_else(
    node: RabbitNode, rights: dict[str, str]
) -> None:
    sandbox = await user_sandbox(node, **rights)
    bus = sandbox.bus()
    gate, ran = trio.Event(), list[int]()

    async def listen(event: Paid) -> None:
        ran.append(event.n)
        await gate.wait()

    bus.subscribe(listen, Paid, concurrency=10)
    async with bus:
        await accepted(bus, 1, 2, 3)
        await until(lambda: len(ran) == 3)
        registration = bus.subscribe(lambda _: None, OrderLost)
        with pytest.raises(DriverError, match="ACCESS_REFUSED"):
            await registration.ready()
        await accepted(bus, 4)
        await until(lambda: 4 in ran)
        # The core tries the subscription again and again, which must not disturb the others.
        users: list[Any] = []
        await bus.subscribe(lambda event: users.append(event), User).ready()
        await trio.sleep(4)
        handle = await bus.dispatch(User(n=5))
        await handle.wait()
        handle.raise_errors()
        await until(lambda: numbers(users) == [5])
        gate.set()
        await until(lambda: bus.backlogs()[0].pending == 0)
        await allow(node, sandbox)
        await until(lambda: any(b.event_name == "order.lost" for b in bus.backlogs()), 60)
    assert sorted(ran) == [1, 2, 3, 4]
    assert bus.count_reports("ACCESS_REFUSED") == 1
    assert bus.count_reports("is lost") == 0


async def test_event_that_the_user_may_not_write_fails_alone(node: RabbitNode) -> None:
    sandbox = await user_sandbox(node)
    await declare_exchange(sandbox)
    await node.ctl("set_topic_permissions", sandbox.user, sandbox.exchange, NOT_LOST, ALL)
    bus, receiver = sandbox.bus(None), RabbitSandbox(node.port, sandbox.exchange).bus(None)
    seen = receiver.seen("**")
    async with opened(bus, receiver):
        handles = [
            await bus.dispatch(OrderLost(n=n) if n % 10 == 5 else Paid(n=n)) for n in range(50)
        ]
        for handle in handles:
            await handle.wait()
        for n, handle in enumerate(handles):
            if n % 10 == 5:
                (error,) = handle.errors
                assert "ACCESS_REFUSED" in str(error)
                assert "order.lost" in str(error)
            else:
                handle.raise_errors()
        await until(lambda: len(seen) == 45)
        assert numbers(seen) == [n for n in range(50) if n % 10 != 5]
    assert bus.count_reports("is lost") == 0


async def test_refused_exchange_fails_on_the_handle_and_events_still_arrive(
    node: RabbitNode,
) -> None:
    sandbox = await user_sandbox(node)
    bus, sender = sandbox.bus(), RabbitSandbox(node.port, sandbox.exchange).bus(None)
    seen = bus.seen()
    async with opened(bus, sender):
        await accepted(bus, 1)
        await allow(node, sandbox, write=f"^{sandbox.exchange}:.*$")
        with trio.fail_after(HANG_SECONDS):
            errors = tuple[Any, ...]()
            while not errors:
                # A channel of the server remembers the user's rights until it has been idle.
                await trio.sleep(1.5)
                handle = await bus.dispatch(Paid(n=2))
                await handle.wait()
                errors = handle.errors
        assert "ACCESS_REFUSED" in str(errors[0])
        await accepted(sender, 4)
        await until(lambda: 4 in numbers(seen))
        await allow(node, sandbox)
        # The server has closed the channel, so the bus has a new one.
        await accepted(bus, 5)
        await until(lambda: 5 in numbers(seen))
    assert bus.count_reports("is lost") == 0


async def test_exchange_that_is_gone_and_may_not_be_created_fails_on_the_handle(
    node: RabbitNode,
) -> None:
    sandbox = await user_sandbox(node)
    bus = sandbox.bus(None)

    async def delete(channel: Any) -> None:
        await channel.exchange_delete(sandbox.exchange)

    async with bus:
        await accepted(bus, 1)
        await allow(node, sandbox, configure="^$")
        await with_channel(sandbox.port, delete)
        with trio.fail_after(HANG_SECONDS):
            handle = await bus.dispatch(Paid(n=2))
            await handle.wait()
        (error,) = handle.errors
        assert f"NOT_FOUND - no exchange '{sandbox.exchange}'" in str(error)
        await declare_exchange(sandbox)
        await accepted(bus, 3)
    assert bus.count_reports("ACCESS_REFUSED") == 1
    assert bus.count_reports("was deleted") == 1


async def test_rights_that_are_gone_after_a_reconnect_are_reported_once(node: RabbitNode) -> None:
    sandbox = await user_sandbox(node)
    bus = sandbox.bus(name="reconnected")
    paid, lost = bus.seen(), bus.seen(OrderLost)
    async with bus:
        await accepted(bus, 1)
        await (await bus.dispatch(OrderLost(n=1))).wait()
        await until(lambda: paid and lost)
        await allow(node, sandbox, read=NOT_LOST)
        await close_connections(node, "reconnected")
        await until(lambda: bus.count_reports("amqp again"))
        await accepted(bus, 2)
        await until(lambda: numbers(paid) == [1, 2])
        await trio.sleep(4)
    assert bus.count_reports("ACCESS_REFUSED") == 1
    assert bus.count_reports("connection to amqp is lost") == 1


async def close_connections(node: RabbitNode, name: str) -> None:
    """Let the server close the connections of a bus."""
    for line in (await node.ctl("list_connections", "pid", "client_properties")).splitlines():
        if name in line:
            await node.ctl("close_connection", line.split("\t")[0], "closed by the test")


async def test_queue_with_other_properties_is_named_with_the_property(node: RabbitNode) -> None:
    sandbox = node.sandbox()

    async def declare(channel: Any) -> None:
        await channel.queue_declare(sandbox.queue(), durable=True)

    await with_channel(sandbox.port, declare)
    bus = sandbox.bus()
    async with bus:
        for event, is_refused in ((Paid, True), (User, False)):
            registration = bus.subscribe(lambda _: None, event)
            if not is_refused:
                await registration.ready()
                continue
            with pytest.raises(DriverError, match=r"PRECONDITION_FAILED.*x-") as caught:
                await registration.ready()
            assert sandbox.queue() in str(caught.value)
    assert bus.count_reports("is lost") == 0


async def test_queue_that_another_connection_owns_is_refused(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    is_owned, is_over = trio.Event(), threading.Event()

    async def own(channel: Any) -> None:
        await channel.queue_declare(sandbox.queue(), exclusive=True)
        trio.from_thread.run_sync(is_owned.set)
        await asyncio.to_thread(is_over.wait)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(with_channel, sandbox.port, own)
        await is_owned.wait()
        try:
            async with sandbox.bus() as bus:
                registration = bus.subscribe(lambda _: None, Paid)
                with pytest.raises(DriverError, match="RESOURCE_LOCKED"):
                    await registration.ready()
        finally:
            is_over.set()


async def test_full_queue_that_rejects_fails_on_the_handle(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    bus = sandbox.bus(prefetch=1)
    gate = trio.Event()

    async def listen(_: Paid) -> None:
        await gate.wait()

    bus.subscribe(listen, Paid)
    await node.ctl(
        "set_policy", sandbox.exchange, f"^{sandbox.exchange}:shop:order.paid$",
        '{"max-length":2,"overflow":"reject-publish"}', "--apply-to", "queues",
    )  # fmt: skip
    async with bus:
        with trio.fail_after(HANG_SECONDS):
            n, errors = 0, tuple[Any, ...]()
            while not errors:
                handle = await bus.dispatch(Paid(n=n))
                await handle.wait()
                errors, n = handle.errors, n + 1
        assert "the server has rejected the message" in str(errors[0])
        gate.set()
        await until(lambda: bus.backlogs()[0].lag == 0)
        await accepted(bus, 100)


@asynccontextmanager
async def virtual_host(node: RabbitNode) -> AsyncGenerator[str]:
    name = f"goevent-{uuid.uuid4().hex[:8]}"
    await node.ctl("add_vhost", name)
    await node.ctl("set_permissions", "-p", name, "guest", ALL, ALL, ALL)
    yield name


async def test_virtual_host_that_is_deleted_is_reported_and_used_when_it_is_back(
    node: RabbitNode,
) -> None:
    async with virtual_host(node) as name:
        bus = FastStreamBus(f"amqp://guest:guest@127.0.0.1:{node.port}/{name}?group=shop")
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1)
            await until(lambda: seen)
            await node.ctl("delete_vhost", name)
            await until(lambda: bus.count_reports(f"NOT_ALLOWED - vhost {name} not found"))
            handle = await bus.dispatch(Paid(n=2))
            await handle.wait()
            (error,) = handle.errors
            assert isinstance(error.error, DriverConnectionError)
            assert "not found" in str(error)
            await node.ctl("add_vhost", name)
            await node.ctl("set_permissions", "-p", name, "guest", ALL, ALL, ALL)
            await until(lambda: bus.count_reports("amqp again"), 60)
            await accepted(bus, 3)
            await until(lambda: numbers(seen) == [1, 3])
        assert bus.count_reports("not found") <= 3
        assert bus.count_reports("connection to amqp is lost") == 1


async def test_limits_of_a_virtual_host_are_refusals(node: RabbitNode) -> None:
    async with virtual_host(node) as name:
        url = f"amqp://guest:guest@127.0.0.1:{node.port}/{name}"
        bus = FastStreamBus(f"{url}?group=shop")
        seen = bus.seen()
        async with bus:
            await node.ctl("set_vhost_limits", "-p", name, '{"max-queues": 2}')
            registration = bus.subscribe(lambda _: None, User)
            with pytest.raises(DriverError, match="queue limit"):
                await registration.ready()
            await accepted(bus, 1)
            await until(lambda: seen)
        await node.ctl("set_vhost_limits", "-p", name, '{"max-connections": 0}')
        with pytest.raises(DriverConnectionError, match="connection limit"):
            async with FastStreamBus(url):
                pass


async def test_a_check_names_a_right_that_is_missing_and_no_password(node: RabbitNode) -> None:
    sandbox = await user_sandbox(node)
    bus = sandbox.bus("shop")
    async with bus:
        assert await bus.driver.check(["order.paid"]) == []
        # The server remembers the rights of a channel for a while, and the bus keeps its channels.
        await allow(node, sandbox, write="^$")
        found = await bus.driver.check(["order.lost"])
        await allow(node, sandbox)
    assert found
    assert {each.severity for each in found} == {"error"}
    assert all("ACCESS_REFUSED" in each.text for each in found)
    assert not any("secret" in each.text for each in found)
