"""Records what a bus does."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio

from .. import GoEvent, Ledger

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Run:
    """One call of a listener; `error` is what it raised."""

    listener: str
    event: Any
    error: BaseException | None = None


@dataclass(slots=True)
class Recorder:
    """What was dispatched on a bus and what ran, in order.

    Attributes:
        dispatched: every event, when it was dispatched, also those nobody listens to.
        runs: every call of a listener, when it had ended.
    """

    dispatched: list[Any] = field(default_factory=list[Any])
    runs: list[Run] = field(default_factory=list[Run])

    def events(self, kind: type[E]) -> list[E]:
        """Return the dispatched events of one class."""
        return [event for event in self.dispatched if isinstance(event, kind)]

    def ran(self, listener: str | Callable[..., Any]) -> list[Any]:
        """Return the events that a listener, given by name or as the function, has run."""
        name = listener if isinstance(listener, str) else listener.__qualname__
        return [run.event for run in self.runs if run.listener == name]

    def clear(self) -> None:
        """Forget everything so far."""
        self.dispatched.clear()
        self.runs.clear()

    # What the bus calls.

    def note(self, event: Any) -> None:
        """Take note of a dispatch."""
        self.dispatched.append(event)

    def watch(
        self, listener: str, call: Callable[[Any], Any], inline: bool
    ) -> Callable[[Any], Any]:
        """Return a call that takes note of what `call` does."""

        @contextmanager
        def noted(event: Any) -> Generator[None]:
            try:
                yield
            except BaseException as error:
                self.runs.append(Run(listener, event, error))
                raise
            self.runs.append(Run(listener, event))

        def run(event: Any) -> Any:
            with noted(event):
                return call(event)

        async def run_async(event: Any) -> None:
            with noted(event):
                await call(event)

        return run if inline else run_async


def record(bus: GoEvent) -> Recorder:
    """Record a bus from now on; it can be recorded once.

    Raises:
        RuntimeError: the bus is recorded already.
    """
    recorder = Recorder()
    bus._observe(recorder)  # pyright: ignore[reportPrivateUsage]
    return recorder


async def wait_idle(bus: GoEvent) -> None:
    """Wait until nothing is left to do, also what listeners dispatch meanwhile.

    Unlike `bus.wait()`, which waits for what was dispatched before. When listeners dispatch in an
    endless circle, it never returns.
    """
    await trio.lowlevel.checkpoint()
    while unsettled(bus.snapshot().ledger):
        await bus.wait()


def unsettled(ledger: Ledger) -> int:
    """Return how many deliveries are under way, also to listeners that were unregistered."""
    lost = ledger.failed + ledger.dropped + ledger.abandoned
    return ledger.accepted - ledger.completed - lost
