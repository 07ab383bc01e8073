"""Processes that are stopped as they are: their connections stay open.

A signal alone is not enough: on a busy machine the other threads run on until the thread that gets
the signal has its turn, and may answer meanwhile.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.support.limits import HANG_SECONDS


def freeze_child(pid: int) -> None:
    """Stop a process that this one has started, and return when no thread of it runs any more."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)


def freeze_group(group: int) -> None:
    """Stop all processes of a group, and return when none of their threads runs any more."""
    os.killpg(group, signal.SIGSTOP)
    for process in Path("/proc").glob("[0-9]*"):
        pid = int(process.name)
        try:
            is_member = os.getpgid(pid) == group
        except ProcessLookupError:
            continue
        if is_member:
            _wait_until_stopped(pid)


def _wait_until_stopped(pid: int) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while not all(state in "TtZX" for state in _thread_states(pid)):
        if time.monotonic() > deadline:
            raise AssertionError(f"the process {pid} does not stop")
        time.sleep(0.002)


def _thread_states(pid: int) -> list[str]:
    states: list[str] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            # The state follows the program's name, which may hold any character.
            states.append(thread.read_text().rpartition(")")[2].split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return states
