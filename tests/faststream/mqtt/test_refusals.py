"""Refusals and limits of an MQTT server: each reaches the event or the name that it concerns."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from faststream.mqtt import MQTTBroker
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.faststream_checks import EnlargingMiddleware
from tests.support.mqtt_script import ScriptedMqttServer, scripted_mqtt_server
from tests.support.mqtt_server import mqtt_server
from tests.support.redis_buses import Deep, Paid, User, numbers, opened, until
from zmqtt import ConnAckProperties

from goevent import DispatchHandle, DriverConnectionError, DriverError, EncodeError, Event, GoEvent
from goevent_faststream import FastStreamDriver
from goevent_faststream._mqtt import (
    adapter as adapter_module,
    keep_alive as keep_alive_module,
    publisher as publisher_module,
)
from goevent_faststream._mqtt.reason_codes import reason_text


async def outcome(bus: GoEvent, event: Event) -> DispatchHandle:
    """Dispatch an event, and return its handle when the broker has answered."""
    handle = await bus.dispatch(event)
    await handle.wait()
    return handle


def error_of(handle: DispatchHandle) -> Exception:
    """Return the only error of a handle."""
    (error,) = handle.errors
    assert isinstance(error.error, Exception)
    return error.error


async def test_publish_without_the_right_fails_and_its_neighbours_arrive() -> None:
    rights = ("topic readwrite goevent/order/#", "topic read goevent/#")
    async with mqtt_server(rights=rights) as server, server.bus() as bus:
        seen = bus.seen("**")
        await bus.ready()
        events = [Paid(n=1), User(n=2), Paid(n=3)]
        handles = [await bus.dispatch(event) for event in events]
        for handle in handles:
            await handle.wait()
        assert [bool(handle.errors) for handle in handles] == [0, 1, 0]
        assert "not authorized (0x87)" in str(error_of(handles[1]))
        await until(lambda: len(seen) >= 2)


@pytest.mark.parametrize("code", [0x80, 0x83, 0x87, 0x90, 0x95, 0x97, 0x99])
async def test_refused_event_fails_with_the_reason_of_the_server(code: int) -> None:
    async with scripted_mqtt_server() as server:
        server.puback_code = lambda topic: code if topic == "goevent/user/created" else 0
        server.reason_string = "because of the test"
        async with server.bus() as bus:
            error = error_of(await outcome(bus, User(n=1)))
            assert isinstance(error, DriverError)
            assert f"{reason_text(code)}: because of the test" in str(error)
            await accepted(bus, 2)
        assert len(bus.reports) == 1


async def test_event_without_a_subscriber_is_no_failure() -> None:
    async with scripted_mqtt_server() as server:
        server.puback_code = lambda _: 0x10
        async with server.bus() as bus:
            await accepted(bus, 1)
        assert not bus.reports


@pytest.mark.parametrize("code", [0x80, 0x87, 0x8F, 0x97])
async def test_refused_subscription_fails_ready_and_nothing_else(code: int) -> None:
    async with scripted_mqtt_server() as server:
        server.suback_code = lambda filter_: code if "user" in filter_ else 1
        async with server.bus() as bus:
            seen = bus.seen()
            await bus.ready()
            with pytest.raises(DriverError) as caught:
                await bus.subscribe(lambda _: None, User).ready()
            assert "'goevent/user/created'" in str(caught.value)
            assert reason_text(code) in str(caught.value)
            await accepted(bus, 1)
            await until(lambda: len(seen) >= 1)
        assert bus.count_reports("refuses the subscription") == 1
        assert not bus.count_reports("is lost")


async def test_subscription_refused_after_a_reconnect_is_reported_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter_module, "CHECK_SECONDS", 0.1)
    async with scripted_mqtt_server() as server:
        sender, bus = server.bus(), server.bus()
        paid, users = bus.seen(), bus.seen(User)
        async with opened(sender, bus):
            server.suback_code = lambda filter_: 0x87 if "user" in filter_ else 1
            await server.disconnect(0x8B)
            await until(lambda: bus.count_reports("connected to mqtt again"))
            await until(lambda: sender.driver.snapshot().connected)
            await until(lambda: bus.count_reports("refuses the subscription"))
            # Publishing and the other subscription go on.
            await accepted(bus, 1)
            await until(lambda: len(paid) >= 1)
            asked = server.filters.count("goevent/user/created")
            await until(lambda: server.filters.count("goevent/user/created") > asked + 2)
            assert bus.count_reports("refuses the subscription") == 1
            server.suback_code = lambda _: 1
            asked = server.filters.count("goevent/user/created")
            await until(lambda: server.filters.count("goevent/user/created") > asked)
            while not users:
                await outcome(sender, User(n=2))
        assert bus.count_reports("server shutting down (0x8B)") == 1


async def test_subscription_that_the_server_forgets_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter_module, "CHECK_SECONDS", 0.1)
    async with scripted_mqtt_server() as server:
        sender, bus = server.bus(), server.bus()
        seen = bus.seen()
        async with opened(sender, bus):
            await accepted(sender, 1)
            await until(lambda: seen)
            server.forget_subscriptions()
            while len(seen) < 2:
                await accepted(sender, 2)
        assert not bus.reports


async def test_server_that_forgets_the_session_is_reported() -> None:
    async with mqtt_server() as server:
        bus = server.bus()
        seen = bus.seen()
        async with bus:
            server.kill()
            await until(lambda: not bus.driver.snapshot().connected)
            await server.start()
            await until(lambda: bus.count_reports("again"))
            await accepted(bus, 1)
            await until(lambda: seen)
        assert bus.count_reports("has forgotten the session") == 1


@pytest.mark.parametrize("code", [0x88, 0x89, 0x8A, 0x8C, 0x97, 0x9D, 0x9F])
async def test_refused_connection_is_an_error_with_its_reason(code: int) -> None:
    async with scripted_mqtt_server() as server:
        server.connack_code = code
        server.connack = ConnAckProperties(reason_string="because of the test")
        with pytest.raises(DriverConnectionError) as caught:
            async with server.bus():
                pass
        assert f"{reason_text(code)}: because of the test" in str(caught.value)


async def test_publish_while_the_server_refuses_the_connection_gets_the_reason() -> None:
    async with scripted_mqtt_server() as server:
        bus = server.bus(publish_timeout=1)
        async with bus:
            await accepted(bus, 1)
            server.connack_code = 0x8A
            await server.disconnect(0x98)
            await until(lambda: bus.count_reports("refuses us"))
            error = error_of(await outcome(bus, Paid(n=2)))
            assert isinstance(error, DriverConnectionError)
            assert "banned (0x8A)" in str(error)
            server.connack_code = 0
            await until(lambda: bus.count_reports("again"))
        assert bus.count_reports("administrative action (0x98)") == 1
        assert sum("refuses us" in str(e) for e in bus.reports if not e.event_name) == 1


async def test_client_id_that_two_buses_use_is_reported_and_not_fought_for() -> None:
    async with mqtt_server() as server:
        one, other = (server.bus(client_id="same") for _ in range(2))
        async with opened(one, other):
            await until(lambda: one.count_reports("may use the client id 'same'"))
            # Mosquitto ends a connection without a reason. The pauses double with each.
            await trio.sleep(2)
            losses = one.count_reports("is lost") + other.count_reports("is lost")
        assert losses < 20


async def test_session_that_another_client_takes_over_is_not_taken_back_at_once() -> None:
    async with scripted_mqtt_server() as server:
        bus = server.bus(client_id="same")
        async with bus:
            await accepted(bus, 1)
            await server.disconnect(0x8E)
            await until(lambda: bus.count_reports("session taken over"))
            await trio.sleep(1)
            assert server.connections == 1


def announcing(server: ScriptedMqttServer, **limits: Any) -> None:
    """Make a server announce limits."""
    server.connack = ConnAckProperties(**limits)


async def test_event_above_the_maximum_packet_size_fails_alone() -> None:
    async with mqtt_server("max_packet_size 2000") as server, server.bus() as bus:
        seen = bus.seen()
        await bus.ready()
        events = [Paid(n=1), Paid(n=2, text="x" * 3000), Paid(n=3)]
        handles = [await bus.dispatch(event) for event in events]
        for handle in handles:
            await handle.wait()
        assert [bool(handle.errors) for handle in handles] == [0, 1, 0]
        error = error_of(handles[1])
        assert isinstance(error, EncodeError)
        assert "Maximum Packet Size of 2000" in str(error)
        await until(lambda: {1, 3} <= {*numbers(seen)})
        assert not bus.count_reports("is lost")


async def test_whole_packet_counts_for_the_maximum_packet_size() -> None:
    async with scripted_mqtt_server() as server:
        announcing(server, maximum_packet_size=500)
        # The prefix is long, and the body short.
        async with server.bus(prefix="p" * 190 + ".", format="faststream") as bus:
            await accepted(bus, 1)
            error = error_of(await outcome(bus, Paid(n=2, text="x" * 200)))
            assert isinstance(error, EncodeError)
            await accepted(bus, 3)
        assert server.connections == 1


async def test_message_that_a_middleware_makes_too_large_fails_alone() -> None:
    async with mqtt_server("max_packet_size 2000") as server:
        broker = MQTTBroker(server.url(), middlewares=[EnlargingMiddleware], logger=None)
        async with FastStreamBus(FastStreamDriver(broker)) as bus:
            await accepted(bus, 1)
            assert isinstance(error_of(await outcome(bus, Paid(n=2))), EncodeError)
            await accepted(bus, 3)
        assert not bus.count_reports("is lost")


async def test_server_with_qos_0_only_refuses_events_and_not_subscriptions() -> None:
    async with scripted_mqtt_server() as server:
        announcing(server, maximum_qos=0)
        async with server.bus() as bus:
            await bus.subscribe(lambda _: None, Paid).ready()
            assert "Maximum QoS" in str(error_of(await outcome(bus, Paid(n=1))))
        assert server.connections == 1


async def test_server_without_wildcards_refuses_patterns_and_not_names() -> None:
    async with scripted_mqtt_server() as server:
        announcing(server, wildcard_subscription_available=False)
        async with server.bus() as bus:
            with pytest.raises(DriverError, match="wildcard subscriptions not supported"):
                await bus.subscribe(lambda _: None, "order.*").ready()
            seen: list[Any] = []
            await bus.subscribe(seen.append, Paid).ready()
            await accepted(bus, 1)
            await until(lambda: len(seen) >= 1)
        assert server.filters == ["goevent/order/paid"]


async def test_server_without_shared_subscriptions_refuses_groups() -> None:
    async with scripted_mqtt_server() as server:
        announcing(server, shared_subscription_available=False)
        async with server.bus(group="shop") as bus:
            with pytest.raises(DriverError, match="shared subscriptions not supported"):
                await bus.subscribe(lambda _: None, Paid).ready()
            await accepted(bus, 1)
        assert not server.filters


async def test_events_after_a_refused_change_of_filters_all_arrive() -> None:
    async with scripted_mqtt_server() as server:
        server.suback_code = lambda filter_: 0x87 if "+" in filter_ else 1
        sender = server.bus()
        async with opened(sender, server.bus()), server.bus() as bus:
            seen = bus.seen(Paid, Deep)
            await bus.ready()
            with pytest.raises(DriverError, match="not authorized"):
                await bus.subscribe(lambda _: None, "order.*").ready()
            # Equal events, which must not be taken for copies.
            await accepted(sender, 1, 1, 1, 1)
            await until(lambda: len(seen) == 4)


async def test_server_that_answers_no_ping_is_replaced_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keep_alive_module, "PING_REPLY_SECONDS", 0.2)
    async with scripted_mqtt_server() as server:
        server.answers_pings = False
        bus = server.bus(keepalive=1)
        async with bus:
            await until(lambda: bus.count_reports("answers no ping"))
            server.answers_pings = True
            await until(lambda: bus.count_reports("again"))
            await accepted(bus, 1)
        assert bus.count_reports("is lost") == bus.count_reports("answers no ping")


async def test_connection_on_which_a_publish_has_no_answer_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher_module, "REPLY_SECONDS", 0.2)
    monkeypatch.setattr(publisher_module, "UNANSWERED_SECONDS", 0.4)
    async with scripted_mqtt_server() as server:
        # The window of the server has room for one event.
        announcing(server, receive_maximum=1)
        bus = server.bus()
        async with bus:
            await accepted(bus, 1)
            server.answers_publishes = False
            assert "may have arrived" in str(error_of(await outcome(bus, Paid(n=2))))
            server.answers_publishes = True
            # It has no room until the connection is replaced.
            await accepted(bus, 3)
        assert bus.count_reports("not answered a publish") == 1
        assert server.connections == 2


async def test_server_that_grants_qos_0_only_is_reported_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter_module, "CHECK_SECONDS", 0.1)
    async with scripted_mqtt_server() as server:
        server.suback_code = lambda filter_: 0 if "user" in filter_ else 1
        bus = server.bus()
        bus.seen(Paid)
        async with bus:
            bus.seen(User)
            await bus.ready()
            asked = len(server.filters)
            await until(lambda: len(server.filters) > asked + 6)
            assert bus.count_reports("QoS 0 only") == 1


NAMES = [f"thing{n}.done" for n in range(300)]


async def test_many_names_are_asked_for_in_small_requests_and_one_refusal_is_told_alone() -> None:
    async with scripted_mqtt_server() as server:
        server.suback_code = lambda filter_: 0x87 if filter_.endswith("/thing7/done") else 1
        async with server.bus() as bus:
            seen = bus.seen(*NAMES)
            with pytest.raises(DriverError, match="'goevent/thing7/done': not authorized"):
                await bus.ready()
            await until(lambda: len(server.now) == len(NAMES) - 1)
            sender = server.bus()
            async with sender:
                for name in (NAMES[0], NAMES[-1]):
                    await sender.dispatch(Event(name, {}))
            await until(lambda: len(seen) == 2)
        assert max(server.requests) == 8
        # The bus finds the refused name by halves, and not name by name.
        assert len(server.requests) < len(NAMES) * 3 // 4
        assert bus.count_reports("refuses the subscription") == 1


async def test_many_refusals_after_a_reconnect_are_one_report() -> None:
    async with scripted_mqtt_server() as server:
        bus = server.bus()
        bus.seen(*NAMES)
        async with bus:
            server.suback_code = lambda filter_: 1 if filter_.endswith("/thing7/done") else 0x87
            await server.disconnect(0x8B)
            await until(lambda: bus.count_reports("again"))
            assert bus.count_reports("refuses the subscription") == 1
            assert bus.count_reports("and 298 others: not authorized (0x87)") == 1


async def test_name_that_is_dropped_during_an_outage_is_unsubscribed_afterwards() -> None:
    async with scripted_mqtt_server() as server:
        bus = server.bus()
        bus.seen(Paid)
        bus.seen(User)
        async with bus:
            server.connack_code = 0x88
            await server.disconnect(0x8B)
            await until(lambda: bus.count_reports("is lost"))
            bus.unregister_listeners_for_event("user.created")
            server.connack_code = 0
            await until(lambda: bus.count_reports("again"))
            await until(lambda: "goevent/user/created" in server.unsubscribed)
            assert server.now == {"goevent/order/paid"}


async def test_bus_whose_receiving_fails_ends_with_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: object) -> None:
        raise LookupError("for the test")

    monkeypatch.setattr(adapter_module, "_headers_of", fail)
    async with scripted_mqtt_server() as server, server.bus() as sender:

        async def receive() -> None:
            async with server.bus() as bus:
                bus.seen()
                await bus.ready()
                await accepted(sender, 1)
                await trio.sleep_forever()

        with pytest.raises(DriverError, match="for the test"):
            await receive()
