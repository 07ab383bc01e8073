"""The portal: a bus in a thread of its own, used from threads and from asyncio."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from tests.support.limits import SUBPROCESS_SECONDS

from goevent import (
    BusClosed,
    BusForked,
    Config,
    DispatchHandle,
    DriverConnectionError,
    Event,
    EventAbandoned,
    EventError,
    GoEvent,
    Supervision,
)
from goevent.portal import Portal, portal
from goevent.portal._pump import PortalPump

LONG = float(SUBPROCESS_SECONDS)
UNREACHABLE = "redis://127.0.0.1:1"


class Paid(Event, name="portal.paid"):
    number: int


class Shipped(Event, name="portal.shipped"):
    number: int


def dispatch_until_refused(p: Portal) -> None:
    with pytest.raises(BusClosed, match="has ended"):
        flood(p)


def flood(p: Portal, count: int = 100_000) -> None:
    for number in range(count):
        p.dispatch(Shipped(number))


def recording_bus(**config: Any) -> tuple[GoEvent, list[int]]:
    bus, got = GoEvent(Config(**config)), list[int]()

    @bus.listener("portal.*")
    async def record(event: Event) -> None:
        got.append(event.payload()["number"])

    return bus, got


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name == "goevent portal":
            thread.join(LONG)
            assert not thread.is_alive()


# -- threads


def test_wait_returns_when_every_listener_has_finished() -> None:
    bus, got = recording_bus()
    with portal(bus) as p:
        handle = p.dispatch(Paid(1))
        handle.wait(LONG)
        assert (handle.done, handle.errors, got) == (True, (), [1])
        handle.raise_errors()


def test_events_of_one_thread_keep_their_order() -> None:
    bus, got = recording_bus()
    with portal(bus) as p:
        for number in range(500):
            p.dispatch(Paid(number) if number % 2 else Shipped(number))
    assert got == [*range(500)]


def test_events_of_a_name_keep_their_order_when_the_mailbox_is_full() -> None:
    bus, got = GoEvent(), list[int]()

    @bus.listener(Paid, mailbox=1)
    async def record(event: Paid) -> None:
        await trio.sleep(0)
        got.append(event.number)

    with portal(bus) as p:
        for number in range(200):
            p.dispatch(Paid(number))
    assert got == [*range(200)]


def test_an_event_that_waits_for_room_holds_up_no_other_name() -> None:
    bus, release = GoEvent(), threading.Event()

    @bus.listener(Paid, mailbox=1, thread=True)
    def hold(event: Paid) -> None:
        assert release.wait(LONG)

    @bus.listener(Shipped)
    async def ship(event: Shipped) -> None: ...

    with portal(bus) as p:
        paid = [p.dispatch(Paid(number)) for number in range(10)]
        p.dispatch(Shipped(1)).wait(LONG)
        assert not paid[-1].done
        release.set()
        paid[-1].wait(LONG)


request: ContextVar[str] = ContextVar("request", default="none")


def test_an_event_is_dispatched_in_the_context_of_its_caller() -> None:
    got: list[tuple[int, str]] = []
    bus, release = GoEvent(), threading.Event()

    @bus.listener(Paid, context=True)
    async def record(event: Paid) -> None:
        got.append((event.number, request.get()))

    # Its mailbox is full, so the later ones of its name wait in a task.
    @bus.listener(Shipped, mailbox=1, thread=True)
    def hold(event: Shipped) -> None:
        assert release.wait(LONG)

    @bus.listener(Shipped, context=True)
    async def record_shipped(event: Shipped) -> None:
        got.append((event.number, request.get()))

    async def read() -> str:
        return request.get()

    with portal(bus) as p:
        for number in range(3):
            token = request.set(f"request {number}")
            p.dispatch(Paid(number)).wait(LONG)
            p.dispatch_many([Paid(10 + number)]).wait(LONG)
            assert p.call(request.get) == p.call(read) == f"request {number}"
            request.reset(token)
        assert got == [(each, f"request {each % 10}") for each in (0, 10, 1, 11, 2, 12)]
        got.clear()
        for number in range(5):
            token = request.set(f"request {number}")
            p.dispatch(Shipped(number))
            request.reset(token)
        release.set()
    assert got == [(each, f"request {each}") for each in range(5)]


def test_many_threads_dispatch_at_once() -> None:
    bus, got = recording_bus()
    with portal(bus) as p:

        def work(first: int) -> None:
            for number in range(first, first + 50):
                p.dispatch(Paid(number)).wait(LONG)

        threads = [threading.Thread(target=work, args=(100 * place,)) for place in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
    assert len(got) == 400
    for place in range(8):
        own = [number for number in got if number // 100 == place]
        assert own == [*range(100 * place, 100 * place + 50)]


def test_failures_of_listeners_are_those_of_the_handle() -> None:
    bus = GoEvent()

    @bus.listener(Paid)
    async def refuse(event: Paid) -> None:
        raise ValueError("no money")

    with portal(bus) as p:
        handle = p.dispatch(Paid(1))
        handle.wait(LONG)
        (error,) = handle.errors
        assert isinstance(error, EventError)
        assert isinstance(error.__cause__, ValueError)
        with pytest.raises(ExceptionGroup, match="1 listener"):
            handle.raise_errors()


def test_a_refused_event_raises_the_reason_where_it_is_waited_for() -> None:
    with portal(GoEvent()) as p:
        handle = p.dispatch(7)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="not an event type"):
            handle.wait(LONG)
        with pytest.raises(TypeError):
            handle.raise_errors()
        p.dispatch(Paid(1)).wait(LONG)


def test_a_wait_that_takes_too_long_raises_and_the_event_goes_on() -> None:
    bus, release = GoEvent(), threading.Event()

    @bus.listener(Paid, thread=True)
    def hold(event: Paid) -> None:
        assert release.wait(LONG)

    with portal(bus) as p:
        handle = p.dispatch(Paid(1))
        with pytest.raises(TimeoutError):
            handle.wait(0.01)
        release.set()
        handle.wait(LONG)


def test_a_batch_has_one_handle() -> None:
    bus, got = recording_bus()
    with portal(bus) as p:
        handle = p.dispatch_many(Paid(number) for number in range(20))
        handle.wait(LONG)
        assert got == [*range(20)]
        wrong = p.dispatch_many([Paid(1), "no event"])  # type: ignore[list-item] # pyright: ignore
        with pytest.raises(TypeError):
            wrong.wait(LONG)


def test_batches_and_single_events_keep_their_order() -> None:
    bus, got = GoEvent(), list[int]()

    @bus.listener("portal.*", mailbox=3)
    async def record(event: Event) -> None:
        await trio.sleep(0)
        got.append(event.payload()["number"])

    with portal(bus) as p:
        for start in range(0, 300, 6):
            p.dispatch(Paid(start))
            p.dispatch_many([Paid(start + 1), Shipped(start + 2), Paid(start + 3)])
            p.dispatch(Shipped(start + 4))
            p.dispatch_many([Shipped(start + 5)])
    # One mailbox has both names, whose events may overtake each other.
    for rest in ((0, 1, 3), (2, 4, 5)):
        numbers = [number for number in range(300) if number % 6 in rest]
        assert [number for number in got if number % 6 in rest] == numbers


def test_a_batch_waits_for_room_and_counts_with_all_of_its_events() -> None:
    bus, goes_on = GoEvent(), threading.Event()

    @bus.listener("portal.paid")
    def hold(event: Event) -> None:
        goes_on.wait(LONG)

    with portal(bus, max_waiting=10) as p:
        p.dispatch(Paid(0))  # stops the thread of the bus
        p.dispatch_many([Shipped(number) for number in range(30)])
        returned = threading.Event()

        def dispatch_more() -> None:
            p.dispatch_many([Shipped(30)])
            returned.set()

        thread = threading.Thread(target=dispatch_more)
        thread.start()
        assert not returned.wait(0.2)
        goes_on.set()
        assert returned.wait(LONG)
        thread.join()


def test_failures_in_a_batch_that_nobody_looks_at_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = GoEvent()

    @bus.listener("portal.paid")
    def fail(event: Event) -> None:
        raise ValueError("no money")

    with portal(bus) as p:
        p.dispatch_many([Paid(1)]).wait()
    assert "no money" in caplog.text
    caplog.clear()
    with portal(bus) as p:
        handle = p.dispatch_many([Paid(1)])
        handle.wait()
        with pytest.raises(ExceptionGroup):
            handle.raise_errors()
    assert "no money" not in caplog.text


@pytest.mark.parametrize("mailbox", [3, 100])
def test_listeners_and_middleware_see_the_context_of_the_caller(mailbox: int) -> None:
    user = ContextVar("user", default="nobody")
    seen: list[tuple[str, str]] = []

    class Note:
        def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
            seen.append(("middleware", user.get()))
            yield

    bus = GoEvent(Config(middleware=(Note(),)))

    @bus.listener("portal.paid", context=True, mailbox=mailbox)
    async def note(event: Event) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(("listener", user.get()))

    with portal(bus) as p:
        handles: list[Any] = []
        for name in ("ada", "bob", "eve"):
            user.set(name)
            handles += [p.dispatch(Paid(1)), p.dispatch_many([Paid(2), Paid(3)])]
        assert p.call(user.get) == "eve"
        for handle in handles:
            handle.wait(LONG)
    for place in ("middleware", "listener"):
        names = [name for where, name in seen if where == place]
        assert names == [name for name in ("ada", "bob", "eve") for _ in range(3)]


def test_a_signal_handler_may_dispatch_while_its_thread_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bus, got = recording_bus()
    with portal(bus) as p:
        put = p._queue.put  # pyright: ignore[reportPrivateUsage]

        def put_with_a_signal(item: Any) -> None:
            put(item)
            signal.raise_signal(signal.SIGUSR1)  # while the lock is held

        def handle_signal(number: int, frame: object) -> None:
            monkeypatch.undo()
            p.dispatch(Shipped(2))

        monkeypatch.setattr(p._queue, "put", put_with_a_signal)  # pyright: ignore[reportPrivateUsage]
        before = signal.signal(signal.SIGUSR1, handle_signal)
        try:
            p.dispatch(Paid(1))
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert got == [1, 2]


@pytest.mark.parametrize("timeout", [math.inf, 1e300])
def test_a_wait_may_have_any_timeout(timeout: float) -> None:
    bus, got = recording_bus()
    with portal(bus) as p:
        p.dispatch(Paid(1)).wait(timeout)
    assert got == [1]


def test_call_runs_functions_and_coroutines_in_the_thread_of_the_bus() -> None:
    bus, _ = recording_bus()

    async def double(number: int) -> int:
        await trio.sleep(0)
        return 2 * number

    with portal(bus) as p:
        assert p.call(bus.snapshot).state == "open"
        assert p.call(double, 21) == 42
        with pytest.raises(ZeroDivisionError):
            p.call(lambda: 1 / 0)


def test_dispatch_waits_while_the_bus_takes_no_more() -> None:
    bus, release = GoEvent(), threading.Event()

    @bus.listener(Paid, mailbox=1, thread=True)
    def hold(event: Paid) -> None:
        assert release.wait(LONG)

    with portal(bus, max_waiting=5) as p:
        dispatched: list[int] = []

        def flood() -> None:
            for number in range(20):
                p.dispatch(Paid(number))
                dispatched.append(number)

        thread = threading.Thread(target=flood)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive(), "the bus has taken two events, and five may wait"
        assert len(dispatched) <= 8
        release.set()
        thread.join(LONG)
        assert len(dispatched) == 20


# -- the thread of the bus


def test_the_thread_of_the_bus_may_not_use_the_portal() -> None:
    bus = GoEvent()
    found: list[str] = []

    @bus.listener(Paid)
    async def listen(event: Paid) -> None:
        for use in (lambda: p.dispatch(Shipped(1)), lambda: p.call(print), handle.wait):
            with pytest.raises(RuntimeError) as caught:
                use()
            found.append(str(caught.value))

    with portal(bus) as p:
        handle = p.dispatch(Shipped(0))
        p.dispatch(Paid(1)).wait(LONG)
    assert len(found) == 3


# -- opening and closing


def test_closing_drains_the_queue_and_the_mailboxes() -> None:
    bus, got = recording_bus()
    with portal(bus) as p:
        handles = [p.dispatch(Paid(number)) for number in range(300)]
    assert got == [*range(300)]
    assert all(handle.done and not handle.errors for handle in handles)


def test_an_error_of_the_block_cancels_the_listeners_at_once() -> None:
    bus, started = GoEvent(), threading.Event()

    @bus.listener(Paid)
    async def forever(event: Paid) -> None:
        started.set()
        await trio.sleep_forever()

    handles: list[Any] = []

    def run() -> None:
        with portal(bus) as p:
            handles.append(p.dispatch(Paid(1)))
            assert started.wait(LONG)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert isinstance(handles[0].errors[0], EventAbandoned)


def test_a_listener_that_takes_too_long_is_cancelled_by_the_close_timeout() -> None:
    bus = GoEvent(Config(close_timeout=0.05))

    @bus.listener(Paid)
    async def forever(event: Paid) -> None:
        await trio.sleep_forever()

    with portal(bus) as p:
        handle = p.dispatch(Paid(1))
    assert isinstance(handle.errors[0], EventAbandoned)


def test_a_broker_that_is_down_is_raised_by_the_block() -> None:
    with pytest.raises(DriverConnectionError), portal(GoEvent(UNREACHABLE)):
        pytest.fail("the block must not begin")


def test_a_bus_that_fails_is_told_to_later_dispatches_and_by_the_block() -> None:
    bus = GoEvent()

    @bus.listener(Paid, supervision=Supervision("escalate"))
    async def fail(event: Paid) -> None:
        raise ValueError("the end")

    def run() -> None:
        with portal(bus) as p:
            p.dispatch(Paid(1)).wait(LONG)
            dispatch_until_refused(p)
            p.dispatch(Shipped(2))

    with pytest.raises((EventError, ExceptionGroup)):
        run()


def test_an_event_that_comes_as_the_bus_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = GoEvent()
    trio_ended, dispatched = threading.Event(), threading.Event()
    refuse_rest = PortalPump.refuse_rest

    def refuse_later(self: PortalPump, failure: BaseException | None) -> None:
        trio_ended.set()
        assert dispatched.wait(LONG)
        refuse_rest(self, failure)

    @bus.listener(Paid, supervision=Supervision("escalate"))
    async def fail(event: Paid) -> None:
        raise ValueError("the end")

    def run() -> None:
        with portal(bus) as p:
            p.dispatch(Paid(1))
            assert trio_ended.wait(LONG)
            try:
                handle = p.dispatch(Shipped(2))
            finally:
                dispatched.set()
            with pytest.raises(BusClosed, match="has ended"):
                handle.wait(LONG)

    monkeypatch.setattr(PortalPump, "refuse_rest", refuse_later)
    with pytest.raises((EventError, ExceptionGroup)):
        run()


def test_the_thread_has_ended_after_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    run = Portal._run  # pyright: ignore[reportPrivateUsage]

    def run_slowly(self: Portal) -> None:
        threads.append(threading.current_thread())
        run(self)
        time.sleep(0.2)

    monkeypatch.setattr(Portal, "_run", run_slowly)
    with portal(GoEvent()):
        pass
    assert [each.is_alive() for each in threads] == [False]


def test_a_portal_that_is_closed_or_not_open_refuses_events() -> None:
    p = portal(GoEvent())
    with pytest.raises(BusClosed, match="not open"):
        p.dispatch(Paid(1))
    with p:
        pass
    with pytest.raises(BusClosed, match="closed"):
        p.dispatch(Paid(1))
    with pytest.raises(RuntimeError, match="once"), p:
        pass


def test_a_bus_serves_several_portals_one_after_another() -> None:
    bus, got = recording_bus()
    for number in range(3):
        with portal(bus) as p:
            p.dispatch(Paid(number)).wait(LONG)
    assert got == [0, 1, 2]


def test_a_wrong_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="max_waiting"):
        portal(GoEvent(), max_waiting=0)


FORK = """
import os, sys
from goevent import BusForked, Event, GoEvent
from goevent.portal import portal

with portal(GoEvent()) as p:
    handle = p.dispatch(Event("a"))
    handle.wait()
    child = os.fork()
    if not child:
        refused = 0
        for use in (lambda: p.dispatch(Event("a")), lambda: p.call(print), handle.wait):
            try:
                use()
            except BusForked:
                refused += 1
        os._exit(refused)
    status = os.waitpid(child, 0)[1]
    p.dispatch(Event("a")).wait()
    print(os.waitstatus_to_exitcode(status))
"""


def run_program(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", text],
        capture_output=True,
        text=True,
        timeout=SUBPROCESS_SECONDS,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_of_the_process_is_refused_in_the_child() -> None:
    assert BusForked.__doc__
    result = run_program(FORK)
    assert (result.stdout, result.stderr) == ("3\n", "")


INTERRUPTED = """
import os, signal, threading
import trio
from goevent import Event, GoEvent
from goevent.portal import portal

bus = GoEvent()
interrupted = False

def interrupt(number, frame):
    global interrupted
    interrupted = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt

signal.signal(signal.SIGINT, interrupt)

@bus.listener("a")
async def forever(event):
    # Python runs no handler for a signal that comes just before its main thread waits for a lock.
    # A user presses Ctrl-C again.
    while not interrupted:
        os.kill(os.getpid(), signal.SIGINT)
        await trio.sleep(0.1)
    await trio.sleep_forever()

try:
    with portal(bus) as p:
        {body}
except KeyboardInterrupt:
    print("interrupted", threading.active_count())
"""


@pytest.mark.parametrize("body", ['p.dispatch(Event("a")).wait()', 'p.dispatch(Event("a"))'])
def test_ctrl_c_ends_the_block_and_the_thread(body: str) -> None:
    result = run_program(INTERRUPTED.format(body=body))
    assert result.stdout == "interrupted 1\n", result.stderr
    assert signal.SIGINT


# -- asyncio


async def in_asyncio(bus: GoEvent, body: Any) -> None:
    async with portal(bus) as p:
        await body(p)


def test_a_handle_is_awaited_in_asyncio() -> None:
    bus, got = recording_bus()

    async def body(p: Portal) -> None:
        handle = await p.dispatch(Paid(1))
        assert (handle.done, got) == (True, [1])
        handles = [p.dispatch(Paid(number)) for number in range(2, 200)]
        await asyncio.gather(*handles)
        assert got == [*range(1, 200)]

    asyncio.run(in_asyncio(bus, body))


def test_dispatch_async_returns_when_the_bus_has_taken_the_event() -> None:
    bus, release = GoEvent(), threading.Event()
    inline: list[int] = []

    @bus.listener(Paid)
    def note(event: Paid) -> None:
        inline.append(event.number)

    @bus.listener(Paid, thread=True)
    def hold(event: Paid) -> None:
        assert release.wait(LONG)

    async def body(p: Portal) -> None:
        handle = await p.dispatch_async(Paid(1))
        assert inline == [1]
        assert not handle.done
        release.set()
        await handle
        with pytest.raises(TypeError):
            await p.dispatch_async(7)  # type: ignore[arg-type] # pyright: ignore

    asyncio.run(in_asyncio(bus, body))


def test_a_cancelled_wait_changes_nothing_for_the_event() -> None:
    bus, release = GoEvent(), threading.Event()

    @bus.listener(Paid, thread=True)
    def hold(event: Paid) -> None:
        assert release.wait(LONG)

    async def wait_for(handle: Any) -> None:
        await handle

    async def body(p: Portal) -> None:
        handle = p.dispatch(Paid(1))
        task = asyncio.create_task(wait_for(handle))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not handle.done
        release.set()
        await handle

    asyncio.run(in_asyncio(bus, body))


def test_the_loop_goes_on_while_an_event_is_awaited() -> None:
    bus, turns = GoEvent(), 0

    @bus.listener(Paid, thread=True)
    def hold(event: Paid) -> None:
        assert release.wait(LONG)

    release = threading.Event()

    async def body(p: Portal) -> None:
        nonlocal turns
        waiting = asyncio.ensure_future(wait_for(p.dispatch(Paid(1))))
        for _ in range(20):
            await asyncio.sleep(0)
            turns += 1
        release.set()
        await waiting

    async def wait_for(handle: Any) -> None:
        await handle

    asyncio.run(in_asyncio(bus, body))
    assert turns == 20


def test_nothing_blocks_a_thread_with_an_asyncio_loop() -> None:
    async def body(p: Portal) -> None:
        handle = p.dispatch(Paid(1))
        with pytest.raises(RuntimeError, match="await the handle"):
            handle.wait()
        with pytest.raises(RuntimeError, match="call_async"):
            p.call(print)
        with pytest.raises(RuntimeError, match="async with"), portal(GoEvent()):
            pass
        await handle

    asyncio.run(in_asyncio(GoEvent(), body))


def test_a_loop_is_refused_where_it_would_have_to_stand_still() -> None:
    bus, release = GoEvent(), threading.Event()

    @bus.listener(Shipped, mailbox=1, thread=True)
    def hold(event: Shipped) -> None:
        assert release.wait(LONG)

    async def main() -> None:
        async with portal(bus, max_waiting=3) as p:
            with pytest.raises(RuntimeError, match="dispatch_async"):
                flood(p)
            release.set()
            await p.dispatch_async(Paid(1))

    asyncio.run(main())


def test_call_async_returns_the_result_and_is_cancelled_with_its_task() -> None:
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async def body(p: Portal) -> None:
        assert (await p.call_async(p.bus.snapshot)).state == "open"
        task = asyncio.create_task(p.call_async(forever))
        await p.call_async(trio.testing.wait_all_tasks_blocked)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(cancelled.wait, LONG)

    asyncio.run(in_asyncio(GoEvent(), body))


def test_a_broker_that_is_down_is_raised_in_asyncio() -> None:
    async def body(p: Portal) -> None:
        pytest.fail("the block must not begin")

    with pytest.raises(DriverConnectionError):
        asyncio.run(in_asyncio(GoEvent(UNREACHABLE), body))


def test_an_await_outside_of_asyncio_is_refused() -> None:
    async def wait_on_trio(handle: Any) -> None:
        await handle

    with portal(GoEvent()) as p:
        handle = p.dispatch(Paid(1))
        with pytest.raises(RuntimeError, match="running asyncio loop"):
            trio.run(wait_on_trio, handle)
