"""`goevent run`: a bus as the work of a process, or of several, until a signal.

This module checks the options and tells how it ended. `worker` serves the bus in this process,
`workers` keeps several processes, `reloading` restarts one after a change of the program.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .early_signals import EarlySignals, Stopped
from .failures import FINDING, WrongUse
from .output import json_option, write_json, write_line, write_note
from .targets import TargetCommand, load_bus, target_argument

if TYPE_CHECKING:
    from goevent import GoEvent, Ledger

GRACE_SECONDS = 25.0
"""Below the 30 seconds after which Kubernetes kills."""

MAX_WORKERS = 1024


@click.command("run", cls=TargetCommand)
@target_argument
@click.option(
    "--workers",
    "count",
    type=click.IntRange(1, MAX_WORKERS),
    default=1,
    show_default=True,
    help="Run so many processes, and restart one that dies.",
)
@click.option("--reload", "reloads", is_flag=True, help="Restart after a change of a .py file.")
@click.option(
    "--grace",
    type=float,
    default=GRACE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="The time for listeners to finish after a signal.",
)
@click.option(
    "--http",
    metavar="HOST:PORT",
    help="Serve the live page here; worker K at PORT+K, the first is worker 0.",
)
@json_option
@click.option("--supervised", hidden=True, metavar="NUMBER:FD")
@click.pass_obj
def command(
    settings: dict[str, object] | None,
    target: str,
    count: int,
    reloads: bool,
    grace: float,
    http: str | None,
    as_json: bool,
    supervised: str | None,
) -> int:
    """Run the listeners of TARGET until SIGTERM or Ctrl-C.

    Then the listeners have the grace to finish. A second signal cuts it short. The exit code is 0
    if no delivery was cut off.

    \b
    Example:
      goevent run shop.app:bus --workers 4
    """
    if "://" in target:
        raise WrongUse("a URL has no listeners to run: give module:bus or module:make_bus()")
    if not grace >= 0:
        raise WrongUse(f"--grace must be at least 0 seconds, not {grace:g}")
    if reloads and count > 1:
        raise WrongUse("--reload restarts one worker: leave out --workers")
    pages = addresses(http, count)
    verbose = bool(settings and settings.get("verbose"))
    options = [f"--grace={grace!r}"]
    early = EarlySignals()
    with early.taken():
        try:
            if supervised is not None:
                from .worker import WorkerLink, serve_supervised

                link = WorkerLink(supervised)
                serve_supervised(target, grace, http, early, link, verbose=verbose)
                return 0
            if reloads:
                from .reloading import run_reloading

                ledger = run_reloading(target, options, pages[0], early, verbose=verbose)
            elif count > 1:
                from .workers import run_workers

                warn_of_copies(load_bus(target), count)
                ledger = run_workers(target, options, pages, early, verbose=verbose)
            else:
                from .worker import serve

                ledger = serve(target, grace, http, early, verbose=verbose)
        except Stopped:
            write_note(f"goevent: {early.received}: nothing is opened")
            from goevent import Ledger

            ledger = Ledger()
        return tell(ledger, as_json=as_json)


def tell(ledger: Ledger, *, as_json: bool) -> int:
    """Print the ledger; return the exit code."""
    if as_json:
        write_json(asdict(ledger))
    else:
        write_line(in_words(ledger))
    if ledger.abandoned:
        write_note(
            f"goevent: {plural(ledger.abandoned, 'delivery', 'deliveries')} cut off by the end; "
            "a durable driver brings these events again"
        )
        return FINDING
    return 0


def in_words(ledger: Ledger) -> str:
    """Return a ledger as a sentence without the counts that are zero."""
    if not ledger.accepted:
        return "no deliveries"
    counts = asdict(ledger)
    total = counts.pop("accepted")
    ends = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    return f"{plural(total, 'delivery', 'deliveries')}: {ends or 'none ended'}"


def plural(count: int, one: str, many: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {one if count == 1 else many}"


def warn_of_copies(bus: GoEvent, count: int) -> None:
    """Warn if the driver brings each event to every worker."""
    driver = bus.driver
    if not driver.capabilities.durable:
        write_note(
            f"goevent: {type(driver).__qualname__} shares no events in a group: each of the "
            f"{count} workers handles every event that reaches it"
        )


def addresses(http: str | None, count: int) -> list[str | None]:
    """Return the address of the live page of each worker.

    A page that cannot be served is refused here, before a worker starts.

    Raises:
        WrongUse: The extra is not installed, the address is malformed, a port is too high, or
            others than this machine reach the page and it has no token.
    """
    if http is None:
        return [None] * count
    try:
        from goevent.web.server import MAX_PORT, TOKEN_VARIABLE, is_loopback, split_address

        host, first = split_address(http)
    except (ModuleNotFoundError, ValueError) as error:
        raise WrongUse(f"--http: {error}") from error
    if not 0 < first <= first + count - 1 <= MAX_PORT:
        raise WrongUse(f"--http: a port is from 1 to {MAX_PORT}, and each worker needs one")
    if not is_loopback(host) and not os.environ.get(TOKEN_VARIABLE):
        raise WrongUse(
            f"--http: {host} is not loopback, so the page needs a token: set {TOKEN_VARIABLE}"
        )
    shown = f"[{host}]" if ":" in host else host
    return [f"{shown}:{first + number}" for number in range(count)]
