"""Event patterns: `*` stands for exactly one segment of a name, `**` for one or more.

The router keeps the listeners of patterns in a `PatternTrie` and asks it once for each event name
that it meets. `compile_pattern` serves drivers, which test many names against one pattern.

Theory of operation. The patterns form a trie: each node stands for the first segments of some
patterns, and its children for the next segment, where `*` and `**` are children like any other.
A name may be in several nodes at once, because a segment may follow its own child, the child `*`
and the child `**`, and a node of `**` may keep the segment for itself. The set of nodes reached
after some segments is a *state*, and each further segment leads from one state to the next. This is
a nondeterministic automaton, run with sets of nodes.

The states are made lazily, as in RE2: a step from a state by a segment is computed once and then
remembered in the state, so a name costs one dict look-up for each segment. States with equal nodes
are the same object, so the steps form a graph and not a tree of all names ever seen.

Names come from other processes and may be hostile. All segments that no pattern mentions share one
remembered step, so random names add nothing. When the remembered steps and the nodes in their
states exceed `MAX_REMEMBERED_NODES`, all states are dropped and made again on demand.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Generic, TypeVar

from .names import (
    MAX_NAME_BYTES,
    MAX_SHOWN_CHARS,
    RESERVED_PREFIX,
    explain_invalid,
    explain_reserved,
)

T = TypeVar("T")

# Counts the steps of one trie and the nodes of the states they lead to: up to about 10 MB.
MAX_REMEMBERED_NODES = 100_000

_SEGMENT = r"(?:[A-Za-z0-9_-]+|\*\*?)"
_NOT_RESERVED = f"(?!{re.escape(RESERVED_PREFIX)})"
_PATTERN = re.compile(rf"{_SEGMENT}(?:\.{_SEGMENT})*")


def is_pattern(text: str) -> bool:
    """Tell whether `text` has a wildcard. Such a text can be a pattern and never a name."""
    return "*" in text


def validate_pattern(text: str) -> str:
    """Return `text` if it is an event pattern. An event name is a pattern that matches itself.

    Raises:
        TypeError: `text` is not a string.
        ValueError: `text` is empty, is too long, has an empty segment, has a character that is not
            allowed, has a `*` that is only a part of a segment, or has a `*` among the reserved
            names. The message shows the place.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"an event pattern is a str, not {type(text).__name__}")
    if len(text) <= MAX_NAME_BYTES and _PATTERN.fullmatch(text):
        if text.startswith(RESERVED_PREFIX) and is_pattern(text):
            raise ValueError(explain_reserved("event pattern", text))
        return text
    position = 0
    for segment in text.split("."):
        if "*" in segment and segment not in ("*", "**"):
            raise ValueError(
                f"event pattern {text[:MAX_SHOWN_CHARS]!a}: {segment[:MAX_SHOWN_CHARS]!a} at "
                f"position {position} is not a valid segment; a * must be a whole segment: "
                "* matches exactly one segment, ** one or more"
            )
        position += len(segment) + 1
    raise ValueError(explain_invalid("event pattern", text, "*"))


def compile_pattern(pattern: str) -> Callable[[str], re.Match[str] | None]:
    """Return a function that tells whether a name matches `pattern`.

    Use it to test many names against one pattern. A test takes time linear in the length of the
    name, even for hostile names. A wildcard matches no reserved name, that is, none that begins
    with `goevent.`.

    Example:
        >>> matches = compile_pattern("order.*")
        >>> bool(matches("order.paid")), bool(matches("order.item.added"))
        (True, False)

    Raises:
        TypeError: `pattern` is not a string.
        ValueError: `pattern` is not an event pattern.
    """
    blocks = f"{validate_pattern(pattern)}.".split("**.")
    first, *rest = [block.replace(".", "[.]").replace("*", "[^.]++") for block in blocks]
    if pattern.startswith("*"):
        first = _NOT_RESERVED + first
    if not rest:
        return re.compile(first.removesuffix("[.]")).fullmatch
    *middle, last = rest
    # A block between two `**` is taken at its first occurrence, and the atomic group (?>) keeps the
    # engine from trying a later one: the second `**` matches anything that lies between the two.
    # So no name makes the expression backtrack.
    found = "".join([f"(?>(?:[^.]++[.])+?{block})" for block in middle])
    end = f".+[.]{last.removesuffix('[.]')}" if last else ".+"
    return re.compile(first + found + end).fullmatch


class PatternNode(Generic[T]):
    """A node of the trie: the first segments that some patterns share.

    Attributes:
        children: The nodes for the next segment.
        items: The items of the pattern that ends at this node.
        repeats: True if the node stands for `**`, which may take further segments.
    """

    __slots__ = ("children", "items", "repeats")

    def __init__(self, segment: str) -> None:
        self.children: dict[str, PatternNode[T]] = {}
        self.items: list[T] = []
        self.repeats: bool = segment == "**"


class TrieState(Generic[T]):
    """The set of nodes that the first segments of a name lead to.

    Attributes:
        nodes: The nodes, in a fixed order.
        matched: The item lists of the patterns that match if the name ends here.
        steps: The following state for each next segment that was met before. The empty string
            stands for all segments that no pattern mentions at this place.
    """

    __slots__ = ("matched", "nodes", "steps")

    def __init__(self, nodes: tuple[PatternNode[T], ...]) -> None:
        self.nodes: tuple[PatternNode[T], ...] = nodes
        # The nodes' own lists, not copies: many states may contain the node of a popular pattern.
        self.matched: tuple[list[T], ...] = tuple(node.items for node in nodes if node.items)
        self.steps: dict[str, TrieState[T]] = {}


class PatternTrie(Generic[T]):
    """A multimap from patterns to items, searched by names. Not thread-safe."""

    def __init__(self) -> None:
        self._count = 0
        self._root: PatternNode[T] = PatternNode("")
        self._states: dict[tuple[PatternNode[T], ...], TrieState[T]] = {}
        self._start = TrieState((self._root,))
        self._remembered = 0

    def __len__(self) -> int:
        """Return the number of items that were added and not removed."""
        return self._count

    def add(self, pattern: str, item: T) -> None:
        """Add an item under a pattern, after the items that the pattern has already.

        An item that is added twice is found twice.

        Raises:
            TypeError: `pattern` is not a string.
            ValueError: `pattern` is not an event pattern.
        """
        node = self._root
        for segment in validate_pattern(pattern).split("."):
            if segment not in node.children:
                node.children[segment] = PatternNode(segment)
            node = node.children[segment]
        if not node.items:
            self._drop_states()
        node.items.append(item)
        self._count += 1

    def remove(self, pattern: str, item: T) -> None:
        """Remove an item, or one that is equal to it, from a pattern.

        Raises:
            ValueError: The pattern has no such item.
        """
        node = self._root
        path: list[tuple[PatternNode[T], str]] = []
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
            self._drop_states()

    def _prune(self, path: list[tuple[PatternNode[T], str]]) -> None:
        for parent, segment in reversed(path):
            child = parent.children[segment]
            if child.items or child.children:
                return
            del parent.children[segment]
        if not self:
            # An emptied dict keeps its table, so the root is replaced.
            self._root = PatternNode("")

    def match(self, name: str) -> list[T]:
        """Return the items of all patterns that match a name; none match a reserved name.

        The order of the patterns is not defined. The items of one pattern stand together, in the
        order in which they were added.
        """
        if name.startswith(RESERVED_PREFIX):
            return []
        state = self._start
        for segment in name.split("."):
            state = state.steps.get(segment) or self._compute_step(state, segment)
        found: list[T] = []
        for items in state.matched:
            found += items
        return found

    def _compute_step(self, state: TrieState[T], segment: str) -> TrieState[T]:
        for node in state.nodes:
            if segment in node.children:
                break
        else:
            # No pattern mentions the segment here. All such segments share one step, so that names
            # made up by a hostile sender are not remembered one by one.
            segment = ""
            if known := state.steps.get(segment):
                return known
        # A dict and not a set: the order must be the same in every run.
        reached: dict[PatternNode[T], None] = {}
        for node in state.nodes:
            for key in (segment, "*", "**"):
                if key in node.children:
                    reached[node.children[key]] = None
            if node.repeats:
                reached[node] = None
        nodes = tuple(reached)
        if self._remembered > MAX_REMEMBERED_NODES:
            self._drop_states()
        self._remembered += 1 + len(nodes)
        following = self._states.get(nodes)
        if following is None:
            following = self._states[nodes] = TrieState(nodes)
        # After `_drop_states`, `state` is no longer reachable from the start. Its step then serves
        # only the rest of this call.
        state.steps[segment] = following
        return following

    def _drop_states(self) -> None:
        # States refer to each other in cycles. Clearing the steps frees them at once; otherwise
        # they would stay until the garbage collector runs.
        for state in self._states.values():
            state.steps.clear()
        self._states.clear()
        self._start = TrieState((self._root,))
        self._remembered = 0
