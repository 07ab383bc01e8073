"""First in, first out for each key: only the oldest item of a key may be worked on.

Listeners with an `ordering_key` use it, and so may any driver that keeps an order per key.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class KeyedFifo(Generic[K, T]):
    """A queue of items for each key.

    The first item of a key may be worked on. It stays the first until `pop` removes it; then the
    next one is the first. A key is forgotten with its last item, so any number of keys costs only
    as much memory as there are items.

    Attributes:
        waiting: The number of items that are not the first of their keys.

    Example:
        >>> fifo = KeyedFifo[str, int]()
        >>> fifo.add("a", 1), fifo.add("a", 2), fifo.add("b", 3)
        (True, False, True)
        >>> fifo.pop("a"), fifo.pop("a"), fifo.pop("b")
        (2, None, None)
    """

    __slots__ = ("_behind", "_first", "waiting")

    def __init__(self) -> None:
        self._first: dict[K, T] = {}
        # Most keys have a single item, and need no deque.
        self._behind: dict[K, deque[T]] = {}
        self.waiting: int = 0

    def add(self, key: K, item: T) -> bool:
        """Add an item behind the others of its key; return True if it is the first.

        An item must not be added twice.
        """
        if self._first.setdefault(key, item) is item:
            return True
        behind = self._behind.get(key)
        if behind is None:
            self._behind[key] = deque((item,))
        else:
            behind.append(item)
        self.waiting += 1
        return False

    def first(self, key: K) -> T | None:
        """Return the first item of a key; None if there is no item."""
        return self._first.get(key)

    def has_waiting(self, key: K) -> bool:
        """Tell whether items wait behind the first one of a key."""
        return bool(self._behind.get(key))

    def pop(self, key: K) -> T | None:
        """Remove the first item of a key; return the item that is the first now, if any.

        Raises:
            KeyError: The key has no item.
        """
        behind = self._behind.get(key)
        if behind:
            self.waiting -= 1
            self._first[key] = item = behind.popleft()
            return item
        del self._first[key]
        # An empty deque is kept while its key has an item: the next one may come soon.
        if behind is not None:
            del self._behind[key]
        return None

    def remove_waiting(self, key: K, item: T) -> None:
        """Remove an item that is not the first of its key.

        Raises:
            KeyError: No item waits for the key.
            ValueError: The item does not wait.
        """
        self._behind[key].remove(item)
        self.waiting -= 1

    def __len__(self) -> int:
        return len(self._first) + self.waiting
