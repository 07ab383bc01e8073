"""The scenarios of a contender's module: one function for each kind of workload."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from benchmarks.core.measure import Effort
from benchmarks.core.workloads.table import Kind

Scenario: TypeAlias = Callable[[int, Effort], float]
"""Takes a size and an effort; returns ns per dispatch, or bytes each."""
Scenarios: TypeAlias = Mapping[Kind, Scenario]

FEW_NAMES = 100
"""The number of names in use, where most of the registered names are idle."""


class Payload:
    """The event of contenders that have no event class: one object, made outside the loop."""

    __slots__ = ("user_id",)

    def __init__(self, user_id: int) -> None:
        self.user_id = user_id


class NotAvailable(Exception):
    """The contender that is installed is too old for the workload."""


class ListenerFailed(Exception):
    """The exception of a listener that raises."""


def sync_listener() -> Callable[[object], None]:
    """Make a listener that does nothing; each call makes a new function."""

    def listener(event: object) -> None:
        pass

    return listener


def raising_listener() -> Callable[[object], None]:
    """Make a listener that fails at once."""

    def listener(event: object) -> None:
        raise ListenerFailed

    return listener
