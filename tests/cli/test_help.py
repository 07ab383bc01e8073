"""The help of the command, and arguments that it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.support.command import goevent_command

from goevent import __version__
from goevent.cli.commands import COMMANDS


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_lists_every_command(arguments: list[str]) -> None:
    result = goevent_command(*arguments, fresh=True)
    assert result.returncode == 0
    assert not result.stderr
    for name, help_line in COMMANDS.items():
        assert f"\n  {name}" in result.stdout
        assert " ".join(help_line.split()) in " ".join(result.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_has_an_example(name: str) -> None:
    result = goevent_command(name, "--help", fresh=True)
    assert result.returncode == 0
    assert "Example" in result.stdout
    assert f"goevent {name} " in result.stdout


def test_a_closed_output_is_no_failure() -> None:
    command = f"{sys.executable} -m goevent --help >&- 2>&-"
    assert subprocess.run(command, shell=True, check=False).returncode == 0


def test_version_is_that_of_the_package() -> None:
    assert goevent_command("--version").stdout == f"goevent {__version__}\n"


def test_help_imports_neither_trio_nor_rich() -> None:
    program = (
        "import sys\n"
        "from goevent.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    print(sorted({'trio', 'rich', 'msgspec'} & {*sys.modules}))\n"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert output.stdout.splitlines()[-1] == "[]", output.stderr


def test_without_click_one_line_names_the_extra() -> None:
    program = (
        "import sys\nsys.modules['click'] = None\nfrom goevent.cli import main\nmain(['--help'])\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == ("goevent: the command needs an extra: pip install 'goevent[cli]'\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "a command is missing (see goevent --help)"),
        (
            ["descibe"],
            "there is no command 'descibe'; did you mean 'describe'? (see goevent --help)",
        ),
        (["--nonsense"], "No such option '--nonsense'. (see goevent --help)"),
        (["describe"], "Missing argument 'TARGET'. (see goevent describe --help)"),
        (["describe", "--jso"], "No such option"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: list[str], line: str) -> None:
    result = goevent_command(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == 1
