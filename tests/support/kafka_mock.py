"""Kafka as librdkafka mocks it: brokers in this process that both clients dial as they dial any.

It knows groups and their rebalances, commits with notes, idempotent producers and ends of
partitions; it knows no administrator and no times, refuses commits while a group rebalances, and
forgets everything when it ends. It is asked by its C interface, the only one by which a broker can
be taken down.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trio
from aiokafka.consumer.group_coordinator import GroupCoordinator  # type: ignore[import-untyped]

from goevent_faststream._kafka.aiokafka_client import AiokafkaClient
from goevent_faststream._kafka.confluent_client import ConfluentClient
from tests.support.brokers import missing

LATE = 0.3  # seconds by which leaders of groups are slower than the others
_SHARE_OUT: Any = getattr(GroupCoordinator, "_perform_assignment")  # noqa: B009 - it is protected


@cache
def library() -> Any:
    """Return the librdkafka that confluent-kafka brings along."""
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
        ("rd_kafka_mock_broker_set_down", "i", "pi"),
        ("rd_kafka_mock_broker_set_up", "i", "pi"),
        ("rd_kafka_mock_broker_set_rtt", "i", "pii"),
        ("rd_kafka_mock_group_initial_rebalance_delay_ms", "", "pi"),
    ):
        kinds = {"p": ctypes.c_void_p, "s": ctypes.c_char_p, "i": ctypes.c_int, "": None}
        function = getattr(lib, name)
        function.restype = kinds[result]
        function.argtypes = [kinds[each] for each in arguments]
    return lib


class KafkaMock:
    """A cluster of one broker.

    Attributes:
        addr: where it listens.
    """

    def __init__(self) -> None:
        self._lib = lib = library()
        conf = lib.rd_kafka_conf_new()
        lib.rd_kafka_conf_set(conf, b"log_level", b"0", None, 0)
        self._host = lib.rd_kafka_new(0, conf, None, 0)
        self._cluster = lib.rd_kafka_mock_cluster_new(self._host, 1)
        lib.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 50)
        self.addr: str = lib.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def topic(self, name: str, partitions: int = 1, *, exist_ok: bool = False) -> None:
        """Make a topic; one that is only asked for gets four partitions.

        Args:
            exist_ok: it may be there already.
        """
        error = self._lib.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        assert error == 0 or exist_ok

    def forget(self, topic: str) -> None:
        """Delete a topic."""
        assert self._lib.rd_kafka_mock_topic_delete(self._cluster, topic.encode()) == 0

    def down(self) -> None:
        """Cut all connections and take no more."""
        assert self._lib.rd_kafka_mock_broker_set_down(self._cluster, 1) == 0

    def up(self) -> None:
        """Take connections again; what was written is still there."""
        assert self._lib.rd_kafka_mock_broker_set_up(self._cluster, 1) == 0

    def slow(self, milliseconds: int) -> None:
        """Answer so late."""
        assert self._lib.rd_kafka_mock_broker_set_rtt(self._cluster, 1, milliseconds) == 0

    def end(self) -> None:
        """End it."""
        self._lib.rd_kafka_mock_cluster_destroy(self._cluster)
        self._lib.rd_kafka_destroy(self._host)


@asynccontextmanager
async def kafka_mock() -> AsyncGenerator[KafkaMock]:
    """Run a cluster while the body runs."""
    mock = KafkaMock()
    try:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(GroupCoordinator, "_perform_assignment", _share_out_late)
            yield mock
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(mock.end)


async def _share_out_late(leader: Any, response: Any, share_out: Any = _SHARE_OUT) -> Any:
    """Share out as aiokafka does, after the others of the group have asked for their shares.

    The mock takes a group for settled when its leader has spoken, and refuses whoever asks later,
    who joins it anew then, and so on: where leaders are fast, for ever. Kafka itself does not.
    """
    shares = await share_out(leader, response)
    if len(shares) > 1:
        await asyncio.sleep(LATE)
    return shares


def one_partition(mock: KafkaMock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each topic that is made one partition: its events are in order, as many tests want."""
    for client in (AiokafkaClient, ConfluentClient):

        async def ensure_topic(self: Any, topic: str, real: Any = client.ensure_topic) -> None:
            mock.topic(topic, exist_ok=True)
            await real(self, topic)

        monkeypatch.setattr(client, "ensure_topic", ensure_topic)
