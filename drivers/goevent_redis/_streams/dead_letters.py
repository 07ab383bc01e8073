"""Dead letters: events that a group has given up, kept until somebody decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import exceptions as redis_errors

from .._link.link import Link
from .faults import refusal
from .keys import Keys
from .replay import ready_again
from .scripts import REVIVE, Script, call
from .stream import place, text

PAGE = 100

LETTERS = Script("""
local from, count, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local found, size = {}, 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', count)) do
  for _, each in ipairs(entry[2]) do size = size + #each + 16 end
  if found[1] and size > most then break end
  found[#found + 1] = entry
end
return found
""")
"""Return dead letters until a reply of so many bytes is full, one at the least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event that was given up.

    Attributes:
        id: what the dead letter is called.
        event_name: the name of the event.
        event_id: what the broker called the event.
        data: the bytes of its envelope.
        reason: why it was given up, in one line.
        details: the end of the traceback, if a listener failed on it.
        deliveries: how often it was handed out.
        consumer: which bus has given it up.
        time: when.
        partition: in which partition of its name it is, if there are some.
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


class DeadLetters:
    """The dead letters of one group; works while its bus is open."""

    def __init__(self, link: Callable[[], Link], keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def count(self) -> int:
        """Return how many there are."""
        return int(await self._ask("XLEN", self._keys.dead))

    async def list(self, count: int = PAGE, *, after: str = "") -> list[DeadLetter]:
        """Return the oldest ones, or the oldest behind the one with the id `after`."""
        found: list[DeadLetter] = []
        while len(found) < count:
            start = f"({after}" if after else "-"
            page = await self._page(start, count - len(found))
            if not page:
                break
            found += [_letter(entry_id, fields) for entry_id, fields in page]
            after = found[-1].id
        return found

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002
        """Return one, or None if there is none of that id."""
        found = await self._ask("XRANGE", self._keys.dead, id, id)
        return _letter(*found[0]) if found else None

    async def replay(self, *letters: DeadLetter | str) -> int:
        """Have the group get some of them again, as if for the first time; returns how many."""
        done = 0
        for each in letters:
            letter = await self.get(each) if isinstance(each, str) else each
            if letter is None:
                continue
            again = self._keys.again(letter.event_name, partition=letter.partition)
            link = self._link()
            try:
                await ready_again(link, again, self._keys.group)
                args = (letter.id, letter.event_id, letter.data)
                done += await call(link, REVIVE, (self._keys.dead, again), *args)
            except redis_errors.RedisError as error:
                raise refusal(error, "replay a dead letter") from error
        return done

    async def replay_all(self) -> int:
        """Have the group get all of them again that there are now; returns how many."""
        newest = await self._ask("XREVRANGE", self._keys.dead, "+", "-", "COUNT", 1)
        done, after = 0, ""
        while newest:
            page = [each for each in await self.list(after=after) if _until(each, newest[0][0])]
            if not page:
                break
            done += await self.replay(*page)
            after = page[-1].id
        return done

    async def discard(self, *letters: DeadLetter | str) -> int:
        """Delete some of them for good; returns how many."""
        ids = [each if isinstance(each, str) else each.id for each in letters]
        return int(await self._ask("XDEL", self._keys.dead, *ids)) if ids else 0

    async def _page(self, start: str, count: int) -> Any:
        link = self._link()
        try:
            most = link.config.max_reply_size // 2
            return await call(link, LETTERS, (self._keys.dead,), start, count, most)
        except redis_errors.RedisError as error:
            raise refusal(error, "show dead letters") from error

    async def _ask(self, command: str, *args: Any) -> Any:
        try:
            return await self._link().execute(command, *args)
        except redis_errors.RedisError as error:
            raise refusal(error, "show dead letters") from error


def _until(letter: DeadLetter, newest: bytes) -> bool:
    return place(letter.id) <= place(newest)


def _letter(entry_id: bytes, fields: list[bytes]) -> DeadLetter:
    said = {fields[at]: fields[at + 1] for at in range(0, len(fields) - 1, 2)}
    return DeadLetter(
        id=text(entry_id),
        event_name=text(said.get(b"n", b"")),
        event_id=text(said.get(b"i", b"")),
        data=said.get(b"e", said.get(b"f", b"")),
        reason=text(said.get(b"r", b"")),
        details=text(said.get(b"t", b"")),
        deliveries=int(said.get(b"d", b"0")),
        consumer=text(said.get(b"c", b"")),
        time=datetime.fromtimestamp(place(entry_id)[0] / 1000, UTC),
        partition=int(said[b"p"]) if b"p" in said else None,
    )
