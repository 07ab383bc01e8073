"""The stream of JetStream that keeps the dead letters of a stream's groups, and what is in it.

Its subjects are `<stream>-dead.<group>.<event name>`; body and headers are the event's, and more
headers tell why it is there: goevent-reason, -details, -id, -deliveries, -group and -consumer.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import unquote

from nats import errors
from nats.js import api, errors as js_errors

from goevent.drivers import DeadLetter

from .._adapter.contract import Decision
from .._adapter.dead_letters import (
    CONSUMER_HEADER,
    DELIVERIES_HEADER,
    DETAILS_HEADER,
    GROUP_HEADER,
    ID_HEADER,
    REASON_HEADER,
    dead_letter_headers,
)
from .connection import NatsLink, to_driver_error

T = TypeVar("T")

FOR = "goevent-for"
"""The header that says which group a replayed event is for; others acknowledge it unseen."""

_OURS = frozenset(
    (
        REASON_HEADER,
        DETAILS_HEADER,
        ID_HEADER,
        DELIVERIES_HEADER,
        GROUP_HEADER,
        CONSUMER_HEADER,
        FOR,
    )
)


class JetStreamDeadLetters:
    """The dead letters of one group."""

    def __init__(self, link: NatsLink, stream: str, prefix: str, group: str) -> None:
        self._link = link
        self._events = stream
        self._prefix = prefix
        self._stream = f"{stream}-dead"
        self._group = group
        self._subject = f"{self._stream}.{group.replace('.', '=')}."
        self._ready = False

    @property
    def _js(self) -> Any:
        return self._link.client.jetstream()

    # -- for those who bury

    async def write(self, decision: Decision) -> None:
        """Keep a dead letter; returns when the server has it."""
        arrival, js = decision.arrival, self._js
        headers = dead_letter_headers(decision, self._group)
        headers[REASON_HEADER] = _ascii(headers[REASON_HEADER])
        if not self._ready:
            try:
                await js.stream_info(self._stream)
            except js_errors.NotFoundError:
                await js.add_stream(name=self._stream, subjects=[f"{self._stream}.>"])
            self._ready = True
        await js.publish(
            self._subject + arrival.name,
            arrival.body,
            timeout=5.0,
            headers={
                **_kept(arrival.headers),
                api.Header.MSG_ID.value: f"{self._group}:{arrival.name}:{arrival.id}",
                **headers,
            },
        )

    def lost(self) -> None:
        """Look again whether the stream exists."""
        self._ready = False

    # -- for those who look

    async def count(self) -> int:
        """Return how many there are."""
        wanted = f"{self._subject}>"
        info = await self._found(self._js.stream_info(self._stream, subjects_filter=wanted))
        subjects: dict[str, int] = (info and info.state.subjects) or {}
        return sum(subjects.values())

    async def list(self, count: int, after: str) -> list[DeadLetter]:
        """Return the oldest ones, behind an id if one is given."""
        found: list[DeadLetter] = []
        at = int(after) if after.isdecimal() else 0
        while len(found) < count:
            wanted = {"subject": f"{self._subject}>", "next": True}
            raw = await self._found(self._js.get_msg(self._stream, seq=at + 1, **wanted))
            if raw is None:
                break
            found.append(self._letter(raw))
            at = raw.seq
        return found

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002
        """Return one."""
        raw = await self._raw(id)
        return None if raw is None else self._letter(raw)

    async def replay(self, ids: Sequence[str]) -> int:
        """Publish dead letters anew, for this group only, and then delete them."""
        return sum([await self._replay(each) for each in ids])

    async def _replay(self, id: str) -> bool:  # noqa: A002
        raw = await self._raw(id)
        if raw is None:
            return False
        headers = {
            **_kept(_headers(raw)),
            FOR: self._group,
            # The server drops it if it was published, and not deleted, a moment ago.
            api.Header.MSG_ID.value: f"again:{self._group}:{id}",
        }
        subject = self._prefix + str(raw.subject).removeprefix(self._subject)
        body = raw.data or b""
        publish = self._js.publish(subject, body, stream=self._events, headers=headers)
        await self._asked(publish)
        return await self._discard(id)

    async def discard(self, ids: Sequence[str]) -> int:
        """Delete dead letters."""
        return sum([await self._discard(each) for each in ids])

    async def _discard(self, id: str) -> bool:  # noqa: A002
        if await self._raw(id) is None:
            return False
        return bool(await self._found(self._js.delete_msg(self._stream, int(id))))

    async def _raw(self, id: str) -> Any:  # noqa: A002
        """Return the message of an id, if it is one of this group's."""
        if not id.isdecimal() or not int(id):
            return None
        raw = await self._found(self._js.get_msg(self._stream, seq=int(id)))
        ours = raw is not None and raw.subject.startswith(self._subject)
        return raw if ours else None

    async def _found(self, work: Coroutine[Any, Any, T]) -> T | None:
        try:
            return await self._link.unbroken(work)
        except js_errors.NotFoundError:
            return None
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error

    async def _asked(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await self._link.unbroken(work)
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error

    def _letter(self, raw: Any) -> DeadLetter:
        told = _headers(raw)
        return DeadLetter(
            id=str(raw.seq),
            event_name=raw.subject.removeprefix(self._subject),
            event_id=told.get(ID_HEADER, ""),
            data=raw.data or b"",
            reason=told.get(REASON_HEADER, ""),
            details=unquote(told.get(DETAILS_HEADER, "")),
            deliveries=int(told.get(DELIVERIES_HEADER, "0")),
            consumer=told.get(CONSUMER_HEADER, ""),
            time=raw.time,
        )


def _headers(raw: Any) -> dict[str, str]:
    """Return the headers of a stored message; nats-py reads them as those of a mail."""
    _, *lines = b64decode(raw.hdrs or b"").split(b"\r\n")
    parted = (line.partition(b":") for line in lines if b":" in line)
    return {
        name.decode("ascii", "replace"): value.strip().decode("utf-8", "replace")
        for name, _, value in parted
    }


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that are the event's own."""
    return {
        name: value
        for name, value in headers.items()
        if name not in _OURS and not name.startswith("Nats-")
    }


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()
