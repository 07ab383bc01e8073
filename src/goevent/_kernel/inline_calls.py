"""Inline calls on special routes: runs inline `def` listeners, with middleware around each.

Special dispatch calls it when no inline listener of an event is an `async def`; otherwise
`InlineTurn` runs them all and calls it for each `def`. On ordinary routes the dispatcher calls the
listeners by itself.

Admission has raised `pending_inline` of each listener. It is lowered here after each run: every
admitted run is completed, failed or abandoned, even after a KeyboardInterrupt.
"""

from __future__ import annotations

from contextvars import copy_context
from time import perf_counter
from typing import TYPE_CHECKING

from .._delivery import Delivery, finder
from .._errors import failure_of
from .._foreign import forget_caller
from .._options.middleware import within
from .._options.results import refuse_unrun

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._handle import DispatchHandle
    from .actor import Actor
    from .failures import Failures
    from .intake import Intake
    from .route import Route


class InlineCalls:
    """The inline calls of one bus.

    Attributes:
        slow_after: Seconds after which a listener is reported as slow.
    """

    def __init__(self, intake: Intake, failures: Failures) -> None:
        self._intake = intake
        self._failures = failures
        self.slow_after: float = intake.slow_after

    def call_all(self, route: Route, handle: DispatchHandle) -> None:
        """Call the inline listeners of a route, none of which is an `async def`."""
        remaining = iter(route.inline)
        try:
            for actor in remaining:
                self.call(actor, handle)
        finally:
            for actor in remaining:  # after a KeyboardInterrupt, say
                actor.pending_inline -= 1
                actor.abandoned += 1

    def call_all_timed(self, route: Route, handle: DispatchHandle) -> DispatchHandle:
        """Call the inline listeners of a route, and warn if they were slow."""
        start = perf_counter()
        self.call_all(route, handle)
        self._intake.warn_if_slow(route, perf_counter() - start)
        return handle

    def call(self, actor: Actor, handle: DispatchHandle) -> None:
        """Call one inline `def`; a failure is reported, and its supervision is applied."""
        failure = None
        ended = False
        owner = self._intake.enter_inline(handle)
        try:
            if actor.options.hooks:
                copy_context().run(self._call_within_hooks, actor, handle)
            elif (result := actor.call(handle.event)) is not None:
                refuse_unrun(result)
            ended = True
        except Exception as error:  # noqa: BLE001 - every failure of a listener is reported
            forget_caller(error)
            failure = failure_of(handle.event_name, actor.name, error)
            ended = True
        finally:
            self._intake.leave_inline(owner)
            actor.pending_inline -= 1
            actor.abandoned += not ended  # a KeyboardInterrupt, say
        if failure is not None:
            self._failures.fail(actor, handle, failure)
            if actor.recovery is not None:
                actor.recovery.supervise_inline(failure)

    def _call_within_hooks(self, actor: Actor, handle: DispatchHandle) -> None:
        delivery = Delivery(actor.name, handle)
        finder.set(self.shown(delivery))
        # Inside the hooks, so that they see the failure.
        with within(actor.options.hooks, delivery):
            if (result := actor.call(handle.event)) is not None:
                refuse_unrun(result)

    def shown(self, delivery: Delivery) -> Callable[[], Delivery | None]:
        """Return a function that finds `delivery`, except from inline calls nested inside it."""
        intake = self._intake
        depth = intake.inline_depth
        return lambda: delivery if intake.inline_depth <= depth else None

    def warn_slow(self, name: str, seconds: float) -> None:
        """Log that a listener has held up all other tasks."""
        self._intake.scheduler.warn_slow(name, seconds)
