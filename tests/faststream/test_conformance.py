"""The conformance suite on NATS and on JetStream, against a real server behind a proxy."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tests.support.faststream_cases import FastStreamCases
from tests.support.limits import PUBLISH_SECONDS
from tests.support.nats_server import nats_server


class NatsCases(FastStreamCases):
    @asynccontextmanager
    async def server(self) -> AsyncGenerator[int]:
        async with nats_server() as server:
            yield server.port


class TestNats(NatsCases):
    __test__ = True
    url = f"nats://127.0.0.1:{{port}}?publish_timeout={PUBLISH_SECONDS}"


class TestJetStream(NatsCases):
    __test__ = True
    url = (
        "nats+js://127.0.0.1:{port}?group={group}&backoff=0.02"
        f"&publish_timeout={PUBLISH_SECONDS}"
    )
