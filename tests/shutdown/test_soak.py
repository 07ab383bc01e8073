"""Memory use over long runs: it does not grow. Each check is a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.limits import SUBPROCESS_SECONDS

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="reads the memory in use from /proc"
)

PREAMBLE = """
import gc, logging, os
import trio
from goevent import Event, GoEvent

logging.getLogger("goevent").disabled = True
MB = 1_000_000
# Of 200,000 events: 10 bytes of each, which is less than an object and a reference to it.
ALLOWED = 2 * MB
PAGE = os.sysconf("SC_PAGESIZE")

def memory():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE

class Tick(Event, name="soak.tick"):
    n: int

class Heavy(Event, name="soak.heavy"):
    body: bytes

bus = GoEvent()

async def run(first, last):
    for n in range(first, last):
        await bus.dispatch(Tick(n))
    await bus.wait()
"""

HEALTHY = """
@bus.listener(Tick)
def inline(event):
    pass

@bus.listener(Tick)
async def queued(event):
    pass

@bus.listener(Tick)
async def suspending(event):
    if event.n % 100 == 0:
        await trio.lowlevel.checkpoint()

async def main():
    async with bus:
        await run(0, 50_000)
        before = memory()
        await run(50_000, 250_000)
        grown = memory() - before
    ledger = await bus.close()
    assert ledger.accepted == ledger.completed == 750_000, ledger
    assert bus.error_count == 0
    assert grown < ALLOWED, f"grown by {grown / MB:.1f} MB"

trio.run(main)
"""

FAILING = """
{on_error}

@bus.listener(Tick)
def inline(event):
    if event.n % 2:
        raise ValueError(event.n)

@bus.listener(Tick)
async def queued(event):
    if not event.n % 2:
        raise ValueError(event.n)

async def main():
    async with bus:
        await run(0, 50_000)
        before = memory()
        await run(50_000, 250_000)
        grown = memory() - before
        assert len(bus.errors) == 10_000
        assert bus.error_count == 250_000
    ledger = await bus.close()
    assert (ledger.accepted, ledger.completed, ledger.failed) == (500_000, 250_000, 250_000)
    assert grown < ALLOWED, f"grown by {{grown / MB:.1f}} MB"

trio.run(main)
"""

LARGE = """
{listener} fails(event):
    raise ValueError({message})

async def main():
    async with bus:
        for _ in range(250):
            await bus.dispatch(Heavy(bytes(100_000)))
        await bus.wait()
        before = memory()
        for _ in range({count}):
            await bus.dispatch(Heavy(bytes(100_000)))
        await bus.wait()
        grown = memory() - before
        assert len(bus.errors) == min(10_000, {count} + 250)
        assert bus.error_count == {count} + 250
    assert grown < 60 * MB, f"grown by {{grown / MB:.1f}} MB"

trio.run(main)
"""


def run(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREAMBLE + program],
        capture_output=True,
        text=True,
        timeout=SUBPROCESS_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_many_events_leave_no_memory_behind() -> None:
    run(HEALTHY)


@pytest.mark.parametrize(
    "on_error",
    ["", "bus.on_error(lambda error: None)"],
    ids=["nobody looks", "on_error looks"],
)
def test_many_failures_leave_ten_thousand_in_memory(on_error: str) -> None:
    run(FAILING.format(on_error=on_error))


LISTENERS = {
    "inline": "@bus.listener(Heavy)\ndef",
    "mailbox": "@bus.listener(Heavy, mailbox=10)\nasync def",
}


@pytest.mark.parametrize("kind", LISTENERS)
def test_failures_of_large_events_do_not_keep_the_events(kind: str) -> None:
    run(LARGE.format(listener=LISTENERS[kind], message="'short'", count=3_000))


SLOW = """
@bus.on_error
async def slow(error):
    await trio.sleep_forever()

"""


def test_failures_that_wait_for_a_slow_on_error_do_not_keep_the_events() -> None:
    listener = SLOW + LISTENERS["inline"]
    run(LARGE.format(listener=listener, message="'short'", count=3_000))


@pytest.mark.parametrize("kind", LISTENERS)
def test_failures_that_quote_large_events_do_not_keep_the_quotes(kind: str) -> None:
    run(LARGE.format(listener=LISTENERS[kind], message="event.body.decode()", count=3_000))
