"""The ids of dispatches."""

from __future__ import annotations

import re

import pytest

from goevent import Config, Event, EventRegistry, GoEvent
from goevent._handle import IDS_PER_BLOCK, IdGenerator

REGISTRY = EventRegistry()


class Identified(Event, name="ids.noted", registry=REGISTRY):
    pass


def test_an_id_has_16_lower_hex_digits_and_is_unique() -> None:
    ids = IdGenerator()
    drawn = [ids.draw() for _ in range(3 * IDS_PER_BLOCK)]
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in drawn)
    assert len(set(drawn)) == 3 * IDS_PER_BLOCK


def test_ids_drawn_before_are_not_used_after_forget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = IdGenerator()
    ids.draw()
    monkeypatch.setattr("goevent._handle.urandom", bytes)
    assert ids.draw() != "0" * 16
    ids.forget()
    assert ids.draw() == "0" * 16


async def test_opening_a_bus_forgets_the_ids_that_a_fork_would_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    async with bus:
        assert bus.dispatch_nowait(Identified()).id != "0" * 16
    monkeypatch.setattr("goevent._handle.urandom", bytes)
    async with bus:
        assert bus.dispatch_nowait(Identified()).id == "0" * 16
