"""The receiving side of pub/sub: what the link pushes, in order, until the bus has taken it.

An actor of the driver. The link never waits for listeners, or their own publishes would never be
answered; so frames queue here, up to a number of bytes. Confirmations of subscriptions stand in the
queue as well: which message counts depends on what was subscribed when the server sent it. The
driver's own notes do, too: that a new connection begins, or that nothing counts any more.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any

import msgspec
import trio

from goevent import DecodeError, DriverError, Envelope, GapDetected
from goevent.drivers import Inbox

from .channels import Channels
from .gaps import GapWatch

QUEUE_SIZE = 32 << 20  # bytes of messages that wait for slow listeners
OVERHEAD = 350  # bytes that a message takes beside its payload and its channel, about
SLICE = 0.0002  # seconds of delivering between two yields to Trio
KNOWN = 10_000  # ways of a message that are remembered

MARKS = "$marks"  # no event can have this name


class Marks(msgspec.Struct):
    """The highest sequence numbers that a publisher has used, by event name."""

    origin: str
    marks: dict[str, int]


class Sender(msgspec.Struct):
    """What can be told of an envelope that is refused: whose it is, and which."""

    origin: str | None = None
    seq: int | None = None


class Inbound:
    """What has arrived at one driver.

    Args:
        wanted: what the driver is to be subscribed to, kept by the driver.
        held: what the server has confirmed, kept in here.
        size: about how many bytes wait for listeners at most.
        max_event_size: most bytes of an event.
    """

    def __init__(
        self,
        wanted: Channels,
        held: Channels,
        counted: Channels,
        inbox: Inbox,
        *,
        size: int = QUEUE_SIZE,
        max_event_size: int = 1 << 20,
    ) -> None:
        self._wanted = wanted
        self._held = held
        self._channels = counted
        self._inbox = inbox
        self._size = self._room = size
        self._max_event_size = max_event_size
        self._frames: deque[Any] = deque()
        # What comes behind these, by reads of the socket; with each the bytes that it takes.
        self._batches: deque[tuple[int, list[Any]]] = deque()
        self._dropped = 0  # since the queue became full; it counts as full until half is free
        self._stopped = False
        self._idle = False  # the task has nothing to do
        self._watch = GapWatch()
        self._ways: dict[bytes | tuple[bytes, bytes], str | None] = {}
        self._edition = wanted.edition  # of which the ways are known
        self._arrived = trio.Event()
        self._marks = msgspec.json.Decoder(Marks)
        self._sender = msgspec.json.Decoder(Sender)
        self._marks_channel = wanted.channel(MARKS).encode()

    # -- what the link and the driver do

    def push(self, frames: list[Any]) -> None:
        """Take in what one read of the socket has brought."""
        # With nothing before it, a message need not wait until the actor's task runs.
        at_once = self._idle and not self._frames and not self._batches
        slice_end = perf_counter() + SLICE
        batch: list[Any] = []
        for frame in frames:
            kind = frame[0]
            if kind == b"message" or kind == b"pmessage":
                if at_once:
                    self._hand_over_nowait(frame)
                    at_once = not self._batches and perf_counter() < slice_end
                else:
                    batch.append(frame)
            else:
                at_once = False
                self._enqueue(batch)
                batch = []
                self._confirm(kind, frame[1])
        self._enqueue(batch)

    def begin(self) -> None:
        """Take note that a new connection begins, without subscriptions."""
        self._held.clear()
        self._note(b"begin", None)

    def forget(self, names: list[str]) -> None:
        """Take note that some subscriptions have ended; what is missed from now on is no gap."""
        self._note(b"forget", names)

    def stop(self) -> None:
        """Have nothing count that arrives from now on."""
        self._note(b"stop", None)

    async def reach_end(self) -> None:
        """Wait until everything that has arrived by now is handed over."""
        reached = trio.Event()
        self._note(b"end", reached)
        await reached.wait()

    async def run(self) -> None:
        """Hand over what arrives, until cancelled; then report what cannot be handed over."""
        try:
            while True:
                self._arrived = trio.Event()
                slice_end = perf_counter() + SLICE
                while self._frames or self._unpack_batch():
                    frame = self._frames.popleft()
                    kind = frame[0]
                    if kind == b"message" or kind == b"pmessage":
                        envelope = self._unpacked(frame)
                    elif kind == b"event":
                        envelope = frame[1]
                    else:
                        self._look(kind, frame[1])
                        envelope = None
                    if envelope is not None and not self._inbox.deliver_nowait(envelope):
                        await self._inbox.deliver(envelope)
                    if perf_counter() > slice_end:
                        await trio.lowlevel.checkpoint()
                        slice_end = perf_counter() + SLICE
                if self._dropped:
                    self._tell_dropped()  # nothing waited: it was larger than all the room
                self._idle = True
                await self._arrived.wait()
                self._idle = False
        finally:
            self._idle = False
            self._tell_dropped()
            while self._frames or self._unpack_batch():
                self._give_up(self._frames.popleft())

    # -- into the queue

    def _hand_over_nowait(self, frame: Any) -> None:
        """Hand over a message at once, or let it wait in the queue if it has to."""
        envelope = self._unpacked(frame)
        if envelope is not None and not self._inbox.deliver_nowait(envelope):
            self._note(b"event", envelope)

    def _enqueue(self, batch: list[Any]) -> None:
        if not batch:
            return
        # A pattern brings messages of channels whose names others have chosen, of any length.
        size = sum([len(frame[-1]) + len(frame[-2]) for frame in batch]) + OVERHEAD * len(batch)
        if size > self._room or self._dropped:
            self._drop(len(batch))
            return
        self._room -= size
        self._batches.append((size, batch))
        self._arrived.set()

    def _note(self, kind: bytes, what: Any) -> None:
        self._batches.append((0, [(kind, what)]))
        self._arrived.set()

    def _confirm(self, kind: bytes, what: Any) -> None:
        """Take note of a confirmation: which patterns a glob stands for is known now."""
        if kind not in (b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe"):
            return
        if what is None:
            return  # an UNSUBSCRIBE from everything, when there is nothing
        text = what.decode()
        if kind[:1] == b"p":
            patterns = self._wanted.patterns(text) if kind == b"psubscribe" else None
            self._held.set_glob(text, patterns)
            self._note(b"glob", (text, patterns))
        elif (name := self._wanted.name(text)) is not None and name != MARKS:
            (self._held.add if kind == b"subscribe" else self._held.remove)([name])
            self._note(kind, name)

    def _drop(self, count: int) -> None:
        self._dropped += count
        if self._dropped == count:
            self._inbox.report(
                DriverError(
                    f"the listeners are too slow: {self._size >> 20} MiB wait for them already, "
                    "and messages are dropped from here on"
                )
            )

    def _tell_dropped(self) -> None:
        if self._dropped:
            count, self._dropped = self._dropped, 0
            self._inbox.report(
                DriverError(f"{count} message(s) were dropped, as the listeners were too slow")
            )

    # -- out of the queue

    def _unpack_batch(self) -> bool:
        """Have the frames of the next batch taken; return False if there is none."""
        if not self._batches:
            return False
        size, frames = self._batches.popleft()
        self._frames.extend(frames)
        self._room += size
        if self._dropped and self._room > self._size // 2:
            self._tell_dropped()
        return True

    def _give_up(self, frame: Any) -> None:
        """Report what cannot be handed over any more."""
        kind = frame[0]
        if kind in (b"message", b"pmessage"):
            name = self._name(frame)
            if name is not None and not self._is_own(self._sender_of(frame[-1]).origin):
                self._inbox.lost(name)
        elif kind == b"event":
            self._inbox.lost(frame[1].event_name)
        else:
            self._look(kind, frame[1])

    def _unpacked(self, frame: Any) -> Envelope | None:
        """Return what a message brings to the listeners, if anything."""
        if (name := self._name(frame)) is not None:
            return self._decoded(name, frame[-1])
        if frame[0] == b"message" and frame[1] == self._marks_channel and not self._stopped:
            self._look_at_marks(frame[-1])
        return None

    def _look(self, kind: bytes, what: Any) -> None:
        """Take note of what is no message."""
        if kind == b"end":
            what.set()
            return
        self._ways.clear()
        if kind == b"subscribe":
            self._channels.add([what])
        elif kind == b"unsubscribe":
            self._channels.remove([what])
        elif kind == b"glob":
            self._channels.set_glob(*what)
        elif kind == b"begin":
            self._channels.clear()
        elif kind == b"stop":
            self._stopped = True
        elif kind == b"forget":
            gone = Channels("")
            gone.add(what)
            self._watch.forget(lambda name: gone.covers(name) and not self._channels.covers(name))

    def _name(self, frame: Any) -> str | None:
        """Return the event name of a message that counts, else None."""
        ways = self._ways
        if self._edition != self._wanted.edition:
            self._edition = self._wanted.edition
            ways.clear()
        way = frame[1] if frame[0] == b"message" else (frame[2], frame[1])
        try:
            return ways[way]
        except KeyError:
            if len(ways) >= KNOWN:
                ways.clear()
            name = self._find_name(frame[-2], None if way is frame[1] else frame[1])
            ways[way] = name = name if name and self._wanted.covers(name) else None  # still
            return name

    def _find_name(self, channel: bytes, glob: bytes | None) -> str | None:
        try:
            name = self._channels.name(channel.decode())
        except UnicodeDecodeError:
            return None  # nothing that we can have subscribed to by name
        if name is None or name == MARKS or self._stopped:
            return None
        return (
            name if self._channels.counts(name, None if glob is None else glob.decode()) else None
        )

    def _decoded(self, name: str, data: bytes) -> Envelope | None:
        try:
            if len(data) > self._max_event_size:
                limit = f"{len(data)} bytes are above max_event_size ({self._max_event_size})"
                raise DecodeError(name, limit)
            envelope = self._inbox.decode(name, data)
        except DecodeError as error:
            self._refuse(name, data, error)
            return None
        if self._inbox.is_own(envelope):
            return None
        if envelope.seq is not None and envelope.origin:
            self._watch_for_gap(envelope.origin, name, envelope.seq)
        return envelope

    def _refuse(self, name: str, data: bytes, error: DecodeError) -> None:
        """Report what cannot be decoded; it has arrived nevertheless, and is no gap."""
        sender = self._sender_of(data)
        if self._is_own(sender.origin):
            return  # what this bus dispatches need not be registered here
        if sender.seq is not None and sender.origin:
            self._watch_for_gap(sender.origin, name, sender.seq)
        self._inbox.report(error, name)

    def _is_own(self, origin: str | None) -> bool:
        return bool(origin) and self._inbox.is_own(
            Envelope(event_name="", event=None, origin=origin or "")
        )

    def _sender_of(self, data: bytes) -> Sender:
        try:
            return self._sender.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return Sender()

    # -- losses

    def _watch_for_gap(self, origin: str, name: str, number: int) -> None:
        missing = self._watch.arrived(origin, name, number)
        if missing:
            self._report_gap(origin, name, missing)

    def _look_at_marks(self, data: bytes) -> None:
        """Compare what a publisher says it has sent with what has arrived."""
        try:
            told = self._marks.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._inbox.report(DecodeError(MARKS, str(error)))
            return
        if self._is_own(told.origin):
            return
        for name, number in told.marks.items():
            missing = self._watch.told(told.origin, name, number)
            if missing:
                self._report_gap(told.origin, name, missing)

    def _report_gap(self, origin: str, name: str, missing: int) -> None:
        self._inbox.report(GapDetected(origin, self._channels.channel(name), missing), name)
