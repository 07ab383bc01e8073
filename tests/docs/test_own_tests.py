"""The tests themselves: they pass however they are started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.limits import SUBPROCESS_SECONDS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"

LOOP_THREAD = "tests/faststream/bridge/test_loop_thread.py"
BUSY_PROCESS = (
    "tests/failures/test_base_exceptions.py::test_ctrl_c_ends_a_process_that_is_busy_with"
)
INTERRUPTED = [
    "tests/docs/test_examples.py::test_orders_ends_with_a_report_on_control_c",
    f"{BUSY_PROCESS}[a dispatch loop]",
    f"{LOOP_THREAD}::test_keyboard_interrupt_ends_trio_and_the_loop_thread",
]
"""Tests in which SIGINT reaches a process that the test starts, or the process of the tests."""


@pytest.mark.skipif(os.name != "posix", reason="ignores a POSIX signal")
@pytest.mark.parametrize("workers", ["-n0", "-n1"], ids=["one process", "xdist"])
def test_tests_pass_as_a_background_job_that_ignores_sigint(workers: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-qx", workers, *INTERRUPTED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SUBPROCESS_SECONDS,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def test_the_quick_tests_of_the_readme_are_there_and_need_no_broker() -> None:
    (command,) = re.findall(r"^python -m pytest -n auto (tests/.*)$", README.read_text(), re.M)
    files = [file for folder in command.split() for file in (ROOT / folder).glob("test_*.py")]
    assert len(files) > 30
    imported = re.compile(r"tests\.support\.(?!in_memory)\w*(?:server|broker|node|mock|buses)")
    assert [file.name for file in files if imported.search(file.read_text())] == []
