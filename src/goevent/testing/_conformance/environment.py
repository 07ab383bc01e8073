"""The environment of one case: its buses over one broker, its waits and its checks.

A case never sleeps. It waits with `wait_until` for conditions; every recorder calls `notify` when
something has changed. If the deadline passes, the failure lists the conditions that were waited
for.

A case runs in the task of its test, and the broker in another one. So the case can tell the tasks
of the broker from those that a driver has left behind.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Unpack

import trio

from ... import Capabilities, Config, Driver, EventError, EventRegistry, GoEvent, Middleware
from .expect import expect
from .received import MARKER_NUMBER, NumberedEvent, ReceivedEvents
from .recording import RecordingDriver

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ..._options.options import ListenerKeywords

# Makes a driver for a consumer group of the given name.
Connect = Callable[[str], Driver]

MARKER_INTERVAL_SECONDS = 0.1  # between two markers, where markers may be lost
MAX_SHOWN_ERRORS = 3


class CaseEnvironment:
    """The environment of one case.

    Attributes:
        outage: The `outage` of the suite.
        reconnects: The `reconnects` of the suite.
        prefix: The first segment of all event names of the case.
        registry: The registry of the case's event types.
        capabilities: The capabilities of the driver.
        unexpected_errors: The errors on the buses that should have none.
        expected_errors: The errors on the buses made with `failing=True`.
    """

    def __init__(
        self,
        connect: Connect,
        broker_task: trio.lowlevel.Task,
        outage: Callable[[], AbstractAsyncContextManager[None] | None],
        *,
        reconnects: bool,
    ) -> None:
        self._connect = connect
        self._ignored_tasks = {broker_task}
        self.outage = outage
        self.reconnects: bool = reconnects
        # A broker may outlive the case, and a durable one keeps its events. So each case has event
        # names of its own.
        self.prefix: str = f"c{secrets.token_hex(4)}"
        self.registry: EventRegistry = EventRegistry()
        self.capabilities: Capabilities = connect(f"{self.prefix}-0").capabilities
        self.unexpected_errors: list[EventError] = []
        self.expected_errors: list[EventError] = []
        self._groups = 0
        # The descriptions of the conditions that are waited for now.
        self._waits: dict[Callable[[], str], None] = {}
        self._changed = trio.Event()

    # -- buses

    def event_type(self, suffix: str = "event") -> type[NumberedEvent]:
        """Return a new event type, with an event name of its own."""

        class CaseEvent(NumberedEvent, name=f"{self.prefix}.{suffix}", registry=self.registry):
            pass

        return CaseEvent

    def driver(self, group: str | None = None) -> Driver:
        """Return a driver in the consumer group `group`, or in a new one."""
        if group is None:
            self._groups += 1
            group = str(self._groups)
        return self._connect(f"{self.prefix}-{group}")

    def recording_driver(self, group: str | None = None) -> RecordingDriver:
        """Return a driver that records its calls."""
        return RecordingDriver(self.driver(group), self.notify)

    def bus(
        self,
        driver: Driver | None = None,
        *,
        failing: bool = False,
        registry: EventRegistry | None = None,
        middleware: tuple[Middleware, ...] = (),
    ) -> GoEvent:
        """Return a bus with a driver.

        Args:
            driver: The driver, by default a new one in a new group.
            failing: True if errors are expected on this bus. Otherwise an error fails the case.
            registry: The registry, by default that of the case.
            middleware: The middleware of the bus.
        """
        bus = GoEvent(
            Config(
                driver=driver or self.driver(),
                registry=registry or self.registry,
                middleware=middleware,
                slow_after=None,
            )
        )
        errors = self.expected_errors if failing else self.unexpected_errors

        def record(error: EventError) -> None:
            errors.append(error)
            self.notify()

        bus.on_error(record)
        return bus

    @asynccontextmanager
    async def open(self, *buses: GoEvent) -> AsyncGenerator[None]:
        """Keep buses open during a block."""
        async with AsyncExitStack() as stack:
            for bus in buses:
                await stack.enter_async_context(bus)
            yield

    @asynccontextmanager
    async def open_in_own_task(self, *buses: GoEvent) -> AsyncGenerator[None]:
        """Keep buses open during a block, in a task that `tasks` does not count."""
        block_ended = trio.Event()

        async def run(task_status: trio.TaskStatus[None]) -> None:
            self._ignored_tasks.add(trio.lowlevel.current_task())
            async with self.open(*buses):
                task_status.started()
                await block_ended.wait()

        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            try:
                yield
            finally:
                block_ended.set()

    def listen(
        self, bus: GoEvent, *events: type | str, **options: Unpack[ListenerKeywords]
    ) -> ReceivedEvents:
        """Register a listener, and return the record of the events that it receives."""
        received = ReceivedEvents(self.notify)
        bus.subscribe(received.record, *events, **options)
        return received

    # -- waits

    def notify(self) -> None:
        """Evaluate all conditions that are waited for again."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_until(
        self, condition: Callable[[], object], describe: Callable[[], str]
    ) -> None:
        """Wait until a condition is true. It is evaluated now and after each `notify`.

        Args:
            condition: The condition.
            describe: Returns the text for a failure, which says what is still missing.
        """
        self._waits[describe] = None
        while not condition():
            await self._changed.wait()
        del self._waits[describe]

    async def wait_for(self, received: ReceivedEvents, count: int) -> None:
        """Wait until a listener has received `count` events."""
        await self.wait_until(
            lambda: len(received.events) >= count,
            lambda: f"{count} events to arrive, of which {len(received.events)} have arrived",
        )

    async def flush(
        self, sender: GoEvent, event_type: type[NumberedEvent], *received: ReceivedEvents
    ) -> None:
        """Send a marker and wait until all given listeners have received it.

        Then they have received all events that the sender has dispatched before under this name.
        """
        before = [each.markers for each in received]
        handle = await sender.dispatch(event_type(n=MARKER_NUMBER))
        for each, count in zip(received, before, strict=True):
            await self._wait_for_marker(each, count)
        await handle.wait()

    async def _wait_for_marker(self, received: ReceivedEvents, before: int) -> None:
        await self.wait_until(
            lambda: received.markers > before,
            lambda: f"the marker after {len(received.events)} events",
        )

    async def send_until_received(
        self, sender: GoEvent, event_type: type[NumberedEvent], received: ReceivedEvents
    ) -> None:
        """Send markers until one arrives. Use it where events may be lost."""
        before = received.markers

        def describe() -> str:
            return f"any marker after {len(received.events)} events"

        while received.markers == before:
            handle = await sender.dispatch(event_type(n=MARKER_NUMBER))
            await handle.wait()
            with trio.move_on_after(MARKER_INTERVAL_SECONDS):
                await self.wait_until(lambda: received.markers > before, describe)
        self._waits.pop(describe, None)

    @contextmanager
    def fail_after(self, seconds: float) -> Generator[None]:
        """Fail with the list of the unfinished waits if a block takes longer than `seconds`."""
        with trio.move_on_after(seconds) as scope:
            yield
        if scope.cancelled_caught:
            waits = "; ".join(describe() for describe in self._waits) or "a call to return"
            raise AssertionError(f"after {seconds:g} s, still waiting for {waits}")

    # -- checks

    def tasks(self) -> set[trio.lowlevel.Task]:
        """Return all tasks except those of the broker and of `open_in_own_task`."""
        found: set[trio.lowlevel.Task] = set()
        root = trio.lowlevel.current_root_task()
        todo = [] if root is None else [root]
        while todo:
            task = todo.pop()
            if task not in self._ignored_tasks:
                found.add(task)
                for nursery in task.child_nurseries:
                    todo.extend(nursery.child_tasks)
        return found

    def expect_no_tasks_since(self, before: set[trio.lowlevel.Task], when: str) -> None:
        """Fail if there are tasks that are not in `before`."""
        left = sorted(task.name for task in self.tasks() - before)
        expect(not left, f"tasks are left {when}: {', '.join(left)}")

    def expect_no_errors(self) -> None:
        """Fail if there was an error on a bus that should have none."""
        errors = self.unexpected_errors
        shown = "\n".join(error.details for error in errors[:MAX_SHOWN_ERRORS])
        expect(not errors, f"{len(errors)} unexpected error(s) on a bus:\n{shown}")
