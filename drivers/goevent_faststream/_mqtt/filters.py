"""The filters that a bus subscribes to: they cover its names and patterns, and never overlap.

`CoveringFilters` is owned by the adapter, which subscribes to its filters at the server.

Theory of operation: An MQTT server sends a message once for each filter that matches it. Within a
shared subscription it may even send these copies to different members of the group. The copies are
equal, and equal messages may also be two events, so a receiver cannot remove copies safely.

Therefore a bus never subscribes to two filters that can match the same topic. Each name and pattern
begins with its narrowest filter. Two filters that overlap are replaced by the narrowest filter that
matches the topics of either, until none overlap. The result does not depend on the order: a filter
that covers both of two overlapping filters covers their replacement, too. So every process with the
same names has the same filters. A wider filter also matches topics that no listener asked for; the
adapter drops these messages on arrival.

A new filter must not be compared with each other one: 10,000 names would need 50 million
comparisons. Filters of one *shape* have the same number of levels, and wildcards at the same
places. Two shapes decide at which levels both filters have a word, and the filters overlap if these
words are equal. So each shape has dicts from such words to its filters, and a new filter costs one
look-up per shape. Real names have few shapes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

FilterLevels = tuple[str, ...]
Places = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FilterShape:
    """The wildcards of a filter.

    Attributes:
        length: The number of its levels, without a final `#`.
        is_open: Whether it ends with `#`, which matches any number of levels, and none, too.
        words: The places of the levels that are no wildcards.
    """

    length: int
    is_open: bool
    words: frozenset[int]

    def common_words(self, other: FilterShape) -> Places | None:
        """Return the places where both shapes have words; None if their filters never overlap."""
        if self.length == other.length or (self.is_open and other.is_open):
            is_possible = True
        else:
            shorter = self if self.length < other.length else other
            is_possible = shorter.is_open
        return tuple(sorted(self.words & other.words)) if is_possible else None


class FilterSet:
    """The filters of one shape, found by some of their words."""

    def __init__(self) -> None:
        self.filters: set[FilterLevels] = set()
        self._by_words: dict[Places, dict[FilterLevels, set[FilterLevels]]] = {}

    def add(self, levels: FilterLevels) -> None:
        """Add a filter."""
        self.filters.add(levels)
        for places, found in self._by_words.items():
            found[_words_at(levels, places)].add(levels)

    def remove(self, levels: FilterLevels) -> None:
        """Remove a filter."""
        self.filters.remove(levels)
        for places, found in self._by_words.items():
            words = _words_at(levels, places)
            found[words].remove(levels)
            if not found[words]:
                del found[words]

    def find(self, places: Places, words: FilterLevels) -> Iterable[FilterLevels]:
        """Return the filters that have these words at these places."""
        found = self._by_words.get(places)
        if found is None:
            found = self._by_words[places] = defaultdict(set)
            for levels in self.filters:
                found[_words_at(levels, places)].add(levels)
        return found.get(words, ())


@dataclass(slots=True, eq=False)
class Cover:
    """One filter, and the names and patterns that it covers.

    Attributes:
        levels: The filter.
        members: The names and patterns.
        exact_members: How many of them have this very filter. As long as there is one, the filter
            cannot become narrower.
    """

    levels: FilterLevels
    members: set[str] = field(default_factory=set[str])
    exact_members: int = 0


class CoveringFilters:
    """The filters for some names and patterns; at most one filter matches a topic.

    Example:
        ::

            filters = CoveringFilters()
            filters.add(["order.paid", "user.*"])
            filters.changes()  # ({"order/paid", "user/+"}, set())
            filters.commit()
            filters.add(["order.*"])
            filters.changes()  # ({"order/+"}, {"order/paid"})
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Remove everything, and forget the changes."""
        self._cover_of: dict[str, Cover] = {}
        self._covers: dict[FilterLevels, Cover] = {}
        self._sets: dict[FilterShape, FilterSet] = {}
        # The difference from the filters at the last commit.
        self._added: set[FilterLevels] = set()
        self._removed: set[FilterLevels] = set()

    def __iter__(self) -> Iterator[str]:
        return map("/".join, self._covers)

    def changes(self) -> tuple[list[str], list[str]]:
        """Return the filters that are new since the last commit, and those that are gone."""
        return _sorted_filters(self._added), _sorted_filters(self._removed)

    def commit(self) -> None:
        """Forget the changes: the server has the filters by now."""
        self._added.clear()
        self._removed.clear()

    def add(self, patterns: Iterable[str]) -> None:
        """Add names and patterns that are not there yet."""
        for pattern in patterns:
            cover = Cover(narrowest_filter(pattern), {pattern}, 1)
            self._cover_of[pattern] = cover
            self._insert(cover)

    def remove(self, patterns: Iterable[str]) -> None:
        """Remove names and patterns."""
        wide: dict[Cover, None] = {}
        for pattern in patterns:
            cover = self._cover_of.pop(pattern)
            cover.members.remove(pattern)
            cover.exact_members -= narrowest_filter(pattern) == cover.levels
            wide[cover] = None
        for cover in wide:
            if not cover.exact_members:
                self._delete(cover)
                # Narrower filters for the rest; they overlap with no filter outside of this one.
                self.add(cover.members)

    def _insert(self, cover: Cover) -> None:
        """Insert a cover, merged with all that overlap."""
        while overlapping := self._overlapping(cover.levels):
            for other in overlapping:
                self._delete(other)
                cover = self._merge(cover, other)
        self._covers[cover.levels] = cover
        self._sets.setdefault(_shape_of(cover.levels), FilterSet()).add(cover.levels)
        _count_change(cover.levels, self._added, self._removed)

    def _delete(self, cover: Cover) -> None:
        del self._covers[cover.levels]
        shape = _shape_of(cover.levels)
        filters = self._sets[shape]
        filters.remove(cover.levels)
        if not filters.filters:
            del self._sets[shape]
        _count_change(cover.levels, self._removed, self._added)

    def _overlapping(self, levels: FilterLevels) -> list[Cover]:
        shape = _shape_of(levels)
        found: list[Cover] = []
        for other, filters in self._sets.items():
            places = shape.common_words(other)
            if places is not None:
                words = _words_at(levels, places)
                found += [self._covers[each] for each in filters.find(places, words)]
        return found

    def _merge(self, one: Cover, other: Cover) -> Cover:
        """Return the larger cover, with the members of the smaller one and a common filter."""
        large, small = (one, other) if len(one.members) >= len(other.members) else (other, one)
        levels = merge_filters(one.levels, other.levels)
        large.exact_members = sum(
            cover.exact_members for cover in (one, other) if cover.levels == levels
        )
        large.levels = levels
        large.members |= small.members
        for member in small.members:
            self._cover_of[member] = large
        return large


def narrowest_filter(pattern: str) -> FilterLevels:
    """Return the levels of the narrowest filter of a name or pattern."""
    # MQTT allows its `#` only at the end of a filter.
    head, double_star, _ = pattern.partition("**")
    levels = ["+" if word == "*" else word for word in head.split(".") if word]
    return (*levels, "#") if double_star else tuple(levels)


def merge_filters(one: FilterLevels, other: FilterLevels) -> FilterLevels:
    """Return the narrowest filter that matches each topic that either filter matches."""
    levels: list[str] = []
    for left, right in zip(one, other, strict=False):
        if "#" in (left, right):
            return (*levels, "#")
        levels.append(left if left == right else "+")
    return tuple(levels) if len(one) == len(other) else (*levels, "#")


def _shape_of(levels: FilterLevels) -> FilterShape:
    is_open = levels[-1] == "#"
    words = frozenset(place for place, level in enumerate(levels) if level not in ("+", "#"))
    return FilterShape(len(levels) - is_open, is_open, words)


def _words_at(levels: FilterLevels, places: Places) -> FilterLevels:
    return tuple(levels[place] for place in places)


def _count_change(
    levels: FilterLevels, to_note: set[FilterLevels], opposite: set[FilterLevels]
) -> None:
    if levels in opposite:
        opposite.remove(levels)
    else:
        to_note.add(levels)


def _sorted_filters(filters: Iterable[FilterLevels]) -> list[str]:
    return sorted("/".join(levels) for levels in filters)
