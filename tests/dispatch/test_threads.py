"""Threads: another thread may call only `dispatch_from_thread`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
from tests.support.checks import ignore_error
from tests.support.events import REGISTRY, Ping
from tests.support.limits import HANG_SECONDS
from trio.testing import wait_all_tasks_blocked

from goevent import (
    BusClosed,
    Config,
    DecodeError,
    DispatchHandle,
    Event,
    GoEvent,
    Ledger,
)


class SilentListener:
    event_name = "test.ping"

    def on_event(self, event: Ping) -> None:
        """Do nothing."""


def run_in_trio(function: Callable[[], Any]) -> None:
    """Run a coroutine function in a Trio run of its own, on the calling thread."""
    trio.run(function)


def enter(bus: GoEvent) -> None:
    async def main() -> None:
        async with bus:
            pass

    trio.run(main)


FOREIGN_CALLS: dict[str, Callable[[GoEvent, Any], object]] = {
    "listener": lambda bus, _: bus.listener(Ping)(ignore_ping),
    "subscribe": lambda bus, _: bus.subscribe(ignore_ping, Ping),
    "register_listener": lambda bus, _: bus.register_listener(SilentListener()),
    "unregister_listeners_for_event": lambda bus, _: bus.unregister_listeners_for_event(Ping),
    "unregister": lambda _, registration: registration.unregister(),
    "dispatch_nowait": lambda bus, _: bus.dispatch_nowait(Ping()),
    "dispatch": lambda bus, _: run_in_trio(partial(bus.dispatch, Ping())),
    "wait": lambda bus, _: run_in_trio(bus.wait),
    "close": lambda bus, _: run_in_trio(bus.close),
    "errors": lambda bus, _: bus.errors,
    "clear_errors": lambda bus, _: bus.clear_errors(),
    "on_error": lambda bus, _: bus.on_error(ignore_error),
    "snapshot": lambda bus, _: bus.snapshot(),
    "async with": lambda bus, _: enter(bus),
}


def ignore_ping(event: Ping) -> None:
    """Do nothing."""


@pytest.mark.parametrize("call", FOREIGN_CALLS)
async def test_a_call_from_a_foreign_thread_is_refused_and_changes_nothing(
    bus: GoEvent, call: str
) -> None:
    gate = trio.Event()

    @bus.listener(Ping)
    async def fail(event: Ping) -> None:
        await gate.wait()
        raise ValueError

    registration = bus.subscribe(ignore_ping, Ping)
    handles = [await bus.dispatch(Ping(n)) for n in range(3)]
    await wait_all_tasks_blocked()
    before = bus.snapshot().ledger, bus.snapshot().state, repr(bus)

    def foreign() -> None:
        with pytest.raises(RuntimeError):
            FOREIGN_CALLS[call](bus, registration)

    with trio.fail_after(HANG_SECONDS):
        await trio.to_thread.run_sync(foreign)
        assert (bus.snapshot().ledger, bus.snapshot().state, repr(bus)) == before
        assert registration.active
        gate.set()
        await bus.wait()
    assert [len(handle.errors) for handle in handles] == [1, 1, 1]
    assert len(bus.errors) == 3
    assert bus.snapshot().ledger == Ledger(accepted=6, completed=3, failed=3)


async def test_a_foreign_thread_is_refused_also_inside_an_inline_listener(
    bus: GoEvent,
) -> None:
    refused: list[str] = []

    def foreign() -> None:
        with pytest.raises(RuntimeError, match=r"bus\.dispatch_from_thread") as caught:
            bus.dispatch_nowait(Ping(1))
        refused.append(str(caught.value))

    @bus.listener(Ping)
    def blocks(event: Ping) -> None:
        thread = threading.Thread(target=foreign)
        thread.start()
        thread.join(HANG_SECONDS)

    bus.dispatch_nowait(Ping())
    assert len(refused) == 1


async def test_waiting_for_a_handle_in_a_foreign_thread_is_refused(bus: GoEvent) -> None:
    gate = trio.Event()

    @bus.listener(Ping)
    async def later(event: Ping) -> None:
        await gate.wait()

    handle = bus.dispatch_nowait(Ping())
    coroutine = handle.wait()
    with pytest.raises(RuntimeError):
        await trio.to_thread.run_sync(coroutine.send, None)
    gate.set()
    await handle.wait()


# -- dispatch_from_thread


async def test_dispatch_from_thread_returns_when_the_inline_listeners_have_run(
    bus: GoEvent,
) -> None:
    seen: list[tuple[int, int]] = []
    later: list[int] = []
    bus.subscribe(lambda event: seen.append((event.n, threading.get_ident())), Ping)

    @bus.listener(Ping)
    async def note(event: Ping) -> None:
        later.append(event.n)

    with trio.fail_after(HANG_SECONDS):
        handle = await trio.to_thread.run_sync(bus.dispatch_from_thread, Ping(7))
        assert seen == [(7, threading.get_ident())]
        await handle.wait()
    assert later == [7]


async def test_several_threads_dispatch_at_once(bus: GoEvent) -> None:
    seen: list[int] = []

    @bus.listener(Ping)
    async def note(event: Ping) -> None:
        seen.append(event.n)

    def send(start: int) -> None:
        for n in range(start, start + 50):
            bus.dispatch_from_thread(Ping(n))

    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            for start in range(0, 400, 50):
                nursery.start_soon(trio.to_thread.run_sync, send, start)
        await bus.wait()
    assert sorted(seen) == [*range(400)]
    for start in range(0, 400, 50):
        assert [n for n in seen if start <= n < start + 50] == [*range(start, start + 50)]


async def test_a_full_mailbox_blocks_the_threads(bus: GoEvent) -> None:
    gate = trio.Event()
    seen: list[int] = []

    @bus.listener(Ping, mailbox=1)
    async def note(event: Ping) -> None:
        await gate.wait()
        seen.append(event.n)

    def send(n: int) -> None:
        bus.dispatch_from_thread(Ping(n))
        passed.append(n)

    passed: list[int] = []
    bus.dispatch_nowait(Ping(0))
    await wait_all_tasks_blocked()
    bus.dispatch_nowait(Ping(1))
    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            for n in range(2, 8):
                nursery.start_soon(trio.to_thread.run_sync, send, n)
            while bus.snapshot().ledger.accepted < 2:
                await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked(0.01)
            assert not passed
            assert bus.snapshot().ledger.accepted == 2
            gate.set()
        await bus.wait()
    assert sorted(seen) == sorted([0, 1, *passed]) == [*range(8)]


async def test_a_dispatch_that_fails_raises_in_the_thread(bus: GoEvent) -> None:
    event: Any
    for event, kind in (
        (object(), TypeError),
        (Event("test.ping", {"n": "seven"}), DecodeError),
    ):
        with pytest.raises(kind):
            await trio.to_thread.run_sync(bus.dispatch_from_thread, event)
    assert (await trio.to_thread.run_sync(bus.dispatch_from_thread, Ping())).done


async def test_a_listener_that_fails_does_not_raise_in_the_thread(bus: GoEvent) -> None:
    @bus.listener(Ping)
    def fail(event: Ping) -> None:
        raise ValueError

    handle = await trio.to_thread.run_sync(bus.dispatch_from_thread, Ping())
    assert len(handle.errors) == 1


async def test_dispatch_from_thread_on_the_thread_of_the_bus_is_refused(bus: GoEvent) -> None:
    with pytest.raises(RuntimeError, match="own thread: use dispatch"):
        bus.dispatch_from_thread(Ping())
    assert bus.snapshot().ledger == Ledger()


async def test_dispatch_from_thread_needs_an_open_bus() -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    with pytest.raises(RuntimeError, match="async with bus"):
        await trio.to_thread.run_sync(bus.dispatch_from_thread, Ping())
    async with bus:
        pass
    with pytest.raises(BusClosed):
        await trio.to_thread.run_sync(bus.dispatch_from_thread, Ping())
    async with bus:
        assert (await trio.to_thread.run_sync(bus.dispatch_from_thread, Ping())).done


def test_dispatch_from_thread_after_the_event_loop_has_ended() -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    with pytest.raises(RuntimeError, match="async with bus"):
        bus.dispatch_from_thread(Ping())
    enter(bus)
    with pytest.raises(BusClosed):
        bus.dispatch_from_thread(Ping())


@pytest.mark.parametrize("how", ["close", "leave", "cancel", "error"])
async def test_no_thread_stays_blocked_when_the_bus_ends(how: str) -> None:
    bus = GoEvent(Config(registry=REGISTRY, close_timeout=0))
    bus.on_error(ignore_error)
    outcomes: list[str] = []

    @bus.listener(Ping, mailbox=1)
    async def stuck(event: Ping) -> None:
        await trio.sleep_forever()

    def send() -> None:
        try:
            bus.dispatch_from_thread(Ping())
        except BusClosed:
            outcomes.append("closed")
        else:
            outcomes.append("taken")

    threads = [threading.Thread(target=send) for _ in range(8)]
    with trio.fail_after(HANG_SECONDS):
        try:
            async with bus:
                for thread in threads:
                    thread.start()
                while bus.snapshot().ledger.accepted < 2:
                    await trio.lowlevel.checkpoint()
                if how == "close":
                    await bus.close()
                elif how == "error":
                    raise KeyError
                elif how == "cancel":
                    with trio.CancelScope() as scope:
                        scope.cancel()
                        await bus.close()
        except KeyError:
            pass
        for thread in threads:
            await trio.to_thread.run_sync(thread.join, HANG_SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(outcomes) == ["closed"] * 6 + ["taken"] * 2
    with pytest.raises(BusClosed):
        await trio.to_thread.run_sync(bus.dispatch_from_thread, Ping())


async def test_threads_dispatch_while_the_bus_opens_and_closes_again_and_again() -> None:
    bus = GoEvent(Config(registry=REGISTRY, close_timeout=HANG_SECONDS))
    seen: list[int] = []
    taken: list[DispatchHandle] = []
    stop = threading.Event()
    bus.subscribe(lambda event: seen.append(event.n), Ping, async_=True)

    def send() -> None:
        while not stop.is_set():
            try:
                taken.append(bus.dispatch_from_thread(Ping()))
            except RuntimeError:
                pass
            except BusClosed:
                pass

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    accepted = 0
    try:
        with trio.fail_after(HANG_SECONDS):
            for _ in range(20):
                async with bus:
                    # The threads may leave the run no moment in which all its tasks are blocked.
                    while bus.snapshot().ledger.accepted == 0:
                        await trio.lowlevel.checkpoint()
                    await bus.dispatch(Ping())
                    ledger = await bus.close()
                assert ledger.accepted == ledger.completed
                accepted += ledger.accepted
    finally:
        stop.set()
        for thread in threads:
            await trio.to_thread.run_sync(thread.join, HANG_SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    assert all(handle.done for handle in taken)
    assert len(seen) == accepted == len(taken) + 20


async def test_a_trio_worker_thread_may_also_dispatch_by_from_thread(bus: GoEvent) -> None:
    seen: list[int] = []
    bus.subscribe(lambda event: seen.append(event.n), Ping)

    def work() -> None:
        trio.from_thread.run_sync(bus.dispatch_nowait, Ping(1))
        trio.from_thread.run(bus.dispatch, Ping(2))

    await trio.to_thread.run_sync(work)
    assert seen == [1, 2]


async def test_a_listener_may_hand_work_to_a_thread_that_dispatches(bus: GoEvent) -> None:
    seen: list[int] = []

    @bus.listener(Ping, mailbox=1)
    async def works(event: Ping) -> None:
        seen.append(event.n)
        if event.n < 10:
            await trio.to_thread.run_sync(bus.dispatch_from_thread, Ping(event.n + 1))

    with trio.fail_after(HANG_SECONDS):
        await bus.dispatch(Ping(0))
        while len(seen) < 11:
            await bus.wait()
    assert seen == [*range(11)]


async def test_a_handle_cannot_be_waited_for_in_another_event_loop(bus: GoEvent) -> None:
    gate = trio.Event()

    @bus.listener(Ping)
    async def held(event: Ping) -> None:
        await gate.wait()

    handle = await bus.dispatch(Ping())

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="thread"):
            await handle.wait()

    with trio.fail_after(HANG_SECONDS):
        await trio.to_thread.run_sync(run_in_trio, elsewhere)
        gate.set()
        await handle.wait()
