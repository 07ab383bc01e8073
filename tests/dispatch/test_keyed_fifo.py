"""The queue per key that listeners, partitions and Kafka's offsets have in common."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, strategies as st

from goevent.drivers import KeyedFifo

STEPS = st.lists(st.tuples(st.sampled_from(["add", "pop", "remove"]), st.sampled_from("abc")))


def test_only_the_first_item_of_a_key_is_first() -> None:
    fifo = KeyedFifo[str, int]()
    assert fifo.add("a", 1)
    assert not fifo.add("a", 2)
    assert fifo.add("b", 3)
    assert (fifo.first("a"), fifo.first("b"), fifo.first("c")) == (1, 3, None)
    assert (fifo.has_waiting("a"), fifo.has_waiting("b")) == (True, False)
    assert fifo.pop("a") == 2
    assert fifo.pop("a") is None
    assert fifo.first("a") is None


def test_an_item_that_is_not_there_cannot_be_removed() -> None:
    fifo = KeyedFifo[str, int]()
    with pytest.raises(KeyError):
        fifo.pop("a")
    fifo.add("a", 1)
    with pytest.raises(KeyError):
        fifo.remove_waiting("a", 1)
    fifo.add("a", 2)
    with pytest.raises(ValueError, match="not in deque"):
        fifo.remove_waiting("a", 1)
    assert len(fifo) == 2


@given(STEPS)
def test_any_steps_keep_the_order_and_forget_empty_keys(steps: list[tuple[str, str]]) -> None:
    fifo = KeyedFifo[str, int]()
    model: dict[str, deque[int]] = {}
    for n, (step, key) in enumerate(steps):
        queue = model.setdefault(key, deque())
        if step == "add":
            queue.append(n)
            assert fifo.add(key, n) is (len(queue) == 1)
        elif step == "pop" and queue:
            queue.popleft()
            assert fifo.pop(key) == (queue[0] if queue else None)
        elif step == "remove" and len(queue) > 1:
            fifo.remove_waiting(key, queue.pop())
        assert fifo.first(key) == (queue[0] if queue else None)
        assert fifo.has_waiting(key) is (len(queue) > 1)
        assert len(fifo) == sum(map(len, model.values()))
        assert fifo.waiting == sum(max(0, len(queue) - 1) for queue in model.values())
    for key, queue in model.items():
        while queue:
            queue.popleft()
            fifo.pop(key)
    assert not fifo
    assert not fifo._first  # pyright: ignore[reportPrivateUsage]
    assert not fifo._behind  # pyright: ignore[reportPrivateUsage]
