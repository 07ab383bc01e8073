"""The inspection of a stream of JetStream: the backlog of any group, tails, dangerous settings.

It reads the consumers and the settings of the stream, and changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from nats import errors
from nats.js import api

from goevent import DriverError
from goevent.drivers import Backlog, Finding

from .._adapter.contract import ShowEvent
from .connection import NatsConnection
from .core_inspection import check_max_payload
from .rights import read_rights
from .stream import CONSUMERS_PER_PAGE, NatsStream, stream_error
from .stream_tail import JetStreamTail
from .subjects import consumer_name

T = TypeVar("T")

# Of an account or a stream, above which it will soon refuse or drop events.
NEARLY_FULL = 0.9


class StreamInspection:
    """The questions about one stream.

    Args:
        publish_timeout: For how long a publish is tried, in seconds.
    """

    def __init__(
        self, connection: NatsConnection, stream: NatsStream, publish_timeout: float
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._publish_timeout = publish_timeout

    @property
    def _js(self) -> Any:
        return self._connection.jetstream

    # -- the events that pass

    async def tail(self, pattern: str, show: ShowEvent, started: Callable[[], None]) -> None:
        """Show events by a consumer of no group, until cancelled.

        Raises:
            DriverError: The server refuses it.
        """
        stream = self._stream
        await JetStreamTail(
            self._connection, stream.name, stream.prefix, pattern, show, started
        ).run()

    # -- the backlog of a group

    async def lag(self, group: str, names: Sequence[str] = ()) -> list[Backlog]:
        """Return the backlog of a group for each event name that it has a consumer for.

        Raises:
            DriverError: The server does not answer, or refuses the requests.
        """
        await self._connection.wait_until_up()
        backlogs: list[Backlog] = []
        offset = 0
        while True:
            page = await self._asked(self._js.consumers_info(self._stream.name, offset=offset))
            for info in page:
                name = self._event_name(group, info)
                if name is not None:
                    backlogs.append(await self._backlog(name, info))
            offset += len(page)
            if len(page) < CONSUMERS_PER_PAGE:
                return backlogs

    def _event_name(self, group: str, info: Any) -> str | None:
        """Return the event name of a consumer; None if it is not one of the group."""
        subject = info.config.filter_subject or ""
        name = subject.removeprefix(self._stream.prefix)
        return name if name and consumer_name(group, name) == info.name else None

    async def _backlog(self, name: str, info: Any) -> Backlog:
        waiting, pending = info.num_pending or 0, info.num_ack_pending or 0
        delivered = info.delivered.stream_seq if info.delivered else 0
        settled = info.ack_floor.stream_seq if info.ack_floor else 0
        subject = info.config.filter_subject
        oldest_pending = await self._stored(settled, subject) if pending else None
        oldest_waiting = await self._stored(delivered, subject) if waiting else None
        now = datetime.now(UTC)
        return Backlog(
            event_name=name,
            lag=waiting,
            pending=pending,
            oldest_pending=_age(oldest_pending, now) or 0.0,
            oldest_waiting=_age(oldest_waiting, now) if waiting else 0.0,
        )

    async def _stored(self, behind: int, subject: str) -> datetime | None:
        """Return when the first event of a subject behind a position came; None if unknown."""
        request = self._js.get_msg(self._stream.name, seq=behind + 1, subject=subject, next=True)
        try:
            stored = await self._connection.run_while_connected(request)
        except (errors.Error, DriverError, OSError):
            # The event may just have gone, and the user may not read single messages. The counts
            # are there all the same.
            return None
        time: datetime | None = stored.time
        return time

    async def _asked(self, request: Coroutine[Any, Any, T]) -> T:
        try:
            return await self._connection.run_while_connected(request)
        except (errors.Error, OSError) as error:
            raise stream_error(error, self._stream.name) from error

    # -- settings and rights

    async def check(self, names: Sequence[str]) -> list[Finding]:
        """Look for settings of the stream that lose events, and for missing rights.

        Raises:
            DriverError: The server does not answer, or refuses the request.
        """
        await self._connection.wait_until_up()
        info = await self._asked(self._js.stream_info(self._stream.name))
        findings = [*check_max_payload(self._connection), *self._check_subjects(names)]
        findings += self._check_storage(info) + self._check_limits(info)
        findings += await self._check_dead_letters()
        findings += await self._check_account()
        return findings + await self._check_rights(names)

    def _check_subjects(self, names: Sequence[str]) -> list[Finding]:
        findings: list[Finding] = []
        for name in names:
            if "*" not in name:
                try:
                    self._stream.refuse_unstored(self._stream.prefix + name)
                except DriverError as error:
                    findings.append(Finding(severity="error", text=str(error)))
        return findings

    def _check_storage(self, info: Any) -> list[Finding]:
        config, server = info.config, self._connection.client._server_info
        findings: list[Finding] = []
        if config.storage == api.StorageType.MEMORY:
            findings.append(
                self._warning("storage is memory: a restart of the server loses events")
            )
        if getattr(config, "persist_mode", None) == "async":
            findings.append(
                self._warning("persist_mode is async: events are confirmed before they are stored")
            )
        if config.num_replicas == 1 and server.get("cluster"):
            findings.append(
                self._warning("num_replicas is 1 in a cluster: the loss of a server loses events")
            )
        if config.no_ack:
            findings.append(self._error("no_ack is set: the server confirms no event"))
        if config.sealed:
            findings.append(self._error("it is sealed: it takes no events"))
        if (config.duplicate_window or 0.0) < self._publish_timeout:
            findings.append(
                self._warning(
                    f"duplicate_window is {config.duplicate_window or 0:g} s: an event that is "
                    f"published again within {self._publish_timeout:g} s (publish_timeout) may be "
                    "stored twice"
                )
            )
        return findings

    def _check_limits(self, info: Any) -> list[Finding]:
        config, findings = info.config, list[Finding]()
        if config.retention == api.RetentionPolicy.WORK_QUEUE:
            findings.append(
                self._warning("retention is workqueue: only one group can have an event name")
            )
        elif config.retention == api.RetentionPolicy.INTEREST:
            findings.append(
                self._warning("retention is interest: events that no group waits for are lost")
            )
        if config.max_age:
            findings.append(
                self._warning(
                    f"max_age is {config.max_age:g} s: older events are deleted, even if a group "
                    "has not had them"
                )
            )
        limits = {
            "max_msgs": (config.max_msgs, info.state.messages),
            "max_bytes": (config.max_bytes, info.state.bytes),
        }
        for setting, (limit, used) in limits.items():
            if limit is None or limit <= 0:
                continue
            if config.discard != api.DiscardPolicy.NEW:
                findings.append(
                    self._warning(
                        f"{setting} is {limit} and discard is old: a full stream deletes the "
                        "oldest events, even if a group has not had them; set discard to new"
                    )
                )
            elif used >= NEARLY_FULL * limit:
                findings.append(
                    self._warning(f"it holds {used} of {setting}={limit}, and then refuses events")
                )
        per_subject = config.max_msgs_per_subject
        if per_subject is not None and per_subject > 0:
            findings.append(
                self._warning(
                    f"max_msgs_per_subject is {per_subject}: an event name keeps only its last "
                    "events, even if a group has not had the others"
                )
            )
        return findings

    async def _check_dead_letters(self) -> list[Finding]:
        name = f"{self._stream.name}-dead"
        try:
            info = await self._connection.run_while_connected(self._js.stream_info(name))
        except (errors.Error, OSError, DriverError):
            # It is created with the first dead letter.
            return []
        if info.config.storage != api.StorageType.MEMORY:
            return []
        text = f"NATS: the stream {name!r} is in memory: a restart of the server loses dead letters"
        return [Finding(severity="warning", text=text)]

    async def _check_account(self) -> list[Finding]:
        try:
            account = await self._connection.run_while_connected(self._js.account_info())
        except (errors.Error, OSError, DriverError):
            # The user may not ask for it.
            return []
        used, limit = account.storage, account.limits.max_storage
        if not limit or limit < 0 or used < NEARLY_FULL * limit:
            return []
        text = f"NATS: the account uses {used} of {limit} bytes of storage, and then refuses events"
        return [Finding(severity="warning", text=text)]

    async def _check_rights(self, names: Sequence[str]) -> list[Finding]:
        rights = await read_rights(self._connection)
        if rights is None:
            return []
        stream, api_prefix = self._stream.name, self._js._prefix
        # With a name of a consumer in place of those of the group.
        subjects = {
            f"{api_prefix}.STREAM.INFO.{stream}": "read the stream",
            f"{api_prefix}.CONSUMER.INFO.{stream}.any": "read a consumer",
            f"{api_prefix}.CONSUMER.MSG.NEXT.{stream}.any": "receive events",
            f"$JS.ACK.{stream}.any.1.1.1.1.1": "acknowledge events",
            **{
                self._stream.prefix + name: f"publish the event {name!r}"
                for name in names
                if "*" not in name
            },
        }
        return [
            Finding(
                severity="error",
                text=f"NATS: the user may not publish to {subject!r}, which is needed to {purpose}",
            )
            for subject, purpose in subjects.items()
            if not rights.publish.allows(subject)
        ]

    def _warning(self, text: str) -> Finding:
        return Finding(severity="warning", text=f"NATS: the stream {self._stream.name!r}: {text}")

    def _error(self, text: str) -> Finding:
        return Finding(severity="error", text=f"NATS: the stream {self._stream.name!r}: {text}")


def _age(time: datetime | None, now: datetime) -> float | None:
    # The broker's clock may be ahead of ours.
    return None if time is None else max(0.0, (now - time).total_seconds())
