"""`goevent top`: a bus, a live page or a group at its broker, live in the terminal.

A source takes a sample when it is asked, `Meter` makes a frame of it, and a screen shows the frame.
There are three sources: a bus that runs here, the snapshots of a live page, and the backlog of a
group. This module owns the command, the sources and the loop.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import click
import trio

from .. import DriverError, GoEvent, Snapshot, UnsupportedError
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
from .meter import Meter, Sample
from .output import json_option, on_terminal
from .page_client import PageClient, is_page_url
from .screen import Draw, draw_json, screen, watch_keys
from .targets import Target, TargetCommand, load_target

# Not imported from `goevent.web`: `goevent top` needs no extra of the page.
TOKEN_VARIABLE = "GOEVENT_WEB_TOKEN"  # noqa: S105 - the name of a variable
FIRST_RATE_SECONDS = 0.3
"""The time to the second sample, so that the first rates come soon."""

TakeSample = Callable[[], Awaitable[Sample]]


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
async def bus_source(bus: GoEvent) -> AsyncGenerator[TakeSample]:
    """Run a bus while the body shows it; its listeners finish at the end."""

    async def sample() -> Sample:
        await trio.lowlevel.checkpoint()
        return sample_of(bus.snapshot())

    async with bus:
        yield sample


@asynccontextmanager
async def page_source(client: PageClient) -> AsyncGenerator[TakeSample]:
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
async def broker_source(target: Target, group: str) -> AsyncGenerator[TakeSample]:
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


# -- the frames


async def show(
    source: Callable[[], AbstractAsyncContextManager[TakeSample]],
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
    sample: TakeSample, meter: Meter, draw: Draw, once: bool, interval: float
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
