"""Forks: an open bus belongs to its process, and a child of it can neither use nor harm it."""

from __future__ import annotations

import copy
import gc
import math
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
from tests.support.forks import (
    CHILD_SECONDS,
    attempt,
    calls_of,
    in_child,
    in_child_of_thread,
    not_refused,
    run_and_leave,
)
from tests.support.limits import HANG_SECONDS
from trio.testing import wait_all_tasks_blocked

from goevent import (
    BusForked,
    Config,
    DispatchHandle,
    Event,
    EventRegistry,
    GoEvent,
    MemoryDriver,
    MemoryHub,
)

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
REGISTRY = EventRegistry()


class Job(Event, name="forks.job", registry=REGISTRY):
    n: int = 0


class Other(Event, name="forks.other", registry=REGISTRY):
    n: int = 0


def make_bus(hub: MemoryHub | None = None, **config: Any) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, driver=MemoryDriver(hub), **config))


async def until_exit(pid: int) -> int:
    """Wait for a child without blocking the run loop; return its exit status."""
    with trio.fail_after(HANG_SECONDS):
        _, status = await trio.to_thread.run_sync(os.waitpid, pid, 0)
    return os.waitstatus_to_exitcode(status)


def fork() -> int:
    """Fork; the child is killed if it hangs."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(CHILD_SECONDS)
    return pid


# -- the child's copy of an open bus


@pytest.mark.parametrize("in_thread", [False, True])
async def test_every_method_of_an_inherited_bus_is_refused_at_once(in_thread: bool) -> None:
    bus = make_bus()
    gate = trio.Event()
    seen: list[int] = []

    async def work(event: Job) -> None:
        await gate.wait()
        seen.append(event.n)

    registration = bus.subscribe(work, Job)
    inline = bus.subscribe(lambda event: None, Other)
    async with bus:
        done = await bus.dispatch(Other())
        pending = await bus.dispatch(Job(1))
        calls = calls_of(bus, Job(9), registration, done, pending)

        def use() -> dict[str, str]:
            return not_refused({**calls, "inline": inline.unregister})

        assert await in_child_of_thread(use) if in_thread else in_child(use) == "{}"
        gate.set()
        await pending.wait()
        assert (await bus.dispatch(Job(2))).errors == ()
        await bus.wait()
        assert bus.errors == ()
    assert seen == [1, 2]


async def test_the_error_says_that_the_bus_belongs_to_the_parent() -> None:
    async with make_bus() as bus:
        told = in_child(lambda: bus.dispatch_nowait(Job()))
    assert "BusForked: this bus belongs to the parent process" in told


async def test_reading_an_inherited_bus_is_possible() -> None:
    async with make_bus() as bus:
        handle = await bus.dispatch(Job(1))
        in_parent = handle.id
        told = in_child(lambda: (repr(bus), handle.id, handle.done, handle.errors, bus.error_count))
        assert told == f"('<GoEvent forked, 0 listener(s)>', '{in_parent}', True, (), 0)"


async def test_a_new_thread_of_the_child_is_refused_even_if_it_has_the_id_of_the_bus_thread() -> (
    None
):
    def use_in_threads(bus: GoEvent) -> set[str]:
        outcomes: set[str] = set()
        threads = [
            threading.Thread(
                target=lambda: outcomes.update(
                    attempt(call) for call in calls_of(bus, Job(), bus_registration).values()
                )
            )
            for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcomes

    bus = make_bus()
    bus_registration = bus.subscribe(lambda event: None, Job)
    async with bus:
        told = await in_child_of_thread(lambda: use_in_threads(bus))
    assert told == "{'BusForked'}"


async def test_a_child_of_a_child_is_refused_as_well() -> None:
    bus = make_bus()
    registration = bus.subscribe(lambda event: None, Job)
    async with bus:
        calls = calls_of(bus, Job(), registration)
        assert in_child(lambda: in_child(lambda: not_refused(calls))) == "{}"


async def test_ids_of_the_child_are_others_than_those_of_the_parent() -> None:
    async with make_bus() as bus:
        handles = [await bus.dispatch(Job(n)) for n in range(20)]
        assert handles[0].id
        told = in_child(lambda: [handle.id for handle in handles[1:]])
        again = in_child(lambda: [handle.id for handle in handles[1:]])
        ids = {handle.id for handle in handles}
        assert len({*ids, *told[2:-2].split("', '"), *again[2:-2].split("', '")}) == 58


# -- forks inside listeners


async def test_a_fork_inside_an_inline_listener_refuses_dispatches_after_it() -> None:
    told: list[str] = []

    def split(event: Job) -> None:
        read, write = os.pipe()
        pid = fork()
        if pid == 0:
            children.append(write)
            return
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            told.append(pipe.read().decode())
        os.waitpid(pid, 0)

    children: list[int] = []
    bus = make_bus()
    registration = bus.subscribe(split, Job)
    async with bus:
        for call in (bus.dispatch_nowait, bus.dispatch):
            handle = call(Job())
            if isinstance(handle, Awaitable):
                await handle
            if children:
                # The listener has returned into the middle of a dispatch of the parent.
                os.write(children[0], str(not_refused(calls_of(bus, Job(), registration))).encode())
                os._exit(0)
        assert told == ["{}", "{}"]
        assert bus.errors == ()


def test_a_fork_inside_a_mailbox_listener_runs_no_further_event_in_the_child() -> None:
    read, write = os.pipe()

    async def main() -> None:
        bus = make_bus()
        parent = os.getpid()

        async def work(event: Job) -> None:
            os.write(
                write, f"{event.n} in {'parent' if os.getpid() == parent else 'child'};".encode()
            )
            if event.n == 0 and fork() == 0:
                # The listener of the child may go on waiting.
                await trio.sleep(0.01)
                return

        bus.subscribe(work, Job)
        async with bus:
            for n in range(5):
                bus.dispatch_nowait(Job(n))
            await wait_all_tasks_blocked()
            if os.getpid() != parent:
                raise SystemExit(7)
            pid, status = await trio.to_thread.run_sync(os.waitpid, -1, 0)
            assert pid
            assert os.waitstatus_to_exitcode(status) == 7
            await bus.wait()

    run_and_leave(main)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read().decode() == "".join(f"{n} in parent;" for n in range(5))


@pytest.mark.parametrize("error", [SystemExit(5), KeyboardInterrupt()])
def test_a_child_may_exit_out_of_a_listener(error: BaseException) -> None:
    async def main() -> None:
        bus = make_bus()
        pids: list[int] = []

        async def work(event: Job) -> None:
            pids.append(fork())
            if not pids[-1]:
                raise error

        bus.subscribe(work, Job)
        async with bus:
            await (await bus.dispatch(Job())).wait()
            expected = 5 if isinstance(error, SystemExit) else 99
            assert await until_exit(pids[0]) == expected
            assert (await bus.dispatch(Other())).errors == ()

    run_and_leave(main)


@pytest.mark.parametrize("method", ["dispatch", "dispatch_nowait"])
def test_a_fork_inside_middleware_refuses_the_event_in_the_child(method: str) -> None:
    async def main() -> None:
        pids: list[int] = []
        parent = os.getpid()
        seen: list[bool] = []

        class Forks:
            def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
                pids.append(fork())
                yield

        bus = make_bus(middleware=(Forks(),))
        bus.subscribe(lambda event: seen.append(os.getpid() == parent), Job)
        async with bus:
            try:
                handle = getattr(bus, method)(Job())
                if isinstance(handle, Awaitable):
                    await handle
            except BusForked:
                os._exit(5 if os.getpid() != parent and not seen else 1)
            assert await until_exit(pids[0]) == 5
        assert seen == [True]

    run_and_leave(main)


async def test_a_driver_that_fails_in_the_fork_is_logged_and_harms_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(MemoryDriver):
        def fork(self) -> None:
            raise ValueError("a defect")

    broken = GoEvent(Config(registry=REGISTRY, driver=Broken(MemoryHub())))
    other = make_bus()
    async with broken, other:
        told = in_child(
            lambda: (
                [
                    attempt(lambda bus=bus: bus.dispatch_nowait(Job()))  # type: ignore[misc]
                    for bus in (broken, other)
                ]
                + [caplog.text.count("failed to leave the bus")]
            )
        )
    assert told == "['BusForked', 'BusForked', 1]"


async def test_a_fork_while_the_bus_opens_and_while_it_closes_is_refused() -> None:
    bus = make_bus(MemoryHub())
    told: list[str] = []

    async def work(event: Job) -> None:
        await wait_all_tasks_blocked()
        told.append(in_child(lambda: attempt(lambda: bus.dispatch_nowait(Job()))))

    async def while_opening() -> None:
        await trio.lowlevel.checkpoint()
        told.append(in_child(lambda: attempt(lambda: bus.dispatch_nowait(Job()))))

    bus.subscribe(work, Job)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(while_opening)
        async with bus:
            assert told == ["BusForked"]
            await bus.dispatch(Job())
    assert told == ["BusForked"] * 2


# -- leaving `async with bus` in the child


async def leave_by_error() -> None:
    raise SystemExit(4)


async def leave_by_return() -> None:
    """Leave as if nothing had happened: the bus says that it is not the child's."""


async def leave_after_waiting() -> None:
    await trio.sleep(0.01)
    await trio.to_thread.run_sync(time.sleep, 0.01)
    raise SystemExit(4)


@pytest.mark.parametrize(
    ("leave", "status"), [(leave_by_error, 4), (leave_by_return, 99), (leave_after_waiting, 4)]
)
def test_a_child_that_leaves_the_block_ends_and_the_parent_works_on(
    leave: Callable[[], Awaitable[None]], status: int
) -> None:
    async def main() -> None:
        hub = MemoryHub()
        bus, receiver = make_bus(hub), make_bus(hub)
        seen: list[int] = []
        receiver.subscribe(lambda event: seen.append(event.n), Job)
        async with receiver, bus:
            await bus.dispatch(Job(1))
            pid = fork()
            if pid == 0:
                await leave()
                return
            assert await until_exit(pid) == status
            # Threads wake the loop by a socket that the child has inherited.
            for n in range(2, 30):
                handle = await trio.to_thread.run_sync(bus.dispatch_from_thread, Job(n))
                await handle.wait()
            await wait_all_tasks_blocked()
        assert seen == [*range(1, 30)]

    run_and_leave(main)


WAITS: dict[str, Callable[[GoEvent, DispatchHandle], Awaitable[object]]] = {
    "handle.wait": lambda _, handle: handle.wait(),
    "bus.wait": lambda bus, _: bus.wait(),
    "dispatch": lambda bus, _: bus.dispatch(Job(3)),
    "close": lambda bus, _: bus.close(math.inf),
}


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_that_is_under_way_fails_in_the_child_and_goes_on_in_the_parent(wait: str) -> None:
    async def main() -> None:
        bus, gate = make_bus(), trio.Event()
        outcomes: list[str] = []

        @bus.listener(Job, mailbox=1)
        async def listen(event: Job) -> None:
            await gate.wait()

        async def use(bus: GoEvent, handle: DispatchHandle) -> None:
            try:
                await WAITS[wait](bus, handle)
                outcomes.append("returned")
            except BusForked as error:
                outcomes.append(str(error))

        async with bus, trio.open_nursery() as nursery:
            handle = await bus.dispatch(Job(1))
            await wait_all_tasks_blocked()
            await bus.dispatch(Job(2))
            nursery.start_soon(use, bus, handle)
            await wait_all_tasks_blocked()
            pid = fork()
            if pid == 0:
                await wait_all_tasks_blocked()
                os._exit(7 if "belongs to the parent" in "".join(outcomes) else 1)
            assert await until_exit(pid) == 7
            assert outcomes == []
            gate.set()
        assert outcomes == ["returned"]

    run_and_leave(main)


def test_a_child_may_open_a_bus_of_its_own_in_the_run_loop_of_the_parent() -> None:
    async def main() -> None:
        inherited, own = make_bus(), make_bus()
        seen: list[int] = []
        own.subscribe(lambda event: seen.append(event.n), Job, async_=True)
        async with inherited:
            pid = fork()
            if pid == 0:
                async with own:
                    handle = await trio.to_thread.run_sync(own.dispatch_from_thread, Job(1))
                    await handle.wait()
                os._exit(6 if seen == [1] else 1)
            assert await until_exit(pid) == 6
            async with own:
                await own.dispatch(Job(2))
        assert seen == [2]

    run_and_leave(main)


def test_async_generators_of_the_bus_are_not_closed_in_the_child() -> None:
    closed = os.pipe()

    async def main() -> None:
        parent = os.getpid()

        async def numbers() -> AsyncGenerator[int]:
            try:
                yield 1
            finally:
                if os.getpid() != parent:
                    os.write(closed[1], b"closed in the child")

        kept: list[AsyncGenerator[int]] = []

        async def work(event: Job) -> None:
            kept.append(numbers())
            await anext(kept[0])
            await trio.sleep_forever()

        bus = make_bus(close_timeout=0.0)
        bus.subscribe(work, Job)
        async with bus:
            await bus.dispatch(Job())
            await wait_all_tasks_blocked()
            pid = fork()
            if pid == 0:
                raise SystemExit(4)
            assert await until_exit(pid) == 4
            await kept[0].aclose()

    run_and_leave(main)
    gc.collect()
    os.close(closed[1])
    with os.fdopen(closed[0], "rb") as pipe:
        assert pipe.read() == b""


async def test_errors_of_the_parent_are_not_logged_by_the_child(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = make_bus()

    def fail(event: Job) -> None:
        raise ValueError("once")

    def forget() -> str:
        handles.clear()
        gc.collect()
        return caplog.text

    bus.subscribe(fail, Job)
    # The child must not collect what other tests have left, such as clients with threads.
    gc.collect()
    gc.freeze()
    try:
        async with bus:
            handles = [await bus.dispatch(Job())]
            assert in_child(forget) == ""
            assert "once" not in caplog.text
            handles.clear()
            gc.collect()
            assert "once" in caplog.text
    finally:
        gc.unfreeze()


# -- a bus that is opened after the fork


async def use_bus(bus: GoEvent) -> list[int]:
    seen: list[int] = []
    registration = bus.subscribe(lambda event: seen.append(event.n), Job, async_=True)
    async with bus:
        await (await bus.dispatch(Job(1))).wait()
        await (await trio.to_thread.run_sync(bus.dispatch_from_thread, Job(2))).wait()
    registration.unregister()
    return seen


def test_a_bus_that_was_made_or_closed_before_the_fork_can_be_opened_in_all_processes() -> None:
    fresh, used = make_bus(), make_bus()
    assert trio.run(use_bus, used) == [1, 2]
    for bus in (fresh, used):
        assert in_child(lambda bus=bus: trio.run(use_bus, bus)) == "[1, 2]"  # type: ignore[misc]
        nested = in_child(lambda bus=bus: in_child(lambda: trio.run(use_bus, bus)))  # type: ignore[misc]
        assert nested == "[1, 2]"
        assert trio.run(use_bus, bus) == [1, 2]


async def test_a_closed_bus_can_be_opened_in_a_child_of_a_thread() -> None:
    open_one, other = make_bus(), make_bus()
    async with open_one:
        assert await in_child_of_thread(lambda: trio.run(use_bus, other)) == "[1, 2]"


async def test_a_bus_of_a_hub_can_be_opened_in_a_child_without_the_members_of_the_parent() -> None:
    hub = MemoryHub(inbox=1)
    inherited, own = make_bus(hub), make_bus(hub)
    inherited.subscribe(lambda event: None, Job)

    async def publish() -> int:
        async with own:
            handles = [await own.dispatch(Job(n)) for n in range(5)]
            for handle in handles:
                await handle.wait()
            return sum(handle.receivers or 0 for handle in handles)

    async with inherited:
        assert await in_child_of_thread(lambda: trio.run(publish)) == "0"
        assert await publish() == 5


MADE_BEFORE = make_bus()


def use_in_process(queue: Any) -> None:
    queue.put(trio.run(use_bus, MADE_BEFORE))


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_multiprocessing_works_with_every_start_method(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    queue: Any = context.SimpleQueue()
    processes = [context.Process(target=use_in_process, args=(queue,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(HANG_SECONDS)
        assert process.exitcode == 0
    assert [queue.get() for _ in processes] == [[1, 2], [1, 2]]


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_bus_cannot_be_sent_to_another_process(duplicate: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match="make a bus of its own in the other process"):
        duplicate(make_bus())


def test_the_error_is_a_runtime_error_with_a_text() -> None:
    assert issubclass(BusForked, RuntimeError)
    assert "make a bus of its own" in str(BusForked())
    assert str(BusForked("another text")) == "another text"
