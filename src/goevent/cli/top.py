"""`goevent top`: a bus, a live page or a group at its broker, live in the terminal.

A source takes a sample when it is asked, `Meter` makes rates of two samples, and a screen shows the
frame. There are three sources: a bus that runs here, the snapshots of a live page, and the backlog
of a group. On a terminal the frames replace each other; in a pipe they follow each other.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import click
import trio

from .. import Backlog, DriverError, GoEvent, ListenerSnapshot, Snapshot, UnsupportedError
from ..drivers import inspected
from .asked_broker import (
    asked,
    dead_letters_of,
    group_of,
    group_option,
    listened_names,
    run_asking,
)
from .failures import one_line
from .output import (
    json_option,
    on_terminal,
    printable,
    rich_table,
    write_json,
    write_line,
    write_table,
)
from .page_client import PageClient, is_page_url
from .targets import Target, TargetCommand, load_target

TOKEN_VARIABLE = "GOEVENT_WEB_TOKEN"  # noqa: S105 - the name of a variable
FIRST_RATE_SECONDS = 0.3
"""The time to the second sample, so that the first rates come soon."""
SHOWN_LISTENERS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a source tells at one moment.

    Attributes:
        state: The state of the bus, or of the connection to the broker.
        snapshot: The snapshot of a bus; None for a group at its broker.
        backlogs: The work that the broker holds for the group.
        dead_letters: The dead letters at the broker; None if it was not asked.
    """

    state: str
    snapshot: Snapshot | None = None
    backlogs: Sequence[Backlog] = ()
    dead_letters: int | None = None


Sampler = Callable[[], Awaitable[Sample]]


@dataclass(slots=True)
class Frame:
    """One picture: facts, and tables with a title, columns and rows."""

    title: str
    facts: dict[str, object]
    tables: list[tuple[str, Sequence[str], list[Sequence[object]]]] = field(
        default_factory=list[tuple[str, Sequence[str], list[Sequence[object]]]]
    )


@click.command("top", cls=TargetCommand)
@click.argument("target", metavar="TARGET|URL")
@group_option
@click.option("--once", is_flag=True, help="Show one frame, and end.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="The time between frames.",
)
@click.option(
    "--token",
    envvar=TOKEN_VARIABLE,
    metavar="TOKEN",
    help="The token of a live page; better in GOEVENT_WEB_TOKEN, where other users cannot see it.",
)
@json_option
def command(
    target: str, group: str | None, once: bool, interval: float, token: str | None, as_json: bool
) -> None:
    """Show a bus live: rates, mailboxes, failures, backlog and dead letters.

    With module:bus it runs the bus here, as goevent run does. With the http:// address of a live
    page it shows the bus of that page. With the URL of a broker it shows the backlog and the dead
    letters of --group, and takes no event. It ends by q or Ctrl-C.

    \b
    Example:
      goevent top http://127.0.0.1:8080
    """
    if is_page_url(target):
        client = PageClient(target, token)
        source = partial(page_source, client)
        name = client.name
    else:
        found = load_target(target, group=group)
        name = found.name
        if found.is_url:
            chosen = group_of(found, group)
            name = f"{name}, group {chosen}"
            source = partial(broker_source, found, chosen)
        else:
            source = partial(bus_source, found.bus)
    run_asking(show, source, name, once, interval, as_json)


# -- sources


@asynccontextmanager
async def bus_source(bus: GoEvent) -> AsyncGenerator[Sampler]:
    """Run a bus while the body shows it; its listeners finish at the end."""

    async def sample() -> Sample:
        await trio.lowlevel.checkpoint()
        return sample_of(bus.snapshot())

    async with bus:
        yield sample


@asynccontextmanager
async def page_source(client: PageClient) -> AsyncGenerator[Sampler]:
    """Ask a live page for the snapshots of its bus."""

    async def sample() -> Sample:
        return sample_of(await client.snapshot())

    yield sample


def sample_of(snapshot: Snapshot) -> Sample:
    """Return the sample of a snapshot."""
    driver = snapshot.driver
    is_lost = driver is not None and not driver.connected and snapshot.state == "open"
    return Sample(
        state="open, not connected to the broker" if is_lost else snapshot.state,
        snapshot=snapshot,
        backlogs=() if driver is None else driver.backlogs,
    )


@asynccontextmanager
async def broker_source(target: Target, group: str) -> AsyncGenerator[Sampler]:
    """Ask the broker for the backlog and the dead letters of a group.

    Raises:
        UnsupportedError: It can tell neither.
    """
    driver = target.bus.driver
    ask = letters = None
    try:
        ask = inspected(driver, "lag").lag
        letters = dead_letters_of(driver)
    except UnsupportedError:
        if ask is None:
            raise

    async def sample() -> Sample:
        backlogs = await ask(group, listened_names(target))
        dead = None if letters is None else await letters.count()
        return Sample(state="connected", backlogs=backlogs, dead_letters=dead)

    async with asked(target, on_error=None if not on_terminal() else quiet):
        yield sample


def quiet(error: object) -> None:
    """Leave a report of the driver to the next frame: a line would break the screen."""


# -- frames


class Meter:
    """Makes frames of samples; the rates are those since the sample before."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._before: tuple[float, Snapshot] | None = None

    def frame(self, sample: Sample, now: float) -> Frame:
        """Return the frame of a sample.

        Args:
            sample: The newest sample.
            now: The time by a steady clock, in seconds.
        """
        frame = Frame(f"{self._name}: {sample.state}", {})
        if sample.snapshot is not None:
            frame.facts |= self._facts(sample.snapshot, now)
            frame.tables.append(self._listeners(sample.snapshot, now))
            self._before = now, sample.snapshot
        if sample.dead_letters is not None:
            frame.facts["dead letters"] = sample.dead_letters
        if sample.backlogs or sample.snapshot is None:
            frame.facts["lag"] = total([each.lag for each in sample.backlogs])
            frame.facts["pending"] = sum(each.pending for each in sample.backlogs)
            frame.facts["oldest s"] = max(map(oldest, sample.backlogs), default=0.0)
            rows: list[Sequence[object]] = [
                (
                    each.event_name,
                    "?" if each.lag is None else each.lag,
                    each.pending,
                    "?" if each.oldest_waiting is None else round(each.oldest_waiting, 1),
                    round(each.oldest_pending, 1),
                )
                for each in sample.backlogs
            ]
            columns = ("event", "lag", "pending", "oldest waiting s", "oldest pending s")
            frame.tables.append(("Backlog", columns, rows))
        return frame

    def _facts(self, snapshot: Snapshot, now: float) -> dict[str, object]:
        ledger = snapshot.ledger
        ended = ledger.completed + ledger.failed + ledger.dropped + ledger.abandoned
        before_ended = before_accepted = 0
        if self._before is not None:
            before = self._before[1].ledger
            before_accepted = before.accepted
            before_ended = before.completed + before.failed + before.dropped + before.abandoned
        return {
            "accepted/s": self._rate(ledger.accepted, before_accepted, now),
            "done/s": self._rate(ended, before_ended, now),
            "depth": sum(each.depth for each in snapshot.listeners),
            "in flight": sum(each.in_flight for each in snapshot.listeners),
            "oldest mail s": round(max((e.oldest_age for e in snapshot.listeners), default=0.0), 1),
            "failed": ledger.failed,
            "errors": snapshot.error_count,
            "redelivered": snapshot.redelivered,
            "dead letters": snapshot.dead_lettered,
            "missing": snapshot.missing,
        }

    def _rate(self, count: int, before: int, now: float) -> float:
        if self._before is None or now <= self._before[0]:
            return 0.0
        # A bus that was opened anew begins at 0.
        return round(max(0, count - before) / (now - self._before[0]), 1)

    def _listeners(
        self, snapshot: Snapshot, now: float
    ) -> tuple[str, Sequence[str], list[Sequence[object]]]:
        before: dict[str, ListenerSnapshot] = {}
        if self._before is not None:
            before = {each.name: each for each in self._before[1].listeners}
        rows: list[tuple[Any, ...]] = []
        for each in snapshot.listeners:
            earlier = before.get(each.name)
            done = 0 if earlier is None else earlier.completed + earlier.failed
            rate = self._rate(each.completed + each.failed, done, now)
            age = round(each.oldest_age, 1)
            rows.append((each.name, rate, each.depth, age, each.in_flight, each.failed, each.state))
        # The busy ones first; the others keep the order of registration.
        rows.sort(key=lambda row: (-row[2], -row[4], -row[1]))
        hidden = len(rows) - SHOWN_LISTENERS
        title = "Listeners" if hidden <= 0 else f"Listeners ({hidden} more)"
        columns = ("listener", "done/s", "depth", "oldest s", "in flight", "failed", "state")
        return title, columns, [*rows[:SHOWN_LISTENERS]]


def total(lags: Sequence[int | None]) -> int | str:
    """Return the sum of lags; a question mark if one is not known."""
    return "?" if None in lags else sum(each for each in lags if each is not None)


def oldest(backlog: Backlog) -> float:
    """Return the age of the oldest event of a backlog in seconds."""
    return round(max(backlog.oldest_pending, backlog.oldest_waiting or 0.0), 1)


# -- the screen


Draw = Callable[[Frame], None]


async def show(
    source: Callable[[], AbstractAsyncContextManager[Sampler]],
    name: str,
    once: bool,
    interval: float,
    as_json: bool,
) -> None:
    """Show frames until the user ends it, or one frame.

    The first sample fails the command; a later failure of the source is a state to show.
    """
    live = on_terminal() and not once and not as_json
    # The end by a key or a signal cancels the frames only: the listeners of a bus finish.
    async with source() as sample, trio.open_nursery() as nursery:
        await nursery.start(watch_signals, nursery.cancel_scope)
        with screen(live) as draw:
            if live and sys.stdin.isatty():
                nursery.start_soon(watch_keys, nursery.cancel_scope)
            await draw_frames(sample, Meter(name), draw_json if as_json else draw, once, interval)
        nursery.cancel_scope.cancel()


async def draw_frames(
    sample: Sampler, meter: Meter, draw: Draw, once: bool, interval: float
) -> None:
    """Draw a frame in each interval; the first two come sooner."""
    first = meter.frame(await sample(), trio.current_time())
    if not once:
        draw(first)
    await trio.sleep(FIRST_RATE_SECONDS)
    while True:
        # Each frame begins with a wait for its source, which is a checkpoint.
        started = trio.current_time()
        try:
            newest = await sample()
        except (DriverError, OSError) as error:
            newest = Sample(state=f"no answer: {one_line(str(error))}")
        draw(meter.frame(newest, trio.current_time()))
        if once:
            return
        await trio.sleep_until(started + interval)


async def watch_signals(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """End the frames by Ctrl-C or SIGTERM."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


async def watch_keys(scope: trio.CancelScope) -> None:
    """End the frames by the key q."""
    descriptor = sys.stdin.fileno()
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        keys = os.read(descriptor, 64)
        if not keys or b"q" in keys.lower():
            scope.cancel()
            return


def draw_json(frame: Frame) -> None:
    """Write a frame as one line of JSON."""
    value: dict[str, Any] = {"title": frame.title, **frame.facts}
    for title, columns, rows in frame.tables:
        name = title.partition(" ")[0].lower()
        value[name] = [dict(zip(columns, row, strict=True)) for row in rows]
    write_json(value, lines=True)
    sys.stdout.flush()


def draw_plain(frame: Frame) -> None:
    """Write a frame as lines."""
    write_line(frame.title)
    write_line(facts_line(frame))
    for title, columns, rows in frame.tables:
        write_table(title, columns, rows)
    write_line()
    sys.stdout.flush()


def facts_line(frame: Frame) -> str:
    """Return the facts of a frame in one line."""
    return "  ".join(f"{name} {value}" for name, value in frame.facts.items())


@contextmanager
def screen(live: bool) -> Generator[Draw]:
    """Take the whole terminal while the body runs, and give it back as it was.

    Args:
        live: False to write the frames one after another.
    """
    if not live:
        yield draw_plain
        return
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with keys_at_once(), Live(screen=True, auto_refresh=False) as picture:

        def draw(frame: Frame) -> None:
            parts = [rich_table(*each) for each in frame.tables]
            title = Text(printable(frame.title), style="bold")
            foot = Text("q ends", style="dim")
            picture.update(Group(title, Text(facts_line(frame)), *parts, foot), refresh=True)

        yield draw


@contextmanager
def keys_at_once() -> Generator[None]:
    """Have the terminal hand over each key without a line, and not show it."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
