"""The conformance suite on MQTT, with groups and without, against a real server behind a proxy."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tests.support.faststream_cases import FastStreamCases
from tests.support.limits import PUBLISH_SECONDS
from tests.support.mqtt_server import mqtt_server


class MqttCases(FastStreamCases):
    @asynccontextmanager
    async def server(self) -> AsyncGenerator[int]:
        async with mqtt_server("max_queued_messages 0") as server:
            yield server.port


class TestMqtt(MqttCases):
    __test__ = True
    url = f"mqtt://127.0.0.1:{{port}}?publish_timeout={PUBLISH_SECONDS}"


class TestMqttGroups(MqttCases):
    __test__ = True
    url = f"mqtt://127.0.0.1:{{port}}?group={{group}}&publish_timeout={PUBLISH_SECONDS}"


class TestOldMqtt(MqttCases):
    __test__ = True
    url = f"mqtt://127.0.0.1:{{port}}?version=3.1.1&publish_timeout={PUBLISH_SECONDS}"
