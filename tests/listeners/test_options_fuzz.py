"""Random programs of listeners with random options: the ledger balances, every handle ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from goevent import (
    BusClosed,
    Config,
    DeadlockError,
    Delivery,
    DispatchHandle,
    Event,
    EventError,
    EventRegistry,
    GoEvent,
    ListenerOptions,
    MailboxFull,
    NestingError,
    Registration,
    Retry,
    Supervision,
    Veto,
    current_delivery,
)

REGISTRY = EventRegistry()
NAMES = ("fuzz.a", "fuzz.b", "fuzz.b.c", "fuzz.ad_hoc", "fuzz.x.ad_hoc")
TARGETS = (*NAMES, "fuzz.*", "fuzz.**", "*.b", "**")
REFUSALS = (BusClosed, MailboxFull, trio.WouldBlock, DeadlockError, NestingError, TypeError)


class A(Event, name="fuzz.a", registry=REGISTRY):
    n: int


class B(Event, name="fuzz.b", registry=REGISTRY):
    n: int


class C(Event, name="fuzz.b.c", registry=REGISTRY):
    n: int


class StopProgram(Exception):
    """Ends a program."""


class RandomMiddleware:
    """Middleware that sometimes vetoes, fails or waits."""

    def __init__(self, program: OptionsProgram, hook: str, *, suspends: bool) -> None:
        def around(subject: Any, /) -> Iterator[None]:
            self.fail_sometimes(program)
            yield

        async def around_async(subject: Any, /) -> AsyncIterator[None]:
            self.fail_sometimes(program)
            await trio.sleep(program.random.choice((0, 0, 1)))
            yield

        setattr(self, hook, around_async if suspends else around)

    def fail_sometimes(self, program: OptionsProgram) -> None:
        if program.random.random() < 0.05:
            raise Veto("by chance")
        if program.random.random() < 0.05:
            raise ValueError("by chance")


class OptionsProgram:
    """One random program."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.handles: list[DispatchHandle] = []
        self.returned = 0  # runs of listeners that returned
        self.runs: Counter[str] = Counter()
        self.once: set[str] = set()
        self.registrations: list[Registration] = []
        self.numbers = iter(range(10_000))
        self.bus = GoEvent(
            Config(
                registry=REGISTRY,
                middleware=self.middleware(),
                listener=self.default(),
                close_timeout=self.random.choice((0, 1, 30)),
                max_nesting=self.random.choice((5, 20)),
                slow_after=None,
            )
        )
        self.bus.on_error(self.reported)
        self.errors: list[EventError] = []

    def reported(self, error: EventError) -> None:
        self.errors.append(error)

    def middleware(self) -> Any:
        chosen = [
            RandomMiddleware(self, "around_dispatch", suspends=self.random.random() < 0.3),
            RandomMiddleware(self, "around_call", suspends=False),
        ]
        return tuple(each for each in chosen if self.random.random() < 0.4)

    def default(self) -> ListenerOptions:
        if self.random.random() < 0.6:
            return ListenerOptions()
        return ListenerOptions(
            timeout=3, retry=Retry(attempts=2, jitter=0), mailbox=4, context=True, priority=1
        )

    def event(self, n: int) -> Event:
        name = self.random.choice(NAMES)
        made: dict[str, Callable[[int], Event]] = {"fuzz.a": A, "fuzz.b": B, "fuzz.b.c": C}
        if name in made and self.random.random() < 0.7:
            return made[name](n)
        return Event(name, {"n": n})

    # -- listeners

    def options(self, kind: str) -> dict[str, Any]:
        random = self.random
        chances: dict[str, tuple[float, Callable[[], Any]]] = {
            "when": (0.2, lambda: self.when),
            "once": (0.15, lambda: True),
            "supervision": (
                0.3,
                lambda: Supervision(
                    random.choice(("resume", "restart", "restart", "stop")),
                    max_restarts=1000,
                    backoff=random.choice((0, 1)),
                ),
            ),
        }
        if kind in ("inline", "awaited"):
            chances["priority"] = (0.3, lambda: random.randrange(-2, 3))
        else:
            chances["mailbox"] = (0.6, lambda: random.randrange(1, 4))
            chances["overflow"] = (
                0.4,
                lambda: random.choice(("block", "block", "error", "drop_new", "drop_old")),
            )
            chances["context"] = (0.3, lambda: True)
        if kind == "concurrent":
            chances["concurrency"] = (0.7, lambda: random.randrange(2, 4))
            chances["ordering_key"] = (0.5, lambda: key_of)
            del chances["once"]
        if kind != "inline":
            chances["retry"] = (0.3, lambda: Retry(attempts=3, backoff=1, jitter=0))
            chances["timeout"] = (0.3, lambda: random.choice((1, 2.5)))
        return {
            option: make() for option, (chance, make) in chances.items() if random.random() < chance
        }

    def when(self, event: Any) -> bool:
        if self.random.random() < 0.05:
            raise ValueError("cannot tell")
        return self.random.random() < 0.7

    def add(self) -> None:
        random = self.random
        kind = random.choice(("inline", "awaited", "mailbox", "mailbox", "concurrent"))
        options = self.options(kind)
        if kind == "awaited":
            options["async_"] = False
        name = f"{kind} {next(self.numbers)}"
        events = random.sample(TARGETS, random.choice((1, 1, 2)))
        if options.get("once"):
            self.once.add(name)
        handler: Any = self.listen if kind == "inline" else self.listen_async
        self.registrations.append(
            self.bus.subscribe(partial(handler, name), *events, name=name, **options)
        )

    def listen(self, name: str, event: Any) -> None:
        self.runs[name] += 1
        self.act(event)
        self.returned += 1

    async def listen_async(self, name: str, event: Any) -> None:
        random = self.random
        delivery: Delivery = current_delivery()
        assert delivery.listener == name
        self.handles.append(delivery.handle)
        if delivery.attempt == 1:
            self.runs[name] += 1
        for _ in range(random.choice((0, 0, 1, 2))):
            await trio.sleep(random.choice((0, 0, 1, 2)))
        self.act(event)
        n = number(event)
        if n < 3 and random.random() < 0.25:
            with suppress(*REFUSALS):
                handle = await self.bus.dispatch(self.event(n + 1))
                self.handles.append(handle)
                if random.random() < 0.3:
                    await handle.wait()
        elif random.random() < 0.1:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, random.choice((0, 1)))
                nursery.start_soon(trio.sleep, 0)
        assert current_delivery().handle is delivery.handle
        self.returned += 1

    def act(self, event: Any) -> None:
        """Do one of the random actions that an inline `def` can do."""
        random = self.random
        n = number(event)
        if n < 3 and random.random() < 0.2:
            with suppress(*REFUSALS):
                self.handles.append(self.bus.dispatch_nowait(self.event(n + 1)))
        if random.random() < 0.03:
            self.change()
        if random.random() < 0.15:
            raise ValueError("by chance")

    def change(self) -> None:
        random = self.random
        choice = random.random()
        if choice < 0.45 and self.registrations:
            self.registrations.pop(random.randrange(len(self.registrations))).unregister()
        elif choice < 0.5:
            self.bus.unregister_listeners_for_event(random.choice(TARGETS))
        else:
            self.add()

    # -- the program

    async def dispatch_much(self) -> None:
        random = self.random
        for _ in range(random.randrange(1, 25)):
            event = self.event(0)
            with suppress(*REFUSALS):
                if random.random() < 0.3:
                    self.handles.append(self.bus.dispatch_nowait(event))
                else:
                    with trio.move_on_after(random.choice((0, 1, 3, 100))):
                        self.handles.append(await self.bus.dispatch(event))
            await trio.sleep(random.choice((0, 0, 0.5, 2)))

    async def change_much(self) -> None:
        for _ in range(10):
            await trio.sleep(self.random.choice((0, 1, 3)))
            self.change()

    async def open_once(self, *, wait: bool) -> None:
        async with trio.open_nursery() as nursery:
            with suppress(StopProgram):
                async with self.bus:
                    for _ in range(self.random.randrange(1, 5)):
                        nursery.start_soon(self.dispatch_much)
                    nursery.start_soon(self.change_much)
                    await trio.sleep(self.random.choice((0, 2, 10)))
                    if wait:
                        await self.bus.wait()
                    ending = self.random.random()
                    if ending < 0.3:
                        raise StopProgram
                    if ending < 0.6:
                        await self.bus.close(self.random.choice((0, 1, 50)))
            self.check()

    def check(self) -> None:
        """Check that nothing is unfinished and that everything is counted once."""
        snapshot = self.bus.snapshot()
        assert snapshot.state == "closed"
        ledger = snapshot.ledger
        ended = ledger.completed + ledger.failed + ledger.dropped + ledger.abandoned
        assert ledger.accepted == ended, snapshot
        assert snapshot.ledger.completed == self.returned
        for listener in snapshot.listeners:
            assert (listener.depth, listener.in_flight) == (0, 0)
        self.returned = 0
        undone = [handle for handle in self.handles if not handle.done]
        assert undone == []
        self.handles.clear()
        for name in self.once:
            assert self.runs[name] <= 1

    async def run(self) -> None:
        for _ in range(self.random.randrange(1, 12)):
            self.add()
        with trio.fail_after(10_000):
            for _ in range(self.random.choice((1, 1, 2))):
                await self.open_once(wait=self.random.random() < 0.5)


def number(event: Any) -> int:
    value = event.payload()["n"]
    assert isinstance(value, int)
    return value


def key_of(event: Any) -> int:
    return number(event) % 2


@pytest.mark.parametrize("seed", range(40))
def test_a_random_program_finishes_every_event_and_counts_it_once(seed: int) -> None:
    trio.run(OptionsProgram(seed).run, clock=MockClock(autojump_threshold=0))
