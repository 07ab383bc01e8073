"""Keeps an event that comes twice from being delivered twice."""

from __future__ import annotations

import reprlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import trio

from .. import DispatchHandle, Event, Veto


class Deduplicate:
    """Veto events that were dispatched, or have arrived, before.

    Two events are the same if they have the same name and the same key. It goes into
    `Config.middleware`. One object is for one bus: it has one memory for what the bus dispatches
    and for what arrives from other buses. The memory is not kept from one run of the program to the
    next.

    An event counts from the moment its dispatch begins. If the dispatch raises, or is cancelled
    before it is over, the event may come again: so one may be delivered twice after all, but none
    is refused for the sake of another that went nowhere. A listener that fails changes nothing.

    Args:
        key: what is the same in duplicates: the name of an attribute, or a function of the event.
            An event without that attribute, or whose key is None, is never a duplicate.
        window: how many keys are remembered, those seen last.
        ttl: seconds after which a key may come again; without it, only the window counts.
    """

    def __init__(
        self,
        key: str | Callable[[Any], Hashable],
        *,
        window: int = 10_000,
        ttl: float | None = None,
    ) -> None:
        if not isinstance(key, str) and not callable(key):
            raise TypeError(f"key is an attribute's name or a function, not {key!r}")
        if isinstance(window, bool) or not isinstance(window, int):
            raise TypeError(f"window is a number of keys, not {window!r}")
        if window < 1:
            raise ValueError(f"window is at least 1 key, not {window}")
        if ttl is not None and not ttl > 0:
            raise ValueError(f"ttl is more than 0 seconds, not {ttl!r}")
        self._key = key
        self._window = window
        self._ttl = ttl
        self._seen: OrderedDict[tuple[str, Hashable], Sighting] = OrderedDict()

    def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
        """Let an event go its way only once."""
        yield from self._once(handle)

    def around_delivery(self, handle: DispatchHandle, /) -> Iterator[None]:
        """Let an event in only once."""
        yield from self._once(handle)

    def _once(self, handle: DispatchHandle) -> Iterator[None]:
        key = self._key_of(handle.event)
        if key is None:
            yield
            return
        place = (handle.event_name, key)
        earlier = self._seen.get(place)
        if earlier is not None and self._remembers(earlier):
            self._seen.move_to_end(place)
            raise Veto(f"a duplicate, by its key {reprlib.repr(key)}")
        sighting = self._seen[place] = Sighting()
        self._seen.move_to_end(place)
        if len(self._seen) > self._window:
            self._seen.popitem(last=False)
        try:
            yield
            sighting.ended = trio.current_time()
        finally:
            if sighting.ended is None and self._seen.get(place) is sighting:
                del self._seen[place]

    def _key_of(self, event: object) -> Hashable:
        if callable(self._key):
            return self._key(event)
        if isinstance(event, Event) and not hasattr(event, self._key):
            key: Hashable = event.payload().get(self._key)  # an ad-hoc event has no attributes
            return key
        return getattr(event, self._key, None)

    def _remembers(self, earlier: Sighting) -> bool:
        if earlier.ended is None or self._ttl is None:
            return True
        # Below zero, if the bus is used in a second `trio.run`, whose clock is another one.
        return 0 <= trio.current_time() - earlier.ended < self._ttl


class Sighting:
    """One event that was let through."""

    __slots__ = ("ended",)

    def __init__(self) -> None:
        self.ended: float | None = None  # None while its dispatch is under way
