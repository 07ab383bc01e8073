"""The walks that `docs/inside/architecture.md` prints are the files that an event passes."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio
from tests.support.redis_buses import until

import goevent
import goevent_faststream
from goevent import Config, DispatchHandle, Event, EventRegistry, GoEvent

PACKAGE = Path(goevent.__file__).parent
DRIVERS = Path(goevent_faststream.__file__).parents[1]
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
def passed() -> Generator[dict[str, None]]:
    """Yield the files of goevent whose functions are called, each once, in order.

    Calls in threads that start meanwhile count, too.
    """
    found: dict[str, None] = {}
    known: set[str] = set()

    def note(frame: FrameType, kind: str, _: Any) -> None:
        # Every call of the program comes here, so a file is looked at once.
        name = frame.f_code.co_filename
        if kind == "call" and name not in known:
            known.add(name)
            for root in (PACKAGE, DRIVERS):
                if name.startswith(f"{root}/"):
                    found.setdefault(name.removeprefix(f"{root}/"))

    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)
        threading.setprofile(before)


async def walk(bus: GoEvent) -> list[str]:
    """Return the files that an event passes from dispatch to the end of `wait`."""
    async with bus:
        # The first events of a class find their route and spawn workers.
        for _ in range(3):
            await (await bus.dispatch(Walked())).wait()
        with passed() as files:
            await (await bus.dispatch(Walked())).wait()
    return [*files]


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


async def test_a_kafka_delivery_passes_the_steps_that_the_page_prints() -> None:
    pytest.importorskip("aiokafka")
    kafka = pytest.importorskip("confluent_kafka")
    expected = steps("A Kafka delivery, from the client to the commit")
    assert len(expected) <= 12
    # This client runs a mock of a broker in the process.
    mock = kafka.Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = mock.list_topics(timeout=10).brokers.values()
    url = f"kafka://{broker.host}:{broker.port}?group=walk"
    with passed() as files:
        bus = GoEvent(Config(driver=url, registry=registry))

        @bus.listener(Walked)
        async def listen(event: Walked) -> None: ...

        async with bus:
            await (await bus.dispatch(Walked())).wait()
            await until(lambda: files.keys() >= set(expected), seconds=30)
