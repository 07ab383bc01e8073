"""TLS in front of a server that has none, with certificates of the tests' own authority."""

from __future__ import annotations

import ssl
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trustme

from tests.support.redis_server import free_port

ALERT_SECONDS = 1.0
LONG_AGO = datetime.now(UTC) - timedelta(days=30)


class Certificates:
    """The files of an authority, of its servers and of its client.

    Attributes:
        cafile: The certificate of the authority.
        other_cafile: That of an authority that has signed nothing here.
        server: Two files, a certificate for 127.0.0.1 and its key.
        other_host: A certificate for another host.
        expired: A certificate for 127.0.0.1 that has expired.
        client: The certificate of a client.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority: Any = trustme.CA()
        self.cafile = self._path("authority")
        self._authority.cert_pem.write_to_path(self.cafile)
        self.other_cafile = self._path("other-authority")
        other: Any = trustme.CA()
        other.cert_pem.write_to_path(self.other_cafile)
        self.server = self._issue("server", "127.0.0.1", "localhost")
        self.other_host = self._issue("other-host", "other.example")
        self.expired = self._issue("expired", "127.0.0.1", not_after=LONG_AGO)
        self.client = self._issue("client", "client@example.org")

    def _path(self, name: str) -> str:
        return str(self._directory / f"{name}.pem")

    def _issue(self, name: str, *identities: str, **dates: datetime) -> tuple[str, str]:
        issued = self._authority.issue_cert(*identities, **dates)
        certificate, key = self._path(name), self._path(f"{name}-key")
        for blob in issued.cert_chain_pems:
            blob.write_to_path(certificate, append=True)
        issued.private_key_pem.write_to_path(key)
        return certificate, key

    def context(self, files: tuple[str, str], *, demands_client: bool) -> ssl.SSLContext:
        """Return the context of a server."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.cafile)
        context.load_cert_chain(*files)
        if demands_client:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@asynccontextmanager
async def tls_proxy(
    port: int, context: ssl.SSLContext, *, rewrites: Callable[[int, bytes], bytes] | None = None
) -> AsyncGenerator[int]:
    """Yield a port with TLS that leads to a port of this machine without.

    Args:
        rewrites: Changes a complete answer of Kafka; its first argument is the port that is
            yielded.
    """
    own_port = free_port()

    async def handle(stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            try:
                await secure.do_handshake()
            except trio.BrokenResourceError:
                await send_alert(secure, stream)
            else:
                async with await trio.open_tcp_stream("127.0.0.1", port) as inner:
                    rewrite = None if rewrites is None else partial(rewrites, own_port)
                    await connect(secure, inner, rewrite)
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_tcp, handle, own_port, host="127.0.0.1"))
        yield own_port
        nursery.cancel_scope.cancel()


async def send_alert(secure: trio.SSLStream[Any], stream: trio.SocketStream) -> None:
    """Send the alert of a failed handshake, which Trio keeps to itself."""
    await stream.send_all(secure._outgoing.read())  # pyright: ignore[reportPrivateUsage]
    await stream.send_eof()
    # To close with unread bytes would reset the connection, and the alert with it.
    with trio.move_on_after(ALERT_SECONDS):
        while await stream.receive_some(1000):
            pass


async def connect(
    outer: trio.abc.Stream, inner: trio.abc.Stream, rewrite: Callable[[bytes], bytes] | None
) -> None:
    """Carry bytes between two streams until one of them ends."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump, outer, inner, nursery.cancel_scope)
        if rewrite is None:
            await pump(inner, outer, nursery.cancel_scope)
        else:
            await pump_frames(inner, outer, rewrite)
            nursery.cancel_scope.cancel()


async def pump(
    source: trio.abc.ReceiveStream, target: trio.abc.SendStream, scope: trio.CancelScope
) -> None:
    """Carry bytes until either side ends; then end the other direction, too."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await source.receive_some(65_536):
            await target.send_all(data)
    scope.cancel()


async def pump_frames(
    source: trio.abc.ReceiveStream, target: trio.abc.SendStream, rewrite: Callable[[bytes], bytes]
) -> None:
    """Carry the answers of Kafka, each as a whole."""
    buffered = bytearray()
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await source.receive_some(65_536):
            buffered += data
            while len(buffered) >= 4:
                (size,) = struct.unpack(">i", buffered[:4])
                if len(buffered) < 4 + size:
                    break
                await target.send_all(rewrite(bytes(buffered[: 4 + size])))
                del buffered[: 4 + size]


def advertised(inner_port: int) -> Callable[[int, bytes], bytes]:
    """Return the rewrite that replaces the port at which a Kafka broker says to be found."""

    def rewrite(own_port: int, answer: bytes) -> bytes:
        return answer.replace(
            b"127.0.0.1" + struct.pack(">i", inner_port), b"127.0.0.1" + struct.pack(">i", own_port)
        )

    return rewrite
