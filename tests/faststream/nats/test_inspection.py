"""The inspection of NATS: tails that take nothing, the backlog of any group, and findings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from nats.js import api
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.limits import HANG_SECONDS
from tests.support.nats_server import NatsServer, nats_server, with_client
from tests.support.redis_buses import Paid, User, numbers, opened, until

from goevent import DriverError, UnsupportedError
from goevent.drivers import TailedEvent

RESTRICTED = """
authorization { users = [{
    user: u, password: p,
    permissions: { publish: {deny: "goevent.order.paid"}, subscribe: {deny: "goevent.user.>"} }
}] }
"""


async def received(events: trio.abc.ReceiveChannel[TailedEvent], count: int) -> list[TailedEvent]:
    """Return the next events of a tail."""
    with trio.fail_after(HANG_SECONDS):
        return [await events.receive() for _ in range(count)]


def js(server: NatsServer, login: str = "") -> str:
    """Return the URL of JetStream at a server."""
    return server.url_for(login).replace("nats://", "nats+js://")


def texts(findings: Any) -> str:
    """Return the findings, one a line."""
    return "\n".join(f"{each.severity}: {each.text}" for each in findings)


async def change_stream(server: NatsServer, change: Callable[[Any], None]) -> None:
    """Change the settings of the stream of events."""

    async def update(client: Any) -> None:
        js = client.jetstream()
        config = (await js.stream_info("goevent-js")).config
        config.metadata = None
        change(config)
        await js.update_stream(config)

    await with_client(server, update)


async def consumer_names(server: NatsServer) -> list[str]:
    """Return the names of the consumers of the stream."""

    async def names(client: Any) -> list[str]:
        return [each.name for each in await client.jetstream().consumers_info("goevent-js")]

    return await with_client(server, names)


# -- core NATS


async def test_a_tail_of_core_nats_shows_matching_events_and_takes_none() -> None:
    async with nats_server() as server:
        sender, receiver = FastStreamBus(server.url), FastStreamBus(server.url)
        watcher, seen = FastStreamBus(server.url), receiver.seen()
        async with opened(sender, receiver, watcher), watcher.driver.tail("order.*") as events:
            await sender.dispatch(User(n=1))
            await accepted(sender, 1, 2)
            shown = await received(events, 2)
            await until(lambda: len(seen) == 2)
    assert [event.event_name for event in shown] == ["order.paid", "order.paid"]
    assert b'"n":1' in shown[0].data


async def test_a_tail_of_core_nats_goes_on_after_a_restart_of_the_server() -> None:
    async with nats_server() as server:
        sender, watcher = FastStreamBus(server.url), FastStreamBus(server.url)
        async with opened(sender, watcher), watcher.driver.tail("**") as events:
            await accepted(sender, 1)
            server.kill()
            await server.start()
            await until(lambda: watcher.count_reports("again") > 0)
            await accepted(sender, 2)
            shown = await received(events, 2)
    assert b'"n":2' in shown[1].data


async def test_a_slow_tail_of_core_nats_costs_no_listener_an_event_and_counts_what_it_misses() -> (
    None
):
    async with nats_server() as server:
        sender, bus = FastStreamBus(server.url), FastStreamBus(server.url)
        seen = bus.seen()
        async with opened(sender, bus), bus.driver.tail("**") as events:
            for first in range(0, 4000, 500):
                await accepted(sender, *range(first, first + 500))
            await until(lambda: len(seen) == 4000)
            shown = missed = 0
            await accepted(sender, 4000)
            last = b""
            # Nothing follows the last event, and it tells of the missed ones.
            with trio.fail_after(HANG_SECONDS):
                while b'"n":4000' not in last:
                    event = await events.receive()
                    shown, missed, last = shown + 1, missed + event.missed, event.data
        assert numbers(seen)[:4000] == [*range(4000)]
        assert missed > 0
        assert shown + missed == 4001
        assert not bus.count_reports("lost")


async def test_a_tail_of_core_nats_shows_hostile_bytes_as_they_are() -> None:
    async with nats_server() as server:
        watcher = FastStreamBus(server.url)
        async with opened(watcher), watcher.driver.tail("**") as events:

            async def publish(client: Any) -> None:
                await client.publish("goevent.a.b", b"\xff\x00\x1b[2J")
                await client.publish("goevent.a..b", b"no name")
                await client.publish("goevent.a.c", b"", headers={"x": "\u00e9"})
                await client.flush()

            await with_client(server, publish)
            shown = await received(events, 2)
    assert [event.event_name for event in shown] == ["a.b", "a.c"]
    assert shown[0].data == b"\xff\x00\x1b[2J"


async def test_core_nats_has_no_backlog_to_tell() -> None:
    async with nats_server() as server:
        bus = FastStreamBus(server.url)
        async with opened(bus):
            with pytest.raises(UnsupportedError):
                await bus.driver.lag("billing")


async def test_a_refused_tail_and_missing_rights_are_told() -> None:
    async with nats_server(config=RESTRICTED) as server:
        bus = FastStreamBus(server.url_for("u:p"))
        async with opened(bus):
            with pytest.raises(DriverError, match=r"Violation.*goevent.user"):
                async with bus.driver.tail("user.**"):
                    pass
            found = await bus.driver.check(["order.paid", "order.lost", "user.**"])
        assert texts(found) == (
            "error: NATS: the user may not publish to the subject 'goevent.order.paid'\n"
            'error: NATS: Permissions Violation for Subscription to "goevent.user.>"'
        )
        assert bus.reports == []


async def test_a_small_limit_of_messages_is_told() -> None:
    async with nats_server(config="max_payload: 5000") as server:
        bus = FastStreamBus(server.url)
        async with opened(bus):
            found = await bus.driver.check([])
    assert "5000 bytes; raise its max_payload" in texts(found)


# -- JetStream


async def test_a_tail_of_jetstream_shows_events_from_now_on_and_takes_none() -> None:
    async with nats_server() as server:
        url = f"{js(server)}?group=billing"
        sender, receiver = FastStreamBus(f"{js(server)}?stream=goevent-js"), FastStreamBus(url)
        watcher = FastStreamBus(url)
        seen = receiver.seen()
        async with opened(sender, receiver, watcher):
            await accepted(sender, 0)
            async with watcher.driver.tail("order.*") as events:
                await sender.dispatch(User(n=1))
                await accepted(sender, 1, 2)
                shown = await received(events, 2)
                tailing = await consumer_names(server)
            await until(lambda: numbers(seen) == [0, 1, 2])
            with trio.fail_after(HANG_SECONDS):
                while len(await consumer_names(server)) > 1:
                    await trio.sleep(0.05)
            backlogs = await watcher.driver.lag("billing")
    assert [event.id for event in shown] == ["3", "4"]
    assert [event.event_name for event in shown] == ["order.paid", "order.paid"]
    assert shown[0].time is not None
    assert shown[0].time.tzinfo is not None
    assert len(tailing) == 2
    assert [backlog.event_name for backlog in backlogs] == ["order.paid"]


async def test_a_tail_of_jetstream_misses_nothing_over_restarts_and_a_deleted_consumer() -> None:
    async with nats_server() as server:
        url = f"{js(server)}?stream=goevent-js"
        sender, watcher = FastStreamBus(url), FastStreamBus(url)
        async with opened(sender, watcher), watcher.driver.tail("**") as events:
            await accepted(sender, 0)
            shown = await received(events, 1)
            server.kill()
            await server.start()
            await accepted(sender, 1)
            shown += await received(events, 1)

            async def delete(client: Any) -> None:
                js = client.jetstream()
                for info in await js.consumers_info("goevent-js"):
                    await js.delete_consumer("goevent-js", info.name)

            await with_client(server, delete)
            await accepted(sender, 2, 3)
            shown += await received(events, 2)
    assert [int(event.id) for event in shown] == [1, 2, 3, 4]


async def test_a_slow_tail_of_jetstream_is_held_back_and_gets_all() -> None:
    async with nats_server() as server:
        url = f"{js(server)}?stream=goevent-js"
        sender, watcher = FastStreamBus(url), FastStreamBus(url)
        async with opened(sender, watcher), watcher.driver.tail("**") as events:
            for first in range(0, 3000, 500):
                await accepted(sender, *range(first, first + 500))
            shown = await received(events, 3000)
    assert [int(event.id) for event in shown] == [*range(1, 3001)]


async def test_a_work_queue_of_jetstream_cannot_be_tailed() -> None:
    async with nats_server() as server:

        async def create(client: Any) -> None:
            await client.jetstream().add_stream(
                name="jobs", subjects=["jobs.>"], retention=api.RetentionPolicy.WORK_QUEUE
            )

        await with_client(server, create)
        bus = FastStreamBus(f"{js(server)}?stream=jobs")
        async with opened(bus):
            with pytest.raises(UnsupportedError, match="work queue"):
                async with bus.driver.tail("**"):
                    pass
            assert "only one group" in texts(await bus.driver.check([]))


async def test_the_backlog_of_another_group_is_told_with_its_ages() -> None:
    async with nats_server() as server:
        first = FastStreamBus(f"{js(server)}?group=a.b&prefetch=1")
        sender = FastStreamBus(f"{js(server)}?stream=goevent-js")
        held, let_go = trio.Event(), trio.Event()

        async def hold(event: Paid) -> None:
            held.set()
            await let_go.wait()

        first.subscribe(hold, Paid)
        async with opened(first, sender):
            await accepted(sender, 1, 2, 3)
            with trio.fail_after(HANG_SECONDS):
                await held.wait()
                while not (found := await sender.driver.lag("a.b")) or found[0].lag != 2:
                    await trio.sleep(0.05)
            assert await sender.driver.lag("unknown") == []
            let_go.set()
    (backlog,) = found
    assert (backlog.event_name, backlog.pending) == ("order.paid", 1)
    assert backlog.oldest_waiting is not None
    assert backlog.oldest_pending >= backlog.oldest_waiting > 0.0


async def test_the_groups_own_backlog_tells_the_age_of_the_oldest_waiting_event() -> None:
    async with nats_server() as server:
        sender, idle = (
            FastStreamBus(f"{js(server)}?stream=goevent-js"),
            FastStreamBus(f"{js(server)}?group=idle"),
        )
        idle.seen()
        async with opened(idle):
            pass
        async with opened(sender):
            await accepted(sender, 1)
            (backlog,) = await sender.driver.lag("idle")
    assert (backlog.lag, backlog.pending, backlog.oldest_pending) == (1, 0, 0.0)
    assert backlog.oldest_waiting is not None
    assert backlog.oldest_waiting > 0.0


async def test_a_stream_with_the_drivers_own_settings_has_no_findings() -> None:
    async with nats_server() as server:
        bus = FastStreamBus(f"{js(server)}?group=billing")
        async with opened(bus):
            assert texts(await bus.driver.check(["order.paid", "**"])) == ""


async def test_settings_of_the_stream_that_lose_events_are_told() -> None:
    def endanger(config: Any) -> None:
        config.max_age = 60.0
        config.max_msgs = 10
        config.max_msgs_per_subject = 5
        config.duplicate_window = 1.0

    async with nats_server() as server:
        bus = FastStreamBus(f"{js(server)}?group=billing&publish_timeout=10")
        async with opened(bus):
            await change_stream(server, endanger)
            found = texts(await bus.driver.check(["order.paid"]))
    for setting in ("max_age is 60 s", "max_msgs is 10", "max_msgs_per_subject is 5"):
        assert f"warning: NATS: the stream 'goevent-js': {setting}" in found
    assert "duplicate_window is 1 s" in found


async def test_missing_rights_at_jetstream_are_told() -> None:
    config = """
    authorization { users = [{
        user: u, password: p,
        permissions: { publish: {deny: ["$JS.ACK.>", "goevent-js.order.paid"]} }
    }] }
    """
    async with nats_server(config=config) as server:
        bus = FastStreamBus(f"{js(server, 'u:p')}?group=billing")
        async with opened(bus):
            found = texts(await bus.driver.check(["order.paid", "user.created"]))
    assert "needed to acknowledge events" in found
    assert "needed to publish the event 'order.paid'" in found
    assert "user.created" not in found


async def test_storage_in_memory_is_told() -> None:
    async with nats_server() as server:

        async def create(client: Any) -> None:
            await client.jetstream().add_stream(
                name="fleeting", subjects=["fleeting.>"], storage=api.StorageType.MEMORY
            )

        await with_client(server, create)
        bus = FastStreamBus(f"{js(server)}?stream=fleeting")
        async with opened(bus):
            assert "storage is memory" in texts(await bus.driver.check([]))
