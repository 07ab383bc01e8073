"""Expectations with a full error message. pytest does not rewrite `assert` in these modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

# pytest knows this exception, so this module does not have to import pytest.
from unittest import SkipTest

MAX_SHOWN_NUMBERS = 10


class NotApplicable(SkipTest):
    """A case tests a capability that the driver does not have."""


def expect(condition: object, message: str) -> None:
    """Fail with a message unless a condition is true."""
    if not condition:
        raise AssertionError(message)


def expect_same(actual: Iterable[int], expected: Iterable[int], subject: str) -> None:
    """Fail unless the numbers of events are the expected ones, in the expected order."""
    got, wanted = list(actual), list(expected)
    if got == wanted:
        return
    expect_each(got, wanted, subject)
    pairs = enumerate(zip(got, wanted, strict=True))
    start = next(i for i, (one, other) in pairs if one != other)
    shown = slice(start, start + MAX_SHOWN_NUMBERS)
    raise AssertionError(f"{subject}: in another order, {got[shown]} instead of {wanted[shown]}")


def expect_each(actual: Iterable[int], expected: Iterable[int], subject: str) -> None:
    """Fail unless the numbers of events are the expected ones, in any order."""
    got, wanted = Counter(actual), Counter(expected)
    missing, extra = wanted - got, got - wanted
    twice = {n: count for n, count in extra.items() if n in wanted}
    foreign = [n for n in extra if n not in wanted]
    problems: list[str] = []
    if missing:
        problems.append(f"{missing.total()} missing, such as {sorted(missing)[:MAX_SHOWN_NUMBERS]}")
    if twice:
        problems.append(f"{len(twice)} more than once, such as {sorted(twice)[:MAX_SHOWN_NUMBERS]}")
    if foreign:
        shown = foreign[:MAX_SHOWN_NUMBERS]
        problems.append(f"{len(foreign)} that do not belong here, such as {shown}")
    if problems:
        raise AssertionError(f"{subject}: {'; '.join(problems)}")
