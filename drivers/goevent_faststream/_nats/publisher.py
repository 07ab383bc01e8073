"""The publisher of JetStream: events go out in one batch, and one inbox gets all acknowledgements.

Theory of operation: FastStream's publish waits for each acknowledgement with a future, a timer and
a task of its own. This module writes a whole batch with the client instead. Each event carries its
own reply subject below one inbox, so one subscription reads all acknowledgements and finds the
event by the subject.

If the acknowledgement of an event does not come in time, FastStream publishes the event again, and
repeatedly until `publish_timeout`. The server may have stored it the first time. Each event carries
its id as `Nats-Msg-Id`, and JetStream drops the second event of an id. If the last attempt has no
answer either, the error says that the event may have arrived. A broker with middlewares always
publishes through FastStream, since its middlewares run there.

An event that the server refuses fails at once, and alone. The stream refuses it in its
acknowledgement, for instance because it is full. Missing rights come as an error line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from faststream.nats import NatsBroker
from nats import errors
from nats.js import api, errors as js_errors

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Receipt

from .._adapter.contract import Outgoing, Result, publish_each
from .._adapter.errors import may_have_arrived, no_answer
from .connection import NatsConnection, api_error, to_driver_error
from .stream import NatsStream

ACKNOWLEDGEMENT_SECONDS = 2.0  # for one attempt
RETRY_PAUSE_SECONDS = 0.1
TEMPORARY_ERRORS = (DriverConnectionError, TimeoutError)
MESSAGE_ID_HEADER = api.Header.MSG_ID.value
UNAVAILABLE_CODE = 10008  # JetStream is temporarily unavailable, for instance without a leader


class PublishAcknowledgement(msgspec.Struct):
    """The server's reply to a publish."""

    seq: int = 0
    error: dict[str, Any] | None = None


class PublishBatch:
    """Events that were sent together and wait for acknowledgements.

    Attributes:
        pending: The events without an acknowledgement, by their reply subjects.
        unavailable: The events that no server could store when they came.
        finished: Set when waiting any longer is pointless.
    """

    def __init__(self) -> None:
        self.pending: dict[str, Outgoing] = {}
        self.unavailable: list[Outgoing] = []
        self.finished = asyncio.Event()


class JetStreamPublisher:
    """Publishes events to one stream."""

    def __init__(
        self,
        broker: NatsBroker,
        connection: NatsConnection,
        stream: NatsStream,
        timeout: float,
    ) -> None:
        self._broker = broker
        self._connection = connection
        self._stream = stream
        self._prefix = stream.prefix
        self._timeout = timeout
        self._inbox = ""
        self._batches: dict[str, PublishBatch] = {}
        connection.refusals.on_event_refused = self._on_event_refused
        self._sequence = 0
        self._decode = msgspec.json.Decoder(PublishAcknowledgement).decode

    async def open(self) -> None:
        """Subscribe to the acknowledgements."""
        client = self._connection.client
        self._inbox = client.new_inbox()
        self._batches.clear()
        await client.subscribe(f"{self._inbox}.*", cb=self._on_acknowledgement)

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish events in order, and report the result of each."""
        deadline = self._connection.deadline()
        if self._broker.middlewares:
            await publish_each(burst, partial(self._publish_until_accepted, deadline=deadline))
            return
        batch = PublishBatch()
        unsent: list[Outgoing] = []
        for outgoing in burst:
            if not await self._send(outgoing, batch, deadline):
                unsent.append(outgoing)
        if batch.pending:
            now = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout_at(min(now + ACKNOWLEDGEMENT_SECONDS, deadline)):
                    await batch.finished.wait()
            except TimeoutError:
                # The events without an acknowledgement are published again below. The server
                # drops those that it has stored.
                pass
            for reply_subject in batch.pending:
                self._batches.pop(reply_subject, None)
        unsent += batch.unavailable
        uncertain = [*batch.pending.values()]
        if uncertain or unsent:
            # These may overtake events of later batches, because JetStream promises no order.
            again = {*uncertain}
            await publish_each(
                [*unsent, *uncertain],
                lambda outgoing: self._publish_until_accepted(
                    outgoing, deadline=deadline, was_sent=outgoing in again
                ),
            )

    async def _send(self, outgoing: Outgoing, batch: PublishBatch, deadline: float) -> bool:
        """Send an event without awaiting its acknowledgement; return False if it was not sent.

        An event that is too large fails here, and needs no other attempt.
        """
        connection = self._connection
        if not connection.is_up:
            return False
        headers = {**outgoing.headers, MESSAGE_ID_HEADER: outgoing.id}
        size_error = connection.size_error(
            outgoing.name, outgoing.body, headers, self._stream.max_message_bytes
        )
        if size_error is not None:
            outgoing.done(size_error)
            return True
        self._sequence += 1
        reply_subject = f"{self._inbox}.{self._sequence}"
        # Before the send: the acknowledgement may arrive while `publish` awaits.
        batch.pending[reply_subject] = outgoing
        self._batches[reply_subject] = batch
        try:
            publishing = connection.client.publish(
                self._prefix + outgoing.name,
                outgoing.body,
                reply=reply_subject,
                headers=headers,
            )
            if not connection.would_wait(len(outgoing.body)):
                await publishing
                return True
            if await connection.send_in_time(publishing, deadline):
                return True
        except (errors.Error, OSError):
            pass
        self._batches.pop(reply_subject, None)
        # Without a refusal that came meanwhile.
        return batch.pending.pop(reply_subject, None) is None

    async def _on_acknowledgement(self, message: Any) -> None:
        batch = self._batches.pop(message.subject, None)
        if batch is None:
            return
        try:
            acknowledgement = self._decode(message.data)
        except msgspec.DecodeError:
            # A status message without a body: no server answers for JetStream, which may be
            # starting up.
            acknowledgement = None
        error = None if acknowledgement is None else acknowledgement.error
        if acknowledgement is None or (error and error.get("err_code") == UNAVAILABLE_CODE):
            batch.unavailable.append(batch.pending.pop(message.subject))
            batch.finished.set()
            return
        self._finish(
            batch,
            message.subject,
            Receipt(id=str(acknowledgement.seq)) if error is None else api_error(error),
        )

    def _on_event_refused(self, subject: str, error: DriverError) -> bool:
        """Give a refusal to the first event of its subject; the server refuses them in order."""
        for reply_subject, batch in self._batches.items():
            outgoing = batch.pending[reply_subject]
            if subject in (self._prefix + outgoing.name, reply_subject):
                del self._batches[reply_subject]
                self._finish(batch, reply_subject, error)
                return True
        return False

    def _finish(self, batch: PublishBatch, reply_subject: str, result: Result) -> None:
        batch.pending.pop(reply_subject).done(result)
        if not batch.pending:
            batch.finished.set()

    def connection_lost(self) -> None:
        """Stop waiting for acknowledgements: they were lost with the connection."""
        for batch in [*self._batches.values()]:
            batch.finished.set()

    async def _publish_until_accepted(
        self, outgoing: Outgoing, *, deadline: float, was_sent: bool = False
    ) -> Result:
        """Publish one event, repeatedly until the server accepts it or the time is up.

        Args:
            deadline: The end of the time, on the loop's clock.
            was_sent: The event was sent before, and the server has not answered.
        """
        loop = asyncio.get_running_loop()
        headers = {**outgoing.headers, MESSAGE_ID_HEADER: outgoing.id}
        while True:
            was_sent_before = was_sent
            try:
                await self._connection.wait_until_up(deadline)
                size_error = self._connection.size_error(
                    outgoing.name, outgoing.body, headers, self._stream.max_message_bytes
                )
                if size_error is not None:
                    return size_error
                seconds = min(ACKNOWLEDGEMENT_SECONDS, deadline - loop.time())
                if seconds <= 0:
                    raise no_answer("NATS", self._timeout)
                publishing = self._broker.publish(
                    outgoing.body,
                    self._prefix + outgoing.name,
                    headers=headers,
                    stream=self._stream.name,
                    correlation_id=outgoing.id,
                    timeout=seconds,
                )
                was_sent = True
                # The client itself may wait for a server that takes no more bytes.
                async with asyncio.timeout_at(deadline):
                    accepted: Any = await self._connection.run_while_connected(publishing)
                return Receipt(id=str(accepted.seq))
            except js_errors.NoStreamResponseError as error:
                # It is an answer: the event was not stored.
                was_sent = was_sent_before
                if (failure := await self._no_stream(outgoing, error, deadline)) is not None:
                    return self._uncertain(failure) if was_sent else failure
            except TEMPORARY_ERRORS as error:
                if loop.time() + RETRY_PAUSE_SECONDS > deadline:
                    failure = to_driver_error(
                        no_answer("NATS", self._timeout)
                        if isinstance(error, TimeoutError)
                        else error
                    )
                    return self._uncertain(failure) if was_sent else failure
                await asyncio.sleep(RETRY_PAUSE_SECONDS)
            except Exception as error:  # noqa: BLE001 - the server's, or a middleware's own
                return to_driver_error(error)

    def _uncertain(self, failure: DriverError) -> DriverError:
        """Return the failure of an event that was sent and not answered."""
        if isinstance(failure, DriverConnectionError):
            return may_have_arrived(failure)
        return failure

    async def _no_stream(
        self, outgoing: Outgoing, error: Exception, deadline: float
    ) -> DriverError | None:
        """Create the stream if nobody stores an event; return a failure that is final."""
        loop = asyncio.get_running_loop()
        failure = to_driver_error(error)
        try:
            async with asyncio.timeout_at(deadline):
                await self._stream.ensure()
            self._stream.refuse_subject(self._prefix + outgoing.name)
        except TimeoutError:
            return failure
        except DriverConnectionError as unavailable:
            failure = unavailable
        except DriverError as refusal:
            return refusal
        # A server that is starting answers that there is no stream, too.
        if loop.time() + RETRY_PAUSE_SECONDS > deadline:
            return failure
        await asyncio.sleep(RETRY_PAUSE_SECONDS)
        return None
