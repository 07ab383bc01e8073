"""`goevent top`: frames in a pipe, on a terminal, of a bus, of a live page and of a broker."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import termios
from pathlib import Path

import pytest
import trio
from tests.support.command import COMMAND, command_environment, run_goevent
from tests.support.limits import HANG_SECONDS
from tests.support.redis_server import free_port, redis_server

from goevent import Backlog, Event, GoEvent
from goevent.cli.meter import Meter, Sample
from goevent.web import Page, serve_http

PROGRAM = """
from goevent import Event, GoEvent

bus = GoEvent()

@bus.listener("order.paid", name="invoices")
async def send(event): ...
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(PROGRAM)
    return tmp_path


async def test_one_frame_of_a_bus_that_runs_here(shop: Path) -> None:
    result = await run_goevent("top", "shop:bus", "--once", cwd=shop)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("shop:bus: open\naccepted/s 0.0  done/s 0.0  depth 0")
    assert "invoices" in result.stdout
    assert "\x1b" not in result.stdout


async def test_one_frame_as_json(shop: Path) -> None:
    result = await run_goevent("top", "shop:bus", "--once", "--json", cwd=shop)
    frame = json.loads(result.stdout)
    assert frame["listeners"][0]["listener"] == "invoices"
    assert frame["failed"] == 0


async def test_one_frame_of_a_live_page_with_its_token() -> None:
    token = "a-token-of-the-page"
    bus = GoEvent()
    bus.subscribe(print, "order.paid", async_=True, name="printer")
    async with bus, trio.open_nursery() as nursery:
        page = Page(bus, token=token)
        address = f"127.0.0.1:{free_port()}"
        await nursery.start(serve_http, page, address)
        url = f"http://{address}"
        env = {"GOEVENT_WEB_TOKEN": token}
        good = await run_goevent("top", url, "--once", env=env, fresh=True)
        refused = await run_goevent("top", url, "--once")
        wrong = await run_goevent("top", f"{url}/nowhere", "--once", "--token", token)
        nursery.cancel_scope.cancel()
    assert (good.returncode, good.stderr) == (0, "")
    assert "printer" in good.stdout
    assert refused.returncode == 2
    assert "give its token in GOEVENT_WEB_TOKEN" in refused.stderr
    assert wrong.returncode == 1
    for result in (good, refused, wrong):
        assert token not in result.stdout + result.stderr


async def test_a_page_that_does_not_answer_is_a_failure_in_one_line() -> None:
    result = await run_goevent("top", f"http://127.0.0.1:{free_port()}", "--once")
    assert result.returncode == 1
    assert "does not answer" in result.stderr
    assert len(result.stderr.splitlines()) == 1


async def test_one_frame_of_a_group_at_its_broker() -> None:
    async with redis_server("appendonly yes") as server:
        url = f"redis+streams://{server.addr}"
        async with GoEvent(f"{url}?group=billing") as bus:
            bus.subscribe(lambda event: None, "order.paid", name="quiet")
            await bus.ready()
        await run_goevent("publish", url, "order.paid", "{}")
        asked = ("top", url, "--group", "billing", "--once", "--json")
        result = await run_goevent(*asked, fresh=True)
        without = await run_goevent("top", url, "--once")
    frame = json.loads(result.stdout)
    assert (frame["lag"], frame["pending"], frame["dead letters"]) == (1, 0, 0)
    assert frame["backlog"][0]["event"] == "order.paid"
    assert without.returncode == 2
    assert "give a group" in without.stderr


@pytest.mark.parametrize("ending", [b"q", signal.SIGINT, signal.SIGTERM])
async def test_the_terminal_is_given_back_as_it_was(
    shop: Path, ending: bytes | signal.Signals
) -> None:
    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)
    process = subprocess.Popen(
        [*COMMAND, "top", "shop:bus", "--interval", "0.2"],
        cwd=shop,
        stdin=follower,
        stdout=follower,
        stderr=subprocess.PIPE,
        env=command_environment({"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}),
    )
    try:
        seen = b""
        with trio.fail_after(HANG_SECONDS):
            while b"invoices" not in seen:
                await trio.lowlevel.wait_readable(leader)
                seen += os.read(leader, 1 << 16)
            if isinstance(ending, bytes):
                os.write(leader, ending)
            else:
                process.send_signal(ending)
            while process.poll() is None:
                with trio.move_on_after(0.1):
                    await trio.lowlevel.wait_readable(leader)
                    seen += os.read(leader, 1 << 16)
            assert process.stderr is not None
            assert process.stderr.read() == b""
        with trio.move_on_after(0.5):
            while b"\x1b[?1049l" not in seen:
                await trio.lowlevel.wait_readable(leader)
                seen += os.read(leader, 1 << 16)
        assert process.returncode == 0
        assert b"\x1b[?1049h" in seen  # the other screen
        assert b"\x1b[?1049l" in seen  # and back
        assert termios.tcgetattr(follower) == before
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
        os.close(leader)
        os.close(follower)


async def test_rates_are_those_since_the_sample_before() -> None:
    async with GoEvent() as bus:
        bus.subscribe(lambda event: None, "order.paid", name="[bold]counts")
        meter = Meter("shop")
        meter.frame(Sample(state="open", snapshot=bus.snapshot()), 10.0)
        for _ in range(5):
            await bus.dispatch(Event("order.paid"))
        frame = meter.frame(Sample(state="open", snapshot=bus.snapshot()), 12.0)
    assert (frame.facts["accepted/s"], frame.facts["done/s"]) == (2.5, 2.5)
    assert frame.tables[0][2][0][:2] == ("[bold]counts", 2.5)


def test_a_lag_that_is_not_known_is_a_question_mark() -> None:
    backlogs = (Backlog(event_name="a", lag=None, pending=2), Backlog(event_name="b", lag=3))
    frame = Meter("shop").frame(Sample(state="connected", backlogs=backlogs), 0.0)
    assert (frame.facts["lag"], frame.facts["pending"]) == ("?", 2)
