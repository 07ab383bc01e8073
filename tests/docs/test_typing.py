"""Type checkers accept correct listeners and refuse wrong ones, line by line.

A line of a `must_fail` file with the mark `# E: why` must have an error in mypy --strict and in
strict pyright; no other line may have one. `# E[pyright]: why` marks
an error that only pyright finds.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.checks import unavailable
from tests.support.limits import SUBPROCESS_SECONDS
from tests.support.made_once import made_once

CASES = Path(__file__).parent / "typing_cases"
FILES = sorted(CASES.glob("must_*.py"))
Errors = dict[str, dict[int, list[str]]]


def call(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=SUBPROCESS_SECONDS,
        check=False,
    )


def save(done: subprocess.CompletedProcess[str], directory: Path) -> None:
    """Keep the output of a checker for the workers that have not run it."""
    if done.returncode in (0, 1):
        (directory / "output").write_text(done.stdout)
    else:
        (directory / "broken").write_text(done.stdout + done.stderr)


def output_of(directory: Path) -> str:
    """Return the output of a checker; skip the test, or fail it in CI, if it does not run."""
    if (directory / "broken").exists():
        unavailable(f"{directory.name} does not run here: {(directory / 'broken').read_text()}")
    return (directory / "output").read_text()


def run_mypy(directory: Path) -> None:
    config = directory / "mypy.ini"
    config.write_text("[mypy]\nstrict = true\n")
    done = call(
        "mypy",
        f"--config-file={config}",
        f"--cache-dir={directory / 'cache'}",
        "--no-error-summary",
        "--hide-error-context",
        "--show-absolute-path",
        *map(str, FILES),
        cwd=directory,
    )
    save(done, directory)


def run_pyright(directory: Path) -> None:
    settings: dict[str, Any] = {
        "typeCheckingMode": "strict",
        "reportUnusedExpression": False,
    }
    (directory / "pyrightconfig.json").write_text(json.dumps(settings))
    done = call(
        "pyright",
        "--outputjson",
        "--pythonpath",
        sys.executable,
        *map(str, FILES),
        cwd=directory,
    )
    save(done, directory)


@pytest.fixture(scope="session")
def mypy_errors(tmp_path_factory: pytest.TempPathFactory) -> Errors:
    pytest.importorskip("mypy")
    errors: Errors = {}
    for line in output_of(made_once(tmp_path_factory, "mypy", run_mypy)).splitlines():
        if found := re.match(r"(.+?):(\d+): error: (.*)", line):
            path, number, message = found.groups()
            errors.setdefault(Path(path).name, {}).setdefault(int(number), []).append(message)
    return errors


@pytest.fixture(scope="session")
def pyright_errors(tmp_path_factory: pytest.TempPathFactory) -> Errors:
    text = output_of(made_once(tmp_path_factory, "pyright", run_pyright))
    try:
        output: dict[str, Any] = json.loads(text)
    except ValueError:
        unavailable(f"pyright does not run here: {text}")
    assert output["summary"]["filesAnalyzed"] == len(FILES), output["summary"]
    errors: Errors = {}
    for found in output["generalDiagnostics"]:
        if found["severity"] == "error":
            number = int(found["range"]["start"]["line"]) + 1
            name = Path(found["file"]).name
            errors.setdefault(name, {}).setdefault(number, []).append(found["message"])
    return errors


def marked(file: Path, checker: str) -> set[int]:
    lines = enumerate(file.read_text().splitlines(), 1)
    return {number for number, line in lines if "# E: " in line or f"# E[{checker}]: " in line}


def check(file: Path, checker: str, errors: Errors) -> None:
    lines = file.read_text().splitlines()
    found = errors.get(file.name, {})
    expected = marked(file, checker)
    missing = [f"{number}: {lines[number - 1]}" for number in sorted(expected - found.keys())]
    surplus = [
        f"{number}: {lines[number - 1]}\n    {found[number]}"
        for number in sorted(found.keys() - expected)
    ]
    assert not missing, "accepted, and should not be:\n" + "\n".join(missing)
    assert not surplus, "refused, and should not be:\n" + "\n".join(surplus)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_mypy_refuses_the_marked_lines_and_no_other(file: Path, mypy_errors: Errors) -> None:
    check(file, "mypy", mypy_errors)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_pyright_refuses_the_marked_lines_and_no_other(file: Path, pyright_errors: Errors) -> None:
    check(file, "pyright", pyright_errors)


def test_file_names_say_whether_lines_are_refused() -> None:
    assert {file.name.split("_")[1] for file in FILES} == {"pass", "fail"}
    for file in FILES:
        assert bool(marked(file, "mypy")) == file.name.startswith("must_fail")
