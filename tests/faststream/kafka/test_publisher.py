"""The Kafka publisher on a fake client: it forgets answered events, and answers late ones."""

from __future__ import annotations

import asyncio
import gc
import weakref
from types import EllipsisType, SimpleNamespace
from typing import Any

from goevent import DriverConnectionError, Receipt
from goevent_faststream._adapter.contract import Outgoing, Result
from goevent_faststream._kafka.client import Answer
from goevent_faststream._kafka.limits import ClientLimits, ProducerRefusedError
from goevent_faststream._kafka.publisher import KafkaPublisher


class FakePublishClient:
    """A client that answers if its topic is not `mute`.

    Attributes:
        refusal: The answer of the first producer in place of a receipt; None to answer nothing.
        renewals: How many producers have followed the first one.
    """

    limits = ClientLimits(1_000_000, 16_384, compresses=False)

    def __init__(self, refusal: Result | EllipsisType = ...) -> None:
        self.refusal = refusal
        self.renewals = 0

    async def renew(self) -> None:
        """Replace the producer by one that works."""
        self.renewals += 1
        self.refusal = ...

    async def flush(self) -> None:
        """Do nothing: nothing is under way."""

    async def max_message_bytes(self, topic: str) -> int | None:
        """Return None: the broker tells no limit."""

    async def ensure_topic(self, topic: str) -> None:
        """Do nothing: every topic exists."""

    async def send(self, topic: str, outgoing: Outgoing, answer: Answer) -> None:
        """Answer in the next step of the loop."""
        result = Receipt(id=topic) if self.refusal is ... else self.refusal
        if outgoing.name != "mute" and result is not None:
            asyncio.get_running_loop().call_soon(answer, outgoing, result)


class FakeConnection:
    """A connection that is up, and on which a broker answers all the while.

    Attributes:
        reports: The errors that were reported.
    """

    is_up = True
    up_since, answered_at = float("-inf"), float("inf")

    def __init__(self) -> None:
        self.reports: list[Exception] = []
        self.host = SimpleNamespace(report=self.reports.append)


class ResultList(list[Result]):
    """The results of an event; unlike a plain list it can have weak references."""


def outgoing(name: str, results: ResultList) -> Outgoing:
    return Outgoing(
        name, b"", {}, "", None, results.append, lambda event: event.replied(event.result)
    )


def publisher(timeout: float, client: Any = None, connection: Any = None) -> KafkaPublisher:
    client, connection = client or FakePublishClient(), connection or FakeConnection()
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


def test_event_whose_producer_is_refused_goes_through_another_one() -> None:
    async def main() -> None:
        client = FakePublishClient(ProducerRefusedError("fenced"))
        publishes = publisher(3600, client)
        publishes.open()
        results = ResultList()
        await publishes.publish([outgoing("order", results), outgoing("order", results)])
        while len(results) < 2:
            await asyncio.sleep(0)
        assert results == [Receipt(id="order")] * 2
        assert client.renewals == 1
        publishes.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_producer_that_gets_nothing_through_is_replaced_if_a_broker_answers() -> None:
    async def main(connection: FakeConnection, renewals: int) -> None:
        client = FakePublishClient(None)
        publishes = publisher(-0.45, client, connection)
        publishes.open()
        results = ResultList()
        await publishes.publish([outgoing("order", results)])
        while not results:
            await asyncio.sleep(0)
        (error,) = results
        assert isinstance(error, DriverConnectionError)
        assert str(error).endswith("; the event may have arrived")
        for _ in range(10):
            await asyncio.sleep(0)
        assert client.renewals == len(connection.reports) == renewals
        publishes.close()

    silent = FakeConnection()
    silent.answered_at = 0.0
    new = FakeConnection()
    new.up_since = float("inf")
    for connection, renewals in ((FakeConnection(), 1), (silent, 0), (new, 0)):
        asyncio.run(asyncio.wait_for(main(connection, renewals), 10))
