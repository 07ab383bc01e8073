"""The dead letters of brokers: listed, replayed and discarded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import trio
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.faststream_durable import DURABLE, SHOWS_DEAD_LETTERS
from tests.support.nats_server import nats_server
from tests.support.redis_buses import Paid, numbers, opened, until

from goevent import (
    DeadLettered,
    DispatchHandle,
    DriverConnectionError,
    UnsupportedError,
    current_delivery,
)

every_broker = pytest.mark.parametrize("kind", SHOWS_DEAD_LETTERS)


@asynccontextmanager
async def with_dead_letters(
    kind: str, *dead: int
) -> AsyncGenerator[tuple[FastStreamBus, list[int], str]]:
    """Yield an open bus with some dead letters, the events on which its listener fails, its URL."""
    async with DURABLE[kind]() as url:
        bus, failing = FastStreamBus(f"{url}&group=shop"), [*dead]
        bus.tries(fail=lambda event: event.n in failing)
        async with bus:
            await accepted(bus, *dead)
            await until(
                lambda: bus.count_reports("is a dead letter after 2 deliveries") == len(dead)
            )
            yield bus, failing, url


@every_broker
async def test_dead_letter_tells_what_happened(kind: str) -> None:
    async with with_dead_letters(kind, 13) as (bus, _, _):
        letters = bus.driver.dead_letters
        (letter,) = await letters.list()
        assert letter.event_name == "order.paid"
        assert b'"n":13' in letter.data
        assert "no 13" in letter.reason
        assert "ValueError" in letter.details
        assert letter.deliveries == 2
        assert letter.consumer
        assert abs(datetime.now(UTC) - letter.time) < timedelta(minutes=1)
        assert await letters.get(letter.id) == letter
        assert await letters.count() == 1
        (report,) = [e.error for e in bus.reports if isinstance(e.error, DeadLettered)]
        assert (report.event_name, report.id) == ("order.paid", letter.event_id)
        assert (report.reason, report.deliveries) == (letter.reason, 2)


@every_broker
async def test_dead_letters_come_in_pages(kind: str) -> None:
    async with with_dead_letters(kind, *range(5)) as (bus, _, _):
        letters = bus.driver.dead_letters
        first = await letters.list(2)
        rest = await letters.list(after=first[-1].id)
        assert [len(first), len(rest)] == [2, 3]
        assert len({letter.data for letter in first + rest}) == 5
        assert await letters.list(after=rest[-1].id) == []


@every_broker
async def test_replayed_dead_letter_is_delivered_to_its_group_only_as_if_for_the_first_time(
    kind: str,
) -> None:
    async with with_dead_letters(kind, 1, 2) as (bus, failing, url):
        other = FastStreamBus(f"{url}&group=mail")
        others = other.seen()
        again: list[tuple[int, int]] = []

        async def note(event: Paid) -> None:
            again.append((event.n, current_delivery().deliveries))

        async with other:
            await until(lambda: len(others) == 2)
            bus.subscribe(note, Paid)
            await bus.ready()
            failing.clear()
            letters = bus.driver.dead_letters
            (one, *_) = await letters.list()
            assert await letters.replay(one) == 1
            assert await letters.replay(one) == 0  # it is not there any more
            await until(lambda: len(again) == 1)
            assert await letters.replay_all() == 1
            await until(lambda: len(again) == 2)
            await accepted(bus, 3)
            await until(lambda: len(others) == 3 and len(again) == 3)
            assert await letters.count() == 0
        assert sorted(again) == [(1, 1), (2, 1), (3, 1)]
        assert sorted(numbers(others)) == [1, 2, 3]


@every_broker
async def test_discarded_dead_letter_is_gone(kind: str) -> None:
    async with with_dead_letters(kind, 1, 2, 3) as (bus, _, _):
        letters = bus.driver.dead_letters
        one, two, _ = await letters.list()
        assert await letters.discard(one, two.id, "no such id") == 2
        assert await letters.discard(one) == 0
        assert await letters.get(one.id) is None
        assert await letters.count() == 1


@every_broker
@pytest.mark.parametrize("method", ["replay", "discard"])
async def test_dead_letters_that_two_callers_take_at_once_count_once(
    kind: str, method: str
) -> None:
    async with with_dead_letters(kind, *range(8)) as (bus, failing, _):
        failing.clear()
        letters = bus.driver.dead_letters
        found = await letters.list()
        counts: list[int] = []

        async def take() -> None:
            counts.append(await getattr(letters, method)(*found))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            nursery.start_soon(take)
        assert sum(counts) == 8
        assert await letters.count() == 0


@every_broker
async def test_group_sees_only_its_own_dead_letters(kind: str) -> None:
    async with with_dead_letters(kind, 1) as (bus, _, url):
        (letter,) = await bus.driver.dead_letters.list()
        other = FastStreamBus(f"{url}&group=mail")
        async with other:
            letters = other.driver.dead_letters
            assert await letters.list() == []
            assert await letters.count() == 0
            assert await letters.get(letter.id) is None
            assert await letters.replay(letter.id) == 0
            assert await letters.discard(letter.id) == 0
        assert await bus.driver.dead_letters.count() == 1


@every_broker
async def test_group_without_dead_letters_has_an_empty_store(kind: str) -> None:
    async with DURABLE[kind]() as url:
        bus = FastStreamBus(f"{url}&group=shop")
        letters = bus.driver.dead_letters
        with pytest.raises(DriverConnectionError):
            await letters.count()
        async with bus:
            assert await letters.count() == 0
            assert await letters.list() == []
            assert await letters.get("1") is None
            assert await letters.replay_all() == 0


@every_broker
async def test_replayed_dead_letter_keeps_its_headers(kind: str) -> None:
    class Stamp:
        def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
            handle.headers.update(tenant="zürich", correlation_id="request-7")
            yield

    async with DURABLE[kind]() as url:
        bus = FastStreamBus(f"{url}&group=shop&format=faststream", middleware=(Stamp(),))
        seen: list[dict[str, str]] = []

        async def fail_at_first(event: Paid) -> None:
            seen.append({**current_delivery().headers})
            if len(seen) <= 2:
                raise ValueError("no")

        bus.subscribe(fail_at_first, Paid)
        async with opened(bus):
            await accepted(bus, 1)
            await until(lambda: bus.count_reports("is a dead letter"))
            await bus.driver.dead_letters.replay_all()
            await until(lambda: len(seen) == 3)
        assert seen == [{"tenant": "zürich", "correlation_id": "request-7"}] * 3


async def test_dead_letters_of_a_bus_that_has_none_are_unsupported() -> None:
    async with nats_server() as server:
        with pytest.raises(UnsupportedError, match="shows no dead letters"):
            FastStreamBus(server.url).driver.dead_letters  # noqa: B018
        with pytest.raises(UnsupportedError, match="belong to a group"):
            FastStreamBus(f"nats+js://{server.addr}").driver.dead_letters  # noqa: B018


@every_broker
async def test_a_bus_without_listeners_lists_replays_and_discards(kind: str) -> None:
    async with with_dead_letters(kind, 1, 2, 3) as (bus, failing, url):
        failing.clear()
        seen = bus.seen()
        operator = FastStreamBus(f"{url}&group=shop")
        async with opened(operator):
            letters = operator.driver.dead_letters
            first, second, third = await letters.list()
            assert await letters.get(second.id) == second
            assert await letters.discard(second) == 1
            assert await letters.replay(first, third) == 2
            assert await letters.count() == 0
            await until(lambda: len(seen) == 2)
        assert sorted(numbers(seen)) == [1, 3]
        assert operator.reports == []
