"""Direct messages of an open bus: shard channels of Redis, without a cluster.

Both drivers own a `RedisDirectMessages` while their bus is open. The driver hands it the push
frames of direct messages and has it subscribe again on each new connection. It must never know
streams, event channels or marks.

Theory of operation
-------------------
*The place.* An address is a shard channel, `<prefix>$direct.<address>`. Shard channels are apart
from the channels of SUBSCRIBE: no pattern matches them, so no listener and no tail gets a direct
message, and the reply to SPUBLISH counts the buses that have opened the address, and nobody else.
They need Redis 7.0.

*Sending.* A message goes into the write buffer at once, and the reply of the server goes to `sent`
from the task that reads the socket: no task waits for it. Without a connection, or with a full
write buffer, messages are kept in order. One task sends all of them in one piece as soon as the
link takes it, and gives up those that have waited for `KEPT_SECONDS`.

*Connections.* Messages are sent over the link of the driver. Pub/sub also receives them there. The
link of Streams must not subscribe: the server would cut it off for a large reply to a command, by
its limit for subscribers. So Streams have a further link, which is opened with the first address.

*Receiving.* The task that reads the socket calls `take`. A direct message never stands in the queue
of events, so a full mailbox does not hold it up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import msgspec
import trio
from redis import exceptions as redis_errors

from goevent import DriverConnectionError, DriverError
from goevent.drivers import DirectSent, Finding, TakeDirect

from ._link.conversation import Conversation
from ._link.errors import LinkClosed, RedisLinkError
from ._link.link import Link
from ._link.replies import whole_text
from ._link.resp import complete_command, pack_prefix
from ._link.service import ConnectionReports
from ._link.subscription import confirm_all, subscribe_all
from ._refusals import NeededCommand, find_refusals
from ._tls import connection_error

DIRECT_MARK = "$direct."
"""Stands between the prefix and the address; no event can have such a name."""

DIRECT_MESSAGE = b"smessage"
"""The kind of the push frames of direct messages."""

KEPT_SECONDS = 5.0
"""How long a message, or the opening of an address, waits for a connection."""

MAX_KEPT_BYTES = 1 << 22
"""The size of the messages that may wait for the link, roughly, without the first of them."""

KEPT_OVERHEAD_BYTES = 500
"""The memory that a waiting message takes beside its bytes, roughly."""

MAX_CACHED_HEADS = 10_000
"""The number of addresses whose packed command is remembered."""

EXAMPLE_ADDRESS = "check"


def direct_channel(prefix: str, address: str) -> str:
    """Return the shard channel of an address."""
    return f"{prefix}{DIRECT_MARK}{address}"


async def find_direct_refusals(link: Link, name: str) -> list[Finding]:
    """Return the findings about commands that only requests and replies need, as warnings.

    Args:
        link: The link, whose user is asked for.
        name: An event name, for the text.

    Raises:
        RedisLinkError: There is no connection.
    """
    channel = direct_channel(link.config.channel_prefix, EXAMPLE_ADDRESS)
    purpose = "send requests and replies for"
    needed = [
        NeededCommand(purpose, name, ("SSUBSCRIBE", channel)),
        NeededCommand(purpose, name, ("SUNSUBSCRIBE", channel)),
        NeededCommand(purpose, name, ("SPUBLISH", channel, "")),
    ]
    return await find_refusals(link, needed, severity="warning")


class RedisDirectMessages:
    """The direct messages of one open bus.

    Args:
        prefix: The prefix of all channels.
        report: Takes the error of an address that is refused after a lost connection, and the
            losses of a further link.
    """

    def __init__(self, prefix: str, report: Callable[[DriverError], None]) -> None:
        self._prefix = prefix
        self._report = report
        self._link: Link | None = None
        # The link with the subscriptions: the same one, or a further one.
        self._receiving: Link | None = None
        self._nursery: trio.Nursery | None = None
        self._starting = trio.Lock()
        self._max_size = 0
        # The open addresses, by their channels.
        self._takers: dict[bytes, tuple[str, TakeDirect]] = {}
        # The packed SPUBLISH of each address, up to the length of the message.
        self._heads: dict[str, bytes] = {}
        self._kept: deque[KeptMessage] = deque()
        self._kept_bytes = 0
        self._has_kept = trio.Event()
        self._ended = False
        # The channels that the server has refused after a lost connection.
        self._refused: set[bytes] = set()

    def start(self, link: Link, max_size: int, *, shares_link: bool) -> None:
        """Send over a link.

        Args:
            link: The link of the driver.
            max_size: The size of the largest message in bytes.
            shares_link: The link receives the messages, too: it has `receive` or `push` for its
                push frames, and `subscribe_again` for new connections.
        """
        self._link, self._max_size = link, max_size
        if shares_link:
            self._receiving = link

    @property
    def connected(self) -> bool:
        """False while messages cannot arrive at an open address."""
        return self._receiving is None or self._receiving.connected

    # -- addresses

    async def open(self, addresses: Sequence[str], take: TakeDirect) -> None:
        """Open addresses; see `goevent.drivers.SendsDirectly`."""
        try:
            link = await self._receiving_link()
        except redis_errors.RedisError as error:
            raise self._to_driver_error(error) from error
        channels = [direct_channel(self._prefix, address) for address in addresses]
        # Before the command: a connection that is made meanwhile subscribes to them.
        self._takers.update(
            {
                channel.encode(): (address, take)
                for channel, address in zip(channels, addresses, strict=True)
            }
        )
        is_open = False
        try:
            await confirm_all(link, "SSUBSCRIBE", channels, patience=KEPT_SECONDS)
            is_open = True
        except redis_errors.RedisError as error:
            raise self._to_driver_error(error) from error
        finally:
            if not is_open:
                # Of many addresses some may be open, and a cancelled request is sent all the same.
                self._forget(channels)
                link.unsubscribe_nowait("SUNSUBSCRIBE", channels)

    async def close(self, addresses: Sequence[str]) -> None:
        """Close addresses; see `goevent.drivers.SendsDirectly`."""
        link = self._receiving
        channels = [direct_channel(self._prefix, address) for address in addresses]
        self._forget(channels)
        await trio.lowlevel.checkpoint_if_cancelled()
        request = None if link is None else link.unsubscribe_nowait("SUNSUBSCRIBE", channels)
        if request is None:
            return  # the next connection does not subscribe to them
        try:
            await request.answer()
        except RedisLinkError:
            pass  # as above
        except redis_errors.RedisError as error:
            raise self._to_driver_error(error) from error

    async def _receiving_link(self) -> Link:
        """Return the link that receives messages; open it if this is the first address."""
        link = self._open_link()
        async with self._starting:
            if self._receiving is not None:
                return self._receiving
            if self._nursery is None:
                raise driver_not_open()
            with trio.move_on_after(KEPT_SECONDS):
                # Its first attempt to connect may fail, and this one is connected again soon.
                await link.ready()
            reports = ConnectionReports(
                lambda text: self._report(DriverConnectionError(f"requests and replies: {text}")),
                "; those of the meantime have not arrived",
            )
            further = Link(
                link.config,
                on_push=self.push,
                on_connect=self._prepare_further,
                on_connected=reports.connected,
                on_disconnected=reports.disconnected,
            )
            await self._nursery.start(further.run)
            self._receiving = further
            return further

    async def _prepare_further(self, conversation: Conversation) -> None:
        conversation.check_master()
        await self.subscribe_again(conversation)

    async def subscribe_again(self, conversation: Conversation) -> None:
        """Open all addresses on a new connection. Call it as the last step of `on_connect`.

        An address that is refused by now costs no other one, and no event.
        """
        channels = [*self._takers]
        if not channels:
            return
        try:
            await subscribe_all(conversation, "SSUBSCRIBE", [each.decode() for each in channels])
            self._refused.difference_update(channels)
        except redis_errors.NoPermissionError:
            for channel in channels:
                await self._subscribe_alone(conversation, channel)
        except redis_errors.ResponseError as error:
            self._report_refusal(channels, error)
        # Until the link is up, `close` cannot unsubscribe.
        while gone := [each for each in channels if each not in self._takers]:
            await subscribe_all(conversation, "SUNSUBSCRIBE", [each.decode() for each in gone])
            channels = [each for each in channels if each not in gone]

    async def _subscribe_alone(self, conversation: Conversation, channel: bytes) -> None:
        try:
            await conversation.subscribe("SSUBSCRIBE", channel.decode())
            self._refused.discard(channel)
        except redis_errors.NoPermissionError as error:
            self._report_refusal([channel], error)

    def _report_refusal(self, channels: Sequence[bytes], error: Exception) -> None:
        """Report a refusal once; every new connection tries again."""
        if not self._refused.issuperset(channels):
            self._refused.update(channels)
            self._report(self._to_driver_error(error))

    def _forget(self, channels: Sequence[str]) -> None:
        for channel in map(str.encode, channels):
            self._takers.pop(channel, None)
            self._refused.discard(channel)

    # -- receiving

    def push(self, frames: Sequence[Any]) -> None:
        """Take the push frames of a link that has no other ones."""
        for frame in frames:
            if frame[0] == DIRECT_MESSAGE:
                self.receive(frame)

    def receive(self, frame: Sequence[Any]) -> None:
        """Take a push frame of the kind `DIRECT_MESSAGE`."""
        _, channel, data = frame
        taker = self._takers.get(channel)
        # None if the address was closed meanwhile.
        if taker is not None:
            address, take = taker
            take(address, data)

    # -- sending

    def send(self, address: str, data: bytes, sent: DirectSent) -> None:
        """Send a message; see `goevent.drivers.SendsDirectly`."""
        link = self._link
        if link is None or self._ended:
            sent(driver_not_open())
            return
        if len(data) > self._max_size:
            limit = f"{len(data)} bytes are above max_event_size ({self._max_size})"
            sent(DriverError(f"the direct message is too large: {limit}"))
            return
        head = self._heads.get(address)
        if head is None:
            try:
                head = self._learn_head(address)
            except ValueError as error:
                sent(DriverError(f"{address[:100]!r} is no address: {error}"))
                return
        request = SentDirectMessage(self, sent)
        conversation = link.writable()
        if conversation is None or self._kept:
            self._keep(complete_command(head, data), request)
        else:
            conversation.submit(complete_command(head, data), request)

    def _learn_head(self, address: str) -> bytes:
        head = pack_prefix("SPUBLISH", direct_channel(self._prefix, address))
        if len(self._heads) >= MAX_CACHED_HEADS:
            self._heads.clear()
        self._heads[address] = head
        return head

    def _keep(self, command: bytes, request: SentDirectMessage) -> None:
        size = len(command) + KEPT_OVERHEAD_BYTES
        if self._kept and self._kept_bytes + size > MAX_KEPT_BYTES:
            request.sent(
                DriverConnectionError(
                    f"Redis: {len(self._kept)} direct messages wait for the connection already"
                )
            )
            return
        self._kept.append(KeptMessage(command, request, trio.current_time() + KEPT_SECONDS))
        self._kept_bytes += size
        self._has_kept.set()

    async def run(self) -> None:
        """Send the messages that are kept, until cancelled."""
        try:
            # The further link runs in it, too.
            async with trio.open_nursery() as self._nursery:
                while True:
                    await self._has_kept.wait()
                    self._has_kept = trio.Event()
                    while self._kept:
                        await self._send_kept()
        finally:
            self._ended, self._nursery = True, None
            for kept in self._take_kept():
                kept.request.sent(driver_not_open())

    async def _send_kept(self) -> None:
        """Wait until the link takes the kept messages; fail those that have waited too long."""
        link = self._open_link()
        batch = KeptBatch(self._take_kept)
        patience = max(0.0, self._kept[0].until - trio.current_time())
        try:
            await link.post_in_turn(batch.encode, batch, patience=patience)
        except RedisLinkError as error:
            # A link that has ended will never take them.
            now = float("inf") if isinstance(error, LinkClosed) else trio.current_time()
            while self._kept and self._kept[0].until <= now:
                kept = self._kept.popleft()
                self._kept_bytes -= kept.size
                kept.request.fail(error)

    def _take_kept(self) -> deque[KeptMessage]:
        kept, self._kept, self._kept_bytes = self._kept, deque(), 0
        return kept

    async def finish(self, link: Link) -> None:
        """Wait for the outcomes of all messages that were sent; used when the bus ends."""
        if self._heads and link.connected:
            # An error of the connection is the outcome of each of them, too.
            with suppress(redis_errors.RedisError):
                await link.drain()

    # -- the connection

    def fork(self) -> None:
        """Refuse to send: this process is a fork of the one that owns the connection."""
        self._ended = True
        if self._receiving is not None:
            self._receiving.fork()
        # The callbacks belong to the parent.
        self._take_kept()

    def _open_link(self) -> Link:
        if self._link is None:
            raise driver_not_open()
        return self._link

    def to_outcome(self, reply: Any) -> int | DriverError:
        """Return the outcome for a reply of the server, or for the error in its place."""
        if type(reply) is int:
            return reply
        if isinstance(reply, Exception):
            return self._to_driver_error(reply)
        return DriverError(f"Redis: the reply to SPUBLISH is {type(reply).__name__}, not a number")

    def _to_driver_error(self, error: Exception) -> DriverError:
        """Return the error of the contract for an error of the link or of the server."""
        driver_error: DriverError
        if isinstance(error, RedisLinkError):
            driver_error = connection_error(error)
        elif isinstance(error, redis_errors.NoPermissionError):
            driver_error = DriverError(
                f"Redis: {error}; requests and replies need SSUBSCRIBE, SUNSUBSCRIBE and SPUBLISH "
                f"for the channels {self._prefix}{DIRECT_MARK}*"
            )
        elif "unknown command" in str(error):
            driver_error = DriverError(
                f"requests and replies need Redis 7.0 or Valkey: {whole_text(error)}"
            )
        else:
            driver_error = DriverError(f"Redis: {whole_text(error)}")
        driver_error.__cause__ = error
        return driver_error


class SentDirectMessage(msgspec.Struct, eq=False):
    """One direct message on its way: a request to the link whose reply goes to `sent`."""

    answered_by_push: ClassVar[bool] = False

    messages: RedisDirectMessages
    sent: DirectSent

    def receive_reply(self, frame: Any, /) -> bool:
        """Take the number of receivers, or the error in its place."""
        self.sent(frame if type(frame) is int else self.messages.to_outcome(frame))
        return True

    def fail(self, error: Exception, /) -> None:
        """Take an error, because no reply will arrive."""
        self.receive_reply(error)


class KeptMessage(msgspec.Struct, eq=False):
    """A direct message that waits for the link.

    Attributes:
        until: When it is given up, on Trio's clock.
    """

    command: bytes
    request: SentDirectMessage
    until: float

    @property
    def size(self) -> int:
        """The memory that it takes, roughly."""
        return len(self.command) + KEPT_OVERHEAD_BYTES


class KeptBatch:
    """All messages that wait when the link takes them: one request with a reply for each."""

    answered_by_push: ClassVar[bool] = False

    def __init__(self, take_kept: Callable[[], deque[KeptMessage]]) -> None:
        self._take_kept = take_kept
        self._unanswered: deque[SentDirectMessage] = deque()

    def encode(self) -> bytes:
        """Take the messages that wait by now; called when the bytes enter the write buffer."""
        kept = self._take_kept()
        self._unanswered.extend(each.request for each in kept)
        return b"".join([each.command for each in kept])

    def receive_reply(self, frame: Any, /) -> bool:
        """Take the reply to the next message; return True if it was the last one."""
        self._unanswered.popleft().receive_reply(frame)
        return not self._unanswered

    def fail(self, error: Exception, /) -> None:
        """Fail the messages whose replies will not arrive."""
        while self._unanswered:
            self._unanswered.popleft().fail(error)


def driver_not_open() -> DriverConnectionError:
    """Return the error for a use of the driver of a bus that is not open."""
    return DriverConnectionError("the Redis driver does not run: open its bus first")
