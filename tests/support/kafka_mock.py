"""librdkafka's mock of a Kafka cluster: brokers in this process, to which both clients connect.

The mock has groups and their rebalances, commits with metadata, idempotent producers and the end
offsets of partitions. It has no administrator and no search by time, it refuses commits while a
group rebalances, and it forgets everything when it ends. The tests use its C interface, since only
that can take a broker down.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pytest
import trio
from aiokafka.consumer.group_coordinator import GroupCoordinator  # type: ignore[import-untyped]

from goevent_faststream._kafka import client_options, consumer
from goevent_faststream._kafka.aiokafka_client import AiokafkaClient
from goevent_faststream._kafka.confluent_client import ConfluentClient
from tests.support.brokers import missing
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import until

# API keys of Kafka's protocol, and its error codes.
PRODUCE, FETCH, OFFSET_COMMIT, OFFSET_FETCH, JOIN_GROUP = 0, 1, 8, 9, 11
FIND_COORDINATOR, INIT_PRODUCER_ID, LIST_OFFSETS, HEARTBEAT, SYNC_GROUP = 10, 22, 2, 12, 14
UNKNOWN_TOPIC, MESSAGE_TOO_LARGE, INVALID_TOPIC = 3, 10, 17
TOPIC_FORBIDDEN, GROUP_FORBIDDEN, CLUSTER_FORBIDDEN = 29, 30, 31
UNKNOWN_SERVER_ERROR, OUT_OF_ORDER_SEQUENCE, STALE_PRODUCER_EPOCH = -1, 45, 47
UNKNOWN_PRODUCER_ID, PRODUCER_FENCED, UNKNOWN_MEMBER = 59, 90, 25
UNSUPPORTED_VERSION, POLICY_VIOLATION, INVALID_RECORD, OFFSET_OUT_OF_RANGE = 35, 44, 87, 1

# The leader of a group is slower than the other members by so much.
LEADER_DELAY_SECONDS = 0.3
FETCH_WAIT_MILLISECONDS = 50
_PERFORM_ASSIGNMENT: Any = getattr(GroupCoordinator, "_perform_assignment")  # noqa: B009 - it is protected


@cache
def library() -> Any:
    """Return the librdkafka of the package confluent-kafka."""
    try:
        import confluent_kafka
    except ImportError:
        missing("confluent-kafka is not installed")
    around = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    found = sorted(around.glob("librdkafka*.so*"))
    if not found:
        missing("this confluent-kafka has no librdkafka beside it")
    lib = ctypes.CDLL(str(found[0]))
    for name, result, arguments in (
        ("rd_kafka_conf_new", "p", ""),
        ("rd_kafka_conf_set", "i", "psssi"),
        ("rd_kafka_new", "p", "ipsi"),
        ("rd_kafka_destroy", "", "p"),
        ("rd_kafka_mock_cluster_new", "p", "pi"),
        ("rd_kafka_mock_cluster_destroy", "", "p"),
        ("rd_kafka_mock_cluster_bootstraps", "s", "p"),
        ("rd_kafka_mock_topic_create", "i", "psii"),
        ("rd_kafka_mock_topic_delete", "i", "ps"),
        ("rd_kafka_mock_topic_set_error", "", "psi"),
        ("rd_kafka_mock_partition_delete_records", "i", "psil"),
        ("rd_kafka_mock_clear_request_errors", "", "pi"),
        ("rd_kafka_mock_push_request_errors_array", "", "pizp"),
        ("rd_kafka_mock_broker_set_down", "i", "pi"),
        ("rd_kafka_mock_broker_set_up", "i", "pi"),
        ("rd_kafka_mock_broker_set_rtt", "i", "pii"),
        ("rd_kafka_mock_group_initial_rebalance_delay_ms", "", "pi"),
        ("rd_kafka_mock_start_request_tracking", "", "p"),
        ("rd_kafka_mock_get_requests", "p", "pp"),
        ("rd_kafka_mock_request_api_key", "h", "p"),
        ("rd_kafka_mock_request_destroy_array", "", "pz"),
    ):
        kinds: dict[str, Any] = {"p": ctypes.c_void_p, "s": ctypes.c_char_p, "i": ctypes.c_int}
        kinds |= {"z": ctypes.c_size_t, "l": ctypes.c_int64, "h": ctypes.c_int16, "": None}
        function = getattr(lib, name)
        function.restype = kinds[result]
        function.argtypes = [kinds[each] for each in arguments]
    return lib


class KafkaMock:
    """A cluster of one broker.

    Attributes:
        addr: The address on which it listens.
    """

    def __init__(self) -> None:
        self._lib = lib = library()
        conf = lib.rd_kafka_conf_new()
        lib.rd_kafka_conf_set(conf, b"log_level", b"0", None, 0)
        self._host = lib.rd_kafka_new(0, conf, None, 0)
        self._cluster = lib.rd_kafka_mock_cluster_new(self._host, 1)
        lib.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 50)
        lib.rd_kafka_mock_start_request_tracking(self._cluster)
        self.addr: str = lib.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def topic(self, name: str, partitions: int = 1, *, exist_ok: bool = False) -> None:
        """Create a topic. A topic that a client asks for is created with four partitions.

        Args:
            exist_ok: The topic may exist already.
        """
        error = self._lib.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        assert error == 0 or exist_ok

    def forget(self, topic: str) -> None:
        """Delete a topic."""
        assert self._lib.rd_kafka_mock_topic_delete(self._cluster, topic.encode()) == 0

    def refuse(self, request: int, error: int, count: int = 100_000) -> None:
        """Answer requests with an error.

        Args:
            request: The API key, such as `PRODUCE`.
            error: Kafka's error code.
            count: How many requests.
        """
        codes = (ctypes.c_int * count)(*[error] * count)
        self._lib.rd_kafka_mock_push_request_errors_array(self._cluster, request, count, codes)

    def allow(self, request: int) -> None:
        """Answer requests without an error again."""
        self._lib.rd_kafka_mock_clear_request_errors(self._cluster, request)

    def count(self, request: int) -> int:
        """Return how many requests with an API key have come."""
        size = ctypes.c_size_t()
        found = self._lib.rd_kafka_mock_get_requests(self._cluster, ctypes.byref(size))
        each = ctypes.cast(found, ctypes.POINTER(ctypes.c_void_p))
        keys = [self._lib.rd_kafka_mock_request_api_key(each[n]) for n in range(size.value)]
        self._lib.rd_kafka_mock_request_destroy_array(found, size)
        return keys.count(request)

    async def asked_again(self, request: int) -> None:
        """Wait until one more request with an API key has come, and was answered.

        A client sends the next one when it has the answer.
        """
        wanted = self.count(request) + 2
        await until(lambda: self.count(request) >= wanted, HANG_SECONDS)

    def refuse_topic(self, topic: str, error: int) -> None:
        """Have the metadata of a topic tell an error; 0 for none."""
        self._lib.rd_kafka_mock_topic_set_error(self._cluster, topic.encode(), error)

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Delete the records of a partition in front of an offset, as retention does."""
        deleted = self._lib.rd_kafka_mock_partition_delete_records(
            self._cluster, topic.encode(), partition, before
        )
        assert deleted == 0

    def down(self) -> None:
        """Close all connections and accept no more."""
        assert self._lib.rd_kafka_mock_broker_set_down(self._cluster, 1) == 0

    def up(self) -> None:
        """Accept connections again; the records are still there."""
        assert self._lib.rd_kafka_mock_broker_set_up(self._cluster, 1) == 0

    def slow(self, milliseconds: int) -> None:
        """Delay all answers."""
        assert self._lib.rd_kafka_mock_broker_set_rtt(self._cluster, 1, milliseconds) == 0

    def end(self) -> None:
        """End the cluster."""
        self._lib.rd_kafka_mock_cluster_destroy(self._cluster)
        self._lib.rd_kafka_destroy(self._host)


@asynccontextmanager
async def kafka_mock() -> AsyncGenerator[KafkaMock]:
    """Run a cluster while the body runs."""
    mock = KafkaMock()
    try:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(GroupCoordinator, "_perform_assignment", _assign_late)
            # The mock answers a fetch that finds nothing after its whole wait, even if a record
            # comes meanwhile; Kafka answers it then.
            monkeypatch.setattr(client_options, "FETCH_WAIT_MILLISECONDS", FETCH_WAIT_MILLISECONDS)
            monkeypatch.setattr(consumer, "READ_WAIT_SECONDS", FETCH_WAIT_MILLISECONDS / 1000)
            yield mock
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(mock.end)


async def _assign_late(leader: Any, response: Any, perform: Any = _PERFORM_ASSIGNMENT) -> Any:
    """Assign partitions as aiokafka does, after the other members have asked for theirs.

    The mock ends a rebalance with the leader's assignment and refuses members that ask later. These
    join again, which starts the next rebalance: for ever, if leaders are fast. Kafka itself waits.
    """
    assignment = await perform(leader, response)
    if len(assignment) > 1:
        await asyncio.sleep(LEADER_DELAY_SECONDS)
    return assignment


class Addressed(Protocol):
    """A broker at an address."""

    @property
    def addr(self) -> str: ...


async def read_records(broker: Addressed, topic: str, count: int) -> list[Any]:
    """Return the records of a topic; waits until there are so many."""
    import confluent_kafka

    def read() -> list[Any]:
        settings = {"bootstrap.servers": broker.addr, "group.id": "all", "log_level": 0}
        consumer = confluent_kafka.Consumer(settings | {"auto.offset.reset": "earliest"})
        known = consumer.list_topics(topic, timeout=HANG_SECONDS).topics[topic].partitions
        consumer.assign([confluent_kafka.TopicPartition(topic, each, 0) for each in known])
        found: list[Any] = []
        while len(found) < count:
            message = consumer.poll(10)
            assert message is not None, f"{len(found)} of {count} in {topic}"
            found.append(message)
        consumer.close()
        return found

    return await trio.to_thread.run_sync(read)


def one_partition(create_topic: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Create topics with one partition, so that the events of a topic are in order.

    Args:
        create_topic: Creates a topic; it may exist already.
    """
    for kind in (AiokafkaClient, ConfluentClient):

        async def ensure_topic(self: Any, topic: str, real: Any = kind.ensure_topic) -> None:
            create_topic(topic, exist_ok=True)
            await real(self, topic)

        monkeypatch.setattr(kind, "ensure_topic", ensure_topic)
