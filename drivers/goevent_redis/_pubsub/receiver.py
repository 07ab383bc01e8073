"""The receiver: a queue between the link, which must not wait, and listeners, which may be slow.

It is an actor of the driver. The link hands it every push frame, and its task hands the decoded
events to the bus, in order.

Theory of operation
-------------------
*Back-pressure.* The link never waits for listeners: a listener that publishes waits for a reply
over the same connection, and would wait for ever. So messages queue here, up to a number of bytes;
the message that reaches it is still taken, so that one of any size passes. When the queue is full,
messages are dropped until it is half empty, and both moments are reported.
If nothing is queued and the bus takes a message at once, it does not go through the queue.

*Order.* Whether a message counts depends on the subscriptions at the moment when the server sent
it. So the server's confirmations are queued between the messages, and so are the driver's own
notes: a new connection begins, some channels are forgotten, or no message counts any more. There
are three sets of channels. The driver wants those in `wanted`. The server has confirmed those in
`held`. Those in `counted` were confirmed before the message that is being handed over.

*Gaps.* The gap detector gets the origin and the number of each message that has arrived, even if
the message is refused. Marks stand in the queue like messages, because they count what came before
them. They are never dropped: while the queue is full, one note at its end takes all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

import msgspec
import trio

from goevent import DecodeError, DriverError, Envelope, GapDetected
from goevent.drivers import Inbox

from .._direct import DIRECT_MESSAGE
from .channels import Channels
from .gaps import MAX_TRACKED_SEQUENCES, GapDetector
from .marks import MARKS_CHANNEL_NAME, MergedMarks, SequenceMarks, decode_marks

MESSAGE_OVERHEAD_BYTES = 350
"""The memory that a message takes beside its payload and its channel, roughly."""

DELIVERY_SLICE_SECONDS = 0.0002
"""The longest time of handing over between two yields to Trio."""

MAX_CACHED_ROUTES = 10_000
"""The number of channels, with their globs, whose event name is remembered."""

# The kinds of the notes in the queue. A confirmation has the kind of its push frame.
_NEW_CONNECTION = b"$new-connection"
_GLOB = b"$glob"
_FORGET = b"$forget"
_STOP = b"$stop"
_REACHED = b"$reached"
_ENVELOPE = b"$envelope"
_MARKS = b"$marks"
_MERGED_MARKS = b"$merged-marks"


class RefusedEnvelope(msgspec.Struct):
    """The fields of a refused envelope that gap detection needs."""

    origin: str | None = None
    seq: int | None = None


class PubSubReceiver:
    """The messages that one driver has received.

    Args:
        wanted: The subscriptions that the driver wants; the driver changes them.
        held: The subscriptions that the server has confirmed; the receiver changes them.
        counted: The subscriptions that decide which messages count; the receiver changes them.
        inbox: The bus.
        on_question: Called when another bus asks for the marks of this one.
        on_direct: Called with the push frame of each direct message, which is never queued.
        max_queued_bytes: The size of the queue, roughly, without its last message.
        max_event_size: The largest event, in bytes.
    """

    def __init__(
        self,
        wanted: Channels,
        held: Channels,
        counted: Channels,
        inbox: Inbox,
        *,
        on_question: Callable[[], None] = lambda: None,
        on_direct: Callable[[list[Any]], None] = lambda _: None,
        max_queued_bytes: int,
        max_event_size: int,
    ) -> None:
        self._wanted = wanted
        self._held = held
        self._counted = counted
        self._inbox = inbox
        self._on_question = on_question
        self._on_direct = on_direct
        self._max_queued_bytes = self._free_bytes = max_queued_bytes
        self._max_event_size = max_event_size
        # The queue: the frames of the batch that is being handed over, then the batches of later
        # reads of the socket, each with its bytes.
        self._frames: deque[Any] = deque()
        self._batches: deque[tuple[int, list[Any]]] = deque()
        # It counts as full until half of it is free.
        self._full = False
        self._dropped = 0  # events since it became full
        # The note at the end of a full queue that takes all marks.
        self._merged_marks: MergedMarks | None = None
        self._stopped = False
        self._idle = False  # the task waits for messages
        self._gaps = GapDetector()
        # The event name of each route, which is a channel or a pair of channel and glob; None if
        # its messages do not count.
        self._names: dict[bytes | tuple[bytes, bytes], str | None] = {}
        self._names_version = wanted.version  # the version of `wanted` that `_names` is for
        self._arrived = trio.Event()
        self._refused_decoder = msgspec.json.Decoder(RefusedEnvelope)
        self._marks_channel = wanted.channel(MARKS_CHANNEL_NAME).encode()

    # -- called by the link and the driver

    def push(self, frames: list[Any]) -> None:
        """Take the push frames of one read of the socket."""
        # With an empty queue, a message need not wait until the receiver's task runs.
        at_once = self._idle and not self._frames and not self._batches
        slice_end = perf_counter() + DELIVERY_SLICE_SECONDS
        batch: list[Any] = []
        for frame in frames:
            kind = frame[0]
            if kind == b"message" or kind == b"pmessage":
                if at_once:
                    self._hand_over_nowait(frame)
                    at_once = not self._batches and perf_counter() < slice_end
                elif frame[1] == self._marks_channel:
                    # What came before them is in the queue first.
                    self._enqueue(batch)
                    batch = []
                    self._enqueue_marks(frame[-1])
                else:
                    batch.append(frame)
            elif kind == DIRECT_MESSAGE:
                self._on_direct(frame)
            else:
                at_once = False
                self._enqueue(batch)
                batch = []
                self._confirm(kind, frame[1])
        self._enqueue(batch)

    def start_connection(self) -> None:
        """Note that a new connection begins, without subscriptions."""
        self._held.clear()
        self._note(_NEW_CONNECTION, None)

    def forget(self, names: list[str]) -> None:
        """Note that some subscriptions have ended; messages missing from now on are not a gap."""
        self._note(_FORGET, names)

    def stop(self) -> None:
        """Note that messages that arrive from now on do not count."""
        self._note(_STOP, None)

    async def reach_end(self) -> None:
        """Wait until everything that has arrived by now is handed over."""
        reached = trio.Event()
        self._note(_REACHED, reached)
        await reached.wait()

    async def run(self) -> None:
        """Hand messages over until cancelled; then report the messages that are left."""
        try:
            while True:
                self._arrived = trio.Event()
                slice_end = perf_counter() + DELIVERY_SLICE_SECONDS
                while self._frames or self._next_batch():
                    frame = self._frames.popleft()
                    kind = frame[0]
                    if kind == b"message" or kind == b"pmessage":
                        envelope = self._envelope_of(frame)
                    elif kind == _ENVELOPE:
                        envelope = frame[1]
                    else:
                        self._apply_note(kind, frame[1])
                        envelope = None
                    if envelope is not None and not self._inbox.deliver_nowait(envelope):
                        await self._inbox.deliver(envelope)
                    if perf_counter() > slice_end:
                        await trio.lowlevel.checkpoint()
                        slice_end = perf_counter() + DELIVERY_SLICE_SECONDS
                self._idle = True
                await self._arrived.wait()
                self._idle = False
        finally:
            self._idle = False
            self._end_full()
            while self._frames or self._next_batch():
                self._abandon(self._frames.popleft())

    # -- into the queue

    def _hand_over_nowait(self, frame: Any) -> None:
        """Hand a message over at once, or queue its envelope if the bus has no room."""
        envelope = self._envelope_of(frame)
        if envelope is not None and not self._inbox.deliver_nowait(envelope):
            self._note(_ENVELOPE, envelope)

    def _enqueue(self, batch: list[Any]) -> None:
        if not batch:
            return
        if self._full:
            self._drop(batch)
            return
        # The channels count, too: a glob brings messages of other buses' channels, whose names may
        # be of any length.
        size = sum([len(frame[-1]) + len(frame[-2]) for frame in batch])
        size += MESSAGE_OVERHEAD_BYTES * len(batch)
        if size > self._free_bytes:
            self._enqueue_start(batch)
            return
        self._free_bytes -= size
        self._batches.append((size, batch))
        self._arrived.set()

    def _enqueue_start(self, batch: list[Any]) -> None:
        """Queue messages up to the one that reaches the limit, and drop the others."""
        count = size = 0
        while count < len(batch) and size < self._free_bytes:
            frame = batch[count]
            size += len(frame[-1]) + len(frame[-2]) + MESSAGE_OVERHEAD_BYTES
            count += 1
        if count:
            self._free_bytes -= size
            self._batches.append((size, batch[:count]))
            self._arrived.set()
        if count < len(batch):
            self._drop(batch[count:])

    def _note(self, kind: bytes, value: Any) -> None:
        # A batch of its own without a size, so that a full queue never drops it.
        self._batches.append((0, [(kind, value)]))
        self._arrived.set()

    def _confirm(self, kind: bytes, channel: Any) -> None:
        """Apply the server's confirmation to `held`, and queue it for `counted`."""
        if kind not in (b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe"):
            return
        if channel is None:
            return  # an UNSUBSCRIBE from everything, with no subscription
        text = channel.decode()
        if kind[:1] == b"p":
            patterns = self._wanted.patterns(text) if kind == b"psubscribe" else None
            self._held.set_glob(text, patterns)
            self._note(_GLOB, (text, patterns))
        elif (name := self._wanted.name(text)) is not None and name != MARKS_CHANNEL_NAME:
            (self._held.add if kind == b"subscribe" else self._held.remove)([name])
            self._note(kind, name)

    def _enqueue_marks(self, data: bytes) -> None:
        """Queue the marks of another bus, and answer its question at once."""
        announced = self._decode_marks(data)
        if announced is None or not announced.marks:
            return
        size = len(data) + MESSAGE_OVERHEAD_BYTES
        if size <= self._free_bytes and not self._full:
            self._free_bytes -= size
            self._batches.append((size, [(_MARKS, announced)]))
            self._arrived.set()
            return
        self._full = True
        if self._merged_marks is None:
            self._merged_marks = MergedMarks(MAX_TRACKED_SEQUENCES)
            self._note(_MERGED_MARKS, self._merged_marks)
        self._merged_marks.add(announced)

    def _drop(self, batch: list[Any]) -> None:
        self._full = True
        # Each event counts once, and neither an echo of this bus nor another program's message.
        count = sum(map(self._is_event_for_us, batch))
        if count and not self._dropped:
            self._inbox.report(
                DriverError(
                    f"the listeners are too slow: {self._max_queued_bytes:,} bytes of messages "
                    "(the option prefetch_bytes) wait for them, and further messages are dropped"
                )
            )
        self._dropped += count

    def _is_event_for_us(self, frame: Any) -> bool:
        """Tell whether a message that just arrives would reach a listener."""
        glob = frame[1] if frame[0] == b"pmessage" else None
        name = self._find_name(frame[-2], glob, self._held)
        return name is not None and not self._is_own(self._decode_refused(frame[-1]).origin)

    def _end_full(self) -> None:
        """Take messages again, and report how many were dropped."""
        self._full = False
        # Marks that come now stand behind the messages that come now.
        self._merged_marks = None
        if self._dropped:
            count, self._dropped = self._dropped, 0
            self._inbox.report(
                DriverError(f"{count} message(s) were dropped, because the listeners were too slow")
            )

    # -- out of the queue

    def _next_batch(self) -> bool:
        """Move the next batch to `_frames`; return False if there is none."""
        if not self._batches:
            return False
        size, frames = self._batches.popleft()
        self._frames.extend(frames)
        self._free_bytes += size
        if self._full and self._free_bytes > self._max_queued_bytes // 2:
            self._end_full()
        return True

    def _abandon(self, frame: Any) -> None:
        """Report a message that cannot be handed over any more."""
        kind = frame[0]
        if kind in (b"message", b"pmessage"):
            name = self._name_of(frame)
            if name is not None and not self._is_own(self._decode_refused(frame[-1]).origin):
                self._inbox.lost(name)
        elif kind == _ENVELOPE:
            self._inbox.lost(frame[1].event_name)
        elif kind not in (_MARKS, _MERGED_MARKS):
            self._apply_note(kind, frame[1])

    def _envelope_of(self, frame: Any) -> Envelope | None:
        """Return the envelope of a message; None if no listener gets it."""
        # The usual case is found here without a call: a known channel, without a pattern.
        kind, channel = frame[0], frame[1]
        if kind == b"message" and self._names_version == self._wanted.version:
            name = self._names.get(channel)
        else:
            name = None
        if name is not None or (name := self._name_of(frame)) is not None:
            return self._decode(name, frame[-1])
        if kind == b"message" and channel == self._marks_channel:
            announced = self._decode_marks(frame[-1])
            if announced is not None:
                self._compare_marks(announced)
        return None

    def _apply_note(self, kind: bytes, value: Any) -> None:
        """Apply a note or a confirmation."""
        if kind == _REACHED:
            value.set()
            return
        if kind == _MARKS:
            self._compare_marks(value)
            return
        if kind == _MERGED_MARKS:
            if value is self._merged_marks:
                self._merged_marks = None
            for announced in value.all():
                self._compare_marks(announced)
            return
        self._names.clear()
        if kind == b"subscribe":
            self._counted.add([value])
        elif kind == b"unsubscribe":
            self._counted.remove([value])
        elif kind == _GLOB:
            self._counted.set_glob(*value)
        elif kind == _NEW_CONNECTION:
            self._counted.clear()
        elif kind == _STOP:
            self._stopped = True
        elif kind == _FORGET:
            gone = Channels("")
            gone.add(value)
            self._gaps.forget(lambda name: gone.covers(name) and not self._counted.covers(name))

    def _name_of(self, frame: Any) -> str | None:
        """Return the event name of a message that counts, otherwise None."""
        names = self._names
        if self._names_version != self._wanted.version:
            self._names_version = self._wanted.version
            names.clear()
        route = frame[1] if frame[0] == b"message" else (frame[2], frame[1])
        try:
            return names[route]
        except KeyError:
            if len(names) >= MAX_CACHED_ROUTES:
                names.clear()
            glob = None if route is frame[1] else frame[1]
            name = None if self._stopped else self._find_name(frame[-2], glob, self._counted)
            # A listener that is unregistered now gets nothing, although the message counted when
            # the server sent it.
            names[route] = name = name if name and self._wanted.covers(name) else None
            return name

    def _find_name(self, channel: bytes, glob: bytes | None, held: Channels) -> str | None:
        """Return the event name of a message; None if it does not count with subscriptions."""
        try:
            name = held.name(channel.decode())
        except UnicodeDecodeError:
            return None  # an event's channel is text, so this one came by a glob
        if name is None or name == MARKS_CHANNEL_NAME:
            return None
        return name if held.counts(name, None if glob is None else glob.decode()) else None

    def _decode(self, name: str, data: bytes) -> Envelope | None:
        try:
            if len(data) > self._max_event_size:
                limit = f"{len(data)} bytes are above max_event_size ({self._max_event_size})"
                raise DecodeError(name, limit)
            envelope = self._inbox.decode(name, data)
        except DecodeError as error:
            self._refuse(name, data, error)
            return None
        # The origin of a sequence was found to be another bus's when the sequence began.
        origin, number = envelope.origin, envelope.seq
        if self._gaps.continues(origin, name, number):
            return envelope
        if self._inbox.is_own(envelope):
            return None
        if number is not None and origin:
            self._detect_gap(origin, name, number)
        return envelope

    def _refuse(self, name: str, data: bytes, error: DecodeError) -> None:
        """Report a message that cannot be decoded; it has arrived, so it is not a gap."""
        refused = self._decode_refused(data)
        if self._is_own(refused.origin):
            return  # a bus may dispatch events that are not registered with it
        if refused.seq is not None and refused.origin:
            self._detect_gap(refused.origin, name, refused.seq)
        self._inbox.report(error, name)

    def _is_own(self, origin: str | None) -> bool:
        return bool(origin) and self._inbox.is_own(
            Envelope(event_name="", event=None, origin=origin or "")
        )

    def _decode_refused(self, data: bytes) -> RefusedEnvelope:
        try:
            return self._refused_decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return RefusedEnvelope()

    # -- gaps

    def _detect_gap(self, origin: str, name: str, number: int) -> None:
        missing = self._gaps.message_arrived(origin, name, number)
        if missing:
            self._report_gap(origin, name, missing)

    def _decode_marks(self, data: bytes) -> SequenceMarks | None:
        """Return the marks of another bus; None for our own, and for others than marks."""
        try:
            announced = decode_marks(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._inbox.report(DecodeError(MARKS_CHANNEL_NAME, str(error)))
            return None
        if self._is_own(announced.origin):
            return None
        if announced.asks:
            self._on_question()
        return announced

    def _compare_marks(self, announced: SequenceMarks) -> None:
        """Compare a publisher's highest numbers with the numbers that have arrived."""
        if self._stopped:
            return
        origin, after = announced.origin, announced.after
        for name, number in announced.marks.items():
            missing = self._gaps.highest_announced(origin, name, number, after)
            if missing:
                self._report_gap(origin, name, missing)

    def _report_gap(self, origin: str, name: str, missing: int) -> None:
        self._inbox.report(GapDetected(origin, self._counted.channel(name), missing), name)
