"""A small Kafka broker for publishers, with the answers that librdkafka's mock cannot give.

It has one partition for each topic and keeps no records. It tells the `max.message.bytes` of its
topics and refuses larger batches, as Kafka does, and it refuses batches that leave a gap in the
sequence numbers of their producer.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from aiokafka.protocol.admin import (  # type: ignore[import-untyped]
    ApiVersionRequest_v0,
    ApiVersionResponse_v0,
    DescribeConfigsRequest_v1,
    DescribeConfigsResponse_v1,
)
from aiokafka.protocol.metadata import (  # type: ignore[import-untyped]
    MetadataRequest_v1,
    MetadataResponse_v1,
)
from aiokafka.protocol.produce import (  # type: ignore[import-untyped]
    ProduceRequest_v7,
    ProduceResponse_v7,
)
from aiokafka.protocol.transaction import (  # type: ignore[import-untyped]
    InitProducerIdRequest_v0,
    InitProducerIdResponse_v0,
)
from aiokafka.record.default_records import (  # type: ignore[import-untyped]
    DefaultRecordBatch,
)

from tests.support.faststream_buses import FastStreamBus

NO_ERROR, MESSAGE_TOO_LARGE, TOPIC_FORBIDDEN = 0, 10, 29
UNSUPPORTED_VERSION, OUT_OF_ORDER_SEQUENCE = 35, 45
REQUESTS: dict[int, Any] = {
    each.API_KEY: each
    for each in (
        ApiVersionRequest_v0,
        DescribeConfigsRequest_v1,
        MetadataRequest_v1,
        ProduceRequest_v7,
        InitProducerIdRequest_v0,
    )
}
# librdkafka wants to see these, too, before it uses record batches.
OTHER_VERSIONS = [(1, 4, 11), (2, 1, 1)]


@dataclass
class ScriptedKafkaBroker:
    """A broker whose limits a test sets.

    Attributes:
        max_message_bytes: The limit of all topics.
        told_limit: The limit that it tells, if it is another one; None to refuse to tell.
        limit_requests: The topics of all requests for a limit, in order.
        batches: The number of records in each accepted batch, in order.
        refused: The number of refused batches.
    """

    max_message_bytes: int = 2000
    told_limit: object = ""
    limit_requests: list[str] = field(default_factory=list[str])
    batches: list[int] = field(default_factory=list[int])
    refused: int = 0
    port: int = 0
    _producers: int = 0
    _next_sequence: dict[tuple[int, int, str], int] = field(
        default_factory=dict["tuple[int, int, str]", int]
    )
    _ends: dict[str, int] = field(default_factory=dict[str, int])

    def bus(self, scheme: str, **options: object) -> FastStreamBus:
        """Return a bus on this broker."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return FastStreamBus(f"{scheme}://127.0.0.1:{self.port}?{query}")

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection."""
        received = b""
        try:
            async with stream:
                while data := await stream.receive_some():
                    received += data
                    while len(received) >= 4:
                        (size,) = struct.unpack_from(">i", received)
                        if len(received) < 4 + size:
                            break
                        request, received = received[4 : 4 + size], received[4 + size :]
                        answer = self._answer(request)
                        await stream.send_all(struct.pack(">i", len(answer)) + answer)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    def _answer(self, request: bytes) -> bytes:
        key, version, correlation, name_length = struct.unpack_from(">hhih", request)
        kind = REQUESTS[key]
        if version != kind.API_VERSION:
            # A client that asks for the versions in a later version asks again in this one.
            answer = ApiVersionResponse_v0(UNSUPPORTED_VERSION, [])
        else:
            decoded = kind.decode(request[10 + max(0, name_length) :])
            answer = getattr(self, f"_{kind.__name__.partition('Request')[0].lower()}")(decoded)
        encoded: bytes = answer.encode()
        return struct.pack(">i", correlation) + encoded

    def _apiversion(self, _: Any) -> Any:
        versions = [(key, each.API_VERSION, each.API_VERSION) for key, each in REQUESTS.items()]
        return ApiVersionResponse_v0(NO_ERROR, versions + OTHER_VERSIONS)

    def _metadata(self, request: Any) -> Any:
        topics = [
            (NO_ERROR, topic, False, [(NO_ERROR, 0, 1, [1], [1])]) for topic in request.topics or ()
        ]
        return MetadataResponse_v1([(1, "127.0.0.1", self.port, None)], 1, topics)

    def _initproducerid(self, _: Any) -> Any:
        self._producers += 1
        return InitProducerIdResponse_v0(0, NO_ERROR, self._producers, 0)

    def _describeconfigs(self, request: Any) -> Any:
        told: list[Any] = []
        for kind, topic, *_ in request.resources:
            self.limit_requests.append(topic)
            limit = self.max_message_bytes if self.told_limit == "" else self.told_limit
            if limit is None:
                told.append((TOPIC_FORBIDDEN, "not authorized", kind, topic, []))
                continue
            entry: tuple[object, ...] = ("max.message.bytes", str(limit), False, 1, False, [])
            told.append((NO_ERROR, None, kind, topic, [entry]))
        return DescribeConfigsResponse_v1(0, told)

    def _produce(self, request: Any) -> Any:
        topics = [
            (topic, [self._written(topic, number, batch) for number, batch in partitions])
            for topic, partitions in request.topics
        ]
        return ProduceResponse_v7(topics, 0)

    def _written(self, topic: str, partition: int, data: bytes) -> tuple[int, int, int, int, int]:
        batch = DefaultRecordBatch(data)
        # A producer begins anew with a higher epoch.
        producer = (batch.producer_id, batch.producer_epoch, topic)
        count = batch.last_offset_delta + 1
        code = NO_ERROR
        if len(data) > self.max_message_bytes:
            code = MESSAGE_TOO_LARGE
        elif batch.base_sequence != self._next_sequence.get(producer, batch.base_sequence):
            code = OUT_OF_ORDER_SEQUENCE
        if code:
            self.refused += 1
            return (partition, code, -1, -1, -1)
        self._next_sequence[producer] = batch.base_sequence + count
        self.batches.append(count)
        offset = self._ends.get(topic, 0)
        self._ends[topic] = offset + count
        return (partition, NO_ERROR, offset, -1, 0)


@asynccontextmanager
async def scripted_kafka() -> AsyncGenerator[ScriptedKafkaBroker]:
    """Run a broker while the body runs."""
    broker = ScriptedKafkaBroker()
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        broker.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, broker.serve, listeners)
        yield broker
        nursery.cancel_scope.cancel()
