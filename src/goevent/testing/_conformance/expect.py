"""Expectations that say what was wrong, also where pytest does not rewrite `assert`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

SHOWN = 10


def expect(truth: object, complaint: str) -> None:
    """Fail with a complaint, unless something is true."""
    if not truth:
        raise AssertionError(complaint)


def expect_same(actual: Iterable[int], expected: Iterable[int], what: str) -> None:
    """Fail unless the numbers of events are the expected ones, in the expected order."""
    got, wanted = list(actual), list(expected)
    if got == wanted:
        return
    expect_each(got, wanted, what)
    place = next(i for i, (one, other) in enumerate(zip(got, wanted, strict=True)) if one != other)
    shown = f"{got[place : place + SHOWN]} where {wanted[place : place + SHOWN]} was due"
    raise AssertionError(f"{what}: in another order, {shown}")


def expect_each(actual: Iterable[int], expected: Iterable[int], what: str) -> None:
    """Fail unless the numbers of events are the expected ones, in any order."""
    got, wanted = Counter(actual), Counter(expected)
    missing, extra = wanted - got, got - wanted
    twice = {n: count for n, count in extra.items() if n in wanted}
    foreign = [n for n in extra if n not in wanted]
    complaints: list[str] = []
    if missing:
        complaints.append(f"{missing.total()} missing, such as {sorted(missing)[:SHOWN]}")
    if twice:
        complaints.append(f"{len(twice)} more than once, such as {sorted(twice)[:SHOWN]}")
    if foreign:
        complaints.append(f"{len(foreign)} that do not belong here, such as {foreign[:SHOWN]}")
    if complaints:
        raise AssertionError(f"{what}: {'; '.join(complaints)}")
