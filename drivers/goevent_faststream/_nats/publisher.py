"""The publisher of JetStream: bursts go out at once, and acknowledgements come to one inbox.

FastStream's publish waits for each acknowledgement with a future, a timer and a task. That is what
runs when the broker has middlewares, and what tries again when there was no answer: the server
drops what it has got already, by the event's id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from faststream.nats import NatsBroker
from nats import errors
from nats.js import api, errors as js_errors

from goevent import DriverConnectionError
from goevent.drivers import Receipt

from .._adapter.contract import Outgoing, Result, publish_each
from .connection import NatsLink, to_driver_error

TRY = 2.0  # seconds that one try may take
PAUSE = 0.1  # seconds between two tries
PASSING = (DriverConnectionError, errors.TimeoutError, js_errors.NoStreamResponseError)
MSG_ID = api.Header.MSG_ID.value


class Acknowledgement(msgspec.Struct):
    """What the server says of a publish."""

    seq: int = 0
    error: dict[str, Any] | None = None


class Burst:
    """What was sent at once, and waits for the server."""

    def __init__(self) -> None:
        self.waiting: dict[str, Outgoing] = {}
        self.over = asyncio.Event()


class Publisher:
    """Publishes to one stream."""

    def __init__(
        self, broker: NatsBroker, link: NatsLink, stream: str, prefix: str, timeout: float
    ) -> None:
        self._broker = broker
        self._link = link
        self._stream = stream
        self._prefix = prefix
        self._timeout = timeout
        self._inbox = ""
        self._bursts: dict[str, Burst] = {}
        self._next = 0
        self._read = msgspec.json.Decoder(Acknowledgement).decode

    async def open(self) -> None:
        """Listen for acknowledgements."""
        client = self._link.client
        self._inbox = client.new_inbox()
        self._bursts.clear()
        await client.subscribe(f"{self._inbox}.*", cb=self._acknowledged)

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish a burst in order, and tell each event's end."""
        if self._broker.middlewares:
            await publish_each(burst, self._insist)
            return
        sent = Burst()
        again: list[Outgoing] = []
        for outgoing in burst:
            if not await self._sent(outgoing, sent):
                again.append(outgoing)
        if sent.waiting:
            try:
                async with asyncio.timeout(TRY):
                    await sent.over.wait()
            except TimeoutError:
                pass  # who was not answered tries again, and is dropped if the server has it
            again += sent.waiting.values()
            for token in sent.waiting:
                self._bursts.pop(token, None)
        if again:
            await publish_each(again, self._insist)

    async def _sent(self, outgoing: Outgoing, burst: Burst) -> bool:
        """Send an event; return False if it is to be tried in another way."""
        if not self._link.is_up:
            return False
        self._next += 1
        token = f"{self._inbox}.{self._next}"
        burst.waiting[token] = outgoing
        self._bursts[token] = burst
        try:
            await self._link.client.publish(
                self._prefix + outgoing.name,
                outgoing.body,
                reply=token,
                headers={**outgoing.headers, MSG_ID: outgoing.id},
            )
        except (errors.Error, OSError):
            del self._bursts[token], burst.waiting[token]
            return False
        return True

    async def _acknowledged(self, message: Any) -> None:
        burst = self._bursts.pop(message.subject, None)
        if burst is None:
            return
        try:
            said = self._read(message.data)
        except msgspec.DecodeError:
            said = None  # nobody answers for JetStream: it may be starting
        if said is not None and said.error is None:
            burst.waiting.pop(message.subject).done(Receipt(id=str(said.seq)))
        if not burst.waiting or said is None or said.error is not None:
            burst.over.set()

    def lost(self) -> None:
        """Wait no more for what the lost connection would have brought."""
        for burst in [*self._bursts.values()]:
            burst.over.set()

    async def _insist(self, outgoing: Outgoing) -> Result:
        """Publish one event, again and again for as long as it may take."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        headers = {**outgoing.headers, MSG_ID: outgoing.id}
        while True:
            try:
                await self._link.ready()
                accepted: Any = await self._link.unbroken(
                    self._broker.publish(
                        outgoing.body,
                        self._prefix + outgoing.name,
                        headers=headers,
                        stream=self._stream,
                        correlation_id=outgoing.id,
                        timeout=TRY,
                    )
                )
                return Receipt(id=str(accepted.seq))
            except PASSING as error:
                if loop.time() + PAUSE > until:
                    return to_driver_error(error)
                await asyncio.sleep(PAUSE)
            except Exception as error:  # noqa: BLE001 - the server's, or a middleware's own
                return to_driver_error(error)
