"""The dead letters of a group, which Redis keeps in the stream `dead:<group>`.

Theory of operation
-------------------

`goevent.drivers.verdict` gives an event up; so does the deliverer for an entry that no consumer
could finish or decode. One script then writes the dead letter and acknowledges the entry, if the
entry still belongs to the consumer. Either both happen or neither: an event is never lost between
the two, and never given up twice. A server that is out of memory refuses the script, and the entry
stays pending until there is room.

The fields of a dead letter: `n` event name, `i` entry id, `d` deliveries, `r` reason, `t` end of
the traceback, `c` consumer, `p` partition, `k` key, and `e` the bytes of the event. `f` stands in
place of `e` for an entry without an event.

A replay copies the event to the stream of the events that only this group gets again, and deletes
the dead letter, in one script, too. The copy starts with a new count of deliveries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from redis import exceptions as redis_errors

from goevent.drivers import DeadLetter

from .._link.link import Link
from .faults import refusal
from .keys import StreamKeys
from .replay import create_replay_group
from .scripts import LIST_DEAD_LETTERS, REPLAY_DEAD_LETTER, call
from .stream import as_text, parse_id


class StreamDeadLetters:
    """The dead letters of one group: a `goevent.drivers.DeadLetterStore`.

    Args:
        link: Returns the link of the open bus, or raises if the bus is not open.
    """

    def __init__(self, link: Callable[[], Link], keys: StreamKeys) -> None:
        self._link = link
        self._keys = keys

    async def count(self) -> int:
        """Return the number of dead letters."""
        return int(await self._execute("XLEN", self._keys.dead))

    async def list(self, count: int, after: str) -> list[DeadLetter]:
        """Return the oldest dead letters, or the oldest behind the id `after`."""
        found: list[DeadLetter] = []
        while len(found) < count:
            # A reply holds fewer letters than asked for if they are large.
            start = f"({after}" if after else "-"
            page = await self._page(start, count - len(found))
            if not page:
                break
            found += [_letter(entry_id, fields) for entry_id, fields in page]
            after = found[-1].id
        return found

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002
        """Return a dead letter, or None if the id is unknown."""
        found = await self._execute("XRANGE", self._keys.dead, id, id)
        return _letter(*found[0]) if found else None

    async def replay(self, ids: Sequence[str]) -> int:
        """Deliver events to this group again, each as if for the first time; return how many."""
        done = 0
        for each in ids:
            letter = await self.get(each)
            if letter is None:
                continue
            target = self._keys.replayed(letter.event_name, partition=letter.partition)
            link = self._link()
            try:
                await create_replay_group(link, target, self._keys.group)
                args = (letter.id, letter.event_id, letter.data)
                done += await call(link, REPLAY_DEAD_LETTER, (self._keys.dead, target), *args)
            except redis_errors.RedisError as error:
                raise refusal(error, "replay a dead letter") from error
        return done

    async def discard(self, ids: Sequence[str]) -> int:
        """Delete dead letters; return how many."""
        return int(await self._execute("XDEL", self._keys.dead, *ids)) if ids else 0

    async def _page(self, start: str, count: int) -> Any:
        link = self._link()
        try:
            max_reply = link.config.max_reply_size // 2
            return await call(link, LIST_DEAD_LETTERS, (self._keys.dead,), start, count, max_reply)
        except redis_errors.RedisError as error:
            raise refusal(error, "show dead letters") from error

    async def _execute(self, command: str, *args: Any) -> Any:
        try:
            return await self._link().execute(command, *args)
        except redis_errors.RedisError as error:
            raise refusal(error, "show dead letters") from error


def _letter(entry_id: bytes, fields: Sequence[bytes]) -> DeadLetter:
    told = {fields[at]: fields[at + 1] for at in range(0, len(fields) - 1, 2)}
    return DeadLetter(
        id=as_text(entry_id),
        event_name=as_text(told.get(b"n", b"")),
        event_id=as_text(told.get(b"i", b"")),
        data=told.get(b"e", told.get(b"f", b"")),
        reason=as_text(told.get(b"r", b"")),
        details=as_text(told.get(b"t", b"")),
        deliveries=int(told.get(b"d", b"0")),
        consumer=as_text(told.get(b"c", b"")),
        time=datetime.fromtimestamp(parse_id(entry_id)[0] / 1000, UTC),
        partition=int(told[b"p"]) if b"p" in told else None,
    )
