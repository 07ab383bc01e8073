"""Event patterns: the names that they match, how they are refused, and the trie."""

from __future__ import annotations

import gc
import itertools
import sys
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.limits import HANG_SECONDS

import goevent._events.patterns as _patterns
from goevent._events.patterns import (
    PatternNode,
    PatternTrie,
    TrieState,
    compile_pattern,
    is_pattern,
    validate_pattern,
)

# Few letters, so that patterns and names meet; c is in no pattern.
patterns = st.lists(st.sampled_from(["a", "b", "*", "**"]), min_size=1, max_size=6).map(".".join)
names = st.lists(st.sampled_from("abc"), min_size=1, max_size=8).map(".".join)


def fits(pattern: Sequence[str], name: Sequence[str]) -> bool:
    """Match by the definition: slow, but obviously correct."""
    if not pattern or not name:
        return not pattern and not name
    head, *rest = pattern
    if head == "**":
        return any(fits(rest, name[taken:]) for taken in range(1, len(name) + 1))
    return head in ("*", name[0]) and fits(rest, name[1:])


def trie_of(*patterns: str) -> PatternTrie[str]:
    """Return a trie in which every pattern is its own item."""
    trie = PatternTrie[str]()
    for pattern in patterns:
        trie.add(pattern, pattern)
    return trie


def matches(pattern: str, name: str) -> bool:
    """Match with all implementations, which must agree."""
    in_trie = trie_of(pattern).match(name) == [pattern]
    assert in_trie == bool(compile_pattern(pattern)(name))
    return in_trie


@contextmanager
def no_collector() -> Generator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def parts() -> int:
    """Count the nodes and states of all tries, also the unreachable ones."""
    return sum(isinstance(each, (PatternNode, TrieState)) for each in gc.get_objects())


def calls_during(call: Any, *args: Any) -> int:
    """Count the calls of Python and C functions during a call. This measures work and not time."""
    count = 0

    def tick(*_: Any) -> None:
        nonlocal count
        count += 1

    sys.setprofile(tick)
    try:
        call(*args)
    finally:
        sys.setprofile(None)
    return count


# -- the names that a pattern matches


def test_a_pattern_without_wildcards_matches_itself_only() -> None:
    assert matches("order.paid", "order.paid")
    for name in (
        "order",
        "order.paid.late",
        "order.paidx",
        "xorder.paid",
        "order-paid",
        "orderxpaid",
    ):
        assert not matches("order.paid", name)


def test_a_star_is_exactly_one_segment() -> None:
    assert matches("order.*", "order.paid")
    assert matches("*.created", "user.created")
    assert matches("a.*.c", "a.b.c")
    assert matches("*.*", "a.b")
    for pattern, name in (
        ("order.*", "order"),
        ("order.*", "order.paid.late"),
        ("order.*", "orders.paid"),
        ("*.created", "created"),
        ("*.created", "eu.user.created"),
        ("*", "a.b"),
    ):
        assert not matches(pattern, name)


def test_two_stars_are_one_segment_or_more() -> None:
    for name in ("a", "a.b", ".".join("a" * 128)):
        assert matches("**", name)
    assert matches("order.**", "order.eu.paid")
    assert not matches("order.**", "order")
    assert matches("**.paid", "order.eu.paid")
    assert not matches("**.paid", "paid")
    assert matches("order.**.paid", "order.paid.paid.paid")
    assert not matches("order.**.paid", "order.paid")
    assert not matches("order.**.paid", "order.eu.paid.late")


def test_wildcards_next_to_each_other_each_take_their_segment() -> None:
    for pattern in ("**.**", "**.*", "*.**"):
        assert [matches(pattern, name) for name in ("a", "a.b", "a.b.c")] == [False, True, True]
    assert not matches("**.**.*.a", "a.a.a")
    assert matches("**.**.*.a", "a.a.a.a.a")


@given(patterns, names)
def test_one_pattern_matches_by_the_definition(pattern: str, name: str) -> None:
    assert matches(pattern, name) == fits(pattern.split("."), name.split("."))


@given(st.lists(patterns, max_size=30), st.lists(names, max_size=10))
@settings(deadline=None)
def test_many_patterns_match_by_the_definition(many: list[str], some: list[str]) -> None:
    trie = trie_of(*many)
    for name in some:
        fitting = [p for p in many if fits(p.split("."), name.split("."))]
        assert Counter(trie.match(name)) == Counter(fitting)


def test_every_short_pattern_matches_every_short_name_by_the_definition() -> None:
    def words(letters: Sequence[str], longest: int) -> list[tuple[str, ...]]:
        lengths = range(1, longest + 1)
        return [word for n in lengths for word in itertools.product(letters, repeat=n)]

    every = words(("a", "*", "**"), 4)
    trie = trie_of(*map(".".join, every))
    tests = {pattern: compile_pattern(".".join(pattern)) for pattern in every}
    for segments in words("ab", 6):
        name = ".".join(segments)
        fitting = {p for p in every if fits(p, segments)}
        assert set(trie.match(name)) == {".".join(p) for p in fitting}
        assert {p for p, test in tests.items() if test(name)} == fitting


# -- the grammar


@pytest.mark.parametrize(("text", "answer"), [("order.*", True), ("**", True), ("order", False)])
def test_a_pattern_has_a_wildcard(text: str, answer: bool) -> None:
    assert is_pattern(text) is answer


@pytest.mark.parametrize(
    "text",
    ["*", "**", "order.*", "*.created", "order.**.paid", "**.**.x-1_Y", "a.b", "*." * 127 + "a"],
)
def test_dotted_segments_and_wildcards_are_a_pattern(text: str) -> None:
    assert validate_pattern(text) is text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "an event pattern cannot be empty"),
        (".*", "empty segment at position 0"),
        ("*..b", "empty segment at position 2"),
        ("**.", "empty segment at position 3"),
        ("order.*x", r"'\*x' at position 6 .* a \* must be a whole segment"),
        ("order*.x", r"'order\*' at position 0 .* a \* must be a whole segment"),
        ("***", r"'\*\*\*' at position 0 .* a \* must be a whole segment"),
        ("a.**b.c", r"'\*\*b' at position 2 .* a \* must be a whole segment"),
        ("order.?", r"'\?' at position 6 is not allowed; .* A-Z a-z 0-9 _ - \* joined"),
        ("a b.*", "' ' at position 1"),
        ("*\n", "must be a whole segment"),
        ("a\n.*", r"'\\n' at position 1"),
        ("*." * 127 + "ab", "256 bytes; the limit is 255"),
        ("x" * 1000 + "*", r"x' at position 0 .* a \* must be a whole segment"),
    ],
)
def test_a_bad_pattern_is_refused_with_the_reason(text: str, reason: str) -> None:
    for use in (validate_pattern, compile_pattern, trie_of):
        with pytest.raises(ValueError, match=reason) as caught:
            use(text)
        assert len(str(caught.value)) < 350


def test_a_pattern_that_is_not_a_str_is_a_type_error() -> None:
    pattern: Any = b"order.*"
    with pytest.raises(TypeError, match="bytes"):
        validate_pattern(pattern)


@given(st.text("ab1_-.* é\n", max_size=12))
def test_a_pattern_is_valid_only_if_its_segments_are(text: str) -> None:
    allowed = set("ab1_-")
    if all(part in ("*", "**") or (part and set(part) <= allowed) for part in text.split(".")):
        assert validate_pattern(text) == text
    else:
        with pytest.raises(ValueError, match="event pattern"):
            validate_pattern(text)


# -- the trie


def test_an_empty_trie_is_false_and_matches_nothing() -> None:
    trie = PatternTrie[str]()
    assert not trie
    assert trie.match("a.b") == []
    trie.add("a.*", "item")
    assert trie
    assert len(trie) == 1


def test_the_items_of_a_pattern_stand_in_the_order_in_which_they_were_added() -> None:
    trie = PatternTrie[int]()
    for number in range(5):
        trie.add("a.*", number)
    assert trie.match("a.b") == [0, 1, 2, 3, 4]
    trie.remove("a.*", 2)
    trie.add("a.*", 2)
    assert trie.match("a.b") == [0, 1, 3, 4, 2]


def test_the_items_of_a_pattern_come_once_if_it_matches_in_several_ways() -> None:
    trie = trie_of("**.**.a.**")
    assert trie.match("a.a.a.a.a.a") == ["**.**.a.**"]


def test_an_item_under_two_matching_patterns_comes_twice() -> None:
    trie = PatternTrie[str]()
    trie.add("a.*", "item")
    trie.add("*.b", "item")
    assert trie.match("a.b") == ["item", "item"]
    assert trie.match("a.c") == ["item"]


def test_an_item_added_twice_is_there_until_it_is_removed_twice() -> None:
    trie = PatternTrie[str]()
    trie.add("*", "item")
    trie.add("*", "item")
    trie.remove("*", "item")
    assert trie.match("a") == ["item"]
    trie.remove("*", "item")
    assert trie.match("a") == []


def test_the_list_of_matches_belongs_to_the_caller() -> None:
    trie = trie_of("*")
    trie.match("a").clear()
    assert trie.match("a") == ["*"]


@pytest.mark.parametrize(
    ("pattern", "item"),
    [("a.*", "b.*"), ("b.*", "a.*"), ("a", "a.*"), ("a.*.c", "a.*"), ("", "a.*")],
)
def test_removing_an_unknown_item_is_an_error_and_changes_nothing(pattern: str, item: str) -> None:
    trie = trie_of("a.*", "b.c")
    with pytest.raises(
        ValueError, match=f"'{item}' is not under the pattern '{pattern}'".replace("*", r"\*")
    ):
        trie.remove(pattern, item)
    assert len(trie) == 2
    assert trie.match("a.x") == ["a.*"]


def test_a_pattern_stays_when_a_prefix_or_an_extension_of_it_is_removed() -> None:
    trie = trie_of("a.*", "a.*.**", "a.*.b")
    trie.remove("a.*", "a.*")
    assert trie.match("a.x") == []
    assert set(trie.match("a.x.b")) == {"a.*.**", "a.*.b"}
    trie.remove("a.*.b", "a.*.b")
    assert trie.match("a.x.b") == ["a.*.**"]


@given(
    st.lists(patterns, max_size=20), st.lists(patterns, max_size=20), st.lists(names, max_size=8)
)
@settings(deadline=None)
def test_removal_restores_the_earlier_matches_exactly(
    staying: list[str], passing: list[str], some: list[str]
) -> None:
    trie = trie_of(*staying)
    before = [trie.match(name) for name in some]
    for pattern in passing:
        trie.add(pattern, "passing")
        for name in some:
            trie.match(name)
    for pattern in passing:
        trie.remove(pattern, "passing")
    assert [trie.match(name) for name in some] == before
    assert len(trie) == len(staying)


class Churn(RuleBasedStateMachine):
    """Add, remove and match patterns in any order. The model is a list of all patterns."""

    @initialize()
    def begin(self) -> None:
        self.trie = PatternTrie[int]()
        self.model: list[tuple[str, int]] = []

    @rule(pattern=patterns, item=st.integers(0, 3))
    def add(self, pattern: str, item: int) -> None:
        self.trie.add(pattern, item)
        self.model.append((pattern, item))

    @rule(pattern=patterns, item=st.integers(0, 3))
    def remove(self, pattern: str, item: int) -> None:
        if (pattern, item) in self.model:
            self._take((pattern, item))
        else:
            with pytest.raises(ValueError, match="not under"):
                self.trie.remove(pattern, item)

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0))
    def remove_one_that_is_there(self, index: int) -> None:
        self._take(self.model[index % len(self.model)])

    def _take(self, one: tuple[str, int]) -> None:
        self.trie.remove(*one)
        self.model.remove(one)

    @rule(name=names)
    def match(self, name: str) -> None:
        fitting = [i for p, i in self.model if fits(p.split("."), name.split("."))]
        assert Counter(self.trie.match(name)) == Counter(fitting)

    @invariant()
    def counts(self) -> None:
        assert len(self.trie) == len(self.model)


TestChurn = Churn.TestCase


@given(st.lists(patterns, max_size=20), st.lists(names, min_size=5, max_size=10))
@settings(max_examples=30, deadline=None)
def test_dropping_the_remembered_states_changes_no_match(many: list[str], some: list[str]) -> None:
    trie = trie_of(*many)
    expected = [trie.match(name) for name in some]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_patterns, "MAX_REMEMBERED_NODES", 5)
        trie = trie_of(*many)
        for _ in range(2):
            assert [trie.match(name) for name in some] == expected


# -- memory


class Busy:
    """A trie that gets 2000 patterns, matches 2000 names and loses the patterns."""

    def __init__(self) -> None:
        self.trie = PatternTrie[int]()

    def fill(self) -> None:
        for i in range(1000):
            self.trie.add(f"entity{i}.**.verb{i % 7}", i)
            self.trie.add(f"**.entity{i}.*", i)
            self.trie.match(f"entity{i}.entity{i - 1}.verb{i % 7}")
        for i in range(1000):
            self.trie.match(f"entity{i}.entity{i + 1}.verb{i % 7}.verb{i % 7}.verb{i % 7}.x.x.x")

    def empty(self) -> None:
        for i in range(1000):
            self.trie.remove(f"entity{i}.**.verb{i % 7}", i)
            self.trie.remove(f"**.entity{i}.*", i)
        assert not self.trie


def test_memory_is_freed_when_the_patterns_are_removed() -> None:
    busy = Busy()
    tracemalloc.start()
    try:
        busy.fill()
        full = tracemalloc.get_traced_memory()[0]
        busy.empty()
        gc.collect()  # this empties the free lists of the interpreter
        left = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert full > 1_000_000
    assert left < 10_000


def test_dropped_nodes_and_states_are_freed_without_the_garbage_collector() -> None:
    busy = Busy()
    with no_collector():
        before = parts()
        busy.fill()
        assert parts() > before + 5000
        busy.empty()
        assert parts() == before


def test_a_removed_item_is_freed_without_the_garbage_collector() -> None:
    class Item:
        pass

    item = Item()
    trie = PatternTrie[Item]()
    with no_collector():
        trie.add("**.a.**", item)
        assert trie.match("b.a.b.a.b") == [item]
        gone = weakref.ref(item)
        trie.remove("**.a.**", item)
        del item
        assert gone() is None


def test_names_without_a_matching_segment_are_not_remembered() -> None:
    trie = trie_of("order.*.paid", "order.**", "*.*.late", "**.a.**.b")

    def match(i: int) -> None:
        assert len(trie.match(f"order.id{i}.paid")) == 2
        assert trie.match(f"id{i}.id{i}.id{i}.id{i}") == []

    match(0)
    with no_collector():
        before = parts()
        tracemalloc.start()
        try:
            for i in range(1, 3000):
                match(i)
            assert tracemalloc.get_traced_memory()[0] < 10_000
        finally:
            tracemalloc.stop()
        assert parts() == before


def test_names_without_a_matching_segment_displace_no_remembered_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_patterns, "MAX_REMEMBERED_NODES", 100)
    trie = trie_of("order.*.paid", "order.**", "**.a.**.b")
    trie.match("order.x.paid")
    known = calls_during(trie.match, "order.x.paid")
    for i in range(200):
        trie.match(f"id{i}.id{i}.id{i}")
    assert calls_during(trie.match, "order.x.paid") == known


def test_names_that_lead_to_the_same_nodes_share_one_state() -> None:
    trie = trie_of("**.a", "**.b.**")
    with no_collector():
        before = parts()
        for word in itertools.product("ab", repeat=8):
            trie.match(".".join(word))
        assert parts() < before + 20


def test_names_made_of_the_patterns_words_cannot_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_patterns, "MAX_REMEMBERED_NODES", 500)
    # Each set of these words in a name leads to another state: there are 2 ** 10.
    trie = trie_of(*(f"**.w{i}.**.end" for i in range(10)))
    with no_collector():
        before = parts()
        for number in range(2**10):
            words = [f"w{i}" for i in range(10) if number & 2**i]
            assert len(trie.match(".".join(["x", *words, "x", "end"]))) == len(words)
            if number % 64 == 0:
                assert parts() < before + 250


# -- hostile names and patterns


HOSTILE = [
    "**.**.**.**.x",
    ".".join(["**"] * 60) + ".x",
    ".".join(["**.a"] * 50) + ".x",
    ".".join(["**.a.*"] * 30) + ".x",
    ".".join(["**.*.a"] * 30) + ".x",
]


@pytest.mark.parametrize("pattern", HOSTILE)
@pytest.mark.timeout(HANG_SECONDS)  # with backtracking these would take years
def test_no_pattern_backtracks(pattern: str) -> None:
    name = ".".join("a" * 120)
    assert not matches(pattern, name)
    assert matches(pattern, f"{name}.x")


@pytest.mark.timeout(HANG_SECONDS)
def test_many_patterns_that_branch_everywhere_stay_quick() -> None:
    many = [".".join(word) for word in itertools.product(("**", "*", "a"), repeat=6)]
    trie = trie_of(*many)
    assert set(trie.match(".".join("a" * 120))) == {p for p in many if "**" in p}
    assert trie.match("a.b.c.d.e") == []


def test_a_name_that_was_seen_costs_no_more_than_its_segments() -> None:
    trie = trie_of(*HOSTILE, *(f"**.w{i}" for i in range(1000)))
    name = ".".join("a" * 120)
    trie.match(name)
    assert calls_during(trie.match, name) < 400


def test_a_name_of_any_length_is_matched() -> None:
    name = "a." * 100_000 + "x"
    assert set(trie_of(*HOSTILE).match(name)) == set(HOSTILE)
    assert compile_pattern(HOSTILE[1])(name)
