"""Dead letters: events that a consumer group has given up, kept until a person decides.

The broker keeps them, the driver implements a `DeadLetterStore`, and users see `DeadLetters`, which
is the same for every broker. `durable` decides which event becomes a dead letter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from .._errors import DeadLettered, require_trio
from .error_mapping import driver_errors

T = TypeVar("T")

MAX_REASON_CHARS = 1000
"""The length to which `in_one_line` cuts a reason, so that it fits into a header of any broker."""
DEAD_LETTERS_PER_PAGE = 100
"""How many dead letters `DeadLetters.list` returns, unless it is told another number."""
DEAD_LETTERS_PER_CALL = 20
"""How many dead letters the store gets in one call to replay or to discard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event that a group has given up.

    Attributes:
        id: The id of the dead letter.
        event_name: The name of the event.
        event_id: The broker's id of the event.
        data: The bytes of its message.
        reason: Why it was given up, in one line.
        details: The end of the traceback, if a listener failed.
        deliveries: How often it was delivered.
        consumer: The bus that gave it up; empty if that is unknown.
        time: When it was given up.
        partition: The partition of the event; None if its name has none.
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
    partition: int | None = None


class DeadLetterStore(Protocol):
    """The place where a broker keeps the dead letters of one group.

    Methods raise a `DriverError` if the broker cannot be asked. An unknown id is not an error.
    """

    async def count(self) -> int:
        """Return the number of dead letters."""
        ...

    async def list(self, count: int, after: str) -> list[DeadLetter]:
        """Return the oldest dead letters, or the oldest behind the id `after`."""
        ...

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002
        """Return a dead letter, or None if the id is unknown."""
        ...

    async def replay(self, ids: Sequence[str]) -> int:
        """Deliver events to this group again, each as if for the first time; return how many.

        A dead letter is deleted once its event is published. At most `DEAD_LETTERS_PER_CALL` ids
        are given.
        """
        ...

    async def discard(self, ids: Sequence[str]) -> int:
        """Delete dead letters; return how many. At most `DEAD_LETTERS_PER_CALL` ids are given."""
        ...


async def call_directly(method: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Call a method of a store in the current task."""
    return await method(*args)


class DeadLetters:
    """The dead letters of one group; usable while the bus is open.

    Every method raises a `DriverError` if the broker cannot be asked.

    Args:
        store: The broker's side.
        call: How methods of the store are called; a driver whose store lives in another thread
            gives its own function.

    Example:
        ::

            for letter in await driver.dead_letters.list():
                print(letter.event_name, letter.reason)
            await driver.dead_letters.replay_all()
    """

    def __init__(
        self, store: DeadLetterStore, call: Callable[..., Awaitable[Any]] = call_directly
    ) -> None:
        self._store = store
        self._call = call

    async def count(self) -> int:
        """Return the number of dead letters."""
        require_trio()
        return int(await self._ask("count", self._store.count))

    async def list(
        self, count: int = DEAD_LETTERS_PER_PAGE, *, after: str = ""
    ) -> list[DeadLetter]:
        """Return the oldest dead letters.

        Args:
            count: The largest number to return.
            after: The id of a dead letter; only later ones are returned.
        """
        require_trio()
        found: list[DeadLetter] = await self._ask("list", self._store.list, count, after)
        return found

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002
        """Return the dead letter with an id, or None if there is none."""
        require_trio()
        found: DeadLetter | None = await self._ask("get", self._store.get, id)
        return found

    async def replay(self, *letters: DeadLetter | str) -> int:
        """Deliver events to the group again, each as if for the first time.

        Args:
            letters: Dead letters or their ids.

        Returns:
            How many were replayed; others may have been replayed or discarded meanwhile.
        """
        return await self._in_parts("replay", self._store.replay, letters)

    async def replay_all(self) -> int:
        """Replay all dead letters that exist now; return how many."""
        # The number and the ids first. Events that fail meanwhile, also replayed ones, stand behind
        # the others; without the number the listing would run after them.
        count = await self.count()
        ids: list[str] = []
        while len(ids) < count:
            wanted = min(count - len(ids), DEAD_LETTERS_PER_PAGE)
            page = await self.list(wanted, after=ids[-1] if ids else "")
            if not page:
                # Some were discarded meanwhile.
                break
            ids += [letter.id for letter in page]
        return await self.replay(*ids)

    async def discard(self, *letters: DeadLetter | str) -> int:
        """Delete dead letters for good.

        Args:
            letters: Dead letters or their ids.

        Returns:
            How many were deleted.
        """
        return await self._in_parts("discard", self._store.discard, letters)

    async def _in_parts(
        self,
        action: str,
        method: Callable[[Sequence[str]], Awaitable[int]],
        letters: Sequence[DeadLetter | str],
    ) -> int:
        require_trio()
        ids = [each if isinstance(each, str) else each.id for each in letters]
        done = 0
        for first in range(0, len(ids), DEAD_LETTERS_PER_CALL):
            part = ids[first : first + DEAD_LETTERS_PER_CALL]
            done += int(await self._ask(action, method, part))
        return done

    async def _ask(self, action: str, method: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        with driver_errors(self._store, f"{action} dead letters"):
            return await self._call(method, *args)


def in_one_line(reason: str) -> str:
    """Return a reason without line breaks and not too long, as brokers' headers need it."""
    return " ".join(reason.split())[:MAX_REASON_CHARS]


def dead_letter_report(
    event_name: str, event_id: str, deliveries: int, reason: str
) -> DeadLettered:
    """Return the report that an event has become a dead letter."""
    return DeadLettered(event_name, event_id, in_one_line(reason), deliveries)
