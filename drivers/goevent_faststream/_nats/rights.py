"""The rights of a user of NATS, as the server tells them.

Since version 2.10 a server tells a user its own permissions, without a change of anything. An older
server does not answer, and then only a request itself shows whether it is allowed.
"""

from __future__ import annotations

import msgspec
from nats import errors

from goevent import DriverError

from .connection import NatsConnection
from .subjects import subject_matches

USER_INFO_SUBJECT = "$SYS.REQ.USER.INFO"
USER_INFO_SECONDS = 2.0


class SubjectRights(msgspec.Struct):
    """The subjects that are allowed or denied for one direction; none allowed means all."""

    allow: list[str] | None = None
    deny: list[str] | None = None

    def allows(self, subject: str) -> bool:
        """Tell whether the user may use a subject, which has no wildcards."""
        allowed, denied = self.allow or (), self.deny or ()
        # A permission may name a queue group behind a blank.
        if allowed and not any(subject_matches(each.split(" ")[0], subject) for each in allowed):
            return False
        return not any(" " not in each and subject_matches(each, subject) for each in denied)


class UserRights(msgspec.Struct):
    """The permissions of the user."""

    publish: SubjectRights = msgspec.field(default_factory=SubjectRights)
    subscribe: SubjectRights = msgspec.field(default_factory=SubjectRights)


class _UserInfo(msgspec.Struct):
    permissions: UserRights | None = None


class _UserInfoReply(msgspec.Struct):
    data: _UserInfo = msgspec.field(default_factory=_UserInfo)


async def read_rights(connection: NatsConnection) -> UserRights | None:
    """Return the rights of the user; None if the server does not tell.

    Raises:
        DriverConnectionError: The connection was lost.
    """
    try:
        reply = await connection.run_while_connected(
            connection.client.request(USER_INFO_SUBJECT, b"", timeout=USER_INFO_SECONDS)
        )
        info = msgspec.json.decode(reply.data, type=_UserInfoReply)
    except (errors.Error, DriverError, OSError, msgspec.MsgspecError):
        # An old server has no such request, and a user may lack the right to ask.
        return None
    return info.data.permissions or UserRights()
