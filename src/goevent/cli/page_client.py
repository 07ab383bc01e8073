"""The client of a live page: asks it for the snapshot of its bus.

`goevent top` calls it. It follows no redirection, so that the token reaches no other server.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

import msgspec
import trio

from .. import Snapshot
from .failures import CommandFinding, WrongUse, one_line

MAX_ANSWER_BYTES = 64 << 20
TIMEOUT_SECONDS = 10.0
REFUSALS = (401, 403)


def is_page_url(target: str) -> bool:
    """Tell whether a target is the address of a live page."""
    return target.startswith(("http://", "https://"))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


class PageClient:
    """Asks one live page.

    Args:
        url: The address of the page, without or with the path under which it is mounted.
        token: The token of the page; None without one.

    Attributes:
        name: The address without a login and a query.
    """

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        if not host:
            raise WrongUse("the address of a live page is http://host:port")
        self.name: str = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._request = urllib.request.Request(f"{self.name}/api/snapshot", headers=headers)  # noqa: S310
        self._opener = urllib.request.build_opener(_NoRedirects)

    async def snapshot(self) -> Snapshot:
        """Return the snapshot of the bus. A cancelled request ends in its thread.

        Raises:
            CommandFinding: The page does not answer, or this is no live page.
            WrongUse: The page wants a token, or another one.
        """
        answer = await trio.to_thread.run_sync(self._ask, abandon_on_cancel=True)
        try:
            return msgspec.json.decode(answer, type=Snapshot)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise CommandFinding(f"{self.name} is no live page of goevent") from error

    def _ask(self) -> bytes:
        try:
            with self._opener.open(self._request, timeout=TIMEOUT_SECONDS) as answer:
                body: bytes = answer.read(MAX_ANSWER_BYTES)
                return body
        except urllib.error.HTTPError as error:
            with error:
                if error.code in REFUSALS:
                    raise WrongUse(
                        f"{self.name} refuses the request ({error.code}): give its token in "
                        "GOEVENT_WEB_TOKEN"
                    ) from error
                raise CommandFinding(f"{self.name} answers with the status {error.code}") from error
        except (OSError, HTTPException) as error:
            raise CommandFinding(f"{self.name} does not answer: {one_line(str(error))}") from error
