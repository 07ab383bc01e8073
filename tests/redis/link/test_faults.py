"""The link and network faults: it reconnects, and replies stay with their requests."""

from __future__ import annotations

import random
import resource
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio
from tests.redis.link.test_connection import tls_contexts
from tests.support.limits import HANG_SECONDS, PROMPT_SECONDS
from tests.support.redis_server import (
    SMALL_OUTPUT_BUFFER,
    FaultProxy,
    RedisServer,
    fault_proxy,
    redis_server,
)

from goevent_redis._link.config import RedisConfig
from goevent_redis._link.connectivity import Disconnected
from goevent_redis._link.conversation import Conversation
from goevent_redis._link.errors import ConnectionBroken, NotConnected, RedisLinkError
from goevent_redis._link.link import Link


class Subscriber:
    """A link through a proxy that subscribes again and again, and the messages received."""

    def __init__(self, config: RedisConfig, **options: Any) -> None:
        self.numbers: list[int] = []
        self.down: list[Disconnected] = []
        self.link = Link(
            config,
            on_push=self._take,
            on_connect=self._subscribe,
            on_disconnected=self.down.append,
            **options,
        )

    async def _subscribe(self, conversation: Conversation) -> None:
        await conversation.subscribe("SUBSCRIBE", "numbers")

    def _take(self, frames: list[Any]) -> None:
        for frame in frames:
            if frame[0] == b"message":
                _, channel, payload = frame
                number, _, filling = payload.partition(b":")
                assert channel == b"numbers"
                assert filling == b"x" * 120
                self.numbers.append(int(number))


@asynccontextmanager
async def subscribed(
    *conf: str, **fields: Any
) -> AsyncGenerator[tuple[RedisServer, FaultProxy, Subscriber, Link]]:
    """Yield a server, a proxy, a subscriber through it, and a publisher that goes around it."""
    async with redis_server(*conf) as server, fault_proxy(server.port) as proxy:
        subscriber = Subscriber(RedisConfig(addr=proxy.addr, **fields), keepalive=0.2)
        publisher = Link(RedisConfig(addr=server.addr))
        async with subscriber.link.open(), publisher.open():
            yield server, proxy, subscriber, publisher


async def publish(link: Link, first: int, count: int) -> None:
    for number in range(first, first + count):
        link.post_nowait("PUBLISH", "numbers", b"%d:" % number + b"x" * 120)
        if number % 100 == 0:
            await link.drain()
    await link.drain()


async def until(subscriber: Subscriber, number: int, publisher: Link) -> None:
    """Publish `number` until it arrives."""
    with trio.fail_after(HANG_SECONDS):
        while number not in subscriber.numbers:
            await publish(publisher, number, 1)
            await trio.sleep(0.001)


def assert_in_step(subscriber: Subscriber) -> None:
    """Check that the messages arrived in order, whole (see `_take`) and once."""
    assert subscriber.numbers == sorted(set(subscriber.numbers))


async def test_connections_cut_in_the_middle_of_frames() -> None:
    rng = random.Random(3)
    async with subscribed() as (_, proxy, subscriber, publisher):
        for round_ in range(8):
            await until(subscriber, round_ * 10_000, publisher)
            subscriber.numbers = list(dict.fromkeys(subscriber.numbers))
            proxy.cut_after(rng.randrange(1, 5000))
            await publish(publisher, round_ * 10_000 + 1, 100)
            with trio.fail_after(HANG_SECONDS):
                while len(subscriber.down) <= round_:
                    await trio.sleep(0.001)
            proxy.pass_on()
            await subscriber.link.ready()
        assert_in_step(subscriber)
        assert all(isinstance(down.reason, RedisLinkError) for down in subscriber.down)


async def test_connections_that_are_reset() -> None:
    async with subscribed() as (_, proxy, subscriber, publisher):
        for round_ in range(5):
            await until(subscriber, round_ * 10_000, publisher)
            subscriber.numbers = list(dict.fromkeys(subscriber.numbers))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, publisher, round_ * 10_000 + 1, 2000)
                await trio.sleep(0.005)
                proxy.reset()
            await subscriber.link.ready()
        assert_in_step(subscriber)
        assert len([down for down in subscriber.down if down.dials == 0]) == 5


async def test_server_that_refuses_for_a_while_is_used_again() -> None:
    async with subscribed() as (_, proxy, subscriber, publisher):
        proxy.refuse()
        proxy.reset()
        await trio.sleep(1.5)
        assert not subscriber.link.connected
        with pytest.raises(NotConnected, match="refused"):
            await subscriber.link.execute("PING")
        assert 3 <= len(subscriber.down) <= 9
        await proxy.accept()
        with trio.fail_after(HANG_SECONDS):
            await subscriber.link.ready()
        await until(subscriber, 1, publisher)


async def test_black_hole_is_detected_and_left() -> None:
    async with subscribed(read_timeout=0.2, dial_timeout=0.2) as (_, proxy, subscriber, publisher):
        proxy.swallow()
        with trio.fail_after(PROMPT_SECONDS):  # 0.2 s of silence, then 0.2 s for the PING
            while subscriber.link.connected:
                await trio.sleep(0.001)
        with pytest.raises(NotConnected):
            await subscriber.link.execute("PING")
        proxy.pass_on()
        with trio.fail_after(PROMPT_SECONDS):
            await subscriber.link.ready()
        await until(subscriber, 1, publisher)


async def test_black_hole_under_load_fails_what_is_in_flight() -> None:
    async with subscribed(read_timeout=0.2, write_timeout=0.2) as (_, proxy, subscriber, _):
        outcomes: list[RedisLinkError] = []

        async def ask() -> None:
            try:
                await subscriber.link.execute("SET", "k", b"x" * 500_000)
            except RedisLinkError as error:
                outcomes.append(error)

        proxy.swallow()
        with trio.fail_after(HANG_SECONDS):
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(ask)
        assert len(outcomes) == 50
        assert {type(outcome).__base__ for outcome in outcomes} <= {
            ConnectionBroken,
            RedisLinkError,
        }


async def test_trickle_loses_nothing() -> None:
    async with subscribed(read_timeout=5.0) as (_, proxy, subscriber, publisher):
        proxy.trickle(7, 0.0)
        await publish(publisher, 0, 200)
        await subscriber.link.drain()
        assert subscriber.numbers == list(range(200))
        assert not subscriber.down


@pytest.mark.parametrize("size", [1, 1000])
async def test_trickle_over_tls(size: int) -> None:
    of_server, of_client = tls_contexts("127.0.0.1")
    async with redis_server() as server, fault_proxy(server.port, of_server) as proxy:
        subscriber = Subscriber(RedisConfig(addr=proxy.addr, tls=of_client))
        async with subscriber.link.open(), Link(RedisConfig(addr=server.addr)).open() as publisher:
            proxy.trickle(size, 0.0)
            await publish(publisher, 0, 30)
            await subscriber.link.drain()
            assert subscriber.numbers == list(range(30))
            proxy.reset()
            await until(subscriber, 1000, publisher)
            assert len(subscriber.down) >= 1


async def test_subscriber_cut_by_the_output_buffer_limit_reconnects() -> None:
    async with subscribed(SMALL_OUTPUT_BUFFER) as (_, proxy, subscriber, publisher):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        proxy.swallow()
        with trio.fail_after(HANG_SECONDS):
            number = 0
            while True:
                await publish(publisher, number, 2000)
                number += 2000
                if await publisher.execute("PUBSUB", "NUMSUB", "numbers") == [b"numbers", 0]:
                    break
        proxy.pass_on()
        with trio.fail_after(HANG_SECONDS):
            while not subscriber.down:
                await trio.sleep(0.001)
            await subscriber.link.ready()
        await until(subscriber, 10_000_000, publisher)
        assert_in_step_but_for(subscriber, 10_000_000)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB


def assert_in_step_but_for(subscriber: Subscriber, last: int) -> None:
    subscriber.numbers = [number for number in subscriber.numbers if number != last]
    assert_in_step(subscriber)


async def test_hostile_server_loses_only_its_connection() -> None:
    hello = b"%1\r\n+proto\r\n:3\r\n"
    attacks = [
        b"*4294967295\r\n" * 3,
        b"*1\r\n" * 3000,
        b"$99999999999\r\n",
        b"+" + b"x" * 3_000_000,
        b"$3000000\r\n" + b"x" * 3_000_000,
        b">3\r\n+message\r\n+a\r\n$5000000\r\n" + b"x" * 3_000_000,
        b"HTTP/1.1 200 OK\r\n\r\n",
        b":1\r\n:2\r\n",
        b"-ERR go away\r\n",
        b"\0" * 1000,
        b"",
    ]
    served = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal served
        with suppress(trio.BrokenResourceError):
            async with stream:
                await stream.receive_some(1000)
                await stream.send_all(hello)
                served += 1
                if served <= len(attacks):
                    await stream.send_all(attacks[served - 1])
                while served > len(attacks) and await stream.receive_some(1000):
                    await stream.send_all(b"+PONG\r\n")

    down: list[Disconnected] = []
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        config = RedisConfig(
            addr=f"127.0.0.1:{port}", max_event_size=1 << 20, max_reply_size=1 << 21
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with Link(config, on_disconnected=down.append).open() as link:
            with trio.fail_after(HANG_SECONDS):
                while served <= len(attacks) or not link.connected:
                    await trio.sleep(0.001)
            assert await link.execute("PING") == b"PONG"
        nursery.cancel_scope.cancel()
        assert len(down) >= len(attacks)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB


async def test_random_cancellations_over_a_faulty_connection_lose_no_reply() -> None:
    rng = random.Random(11)
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        link = Link(RedisConfig(addr=proxy.addr), buffer_size=5000, patience=10)
        crossed: list[Any] = []

        async def echo(number: int, patience: float) -> None:
            with trio.move_on_after(patience), suppress(RedisLinkError):
                reply = await link.execute("ECHO", b"%d:" % number + b"y" * 200)
                if not reply.startswith(b"%d:" % number):
                    crossed.append((number, reply))

        async with link.open(), trio.open_nursery() as nursery:
            for number in range(400):
                nursery.start_soon(echo, number, rng.choice([0, 0.0005, 0.002, 10]))
                if rng.random() < 0.2:
                    await trio.sleep(0)
                if rng.random() < 0.03:
                    proxy.reset()
                if rng.random() < 0.03:
                    proxy.trickle(rng.choice([5, 100, 1 << 16]), 0)
            await link.ready()
        proxy.pass_on()
        async with link.open():
            for number in range(50):
                assert await link.execute("ECHO", number) == b"%d" % number
        assert not crossed
