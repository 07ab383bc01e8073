"""The command of the chaos run, for the tests of its promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import trio

from tests.support.brokers import missing
from tests.support.limits import SUBPROCESS_SECONDS

ROOT = Path(__file__).parents[2]
NOT_HERE_EXIT_CODE = 3

WORKERS = "--producers 2 --consumers 3"
"""A kill leaves two consumers; most of the time of a small run goes into the starts of these."""


async def chaos(
    directory: Path, driver: str, options: str = "--quick --rate 200"
) -> dict[str, Any]:
    """Run the command for a driver; return its counts, which keep all promises."""
    file = directory / "counts.json"
    words = ["--driver", driver, "--json", str(file), *WORKERS.split(), *options.split()]
    with trio.fail_after(SUBPROCESS_SECONDS):
        done = await trio.run_process(
            [sys.executable, "-m", "benchmarks", "chaos", *words],
            cwd=ROOT,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
    output = done.stdout.decode()
    if done.returncode == NOT_HERE_EXIT_CODE:
        missing(output.strip())
    assert done.returncode == 0, output
    counts: dict[str, Any] = json.loads(file.read_text())[driver]
    return counts
