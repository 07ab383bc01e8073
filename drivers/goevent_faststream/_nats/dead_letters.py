"""The stream of JetStream that keeps the dead letters of a stream's groups.

Its subjects are `<stream>-dead.<group>.<event name>`. A dead letter has the body and the headers of
its event. More headers say why it is there: goevent-reason, -details, -id, -deliveries, -group and
-consumer. The settler writes dead letters; users list, replay and discard them.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import unquote

from nats import errors
from nats.js import api, errors as js_errors

from goevent import DriverConnectionError, DriverError
from goevent.drivers import DeadLetter

from .._adapter.contract import Decision
from .._adapter.dead_letters import (
    CONSUMER_HEADER,
    DELIVERIES_HEADER,
    DETAILS_HEADER,
    GROUP_HEADER,
    ID_HEADER,
    REASON_HEADER,
    REPLAY_GROUP_HEADER,
    dead_letter_headers,
)
from .connection import NatsConnection, to_driver_error
from .stream import NatsStream, ensure_own_stream

T = TypeVar("T")

STORE_SECONDS = 5.0
MISSING_MESSAGE_TEXTS = ("no message found", "message deleted")

_DEAD_LETTER_HEADERS = frozenset(
    (
        REASON_HEADER,
        DETAILS_HEADER,
        ID_HEADER,
        DELIVERIES_HEADER,
        GROUP_HEADER,
        CONSUMER_HEADER,
        REPLAY_GROUP_HEADER,
    )
)


class JetStreamDeadLetters:
    """The dead letters of one group."""

    def __init__(self, connection: NatsConnection, events: NatsStream, group: str) -> None:
        self._connection = connection
        self._events = events
        self._stream = f"{events.name}-dead"
        self._group = group
        self._subject_prefix = f"{self._stream}.{group.replace('.', '=')}."
        self._stream_exists = False
        self._was_used = False

    @property
    def _js(self) -> Any:
        return self._connection.jetstream

    # -- for the settler

    async def write(self, decision: Decision) -> None:
        """Write a dead letter; returns when the server has stored it."""
        arrival, js = decision.arrival, self._js
        headers = dead_letter_headers(decision, self._group)
        # nats-py parses headers as those of an e-mail, which are ASCII only.
        headers[REASON_HEADER] = _escaped(headers[REASON_HEADER])
        headers = {
            **_own_headers(arrival.headers),
            # The server drops a second dead letter of the same event, for instance after its
            # acknowledgement was lost. The time tells events of a stream from those of a stream of
            # that name that was deleted, whose sequence numbers were the same.
            api.Header.MSG_ID.value: (
                f"{self._group}:{arrival.name}:{arrival.id}:"
                f"{arrival.raw.message.metadata.timestamp.timestamp():.6f}"
            ),
            **headers,
        }
        if self._connection.size_error(arrival.name, arrival.body, headers) is not None:
            # The event fits alone, or it could not have arrived; so may its reason.
            headers[DETAILS_HEADER] = ""
            if self._connection.size_error(arrival.name, arrival.body, headers) is not None:
                headers[REASON_HEADER] = ""
        subject = self._subject_prefix + arrival.name
        try:
            await self._ensure_stream(js)
            await js.publish(subject, arrival.body, timeout=STORE_SECONDS, headers=headers)
        except js_errors.NoStreamResponseError:
            self._stream_exists = False
            await self._ensure_stream(js)
            await js.publish(subject, arrival.body, timeout=STORE_SECONDS, headers=headers)

    async def _ensure_stream(self, js: Any) -> None:
        """Create the stream if it is missing; a loss is reported once."""
        if self._stream_exists:
            return
        was_created = await ensure_own_stream(js, api.StreamConfig(name=self._stream))
        self._stream_exists = True
        if was_created and self._was_used:
            text = (
                f"NATS: the stream {self._stream!r} was deleted, with the dead letters in it; it is"
            )
            self._connection.host.report(DriverError(f"{text} created again"))
        self._was_used = True

    def write_error(self, error: Exception) -> DriverError:
        """Return the `DriverError` for a failed write, with the name of the stream."""
        failure = to_driver_error(error)
        if isinstance(failure, DriverConnectionError):
            return failure
        reason = str(failure).removeprefix("NATS: ")
        named = DriverError(f"NATS: the stream {self._stream!r} takes no dead letters: {reason}")
        named.__cause__ = error
        return named

    def forget_stream(self) -> None:
        """Look for the stream again before the next use: a write has failed."""
        self._stream_exists = False

    # -- for users

    async def count(self) -> int:
        """Return the number of dead letters."""
        subjects_filter = f"{self._subject_prefix}>"
        info = await self._found(
            self._js.stream_info(self._stream, subjects_filter=subjects_filter)
        )
        counts: dict[str, int] = (info and info.state.subjects) or {}
        return sum(counts.values())

    async def list(self, count: int, after: str) -> list[DeadLetter]:
        """Return the oldest dead letters, or the oldest ones behind the id `after`."""
        found: list[DeadLetter] = []
        sequence = int(after) if after.isdecimal() else 0
        subject = f"{self._subject_prefix}>"
        while len(found) < count:
            stored = await self._found(
                self._js.get_msg(self._stream, seq=sequence + 1, subject=subject, next=True)
            )
            if stored is None:
                break
            found.append(self._dead_letter(stored))
            sequence = stored.seq
        return found

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002
        """Return one dead letter; None if there is none of that id."""
        stored = await self._stored(id)
        return None if stored is None else self._dead_letter(stored)

    async def replay(self, ids: Sequence[str]) -> int:
        """Publish the events of dead letters again for this group, and delete the dead letters."""
        return sum([await self._replay(id) for id in ids])  # noqa: A001

    async def _replay(self, id: str) -> bool:  # noqa: A002
        stored = await self._stored(id)
        if stored is None:
            return False
        headers = {
            **_own_headers(_headers_of(stored)),
            REPLAY_GROUP_HEADER: self._group,
            # If the previous replay published the event and failed to delete the dead letter, the
            # server drops the second event.
            api.Header.MSG_ID.value: f"again:{self._group}:{id}",
        }
        subject = self._events.prefix + str(stored.subject).removeprefix(self._subject_prefix)
        await self._requested(self._publish_again(subject, stored.data or b"", headers))
        return await self._discard(id)

    async def _publish_again(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        name = self._events.name
        try:
            await self._js.publish(subject, body, stream=name, headers=headers)
        except js_errors.NoStreamResponseError:
            # The stream was deleted.
            await self._events.ensure()
            await self._js.publish(subject, body, stream=name, headers=headers)

    async def discard(self, ids: Sequence[str]) -> int:
        """Delete dead letters."""
        return sum([await self._discard(id) for id in ids])  # noqa: A001

    async def _discard(self, id: str) -> bool:  # noqa: A002
        if await self._stored(id) is None:
            return False
        return bool(await self._found(self._delete(int(id))))

    async def _delete(self, sequence: int) -> bool:
        try:
            return bool(await self._js.delete_msg(self._stream, sequence))
        except js_errors.ServerError as error:
            # Another bus has just deleted it. The server has no code of its own for that.
            if error.description in MISSING_MESSAGE_TEXTS:
                return False
            raise

    async def _stored(self, id: str) -> Any:  # noqa: A002
        """Return the stored message of an id; None if it is missing or another group's."""
        if not id.isdecimal() or not int(id):
            return None
        stored = await self._found(self._js.get_msg(self._stream, seq=int(id)))
        if stored is None or not stored.subject.startswith(self._subject_prefix):
            return None
        return stored

    async def _found(self, request: Coroutine[Any, Any, T]) -> T | None:
        """Return the reply to a request; None if the stream or the message does not exist."""
        try:
            return await self._connection.run_while_connected(request)
        except js_errors.NotFoundError:
            return None
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error

    async def _requested(self, request: Coroutine[Any, Any, T]) -> T:
        try:
            return await self._connection.run_while_connected(request)
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error

    def _dead_letter(self, stored: Any) -> DeadLetter:
        headers = _headers_of(stored)
        return DeadLetter(
            id=str(stored.seq),
            event_name=stored.subject.removeprefix(self._subject_prefix),
            event_id=headers.get(ID_HEADER, ""),
            data=stored.data or b"",
            reason=headers.get(REASON_HEADER, ""),
            details=unquote(headers.get(DETAILS_HEADER, "")),
            deliveries=int(headers.get(DELIVERIES_HEADER, "0")),
            consumer=headers.get(CONSUMER_HEADER, ""),
            time=stored.time,
        )


def _headers_of(stored: Any) -> dict[str, str]:
    """Return the headers of a stored message.

    nats-py parses them as the headers of an e-mail, and so changes some of them; this does not.
    """
    _, *lines = b64decode(stored.hdrs or b"").split(b"\r\n")
    pairs = (line.partition(b":") for line in lines if b":" in line)
    return {
        name.decode("ascii", "replace"): value.strip().decode("utf-8", "replace")
        for name, _, value in pairs
    }


def _own_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the event's own headers, without the server's and those of a dead letter."""
    return {
        name: value
        for name, value in headers.items()
        if name not in _DEAD_LETTER_HEADERS and not name.startswith("Nats-")
    }


def _escaped(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()
