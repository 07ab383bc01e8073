"""The command `goevent` as a process, for tests of `tests/cli` and of the other rooms."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from tests.support.limits import SUBPROCESS_SECONDS

COMMAND = [sys.executable, "-m", "goevent"]
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
) -> subprocess.CompletedProcess[str]:
    """Run the command `goevent` to its end, in a pipe, and return what it printed.

    Args:
        arguments: The arguments.
        cwd: The working directory.
        stdin: The text that it reads.
        env: Variables beside those of this process.
    """
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        input=stdin,
        env=command_environment(env),
        capture_output=True,
        text=True,
        timeout=SUBPROCESS_SECONDS,
        check=False,
    )


async def run_goevent(
    *arguments: str,
    cwd: Path | None = None,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command `goevent` to its end in a thread, so that buses of the test go on."""
    return await trio.to_thread.run_sync(
        partial(goevent_command, *arguments, cwd=cwd, stdin=stdin, env=env)
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
