"""Forks for tests: a child process that does some work, tells the outcome and ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import outcome
import trio

from goevent import DispatchHandle, Event, GoEvent, Registration

CHILD_SECONDS = 60
"""A child that hangs is killed after so many seconds."""

OK = "returned"


def in_child(work: Callable[[], object]) -> str:
    """Fork, call a function in the child, and return the text of its value or exception.

    The child ends without any clean-up, as a child of `multiprocessing` does.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "nothing"
        try:
            signal.alarm(CHILD_SECONDS)
            text = str(work())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        finally:
            os.write(write, text.encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with the status {status}"
    return told


async def in_child_of_thread(work: Callable[[], object]) -> str:
    """Fork in a thread other than that of the run loop, as `in_child`."""
    return await trio.to_thread.run_sync(in_child, work)


def attempt(call: Callable[[], Any]) -> str:
    """Make one call, and return the name of its exception; a coroutine must not wait."""
    try:
        result = call()
        if isinstance(result, Awaitable):
            result.__await__().send(None)
            return "waited"
    except StopIteration:
        return OK
    except BaseException as error:
        return type(error).__name__
    return OK


def calls_of(
    bus: GoEvent, event: Event, registration: Registration, *handles: DispatchHandle
) -> Mapping[str, Callable[[], Any]]:
    """Return calls of all methods that a bus in a fork has to refuse."""

    def listen(event: object) -> None:
        raise AssertionError("it was registered")

    return {
        "dispatch": lambda: bus.dispatch(event),
        "dispatch_nowait": lambda: bus.dispatch_nowait(event),
        "dispatch_from_thread": lambda: bus.dispatch_from_thread(event),
        "listener": lambda: bus.listener(type(event))(listen),
        "subscribe": lambda: bus.subscribe(listen, type(event)),
        "unregister_listeners_for_event": lambda: bus.unregister_listeners_for_event(type(event)),
        "unregister": registration.unregister,
        "registration.ready": registration.ready,
        "ready": bus.ready,
        "wait": bus.wait,
        "replay": lambda: bus.replay(type(event)),
        "close": bus.close,
        "aenter": bus.__aenter__,
        "aexit in another run loop": lambda: in_thread(lambda: trio.run(leave, bus)),
        "errors": lambda: bus.errors,
        "clear_errors": bus.clear_errors,
        "on_error": lambda: bus.on_error(print),
        "snapshot": bus.snapshot,
        **{f"wait {n}": handle.wait for n, handle in enumerate(handles)},
    }


async def leave(bus: GoEvent) -> None:
    await bus.__aexit__(None, None, None)


def in_thread(work: Callable[[], object]) -> None:
    """Call a function in a new thread."""
    results: list[outcome.Outcome[object]] = []
    thread = threading.Thread(target=lambda: results.append(outcome.capture(work)))
    thread.start()
    thread.join()
    results[0].unwrap()


def not_refused(calls: Mapping[str, Callable[[], Any]]) -> dict[str, str]:
    """Make all calls, and return the outcome of those that raise no `BusForked`."""
    outcomes = {name: attempt(call) for name, call in calls.items()}
    return {name: outcome for name, outcome in outcomes.items() if outcome != "BusForked"}


def run_and_leave(main: Callable[[], Awaitable[object]]) -> None:
    """Run a function with Trio; a forked child that leaves it by an exception ends here.

    Its exit status is that of the `SystemExit`, or 99 for another exception.
    """
    parent = os.getpid()
    status = 98
    try:
        trio.run(main)
    except SystemExit as error:
        if os.getpid() == parent:
            raise
        status = int(error.code or 0)
    except BaseException:
        if os.getpid() == parent:
            raise
        status = 99
    finally:
        if os.getpid() != parent:
            os._exit(status)
