"""The dead letters of a bus as the page shows them, and the two actions on them.

The page calls this for `/api/dead-letters`. The driver asks the broker. Bodies of requests are read
here, because only actions have one; they are checked as strictly as bytes of a broker.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from starlette.requests import Request

from .._errors import UnsupportedError
from ..drivers import DEAD_LETTERS_PER_PAGE, DeadLetter, DeadLetters
from .sampler import without_excerpt

if TYPE_CHECKING:
    from .._bus import GoEvent

MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 10.0
MAX_DEAD_LETTER_ID_CHARS = 512
MAX_SHOWN_BYTES = 16 * 1024


class HttpRefusal(Exception):
    """A request is wrong, or cannot be answered here.

    Attributes:
        status: The status of HTTP.
        reason: The reason, in one sentence.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


class DeadLetterChoice(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an action: the ids of the dead letters, or all of them."""

    ids: list[str] = []
    all: bool = False


class PageDeadLetters:
    """The dead letters of one bus.

    Args:
        bus: The bus.
        shows_payloads: The data of events are shown.
    """

    def __init__(self, bus: GoEvent, *, shows_payloads: bool) -> None:
        self._bus = bus
        self._shows_payloads = shows_payloads

    @property
    def are_kept(self) -> bool:
        """True if the driver keeps dead letters."""
        try:
            self._store()
        except HttpRefusal:
            return False
        return True

    async def listed(self, after: str) -> dict[str, Any]:
        """Return the number of dead letters, and the oldest ones.

        Args:
            after: The id of a dead letter; only later ones are returned.

        Raises:
            DriverError: The broker cannot be asked.
            HttpRefusal: The driver keeps no dead letters, or `after` is too long.
        """
        store = self._store()
        if len(after) > MAX_DEAD_LETTER_ID_CHARS:
            raise HttpRefusal(400, "this is not the id of a dead letter")
        count = await store.count()
        letters = await store.list(DEAD_LETTERS_PER_PAGE, after=after) if count else []
        return {"count": count, "letters": [self._shown(letter) for letter in letters]}

    async def settle(self, action: str, body: bytes) -> dict[str, Any]:
        """Replay or discard dead letters; return how many.

        Raises:
            DriverError: The broker cannot be asked. Some of the letters may be settled.
            HttpRefusal: The action or the body is wrong, or the driver keeps no dead letters.
        """
        if action not in ("replay", "discard"):
            raise HttpRefusal(404, "the actions are replay and discard")
        try:
            choice = msgspec.json.decode(body, type=DeadLetterChoice)
        except msgspec.MsgspecError as error:
            raise HttpRefusal(400, f"the body is wrong: {error}") from error
        if bool(choice.ids) == choice.all:
            raise HttpRefusal(400, 'name either "ids" or "all"')
        if len(choice.ids) > DEAD_LETTERS_PER_PAGE:
            raise HttpRefusal(400, f"at most {DEAD_LETTERS_PER_PAGE} ids at once")
        if any(not each or len(each) > MAX_DEAD_LETTER_ID_CHARS for each in choice.ids):
            raise HttpRefusal(400, "this is not the id of a dead letter")
        store = self._store()
        if action == "replay":
            done = await (store.replay_all() if choice.all else store.replay(*choice.ids))
        elif choice.all:
            # The list may have grown since the person looked at it, and this cannot be undone.
            raise HttpRefusal(400, "dead letters are discarded by their ids")
        else:
            done = await store.discard(*choice.ids)
        return {"done": done}

    def _store(self) -> DeadLetters:
        try:
            store: DeadLetters | None = getattr(self._bus.driver, "dead_letters", None)
        except UnsupportedError as error:
            raise HttpRefusal(404, str(error)) from error
        if store is None:
            raise HttpRefusal(404, "the driver of this bus keeps no dead letters")
        return store

    def _shown(self, letter: DeadLetter) -> dict[str, Any]:
        data = letter.data
        shows = self._shows_payloads
        return {
            "id": letter.id,
            "event_name": letter.event_name,
            "event_id": letter.event_id,
            "reason": letter.reason if shows else without_excerpt(letter.reason),
            "details": letter.details if shows else without_excerpt(letter.details),
            "deliveries": letter.deliveries,
            "consumer": letter.consumer,
            "time": letter.time.timestamp(),
            "partition": letter.partition,
            "size": len(data),
            "data": bytes(data[:MAX_SHOWN_BYTES]).decode("utf-8", "replace") if shows else None,
        }


async def read_body(request: Request, content_type: str) -> bytes:
    """Return the body of a request.

    Raises:
        HttpRefusal: It is too large, comes too slowly or has another type.
    """
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found != content_type:
        raise HttpRefusal(415, f"the body has to be {content_type}")
    body = bytearray()
    with trio.move_on_after(BODY_SECONDS) as reading:
        async with aclosing(request.stream()) as parts:
            async for part in parts:
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise HttpRefusal(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    if reading.cancelled_caught:
        raise HttpRefusal(408, "the body has not arrived in time")
    return bytes(body)
