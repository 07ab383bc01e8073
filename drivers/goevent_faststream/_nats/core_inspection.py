"""The inspection of core NATS: what endangers its promises, and the events that pass.

A tail is a plain subscription of its own, never a queue group, so that it
takes no event from anybody. Core NATS stores nothing: there is no backlog to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from nats import errors

from goevent import DriverError, compile_pattern
from goevent.drivers import Finding, TailedEvent

from .._adapter.contract import ShowEvent
from .._adapter.tail_buffer import TailBuffer
from .connection import NatsConnection, to_driver_error
from .rights import read_rights
from .subjects import covering_subject

# The server's own default. goevent's codec takes events up to this size, too.
USUAL_MAX_PAYLOAD_BYTES = 1 << 20


class CoreInspection:
    """The questions about one server of core NATS.

    Args:
        prefix: The beginning of subjects.
    """

    def __init__(self, connection: NatsConnection, prefix: str) -> None:
        self._connection = connection
        self._prefix = prefix

    async def tail(self, pattern: str, show: ShowEvent, started: Callable[[], None]) -> None:
        """Show events by a plain subscription, until cancelled; a slow reader misses some.

        The client renews the subscription on each new connection.

        Raises:
            DriverError: The server refuses the subscription.
        """
        matches = compile_pattern(pattern)
        buffer = TailBuffer()

        async def on_message(message: Any) -> None:
            name = message.subject.removeprefix(self._prefix)
            if matches(name):
                buffer.add(
                    TailedEvent(event_name=name, data=message.data, headers=message.headers or {})
                )

        subject = self._prefix + covering_subject(pattern)
        await self._connection.wait_until_up()
        try:
            refused: list[DriverError] = []
            with ExitStack() as waits:
                # The server does not name a subject if the user has too many subscriptions.
                for each in ("", subject):
                    waits.enter_context(self._connection.refusals.waiting(each, refused.append))
                # The connection bounds the bytes of all subscriptions together.
                subscription = await self._connection.client.subscribe(
                    subject, cb=on_message, pending_bytes_limit=0
                )
                try:
                    await self._connection.flush()
                    if refused:
                        raise refused[0]
                    started()
                    await buffer.show_all(show)
                finally:
                    # Without a connection, the client forgets it before the next one.
                    with suppress(errors.Error, OSError):
                        await subscription.unsubscribe()
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error

    async def check(self, names: Sequence[str]) -> list[Finding]:
        """Look for a small limit of messages, and for missing rights on the events' subjects.

        Raises:
            DriverConnectionError: There is no connection.
        """
        await self._connection.wait_until_up()
        return [*check_max_payload(self._connection), *await self._check_rights(names)]

    async def _check_rights(self, names: Sequence[str]) -> list[Finding]:
        findings: list[Finding] = []
        rights = await read_rights(self._connection)
        for name in names:
            subject = self._prefix + name
            if rights is not None and "*" not in name and not rights.publish.allows(subject):
                text = f"NATS: the user may not publish to the subject {subject!r}"
                findings.append(Finding(severity="error", text=text))
            refusal = await _subscription_refusal(
                self._connection, self._prefix + covering_subject(name)
            )
            if refusal is not None:
                findings.append(Finding(severity="error", text=str(refusal)))
        return findings


def check_max_payload(connection: NatsConnection) -> list[Finding]:
    """Tell that the server takes only small messages, if it does."""
    limit: int = connection.client.max_payload
    if limit >= USUAL_MAX_PAYLOAD_BYTES:
        return []
    text = f"NATS: the server refuses events above {limit} bytes; raise its max_payload"
    return [Finding(severity="warning", text=text)]


async def _subscription_refusal(connection: NatsConnection, subject: str) -> DriverError | None:
    """Return the server's refusal of a subscription, which ends at once; None if it is allowed."""

    async def ignore(_: Any) -> None:
        """Ignore a message: the subscription is only a question."""

    refused: list[DriverError] = []
    try:
        with connection.refusals.waiting(subject, refused.append):
            subscription = await connection.client.subscribe(subject, cb=ignore)
            try:
                await connection.flush()
            finally:
                await subscription.unsubscribe()
    except (errors.Error, OSError) as error:
        raise to_driver_error(error) from error
    return refused[0] if refused else None
