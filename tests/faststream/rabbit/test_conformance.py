"""The conformance suite on RabbitMQ, with groups and without, behind a proxy."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar

import trio
from tests.support.faststream_cases import FastStreamCases
from tests.support.limits import PUBLISH_SECONDS
from tests.support.rabbit_server import delete_topology, rabbit_port

from goevent import Driver
from goevent_faststream import FastStreamDriver


class NameRecordingDriver(FastStreamDriver):
    """Records the event names, for the deletion of their queues."""

    names: ClassVar[set[str]]

    async def subscribe(self, names: Sequence[str]) -> None:
        self.names.update(name for name in names if "*" not in name)
        await super().subscribe(names)


class RabbitCases(FastStreamCases):
    options = ""

    @asynccontextmanager
    async def server(self) -> AsyncGenerator[int]:
        yield rabbit_port()

    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], Driver]]:
        class CaseDriver(NameRecordingDriver):
            names: ClassVar[set[str]] = set()

        groups: set[str] = set()
        exchange = f"goevent-test-{uuid.uuid4().hex[:12]}"
        self.driver = CaseDriver
        self.url = f"amqp://guest:guest@127.0.0.1:{{port}}/?stream={exchange}{self.options}"
        try:
            async with super().broker() as make:

                def make_recorded(group: str) -> Driver:
                    groups.add(group)
                    return make(group)

                yield make_recorded
        finally:
            with trio.CancelScope(shield=True):
                await delete_topology(
                    rabbit_port(), exchange, tuple(groups), tuple(CaseDriver.names)
                )


class TestRabbit(RabbitCases):
    __test__ = True
    options = f"&publish_timeout={PUBLISH_SECONDS}"


class TestRabbitQueues(RabbitCases):
    __test__ = True
    options = f"&publish_timeout={PUBLISH_SECONDS}&backoff=0.02&group={{group}}"
