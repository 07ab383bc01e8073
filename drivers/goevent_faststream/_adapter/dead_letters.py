"""Dead letters: events that a group has given up, kept by the broker until somebody decides.

An adapter whose broker can show them has a `dead_letters`, which runs on the loop side; this is
their Trio side. The vocabulary is that of `goevent_redis`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event that was given up.

    Attributes:
        id: what the dead letter is called.
        event_name: the name of the event.
        event_id: what the broker called the event.
        data: the bytes of its message.
        reason: why it was given up, in one line.
        details: the end of the traceback, if a listener failed on it.
        deliveries: how often it was handed out.
        consumer: which bus has given it up; empty if that is not known.
        time: when.
    """

    id: str
    event_name: str
    event_id: str
    data: bytes
    reason: str
    details: str
    deliveries: int
    consumer: str
    time: datetime


class DeadLetterStore(Protocol):
    """Where a broker keeps the dead letters of one group; each method is called on the loop side.

    They raise `DriverError`, and nothing else. What is not there is no error.
    """

    async def count(self) -> int:
        """Return how many there are."""
        ...

    async def list(self, count: int, after: str) -> list[DeadLetter]:
        """Return the oldest ones, or the oldest behind the one with the id `after`."""
        ...

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002
        """Return one, or None if there is none of that id."""
        ...

    async def replay(self, id: str) -> bool:  # noqa: A002
        """Have this group get one again, as if for the first time, and then delete it."""
        ...

    async def discard(self, id: str) -> bool:  # noqa: A002
        """Delete one."""
        ...


@runtime_checkable
class ShowsDeadLetters(Protocol):
    """An adapter that can show its dead letters."""

    @property
    def dead_letters(self) -> DeadLetterStore:
        """Those of the group."""
        ...


class DeadLetters:
    """The dead letters of one group; works while its bus is open.

    Every method raises a `DriverError` if the broker cannot be asked.
    """

    def __init__(self, store: DeadLetterStore, ask: Callable[..., Awaitable[Any]]) -> None:
        self._store = store
        self._ask = ask

    async def count(self) -> int:
        """Return how many there are."""
        return int(await self._ask(self._store.count))

    async def list(self, count: int = PAGE, *, after: str = "") -> list[DeadLetter]:
        """Return the oldest ones, or the oldest behind the one with the id `after`."""
        found: list[DeadLetter] = await self._ask(self._store.list, count, after)
        return found

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002
        """Return one, or None if there is none of that id."""
        found: DeadLetter | None = await self._ask(self._store.get, id)
        return found

    async def replay(self, *letters: DeadLetter | str) -> int:
        """Have the group get some of them again, as if for the first time; returns how many."""
        done = 0
        for each in letters:
            done += bool(await self._ask(self._store.replay, _id(each)))
        return done

    async def replay_all(self) -> int:
        """Have the group get all of them again that there are now; returns how many."""
        ids: list[str] = []
        while page := await self.list(after=ids[-1] if ids else ""):
            ids += [letter.id for letter in page]
        return await self.replay(*ids)

    async def discard(self, *letters: DeadLetter | str) -> int:
        """Delete some of them for good; returns how many."""
        done = 0
        for each in letters:
            done += bool(await self._ask(self._store.discard, _id(each)))
        return done


def _id(letter: DeadLetter | str) -> str:
    return letter if isinstance(letter, str) else letter.id
