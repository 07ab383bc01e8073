"""Event name patterns: `*` stands for exactly one segment of a name, `**` for one or more.

The patterns form a trie, and each segment of a name leads from a set of its nodes to the next set.
Such a set is a state, and a step between two is worked out once and remembered, as in RE2: then a
name costs one look-up for each segment. Hostile names make this neither slow nor large: segments
that no pattern has share one step, and what is remembered is forgotten when it gets too much.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Generic, TypeVar

from .names import MAX_NAME_BYTES, complaint

T = TypeVar("T")

# Steps, and nodes in their states, that one trie remembers: up to about 10 MB.
MEMORY = 100_000

_SEGMENT = r"(?:[A-Za-z0-9_-]+|\*\*?)"
_PATTERN = re.compile(rf"{_SEGMENT}(?:\.{_SEGMENT})*")


def is_pattern(text: str) -> bool:
    """Tell whether `text` has a wildcard, and so can only be a pattern and no name."""
    return "*" in text


def validate_pattern(text: str) -> str:
    """Return `text` if it is a pattern; an event name is one, too, which matches itself.

    Raises:
        TypeError: `text` is not a string.
        ValueError: it is empty, too long, has an empty segment, a character that is not allowed or
            a `*` that is only a part of a segment; the message shows which.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"an event pattern is a str, not {type(text).__name__}")
    if len(text) <= MAX_NAME_BYTES and _PATTERN.fullmatch(text):
        return text
    position = 0
    for segment in text.split("."):
        if "*" in segment and segment not in ("*", "**"):
            raise ValueError(
                f"event pattern {text[:80]!a}: {segment[:80]!a} at position {position} is no "
                "segment; a * must be a whole segment: * is exactly one segment, ** one or more"
            )
        position += len(segment) + 1
    raise ValueError(complaint("event pattern", text, "*"))


def compile_pattern(pattern: str) -> Callable[[str], re.Match[str] | None]:
    """Return a test for names, true for those that match; for one pattern and many names.

    Raises:
        TypeError, ValueError: as `validate_pattern`.
    """
    blocks = f"{validate_pattern(pattern)}.".split("**.")
    first, *rest = [block.replace(".", "[.]").replace("*", "[^.]++") for block in blocks]
    if not rest:
        return re.compile(first.removesuffix("[.]")).fullmatch
    *middle, last = rest
    # What stands between two ** is taken where it first occurs and not looked for again (?>), as
    # the second ** can take up whatever lies further on: so no name makes this slow.
    found = "".join([f"(?>(?:[^.]++[.])+?{block})" for block in middle])
    end = f".+[.]{last.removesuffix('[.]')}" if last else ".+"
    return re.compile(first + found + end).fullmatch


class Node(Generic[T]):
    """What follows after some segments of a pattern, and the items of a pattern that ends here."""

    __slots__ = ("children", "items", "lasts")

    def __init__(self, segment: str) -> None:
        self.children: dict[str, Node[T]] = {}
        self.items: list[T] = []
        self.lasts: bool = segment == "**"


class State(Generic[T]):
    """The nodes that some segments of a name lead to, and the steps known from here."""

    __slots__ = ("ends", "nodes", "steps")

    def __init__(self, nodes: tuple[Node[T], ...]) -> None:
        self.nodes: tuple[Node[T], ...] = nodes
        # The nodes' own lists, not copies: many states may hold the node of a popular pattern.
        self.ends: tuple[list[T], ...] = tuple(node.items for node in nodes if node.items)
        self.steps: dict[str, State[T]] = {}


class PatternTrie(Generic[T]):
    """Items under patterns, found by the names that the patterns match. Not thread-safe."""

    def __init__(self) -> None:
        self._count = 0
        self._root: Node[T] = Node("")
        self._states: dict[tuple[Node[T], ...], State[T]] = {}
        self._start = State((self._root,))
        self._remembered = 0

    def __len__(self) -> int:
        """Return how many items were added and not removed."""
        return self._count

    def add(self, pattern: str, item: T) -> None:
        """Put an item under a pattern, behind those that are there; twice, if added twice.

        Raises:
            TypeError, ValueError: as `validate_pattern`.
        """
        node = self._root
        for segment in validate_pattern(pattern).split("."):
            if segment not in node.children:
                node.children[segment] = Node(segment)
            node = node.children[segment]
        if not node.items:
            self._forget()
        node.items.append(item)
        self._count += 1

    def remove(self, pattern: str, item: T) -> None:
        """Take an item, or one that is equal, from under a pattern.

        Raises:
            ValueError: it is not there.
        """
        node = self._root
        path: list[tuple[Node[T], str]] = []
        try:
            for segment in pattern.split("."):
                path.append((node, segment))
                node = node.children[segment]
            node.items.remove(item)
        except (KeyError, ValueError):
            raise ValueError(f"{item!r} is not under the pattern {pattern!r}") from None
        self._count -= 1
        if not node.items:
            self._prune(path)
            self._forget()

    def _prune(self, path: list[tuple[Node[T], str]]) -> None:
        for parent, segment in reversed(path):
            child = parent.children[segment]
            if child.items or child.children:
                return
            del parent.children[segment]
        if not self:
            self._root = Node("")  # an emptied dict would keep its table

    def match(self, name: str) -> list[T]:
        """Return the items of all patterns that match a name, in no particular order.

        The items of one pattern stand together, in the order in which they were added.
        """
        state = self._start
        for segment in name.split("."):
            state = state.steps.get(segment) or self._step(state, segment)
        found: list[T] = []
        for items in state.ends:
            found += items
        return found

    def _step(self, state: State[T], segment: str) -> State[T]:
        for node in state.nodes:
            if segment in node.children:
                break
        else:
            segment = ""  # no pattern has it here: all such segments share a step
            if known := state.steps.get(segment):
                return known
        reached: dict[Node[T], None] = {}  # no set: the order is to be the same in every run
        for node in state.nodes:
            for key in (segment, "*", "**"):
                if key in node.children:
                    reached[node.children[key]] = None
            if node.lasts:
                reached[node] = None
        nodes = tuple(reached)
        if self._remembered > MEMORY:
            self._forget()
        self._remembered += 1 + len(nodes)
        following = self._states.get(nodes)
        if following is None:
            following = self._states[nodes] = State(nodes)
        state.steps[segment] = following
        return following

    def _forget(self) -> None:
        # States refer to each other in circles, which only the garbage collector would find.
        for state in self._states.values():
            state.steps.clear()
        self._states.clear()
        self._start = State((self._root,))
        self._remembered = 0
