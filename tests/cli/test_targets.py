"""Targets of the command: those that stand for a bus, and those that are refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.command import goevent_command

PROGRAM = """
from goevent import Event, GoEvent

bus = GoEvent()

class Shop:
    bus = GoEvent()

def make_bus():
    return GoEvent()

async def make_later():
    return GoEvent()

def fail():
    raise ValueError("no settings")

number = 7
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A directory with the module `shop`, and others that cannot be imported."""
    (tmp_path / "shop.py").write_text(PROGRAM)
    (tmp_path / "needy.py").write_text("x = 1\nimport a_module_that_does_not_exist\n")
    (tmp_path / "broken.py").write_text("x = 1\ny = (\n")
    (tmp_path / "raising.py").write_text("def f():\n    raise KeyError('SHOP')\n\nf()\n")
    (tmp_path / "ending.py").write_text("import sys\nsys.exit('bye')\n")
    (tmp_path / "talking.py").write_text("print('hello')\n" + PROGRAM)
    return tmp_path


@pytest.mark.parametrize("target", ["shop:bus", "shop:Shop.bus", "shop:make_bus()", "memory://"])
def test_a_target_stands_for_a_bus(shop: Path, target: str) -> None:
    result = goevent_command("describe", target, cwd=shop)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{target}: MemoryDriver\n")


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("shop", "a target is written module:bus, module:make_bus() or scheme://host"),
        ("shop:bus:x", "a target is written module:bus"),
        ("nothing_here:bus", "there is no module 'nothing_here' in "),
        ("shop.nothing:bus", "there is no module 'shop.nothing' in "),
        ("shop:buss", "shop has no buss; did you mean 'bus'?"),
        ("shop:number", "shop:number is a int, not a GoEvent"),
        (
            "shop:make_bus",
            "shop:make_bus is a function, not a GoEvent; if it is a factory, write shop:make_bus()",
        ),
        ("shop:number()", "shop:number(): this is a int, not a function"),
        ("shop:make_later()", "shop:make_later() is an `async def`"),
        ("shop:fail()", "shop:fail() failed: ValueError: no settings (shop.py:"),
        (
            "needy:bus",
            "ModuleNotFoundError: No module named 'a_module_that_does_not_exist' (needy.py:2)",
        ),
        ("broken:bus", "broken cannot be imported: SyntaxError: '(' was never closed"),
        ("broken:bus", "(broken.py:2)"),
        ("raising:bus", "raising cannot be imported: KeyError: 'SHOP' (raising.py:2)"),
        ("ending:bus", "ending cannot be imported: SystemExit: bye (ending.py:2)"),
        ("nonsense://localhost", "no driver for 'nonsense' is installed"),
        (
            "redis://localhost:0x",
            "the URL cannot be read: it is written redis://user:password@host",
        ),
    ],
)
def test_a_wrong_target_is_one_line_and_exit_code_2(shop: Path, target: str, line: str) -> None:
    result = goevent_command("describe", target, cwd=shop)
    assert (result.returncode, result.stdout) == (2, "")
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_prints_of_the_module_do_not_mix_with_the_result(shop: Path) -> None:
    result = goevent_command("describe", "talking:bus", "--json", cwd=shop)
    assert result.stdout.startswith("{")
    assert result.stderr == "hello\n"


def test_the_environment_gives_the_default_target(shop: Path) -> None:
    env = {"GOEVENT_URL": "shop:bus"}
    assert goevent_command("describe", cwd=shop, env=env).stdout.startswith("shop:bus: Memory")
    given = goevent_command("describe", "memory://", cwd=shop, env=env)
    assert given.stdout.startswith("memory://: Memory")


def test_the_default_target_stands_before_the_other_arguments(shop: Path) -> None:
    env = {"GOEVENT_URL": "shop:bus"}
    result = goevent_command("publish", "--ad-hoc", "order.paid", "{}", cwd=shop, env=env)
    assert result.returncode == 2
    assert "shop:bus has no broker" in result.stderr
    without = goevent_command("publish", "order.paid", "{}", cwd=shop)
    assert "Missing argument 'JSON'" in without.stderr


@pytest.mark.parametrize(
    "url",
    [
        "redis://shop:hunter2@127.0.0.1:1",
        "redis+streams://shop:hunter2@127.0.0.1:1?group=g",
        "redis://shop:hunter2@127.0.0.1:1/?nonsense=1",
        "redis://shop:hunter2/x@127.0.0.1:1",
        "nats://shop:hunter2@127.0.0.1:1",
        "amqp://shop:hunter2@127.0.0.1:1",
        "mqtt://shop:hunter2@127.0.0.1:1",
    ],
)
@pytest.mark.parametrize("command", ["describe", "check"])
def test_a_password_is_never_printed(url: str, command: str) -> None:
    result = goevent_command(command, url)
    assert "hunter2" not in result.stdout + result.stderr
    assert len(result.stderr.splitlines()) <= 1
    if command == "check":
        assert result.returncode in (1, 2)


def test_a_traceback_is_shown_only_if_it_is_asked_for(shop: Path) -> None:
    short = goevent_command("describe", "raising:bus", cwd=shop)
    assert "Traceback" not in short.stderr
    whole = goevent_command("--traceback", "describe", "raising:bus", cwd=shop)
    assert "Traceback" in whole.stderr
    assert whole.returncode == 2
