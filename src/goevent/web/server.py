"""The server of the page: serves it at an address, by hypercorn's worker for Trio.

`bus.serve(http=...)` and `goevent run --http` call `serve_http`, and programs may do so. It owns
the socket and one task of the page; both end with it.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from ipaddress import ip_address

import trio

from .._bus import GoEvent
from .._errors import GoEventError
from .page import Page

TOKEN_VARIABLE = "GOEVENT_WEB_TOKEN"  # noqa: S105 - the name of a variable
HOSTS_VARIABLE = "GOEVENT_WEB_HOSTS"
ACTIONS_VARIABLE = "GOEVENT_WEB_ACTIONS"
MAX_PORT = 65_535
KEEP_ALIVE_SECONDS = 30.0
BACKLOG = 100
"""The number of connections that wait to be accepted."""


class AddressError(GoEventError, OSError):
    """The page cannot be served at an address: the port is taken, or the host is not here."""


async def serve_http(
    target: Page | GoEvent,
    address: str,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the page of a bus over HTTP until cancelled.

    Run it in a nursery inside `async with bus`. It starts with the URL of the page, which names the
    real port. Cancellation ends all connections at once.

    Args:
        target: A page, or a bus. The page of a bus takes its token from the environment variable
            `GOEVENT_WEB_TOKEN` and further hosts, with commas between them, from
            `GOEVENT_WEB_HOSTS`; it has actions if `GOEVENT_WEB_ACTIONS` is `1`.
        address: `"HOST:PORT"`, as `"127.0.0.1:8080"` or `"[::1]:8080"`. Port 0 is any free one.
        task_status: As of `nursery.start`, which returns the URL.

    Raises:
        AddressError: The port is taken, or the host does not belong to this machine.
        ValueError: The address is malformed, or it is not on loopback and the page has no token.

    Example:
        ::

            async with bus, trio.open_nursery() as nursery:
                url = await nursery.start(serve_http, Page(bus, actions=True), "127.0.0.1:8080")
    """
    # Imported here, because a page that is mounted in an application of the user needs no server.
    from hypercorn.config import Config as ServerConfig

    host, port = split_address(address)
    page = target if isinstance(target, Page) else page_of(target)
    if not page.needs_token and not is_loopback(host):
        raise ValueError(
            f"{host} is not loopback, so the page needs a token: Page(bus, token=...), or the "
            f"environment variable {TOKEN_VARIABLE}"
        )
    # By its name, because its signature is only half typed.
    serve: Callable[..., Awaitable[None]] = import_module("hypercorn.trio").serve
    config = ServerConfig()
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    # A log of its own would write lines of another form than those of the application.
    config.errorlog = logging.getLogger("goevent.web")
    with bound_socket(host, port) as listening:
        real_port: int = listening.getsockname()[1]
        # The server closes the descriptor that it is given.
        config.bind = [f"fd://{os.dup(listening.fileno())}"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(page.keep_history)
            # It looks at no signals, and the trigger never comes: it ends by cancellation.
            await nursery.start(partial(serve, shutdown_trigger=trio.sleep_forever), page, config)
            shown = f"[{host}]" if ":" in host else host
            task_status.started(f"http://{shown}:{real_port}/")
            await trio.sleep_forever()


def page_of(bus: GoEvent) -> Page:
    """Return the page of a bus, with the settings of the environment."""
    hosts = os.environ.get(HOSTS_VARIABLE, "").split(",")
    actions = os.environ.get(ACTIONS_VARIABLE, "")
    if actions not in ("", "0", "1"):
        raise ValueError(f"{ACTIONS_VARIABLE} is 1 or 0")
    return Page(
        bus,
        token=os.environ.get(TOKEN_VARIABLE) or None,
        actions=actions == "1",
        hosts=[host.strip() for host in hosts if host.strip()],
    )


def split_address(address: str) -> tuple[str, int]:
    """Return the host and the port of an address.

    Raises:
        ValueError: It is malformed.
    """
    host, colon, port = address.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not is_bracketed):
        raise ValueError(f"an address is HOST:PORT, as 127.0.0.1:8080 or [::1]:8080: {address!r}")
    if not (port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
        raise ValueError(f"a port is a number from 0 to {MAX_PORT}: {address!r}")
    return host.strip("[]") if is_bracketed else host, int(port)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address.

    Raises:
        AddressError: The port is taken, or the host does not belong to this machine.
    """
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (OSError, UnicodeError) as error:
        raise AddressError(errno.EADDRNOTAVAIL, f"no host {host!r} for the page") from error
    # IPv4 first for `localhost`: clients of names try both.
    family, kind, protocol, _, place = min(found, key=lambda each: each[0] != socket.AF_INET)
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise AddressError(
            error.errno, f"cannot serve the page at {shown}: {error.strerror}"
        ) from (error)
    return listening
