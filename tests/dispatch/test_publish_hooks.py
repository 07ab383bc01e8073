"""Middleware around publishing and around settlements, and middleware that knows its driver."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest
import trio
from tests.support.events import REGISTRY, Job

from goevent import (
    Capabilities,
    Config,
    DispatchHandle,
    DriverError,
    Envelope,
    EventAbandoned,
    GoEvent,
    Inbox,
    MemoryDriver,
    MemoryHub,
    Message,
    Receipt,
    SettledEvent,
    Settlement,
    Veto,
)
from goevent.drivers import BatchReplied, Driver

Replied = Callable[[Receipt | Exception | None], None]


class HeldDriver:
    """A driver whose test answers the publishes; it delivers what the test hands to it.

    Attributes:
        answers: The callbacks of the events that were published, and not answered.
    """

    schemes: tuple[str, ...] = ()
    capabilities: Capabilities = Capabilities(in_flight=2)

    def __init__(self) -> None:
        self.answers: list[Replied] = []
        self.batches: list[tuple[int, BatchReplied]] = []
        self.inbox: Inbox | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        raise ValueError(url)

    async def run(self, inbox: Inbox, *, task_status: trio.TaskStatus[None]) -> None:
        self.inbox = inbox
        task_status.started()
        await trio.sleep_forever()

    async def subscribe(self, names: Sequence[str]) -> None: ...
    async def unsubscribe(self, names: Sequence[str]) -> None: ...
    async def publish(self, message: Message) -> Receipt | None:
        raise AssertionError("never called")

    def publish_nowait(self, message: Message, replied: Replied) -> None:
        self.answers.append(replied)

    def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
        self.batches.append((len(messages), replied))
        return len(messages)


class Watch:
    """Middleware that notes the begins and the ends of publishes."""

    def __init__(self) -> None:
        self.notes: list[Any] = []

    def around_publish(self, handles: Sequence[DispatchHandle]) -> Iterator[None]:
        numbers = [handle.event.n for handle in handles]
        self.notes.append(numbers)
        try:
            yield
        except Exception as error:
            self.notes.append((numbers, type(error)))
            raise
        self.notes.append((numbers, [handle.receipt for handle in handles]))


def bus_with(driver: Driver, *middleware: Any, **config: Any) -> GoEvent:
    return GoEvent(Config(driver=driver, registry=REGISTRY, middleware=middleware, **config))


async def test_hook_ends_with_the_receipt_of_the_broker() -> None:
    driver, watch = HeldDriver(), Watch()
    async with bus_with(driver, watch) as bus:
        handle = await bus.dispatch(Job(n=1))
        assert watch.notes == [[1]]
        driver.answers.pop()(Receipt(id="7"))
        assert watch.notes == [[1], ([1], ["7"])]
        assert handle.done


async def test_refused_event_raises_its_error_at_the_yield() -> None:
    driver, watch = HeldDriver(), Watch()
    async with bus_with(driver, watch) as bus:
        handle = await bus.dispatch(Job(n=1))
        driver.answers.pop()(DriverError("full"))
        assert watch.notes == [[1], ([1], DriverError)]
        assert len(handle.errors) == 1


async def test_event_that_waits_for_the_driver_has_begun_when_it_was_dispatched() -> None:
    driver, watch = HeldDriver(), Watch()
    async with bus_with(driver, watch) as bus:
        for n in (1, 2, 3):
            await bus.dispatch(Job(n=n))
        assert watch.notes == [[1], [2], [3]]
        assert len(driver.answers) == 2
        driver.answers[0](Receipt(id="a"))
        driver.answers[1](Receipt(id="b"))
        (count, replied), *others = driver.batches
        assert (count, others) == (1, [])
        replied([Receipt(id="c")])
        assert watch.notes[3:] == [([1], ["a"]), ([2], ["b"]), ([3], ["c"])]


async def test_events_of_a_batch_that_go_out_together_share_one_run() -> None:
    driver, watch = HeldDriver(), Watch()
    async with bus_with(driver, watch) as bus:
        bus.dispatch_many_nowait([Job(n=1), Job(n=2), Job(n=3)])
        # Two may be in flight, so the third one waits.
        assert sorted(watch.notes) == [[1, 2], [3]]
        watch.notes.clear()
        (_, replied) = driver.batches.pop(0)
        replied([Receipt(id="b")], 1)
        assert watch.notes == []
        replied([DriverError("full")])
        assert watch.notes == [([1, 2], ExceptionGroup)]
        driver.batches.pop()[1]([Receipt(id="c")])
        bus.clear_errors()


async def test_events_without_an_answer_end_when_the_bus_does() -> None:
    driver, watch = HeldDriver(), Watch()
    bus = bus_with(driver, watch, close_timeout=0)
    async with bus:
        for n in (1, 2, 3):
            await bus.dispatch(Job(n=n))
    assert sorted(watch.notes[3:]) == [(([n], EventAbandoned)) for n in (1, 2, 3)]
    assert bus.error_count == 3


async def test_failing_hook_is_reported_and_the_event_is_published() -> None:
    class Broken:
        def around_publish(self, handles: Sequence[DispatchHandle]) -> Iterator[None]:
            raise Veto("too late")
            yield

    class BrokenBelow:
        def around_publish(self, handles: Sequence[DispatchHandle]) -> Iterator[None]:
            yield
            raise LookupError("below")

    for broken, kind in ((Broken(), Veto), (BrokenBelow(), LookupError)):
        driver = HeldDriver()
        async with bus_with(driver, broken) as bus:
            handle = await bus.dispatch(Job(n=1))
            driver.answers.pop()(Receipt(id="1"))
            assert handle.done
            (error,) = handle.errors
            assert isinstance(error.error, kind)
            assert error.listener == type(broken).__name__


async def test_hub_without_room_still_ends_each_run_once() -> None:
    hub, watch = MemoryHub(), Watch()
    sender = bus_with(MemoryDriver(hub), watch)
    receiver = bus_with(MemoryDriver(hub))
    seen: list[int] = []

    @receiver.listener(Job)
    async def take(event: Job) -> None:
        seen.append(event.n)

    async with receiver, sender:
        batch = await sender.dispatch_many([Job(n=n) for n in range(300)])
        await batch.wait()
        await receiver.wait()
    begun: list[list[int]] = [each for each in watch.notes if isinstance(each, list)]
    assert sorted(n for numbers in begun for n in numbers) == [*range(300)]
    assert len(watch.notes) == 2 * len(begun)
    assert seen == [*range(300)]


async def test_handle_tells_whether_it_goes_out_with_a_batch() -> None:
    class Ask:
        def __init__(self) -> None:
            self.answers: list[bool] = []

        def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
            self.answers.append(handle.in_batch)
            yield

    ask = Ask()
    async with bus_with(MemoryDriver(MemoryHub()), ask) as bus:
        handle = await bus.dispatch(Job(n=1))
        assert not handle.in_batch
        await bus.dispatch_many([Job(n=2)])
    async with bus_with(MemoryDriver(), ask) as bus:
        await bus.dispatch_many([Job(n=3)])
    assert ask.answers == [False, True, False]


# -- settlements


class WatchSettled:
    def __init__(self) -> None:
        self.notes: list[Any] = []

    def around_settle(self, settled: SettledEvent) -> Iterator[None]:
        self.notes.append((settled.handle.event.n, len(settled.errors)))
        yield
        self.notes.append("told")


def arrival(n: int) -> Envelope:
    return Envelope(event_name="test.job", event_type="test.job", event=Job(n=n))


@asynccontextmanager
async def arriving(*middleware: Any) -> AsyncGenerator[tuple[GoEvent, Inbox]]:
    driver = HeldDriver()
    bus = bus_with(driver, *middleware)

    @bus.listener(Job)
    async def take(event: Job) -> None:
        if event.n == 2:
            raise ValueError("two")

    async with bus:
        assert driver.inbox is not None
        yield bus, driver.inbox


async def test_hook_runs_around_the_call_that_settles() -> None:
    watch = WatchSettled()
    settled: list[Settlement] = []
    async with arriving(watch) as (bus, inbox):
        for n in (1, 2):
            assert inbox.deliver_nowait(arrival(n), settled.append)
        await bus.wait()
        assert watch.notes == [(1, 0), "told", (2, 1), "told"]
        assert [len(each.errors) for each in settled] == [0, 1]


async def test_failing_hook_does_not_keep_a_settlement_from_the_driver() -> None:
    class Broken:
        def around_settle(self, settled: SettledEvent) -> Iterator[None]:
            raise LookupError("above")
            yield

    settled: list[Settlement] = []
    async with arriving(Broken()) as (bus, inbox):
        await inbox.deliver(arrival(1), settled.append)
        await bus.wait()
        assert settled == [Settlement()]
        (error,) = bus.errors
        assert isinstance(error.error, LookupError)
        assert error.listener == "Broken"


# -- checks


async def test_hooks_that_cannot_wait_are_refused_when_they_are_async() -> None:
    class Waits:
        async def around_publish(self, handles: Sequence[DispatchHandle]) -> AsyncIterator[None]:
            yield

    with pytest.raises(TypeError, match=r"Waits\.around_publish cannot wait: make it a `def`"):
        Config(middleware=(Waits(),))  # type: ignore[arg-type]


async def test_middleware_is_bound_to_the_driver_of_each_bus() -> None:
    class Binds:
        def bind_driver(self, driver: Driver) -> Watch:
            assert driver == held
            return watch

    held, watch = HeldDriver(), Watch()
    async with bus_with(held, Binds()) as bus:
        await bus.dispatch(Job(n=1))
        held.answers.pop()(Receipt())
    assert watch.notes == [[1], ([1], [""])]


async def test_what_bind_driver_returns_must_be_middleware() -> None:
    class Binds:
        def bind_driver(self, driver: Driver) -> Any:
            return 7

    with pytest.raises(TypeError, match="7 is not middleware"):
        GoEvent(Config(middleware=(Binds(),)))
