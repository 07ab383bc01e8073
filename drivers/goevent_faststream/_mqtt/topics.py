"""Event names as topics of MQTT, and patterns as filters that never overlap.

Theory of operation: An MQTT server sends a message once for each filter that matches it. Within a
shared subscription it may even send these copies to different members of the group. The copies are
equal, and equal messages may also be two events, so a receiver cannot remove copies safely.

Therefore a bus never subscribes to two filters that can match the same topic. `covering_filters`
starts with the narrowest filter of each name and pattern. As long as two of these overlap, it
replaces both with one filter that matches the topics of either. Each step removes one filter, so
the loop ends. A wider filter also matches topics that no listener asked for; the adapter drops
these messages on arrival.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

FilterLevels = tuple[str, ...]


def topic_of(name: str) -> str:
    """Return the topic of an event name, or of a prefix."""
    return name.replace(".", "/")


def event_name_of(topic: str) -> str:
    """Return the event name of a topic; empty if the topic stands for no event name."""
    return "" if "." in topic else topic.replace("/", ".")


def covering_filters(patterns: Iterable[str]) -> frozenset[str]:
    """Return filters that cover all names and patterns; at most one filter matches a topic.

    Example:
        ::

            covering_filters(["order.paid", "user.*"])  # {"order/paid", "user/+"}
            covering_filters(["order.paid", "order.*"])  # {"order/+"}
    """
    filters = {_narrowest_filter(pattern) for pattern in patterns}
    while True:
        # Sorted, so that the same patterns give the same filters in every process.
        pairs = combinations(sorted(filters), 2)
        overlapping = next((pair for pair in pairs if _overlap(*pair)), None)
        if overlapping is None:
            return frozenset("/".join(levels) for levels in filters)
        filters -= {*overlapping}
        filters.add(_merge(*overlapping))


def _narrowest_filter(pattern: str) -> FilterLevels:
    # MQTT allows its `#` only at the end of a filter.
    head, double_star, _ = pattern.partition("**")
    levels = ["+" if word == "*" else word for word in head.split(".") if word]
    return (*levels, "#") if double_star else tuple(levels)


def _overlap(one: FilterLevels, other: FilterLevels) -> bool:
    """Tell whether a topic exists that both filters match; `#` matches any number of levels."""
    for left, right in zip(one, other, strict=False):
        if "#" in (left, right):
            return True
        if left != right and "+" not in (left, right):
            return False
    # All common levels agree. The longer filter matches the shorter topic only if the rest of it
    # is a `#`, which may stand for no level at all.
    longer = max(one, other, key=len)
    return len(one) == len(other) or longer[min(len(one), len(other))] == "#"


def _merge(one: FilterLevels, other: FilterLevels) -> FilterLevels:
    """Return a filter that matches each topic that either filter matches."""
    levels: list[str] = []
    for left, right in zip(one, other, strict=False):
        if "#" in (left, right):
            return (*levels, "#")
        levels.append(left if left == right else "+")
    return tuple(levels) if len(one) == len(other) else (*levels, "#")
