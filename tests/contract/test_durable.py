"""The settings, the verdicts and the dead letters that every durable driver shares."""

from __future__ import annotations

import pickle
import re
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from goevent import DeadLettered, DecodeError, EventAbandoned, EventDropped, EventError
from goevent.drivers import (
    ACK,
    DEAD_LETTERS_PER_CALL,
    RELEASE,
    Action,
    DeadLetter,
    DeadLetters,
    DurableConfig,
    Settlement,
    dead_letter_report,
    in_one_line,
    jittered,
    read_options,
    retry_or_dead_letter,
    verdict,
)

CONFIG = DurableConfig(max_deliveries=3, backoff=0.5, max_backoff=1.5)


def ended(
    *errors: type[EventError], error: Exception | None = None, listener: str = "listen"
) -> Settlement:
    raised = error or ValueError("no")
    return Settlement(tuple(each("order.placed", listener, raised) for each in errors))


@pytest.mark.parametrize(
    ("settlement", "expected"),
    [
        (Settlement(), ACK),
        (Settlement(started=False), RELEASE),
        (ended(EventDropped), ACK),
        (ended(EventDropped, EventDropped), ACK),
    ],
)
def test_settlement_without_failure_acknowledges_or_releases(
    settlement: Settlement, expected: object
) -> None:
    assert verdict(settlement, 1, CONFIG) is expected


def test_abandoned_event_is_released_even_if_another_listener_failed() -> None:
    assert verdict(ended(EventError, EventAbandoned), 9, CONFIG).action is Action.RELEASE
    assert verdict(ended(EventError, EventAbandoned), 9, CONFIG).started
    unstarted = Settlement(ended(EventAbandoned).errors, started=False)
    assert verdict(unstarted, 1, CONFIG) == RELEASE


def test_failed_event_is_retried_after_a_growing_pause_until_its_last_delivery() -> None:
    failed = ended(EventDropped, EventError)
    first, second = verdict(failed, 1, CONFIG), verdict(failed, 2, CONFIG)
    assert (first.action, first.after) == (Action.RETRY, 0.5)
    assert (second.action, second.after) == (Action.RETRY, 1.0)
    last = verdict(failed, 3, CONFIG)
    assert last.action is Action.DEAD_LETTER
    assert "no" in last.reason
    assert not last.reported


def test_delivery_that_fails_on_its_way_is_retried_and_then_given_up() -> None:
    assert retry_or_dead_letter(2, CONFIG, reason="stopped").after == 1.0
    last = retry_or_dead_letter(3, CONFIG, reason="stopped", reported=True)
    assert (last.action, last.reason, last.reported) == (Action.DEAD_LETTER, "stopped", True)


def test_undecodable_event_is_a_dead_letter_at_its_first_delivery() -> None:
    error = DecodeError("order.placed", "it holds no event")
    decided = verdict(ended(EventError, error=error, listener="driver"), 1, CONFIG)
    assert (decided.action, decided.reported) == (Action.DEAD_LETTER, True)
    assert decided.reason == str(error)
    # A listener that decodes something of its own fails like any other.
    assert verdict(ended(EventError, error=error), 1, CONFIG).action is Action.RETRY


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"group": "a b"}, "group must be letters"),
        ({"prefetch": 0}, "prefetch must be a whole number"),
        ({"prefetch_bytes": 0}, "prefetch_bytes must be a whole number"),
        ({"max_deliveries": True}, "max_deliveries must be a whole number"),
        ({"backoff": -1.0}, "backoff must be a number of seconds"),
        ({"max_backoff": 0}, "max_backoff must be a number of seconds above 0"),
        ({"claim_idle": 0.05}, "claim_idle must be at least 0.1"),
        ({"publish_timeout": float("inf")}, "publish_timeout must be a number of seconds"),
        ({"start": datetime(2026, 1, 2)}, "needs a time zone"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DurableConfig(**fields)


def test_options_of_a_url_get_the_types_of_their_fields() -> None:
    query = "group=a&db=3&prefetch=7&backoff=2&start=2026-01-02T03:04:05+00:00&name=x%26y"
    options, rest = read_options(query, DurableConfig, positions=re.compile("[0-9]+"))
    start = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert options == {"group": "a", "prefetch": 7, "backoff": 2.0, "start": start}
    assert rest == "db=3&name=x%26y"
    assert read_options("start=12", DurableConfig, positions=re.compile("[0-9]+"))[0] == {
        "start": "12"
    }
    assert read_options("start=latest", DurableConfig, positions=re.compile("x"))[0] == {
        "start": "latest"
    }


def test_pause_is_drawn_between_half_and_all_of_it() -> None:
    drawn = [jittered(2.0) for _ in range(200)]
    assert all(1.0 <= each <= 2.0 for each in drawn)
    assert len(set(drawn)) > 100


def test_report_of_a_dead_letter_names_the_event() -> None:
    report = dead_letter_report("order.placed", "17", 3, "no")
    for each in (report, pickle.loads(pickle.dumps(report)), copy(report)):
        assert isinstance(each, DeadLettered)
        assert (each.event_name, each.id, each.deliveries) == ("order.placed", "17", 3)
        assert (each.reason, str(each)) == ("no", str(report))
    text = str(report)
    assert text == "the event 17 of 'order.placed' is a dead letter after 3 deliveries: no"
    assert str(EventError("order.placed", "driver", report)) == text
    assert str(EventError("order.placed", "driver", report).as_text()) == text
    assert in_one_line("a\n  b\tc" + 2000 * "d") == "a b c" + 995 * "d"


class StoreInMemory:
    """Keeps dead letters in a dict, and replays them into a list."""

    def __init__(self, count: int) -> None:
        self.letters = {str(n): dead_letter(str(n)) for n in range(count)}
        self.replayed: list[str] = []
        self.largest_call = 0

    async def count(self) -> int:
        return len(self.letters)

    async def list(self, count: int, after: str) -> list[DeadLetter]:
        behind = [each for each in self.letters.values() if not after or int(each.id) > int(after)]
        return behind[:count]

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002
        return self.letters.get(id)

    async def replay(self, ids: Sequence[str]) -> int:
        self.replayed += [each for each in ids if each in self.letters]
        # Each replayed event fails again at once.
        number = max(map(int, self.letters)) + 1
        self.letters[str(number)] = dead_letter(str(number))
        return await self.discard(ids)

    async def discard(self, ids: Sequence[str]) -> int:
        self.largest_call = max(self.largest_call, len(ids))
        return sum(self.letters.pop(each, None) is not None for each in ids)


def dead_letter(id: str) -> DeadLetter:  # noqa: A002
    return DeadLetter(
        id=id,
        event_name="order.placed",
        event_id=id,
        data=b"",
        reason="no",
        details="",
        deliveries=3,
        consumer="",
        time=datetime.now(UTC),
    )


async def test_dead_letters_that_exist_are_replayed_once_each() -> None:
    store = StoreInMemory(250)
    letters = DeadLetters(store)
    assert await letters.count() == 250
    assert len(await letters.list()) == 100
    assert [each.id for each in await letters.list(2, after="7")] == ["8", "9"]
    assert await letters.replay_all() == 250
    assert store.replayed == [str(n) for n in range(250)]
    assert store.largest_call == DEAD_LETTERS_PER_CALL
    assert await letters.count() == 13  # those that failed again


async def test_dead_letters_that_come_while_they_are_listed_are_not_replayed() -> None:
    class StoreThatGrows(StoreInMemory):
        async def list(self, count: int, after: str) -> list[DeadLetter]:
            found = await super().list(count, after)
            for _ in range(30 if len(self.letters) < 1000 else 0):
                self.letters[str(len(self.letters))] = dead_letter(str(len(self.letters)))
            return found

    store = StoreThatGrows(120)
    assert await DeadLetters(store).replay_all() == 120
    assert store.replayed == [str(n) for n in range(120)]


async def test_dead_letters_that_are_discarded_while_they_are_listed_are_left_out() -> None:
    class StoreThatShrinks(StoreInMemory):
        async def list(self, count: int, after: str) -> list[DeadLetter]:
            found = await super().list(count, after)
            await self.discard([str(n) for n in range(90, 119)])
            return found

    store = StoreThatShrinks(120)
    assert await DeadLetters(store).replay_all() == 91
    assert store.replayed == [str(n) for n in (*range(90), 119)]


async def test_dead_letters_are_replayed_and_discarded_by_letter_or_id() -> None:
    store = StoreInMemory(5)
    calls: list[str] = []

    async def call(method: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        calls.append(getattr(method, "__name__", ""))
        return await method(*args)

    letters = DeadLetters(store, call)
    second = await letters.get("1")
    assert second is not None
    assert await letters.get("77") is None
    assert await letters.discard(second, "0", "77") == 2
    assert await letters.replay("3", second) == 1
    assert await letters.discard() == 0
    assert calls == ["get", "get", "discard", "replay"]
