"""The configuration of the connections: the server's address, the login, and the limits.

Both drivers, the link and the pool read it. The values of a URL and of the fields are merged here,
and every value is checked when the configuration is made.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from redis import connection as redis_connection

KIB, MIB = 1 << 10, 1 << 20

URL_OPTIONS = (
    "client_name",
    "db",
    "password",
    "prefetch_bytes",
    "prefix",
    "ssl_ca_certs",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
    "username",
)
"""The options of a URL; `prefix` is the field `channel_prefix`."""

_TEXT_OPTIONS = ("client_name", "password", "prefix", "username")

parse_url = cast("Callable[[str], dict[str, Any]]", getattr(redis_connection, "parse_url"))  # noqa: B009


class _DefaultText(str):
    """A default text, which differs from the same text given by the caller."""

    __slots__ = ()


class _DefaultNumber(int):
    """A default number, which differs from the same number given by the caller."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class RedisConfig:
    """The server's address, the login, and the limits of the connections.

    The fields are those of the Go library's `RedisConfig`, with its defaults, and a few more. The
    address is given either by `url` or by the fields; both may be given if they agree. Afterwards
    the fields have the values of the URL. `repr` does not show passwords. Times are in seconds, and
    `math.inf` means no limit. Sizes are in bytes.

    Example:
        >>> RedisConfig(url="redis://cache.example:6380/2").addr
        'cache.example:6380'

    Attributes:
        addr: `host:port`; an IPv6 host is written in square brackets.
        password: The password of `username`, or of the server's default user.
        db: The number of the database; pub/sub does not know databases.
        channel_prefix: Precedes the event name in the name of each channel.
        max_event_size: The largest event on the wire, in both directions.
        pool_size: The number of connections that the pool may have beside the shared one.
        min_idle_conns: The number of those that are opened in advance.
        dial_timeout: The limit until a connection is ready: TCP, TLS and login together.
        read_timeout: The limit until the server replies to a request.
        write_timeout: The limit until the server accepts a piece of the data that is written.
        tls: True verifies the server by the system's authorities and by its host name; an
            `ssl.SSLContext` is used as it is. A `rediss://` URL implies True.
        username: The user of the server's access control list.
        url: `redis://`, `rediss://` or `unix://`, as the redis package reads it. Of its options
            `db`, `client_name`, `username`, `password`, `ssl_ca_certs`, `ssl_certfile`,
            `ssl_keyfile`, `ssl_cert_reqs`, `ssl_check_hostname` and `prefetch_bytes` are known. The
            option `prefix` is `channel_prefix`.
        path: The path of the server's unix socket, instead of `addr`.
        client_name: The name that `CLIENT LIST` shows for the connections.
        max_reply_size: The largest reply; the connection to a server that sends a larger one is
            closed.
        prefetch_bytes: The size of the messages that wait for slow listeners, roughly; pub/sub
            drops further ones and reports them. The message that reaches the limit is still taken,
            so one of any size passes. Streams have the field of their own config.

    Raises:
        ValueError: A field is out of its range, or the URL and a field contradict each other.
    """

    addr: str = _DefaultText("localhost:6379")
    password: str | None = field(default=None, repr=False)
    db: int = _DefaultNumber(0)
    channel_prefix: str = _DefaultText("goevent:")
    max_event_size: int = MIB
    pool_size: int = 10
    min_idle_conns: int = 0
    dial_timeout: float = 5.0
    read_timeout: float = 3.0
    write_timeout: float = 3.0
    tls: ssl.SSLContext | bool | None = None
    username: str | None = None
    url: str | None = field(default=None, repr=False)
    path: str | None = None
    client_name: str | None = None
    max_reply_size: int = 64 * MIB
    prefetch_bytes: int = _DefaultNumber(32 * MIB)

    def __post_init__(self) -> None:
        if self.url is not None:
            self._merge(_read_url(self.url))
        if self.path is None:
            self.host_and_port()
        elif self.tls:
            raise ValueError("tls does not go with a unix socket")
        elif not isinstance(self.addr, _DefaultText):
            raise ValueError("addr and path contradict each other")
        _check_text("path", self.path)
        _check_text("channel_prefix", self.channel_prefix)
        _check_text("username", self.username)
        if self.password is not None:
            if not isinstance(self.password, str):
                raise ValueError("password must be a str")
            _check_unicode("password", self.password)
        name = self.client_name
        if name is not None and not all("!" <= character <= "~" for character in name):
            raise ValueError(f"client_name must be printable ASCII without spaces: {name!r}")
        if self.tls is not None and not isinstance(self.tls, (ssl.SSLContext, bool)):
            raise ValueError("tls must be an ssl.SSLContext, True or None")
        _check_whole("db", self.db, 0)
        _check_whole("max_event_size", self.max_event_size, 1)
        _check_whole("pool_size", self.pool_size, 1)
        _check_whole("min_idle_conns", self.min_idle_conns, 0)
        _check_whole("max_reply_size", self.max_reply_size, 1)
        _check_whole("prefetch_bytes", self.prefetch_bytes, 1)
        if self.min_idle_conns > self.pool_size:
            raise ValueError("min_idle_conns must not be above pool_size")
        if self.max_reply_size < self.max_event_size + 64 * KIB:
            raise ValueError("max_reply_size must be at least max_event_size and 64 KiB")
        for name in ("dial_timeout", "read_timeout", "write_timeout"):
            _check_seconds(name, getattr(self, name))

    def host_and_port(self) -> tuple[str, int]:
        """Return the two parts of `addr`.

        Raises:
            ValueError: `addr` is not `host:port`.
        """
        host, colon, port = self.addr.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            colon = ""  # an IPv6 address without brackets has no certain end
        valid = colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16
        if not valid or any(character <= " " for character in host):
            shown = "" if "@" in self.addr else f", not {self.addr!r}"  # it may hold a password
            raise ValueError(f"addr must be host:port or [IPv6]:port{shown}")
        return host, int(port)

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the context for TLS; None for connections without TLS."""
        if isinstance(self.tls, ssl.SSLContext):
            return self.tls
        return ssl.create_default_context() if self.tls else None

    def where(self) -> str:
        """Return the server's address for error texts, without user and password."""
        return f"unix:{self.path}" if self.path is not None else self.addr

    def _merge(self, from_url: dict[str, Any]) -> None:
        for name, value in from_url.items():
            given = getattr(self, name)
            is_default = given is None or isinstance(given, (_DefaultText, _DefaultNumber))
            if isinstance(given, ssl.SSLContext):
                continue  # for a rediss:// URL
            if not is_default and given != value:
                raise ValueError(f"the URL and the field {name} contradict each other")
            object.__setattr__(self, name, value)
        if "tls" not in from_url and self.tls:
            raise ValueError("tls needs a rediss:// URL")
        if self.path is not None and "path" not in from_url:
            raise ValueError("the URL and the field path contradict each other")


def _read_url(url: str) -> dict[str, Any]:
    """Return the fields that a URL sets.

    Errors are raised outside of `except`: the URL parsers quote the part that they cannot read, and
    in a URL with a stray `/` or `#` this is a part of the password.
    """
    options: dict[str, Any] | None = None
    parts, port = urlsplit(""), None
    with suppress(ValueError, TypeError, AttributeError):
        parts = urlsplit(url)
        port = parts.port if parts.scheme != "unix" else None
        options = dict(parse_url(url))
        # The redis package decodes these twice, and a % in a password with them.
        once = dict(parse_qsl(parts.query, keep_blank_values=True))
        in_head = {"username": parts.username, "password": parts.password}
        texts = [name for name in _TEXT_OPTIONS if name in once and not in_head.get(name)]
        options.update({name: once[name] for name in texts})
        if "prefetch_bytes" in once:
            options["prefetch_bytes"] = once["prefetch_bytes"]
    if options is None:
        raise ValueError(
            "url must be redis://, rediss:// or unix://, with special characters of user and "
            "password percent-encoded"
        )
    if parts.fragment:
        raise ValueError("url must not have a fragment: a # in it is written %23")
    fields: dict[str, Any] = {
        name: options.pop(name)
        for name in ("username", "password", "db", "client_name")
        if name in options
    }
    if "prefix" in options:
        fields["channel_prefix"] = options.pop("prefix")
    if "prefetch_bytes" in options:
        fields["prefetch_bytes"] = _whole("prefetch_bytes", options.pop("prefetch_bytes"))
    secure = options.pop("connection_class", None) is redis_connection.SSLConnection
    if parts.scheme == "unix":
        fields["path"] = options.pop("path", None)
        if not fields["path"]:
            raise ValueError("a unix:// URL needs the path of the socket")
    else:
        host = str(options.pop("host", "localhost"))
        options.pop("port", None)
        fields["addr"] = f"[{host}]:{port or 6379}" if ":" in host else f"{host}:{port or 6379}"
        if port == 0:
            raise ValueError("url must not have the port 0")
        if parts.path.strip("/") and "db" not in fields:
            raise ValueError("the path of the URL must be the number of a database")
    tls = {name: options.pop(name) for name in list(options) if name.startswith("ssl_")}
    if tls and not secure:
        raise ValueError("TLS options need a rediss:// URL")
    if secure:
        fields["tls"] = _context_from(tls) if tls else True
    if options:
        raise ValueError(
            f"url has unknown options: {', '.join(sorted(options))} (there are: "
            f"{', '.join(URL_OPTIONS)})"
        )
    return fields


def _context_from(options: dict[str, Any]) -> ssl.SSLContext:
    """Return the context for the TLS options of a URL."""
    authorities = options.pop("ssl_ca_certs", None)
    certificate = options.pop("ssl_certfile", None)
    key = options.pop("ssl_keyfile", None)
    check = options.pop("ssl_check_hostname", True)
    required = str(options.pop("ssl_cert_reqs", "required"))
    if options:
        raise ValueError(f"url has unknown options: {', '.join(sorted(options))}")
    if required not in ("none", "required"):
        raise ValueError("ssl_cert_reqs must be none or required")
    context = ssl.create_default_context(cafile=authorities)
    if required == "none" or str(check).lower() in ("false", "0", "no", "off", "f", "n"):
        context.check_hostname = False
    if required == "none":
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def _whole(name: str, text: str) -> int:
    with suppress(ValueError):  # its text shows the value
        return int(text)
    raise ValueError(f"{name} must be a whole number")


def _check_whole(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


def _check_seconds(name: str, value: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or math.isnan(value) or value <= 0:
        raise ValueError(f"{name} must be a number of seconds above 0, not {value!r}")


def _check_text(name: str, value: str | None) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a str")
    _check_unicode(name, value)
    if any(character in value for character in "\r\n\0"):
        raise ValueError(f"{name} must not hold line ends or NUL: {value!r}")


def _check_unicode(name: str, value: str) -> None:
    valid = False
    with suppress(UnicodeEncodeError):  # its text shows the value
        value.encode()
        valid = True
    if not valid:
        raise ValueError(f"{name} must be Unicode text, without lone surrogates")
