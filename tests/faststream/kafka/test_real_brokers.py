"""Events on each Kafka broker of the tests, with both clients."""

from __future__ import annotations

import pytest
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.kafka_brokers import KAFKA_BROKERS, KafkaBrokerKind, KafkaFeature
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import numbers, until

both_clients = pytest.mark.parametrize("scheme", ["kafka", "kafka+confluent"])
all_brokers = pytest.mark.parametrize("kind", KAFKA_BROKERS.values(), ids=KAFKA_BROKERS)


@both_clients
@all_brokers
async def test_events_arrive_once_at_each_group_also_after_an_outage(
    scheme: str, kind: KafkaBrokerKind
) -> None:
    if scheme == "kafka":
        kind.needs(KafkaFeature.AIOKAFKA_PRODUCER_ID)
    async with kind.run() as broker:
        url = f"{scheme}://{broker.addr}?backoff=0.02&claim_idle={kind.session_seconds}"
        shop, mail = (FastStreamBus(f"{url}&group={group}") for group in ("shop", "mail"))
        seen = [shop.seen(), mail.seen()]
        async with shop, mail, FastStreamBus(url) as sender:
            await accepted(sender, *range(20))
            await until(lambda: all(len(each) == 20 for each in seen), HANG_SECONDS)
            await broker.down()
            await until(lambda: not sender.driver.snapshot().connected)
            await broker.up()
            await until(lambda: sender.driver.snapshot().connected)
            await accepted(sender, *range(20, 40))
            await until(lambda: all(len(each) == 40 for each in seen), HANG_SECONDS)
        assert [sorted(numbers(each)) for each in seen] == [[*range(40)]] * 2
