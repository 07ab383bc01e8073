"""The publisher: takes dispatched events to the driver, in the order of dispatch.

The session makes one when it opens a bus that has a driver, and the router puts it on every route,
where it is the third kind of entry beside inline calls and mailboxes. Dispatch calls `post`.

Theory of operation. A task for each published event would more than double its price: 32,000 events
a second in place of 72,000 over Redis. So if the driver has `publish_nowait`, an event leaves in
the very step in which it is dispatched. No task waits for the reply of the broker; the driver calls
`PostedMessage.replied` with it. At most `Capabilities.in_flight` events are unanswered at a time.

*Batches.* While `dispatch_many` dispatches the events of a batch, the publisher holds them back:
from `hold` to `release`, with no wait of the dispatching task in between. `release` hands them over
in one call of `publish_many_nowait`, which takes as many as it can now; the others wait, in front.
The driver tells the receipts in one call of `PostedBatch.replied`, or in several. A held event
counts as posted. After a reply, the events that have waited are handed over as a batch, too. A
driver without that method gets the events one by one.

An event that cannot be posted waits in the mailbox of the publisher's actor, with the same
back-pressure as in any mailbox. It leaves the mailbox in one of two ways. A reply posts the next
one. If the driver has no `publish_nowait`, or refuses it for now with `trio.WouldBlock`, workers of
the scheduler take events from the mailbox and await `Driver.publish`. While one of them does so, no
event is posted, because it would overtake.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from .._batch_handle import settle_with_receipt
from .._errors import EventError, GoEventError
from .._foreign import describe_value, forget_caller, leaves
from .._handle import HandleDetails
from .._kernel.actor import Actor, Lane
from .._kernel.mailbox import SharedMailbox
from ..drivers.contract import Capabilities, Receipt
from ..drivers.error_mapping import first_error, map_error, map_errors
from .batch_message import BatchMessage
from .message import MessageEncoding, OutgoingMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._batch_handle import PostedEvents
    from .._config import Config
    from .._handle import DispatchHandle
    from .._kernel.failures import Failures
    from .._kernel.scheduler import Scheduler
    from ..drivers.contract import BatchReplied, Driver, Message
    from .inbox import BusInbox

MAX_WAITING_EVENTS = 1024

MAX_EVENTS_PER_BATCH = 128
"""The events that the driver gets in one call: to encode more of them would hold up other tasks."""


class EventPublisher:
    """The events of one open bus that go to its driver.

    Attributes:
        actor: The actor of the driver. Its mailbox holds the events that wait, and its workers
            publish them.
        waiting: That mailbox.
    """

    def __init__(
        self,
        driver: Driver,
        capabilities: Capabilities,
        inbox: BusInbox,
        config: Config,
        scheduler: Scheduler,
        failures: Failures,
    ) -> None:
        self.actor: Actor = Actor("driver", (), self._publish, capacity=MAX_WAITING_EVENTS)
        self._in_flight = capabilities.in_flight
        lanes = self.actor.make_lanes(self._in_flight)
        self.waiting: SharedMailbox[Lane] = SharedMailbox(lanes, scheduler.ready.append)
        self.actor.share(self.waiting)
        # The events that were posted and have no answer, and those that are held back.
        self._posted: dict[DispatchHandle, None] = {}
        # The posted events without handles that have no answer, and their number.
        self._batches: dict[PostedEvents, None] = {}
        self._batched = 0
        self._driver = driver
        self._publish_nowait = getattr(driver, "publish_nowait", None)
        self._publish_many = getattr(driver, "publish_many_nowait", None)
        # The events that are held back; None while none is to be.
        self._held: list[DispatchHandle] | None = None
        # True while the driver takes a batch, in which it may reply to some events at once.
        self._handing_over = False
        self._encoding = MessageEncoding(
            inbox, config.codec, config.registry.key_of, capabilities.max_size
        )
        # `ObservedPublisher` has others.
        self._message_class: type[PostedMessage] = PostedMessage
        self._batch_class: type[PostedBatch] = PostedBatch
        self._scheduler = scheduler
        self._failures = failures
        self._all_replied = trio.lowlevel.ParkingLot()

    @property
    def busy(self) -> bool:
        """True while the driver has events that the broker has not accepted."""
        return bool(self._unanswered or self.actor.in_flight)

    @property
    def _unanswered(self) -> int:
        return len(self._posted) + self._batched

    @property
    def posted(self) -> list[DispatchHandle]:
        """The events that the driver has taken and the broker has not replied to."""
        return [*self._posted, *(h for each in self._batches for h in each.unanswered_handles)]

    @property
    def holds(self) -> bool:
        """True while events are held back, to be handed over as one batch."""
        return self._held is not None

    async def quiet(self) -> None:
        """Wait until the broker has replied to all posted events."""
        while self._unanswered:
            await self._all_replied.park()

    def take_posted(self) -> list[DispatchHandle]:
        """Forget the posted events and return them, because the bus has ended."""
        handles = [*self._posted]
        self._posted.clear()
        for events in [*self._batches]:
            handles += self._withdraw(events)
        self._all_replied.unpark_all()
        return handles

    def fork(self) -> None:
        """Hand nothing over to the driver: this process is a fork of the one that owns the bus."""
        self._in_flight = 0
        self._held = None
        self.waiting.clear()
        self.waiting.free.clear()

    # -- to the driver

    def post(self, handle: DispatchHandle) -> None:
        """Take an event: hand it to the driver now if its turn has come, or let it wait."""
        waiting = self.waiting
        publishing = self._in_flight - len(waiting.free)
        if len(self._posted) + self._batched + publishing >= self._in_flight:
            waiting.keep(handle)  # the next reply posts it
        elif publishing:
            waiting.append(handle)
        elif self._held is not None:
            self._posted[handle] = None
            self._held.append(handle)
            if len(self._held) >= MAX_EVENTS_PER_BATCH:
                self.release()
                self.hold()
        elif self._publish_nowait is None or not self._hand_over(handle):
            waiting.append(handle)

    @property
    def batch_room(self) -> int:
        """The number of events that the driver may get in one call now; 0 if they have to wait."""
        waiting = self.waiting
        if self._publish_many is None or waiting or len(waiting.free) < self._in_flight:
            return 0
        if self._held:
            # Code that runs within a batch, such as a log handler, dispatches one of its own.
            return 0
        room = self._in_flight - len(self._posted) - self._batched
        return max(0, min(room, MAX_EVENTS_PER_BATCH))

    def post_events(self, events: PostedEvents) -> None:
        """Hand over events without handles, no more than `batch_room`, as one batch."""
        self._batches[events] = None
        self._batched += len(events)
        encoding, cause = self._encoding, events.cause
        messages = [
            BatchMessage(route.name, event, handle_id, encoding, cause)
            for route, event, handle_id in zip(
                events.routes, events.events, events.ids, strict=True
            )
        ]
        taken = self._hand_to_driver(messages, partial(self._answered, events))
        if taken < len(messages) and (refused := self._withdraw(events, taken)):
            self.waiting.extendleft(reversed(refused))
            self._engage_workers()
        elif self.waiting or not self._unanswered:
            # The driver has replied at once.
            self.post_waiting()

    def _withdraw(self, events: PostedEvents, first: int = 0) -> list[DispatchHandle]:
        """Return the handles of the unanswered events from a place on, and forget these events."""
        handles = events.withdraw(first)
        self._batched -= len(handles)
        if not events.unanswered:
            self._batches.pop(events, None)
        return handles

    def _answered(
        self,
        events: PostedEvents,
        results: Sequence[Receipt | Exception | None],
        first: int = 0,
    ) -> None:
        """Take the driver's answers to some events, in a row."""
        self._batched -= events.answer(results, first, self.failed)
        if not events.unanswered:
            self._batches.pop(events, None)
        if self.waiting or not self._unanswered:
            self.post_waiting()

    def hold(self) -> None:
        """Hold back the events that are posted from now on, until `release` is called.

        Without effect if the driver takes no batches.
        """
        if self._held is None and self._publish_many is not None:
            self._held = []

    def release(self) -> None:
        """Hand over the events that were held back, as one batch; none may be held back."""
        held, self._held = self._held, None
        if held:
            self._post_batch(held)

    def _hand_over(self, handle: DispatchHandle) -> bool:
        """Hand an event to `publish_nowait`; return False if the driver refuses it for now."""
        self._posted[handle] = None
        message = self._message_class(handle._route.name, handle, self._encoding, self)
        try:
            self._publish_nowait(message, message.replied)  # type: ignore[misc]
        except trio.WouldBlock:
            del self._posted[handle]
            return False
        except Exception as error:  # noqa: BLE001 - every failure of a driver is reported
            forget_caller(error)
            del self._posted[handle]
            self.failed(handle, error)
        return True

    def _post_batch(self, handles: list[DispatchHandle]) -> None:
        """Hand over events that count as posted; those that the driver refuses wait."""
        if refused := self._hand_over_many(handles):
            # The events that wait already were dispatched later.
            self.waiting.extendleft(reversed(refused))
            self._engage_workers()
        elif self.waiting or not self._unanswered:
            # The driver has replied at once.
            self.post_waiting()

    def _hand_over_many(self, handles: list[DispatchHandle]) -> list[DispatchHandle]:
        """Hand over events that count as posted; return those that the driver refuses for now."""
        encoding = self._encoding
        batch = self._batch_class(handles, self)
        messages = [OutgoingMessage(each._route.name, each, encoding) for each in handles]
        taken = self._hand_to_driver(messages, batch.replied)
        # As in `PostedMessage.replied`: an event with an answer is settled already.
        return [handle for handle in handles[taken:] if self._posted.pop(handle, self) is None]

    def _hand_to_driver(self, messages: Sequence[Message], replied: BatchReplied) -> int:
        """Call `publish_many_nowait`; return how many of the messages need no other publish.

        If the driver fails, that is the result of each message that has none.
        """
        count = len(messages)
        self._handing_over = True
        try:
            taken: object = self._publish_many(messages, replied)  # type: ignore[misc]
            if not isinstance(taken, int) or not 0 <= taken <= count:
                shown = describe_value(taken)
                raise ValueError(f"publish_many_nowait returned {shown} for {count} messages")
        except Exception as error:  # noqa: BLE001 - every failure of a driver is reported
            forget_caller(error)
            replied([error] * count)
            return count
        finally:
            self._handing_over = False
        return taken

    def end(self) -> None:
        """Forget the events that have not ended: they were abandoned, because the bus ended."""

    def failed(self, handle: DispatchHandle, error: Exception) -> EventError:
        """Report an event that could not be published, and settle it; return the report."""
        mapped = first_error([map_error(e, self._driver, "publish") for e in leaves(error)])
        failure = EventError(handle.event_name, self.actor.name, mapped)
        self._failures.settle(self.actor, handle, failure)
        return failure

    async def _publish(self, _: Any) -> None:
        """Publish an event on a worker, as the listener that the publisher's actor runs."""
        delivery = self._scheduler.delivery()
        if delivery is None:
            raise RuntimeError("the publisher runs only as the listener of its actor")
        handle = delivery.handle
        message = OutgoingMessage(handle._route.name, handle, self._encoding)
        failure: BaseException | None = None
        try:
            handle._ensure_details().receipt = await self._driver.publish(message)
        except GoEventError:
            raise
        except BaseException as error:
            failure = map_errors(error, self._driver, "publish")
            if failure is error:
                raise
        if failure is not None:
            raise failure

    # -- replies of the broker

    def post_waiting(self) -> None:
        """Post the events that wait, or leave them to workers; called after each reply."""
        if self._handing_over:
            # They were dispatched after those that the driver is about to take.
            return
        if self.waiting:
            self._post_waiting()
        # Even if the loop above ran: its events may have failed, or been left to workers.
        if self._all_replied and not self._unanswered:
            self._all_replied.unpark_all()

    def _post_waiting(self) -> None:
        waiting = self.waiting
        may_post = self._in_flight == len(waiting.free)
        while waiting and may_post and (room := self._in_flight - self._unanswered) > 0:
            count = min(len(waiting), room, MAX_EVENTS_PER_BATCH)
            if self._publish_many is None:
                handle = waiting.popleft()
                refused = [] if self._hand_over(handle) else [handle]
            else:
                handles = [waiting.popleft() for _ in range(count)]
                self._posted.update(dict.fromkeys(handles))
                refused = self._hand_over_many(handles)
            may_post = not refused
            waiting.extendleft(reversed(refused))
        if waiting and not may_post:
            self._engage_workers()
        if not self.actor.limit:
            self._scheduler.backpressure.made_room(self.actor)

    def _engage_workers(self) -> None:
        """Have workers publish the events that wait, as many at once as may be in flight."""
        waiting = self.waiting
        publishing = self._in_flight - len(waiting.free)
        waiting.engage(min(len(waiting), self._in_flight - self._unanswered - publishing))
        if self._scheduler.ready and not self._scheduler.awake:
            self._scheduler.wake_workers()


class PostedMessage(OutgoingMessage, eq=False):
    """An event that was posted, until the broker has replied."""

    _publisher: EventPublisher

    def replied(self, result: Receipt | Exception | None) -> None:
        """Settle the event, and post the events that have waited for it."""
        publisher, handle = self._publisher, self._handle
        posted = publisher._posted
        # A posted event has the value None. If the event is missing, the bus has ended and
        # abandoned it.
        if posted.pop(handle, self) is self:
            return
        if isinstance(result, Exception):
            publisher.failed(handle, result)
        else:
            details = handle._details
            if not isinstance(details, HandleDetails):
                details = handle._ensure_details()
            details.receipt = result
            handle._left = left = handle._left - 1
            if not left:
                handle._wake()
        if publisher.waiting or not posted:
            publisher.post_waiting()


class PostedBatch:
    """Events that were handed over together, until the broker has replied to all of them."""

    __slots__ = ("_handles", "_publisher")

    def __init__(self, handles: list[DispatchHandle], publisher: EventPublisher) -> None:
        self._handles = handles
        self._publisher = publisher

    def replied(self, results: Sequence[Receipt | Exception | None], first: int = 0) -> None:
        """Settle some of the events, in a row, and post the events that have waited for them.

        Args:
            results: The result of each event.
            first: The place of the first of these events in the batch.
        """
        publisher = self._publisher
        posted = publisher._posted
        count, known = len(results), len(self._handles)
        if first < 0 or first + count > known:
            raise ValueError(f"{count} results from place {first} on for {known} events")
        for handle, result in zip(self._handles[first:], results, strict=False):
            # As in `PostedMessage.replied`: the bus may have ended, or the event failed.
            if posted.pop(handle, self) is self:
                continue
            if isinstance(result, Exception):
                publisher.failed(handle, result)
            else:
                settle_with_receipt(handle, result)
        if publisher.waiting or not posted:
            publisher.post_waiting()
