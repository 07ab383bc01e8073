"""The stage of one case: buses over one broker, and what is expected of them.

A case runs in the task of its test. The broker lives in a task of its own, so that the case can
tell the broker's tasks from those that a driver has left behind.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Unpack

import trio

from ... import Capabilities, Config, Driver, EventError, EventRegistry, GoEvent, Middleware
from .expect import expect
from .seen import MARKER, Numbered, Seen
from .spy import Spy

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ..._options.options import ListenerKeywords

Connect = Callable[[str], Driver]


class Stage:
    """What a case plays with.

    Attributes:
        capabilities: what the driver promises.
        errors: what went wrong on buses where nothing should.
        expected: what went wrong on the other ones.
    """

    def __init__(
        self,
        connect: Connect,
        host: trio.lowlevel.Task,
        outage: Callable[[], AbstractAsyncContextManager[None] | None],
        *,
        reconnects: bool,
    ) -> None:
        self._connect = connect
        self._apart = {host}
        self.outage = outage
        self.reconnects: bool = reconnects
        # Brokers outlive a case, and durable ones remember: each case has its own names.
        self.token: str = f"c{secrets.token_hex(4)}"
        self.registry: EventRegistry = EventRegistry()
        self.capabilities: Capabilities = connect(f"{self.token}-0").capabilities
        self.errors: list[EventError] = []
        self.expected: list[EventError] = []
        self._groups = 0
        self._hopes: dict[Callable[[], str], None] = {}
        self._news = trio.Event()

    # -- buses

    def kind(self, suffix: str = "event") -> type[Numbered]:
        """Return a new event type, with a name of its own."""

        class Kind(Numbered, name=f"{self.token}.{suffix}", registry=self.registry):
            pass

        return Kind

    def driver(self, group: str | None = None) -> Driver:
        """Return a driver, in a group of its own or in one that is shared."""
        if group is None:
            self._groups += 1
            group = str(self._groups)
        return self._connect(f"{self.token}-{group}")

    def spy(self, group: str | None = None) -> Spy:
        """Return a driver under observation."""
        return Spy(self.driver(group), self.stir)

    def bus(
        self,
        driver: Driver | None = None,
        *,
        failing: bool = False,
        registry: EventRegistry | None = None,
        middleware: tuple[Middleware, ...] = (),
    ) -> GoEvent:
        """Return a bus with a driver; what goes wrong on it fails the case, unless expected."""
        bus = GoEvent(
            Config(
                driver=driver or self.driver(),
                registry=registry or self.registry,
                middleware=middleware,
                slow_after=None,
            )
        )
        errors = self.expected if failing else self.errors

        def note(error: EventError) -> None:
            errors.append(error)
            self.stir()

        bus.on_error(note)
        return bus

    @asynccontextmanager
    async def open(self, *buses: GoEvent) -> AsyncGenerator[None]:
        """Have buses open for the time of a block."""
        async with AsyncExitStack() as stack:
            for bus in buses:
                await stack.enter_async_context(bus)
            yield

    @asynccontextmanager
    async def open_apart(self, *buses: GoEvent) -> AsyncGenerator[None]:
        """Have buses open in a task of their own; it does not count among `tasks`."""
        over = trio.Event()

        async def live(task_status: trio.TaskStatus[None]) -> None:
            self._apart.add(trio.lowlevel.current_task())
            async with self.open(*buses):
                task_status.started()
                await over.wait()

        async with trio.open_nursery() as nursery:
            await nursery.start(live)
            try:
                yield
            finally:
                over.set()

    def listen(
        self, bus: GoEvent, *events: type | str, **options: Unpack[ListenerKeywords]
    ) -> Seen:
        """Register a listener, and return what it sees."""
        seen = Seen(self.stir)
        bus.subscribe(seen.note, *events, **options)
        return seen

    # -- waiting

    def stir(self) -> None:
        """Have everybody who waits look again."""
        self._news.set()
        self._news = trio.Event()

    async def until(self, ready: Callable[[], object], hope: Callable[[], str]) -> None:
        """Wait until something is true, which changes only with a `stir`."""
        self._hopes[hope] = None
        while not ready():
            await self._news.wait()
        del self._hopes[hope]

    async def arrived(self, seen: Seen, count: int) -> None:
        """Wait until a listener has seen so many events."""
        await self.until(
            lambda: len(seen.events) >= count,
            lambda: f"{count} events to arrive, of which {len(seen.events)} have",
        )

    async def flush(self, sender: GoEvent, kind: type[Numbered], *seen: Seen) -> None:
        """Send a marker, and wait until everybody has seen it: all sent before has arrived."""
        before = [each.markers for each in seen]
        handle = await sender.dispatch(kind(n=MARKER))
        for each, count in zip(seen, before, strict=True):
            await self._marked(each, count)
        await handle.wait()

    async def _marked(self, seen: Seen, before: int) -> None:
        await self.until(
            lambda: seen.markers > before, lambda: f"the marker behind {len(seen.events)} events"
        )

    async def reach(self, sender: GoEvent, kind: type[Numbered], seen: Seen) -> None:
        """Send markers until one arrives, where events may get lost."""
        before = seen.markers

        def hope() -> str:
            return f"any marker behind {len(seen.events)} events"

        while seen.markers == before:
            handle = await sender.dispatch(kind(n=MARKER))
            await handle.wait()
            with trio.move_on_after(0.1):
                await self.until(lambda: seen.markers > before, hope)
        self._hopes.pop(hope, None)

    @contextmanager
    def deadline(self, seconds: float) -> Generator[None]:
        """Fail with what was waited for, if the block takes longer."""
        with trio.move_on_after(seconds) as scope:
            yield
        if scope.cancelled_caught:
            hopes = "; ".join(hope() for hope in self._hopes) or "a call to return"
            raise AssertionError(f"after {seconds:g} s, still waiting for {hopes}")

    # -- what is left

    def tasks(self) -> set[trio.lowlevel.Task]:
        """Return all tasks there are, save those of the broker and of buses that are apart."""
        found: set[trio.lowlevel.Task] = set()
        root = trio.lowlevel.current_root_task()
        todo = [] if root is None else [root]
        while todo:
            task = todo.pop()
            if task not in self._apart:
                found.add(task)
                for nursery in task.child_nurseries:
                    todo.extend(nursery.child_tasks)
        return found

    def expect_no_tasks_since(self, before: set[trio.lowlevel.Task], when: str) -> None:
        """Fail if there are tasks that were not there before."""
        left = sorted(task.name for task in self.tasks() - before)
        expect(not left, f"tasks are left {when}: {', '.join(left)}")

    def expect_no_errors(self) -> None:
        """Fail if something went wrong that should not."""
        shown = "\n".join(error.details for error in self.errors[:3])
        expect(not self.errors, f"{len(self.errors)} error(s) on a bus without any cause:\n{shown}")
