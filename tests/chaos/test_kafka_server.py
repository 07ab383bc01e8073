"""The Kafka brokers of the chaos run: what they tell of the events that are left."""

from __future__ import annotations

import pytest
from benchmarks.brokers.harness import NotHere
from benchmarks.chaos.servers.contract import GROUP
from benchmarks.chaos.servers.kafka import TOPIC, KafkaServer, tansu
from tests.support.brokers import missing

confluent_kafka = pytest.importorskip("confluent_kafka")

SEND_SECONDS = 30.0
BATCH_RECORDS = 5


def test_a_run_on_tansu_ends_though_its_ends_are_too_low() -> None:
    try:
        server = tansu("kafka+confluent")
    except NotHere as reason:
        missing(str(reason))
    with server.process:
        server.prepare()
        _send_batch(server)
        assert server.unsettled()
        _commit(server, BATCH_RECORDS)
        # tansu tells 1 as the end, so a difference would never be 0.
        assert server.unsettled() is None


def _send_batch(server: KafkaServer) -> None:
    """Send records that become one batch of one partition."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": server.process.addr, "log_level": 0, "linger.ms": 1000}
    )
    for _ in range(BATCH_RECORDS):
        producer.produce(TOPIC, b"{}", partition=0)
    assert producer.flush(SEND_SECONDS) == 0


def _commit(server: KafkaServer, offset: int) -> None:
    """Commit an offset for the group of the run, without joining it."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": server.process.addr, "group.id": f"{GROUP}.{TOPIC}", "log_level": 0}
    )
    try:
        consumer.commit(
            offsets=[confluent_kafka.TopicPartition(TOPIC, 0, offset)], asynchronous=False
        )
    finally:
        consumer.close()
