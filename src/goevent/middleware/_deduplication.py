"""Deduplication: drops an event that was dispatched, or has arrived, before.

`Deduplicate` remembers the keys of events in the order in which they were last seen. An entry is
made when a dispatch begins and removed when the dispatch fails, so a repetition may follow a
failure.
"""

from __future__ import annotations

import inspect
import reprlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import trio

from .. import DispatchHandle, Event, Veto
from .._suggestions import suggest_options


@suggest_options
class Deduplicate:
    """Veto an event that was dispatched, or has arrived, before.

    Two events are duplicates if their names and their keys are equal. Put the object into
    `Config.middleware` of one bus. It has one memory for the events that the bus dispatches and for
    those that arrive from other buses. The memory ends with the process.

    An event is remembered when its dispatch begins. If the dispatch raises or is cancelled, the
    event is forgotten and may come again. So an event may be delivered twice after a failure, but
    an event is never dropped in favour of another one that was not delivered. A failing listener
    does not change this.

    Example:
        >>> config = Config(middleware=(Deduplicate("order_id", window=1000, ttl=60.0),))
        >>> async with GoEvent(config) as bus:
        ...     for _ in range(2):
        ...         handle = await bus.dispatch(Event("order.paid", {"order_id": 7}))
        >>> handle.errors[0].reason
        'a duplicate with the key 7'

    Args:
        key: The name of the attribute that duplicates have in common, or a function of the event.
            An event without this attribute, or with the key None, is never a duplicate.
        window: The number of keys to remember, the most recently seen ones.
        ttl: The time in seconds after which a key may come again. By default only the window
            counts.

    Raises:
        TypeError: `key` or `window` has the wrong type.
        ValueError: `window` or `ttl` is out of range.
    """

    def __init__(
        self,
        key: str | Callable[[Any], Hashable],
        *,
        window: int = 10_000,
        ttl: float | None = None,
    ) -> None:
        if not isinstance(key, str) and not callable(key):
            raise TypeError(f"key must be the name of an attribute or a function, not {key!r}")
        if isinstance(window, bool) or not isinstance(window, int):
            raise TypeError(f"window must be a number of keys, not {window!r}")
        if window < 1:
            raise ValueError(f"window must be at least 1 key, not {window}")
        if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, int | float)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"ttl must be a number of seconds, not {ttl!r}")
        if ttl is not None and not ttl > 0:
            raise ValueError(f"ttl must be more than 0 seconds, not {ttl!r}")
        self._key = key
        self._window = window
        self._ttl = ttl
        self._seen: OrderedDict[tuple[str, Hashable], SeenEvent] = OrderedDict()

    def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
        """Veto the dispatch of a duplicate."""
        yield from self._once(handle)

    def around_delivery(self, handle: DispatchHandle, /) -> Iterator[None]:
        """Veto a duplicate that arrives from another bus."""
        yield from self._once(handle)

    def _once(self, handle: DispatchHandle) -> Iterator[None]:
        key = self._key_of(handle.event)
        if key is None:
            yield
            return
        identity = (handle.event_name, key)
        earlier = self._seen.get(identity)
        if earlier is not None and self._is_remembered(earlier):
            self._seen.move_to_end(identity)
            raise Veto(f"a duplicate with the key {reprlib.repr(key)}")
        seen = self._seen[identity] = SeenEvent()
        self._seen.move_to_end(identity)
        if len(self._seen) > self._window:
            self._seen.popitem(last=False)
        try:
            yield
            seen.ended = trio.current_time()
        finally:
            # The dispatch failed. Its entry may have left the window and been made anew meanwhile.
            if seen.ended is None and self._seen.get(identity) is seen:
                del self._seen[identity]

    def _key_of(self, event: object) -> Hashable:
        if callable(self._key):
            found = self._key(event)
            # Each of these is a key that no other event has.
            if (
                inspect.isawaitable(found)
                or inspect.isgenerator(found)
                or inspect.isasyncgen(found)
            ):
                if inspect.iscoroutine(found):
                    found.close()
                raise TypeError("key must be a `def` that returns the key, without `yield`")
            return found
        if isinstance(event, Event) and not hasattr(event, self._key):
            # An ad-hoc event has no attributes for its fields.
            key: Hashable = event.payload().get(self._key)
            return key
        return getattr(event, self._key, None)

    def _is_remembered(self, earlier: SeenEvent) -> bool:
        if earlier.ended is None or self._ttl is None:
            return True
        # The difference is negative if the entry is from an earlier `trio.run`, whose clock
        # differs.
        return 0 <= trio.current_time() - earlier.ended < self._ttl


class SeenEvent:
    """An event that was not vetoed.

    Attributes:
        ended: The time at which its dispatch ended, None while the dispatch is in progress.
    """

    __slots__ = ("ended",)

    def __init__(self) -> None:
        self.ended: float | None = None
