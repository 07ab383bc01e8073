"""URLs of Kafka: the addresses of brokers, and the login."""

from __future__ import annotations

import ssl

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from goevent.drivers import read_driver_url

SASL_MECHANISMS = {
    "plain": SASLPlaintext,
    "scram-sha-256": SASLScram256,
    "scram-sha-512": SASLScram512,
}
DEFAULT_PORT = 9092


def read_kafka_url(url: str, *, context: bool) -> tuple[list[str], BaseSecurity | None]:
    """Return the addresses and the security of a Kafka URL.

    Its form is `kafka://[user:password@]host[:port][,host...][?tls=1&sasl=plain]`.

    Args:
        context: Whether the client takes an `SSLContext`.

    Raises:
        ValueError: The URL makes no sense. The text does not show the password.
    """
    parsed = read_driver_url(url)
    options = dict(parsed.options)
    tls, mechanism = options.pop("tls", "0"), options.pop("sasl", "plain")
    if options:
        raise ValueError(f"a Kafka URL has no options {sorted(options)}")
    if tls not in ("0", "1"):
        raise ValueError("the option tls of a Kafka URL is 0 or 1")
    if mechanism not in SASL_MECHANISMS:
        raise ValueError(f"the option sasl of a Kafka URL is one of {sorted(SASL_MECHANISMS)}")
    servers: list[str] = []
    for address in parsed.address.split(","):
        host, colon, port = address.rpartition(":")
        # The colons of an IPv6 address stand in brackets.
        if not colon or port.endswith("]"):
            host, port = address, str(DEFAULT_PORT)
        if not host or not port or parsed.path.strip("/"):
            raise ValueError("a Kafka URL has the addresses host:port,host:port")
        servers.append(f"{host}:{port}")
    uses_tls = tls == "1"
    ssl_context = ssl.create_default_context() if uses_tls and context else None
    if parsed.user is not None or parsed.password is not None:
        security = SASL_MECHANISMS[mechanism]
        user, password = parsed.user or "", parsed.password or ""
        return servers, security(user, password, ssl_context, use_ssl=uses_tls)
    return servers, BaseSecurity(ssl_context, use_ssl=True) if uses_tls else None
