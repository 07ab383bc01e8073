"""A worker: this process serves a bus until a signal.

`run` calls it for the command itself and, with a link, in the processes of `workers` and
`reloading`. The link is a socket to the process that started this one. The ledger goes there, and
its end means that the other process has died: then this one ends as after a SIGTERM.

A signal that comes while the module of the user is imported ends the process in peace, as one does
that comes before the bus is open.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict

import trio

from goevent import GoEvent, Ledger

from .early_signals import SIGNALS, EarlySignals
from .failures import CommandFinding
from .output import write_note
from .targets import load_bus


class WorkerLink:
    """The socket to the process that started this one.

    Args:
        text: The number of the worker and the descriptor of the socket, as the option has them.
    """

    def __init__(self, text: str) -> None:
        number, _, descriptor = text.partition(":")
        self.name: str = f"worker {number}"
        self.socket: socket.socket = socket.socket(fileno=int(descriptor))
        self.socket.set_inheritable(False)

    def send(self, ledger: Ledger) -> None:
        """Send the ledger, and close the socket."""
        with self.socket:
            self.socket.setblocking(True)
            try:
                self.socket.sendall(json.dumps(asdict(ledger)).encode())
            except OSError:
                # The other process has died, and with it the reader of the ledger.
                write_note(f"{self.name}: {ledger}")


class ReadyLine:
    """The line that tells that the bus is open; `serve` passes it as the status of a task."""

    def __init__(self, bus: GoEvent, name: str) -> None:
        self._bus = bus
        self._name = name

    def started(self, value: None = None) -> None:
        """Write the line."""
        count = len(self._bus.snapshot().listeners)
        listeners = f"{count} listener{'' if count == 1 else 's'}"
        write_note(f"{self._name}: ready, {listeners} on {type(self._bus.driver).__qualname__}")


def serve(
    target: str, grace: float, http: str | None, early: EarlySignals, *, verbose: bool
) -> Ledger:
    """Serve the bus of a target in this process until a signal; return its ledger.

    Args:
        target: The target.
        grace: Seconds for the drain.
        http: The address of the live page, or None.
        early: The signals that come before the bus takes them.
        verbose: Log in full.
    """
    bus = load_served(target, "goevent", verbose=verbose)
    early.only_note()
    with http_errors(http):
        return trio.run(_until_signal, bus, grace, http, early, None, "goevent")


def serve_supervised(
    target: str,
    grace: float,
    http: str | None,
    early: EarlySignals,
    link: WorkerLink,
    *,
    verbose: bool,
) -> None:
    """Serve the bus as one of several workers, and send the ledger over the link.

    Args:
        target: The target.
        grace: Seconds for the drain.
        http: The address of the live page, or None.
        early: The signals that come before the bus takes them.
        link: The link to the process that started this one.
        verbose: Log in full.
    """
    bus = load_served(target, link.name, verbose=verbose)
    early.only_note()
    with http_errors(http):
        link.send(trio.run(_until_signal, bus, grace, http, early, link.socket, link.name))


def load_served(target: str, name: str, *, verbose: bool) -> GoEvent:
    """Return the bus of a target, with a note if it has no listeners, and set up the log."""
    bus = load_bus(target)
    log_to_stderr(verbose=verbose)
    if not bus.snapshot().listeners:
        write_note(f"{name}: {target} has no listeners")
    return bus


@contextmanager
def http_errors(http: str | None) -> Generator[None]:
    """Name the option `--http` in the errors of the live page."""
    try:
        yield
    except OSError as error:
        if http is None:
            raise
        from goevent.web import AddressError

        if isinstance(error, AddressError):
            raise CommandFinding(f"--http: {error.strerror}") from error
        raise


async def _until_signal(
    bus: GoEvent,
    grace: float,
    http: str | None,
    early: EarlySignals,
    link: socket.socket | None,
    name: str,
) -> Ledger:
    # Signals that are left at the end of `serve` arrive here, and end nothing any more.
    with trio.open_signal_receiver(*SIGNALS):
        if early.received:
            write_note(f"{name}: {early.received}: the bus is not opened")
            return Ledger()
        started = ReadyLine(bus, name)
        if link is None:
            return await bus.serve(grace=grace, http=http, task_status=started)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_with_supervisor, link, name)
                ledger = await bus.serve(grace=grace, http=http, task_status=started)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # `serve` raises the only error; the other task ends without one.
            raise next(iter(group.exceptions)) from None
        return ledger


async def _end_with_supervisor(link: socket.socket, name: str) -> None:
    """End the bus once the process that started this one has died."""
    link.setblocking(False)
    await trio.lowlevel.wait_readable(link)
    # Nothing is ever sent to a worker, so this is the end of the link.
    write_note(f"{name}: the process that started it has ended")
    signal.raise_signal(signal.SIGTERM)


def log_to_stderr(*, verbose: bool) -> None:
    """Log to stderr, unless the module of the user has configured the log."""
    if logging.getLogger().handlers:
        return
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    logger = logging.getLogger("goevent")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.DEBUG if verbose else logging.INFO)
