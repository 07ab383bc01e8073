"""The questions of operators to an MQTT server, which change nothing there.

The adapter owns one `MqttInspection`. A tail and the rehearsal of subscriptions have a connection
of their own, with a client id of its own and no session: an ordinary subscription beside those of
the buses, which takes nothing from a shared one.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import zmqtt

from goevent import DriverError, UnsupportedError, compile_pattern
from goevent.drivers import Backlog, Finding, TailedEvent

from .._adapter.connectivity import FIRST_CONNECTION_SECONDS
from .._adapter.contract import ShowEvent
from .._adapter.errors import connection_lost
from .._config import BrokerConfig
from .connection import MQTT_ERRORS, QOS, RECONNECT_PAUSES_SECONDS, MqttConnection, to_driver_error
from .filters import narrowest_filter
from .limits import filter_error
from .reason_codes import reason_text
from .topics import event_name_of

TAIL_BUFFER_MESSAGES = 100
MIN_PACKET_BYTES = 1 << 20
"""The size of a packet below which a server refuses events that other brokers take."""

MAX_REHEARSED_FILTERS = 200


class MqttInspection:
    """The questions, for one bus.

    Args:
        prefix: The topic that precedes those of all events.
        headers_of: Returns the headers of a message.
    """

    def __init__(
        self,
        connection: MqttConnection,
        config: BrokerConfig,
        prefix: str,
        headers_of: Callable[[Any], Mapping[str, str]],
    ) -> None:
        self._connection = connection
        self._group = config.group
        self._session_seconds = 0.0 if config.group else config.claim_idle
        self._prefix = prefix
        self._headers_of = headers_of

    # -- tail

    async def tail(self, pattern: str, show: ShowEvent, started: Callable[[], None]) -> None:
        """Show the events that are published from now on, until cancelled.

        Raises:
            DriverError: The server refuses it, or does not answer.
        """
        matches, topic_filter = compile_pattern(pattern), self._filter(pattern)
        self._refuse(topic_filter)
        has_started = False
        while True:
            try:
                async with (
                    self._client() as client,
                    self._subscribed(client, [topic_filter]) as (messages),
                ):
                    if not has_started:
                        has_started = True
                        started()
                    await self._show(client, messages, matches, show)
            except zmqtt.MQTTSubscribeError as error:
                raise _subscribe_error(error) from error
            except (TimeoutError, DriverError, *MQTT_ERRORS) as error:
                if not has_started:
                    raise to_driver_error(error) from error
            await asyncio.sleep(RECONNECT_PAUSES_SECONDS[-1])

    async def _show(
        self, client: Any, messages: Any, matches: Callable[[str], object], show: ShowEvent
    ) -> None:
        """Show the messages of one connection, until it is lost."""
        while True:
            getting = asyncio.ensure_future(messages.get_message())
            try:
                await asyncio.wait({getting, client._run_task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not getting.done():
                    getting.cancel()
            if not getting.done() or getting.cancelled():
                raise connection_lost("MQTT")
            message = getting.result()
            name = ""
            if message.topic.startswith(self._prefix):
                name = event_name_of(message.topic.removeprefix(self._prefix))
            # A retained message is an old one; and the filter is wider than some patterns.
            if name and not message.retain and matches(name):
                headers = self._headers_of(message)
                await show(TailedEvent(event_name=name, data=message.payload, headers=headers))

    # -- lag

    async def lag(self, group: str, names: Sequence[str] = ()) -> Sequence[Backlog]:
        """Refuse: a server of MQTT does not tell its queues.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError("MQTT cannot tell the backlog of a group: it stores none")

    # -- check

    async def check(self, names: Sequence[str]) -> Sequence[Finding]:
        """Look for limits of the server, and for subscriptions that it refuses.

        The server announces its limits only over MQTT 5. A right to publish cannot be looked at
        without publishing.

        Raises:
            DriverError: The server does not answer.
        """
        await self._connection.wait_until_up()
        found = self._limit_findings(names)
        topic_filters = [*dict.fromkeys(map(self._filter, names))][:MAX_REHEARSED_FILTERS]
        limits = self._connection.limits
        possible = [each for each in topic_filters if limits.filter_refusal(each) is None]
        try:
            async with self._client() as client:
                for each in possible:
                    try:
                        async with self._subscribed(client, [each]):
                            pass
                    except zmqtt.MQTTSubscribeError as error:
                        found.append(_error(str(_subscribe_error(error))))
        except (TimeoutError, *MQTT_ERRORS) as error:
            raise to_driver_error(error) from error
        return found

    def _limit_findings(self, names: Sequence[str]) -> list[Finding]:
        limits, found = self._connection.limits, list[Finding]()
        if limits.max_qos < QOS:
            found.append(
                _error(
                    f"the server takes only events of QoS {limits.max_qos} (its Maximum QoS), and "
                    "goevent publishes with QoS 1"
                )
            )
        if self._group is not None and not limits.has_shared_subscriptions:
            found.append(
                _error("the server has no shared subscriptions, which a group needs: use no group")
            )
        if not limits.has_wildcards and any("*" in name for name in names):
            found.append(_error("the server has no wildcards, which patterns need"))
        if limits.max_packet_bytes < MIN_PACKET_BYTES:
            found.append(
                _warning(
                    f"the server refuses packets above {limits.max_packet_bytes:,} bytes (its "
                    "Maximum Packet Size): larger events are errors of their dispatches"
                )
            )
        if self._connection.has_properties and self._session_seconds:
            info = self._connection.client.connection_info
            kept = float(info.effective_session_expiry_interval or 0)
            if kept < int(self._session_seconds):
                found.append(
                    _warning(
                        f"the server keeps the events of a lost connection for {kept:g} s only, "
                        f"and claim_idle is {self._session_seconds:g} s"
                    )
                )
        return found

    # -- connections of their own

    def _filter(self, pattern: str) -> str:
        return self._prefix + "/".join(narrowest_filter(pattern))

    def _refuse(self, topic_filter: str) -> None:
        reason = self._connection.limits.filter_refusal(topic_filter)
        if reason is not None:
            raise filter_error(topic_filter, reason)

    @asynccontextmanager
    async def _client(self) -> AsyncGenerator[Any]:
        client: Any = self._connection.make_client(f"goevent-look{uuid.uuid4().hex[:12]}")
        try:
            async with asyncio.timeout(FIRST_CONNECTION_SECONDS):
                await client.__aenter__()
            # As `MqttConnection` does, for Mosquitto 2.0.11.
            client._protocol.inbound._receive_maximum = None
            yield client
        finally:
            await client.__aexit__(None, None, None)

    @asynccontextmanager
    async def _subscribed(self, client: Any, topic_filters: Sequence[str]) -> AsyncGenerator[Any]:
        options: dict[str, Any] = {}
        if self._connection.has_properties:
            options["retain_handling"] = zmqtt.RetainHandling.DO_NOT_SEND
        async with client.subscribe(
            *topic_filters, qos=QOS, receive_buffer_size=TAIL_BUFFER_MESSAGES, **options
        ) as messages:
            yield messages


def _subscribe_error(error: zmqtt.MQTTSubscribeError) -> DriverError:
    topic_filter, code = next(iter(error.failures.items()))
    return filter_error(topic_filter, reason_text(code), others=len(error.failures) - 1)


def _error(text: str) -> Finding:
    return Finding(severity="error", text=text)


def _warning(text: str) -> Finding:
    return Finding(severity="warning", text=text)
