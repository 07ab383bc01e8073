"""The mailboxes that several lanes of one listener read.

A listener without lanes has a plain deque for its mailbox. With `concurrency=n` it has n lanes (see
`actor`), and its mailbox gets these lanes when it is made. The dispatcher appends to the
mailbox; the workers that run the lanes take events from it.

Theory of operation. All lanes read one deque, the `SharedMailbox`, so a free lane always takes the
next event. An append schedules one free lane; a lane that finds the deque empty is free again.

With an `ordering_key` a `KeyedMailbox` stands before that deque, and adds to it only events that
may run now: the oldest of each key. The events behind it wait in the keyed mailbox. When a lane has
finished with an event, the next one of the same key becomes runnable. A `KeyedFifo` has the order.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from types import NoneType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from .._options.results import AS_DEF, refuse_unrun
from ..drivers.keyed_fifo import KeyedFifo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .._handle import DispatchHandle

PLAIN_KEY_TYPES = frozenset((str, int, bytes, float, bool, NoneType))
"""The types of most keys. They are no results of `async def`, and their code is Python's own."""


class MailboxLane(Protocol):
    """The part of a lane that its mailbox uses."""

    @property
    def scheduled(self) -> bool: ...
    @scheduled.setter
    def scheduled(self, scheduled: bool, /) -> None: ...
    @property
    def current(self) -> DispatchHandle | None: ...


L = TypeVar("L", bound=MailboxLane)


class SharedMailbox(deque["DispatchHandle"], Generic[L]):
    """The mailbox of a listener with several lanes; events leave it in the order of arrival.

    Args:
        lanes: The lanes that read the mailbox.
        schedule: Queues a lane for a worker.

    Attributes:
        free: The lanes that no worker has.
    """

    def __init__(self, lanes: tuple[L, ...], schedule: Callable[[L], None]) -> None:
        super().__init__()
        self.lanes: tuple[L, ...] = lanes
        self.free: list[L] = [*lanes]
        self._schedule = schedule

    def append(self, handle: DispatchHandle, /) -> None:
        super().append(handle)
        if self.free:
            lane = self.free.pop()
            lane.scheduled = True
            self._schedule(lane)

    def engage(self, count: int) -> None:
        """Schedule `count` more lanes, or as many as are free."""
        for _ in range(min(count, len(self.free))):
            lane = self.free.pop()
            lane.scheduled = True
            self._schedule(lane)

    def keep(self, handle: DispatchHandle) -> None:
        """Append an event without scheduling a lane for it."""
        super().append(handle)

    def retain(self, handles: Iterable[DispatchHandle]) -> None:
        """Keep only the given ones of the queued events."""
        # `extend` schedules no lane: there are fewer events than before.
        self.clear()
        self.extend(handles)

    @property
    def in_flight(self) -> list[DispatchHandle]:
        """The events that the listener works on."""
        if len(self.free) == len(self.lanes):
            return []
        return [lane.current for lane in self.lanes if lane.current is not None]

    @property
    def needed_for_room(self) -> tuple[L, ...]:
        """The lanes that can take an event out of the mailbox; one of them has to proceed."""
        return () if self.free else self.lanes

    def needed_for_event(self, handle: DispatchHandle) -> tuple[L, ...]:
        """Return the lanes that can let a queued event run; one of them has to proceed."""
        return self.needed_for_room


class StableKey:
    """Stands for a key whose class has code of its own; it is equal to itself only."""

    __slots__ = ("hash", "key")

    def __init__(self, key: Any, hashed: int) -> None:
        self.key = key
        self.hash: int = hashed


class KeyedMailbox(Generic[L]):
    """The mailbox of a listener with several lanes and an order per key.

    Args:
        lanes: The lanes that read the mailbox.
        schedule: Queues a lane for a worker.
        key_of: Returns the key of an event.
        refuse: Fails and settles an event that has no key because `key_of` raised an error.

    Attributes:
        runnable: The mailbox that the lanes read. It holds the oldest event of each key.
    """

    def __init__(
        self,
        lanes: tuple[L, ...],
        schedule: Callable[[L], None],
        key_of: Callable[[Any], Any],
        refuse: Callable[[DispatchHandle, Exception], None],
    ) -> None:
        self.lanes: tuple[L, ...] = lanes
        self.runnable: SharedMailbox[L] = SharedMailbox(lanes, schedule)
        self._key_of = key_of
        self._refuse = refuse
        # The keys of all events that are queued or in flight, by age.
        self._keys: OrderedDict[DispatchHandle, Any] = OrderedDict()
        # The stable keys in use, by their hashes.
        self._stable: dict[int, list[StableKey]] = {}
        # The first event of each key is runnable or in flight; the others wait here.
        self._order: KeyedFifo[Any, DispatchHandle] = KeyedFifo()

    @property
    def in_flight(self) -> list[DispatchHandle]:
        """The events that the listener works on."""
        return self.runnable.in_flight

    def append(self, handle: DispatchHandle, /) -> None:
        try:
            key = self._key_of(handle.event)
            if type(key) not in PLAIN_KEY_TYPES or self._stable:
                if type(key) not in PLAIN_KEY_TYPES:
                    refuse_unrun(key, "it", AS_DEF)
                # The hash here and not there: a frame in the traceback would lead to the handle.
                key = self._stable_key(key, hash(key))
            is_first = self._order.add(key, handle)
        # Raised by `ordering_key`, or by the hash or the comparison of a key.
        except Exception as error:  # noqa: BLE001 - it is reported
            return self._refuse(handle, error)
        self._keys[handle] = key
        if is_first:
            self.runnable.append(handle)
        return None

    def finished(self, handle: DispatchHandle) -> None:
        """Let the next event of the same key run; called when one has ended, or was dropped."""
        # A cleared mailbox knows the key of an event in flight, but not that of one it gave up.
        if handle in self._keys:
            key = self._keys.pop(handle)
            following = self._order.pop(key)
            if following is not None:
                self.runnable.append(following)
            elif type(key) is StableKey:
                equal_hashes = self._stable[key.hash]
                equal_hashes.remove(key)
                if not equal_hashes:
                    del self._stable[key.hash]

    def popleft(self) -> DispatchHandle:
        """Take out the event that has waited longest."""
        # Not simply the first in `runnable`: an older event may wait behind one that runs.
        handle = next(iter(self))
        if handle in self.runnable:
            self.runnable.remove(handle)
            self.finished(handle)
        else:
            self._order.remove_waiting(self._keys.pop(handle), handle)
        return handle

    def clear(self) -> None:
        self.runnable.clear()
        current = self._current()
        self._keys = OrderedDict(
            (handle, key) for handle, key in self._keys.items() if handle in current
        )
        self._order = KeyedFifo()
        for handle, key in self._keys.items():
            self._order.add(key, handle)
        self._keep_stable_keys()

    def retain(self, handles: Iterable[DispatchHandle]) -> None:
        """Keep only the given ones of the queued events; `key_of` is not called again for them."""
        # `clear` keeps the keys of the events in flight, which the kept events wait for.
        keys = self._keys
        self.clear()
        for handle in handles:
            self._keys[handle] = key = keys[handle]
            if self._order.add(key, handle):
                self.runnable.append(handle)
        self._keep_stable_keys()

    def _stable_key(self, key: Any, hashed: int) -> Any:
        """Return the key that stands for all equal keys while one of them is in use.

        The code of a key runs in `append` and here only, once for each event: its hash may change
        with its event, and its comparison may fail.
        """
        for stable in self._stable.get(hashed, ()):
            if stable.key is key or stable.key == key:
                return stable
        if type(key) in PLAIN_KEY_TYPES:
            return key
        if self._order.first(key) is not None:
            # An equal plain key is in use, as 1 for Decimal(1).
            return next(plain for plain in self._keys.values() if plain == key)
        new = StableKey(key, hashed)
        self._stable.setdefault(hashed, []).append(new)
        return new

    def _keep_stable_keys(self) -> None:
        """Forget the stable keys that no event has any more."""
        self._stable = {}
        for key in dict.fromkeys(self._keys.values()):
            if type(key) is StableKey:
                self._stable.setdefault(key.hash, []).append(key)

    @property
    def needed_for_room(self) -> tuple[L, ...]:
        """The lanes that can take an event out of the mailbox; one of them has to proceed."""
        if self.runnable:
            return self.runnable.needed_for_room
        # All queued events wait behind one in flight, so only the lanes with their keys can help.
        busy = [(lane, lane.current) for lane in self.lanes if lane.current in self._keys]
        return tuple(
            lane
            for lane, current in busy
            if current and self._order.has_waiting(self._keys[current])
        )

    def needed_for_event(self, handle: DispatchHandle) -> tuple[L, ...]:
        """Return the lanes that can let a queued event run; one of them has to proceed."""
        if handle not in self.runnable and handle in self._keys:
            key = self._keys[handle]
            for lane in self.lanes:
                if lane.current is not None and self._keys.get(lane.current, self) == key:
                    return (lane,)
        return self.runnable.needed_for_event(handle)

    def _current(self) -> set[DispatchHandle | None]:
        return {lane.current for lane in self.lanes}

    def __len__(self) -> int:
        return len(self.runnable) + self._order.waiting

    def __iter__(self) -> Iterator[DispatchHandle]:
        current = self._current()
        return (handle for handle in self._keys if handle not in current)
