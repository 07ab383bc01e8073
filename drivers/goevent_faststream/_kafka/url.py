"""URLs of Kafka: the addresses of brokers, and the login."""

from __future__ import annotations

from typing import NamedTuple

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from goevent.drivers import TlsSettings, read_driver_url, read_tls

SASL_MECHANISMS = {
    "plain": SASLPlaintext,
    "scram-sha-256": SASLScram256,
    "scram-sha-512": SASLScram512,
}
DEFAULT_PORT = 9092


class KafkaUrl(NamedTuple):
    """The parts of a Kafka URL.

    Attributes:
        servers: The addresses of brokers, `host:port`.
        security: The login, and whether there is TLS.
        tls: The settings of TLS; None without TLS.
    """

    servers: list[str]
    security: BaseSecurity | None
    tls: TlsSettings | None


def read_kafka_url(url: str, *, context: bool) -> KafkaUrl:
    """Return the parts of a Kafka URL.

    Its form is `kafka+tls://[user:password@]host[:port][,host...][?sasl=plain&cafile=...]`. With
    the option `tls=1`, `kafka://` has the same meaning.

    Args:
        context: Whether the client takes an `SSLContext`.

    Raises:
        ValueError: The URL makes no sense. The text does not show the password.
    """
    parsed = read_driver_url(url)
    options = dict(parsed.options)
    secure = parsed.scheme.endswith("+tls")
    tls, mechanism = options.pop("tls", "1" if secure else "0"), options.pop("sasl", "plain")
    if tls not in ("0", "1") or (secure and tls == "0"):
        raise ValueError("the option tls of a Kafka URL is 0 or 1, and 1 with the scheme +tls")
    settings = read_tls(options, scheme=parsed.scheme, is_tls=tls == "1")
    if options:
        raise ValueError(f"a Kafka URL has no options {sorted(options)}")
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
    uses_tls = settings is not None
    ssl_context = settings.context() if settings is not None and context else None
    if parsed.user is not None or parsed.password is not None:
        security = SASL_MECHANISMS[mechanism]
        user, password = parsed.user or "", parsed.password or ""
        login = security(user, password, ssl_context, use_ssl=uses_tls)
        return KafkaUrl(servers, login, settings)
    return KafkaUrl(
        servers, BaseSecurity(ssl_context, use_ssl=True) if uses_tls else None, settings
    )
