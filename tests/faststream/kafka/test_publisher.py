"""The Kafka publisher on a fake client: it forgets answered events, and answers late ones."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

from goevent import DriverConnectionError, Receipt
from goevent_faststream._adapter.contract import Outgoing, Result
from goevent_faststream._kafka.client import Answer
from goevent_faststream._kafka.limits import ClientLimits
from goevent_faststream._kafka.publisher import KafkaPublisher


class FakePublishClient:
    """A client that answers if its topic is not `mute`."""

    limits = ClientLimits(1_000_000, 16_384, compresses=False)

    async def max_message_bytes(self, topic: str) -> int | None:
        """Return None: the broker tells no limit."""

    async def ensure_topic(self, topic: str) -> None:
        """Do nothing: every topic exists."""

    async def send(self, topic: str, outgoing: Outgoing, answer: Answer) -> None:
        """Answer in the next step of the loop."""
        if outgoing.name != "mute":
            asyncio.get_running_loop().call_soon(answer, outgoing, Receipt(id=topic))


class FakeConnection:
    """A connection that is up."""

    is_up = True


class ResultList(list[Result]):
    """The results of an event; unlike a plain list it can have weak references."""


def outgoing(name: str, results: ResultList) -> Outgoing:
    return Outgoing(
        name, b"", {}, "", None, results.append, lambda event: event.replied(event.result)
    )


def publisher(timeout: float) -> KafkaPublisher:
    client: Any = FakePublishClient()
    connection: Any = FakeConnection()
    return KafkaPublisher(client, connection, "", timeout)


async def published(publishes: KafkaPublisher) -> weakref.ref[ResultList]:
    results = ResultList()
    await publishes.publish([outgoing("order", results)])
    await asyncio.sleep(0)
    assert results == [Receipt(id="order")]
    return weakref.ref(results)


def test_answered_events_are_not_kept() -> None:
    async def main() -> None:
        publishes = publisher(3600)
        publishes.open()
        watched = [await published(publishes) for _ in range(3)]
        gc.collect()
        assert [each() for each in watched] == [None] * 3
        publishes.close()

    asyncio.run(main())


def test_events_without_an_answer_expire_in_order() -> None:
    async def main() -> None:
        publishes = publisher(-0.45)  # the publisher adds half a second for the client's own error
        publishes.open()
        told: list[str] = []

        def mute(name: str) -> Outgoing:
            return Outgoing("mute", b"", {}, "", None, results.append, lambda _: told.append(name))

        results, answered = ResultList(), ResultList()
        await publishes.publish([mute("first"), outgoing("order", answered), mute("second")])
        while not told:
            await asyncio.sleep(0)
        await publishes.publish([late := mute("third")])
        assert told == ["first", "second"]
        while len(told) < 3:
            await asyncio.sleep(0)
        assert isinstance(late.result, DriverConnectionError)
        await publishes.publish([mute("last")])
        publishes.close()
        assert told == ["first", "second", "third", "last"]
        assert answered == [Receipt(id="order")]

    asyncio.run(asyncio.wait_for(main(), 10))
