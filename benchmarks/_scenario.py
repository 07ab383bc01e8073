"""What a contender's module provides: one function per kind of workload."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from benchmarks._measure import Effort
from benchmarks._workloads import Kind

Scenario: TypeAlias = Callable[[int, Effort], float]
"""Takes a size and an effort; returns ns per dispatch, or bytes each."""
Scenarios: TypeAlias = Mapping[Kind, Scenario]

FEW_NAMES = 100
"""How many names events are dispatched under, where most of the registered ones are idle."""


class Payload:
    """The event of contenders that have no event class: one object, made outside the loop."""

    __slots__ = ("user_id",)

    def __init__(self, user_id: int) -> None:
        self.user_id = user_id


class NotAvailable(Exception):
    """The contender that is installed is too old for the workload."""


class ListenerFailed(Exception):
    """What a raising listener raises."""


def sync_listener() -> Callable[[object], None]:
    """Make a listener that does nothing; a new function each, as different listeners are."""

    def listener(event: object) -> None:
        pass

    return listener


def raising_listener() -> Callable[[object], None]:
    """Make a listener that fails at once."""

    def listener(event: object) -> None:
        raise ListenerFailed

    return listener
