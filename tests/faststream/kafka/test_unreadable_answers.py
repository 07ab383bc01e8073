"""Answers that aiokafka cannot read: it raises whatever its parser raises, and the bus goes on."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.consumer.group_coordinator import GroupCoordinator  # type: ignore[import-untyped]
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.kafka_mock import kafka_mock
from tests.support.redis_buses import numbers, until


@pytest.mark.parametrize("nth", [1, 2])
async def test_assignment_that_cannot_be_read_is_asked_for_again(
    nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = GroupCoordinator
    complete = client._on_join_complete
    joins: list[object] = []

    async def complete_or_fail(coordinator: Any, *args: Any) -> None:
        joins.append(coordinator)
        if len(joins) == nth:
            raise ValueError("Buffer underrun decoding string")
        await complete(coordinator, *args)

    monkeypatch.setattr(client, "_on_join_complete", complete_or_fail)
    async with kafka_mock() as mock:
        url = f"kafka://{mock.addr}?group=shop&claim_idle=1.2"
        bus, other = FastStreamBus(url), FastStreamBus(url)
        seen = bus.seen()
        others = other.seen()
        async with bus, other:
            await accepted(bus, *range(40))
            await until(lambda: {*numbers(seen), *numbers(others)} >= {*range(40)})
            await until(lambda: len(joins) > nth)
