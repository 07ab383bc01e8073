"""The client of nats-py, as the bus connects it: with TLS if it was asked for, or not at all.

`NatsConnection` makes one for each opening of a bus. The client of nats-py uses TLS only if the
server demands it. Otherwise it sends the password in clear, although it was given a TLS context.
And while it tries to connect for the first time it keeps the reasons of its failures to itself.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from nats import errors
from nats.aio.client import Client

from goevent.drivers import NO_TLS


class NoTlsOfferedError(errors.Error):
    """The server offers no TLS, and the bus must not send its login without."""


TLS_ERRORS = (ssl.SSLError, NoTlsOfferedError)


class SecureClient(Client):
    """A client that gives up its first attempt to connect if TLS fails with each server.

    Args:
        demands_tls: Whether to refuse a connection without TLS.
    """

    def __init__(self, *, demands_tls: bool) -> None:
        super().__init__()
        self._demands_tls = demands_tls

    async def connect_first(self, **options: Any) -> None:
        """Connect as `connect` does.

        Raises:
            ssl.SSLError: The handshake has failed. After other errors the client tries again.
            NoTlsOfferedError: The server offers no TLS.
        """
        on_error: Callable[[Exception], Awaitable[None]] = options["error_cb"]
        is_connecting, failures = True, 0

        async def end_or_go_on(error: Exception) -> None:
            nonlocal failures
            await on_error(error)
            if is_connecting and isinstance(error, TLS_ERRORS):
                failures += 1
                if failures >= len(self._server_pool):
                    raise error

        connect: Any = self.connect
        try:
            await connect(**{**options, "error_cb": end_or_go_on})
        except BaseException:
            transport: Any = self._transport
            if transport is not None:
                transport.close()
            raise
        is_connecting = False

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # The client reads `tls_required` from this dict when this method has returned, and sends
        # the login only after that.
        if initial_connection and self._demands_tls and not info.get("tls_required"):
            if not (info.get("tls_available") or self.options["tls_handshake_first"]):
                raise NoTlsOfferedError(f"TLS fails: {NO_TLS}")
            info["tls_required"] = not self.options["tls_handshake_first"]
        await super()._process_info(info, initial_connection)
