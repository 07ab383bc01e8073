"""Refusals of a NATS server: each reaches the publish or the subscription that it belongs to."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import trio
from faststream.nats import NatsBroker
from tests.support.faststream_buses import EventsOnlyDriver, FastStreamBus, accepted
from tests.support.faststream_checks import gated_listener, recording_middleware
from tests.support.limits import HANG_SECONDS
from tests.support.nats_server import NatsServer, nats_server, with_client
from tests.support.redis_buses import Deep, Paid, User, numbers, opened, until

from goevent import DriverError, Event, GoEvent
from goevent_faststream import FastStreamDriver
from goevent_faststream._nats import connection as connection_module, publisher as publisher_module
from goevent_faststream._nats.refusals import read_refusal

LOGIN = "joe:secret"


def users(rights: str) -> str:
    """Return a configuration whose user `joe` has the given rights, and `root` has all."""
    joe = f"{{ user: joe, password: secret, permissions: {{ {rights} }} }}"
    return f"authorization {{ users: [{joe}, {{ user: root, password: root }}] }}"


def bus_of(server: NatsServer, login: str = LOGIN) -> FastStreamBus:
    """Return a bus of a user."""
    return FastStreamBus(server.url_for(login))


def js_bus_of(server: NatsServer, login: str = LOGIN) -> FastStreamBus:
    """Return a bus of a user on JetStream."""
    return FastStreamBus(f"nats+js://{login}@{server.addr}?group=shop")


async def failure_of(bus: GoEvent, event: Event) -> str:
    """Dispatch an event, and return the text of its only error."""
    handle = await bus.dispatch(event)
    await handle.wait()
    (error,) = handle.errors
    assert isinstance(error.error, DriverError)
    return str(error.error)


async def test_publish_without_the_right_fails_and_its_neighbours_arrive() -> None:
    denied = 'publish: { deny: ["goevent.user.>", "goevent.order.item.>"] }'
    async with nats_server(config=users(denied)) as server:
        bus, other = bus_of(server), bus_of(server, "root:root")
        seen = other.seen("**")
        async with opened(other, bus):
            events = [Paid(n=1), User(n=2), Paid(n=3), Deep(n=4), User(n=5), Paid(n=6)]
            handles = [await bus.dispatch(event) for event in events]
            for handle in handles:
                await handle.wait()
            texts = [str(error.error) for handle in handles for error in handle.errors]
            assert [bool(handle.errors) for handle in handles] == [0, 1, 0, 1, 1, 0]
            assert "Permissions Violation" in texts[0]
            assert "goevent.user.created" in texts[0]
            assert "goevent.order.item.added" in texts[1]
            await until(lambda: len(seen) == 3)
        # The failures of the handles, and no loose reports beside them.
        assert len(bus.reports) == 3
        assert numbers(seen) == [1, 3, 6]


async def test_refused_subscription_fails_ready_and_nothing_else() -> None:
    async with nats_server(config=users('subscribe: { deny: ["goevent.user.>"] }')) as server:
        bus = bus_of(server)
        seen = bus.seen()
        async with bus:
            with pytest.raises(DriverError, match=r"Subscription to .goevent\.user\.created"):
                await bus.subscribe(lambda _: None, User).ready()
            await accepted(bus, 1)
            await until(lambda: seen)
        assert bus.count_reports("Permissions Violation") == 1


async def test_middlewares_do_not_hide_a_refused_publish() -> None:
    middleware, _ = recording_middleware()
    async with nats_server(config=users('publish: { deny: ["goevent.user.>"] }')) as server:
        broker = NatsBroker(server.url_for(LOGIN), middlewares=[middleware], logger=None)
        async with FastStreamBus(FastStreamDriver(broker)) as bus:
            assert "Permissions Violation" in await failure_of(bus, User(n=1))
            await accepted(bus, 2)


async def test_limit_of_subscriptions_fails_ready_and_keeps_the_connection() -> None:
    async with nats_server(config="max_subscriptions: 2") as server:
        bus, other = (FastStreamBus(EventsOnlyDriver.from_url(server.url)) for _ in range(2))
        seen = bus.seen(Paid, User)
        async with opened(other, bus):
            await bus.ready()
            with pytest.raises(DriverError, match="maximum subscriptions exceeded"):
                await bus.subscribe(lambda _: None, Deep).ready()
            await accepted(other, 1)
            await until(lambda: seen)
        assert not bus.count_reports("is lost")


async def test_subscription_refused_after_a_reconnect_is_reported_once() -> None:
    async with nats_server(config=users("publish: { allow: [>] }")) as server:
        bus = bus_of(server)
        paid, users_seen = bus.seen(), bus.seen(User)
        async with bus:
            await bus.ready()
            server.kill()
            server.config = users('subscribe: { deny: ["goevent.user.>"] }')
            await server.start()
            await until(lambda: bus.count_reports("Subscription to"))
            await until(lambda: bus.count_reports("connected to nats again"))
            await accepted(bus, 1)
            await until(lambda: len(paid) == 1)
            server.kill()
            server.config = users("publish: { allow: [>] }")
            await server.start()
            await until(lambda: bus.count_reports("connected to nats again") == 2)
            await (await bus.dispatch(User(n=2))).wait()
            await until(lambda: users_seen)
        assert bus.count_reports("Subscription to") == 1


async def test_subscription_is_made_again_when_the_right_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "REFUSED_SUBSCRIPTION_SECONDS", 0.1)
    allowed = users("subscribe: { allow: [>] }")
    async with nats_server(config=allowed) as server:
        bus, other = bus_of(server), bus_of(server, "root:root")
        seen = bus.seen(User)
        async with opened(other, bus):
            server.config = users('subscribe: { deny: ["goevent.user.>"] }')
            server.reload()
            await until(lambda: bus.count_reports("Subscription to"))
            server.config = allowed
            server.reload()
            while not seen:
                await (await other.dispatch(User(n=1))).wait()
        assert bus.count_reports("Subscription to") == 1


@pytest.mark.parametrize(
    "text", ["User Authentication Expired", "User Authentication Revoked", "Maximum Connections"]
)
async def test_reason_for_which_the_server_ends_a_connection_is_reported(text: str) -> None:
    async with nats_server() as server, FastStreamBus(server.url) as bus:
        await accepted(bus, 1)
        adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
        trio_side: Any = bus.driver._trio_side  # pyright: ignore[reportPrivateUsage]
        parse = adapter._connection.client._ps.parse
        await trio_side.call(parse, f"-ERR '{text}'\r\n".encode())
        await until(lambda: bus.count_reports("connected to nats again"))
        assert bus.count_reports(f"the connection to nats is lost: {text}") == 1
        await accepted(bus, 2)


async def test_login_refused_after_a_reconnect_is_reported_once_with_its_reason() -> None:
    async with nats_server(config=users("publish: { allow: [>] }")) as server:
        bus = FastStreamBus(f"{server.url_for(LOGIN)}?publish_timeout=1")
        async with bus:
            await accepted(bus, 1)
            # The server ends the connections of users whose login no longer holds.
            server.config = users("publish: { allow: [>] }").replace("secret", "changed")
            server.reload()
            await until(lambda: bus.count_reports("is lost"))
            await until(lambda: bus.count_reports("NATS: Authorization Violation"))
            await until(lambda: not bus.driver.snapshot().connected)
            # It tries again meanwhile, and a publish learns the reason.
            for n in (2, 3):
                assert "Authorization Violation" in await failure_of(bus, Paid(n=n))
            reports = [str(error) for error in bus.reports if not error.event_name]
            assert sum("NATS: Authorization Violation" in text for text in reports) == 1
            server.config = users("publish: { allow: [>] }")
            server.reload()
            await until(lambda: bus.count_reports("connected to nats again"))
            await accepted(bus, 4)


async def test_lame_duck_mode_is_reported_once() -> None:
    async with nats_server(config="lame_duck_duration: 30s, lame_duck_grace_period: 20s") as server:
        async with FastStreamBus(server.url) as bus:
            await accepted(bus, 1)
            server.signal(signal.SIGUSR2)
            await until(lambda: bus.count_reports("lame duck"))
            await accepted(bus, 2)
        assert bus.count_reports("lame duck") == 1


async def test_message_losses_of_a_slow_bus_are_reported_once_a_series() -> None:
    async with nats_server() as server:
        sender, bus = FastStreamBus(server.url), FastStreamBus(f"{server.url}?prefetch=5")
        gate, _ = gated_listener(bus, mailbox=5)
        async with opened(sender, bus):
            adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
            (subscription,) = adapter._subscriptions.values()
            subscription._pending_queue._maxsize = 10
            await accepted(sender, *range(200))
            await until(lambda: bus.count_reports("are lost, since too many"))
            await accepted(sender, *range(200, 400))
            gate.set()
        assert bus.count_reports("are lost, since too many") == 1


@pytest.mark.parametrize(
    ("text", "subject", "is_subscription"),
    [
        ('Permissions Violation for Publish to "a.B"', "a.B", False),
        ('Permissions Violation for Subscription to "a.>"', "a.>", True),
        ('Permissions Violation for Subscription to "a" using queue "q"', "a", True),
        ('Permissions Violation for Publish with Reply of "_INBOX.x"', "_INBOX.x", False),
        ("maximum subscriptions exceeded", "", True),
    ],
)
def test_error_lines_name_the_refused_request(
    text: str, subject: str, is_subscription: bool
) -> None:
    refusal = read_refusal(text)
    assert refusal is not None
    assert (refusal.subject, refusal.is_subscription) == (subject, is_subscription)


@pytest.mark.parametrize("text", ["Authorization Violation", "Maximum Payload Violation", ""])
def test_error_lines_that_end_the_connection_are_no_refusals(text: str) -> None:
    assert read_refusal(text) is None


async def test_jetstream_event_without_the_right_fails_at_once_and_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The refusal comes instead of an acknowledgement, which is awaited for ever here.
    monkeypatch.setattr(publisher_module, "ACKNOWLEDGEMENT_SECONDS", 10 * HANG_SECONDS)
    denied = 'publish: { deny: ["goevent-js.user.>"] }'
    async with nats_server(config=users(denied)) as server:
        bus = js_bus_of(server)
        seen = bus.seen()
        async with bus:
            events = [Paid(n=1), User(n=2), Paid(n=3)]
            handles = [await bus.dispatch(event) for event in events]
            with trio.fail_after(HANG_SECONDS):
                for handle in handles:
                    await handle.wait()
            assert [bool(handle.errors) for handle in handles] == [0, 1, 0]
            assert "goevent-js.user.created" in str(handles[1].errors[0].error)
            await until(lambda: len(seen) == 2)


@pytest.mark.parametrize(
    ("denied", "text"),
    [
        ('publish: { deny: ["$JS.API.STREAM.INFO.>"] }', "STREAM.INFO.goevent-js"),
        ('publish: { deny: ["$JS.API.STREAM.CREATE.>"] }', "STREAM.CREATE.goevent-js"),
        ('subscribe: { deny: ["_INBOX.>"] }', "Subscription to"),
    ],
)
async def test_bus_without_the_rights_of_jetstream_does_not_open(denied: str, text: str) -> None:
    async with nats_server(config=users(denied)) as server:
        # A request that waits for its answer in vain fails with another text.
        with pytest.raises(DriverError, match="Permissions Violation") as caught:
            async with js_bus_of(server):
                pass
        assert text in str(caught.value)


@pytest.mark.parametrize(
    "denied",
    [
        "$JS.API.CONSUMER.INFO.>",
        "$JS.API.CONSUMER.CREATE.>",
        "$JS.API.CONSUMER.MSG.NEXT.>",
    ],
)
async def test_bus_that_may_not_consume_fails_ready_and_publishes(denied: str) -> None:
    rights = f'publish: {{ deny: ["{denied}", "$JS.API.CONSUMER.DURABLE.>"] }}'
    async with nats_server(config=users(rights)) as server, js_bus_of(server) as bus:
        with pytest.raises(DriverError, match="Permissions Violation"):
            await bus.subscribe(lambda _: None, Paid).ready()
        await accepted(bus, 1)


async def test_listener_whose_events_the_stream_does_not_store_fails_ready() -> None:
    async with nats_server() as server:

        async def add_stream(client: Any) -> None:
            await client.jetstream().add_stream(name="jobs", subjects=["other.>"])

        await with_client(server, add_stream)
        async with FastStreamBus(f"nats+js://{server.addr}?group=shop&stream=jobs") as bus:
            with pytest.raises(DriverError, match=r"stores other\.>, and not the subject"):
                await bus.subscribe(lambda _: None, Paid).ready()


async def test_refused_acknowledgements_are_reported_once() -> None:
    async with nats_server(config=users('publish: { deny: ["$JS.ACK.>"] }')) as server:
        bus = js_bus_of(server)
        seen = bus.seen()
        async with bus:
            await accepted(bus, *range(20))
            await until(lambda: len(seen) == 20)
            await until(lambda: bus.count_reports("$JS.ACK"))
        assert bus.count_reports("$JS.ACK") == 1


async def test_limits_of_an_account_are_named() -> None:
    account = """accounts { A { users: [{ user: joe, password: secret }]
        jetstream: { max_streams: 1, max_consumers: 1 } } }"""
    async with nats_server(config=account) as server:
        async with js_bus_of(server) as bus:
            await bus.subscribe(lambda _: None, Paid).ready()
            with pytest.raises(DriverError, match="maximum consumers"):
                await bus.subscribe(lambda _: None, User).ready()
            await accepted(bus, 1)
        with pytest.raises(DriverError, match="maximum number of streams"):
            async with FastStreamBus(f"nats+js://{LOGIN}@{server.addr}?stream=other"):
                pass


async def test_account_without_jetstream_is_named() -> None:
    account = "accounts { A { users: [{ user: joe, password: secret }] } }"
    async with nats_server(config=account) as server:
        with pytest.raises(DriverError, match="not enabled for account"):
            async with js_bus_of(server):
                pass


async def test_pull_that_is_refused_after_a_reconnect_is_reported_once() -> None:
    async with nats_server(config=users("publish: { allow: [>] }")) as server:
        bus = js_bus_of(server)
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1)
            await until(lambda: seen)
            server.kill()
            server.config = users('publish: { deny: ["$JS.API.CONSUMER.MSG.NEXT.>"] }')
            await server.start()
            await until(lambda: bus.count_reports("MSG.NEXT"))
            await accepted(bus, 2)
            await trio.sleep(2)  # the bus tries again meanwhile
            assert bus.count_reports("MSG.NEXT") == 1
            server.kill()
            server.config = ""
            server.config = users("publish: { allow: [>] }")
            await server.start()
            await until(lambda: len(seen) == 2)
