"""The examples in the docstrings of goevent and its drivers.

An example with prompts (`>>>`) is run, and its output is compared. Its statements may use `await`
and `async with`, each in a `trio.run` of its own. It may use all public names without an import.

An example without prompts, in a literal block (`::`) or in a fence (three backquotes and `python`),
is only compiled: it needs a server, or it never ends.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import doctest
import importlib
import inspect
import io
import re
import textwrap
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import trio

import goevent
import goevent.drivers
import goevent.middleware
import goevent.testing
import goevent_faststream
import goevent_redis

PUBLIC = (
    goevent,
    goevent.drivers,
    goevent.middleware,
    goevent.testing,
    goevent_redis,
    goevent_faststream,
)
ROOTS = [
    Path(inspect.getfile(module)).parent for module in (goevent, goevent_redis, goevent_faststream)
]
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# The names that a beginner meets first. Each must have an example.
FIRST_NAMES: list[Any] = [
    goevent.Codec,
    goevent.Config,
    goevent.Event,
    goevent.EventError,
    goevent.EventRegistry,
    goevent.DispatchHandle,
    goevent.GoEvent,
    goevent.GoEvent.dispatch,
    goevent.GoEvent.listener,
    goevent.GoEvent.subscribe,
    goevent.GoEvent.wait,
    goevent.GoEvent,
    goevent.GoEvent.close,
    goevent.GoEvent.dispatch,
    goevent.GoEvent.dispatch_from_thread,
    goevent.GoEvent.dispatch_nowait,
    goevent.GoEvent.listener,
    goevent.GoEvent.on_error,
    goevent.GoEvent.ready,
    goevent.GoEvent.register_listener,
    goevent.GoEvent.replay,
    goevent.GoEvent.subscribe,
    goevent.GoEvent.wait,
    goevent.JsonCodec,
    goevent.Listener,
    goevent.ListenerOptions,
    goevent.MemoryHub,
    goevent.Registration,
    goevent.Retry,
    goevent.Supervision,
    goevent.Veto,
    goevent.compile_pattern,
    goevent.current_delivery,
    goevent.register_event_type,
    goevent.upcast,
    goevent.middleware.Deduplicate,
    goevent.middleware.LogEvents,
    goevent.middleware.RateLimit,
    goevent.testing.DriverConformance,
    goevent.testing.Recorder,
    goevent.testing.record,
    goevent.testing.wait_idle,
    goevent_faststream.FastStreamDriver,
    goevent_redis.RedisDriver,
    goevent_redis.RedisStreamsDriver,
]


@dataclasses.dataclass(frozen=True)
class Docstring:
    """A docstring with the place where it stands."""

    module: str
    name: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.module}:{self.name}" if self.name else self.module


def docstrings() -> Iterator[Docstring]:
    """Find the docstrings of all modules, without importing these."""
    for root in ROOTS:
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root.parent).with_suffix("").parts
            module = ".".join(parts).removesuffix(".__init__")
            tree = ast.parse(path.read_text(encoding="utf-8"))
            yield from docstrings_of(tree, module, ())


def docstrings_of(node: ast.AST, module: str, path: tuple[str, ...]) -> Iterator[Docstring]:
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and (
        text := ast.get_docstring(node)
    ):
        yield Docstring(module, ".".join(path), text)
    for child in ast.iter_child_nodes(node):
        name = getattr(child, "name", None)
        yield from docstrings_of(child, module, (*path, name) if isinstance(name, str) else path)


def literal_examples(text: str) -> list[str]:
    """Return the Python code in the fences of a docstring and in the literal blocks of examples."""
    found = [
        textwrap.dedent(code)
        for code in re.findall(r"^ *```python\n(.*?)^ *```", text, re.M | re.S)
    ]
    for section in re.findall(r"^Examples?:\n((?:(?:[ ]{2,}.*)?\n?)+)", text, re.M):
        before, mark, code = textwrap.dedent(section).partition("::\n")
        if mark and ">>>" not in before:
            block = re.match(r"(?:(?:[ ]+.*)?\n?)*", code)
            found.append(textwrap.dedent(block[0] if block is not None else "").strip("\n") + "\n")
    return found


ALL = list(docstrings())
RUN = [each for each in ALL if ">>> " in each.text]
COMPILED = [(each.id, code) for each in ALL for code in literal_examples(each.text)]


def names_for(docstring: Docstring) -> dict[str, Any]:
    """Return the names that an example may use: those of its module, and all public ones."""
    helpers = {
        "asynccontextmanager": asynccontextmanager,
        "dataclass": dataclasses.dataclass,
        "pytest": pytest,
        "trio": trio,
    }
    names = dict(helpers)
    for module in PUBLIC:
        names.update({name: value for name, value in vars(module).items() if name[0] != "_"})
    names.update(vars(importlib.import_module(docstring.module)))
    return {**names, "__name__": "example"}


def run(code: CodeType, names: dict[str, Any]) -> None:
    if not code.co_flags & inspect.CO_COROUTINE:
        exec(code, names)
        return

    async def main() -> None:
        await eval(code, names)

    trio.run(main)


@pytest.fixture
def empty_registry() -> Iterator[None]:
    """Let an example register any event name, and forget its event types afterwards."""
    attributes = vars(goevent.default_registry).values()
    tables: list[dict[Any, Any]] = [each for each in attributes if isinstance(each, dict)]
    saved = [dict(table) for table in tables]
    for table in tables:
        table.clear()
    yield
    for table, entries in zip(tables, saved, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.parametrize("docstring", RUN, ids=lambda docstring: docstring.id)
def test_an_example_runs_and_prints_its_output(
    docstring: Docstring, empty_registry: None, caplog: pytest.LogCaptureFixture
) -> None:
    names = names_for(docstring)
    checker = doctest.OutputChecker()
    for example in doctest.DocTestParser().get_examples(docstring.text, docstring.id):
        code = compile(example.source, docstring.id, "single", FLAGS, dont_inherit=True)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            run(code, names)
        got = output.getvalue()
        assert checker.check_output(example.want, got, OPTIONS), (
            f"{example.source}printed {got!r} instead of {example.want!r}"
        )


@pytest.mark.parametrize(("place", "code"), COMPILED, ids=[place for place, _ in COMPILED])
def test_an_example_that_needs_a_server_compiles(place: str, code: str) -> None:
    assert code.strip()
    compile(code, place, "exec", FLAGS, dont_inherit=True)


@pytest.mark.parametrize("first", FIRST_NAMES, ids=lambda first: first.__qualname__)
def test_a_name_that_a_beginner_meets_has_an_example(first: Any) -> None:
    text = inspect.getdoc(first) or ""
    assert ">>> " in text or literal_examples(text)


def test_examples_of_both_forms_are_found() -> None:
    text = inspect.cleandoc(
        """Do something.

        Example:
            ::

                async with bus:
                    await bus.wait()

        Args:
            one: The first.
        """
    )
    assert literal_examples(text) == ["async with bus:\n    await bus.wait()\n"]
    assert literal_examples("Text.\n\n```python\nx = 1\n```\n") == ["x = 1\n"]
    assert len(RUN) > 30
    assert len(COMPILED) > 5
