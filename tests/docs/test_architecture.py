"""The walks that `docs/inside/architecture.md` prints are the files that an event passes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import trio

import goevent
from goevent import Config, DispatchHandle, Event, EventRegistry, GoEvent

PACKAGE = Path(goevent.__file__).parent
PAGE = PACKAGE.parents[1] / "docs" / "inside" / "architecture.md"

registry = EventRegistry()


class Walked(Event, name="walked", registry=registry):
    pass


class Hooks:
    """Middleware that does nothing."""

    def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
        yield


def section(title: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    _, _, rest = text.partition(f"\n### {title}\n")
    assert rest, title
    return re.split(r"^##", rest, flags=re.MULTILINE)[0]


def files_in(text: str) -> list[str]:
    """Return the files that a text names, each once, in order."""
    return [*dict.fromkeys(re.findall(r"`([\w/]+\.py)`", text))]


def steps(title: str) -> list[str]:
    """Return the files that the numbered steps of a walk begin with."""
    return re.findall(r"^\d+\. `([\w/]+\.py)`", section(title), re.MULTILINE)


@contextmanager
def passed() -> Iterator[list[str]]:
    """Yield the list of the files of goevent whose functions are called, each once, in order."""
    found: dict[str, None] = {}

    def note(frame: FrameType, kind: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if kind == "call" and PACKAGE in path.parents:
            found.setdefault(path.relative_to(PACKAGE).as_posix())

    files: list[str] = []
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield files
    finally:
        sys.setprofile(before)
        files.extend(found)


async def walk(bus: GoEvent) -> list[str]:
    """Return the files that an event passes from dispatch to the end of `wait`."""
    async with bus:
        # The first events of a class find their route and spawn workers.
        for _ in range(3):
            await (await bus.dispatch(Walked())).wait()
        with passed() as files:
            await (await bus.dispatch(Walked())).wait()
    return files


def test_an_ordinary_event_passes_the_files_that_the_page_prints() -> None:
    bus = GoEvent(Config(registry=registry))

    @bus.listener(Walked)
    def inline(event: Walked) -> None: ...

    @bus.listener(Walked)
    async def by_mailbox(event: Walked) -> None: ...

    files = trio.run(walk, bus)
    assert set(files) - {"_trio_internals.py"} == set(steps("An ordinary event"))
    assert len(files) <= 7


def test_a_special_event_passes_the_steps_that_the_page_prints() -> None:
    title = "An event on a special route"
    bus = GoEvent(Config(registry=registry, middleware=(Hooks(),)))

    @bus.listener(Walked, async_=False)
    async def awaited(event: Walked) -> None: ...

    @bus.listener(Walked, when=lambda event: True)
    async def filtered(event: Walked) -> None: ...

    files = trio.run(walk, bus)
    assert steps(title) == [file for file in files if file in steps(title)]
    named = {*files_in(section(title)), *files_in(section("An ordinary event"))}
    assert set(files) <= named, set(files) - named
