"""A message that the server refuses closes its channel: its neighbours do not get its reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from faststream import BaseMiddleware
from faststream.rabbit import RabbitBroker
from tests.faststream.rabbit.test_refusals import NOT_LOST, declare_exchange, user_sandbox
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.limits import HANG_SECONDS
from tests.support.rabbit_node import RabbitNode
from tests.support.rabbit_server import RabbitSandbox
from tests.support.redis_buses import OrderLost, Paid, numbers, opened, until

from goevent import DispatchHandle, DriverConnectionError, DriverError
from goevent_faststream import BrokerConfig, FastStreamDriver
from goevent_faststream._rabbit.refusals import find_refused


def check_neighbours(handles: Sequence[DispatchHandle], culprit: int, reason: str) -> list[int]:
    """Check the errors of a burst; return the places of the events that have certainly arrived."""
    arrived: list[int] = []
    for place, handle in enumerate(handles):
        if place == culprit:
            (error,) = handle.errors
            assert reason in str(error)
        elif place < culprit and handle.errors:
            assert isinstance(handle.errors[0].error, DriverConnectionError)
            assert "because of another event; the event may have arrived" in str(handle.errors[0])
        else:
            handle.raise_errors()
            arrived.append(place)
    return arrived


async def test_right_that_is_withdrawn_fails_the_event_that_needs_it(node: RabbitNode) -> None:
    sandbox = await user_sandbox(node)
    await declare_exchange(sandbox)
    bus = sandbox.bus(None, publish_timeout=10)
    receiver = RabbitSandbox(node.port, sandbox.exchange).bus(None)
    seen = receiver.seen("**")
    async with opened(bus, receiver):
        await accepted(bus, -1)
        (await bus.dispatch(OrderLost(n=-2))).raise_errors()
        await until(lambda: len(seen) == 2)
        await node.ctl("set_topic_permissions", sandbox.user, sandbox.exchange, NOT_LOST, ".*")
        with trio.fail_after(HANG_SECONDS):
            while True:
                # A channel of the server forgets the user's rights once it has been idle.
                await trio.sleep(1.5)
                seen.clear()
                handles = [
                    await bus.dispatch(OrderLost(n=n) if n == 25 else Paid(n=n)) for n in range(50)
                ]
                for handle in handles:
                    await handle.wait()
                if handles[25].errors:
                    break
                # None of this burst may come among those of the next one.
                await until(lambda: len(seen) == 50)
        arrived = check_neighbours(handles, 25, "access to topic 'order.lost'")
        assert arrived[-24:] == [*range(26, 50)]
        await until(lambda: {*arrived} <= {*numbers(seen)})
    # Those in front of it may have arrived. None came twice.
    assert len({*numbers(seen)}) == len(seen)
    assert 25 not in numbers(seen)


@dataclass(frozen=True, slots=True)
class Sent:
    exchange: str = "goevent"
    routing_key: str = "a"
    body: bytes = b""


@pytest.mark.parametrize(
    ("reason", "messages", "places"),
    [
        (
            "PRECONDITION_FAILED - message size 9 is larger than configured max size 5",
            [Sent(), Sent(body=b"123456789"), Sent(body=b"12345"), Sent(body=b"123456")],
            [1, 3],
        ),
        (
            "NOT_FOUND - no exchange 'other' in vhost '/'",
            [Sent(), Sent("other"), Sent("other", "b")],
            [1, 2],
        ),
        (
            "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'u'",
            [Sent(), Sent("")],
            [1],
        ),
        (
            "ACCESS_REFUSED - access to topic 'b' in exchange 'goevent' in vhost '/' refused",
            [Sent(), Sent("other", "b"), Sent("goevent", "b")],
            [2],
        ),
        ("INTERNAL_ERROR", [Sent(), Sent()], []),
        ("INTERNAL_ERROR", [Sent()], [0]),
    ],
)
def test_reason_tells_the_refused_message(
    reason: str, messages: list[Sent], places: list[int]
) -> None:
    assert find_refused(reason, messages) == places


def changing(change: Callable[[Any], None]) -> type[BaseMiddleware]:
    """Return a middleware that changes the message options of the event with the number 5."""

    class Changing(BaseMiddleware):
        async def publish_scope(self, call_next: Callable[[Any], Awaitable[Any]], cmd: Any) -> Any:
            if b'"n":5' in cmd.body:
                change(cmd)
            return await call_next(cmd)

    return Changing


def set_user(command: Any) -> None:
    command.message_options["user_id"] = "somebody else"


def set_expiration(command: Any) -> None:
    command.message_options["expiration"] = 1e12


def add_keys(command: Any) -> None:
    command.headers["CC"] = "not a list"


@pytest.mark.parametrize(
    ("change", "reason"),
    [(set_user, "user_id property set"), (set_expiration, "expiration"), (add_keys, "CC")],
)
async def test_property_that_the_server_refuses_fails_its_event_alone(
    node: RabbitNode, change: Callable[[Any], None], reason: str
) -> None:
    sandbox = node.sandbox()
    url = f"amqp://guest:guest@127.0.0.1:{node.port}/"
    broker = RabbitBroker(url, middlewares=[changing(change)], logger=None)
    bus = FastStreamBus(FastStreamDriver(broker, BrokerConfig(stream=sandbox.exchange)))
    receiver = sandbox.bus(None)
    seen = receiver.seen()
    async with opened(bus, receiver):
        await accepted(bus, 99)
        handles = [await bus.dispatch(Paid(n=n)) for n in range(20)]
        for handle in handles:
            await handle.wait()
        for n, handle in enumerate(handles):
            if n == 5:
                (error,) = handle.errors
                assert isinstance(error.error, DriverError)
                assert reason in str(error)
            else:
                handle.raise_errors()
        await until(lambda: len(seen) == 20)
    assert 5 not in numbers(seen)


async def test_limit_of_another_server_is_learned_anew(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    bus = sandbox.bus(None)
    async with bus:
        handle = await bus.dispatch(Paid(n=1, text="x" * (node.max_message_bytes + 1)))
        await handle.wait()
        assert "max size" in str(handle.errors[0])
        limit = node.max_message_bytes
        await node.ctl("eval", f"application:set_env(rabbit, max_message_size, {10 * limit}).")
        try:
            await node.ctl("close_all_connections", "for the test")
            await until(lambda: bus.count_reports("amqp again"))
            handle = await bus.dispatch(Paid(n=2, text="x" * (limit + 1)))
            await handle.wait()
            handle.raise_errors()
        finally:
            with trio.CancelScope(shield=True):
                await node.ctl("eval", f"application:set_env(rabbit, max_message_size, {limit}).")
