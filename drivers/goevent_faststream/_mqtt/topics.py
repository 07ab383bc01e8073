"""Names of goevent in the language of MQTT: topics, and filters of which no two overlap."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

Filter = tuple[str, ...]


def topic(name: str) -> str:
    """Return the topic of an event name, or of a prefix."""
    return name.replace(".", "/")


def name_of(topic: str) -> str:
    """Return the event name of a topic; empty if it is that of none."""
    return "" if "." in topic else topic.replace("/", ".")


def cover(vias: Iterable[str]) -> frozenset[str]:
    """Return filters that have all that names and patterns match, each topic by one of them only.

    A server sends a message once for each filter that matches it, and in a group perhaps to
    different clients; nobody could tell these copies from each other. What a filter has too much is
    dropped on arrival.
    """
    filters = {_narrowest(via) for via in vias}
    while True:
        pair = next((pair for pair in combinations(sorted(filters), 2) if _overlap(*pair)), None)
        if pair is None:
            return frozenset("/".join(each) for each in filters)
        filters -= {*pair}
        filters.add(_joined(*pair))


def _narrowest(via: str) -> Filter:
    head, doubled, _ = via.partition("**")
    levels = ["+" if word == "*" else word for word in head.split(".") if word]
    return (*levels, "#") if doubled else tuple(levels)


def _overlap(one: Filter, other: Filter) -> bool:
    """Tell whether a topic may match both; `#` is any number of levels, none included."""
    for mine, theirs in zip(one, other, strict=False):
        if "#" in (mine, theirs):
            return True
        if mine != theirs and "+" not in (mine, theirs):
            return False
    longer = max(one, other, key=len)
    return len(one) == len(other) or longer[min(len(one), len(other))] == "#"


def _joined(one: Filter, other: Filter) -> Filter:
    """Return a filter that has what either has."""
    levels: list[str] = []
    for mine, theirs in zip(one, other, strict=False):
        if "#" in (mine, theirs):
            return (*levels, "#")
        levels.append(mine if mine == theirs else "+")
    return tuple(levels) if len(one) == len(other) else (*levels, "#")
