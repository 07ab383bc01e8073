"""URLs of Kafka: which brokers, and who we are to them."""

from __future__ import annotations

import ssl
from urllib.parse import parse_qsl, unquote

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

MECHANISMS = {
    "plain": SASLPlaintext,
    "scram-sha-256": SASLScram256,
    "scram-sha-512": SASLScram512,
}
PORT = 9092


def read_kafka_url(url: str, *, context: bool) -> tuple[list[str], BaseSecurity | None]:
    """Return the addresses in `kafka://[user:password@]host[:port][,host...][?tls=1&sasl=plain]`.

    Args:
        context: the client wants an `SSLContext`.

    Raises:
        ValueError: it makes no sense; does not show the password.
    """
    head, _, query = url.partition("://")[2].partition("?")
    login, at, places = head.rpartition("@")
    options = dict(parse_qsl(query, keep_blank_values=True))
    tls, mechanism = options.pop("tls", "0"), options.pop("sasl", "plain")
    if options:
        raise ValueError(f"a Kafka URL has no options {sorted(options)}")
    if tls not in ("0", "1"):
        raise ValueError("the option tls of a Kafka URL is 0 or 1")
    if mechanism not in MECHANISMS:
        raise ValueError(f"the option sasl of a Kafka URL is one of {sorted(MECHANISMS)}")
    servers: list[str] = []
    for place in places.rstrip("/").split(","):
        host, colon, port = place.rpartition(":")
        if not colon or port.endswith("]"):
            host, port = place, str(PORT)
        if not host or "/" in place or not port.isdigit():
            raise ValueError("a Kafka URL has the places host:port,host:port")
        servers.append(f"{host}:{port}")
    uses = tls == "1"
    ssl_context = ssl.create_default_context() if uses and context else None
    if at:
        user, _, password = login.partition(":")
        kind = MECHANISMS[mechanism]
        return servers, kind(unquote(user), unquote(password), ssl_context, use_ssl=uses)
    return servers, BaseSecurity(ssl_context, use_ssl=True) if uses else None
