"""The command `goevent` as a process, for tests of `tests/cli` and of the other rooms.

Most runs are forks of a process that has imported the command; see `command_server`. A run that is
`fresh` starts an interpreter of its own, as a shell does. Each command has such runs: for its help,
and for an answer of each kind of broker.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import IO

import trio

from tests.support.limits import SUBPROCESS_SECONDS

COMMAND = [sys.executable, "-m", "goevent"]
SERVER = Path(__file__).with_name("command_server.py")
STARTING = threading.Lock()
# What the surroundings of a test run may set, and what would change the command.
UNWANTED = ("GOEVENT_URL", "GOEVENT_WEB_TOKEN", "NO_COLOR", "FORCE_COLOR", "COLUMNS")


def command_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a command, without the variables that change it."""
    kept = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    return {**kept, **(extra or {})}


def goevent_command(
    *arguments: str,
    cwd: Path | None = None,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run the command `goevent` to its end, not on a terminal, and return what it printed.

    Args:
        arguments: The arguments.
        cwd: The working directory.
        stdin: The text that it reads.
        env: Variables beside those of this process.
        fresh: Start an interpreter for it, with pipes.
    """
    environment = command_environment(env)
    if not fresh:
        with STARTING:
            server = command_server()
        return server.run(arguments, cwd or Path.cwd(), stdin, environment)
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SUBPROCESS_SECONDS,
        check=False,
    )


class CommandServer:
    """The process that forks for each command; it ends with this process."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(SERVER), str(theirs.fileno())],
                env=command_environment(),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def run(
        self, arguments: tuple[str, ...], directory: Path, stdin: str, environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run one command. Any thread may call this."""
        request = {
            "arguments": arguments,
            "directory": str(directory),
            "environment": environment,
        }
        with ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            files[0].write(stdin.encode())
            files[0].seek(0)
            reply, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(reply)
            with theirs:
                descriptors = [*(each.fileno() for each in files), theirs.fileno()]
                socket.send_fds(self._requests, [json.dumps(request).encode()], descriptors)
            reply.settimeout(SUBPROCESS_SECONDS)
            pid = int(reply.recv(100))
            try:
                code = int(reply.recv(100))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise
            return subprocess.CompletedProcess(
                arguments, code, text_of(files[1]), text_of(files[2])
            )

    def close(self) -> None:
        """End the process."""
        self._requests.close()
        self._process.wait()


def text_of(file: IO[bytes]) -> str:
    """Return all that is in a file."""
    file.seek(0)
    return file.read().decode()


@cache
def command_server() -> CommandServer:
    """Return the server of this process, which is started once."""
    server = CommandServer()
    atexit.register(server.close)
    return server


async def run_goevent(
    *arguments: str,
    cwd: Path | None = None,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run the command `goevent` to its end in a thread, so that buses of the test go on."""
    return await trio.to_thread.run_sync(
        partial(goevent_command, *arguments, cwd=cwd, stdin=stdin, env=env, fresh=fresh)
    )


@asynccontextmanager
async def started_goevent(*arguments: str, cwd: Path | None = None) -> AsyncGenerator[trio.Process]:
    """Run the command in the background, with pipes; it is killed at the end of the block."""
    process = await trio.lowlevel.open_process(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=command_environment({"PYTHONUNBUFFERED": "1"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                await stream.aclose()
