"""Lanes: by which one listener works on several events at once, in order where order is asked for.

A listener with `concurrency=n` has n lanes. The scheduler runs a lane as it runs any actor, and knows no
difference; all lanes of a listener read from one deque, so whichever is free takes the next event.
With an `ordering_key`, that deque holds only events that may run now: of each key the first, while
the ones behind it wait in a backlog of their own. A key is forgotten with its last event.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from .._errors import EventError, describe, forget_caller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .._handle import DispatchHandle
    from .actor import Actor
    from .backpressure import RoomWait
    from .failures import Failures

    Ready = deque["Actor | Lane"]
    Finished = Callable[[DispatchHandle], None]


class Lane:
    """One of the events that a listener works on at once; to the scheduler, an actor."""

    __slots__ = (
        "_finished",
        "_hand",
        "_scheduled",
        "attempt",
        "listener",
        "mail",
        "state",
        "suspends",
    )

    def __init__(self, listener: Actor, mail: SharedMailbox, finished: Finished | None) -> None:
        self.listener: Actor = listener
        self.mail: SharedMailbox = mail
        self.suspends: bool = False
        self.attempt: int = 1
        self.state: str = ""
        self._finished = finished
        self._hand: DispatchHandle | None = None
        self._scheduled = False

    @property
    def name(self) -> str:
        return self.listener.name

    def call(self, event: Any) -> Any:
        """Run the listener: the one of now, which another lane may have restarted."""
        return self.listener.call(event)

    @property
    def queue(self) -> deque[RoomWait] | None:
        return self.listener.queue

    @property
    def hand(self) -> DispatchHandle | None:
        """The event that the lane works on; when it takes another one, it is done with the last."""
        return self._hand

    @hand.setter
    def hand(self, handle: DispatchHandle | None) -> None:
        done, self._hand = self._hand, handle
        if done is not None and self._finished is not None:
            self._finished(done)

    @property
    def scheduled(self) -> bool:
        """Whether a worker has the lane, or will have it; if not, it is free for an event."""
        return self._scheduled

    @scheduled.setter
    def scheduled(self, scheduled: bool) -> None:
        if self._scheduled and not scheduled:
            self.mail.free.append(self)
        self._scheduled = scheduled

    def __repr__(self) -> str:
        return f"<Lane of {self.listener.name!r}>"


class SharedMailbox(deque["DispatchHandle"]):
    """The mailbox of a listener with several lanes; events leave it in the order of arrival."""

    def __init__(
        self, listener: Actor, concurrency: int, ready: Ready, finished: Finished | None = None
    ) -> None:
        super().__init__()
        self.lanes: tuple[Lane, ...] = tuple(
            Lane(listener, self, finished) for _ in range(concurrency)
        )
        self.free: list[Lane] = [*self.lanes]
        self._ready = ready

    def append(self, handle: DispatchHandle, /) -> None:
        super().append(handle)
        if self.free:
            lane = self.free.pop()
            lane.scheduled = True
            self._ready.append(lane)

    def engage(self, count: int) -> None:
        """Have so many more lanes work, as far as there are any."""
        for _ in range(min(count, len(self.free))):
            lane = self.free.pop()
            lane.scheduled = True
            self._ready.append(lane)

    def keep(self, handle: DispatchHandle) -> None:
        """Take an event in that no lane is to work on yet."""
        super().append(handle)

    @property
    def held(self) -> list[DispatchHandle]:
        """The events that the listener works on."""
        if len(self.free) == len(self.lanes):
            return []
        return [lane.hand for lane in self.lanes if lane.hand is not None]

    @property
    def outlets(self) -> tuple[Lane, ...]:
        """The lanes of which one has to get on before there are fewer events."""
        return () if self.free else self.lanes

    def before(self, handle: DispatchHandle) -> tuple[Lane, ...]:
        """Return the lanes of which one has to get on before a queued event can run."""
        return self.outlets


class KeyedMailbox:
    """The mailbox of a listener with several lanes and an order per key."""

    def __init__(
        self,
        listener: Actor,
        concurrency: int,
        ready: Ready,
        key_of: Callable[[Any], Any],
        failures: Failures,
    ) -> None:
        self._listener = listener
        self._key_of = key_of
        self._failures = failures
        self._runnable = SharedMailbox(listener, concurrency, ready, self._finished)
        # The keys of all events that are queued or in hand, by age.
        self._keys: OrderedDict[DispatchHandle, Any] = OrderedDict()
        # What waits behind the event of a key that is runnable or in hand; None for nothing.
        self._backlogs: dict[Any, deque[DispatchHandle] | None] = {}
        self._waiting = 0  # events in the backlogs

    @property
    def lanes(self) -> tuple[Lane, ...]:
        return self._runnable.lanes

    @property
    def held(self) -> list[DispatchHandle]:
        """The events that the listener works on."""
        return self._runnable.held

    def append(self, handle: DispatchHandle, /) -> None:
        try:
            key = self._key_of(handle.event)
            hash(key)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
            return self._refuse(handle, error)
        return self._file(handle, key)

    def _file(self, handle: DispatchHandle, key: Any) -> None:
        self._keys[handle] = key
        if key not in self._backlogs:
            self._backlogs[key] = None
            self._runnable.append(handle)
            return
        if (backlog := self._backlogs[key]) is None:
            self._backlogs[key] = deque((handle,))
        else:
            backlog.append(handle)
        self._waiting += 1

    def _refuse(self, handle: DispatchHandle, error: Exception) -> None:
        forget_caller(error)
        reason = f"its ordering_key raised {describe(error)}"
        name = self._listener.name
        failure = EventError(handle.event_name, name, error, reason=reason)
        self._failures.settle(self._listener, handle, failure)

    def _finished(self, handle: DispatchHandle) -> None:
        if handle in self._keys:
            self._advance(self._keys.pop(handle))

    def _advance(self, key: Any) -> None:
        """Let the next event of a key run, or forget the key."""
        if backlog := self._backlogs[key]:
            self._waiting -= 1
            self._runnable.append(backlog.popleft())
        else:
            del self._backlogs[key]

    def popleft(self) -> DispatchHandle:
        """Take out the event that has waited longest."""
        handle = next(iter(self))
        key = self._keys.pop(handle)
        if handle in self._runnable:
            self._runnable.remove(handle)
            self._advance(key)
        elif backlog := self._backlogs[key]:
            backlog.popleft()
            self._waiting -= 1
        return handle

    def clear(self) -> None:
        self._runnable.clear()
        self._waiting = 0
        held = self._in_hand()
        self._keys = OrderedDict(
            (handle, key) for handle, key in self._keys.items() if handle in held
        )
        self._backlogs = dict.fromkeys(self._keys.values())

    def retain(self, handles: Iterable[DispatchHandle]) -> None:
        """Keep only these of the queued events; their keys are not asked for again."""
        keys = self._keys
        self.clear()
        for handle in handles:
            self._file(handle, keys[handle])

    @property
    def outlets(self) -> tuple[Lane, ...]:
        """The lanes of which one has to get on before there are fewer events."""
        if self._runnable:
            return self._runnable.outlets
        held = [(lane, lane.hand) for lane in self.lanes if lane.hand in self._keys]
        return tuple(lane for lane, hand in held if hand and self._backlogs[self._keys[hand]])

    def before(self, handle: DispatchHandle) -> tuple[Lane, ...]:
        """Return the lanes of which one has to get on before a queued event can run."""
        if handle not in self._runnable and handle in self._keys:
            key = self._keys[handle]
            for lane in self.lanes:
                if lane.hand is not None and self._keys.get(lane.hand, self) == key:
                    return (lane,)
        return self._runnable.before(handle)

    def _in_hand(self) -> set[DispatchHandle | None]:
        return {lane.hand for lane in self.lanes}

    def __len__(self) -> int:
        return len(self._runnable) + self._waiting

    def __iter__(self) -> Iterator[DispatchHandle]:
        held = self._in_hand()
        return (handle for handle in self._keys if handle not in held)


Mail = deque["DispatchHandle"] | KeyedMailbox
