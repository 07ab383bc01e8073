"""Returns: what a group has handed back before anybody began with it.

The server counts each time that it hands an event out, and cannot be told that it does not count.
So each return is noted in a stream, and subtracted when the event comes again; only an event that
comes again is looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nats import errors
from nats.js import api, errors as js_errors

from goevent import DriverError

from .connection import NatsLink, to_driver_error

KEPT = 7 * 24 * 3600.0  # seconds; an event that lies for longer counts each time it was handed out


class Returns:
    """The returns of all groups of a stream.

    Subjects are `<stream>-back.<consumer>.<sequence>`, and each holds one number.
    """

    def __init__(self, link: NatsLink, stream: str) -> None:
        self._link = link
        self._stream = f"{stream}-back"
        self._ready = False

    async def count(self, consumer: str, sequence: int) -> int:
        """Return how often an event was handed back by a consumer's buses."""
        js: Any = self._link.client.jetstream()
        subject = f"{self._stream}.{consumer}.{sequence}"
        try:
            note = await self._link.unbroken(js.get_msg(self._stream, subject=subject))
            return int(note.data)
        except (js_errors.NotFoundError, ValueError):
            return 0
        except (errors.Error, OSError, DriverError) as error:
            self._link.host.report(to_driver_error(error))
            return 0

    async def note(self, returned: Sequence[tuple[str, int, int]]) -> None:
        """Note how often events were handed back: consumer, sequence and number of each.

        Returns when the server has all of it, so that whoever gets them next finds it.
        """
        await self._link.unbroken(self._note(returned))

    async def _note(self, returned: Sequence[tuple[str, int, int]]) -> None:
        client: Any = self._link.client
        js = client.jetstream()
        if not self._ready:
            await self._ensure(js)
            self._ready = True
        *most, last = (
            (f"{self._stream}.{consumer}.{sequence}", b"%d" % number)
            for consumer, sequence, number in returned
        )
        for subject, body in most:
            await client.publish(subject, body)
        await js.publish(*last, timeout=2.0)  # the stream takes them in order: it has the others

    async def _ensure(self, js: Any) -> None:
        try:
            await js.stream_info(self._stream)
        except js_errors.NotFoundError:
            config = api.StreamConfig(name=self._stream, max_msgs_per_subject=1, max_age=KEPT)
            await js.add_stream(config, subjects=[f"{self._stream}.>"])

    def lost(self) -> None:
        """Look again whether the stream exists."""
        self._ready = False
