"""IdGenerator of dispatches."""

from __future__ import annotations

import re

import pytest

from goevent import Config, Event, EventRegistry, GoEvent
from goevent._handle import IDS_PER_BLOCK, IdGenerator

REGISTRY = EventRegistry()


class Noted(Event, name="ids.noted", registry=REGISTRY):
    pass


def test_an_id_has_16_lower_hex_digits_and_comes_once() -> None:
    ids = IdGenerator()
    drawn = [ids.draw() for _ in range(3 * IDS_PER_BLOCK)]
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in drawn)
    assert len(set(drawn)) == 3 * IDS_PER_BLOCK


def test_what_was_drawn_before_is_not_used_after_forgetting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = IdGenerator()
    ids.draw()
    monkeypatch.setattr("goevent._handle.urandom", bytes)
    assert ids.draw() != "0" * 16
    ids.forget()
    assert ids.draw() == "0" * 16


async def test_an_opened_bus_draws_anew_as_it_may_be_a_fork(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    async with bus:
        assert bus.dispatch_nowait(Noted()).id != "0" * 16
    monkeypatch.setattr("goevent._handle.urandom", bytes)
    async with bus:
        assert bus.dispatch_nowait(Noted()).id == "0" * 16
