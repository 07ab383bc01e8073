"""The stream of JetStream that holds the events of all names.

The adapter owns one `NatsStream`, and its publisher and consumers share it. `ensure` may be called
at any time and any number of times: it creates the stream if it is missing, and reads the server's
limits. The adapter calls it when it opens and after each reconnect; the others call it when the
server answers that nobody has a stream for a subject, or that there is no such stream.

Theory of operation: A stream may be deleted while the connection lives, or a server may come back
with an empty store. Another bus, or another program, may have created the stream again by then. The
time of creation tells such a stream from the one before. Sequence numbers start again in it, so
numbers of the stream before mean nothing: `created` is kept beside each of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from faststream.nats import JStream
from nats import errors
from nats.js import api, errors as js_errors

from goevent import DriverConnectionError, DriverError

from .._adapter.errors import connection_lost
from .connection import NatsConnection, to_driver_error
from .settlements import RememberedSettlements
from .subjects import subject_matches

T = TypeVar("T")

MAX_CONSUMERS = 100_000
MAX_CONSUMERS_CODE = 10026  # JetStream: maximum consumers limit reached
CONSUMERS_PER_PAGE = 256
MAX_SEQUENCE = 1 << 64  # above every sequence of a stream


class NatsStream:
    """The stream that holds the events, as last seen.

    Args:
        address: The user's own description of the stream; None if goevent decides.

    Attributes:
        name: The name of the stream.
        prefix: The beginning of the events' subjects.
        created: The time of creation; None before the first `ensure`.
        max_message_bytes: The stream's limit of a message with its headers; None without one.
        settlements: The settlements of this bus in this life of the stream.
        last_before_reconnect: The last sequence in the stream when the connection came back. The
            server may have forgotten deliveries of the events up to there.
    """

    def __init__(
        self, connection: NatsConnection, name: str, prefix: str, address: JStream | None
    ) -> None:
        self.name = name
        self.prefix = prefix
        self.created: datetime | None = None
        self.max_message_bytes: int | None = None
        self.settlements = RememberedSettlements()
        self.last_before_reconnect = 0
        self._losses = 0  # of the connection, when the last sequence was read
        self._connection = connection
        self._address = address
        self._config: api.StreamConfig | None = None  # as last seen
        self._ensuring: asyncio.Task[None] | None = None
        self._last_failure = ""

    def reset(self) -> None:
        """Forget the stream: the bus opens anew."""
        self.created = self._ensuring = self._config = None
        self.settlements = RememberedSettlements()
        self.last_before_reconnect, self._losses = 0, self._connection.losses
        self._last_failure = ""

    def connection_lost(self) -> None:
        """Count every event as delivered before, until the stream is seen again."""
        self.last_before_reconnect = MAX_SEQUENCE

    @property
    def is_seen(self) -> bool:
        """True if the stream was seen on the present connection."""
        return self._losses == self._connection.losses

    async def ensure(self) -> None:
        """Create the stream if it is missing, and read its limits; calls share one attempt.

        Raises:
            DriverConnectionError: The server does not answer.
            DriverError: The server refuses to create the stream, or has no JetStream.
        """
        if self._ensuring is None or self._ensuring.done():
            self._ensuring = self._connection.start(self._ensure())
        ensuring = self._ensuring
        await asyncio.wait({ensuring})
        if ensuring.cancelled():
            raise connection_lost("NATS")
        ensuring.result()

    async def _ensure(self) -> None:
        js: Any = self._connection.jetstream
        is_created_here = False
        try:
            try:
                info = await js.stream_info(self.name)
            except js_errors.NotFoundError:
                info = await self._create(js)
                is_created_here = True
        except (errors.Error, OSError) as error:
            raise stream_error(error, self.name) from error
        before = self.created
        if before != info.created:
            # Only then: deliveries of the same stream are recognised by this very object.
            self.created = info.created
            # The numbers of the stream before mean nothing in this one.
            self.settlements = RememberedSettlements()
            self.last_before_reconnect = 0
        elif not self.is_seen:
            self.last_before_reconnect = info.state.last_seq
        self._losses = self._connection.losses
        self._config = info.config
        limit = info.config.max_msg_size
        self.max_message_bytes = limit if limit is not None and limit >= 0 else None
        self._last_failure = ""
        if before is not None and before != self.created:
            done = "it is created again" if is_created_here else "there is a new one of that name"
            self._connection.host.report(
                DriverError(
                    f"NATS: the stream {self.name!r} was deleted, with the events in it; {done}"
                )
            )

    async def _create(self, js: Any) -> Any:
        address, before = self._address, self._config
        subjects = [f"{self.prefix}>"]
        # A server that has a limit for streams without one of their own would refuse further names.
        config = api.StreamConfig(name=self.name, max_consumers=MAX_CONSUMERS)
        if address is not None:
            if not address.declare:
                raise DriverError(
                    f"NATS: the stream {self.name!r} does not exist, and its JStream has "
                    "declare=False, so goevent does not create it"
                )
            subjects, config = [*address.subjects] or subjects, address.config
        elif before is not None:
            # An operator may have chosen other settings than goevent does. The server marks its
            # own entries in the metadata, and does not accept them.
            metadata = before.metadata or {}
            own = {name: text for name, text in metadata.items() if not name.startswith("_nats.")}
            subjects, config = before.subjects or subjects, replace(before, metadata=own or None)
        try:
            return await create_or_find(
                lambda: js.add_stream(config, subjects=subjects), lambda: js.stream_info(self.name)
            )
        except js_errors.APIError as error:
            if error.err_code != MAX_CONSUMERS_CODE or config.max_consumers != MAX_CONSUMERS:
                raise
        # The account has a lower limit, which then is that of the stream.
        config = replace(config, max_consumers=None)
        return await create_or_find(
            lambda: js.add_stream(config, subjects=subjects), lambda: js.stream_info(self.name)
        )

    async def check_room_for_consumers(self, consumers: Sequence[str]) -> None:
        """Refuse to create more consumers than the stream or the account may have.

        Args:
            consumers: The names of durable consumers, which may exist already.

        Raises:
            DriverError: They are too many; none is created then.
        """
        if len(consumers) <= 1:
            # Its own creation tells.
            return
        js: Any = self._connection.jetstream
        try:
            info = await js.stream_info(self.name)
            limits = [info.config.max_consumers, await self._account_limit(js)]
            limit = min((each for each in limits if each and each > 0), default=None)
            if limit is None or info.state.consumer_count + len(consumers) <= limit:
                return
            missing = {*consumers} - await self._consumer_names(js)
        except (errors.Error, OSError, DriverError):
            # They are only asked for a better error; the creation itself reports what is wrong.
            return
        room = max(0, limit - info.state.consumer_count)
        if len(missing) > room:
            raise self.too_many_consumers(
                f"{len(missing)} more consumers are needed, and the limit of {limit} leaves room "
                f"for {room}"
            )

    async def _account_limit(self, js: Any) -> int | None:
        try:
            limit: int = (await js.account_info()).limits.max_consumers
        except DriverError:
            # The user may not ask for it.
            return None
        return limit

    async def _consumer_names(self, js: Any) -> set[str]:
        """Return the names of all consumers of the stream."""
        names, offset = set[str](), 0
        while True:
            page = await js.consumers_info(self.name, offset=offset)
            names.update(info.name for info in page)
            offset += len(page)
            if len(page) < CONSUMERS_PER_PAGE:
                return names

    def too_many_consumers(self, reason: str) -> DriverError:
        """Return the error of a consumer that is one too many."""
        return DriverError(
            f"NATS: the stream {self.name!r} takes no more consumers, of which each group has one "
            f"for each name: {reason}; raise max_consumers of the stream (nats stream edit "
            f"{self.name} --max-consumers), of the account, or default_max_consumers of the server"
        )

    def refuse_subject(self, subject: str) -> None:
        """Refuse a subject that the stream does not store.

        Raises:
            DriverError: No subject of the stream matches.
        """
        subjects = (self._config and self._config.subjects) or []
        if subjects and not any(subject_matches(each, subject) for each in subjects):
            raise DriverError(
                f"NATS: the stream {self.name!r} stores {', '.join(subjects)}, and not the "
                f"subject {subject!r}; change the stream's subjects or the prefix"
            )

    def refuse_unstored(self, subject: str) -> None:
        """Refuse a subject of which the stream can never hold a message, however it gets them.

        Raises:
            DriverError: No subject of the stream matches.
        """
        config = self._config
        # Such a stream also holds messages of other subjects than those that it listens to.
        if config and not (config.mirror or config.sources or config.subject_transform):
            self.refuse_subject(subject)

    def report_failure(self, error: DriverError, event_name: str = "") -> None:
        """Report that the stream cannot be used, once until `ensure` has succeeded."""
        if str(error) != self._last_failure:
            self._last_failure = str(error)
            self._connection.host.report(error, event_name)


async def create_or_find(create: Callable[[], Awaitable[T]], find: Callable[[], Awaitable[T]]) -> T:
    """Create an object, or find the one that another bus has created with other settings.

    Raises:
        APIError: The server refuses to create it, and nobody else has.
    """
    try:
        return await create()
    except js_errors.NotFoundError:
        raise
    except js_errors.APIError as refusal:
        try:
            return await find()
        except js_errors.NotFoundError:
            raise refusal from None


async def ensure_own_stream(js: Any, config: api.StreamConfig) -> bool:
    """Create a stream of the driver's own if it is missing, with one subject for all below it.

    Returns:
        True if it was missing.
    """
    try:
        await js.stream_info(config.name)
    except js_errors.NotFoundError:
        await create_or_find(
            lambda: js.add_stream(config, subjects=[f"{config.name}.>"]),
            lambda: js.stream_info(config.name),
        )
        return True
    return False


def stream_error(error: Exception, stream: str) -> DriverError:
    """Return the `DriverError` for a request about a stream."""
    if isinstance(error, js_errors.ServiceUnavailableError) and error.err_code is None:
        return DriverConnectionError(
            "NATS: this server has no JetStream, or it does not answer yet; start it with -js"
        )
    mapped = to_driver_error(error)
    if isinstance(error, js_errors.APIError):
        return DriverError(f"{mapped}, for the stream {stream!r}")
    return mapped
