"""The guard of the page: decides which requests are answered, and for whom.

`Page` asks it before every request. The guard knows names of hosts, the token and the headers of
browsers; it knows no bus.

Theory of operation. A page on loopback without a token is open to the programs of its machine. A
browser on that machine also runs pages of strangers, and two attacks of such a page are known. By
DNS rebinding its own name leads to loopback, so that it may read the answers: the guard accepts
only literal IP addresses, `localhost` and the hosts that the user names. By request forgery it
sends a POST whose answer it cannot read: the guard compares the origin that browsers send with the
host, and an action has to be JSON, which no form of another site can send.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import Response

COOKIE_NAME = "goevent-page"
MIN_TOKEN_CHARS = 16
COOKIE_NAME_DIGITS = 8
_COOKIE_PURPOSE = b"cookie of the goevent page"
_NAME_PURPOSE = b"name of the cookie of the goevent page"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::\d{1,5})?")

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": with it, browsers send the login form with the origin "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Sent with every answer, refusals included."""


class Guard:
    """The rules of one page.

    Args:
        token: The secret that a caller has to show; None for none.
        hosts: Names of hosts that are allowed in addition to `localhost` and IP addresses.

    Raises:
        ValueError: The token is too short or not plain ASCII, or a host is not a name.
    """

    def __init__(self, token: str | None, hosts: Iterable[str]) -> None:
        if token is not None:
            if len(token) < MIN_TOKEN_CHARS:
                raise ValueError(f"a token of fewer than {MIN_TOKEN_CHARS} characters is guessed")
            if not token.isascii() or not token.isprintable() or " " in token:
                raise ValueError("a token has printable ASCII characters without spaces")
        if isinstance(hosts, str):
            raise ValueError("hosts is a list of names, not one string")
        self._token = None if token is None else token.encode()
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        for host in self._hosts:
            if _HOST.fullmatch(host) is None or ":" in host.rpartition("]")[2]:
                raise ValueError(f"not the name of a host, without a port: {host!r}")

    @property
    def needs_token(self) -> bool:
        """True if callers have to show a token."""
        return self._token is not None

    def allows_host(self, connection: HTTPConnection) -> bool:
        """Tell whether a request names a host of this page, and not one that a stranger owns."""
        values = connection.headers.getlist("host")
        found = _HOST.fullmatch(values[0]) if len(values) == 1 else None
        if found is None:
            return False
        host = found[1].lower().rstrip(".")
        if host == "localhost" or host in self._hosts:
            return True
        try:
            ip_address(host.strip("[]"))
        except ValueError:
            return False
        return True

    def is_authorised(self, connection: HTTPConnection) -> bool:
        """Tell whether a request shows the token, as a bearer token or by the page's cookie."""
        if self._token is None:
            return True
        kind, _, shown = connection.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self.is_token(shown.strip())
        # Not by `SimpleCookie`, which reads nothing if another application of the host has a cookie
        # that breaks its rules.
        cookie = connection.cookies.get(self._cookie_name())
        return cookie is not None and same(cookie.encode(), self._derived(_COOKIE_PURPOSE))

    def is_token(self, shown: str) -> bool:
        """Tell whether a text is the token; the time that this takes tells nothing of the token."""
        return self._token is not None and same(shown.encode("utf-8", "replace"), self._token)

    def log_in(self, response: Response, *, path: str, secure: bool) -> None:
        """Give the browser the cookie that stands for the token.

        Args:
            response: The response to a request that has shown the token.
            path: The path under which the page is mounted.
            secure: The request came by HTTPS.
        """
        # Lax, so that a link in a chat or a dashboard opens the page. A browser sends it with no
        # POST of another site.
        response.set_cookie(
            self._cookie_name(),
            self._derived(_COOKIE_PURPOSE).decode(),
            path=path or "/",
            secure=secure,
            httponly=True,
            samesite="lax",
        )

    def is_same_origin(self, connection: HTTPConnection) -> bool:
        """Tell whether a POST comes from the page itself, or from a program that is no browser."""
        site = connection.headers.get("sec-fetch-site")
        if site is not None and site != "same-origin":
            return False
        origin = connection.headers.get("origin")
        if origin is None:
            return True
        # Without the scheme: behind a proxy that ends TLS, the page does not know its own.
        try:
            return urlsplit(origin).netloc.lower() == connection.headers.get("host", "").lower()
        except ValueError:
            return False

    def _cookie_name(self) -> str:
        # Browsers share cookies between the ports of a host. By a name of its own, a page with
        # another token there does not log this one out.
        return f"{COOKIE_NAME}-{self._derived(_NAME_PURPOSE)[:COOKIE_NAME_DIGITS].decode()}"

    def _derived(self, purpose: bytes) -> bytes:
        # Not the token itself, so that it is in no store of a browser. It depends on nothing else,
        # so that a restart of the program logs nobody out.
        token = self._token or b""
        return hmac.new(token, purpose, hashlib.sha256).hexdigest().encode()


def same(left: bytes, right: bytes) -> bool:
    """Compare two secrets in a time that does not depend on their contents."""
    return hmac.compare_digest(hashlib.sha256(left).digest(), hashlib.sha256(right).digest())
