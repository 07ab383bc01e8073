"""Extras: a module whose packages are not installed says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.support.limits import SUBPROCESS_SECONDS

PROGRAM = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
try:
    import {module}
except ModuleNotFoundError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("goevent.web", "starlette", "web"),
        ("goevent.telemetry.otel", "opentelemetry", "otel"),
        ("goevent.telemetry.prometheus", "prometheus_client", "prometheus"),
    ],
)
def test_a_module_without_its_extra_names_the_extra(module: str, package: str, extra: str) -> None:
    program = PROGRAM.format(module=module, package=package)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=SUBPROCESS_SECONDS,
        check=True,
    )
    assert f"needs the package {package}" in done.stdout
    assert f"pip install 'goevent[{extra}]'" in done.stdout
