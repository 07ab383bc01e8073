"""Exceptions with code of their own, in listeners of events from Redis Streams."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.hostile import EXCEPTIONS
from tests.support.redis_buses import Paid, numbers, until
from tests.support.streams_buses import (
    StreamsBus,
    command_client,
    publish,
    streams_server,
    until_settled,
)


@pytest.mark.parametrize("options", [{}, {"async_": True}, {"thread": True}], ids=str)
async def test_each_event_is_retried_and_dead_lettered_and_the_consumer_goes_on(
    options: dict[str, Any],
) -> None:
    errors = [make() for make in EXCEPTIONS.values()]

    def fail(event: Paid) -> None:
        if event.n < len(errors):
            raise errors[event.n]

    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, max_deliveries=2)
        seen = bus.seen()
        bus.subscribe(fail, Paid, name="charge", **options)
        async with bus:
            await publish(bus, *range(len(errors) + 1))
            await until_settled(ask)
            letters = await bus.driver.dead_letters.list(1000)
            await until(lambda: len(numbers(seen)) == 2 * len(errors) + 1)
            await publish(bus, 1000)
            await until(lambda: 1000 in numbers(seen))
    assert len(letters) == len(errors)
    assert all("charge failed on 'order.paid'" in letter.reason for letter in letters)
    assert all(letter.details for letter in letters)
    assert bus.says("is a dead letter after 2 deliveries") == len(errors)
