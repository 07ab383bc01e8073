"""A small chaos run over each broker: no accepted event is lost, and repeats are marked."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.chaos import chaos

STREAMS_SCALE = "--events 800 --rate 400 --consumer-kills 3 --server-kills 2"
PARTITIONS_SCALE = "--events 800 --rate 200 --consumer-kills 2 --server-kills 1 --freezes 1"
ACCOUNTS = 50


async def test_streams_lose_no_event_and_flag_repeats(tmp_path: Path) -> None:
    counts = await chaos(tmp_path, "streams", f"--quick {STREAMS_SCALE}")
    assert counts["accepted"] == 800
    assert not counts["lost"] + counts["unflagged"]
    assert not counts["pending"]


async def test_partitions_keep_the_order_of_each_key(tmp_path: Path) -> None:
    counts = await chaos(tmp_path, "streams+partitions", f"--quick {PARTITIONS_SCALE}")
    assert (counts["accepted"], counts["keys"]) == (800, ACCOUNTS)
    assert not counts["lost"] + counts["unflagged"] + counts["overtaken"]
    assert not counts["pending"]


# Not both in one run: the server forgets the latest acknowledgements when it is killed, also those
# of a process that was killed just before. No bus is left that knows of such an event.
@pytest.mark.parametrize("spared", ["--consumer-kills 0", "--server-kills 0"])
async def test_jetstream_loses_no_event_and_flags_repeats(tmp_path: Path, spared: str) -> None:
    counts = await chaos(tmp_path, "jetstream", f"--quick --rate 200 {spared}")
    assert counts["accepted"] + sum(counts["refused"].values()) == 400
    assert not counts["lost"] + counts["unflagged"]
    assert not counts["pending"]


async def test_rabbitmq_loses_no_event_and_flags_repeats(tmp_path: Path) -> None:
    counts = await chaos(tmp_path, "rabbitmq")
    # The producers know of each event that is missing here.
    assert counts["accepted"] + sum(counts["refused"].values()) == 400
    assert not counts["lost"] + counts["unflagged"]
    assert not counts["pending"]


@pytest.mark.parametrize("driver", ["kafka", "kafka+confluent"])
async def test_kafka_settles_every_event(tmp_path: Path, driver: str) -> None:
    # noida-db itself loses records when it ends, so the losses prove nothing.
    counts = await chaos(tmp_path, driver)
    assert counts["accepted"] + sum(counts["refused"].values()) == 400
    if driver == "kafka":
        # The sequences of producers, which noida-db forgets, keep the order of librdkafka.
        assert not counts["overtaken"]
    assert not counts["pending"]


async def test_mqtt_repeats_no_event(tmp_path: Path) -> None:
    counts = await chaos(tmp_path, "mqtt")
    assert counts["accepted"] + sum(counts["refused"].values()) == 400
    assert counts["duplicates"] == 0
