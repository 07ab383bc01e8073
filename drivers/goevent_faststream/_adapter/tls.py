"""TLS of the clients on asyncio: the failures that a client does not tell."""

from __future__ import annotations

import asyncio
import ssl

PROBE_SECONDS = 1.0


async def probe_tls(host: str, port: int, context: ssl.SSLContext) -> ssl.SSLError | None:
    """Connect once more to find out whether TLS is why a client could not; None if it is not.

    Some clients do not tell. With TLS 1.3 a server refuses the client's certificate only when the
    handshake is over for the client, so this waits a moment for the server's alert.
    """
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                await reader.read(1)
            finally:
                writer.close()
    except ssl.SSLError as error:
        return error
    except (OSError, TimeoutError):
        pass
    return None
