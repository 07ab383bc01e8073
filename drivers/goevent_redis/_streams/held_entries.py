"""The entries that this bus holds, and how much of its prefetch they use: number and bytes."""

from __future__ import annotations

from collections.abc import Callable

import trio

from .stream import Entry


class HeldEntries:
    """All entries that one open bus holds: read, and not settled at the server.

    The entries themselves are in `Stream.held`.

    Attributes:
        limit: The prefetch: how many entries the bus may hold.
        limit_bytes: How large these entries may be together. The entry that exceeds it is held, so
            that one of any size can be read.
        count: How many it holds.
        size: Their size in bytes.
        by_handle_id: Held entries by the handle id of their event, if duplicates are looked for.
        on_forgotten: Called whenever an entry is no longer held.
    """

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.count = self.size = 0
        self.by_handle_id: dict[str, Entry] = {}
        self.on_forgotten: list[Callable[[], None]] = []
        self._freed = trio.Event()

    @property
    def room(self) -> int:
        """How many more entries may be read, if they are small."""
        return self.limit - self.count if self.size < self.limit_bytes else 0

    @property
    def room_bytes(self) -> int:
        """How many bytes more may be read."""
        return max(0, self.limit_bytes - self.size)

    def forget(self, entry: Entry) -> None:
        """Stop holding an entry."""
        held = entry.stream.held
        # Another entry may stand there by now: the same id, delivered anew.
        if held.get(entry.id) is entry:
            del held[entry.id]
            self.count -= 1
            self.size -= entry.size
            self._freed.set()
            if entry.handle_id and self.by_handle_id.get(entry.handle_id) is entry:
                del self.by_handle_id[entry.handle_id]
            for notify in self.on_forgotten:
                notify()

    def has_room(self, room: int) -> bool:
        """Tell whether there is room for `room` entries, and for their share of the bytes."""
        return self.room >= room and self.room_bytes >= self.limit_bytes * room // self.limit

    async def wait_for_room(self, room: int) -> None:
        """Wait until there is room for `room` entries, and for their share of the bytes."""
        while not self.has_room(room):
            self._freed = trio.Event()
            await self._freed.wait()
