"""URLs of drivers: one way to write them, for every scheme.

`scheme://user:password@host:port/path?option=value`. User and password are percent-decoded here and
nowhere else, so that the same password is written alike for every broker. A driver reads its URL
with `read_driver_url`, takes its settings out of the options with `read_options`, and checks the
other options with `check_url_options`. No error text here quotes a part of the URL in which a
password may stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote

from .._errors import UnsupportedError
from .._suggestions import did_you_mean

# A name, an IPv4 address or an IPv6 address in brackets, and a port.
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]|[^\[\]:@\s]*)(:[0-9]{0,5})?")
_OPTION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
MAX_PORT = 65_535
_NEVER_IN_URL = re.compile(r"[\x00-\x1f\x7f#]")


@dataclass(frozen=True, slots=True)
class DriverUrl:
    """The parts of a URL. `repr` shows neither the user nor the password nor the options.

    Attributes:
        scheme: The scheme, in lower case.
        user: The user, decoded; None without one.
        password: The password, decoded; None without one. It may be empty.
        address: `host:port`, or several of them with commas; may be empty.
        path: The text from the first slash behind the address on, as it is in the URL.
        query: The options, as they are in the URL.
        broker: The name of the broker in error texts; may be empty.

    Example:
        >>> url = read_driver_url("redis://shop:p%40ss@cache.example:6380/2?group=billing")
        >>> url.password, url.address, url.query
        ('p@ss', 'cache.example:6380', 'group=billing')
    """

    scheme: str
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    address: str = ""
    path: str = ""
    query: str = field(default="", repr=False)
    broker: str = ""

    @property
    def options(self) -> list[tuple[str, str]]:
        """The options, decoded, in the order of the URL."""
        return parse_qsl(self.query, keep_blank_values=True)

    def with_query(self, query: str) -> DriverUrl:
        """Return the URL with other options."""
        return replace(self, query=query)

    def text(self) -> str:
        """Return the URL as text, with user and password percent-encoded, for a client library."""
        login = "" if self.user is None else quote(self.user, safe="")
        if self.password is not None:
            login += f":{quote(self.password, safe='')}"
        at = "" if self.user is None and self.password is None else "@"
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{login}{at}{self.address}{self.path}{query}"


def read_driver_url(url: str, *, broker: str = "") -> DriverUrl:
    """Read a URL, or the bare name of a scheme.

    Args:
        url: The URL.
        broker: The name of the broker in error texts.

    Raises:
        ValueError: It cannot be read, for instance because of a reserved character in the password.
            The text does not show the password.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if _NEVER_IN_URL.search(rest):
        raise _unreadable(scheme, broker)
    head, _, query = rest.partition("?")
    authority, slash, path = head.partition("/")
    login, at, address = authority.rpartition("@")
    # An at sign behind the address: a slash or a question mark has cut the password in two. Only
    # the path of a socket, which has no address, may contain one.
    is_cut = address and ("@" in path or (not at and _has_at_sign_in_a_name(query)))
    if is_cut or not all(map(_ADDRESS.fullmatch, address.split(","))):
        raise _unreadable(scheme, broker)
    if any(map(_has_too_large_port, address.split(","))):
        raise ValueError(f"{_subject(broker)} has a port above {MAX_PORT}")
    user, colon, password = login.partition(":")
    decoded = _decode(user), _decode(password)
    if None in decoded:
        raise _unreadable(scheme, broker)
    return DriverUrl(
        scheme,
        decoded[0] if user else None,
        decoded[1] if colon else None,
        address,
        slash + path,
        query,
        broker,
    )


def _has_too_large_port(address: str) -> bool:
    found = _ADDRESS.fullmatch(address)
    port = "" if found is None else (found[3] or "").removeprefix(":")
    return bool(port) and int(port) > MAX_PORT


def check_url_options(
    url: DriverUrl, known: Iterable[str], refused: Mapping[str, str] | None = None
) -> None:
    """Check the names of the options of a URL.

    Args:
        url: The URL.
        known: The options that its scheme has.
        refused: The options that other schemes have and this one cannot honour, each with the
            reason.

    Raises:
        UnsupportedError: The scheme cannot honour an option.
        ValueError: There is no such option. The text lists all of them.
    """
    names, reasons = {*known}, refused or {}
    for name, _ in url.options:
        if name in names:
            continue
        if name in reasons:
            raise UnsupportedError(
                f"{url.scheme}:// cannot honour the option {name!r}: {reasons[name]}"
            )
        if not _OPTION_NAME.fullmatch(name) or (url.user is None and "@" in url.query):
            # It may be a part of a password with a question mark in it.
            raise ValueError(
                f"{_subject(url.broker)} has an option that does not exist; {_HOW_TO_ENCODE}"
            )
        has = ", ".join(sorted(names)) or "no options"
        raise ValueError(
            f"{_subject(url.broker)} has unknown options: {name} ({url.scheme}:// has: {has})"
            f"{did_you_mean(name, sorted(names))}"
        )


_HOW_TO_ENCODE = (
    "reserved characters in the user, the password or an option are percent-encoded: %40 for @, "
    "%3A for :, %2F for /, %3F for ?, %23 for #, %25 for %"
)


def _unreadable(scheme: str, broker: str) -> ValueError:
    shown = scheme if re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) else "scheme"
    return ValueError(
        f"{_subject(broker)} cannot be read: it is written {shown}://user:password@host:port, and "
        f"{_HOW_TO_ENCODE}"
    )


def _subject(broker: str) -> str:
    return f"the URL of {broker}" if broker else "the URL"


def _has_at_sign_in_a_name(query: str) -> bool:
    return any("@" in part.partition("=")[0] for part in query.split("&"))


def _decode(text: str) -> str | None:
    """Return a percent-decoded text; None if it is not Unicode."""
    # The errors of the codec show the text, so they must not be in the chain of ours.
    with suppress(UnicodeError):
        decoded = unquote(text, errors="strict")
        decoded.encode()
        return decoded
    return None
