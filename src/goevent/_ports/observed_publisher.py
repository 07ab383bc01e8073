"""The publisher of a bus with middleware around publishing.

The session makes one in place of an `EventPublisher` if the bus has `around_publish` hooks; without
them, no event pays for them. It begins the hooks of an event when the event is committed to the
driver, and ends them when the event is: published, failed, or abandoned with the bus.

The events of a batch that go to the driver together share one run of the hooks, which ends with the
last of them.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._errors import EventAbandoned, EventError, HookFailed, Vetoed
from .._options.middleware import within
from ..drivers.contract import Receipt
from .publisher import EventPublisher, PostedBatch, PostedMessage

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .._config import Config
    from .._handle import DispatchHandle
    from .._kernel.failures import Failures
    from .._kernel.scheduler import Scheduler
    from .._options.middleware import Hook
    from ..drivers.contract import Capabilities, Driver
    from .inbox import BusInbox


class PublishHooks:
    """One run of the hooks, around the publishing of some events.

    Attributes:
        left: The number of the events that have not ended.
        errors: The failures of those that have.
    """

    __slots__ = ("_stack", "errors", "handles", "left")

    def __init__(self, hooks: tuple[Hook, ...], handles: tuple[DispatchHandle, ...]) -> None:
        self._stack: AbstractContextManager[None] = within(hooks, handles)
        self.handles: tuple[DispatchHandle, ...] = handles
        self.left: int = len(handles)
        self.errors: list[Exception] = []

    def enter(self) -> None:
        """Run the code above the yields."""
        self._stack.__enter__()

    def leave(self) -> None:
        """Run the code below the yields."""
        if not self.errors:
            self._stack.__exit__(None, None, None)
            return
        if len(self.handles) == 1:
            failure: Exception = self.errors[0]
        else:
            text = f"{len(self.errors)} of {len(self.handles)} events were not published"
            failure = ExceptionGroup(text, self.errors)
        self._stack.__exit__(type(failure), failure, failure.__traceback__)


class ObservedPublisher(EventPublisher):
    """The events of one open bus that go to its driver, with middleware around their way."""

    def __init__(
        self,
        driver: Driver,
        capabilities: Capabilities,
        inbox: BusInbox,
        config: Config,
        scheduler: Scheduler,
        failures: Failures,
        hooks: tuple[Hook, ...],
    ) -> None:
        super().__init__(driver, capabilities, inbox, config, scheduler, failures)
        self._hooks = hooks
        self._message_class = ObservedMessage
        self._batch_class = ObservedBatch
        # The hooks that were begun and have not ended, by their events.
        self._begun: dict[DispatchHandle, PublishHooks] = {}

    def post(self, handle: DispatchHandle) -> None:
        # An event that is held back begins with its batch, in `_post_batch`.
        if self._held is None or not self._may_hold:
            self._begin((handle,))
        super().post(handle)

    @property
    def _may_hold(self) -> bool:
        """True if `post` would hold the next event back rather than let it wait."""
        return len(self.waiting.free) == self._in_flight and self._unanswered < self._in_flight

    def _post_batch(self, handles: list[DispatchHandle]) -> None:
        self._begin(tuple(handles))
        super()._post_batch(handles)

    async def _publish(self, _: Any) -> None:
        delivery = self._scheduler.delivery()
        try:
            await super()._publish(_)
        except Exception as error:
            if delivery is not None:
                self.ended(delivery.handle, error)
            raise
        if delivery is not None:
            self.ended(delivery.handle)

    def failed(self, handle: DispatchHandle, error: Exception) -> EventError:
        failure = super().failed(handle, error)
        self.ended(handle, failure.error if isinstance(failure.error, Exception) else failure)
        return failure

    def end(self) -> None:
        for handle in [*self._begun]:
            reason = "the bus ended before the broker had answered"
            self.ended(handle, EventAbandoned(handle.event_name, self.actor.name, reason=reason))

    # -- the hooks

    def _begin(self, handles: tuple[DispatchHandle, ...]) -> None:
        hooks = PublishHooks(self._hooks, handles)
        try:
            hooks.enter()
        except (Vetoed, HookFailed) as error:
            self._hook_failed(handles[0], error)
        else:
            self._begun.update(dict.fromkeys(handles, hooks))

    def ended(self, handle: DispatchHandle, error: Exception | None = None) -> None:
        """Note that an event has ended; leave its hooks if it is the last one of them."""
        hooks = self._begun.pop(handle, None)
        if hooks is None:
            return
        hooks.left -= 1
        if error is not None:
            hooks.errors.append(error)
        if hooks.left:
            return
        try:
            hooks.leave()
        except (Vetoed, HookFailed) as failure:
            self._hook_failed(handle, failure)

    def _hook_failed(self, handle: DispatchHandle, error: Vetoed | HookFailed) -> None:
        """Report middleware that has failed; the event goes on."""
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        self._failures.fail(None, handle, EventError(handle.event_name, error.middleware, cause))


class ObservedMessage(PostedMessage, eq=False):
    """An event that was posted, with hooks that end with the broker's reply."""

    def replied(self, result: Receipt | Exception | None) -> None:
        super().replied(result)
        publisher = self._publisher
        if isinstance(publisher, ObservedPublisher) and not isinstance(result, Exception):
            publisher.ended(self._handle)


class ObservedBatch(PostedBatch):
    """Events that were handed over together, with hooks that end with the broker's replies."""

    __slots__ = ()

    def replied(self, results: Sequence[Receipt | Exception | None], first: int = 0) -> None:
        super().replied(results, first)
        publisher = self._publisher
        if isinstance(publisher, ObservedPublisher):
            for handle, result in zip(self._handles[first:], results, strict=False):
                if not isinstance(result, Exception):
                    publisher.ended(handle)
