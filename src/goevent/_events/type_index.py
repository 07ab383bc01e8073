"""The type index: finds the registered event types that a pattern matches.

`check_annotation` asks it for each annotated listener of a pattern; each bus has one. A look at all
registered names for each listener would make ten thousand of them slow.

Theory of operation. The names are indexed by their segments. A pattern with a literal segment
matches only names that have this segment, so the rarest of its segments leads to a few candidates.
A pattern that has many candidates, such as `**`, remembers how many names it has been tested on.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice
from typing import TYPE_CHECKING, Any

from .patterns import compile_pattern, is_pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .registry import EventRegistry

# To test fewer names is not worth to be remembered.
MIN_REMEMBERED_TESTS = 16
MAX_REMEMBERED_PATTERNS = 1_000


class TypeIndex:
    """The types of one registry, by the segments of their names."""

    def __init__(self, registry: EventRegistry) -> None:
        self._registry = registry
        self._redefined = registry.redefined
        self._names: list[str] = []
        self._by_segment: dict[str, list[int]] = {}
        # By pattern and the ids of the classes: the names that are known to fit, and the classes.
        self._fitting: dict[tuple[str, tuple[int, ...]], tuple[int, tuple[type[Any], ...]]] = {}

    def find_misfit(self, pattern: str, classes: tuple[type[Any], ...]) -> str | None:
        """Return the first name that matches a pattern and whose type is none of these classes."""
        self._update()
        key = pattern, tuple(map(id, classes))
        known, _ = self._fitting.get(key, (0, ()))
        candidates = self._candidates(pattern, known)
        if candidates:
            matches = compile_pattern(pattern)
            for place in candidates:
                name = self._names[place]
                cls = self._registry.type_of(name)
                if cls is not None and matches(name) and not issubclass(cls, classes):
                    return name
        if len(candidates) >= MIN_REMEMBERED_TESTS:
            if len(self._fitting) >= MAX_REMEMBERED_PATTERNS:
                self._fitting.clear()
            self._fitting[key] = len(self._names), classes
        return None

    def _update(self) -> None:
        """Index the names that were registered since the last look."""
        if self._redefined != self._registry.redefined:
            self._redefined = self._registry.redefined
            self._fitting.clear()
        first = len(self._names)
        if len(self._registry) > first:
            for place, name in enumerate(islice(self._registry, first, None), first):
                self._names.append(name)
                for segment in {*name.split(".")}:
                    self._by_segment.setdefault(segment, []).append(place)

    def _candidates(self, pattern: str, known: int) -> Sequence[int]:
        """Return the places of the names that the pattern may match, from a place on."""
        literals = [segment for segment in pattern.split(".") if not is_pattern(segment)]
        if not literals:
            return range(known, len(self._names))
        rarest = min([self._by_segment.get(segment, []) for segment in literals], key=len)
        return rarest[bisect_left(rarest, known) :]
