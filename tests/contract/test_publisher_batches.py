"""The publisher of a driver that takes batches: joined, in order, each event settled once."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

import pytest
import trio
from tests.contract.test_publisher import Broker, Replied
from tests.support.checks import ignore_error
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    BatchHandle,
    BatchInterrupted,
    Capabilities,
    Config,
    DispatchHandle,
    DriverError,
    EncodeError,
    Event,
    EventAbandoned,
    EventError,
    EventRegistry,
    GoEvent,
    Message,
    Receipt,
)
from goevent.drivers import BatchReplied

REGISTRY = EventRegistry()
MAX_EVENTS_PER_BATCH = 128
MAX_WAITING_EVENTS = 1024  # besides the events in flight


@pytest.fixture(autouse=True)
def no_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no batch yield by the clock: a busy machine would cut it into other parts."""
    monkeypatch.setattr("goevent._kernel.batch_dispatch.MAX_SLICE_SECONDS", inf)


class Parcel(Event, name="batches.parcel", registry=REGISTRY):
    n: int = 0
    weight: float = 0.0


class Heard(Event, name="batches.heard", registry=REGISTRY):
    n: int = 0


def parcels(count: int, first: int = 0) -> list[Parcel]:
    return [Parcel(first + n) for n in range(count)]


class BatchBroker(Broker):
    """A broker that takes batches too, as many events of them as it has room for.

    Attributes:
        batches: The numbers of the events of each batch that it has taken.
        unanswered: The batches that it has not replied to, each with its callback.
    """

    def __init__(self, *, in_flight: int = 1000, fan_out: bool = True) -> None:
        super().__init__()
        self.capabilities = Capabilities(in_flight=in_flight, fan_out=fan_out)
        self.batches: list[list[int]] = []
        self.unanswered: list[tuple[list[int], BatchReplied]] = []

    def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
        numbers: list[int] = []
        for place, message in enumerate(messages[: self.room]):
            try:
                message.encode()
            except EncodeError as error:
                replied([error], place)
            numbers.append(message.event.n)
        self.room -= len(numbers)
        self.sent += numbers
        if numbers:
            self.batches.append(numbers)
            self.unanswered.append((numbers, replied))
        return len(numbers)

    def answer_batch(self) -> None:
        """Reply to the oldest batch, with one call."""
        numbers, replied = self.unanswered.pop(0)
        replied([Receipt(id=f"batch {n}") for n in numbers])


def opened(broker: Broker, *, listens: bool = False, **options: Any) -> GoEvent:
    bus = GoEvent(Config(registry=REGISTRY, driver=broker, **options))
    bus.on_error(ignore_error)
    if listens:
        bus.subscribe(lambda event: None, Parcel)
    return bus


# Events that go to the driver only take a shorter way than those with listeners of this bus.
both_ways = pytest.mark.parametrize("listens", [True, False], ids=["listeners", "driver only"])


@pytest.mark.parametrize("fan_out", [True, False])
async def test_a_batch_is_one_call_and_one_reply(fan_out: bool) -> None:
    broker = BatchBroker(fan_out=fan_out)
    async with opened(broker) as bus:
        batch = await bus.dispatch_many(parcels(100))
        # Before `dispatch_many` has returned.
        assert broker.batches == [[*range(100)]]
        assert (batch.pending, batch.receipts) == (100, ("",) * 100)
        broker.answer_batch()
        assert batch.done
        assert batch.receipts == tuple(f"batch {n}" for n in range(100))
        await batch.wait()


@both_ways
async def test_single_events_keep_their_place_among_batches(listens: bool) -> None:
    broker = BatchBroker()
    async with opened(broker, listens=listens) as bus:
        bus.dispatch_nowait(Parcel(0))
        await bus.dispatch_many(parcels(3, 1))
        bus.dispatch_nowait(Parcel(4))
        bus.dispatch_many_nowait(parcels(2, 5))
        assert broker.sent == [*range(7)]
        assert broker.batches == [[1, 2, 3], [5, 6]]
        broker.answer_batch()
        broker.answer_batch()
        await broker.answer_all()


async def test_an_event_of_a_listener_goes_out_in_its_place() -> None:
    broker = BatchBroker()
    bus = opened(broker)

    @bus.listener(Parcel)
    def react(event: Parcel) -> None:
        if event.n < 10:
            bus.dispatch_nowait(Parcel(event.n + 10))

    async with bus:
        await bus.dispatch_many(parcels(3))
        # The publisher takes an event before its inline listeners run.
        assert broker.batches == [[0, 10, 1, 11, 2, 12]]
        broker.answer_batch()


async def test_a_batch_inside_a_listener_keeps_the_order() -> None:
    broker = BatchBroker()
    bus = opened(broker)

    @bus.listener(Parcel)
    def react(event: Parcel) -> None:
        if event.n < 10:
            bus.dispatch_many_nowait(parcels(2, 10 * (event.n + 1)))

    async with bus:
        await bus.dispatch_many(parcels(2))
        assert broker.sent == [0, 10, 11, 1, 20, 21]
        while broker.unanswered:
            broker.answer_batch()


async def test_middleware_leaves_a_batch_whole() -> None:
    broker, around = BatchBroker(), list[int]()

    class Wrap:
        def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
            handle.headers["n"] = str(handle.event.n)
            around.append(handle.event.n)
            yield

    async with opened(broker, middleware=(Wrap(),)) as bus:
        batch = await bus.dispatch_many(parcels(5))
        assert (around, broker.batches) == ([*range(5)], [[*range(5)]])
        broker.answer_batch()
        assert batch.done


async def test_earlier_events_leave_before_inline_async_code_is_awaited() -> None:
    broker = BatchBroker()
    bus = opened(broker)

    @bus.listener(Parcel, async_=False)
    async def wait_for_answer(event: Parcel) -> None:
        # It would wait for ever if the event were held back until the end of the batch.
        await trio.testing.wait_all_tasks_blocked()
        assert broker.sent[-1] == event.n
        while broker.unanswered:
            broker.answer_batch()
        while broker.posted:
            broker.answer()

    async with bus:
        batch = await bus.dispatch_many(parcels(3))
        await batch.wait()
        assert (broker.sent, batch.errors) == ([0, 1, 2], ())


@both_ways
async def test_a_long_batch_is_handed_over_in_parts(listens: bool) -> None:
    broker = BatchBroker()
    async with opened(broker, listens=listens) as bus:
        batch = await bus.dispatch_many(parcels(300))
        assert [len(part) for part in broker.batches] == [128, 128, 44]
        assert broker.sent == [*range(300)]
        while broker.unanswered:
            broker.answer_batch()
        assert batch.done


@pytest.mark.parametrize("listens", [True, False])
async def test_a_batch_larger_than_what_may_be_in_flight_waits_for_replies(listens: bool) -> None:
    broker = BatchBroker(in_flight=4)
    bus, seen = opened(broker), list[int]()
    if listens:
        bus.subscribe(lambda event: seen.append(event.n), Parcel)
    async with bus:
        batch = await bus.dispatch_many(parcels(10))
        assert broker.batches == [[0, 1, 2, 3]]
        broker.answer_batch()
        # The waiting events go out together, too.
        assert broker.batches == [[0, 1, 2, 3], [4, 5, 6, 7]]
        broker.answer_batch()
        broker.answer_batch()
        assert broker.batches[2:] == [[8, 9]]
        assert batch.done
    assert seen == ([*range(10)] if listens else [])


@both_ways
async def test_a_batch_larger_than_all_room_waits_and_goes_on(listens: bool) -> None:
    broker = BatchBroker(in_flight=100)
    count = 100 + MAX_WAITING_EVENTS + 500
    batches: list[Any] = []
    async with opened(broker, listens=listens) as bus, trio.open_nursery() as nursery:

        async def send() -> None:
            batches.append(await bus.dispatch_many(parcels(count)))

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert batches == []
        with pytest.raises(trio.WouldBlock):
            bus.dispatch_many_nowait(parcels(1))
        while broker.unanswered:
            broker.answer_batch()
            await wait_all_tasks_blocked()
        assert broker.sent == [*range(count)]
        assert batches[0].done
        assert max(len(part) for part in broker.batches) <= MAX_EVENTS_PER_BATCH


@both_ways
async def test_events_that_the_driver_refuses_are_published_one_by_one(listens: bool) -> None:
    broker = BatchBroker()
    broker.room = 3
    async with opened(broker, listens=listens) as bus:
        batch = await bus.dispatch_many(parcels(6))
        assert broker.batches == [[0, 1, 2]]
        # A later event does not overtake.
        bus.dispatch_nowait(Parcel(6))
        await wait_all_tasks_blocked()
        assert broker.sent == [*range(7)]
        broker.answer_batch()
        await broker.answer_all()
        assert batch.receipts[2:4] == ("batch 2", "published 3")
        assert batch.done


@both_ways
async def test_while_workers_publish_no_batch_overtakes(listens: bool) -> None:
    broker = BatchBroker()
    broker.room = 0
    async with opened(broker, listens=listens) as bus:
        bus.dispatch_nowait(Parcel(0))
        broker.room = 1_000_000
        batch = await bus.dispatch_many(parcels(4, 1))
        await wait_all_tasks_blocked()
        assert (broker.sent, broker.batches) == ([*range(5)], [])
        await broker.answer_all()
        assert batch.done
        # Afterwards batches are joined again.
        await bus.dispatch_many(parcels(2, 5))
        assert broker.batches == [[5, 6]]
        broker.answer_batch()


@both_ways
async def test_a_driver_without_batches_gets_the_events_one_by_one(listens: bool) -> None:
    broker = Broker()
    async with opened(broker, listens=listens) as bus:
        batch = await bus.dispatch_many(parcels(7))
        assert broker.sent == [*range(4)]
        await broker.answer_all()
        assert broker.sent == [*range(7)]
        assert batch.receipts == tuple(f"posted {n}" for n in range(7))


async def test_a_driver_without_a_task_free_publish_gets_them_by_workers() -> None:
    class Plain(Broker):
        publish_nowait = None  # type: ignore[assignment]

    broker = Plain()
    async with opened(broker) as bus:
        batch = await bus.dispatch_many(parcels(7))
        await wait_all_tasks_blocked()
        await broker.answer_all()
        assert broker.sent == [*range(7)]
        assert batch.receipts == tuple(f"published {n}" for n in range(7))


@both_ways
async def test_an_event_that_cannot_be_encoded_fails_alone(listens: bool) -> None:
    broker = BatchBroker()
    async with opened(broker, listens=listens) as bus:
        events = parcels(4)
        events[1] = Parcel(1, weight=float("nan"))
        batch = await bus.dispatch_many(events)
        assert [handle.event.n for handle in batch.failed] == [1]
        assert isinstance(batch.errors[0].__cause__, EncodeError)
        broker.answer_batch()
        assert batch.done
        assert batch.receipts == ("batch 0", "", "batch 2", "batch 3")


@both_ways
async def test_results_may_come_apart_and_in_any_order(listens: bool) -> None:
    broker = BatchBroker()
    async with opened(broker, listens=listens) as bus:
        batch = await bus.dispatch_many(parcels(5))
        _, replied = broker.unanswered.pop()
        replied([Receipt(id="d"), None], 3)
        assert [handle.done for handle in batch] == [False, False, False, True, True]
        replied([DriverError("refused")], 1)
        replied([Receipt(id="a")])
        assert batch.pending == 1
        replied([Receipt(id="c")], 2)
        assert batch.done
        assert batch.receipts == ("a", "", "c", "d", "")
        (error,) = batch.errors
        assert "refused" in error.reason
        assert batch.failed == (batch[1],)


@both_ways
async def test_a_result_that_comes_twice_counts_once(listens: bool) -> None:
    broker = BatchBroker()
    async with opened(broker, listens=listens) as bus:
        batch = await bus.dispatch_many(parcels(2))
        _, replied = broker.unanswered.pop()
        replied([Receipt(id="0"), Receipt(id="1")])
        replied([DriverError("late"), DriverError("late")])
        assert (batch.errors, batch.receipts) == ((), ("0", "1"))
        with pytest.raises(ValueError, match="3 results from place 0 on for 2 events"):
            replied([Receipt()] * 3)


@both_ways
async def test_a_driver_that_raises_fails_the_events_of_the_batch(listens: bool) -> None:
    class Broken(BatchBroker):
        def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
            replied([Receipt(id="first")])
            raise OSError("no route")

    broker = Broken()
    async with opened(broker, listens=listens) as bus:
        batch = await bus.dispatch_many(parcels(3))
        assert batch.done
        assert batch.receipts == ("first", "", "")
        assert [len(handle.errors) for handle in batch] == [0, 1, 1]
        assert "no route" in batch.errors[0].reason


@both_ways
@pytest.mark.parametrize("number", [None, "5", -1, 6])
async def test_a_driver_that_returns_no_number_of_messages_fails_the_events(
    number: Any, listens: bool
) -> None:
    broker = BatchBroker()

    def publish_many_nowait(messages: Sequence[Message], replied: BatchReplied) -> Any:
        replied([Receipt(id="first")])
        return number

    broker.publish_many_nowait = publish_many_nowait  # type: ignore[method-assign]
    async with opened(broker, listens=listens) as bus:
        batch = await bus.dispatch_many(parcels(5))
        assert batch.done
        assert batch.receipts == ("first", "", "", "", "")
        assert len(batch.failed) == 4
        for error in batch.errors:
            assert f"publish_many_nowait returned {number!r} for 5 messages" in str(error)


async def test_a_batch_of_a_log_handler_overtakes_no_event_of_the_batch_around_it() -> None:
    broker = BatchBroker()
    bus = opened(broker, slow_after=1e-9)
    bus.subscribe(lambda event: None, Heard)

    class DispatchingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            bus.dispatch_many_nowait([Parcel(100)])

    handler, logger = DispatchingHandler(), logging.getLogger("goevent")
    async with bus:
        await bus.dispatch(Parcel(0))
        logger.addHandler(handler)
        try:
            await bus.dispatch_many([Heard(1), Heard(2)])
        finally:
            logger.removeHandler(handler)
        assert broker.sent[:3] == [0, 1, 100]
        broker.answer()
        while broker.unanswered:
            broker.answer_batch()


@both_ways
@pytest.mark.parametrize("in_flight", [1, 3, 1000])
async def test_a_driver_may_reply_at_once(in_flight: int, listens: bool) -> None:
    class Prompt(BatchBroker):
        def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
            numbers = [message.event.n for message in messages]
            for place, n in enumerate(numbers):
                # The events that wait must not overtake the rest of this batch.
                replied([Receipt(id=str(n))], place)
                self.sent.append(n)
            return len(numbers)

    broker = Prompt(in_flight=in_flight)
    async with opened(broker, listens=listens) as bus:
        batch = await bus.dispatch_many(parcels(900))
        assert broker.sent == [*range(900)]
        assert batch.receipts == tuple(map(str, range(900)))


@both_ways
async def test_a_bus_that_ends_abandons_the_unanswered_events(
    autojump_clock: MockClock, listens: bool
) -> None:
    broker = BatchBroker()
    bus = opened(broker, listens=listens)
    async with bus:
        batch = await bus.dispatch_many(parcels(5))
        _, replied = broker.unanswered.pop()
        replied([Receipt(id="0"), Receipt(id="1")])
        await bus.close(timeout=1)
    assert batch.done
    assert [type(error) for error in batch.errors] == [EventAbandoned] * 3
    replied([Receipt(id="late")] * 3, 2)
    assert batch.receipts == ("0", "1", "", "", "")


@both_ways
async def test_bus_wait_covers_a_batch(listens: bool) -> None:
    broker = BatchBroker()
    ended: list[bool] = []
    async with opened(broker, listens=listens) as bus, trio.open_nursery() as nursery:
        batch = await bus.dispatch_many(parcels(5))

        async def wait() -> None:
            await bus.wait()
            ended.append(batch.done)

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert ended == []
        broker.answer_batch()
        await wait_all_tasks_blocked()
        assert ended == [True]


async def test_the_ledger_counts_each_event_of_a_batch() -> None:
    broker = BatchBroker()
    bus = opened(broker)
    bus.subscribe(lambda event: None, Parcel)
    async with bus:
        await bus.dispatch_many(parcels(10))
        broker.answer_batch()
        ledger = bus.snapshot().ledger
    assert (ledger.accepted, ledger.completed) == (10, 10)


async def test_a_batch_without_events_holds_no_later_event_back() -> None:
    broker = BatchBroker()
    async with opened(broker) as bus:
        await bus.dispatch_many([])
        bus.dispatch_nowait(Parcel(1))
        assert len(broker.posted) == 1
        broker.answer()


async def test_a_handle_of_a_posted_event_is_made_when_somebody_asks_for_it() -> None:
    broker = BatchBroker()
    async with opened(broker) as bus:
        batch = await bus.dispatch_many(parcels(4))
        second = batch[1]
        assert second is batch[1]
        assert (second.event, second.event_name, second.done) == (
            Parcel(1),
            "batches.parcel",
            False,
        )
        broker.answer_batch()
        assert (second.done, second.receipt) == (True, "batch 1")
        # A handle that is made later knows the answer, too.
        assert (batch[3].done, batch[3].receipt, batch[3].pending) == (True, "batch 3", 0)
        assert len({handle.id for handle in batch}) == 4
        assert batch[-4].event == Parcel(0)
        assert [handle.event.n for handle in batch[1:3]] == [1, 2]
        for place in (4, -5):
            with pytest.raises(IndexError):
                batch[place]


@both_ways
async def test_the_messages_of_a_batch_inside_a_listener_have_its_cause(listens: bool) -> None:
    headers: list[dict[str, str]] = []

    class Noting(BatchBroker):
        def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
            headers.extend(dict(message.envelope().headers) for message in messages)
            return super().publish_many_nowait(messages, replied)

    broker = Noting()
    batches: list[BatchHandle] = []

    async def answer(_: Heard) -> None:
        batches.append(await bus.dispatch_many(parcels(3)))

    async with opened(broker, listens=listens) as bus:
        bus.subscribe(answer, Heard)
        first = await bus.dispatch(Heard(1))
        await wait_all_tasks_blocked()
        assert broker.batches == [[0, 1, 2]]
        assert headers == [{"correlation_id": first.id, "causation_id": first.id}] * 3
        assert [handle.causation_id for handle in batches[0]] == [first.id] * 3
        broker.answer()
        broker.answer_batch()


async def test_the_id_of_a_message_is_that_of_its_handle() -> None:
    ids: list[str] = []

    class Noting(BatchBroker):
        def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
            ids.extend(message.handle_id for message in messages)
            assert all(message.headers == {} and message.key is None for message in messages)
            return super().publish_many_nowait(messages, replied)

    broker = Noting()
    async with opened(broker) as bus:
        batch = await bus.dispatch_many(parcels(3))
        broker.answer_batch()
        assert ids == [handle.id for handle in batch]


async def test_several_tasks_may_wait_for_posted_events() -> None:
    broker = BatchBroker()
    woken: list[str] = []
    async with opened(broker) as bus, trio.open_nursery() as nursery:
        batch = await bus.dispatch_many(parcels(3))

        async def wait(target: Any, name: str) -> None:
            await target.wait()
            woken.append(name)

        targets = ((batch, "batch"), (batch[0], "first"), (batch[2], "last"), (bus, "bus"))
        for target, name in targets:
            nursery.start_soon(wait, target, name)
        await wait_all_tasks_blocked()
        _, replied = broker.unanswered.pop()
        replied([Receipt(id="2")], 2)
        await wait_all_tasks_blocked()
        assert woken == ["last"]
        replied([Receipt(id="0"), Receipt(id="1")])
        await wait_all_tasks_blocked()
        assert sorted(woken) == ["batch", "bus", "first", "last"]


async def test_a_cancelled_wait_leaves_the_batch_as_it_is() -> None:
    broker = BatchBroker()
    async with opened(broker) as bus:
        batch = await bus.dispatch_many(parcels(3))
        with trio.move_on_after(0):
            await batch.wait()
        assert batch.pending == 3
        broker.answer_batch()
        await batch.wait()
        assert batch.receipts == ("batch 0", "batch 1", "batch 2")


async def test_errors_of_posted_events_that_nobody_looks_at_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = BatchBroker()
    bus = GoEvent(Config(registry=REGISTRY, driver=broker))
    async with bus:
        seen = await bus.dispatch_many(parcels(2))
        broker.unanswered.pop()[1]([DriverError("looked at"), Receipt()])
        assert len(seen.errors) == 1
        await bus.dispatch_many(parcels(2))
        broker.unanswered.pop()[1]([Receipt(), DriverError("not looked at")])
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "driver failed on 'batches.parcel': DriverError: not looked at"
    ]


async def test_a_message_of_a_batch_has_the_bytes_of_a_single_one() -> None:
    written: list[bytes] = []

    class Writing(BatchBroker):
        def publish_nowait(self, message: Message, replied: Replied) -> None:
            written.append(message.encode(origin="other", seq=7) + message.encode())
            super().publish_nowait(message, replied)

        def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
            written.extend(each.encode(origin="other", seq=7) + each.encode() for each in messages)
            return super().publish_many_nowait(messages, replied)

    events = [
        Parcel(1, weight=0.5),
        Event("batches.parcel", {"n": 3}),
        Event("batches.free", {"ä": 1}),
    ]
    async with opened(Writing()) as bus:
        singles = [bus.dispatch_nowait(event) for event in events]
        batch = await bus.dispatch_many(events)
        ids = [handle.id for handle in (*singles, *batch)]
        await bus.close(timeout=0)
    plain = [
        re.sub(rb'"timestamp":\d+', b"", data.replace(handle_id.encode(), b""))
        for data, handle_id in zip(written, ids, strict=True)
    ]
    assert plain[:3] == plain[3:]
    assert len({*plain}) == 3


async def test_a_cancellation_between_the_parts_of_a_batch_finds_all_events_posted() -> None:
    scope, batches = trio.CancelScope(), list[BatchHandle]()

    class Cancelling(BatchBroker):
        def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
            scope.cancel()
            return super().publish_many_nowait(messages, replied)

    broker = Cancelling()
    async with opened(broker) as bus:
        with scope:
            batches.append(await bus.dispatch_many(parcels(300)))
        assert [len(batch) for batch in batches] == [300]
        assert broker.sent == [*range(300)]
        while broker.unanswered:
            broker.answer_batch()
        assert (bus.errors, batches[0].done) == ((), True)


@both_ways
async def test_a_cancelled_wait_for_room_tells_how_many_events_were_posted(listens: bool) -> None:
    broker, errors = BatchBroker(in_flight=100), list[EventError]()
    room = 100 + MAX_WAITING_EVENTS
    async with opened(broker, listens=listens) as bus, trio.open_nursery() as nursery:
        bus.on_error(errors.append)
        scope = trio.CancelScope()

        async def send() -> None:
            with scope:
                await bus.dispatch_many(parcels(room + 50))

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        while broker.unanswered:
            broker.answer_batch()
            await wait_all_tasks_blocked()
    (error,) = errors
    cause = error.error
    assert isinstance(cause, BatchInterrupted)
    assert (cause.dispatched, cause.remaining) == (room, 50)
    assert broker.sent == [*range(room)]
    assert (len(cause.batch), cause.batch.done) == (room, True)
    assert cause.batch[-1].receipt == f"batch {room - 1}"
