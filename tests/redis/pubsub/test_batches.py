"""Batches on Redis pub/sub: one write, numbers without gaps, and the receivers of each event."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Paid, User, bus_on, numbers, opened, until
from tests.support.redis_server import redis_server

from goevent import EncodeError, GapDetected
from goevent_redis._link.conversation import Conversation


async def test_a_batch_is_one_request_and_leaves_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[int] = []
    submit = Conversation.submit

    def record(self: Conversation, data: bytes, request: Any) -> None:
        requests.append(len(data))
        submit(self, data, request)

    async with redis_server() as server:
        sender, receiver, other = bus_on(server), bus_on(server), bus_on(server)
        seen, users = receiver.seen(Paid), other.seen("**")
        async with opened(receiver, other, sender):
            await sender.dispatch(Paid(n=0))
            with monkeypatch.context() as patch:
                patch.setattr(Conversation, "submit", record)
                batch = await sender.dispatch_many(
                    [*(Paid(n=n) for n in range(1, 50)), *(User(n=n) for n in range(50))]
                )
                assert len(requests) == 1
            await sender.dispatch(Paid(n=50))
            with trio.fail_after(HANG_SECONDS):
                await batch.wait()
            await until(lambda: len(seen) == 51 and len(users) == 101)
        assert [handle.receivers for handle in batch] == [2] * 49 + [1] * 50
        assert numbers(seen) == [*range(51)]
        assert not receiver.causes(GapDetected)
        assert not other.told


async def test_an_event_that_cannot_be_encoded_takes_no_number() -> None:
    async with redis_server() as server:
        sender, receiver = bus_on(server), bus_on(server)
        seen = receiver.seen(Paid)
        async with opened(receiver, sender):
            texts = ["\ud800" if n in (0, 3, 9) else "ok" for n in range(10)]
            batch = await sender.dispatch_many(Paid(n=n, text=text) for n, text in enumerate(texts))
            with trio.fail_after(HANG_SECONDS):
                await batch.wait()
            assert [handle.event.n for handle in batch.failed] == [0, 3, 9]
            assert all(isinstance(error.__cause__, EncodeError) for error in batch.errors)
            await sender.dispatch(Paid(n=10))
            await until(lambda: len(seen) == 8)
        assert numbers(seen) == [1, 2, 4, 5, 6, 7, 8, 10]
        assert not receiver.told
