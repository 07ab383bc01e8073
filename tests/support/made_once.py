"""A directory that is made once for a run of the tests, whatever number of workers it has."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a directory of this run; the first worker that asks for it makes it.

    The others wait meanwhile. Without this, pytest-xdist makes a session's fixture in each worker.

    Args:
        factory: The fixture `tmp_path_factory`.
        name: The name of the directory.
        make: Called with the new directory. If it raises, the next worker tries again.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the directories of the workers stand side by side in it
    directory, made = base / name, base / f"{name}.made"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            directory.mkdir(exist_ok=True)
            make(directory)
            made.touch()
    return directory
