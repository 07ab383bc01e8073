"""Browsers get frames over one connection, each what it does not have yet."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from tests.support.checks import ignore_error
from tests.support.limits import HANG_SECONDS
from tests.support.web_pages import TOKEN, asking, served
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import DriverSnapshot, Event, GoEvent, MemoryDriver, MemoryHub, Snapshot
from goevent.web import Page
from goevent.web.stream import MAX_STREAMS


class Browser:
    """One client of the stream, called as an ASGI server would.

    Attributes:
        takes: The connection takes bytes; while it does not, the page waits.
        frames: The frames that it got.
        is_over: The page has ended the stream.
    """

    def __init__(self, page: Page) -> None:
        self.frames: list[dict[str, Any]] = []
        self.is_over = False
        self.status = 0
        self.takes = trio.Event()
        self.takes.set()
        self.gone = trio.Event()
        self._page = page

    async def run(self) -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/events",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "scheme": "http",
        }
        await self._page(scope, self._receive, self._send)
        self.is_over = True

    async def _receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.takes.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
        for part in message.get("body", b"").split(b"\n\n"):
            if part.startswith(b"event: frame"):
                self.frames.append(json.loads(part.partition(b"data: ")[2]))


@asynccontextmanager
async def browsers(page: Page, count: int) -> AsyncGenerator[list[Browser]]:
    opened = [Browser(page) for _ in range(count)]
    async with trio.open_nursery() as nursery:
        for each in opened:
            nursery.start_soon(each.run)
        await wait_all_tasks_blocked()
        yield opened
        nursery.cancel_scope.cancel()


async def test_the_first_frame_comes_at_once_and_holds_everything(
    bus: GoEvent, mock_clock: MockClock
) -> None:
    bus.subscribe(lambda event: None, "order.paid", name="log")
    async with browsers(Page(bus), 1) as (browser,):
        (frame,) = browser.frames
        assert frame["type"] == "full"
        assert frame["state"] == "open"
        assert frame["listeners"] == [["log", ["order.paid"], True]]


async def test_later_frames_hold_what_has_changed(bus: GoEvent, mock_clock: MockClock) -> None:
    bus.subscribe(lambda event: None, "order.paid", name="log")
    bus.subscribe(lambda event: None, "order.sent", name="idle")
    async with browsers(Page(bus), 1) as (browser,):
        await bus.dispatch(Event("order.paid"))
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        frame = browser.frames[1]
        assert frame["type"] == "delta"
        assert [row[0] for row in frame["rows"]] == [0]
        assert frame["events"] == [["order.paid", 1, ["log"]]]
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        assert browser.frames[2]["rows"] == []


async def test_a_new_listener_makes_a_full_frame(bus: GoEvent, mock_clock: MockClock) -> None:
    async with browsers(Page(bus), 1) as (browser,):
        bus.subscribe(lambda event: None, "order.paid", name="log")
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        assert browser.frames[1]["type"] == "full"


async def test_a_name_that_is_not_unicode_travels(mock_clock: MockClock) -> None:
    bus = GoEvent()
    bus.on_error(ignore_error)
    bus.subscribe(lambda event: 1 / 0, "order.paid", name="half \ud800")
    async with bus, browsers(Page(bus), 1) as (browser,):
        await bus.dispatch(Event("order.paid"))
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        full, delta = browser.frames
        assert full["listeners"][0][0] == "half ?"
        assert delta["errors"][0][3] == "half ?"


async def test_a_driver_without_a_state_leaves_the_page_open(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class SilentDriver(MemoryDriver):
        fails = False

        def snapshot(self) -> DriverSnapshot:
            if self.fails:
                raise OSError("no answer")
            return DriverSnapshot(connected=True)

    driver = SilentDriver(MemoryHub())
    async with GoEvent(driver) as bus, browsers(Page(bus), 1) as (browser,):
        driver.fails = True
        for _ in range(2):
            mock_clock.jump(1)
            await wait_all_tasks_blocked()
        assert len(browser.frames) == 1
        assert caplog.text.count("the live page gets no snapshot") == 1
        driver.fails = False
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        assert browser.frames[1]["state"] == "open"


async def test_cleared_failures_leave_the_page(mock_clock: MockClock) -> None:
    bus = GoEvent()
    bus.on_error(ignore_error)
    bus.subscribe(lambda event: 1 / 0, "order.paid", name="book")
    async with bus:
        for _ in range(2):
            await bus.dispatch(Event("order.paid"))
        async with browsers(Page(bus), 1) as (browser,):
            for number in (1, 2, 3):
                bus.clear_errors()
                if number > 1:
                    await bus.dispatch(Event("order.paid"))
                mock_clock.jump(1)
                await wait_all_tasks_blocked()
            assert [frame["type"] for frame in browser.frames] == ["full", "full", "delta", "full"]
            numbers = [[each[0] for each in frame["errors"]] for frame in browser.frames]
            assert numbers == [[1, 2], [], [3], [4]]
            mock_clock.jump(1)
            await wait_all_tasks_blocked()
            assert "errors" not in browser.frames[4]


def test_a_bus_that_is_opened_again_in_another_run_goes_on() -> None:
    bus = GoEvent()
    page = Page(bus)

    async def look() -> None:
        async with bus, browsers(page, 1) as (browser,):
            clock.jump(1)
            await wait_all_tasks_blocked()
            assert [frame["state"] for frame in browser.frames] == ["open", "open"]

    for start in (1000.0, 0.0, 5000.0):
        clock = MockClock()
        clock.jump(start)
        trio.run(look, clock=clock)


async def test_all_browsers_share_one_sample(
    bus: GoEvent, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Snapshot] = []
    real = bus.snapshot
    page = Page(bus)

    def snapshot() -> Snapshot:
        taken.append(real())
        return taken[-1]

    monkeypatch.setattr(bus, "snapshot", snapshot)
    async with browsers(page, 5) as opened:
        for _ in range(4):
            mock_clock.jump(1)
            await wait_all_tasks_blocked()
        assert [len(each.frames) for each in opened] == [5] * 5
        assert len(taken) == 5


async def test_nothing_is_sampled_without_a_browser(
    bus: GoEvent, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(bus)
    async with browsers(page, 1) as (browser,):
        browser.gone.set()
        await wait_all_tasks_blocked()
        assert browser.is_over
        monkeypatch.setattr(bus, "snapshot", None)
        mock_clock.jump(10)
        await wait_all_tasks_blocked()


async def test_a_slow_browser_gets_only_the_newest_frame(
    bus: GoEvent, mock_clock: MockClock
) -> None:
    bus.subscribe(lambda event: None, "order.paid", name="log")
    async with browsers(Page(bus), 2) as (slow, fast):
        slow.takes = trio.Event()
        for _ in range(5):
            await bus.dispatch(Event("order.paid"))
            mock_clock.jump(1)
            await wait_all_tasks_blocked()
        assert len(fast.frames) == 6
        slow.takes.set()
        await wait_all_tasks_blocked()
        # The frame that it was being sent, and the newest one, which is full.
        assert [frame["number"] for frame in slow.frames] == [1, 2, 6]
        assert slow.frames[-1]["type"] == "full"
        assert slow.frames[-1]["ledger"][1] == 5


async def test_a_browser_that_takes_nothing_is_given_up(
    bus: GoEvent, mock_clock: MockClock
) -> None:
    async with browsers(Page(bus), 1) as (browser,):
        browser.takes = trio.Event()
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        assert not browser.is_over
        mock_clock.jump(31)
        await wait_all_tasks_blocked()
        assert browser.is_over


async def test_the_stream_ends_when_the_bus_has_closed(mock_clock: MockClock) -> None:
    bus = GoEvent()
    async with bus:
        page = Page(bus)
        async with browsers(page, 1) as (browser,):
            await bus.close()
            mock_clock.jump(1)
            await wait_all_tasks_blocked()
            assert browser.frames[-1]["state"] == "closed"
            assert browser.is_over


async def test_a_failure_is_told_once(mock_clock: MockClock) -> None:
    bus = GoEvent()
    bus.on_error(ignore_error)
    bus.subscribe(lambda event: 1 / 0, "order.paid", name="book")
    async with bus, browsers(Page(bus), 1) as (browser,):
        for _ in range(2):
            await bus.dispatch(Event("order.paid"))
            mock_clock.jump(1)
            await wait_all_tasks_blocked()
        told = [frame["errors"] for frame in browser.frames]
        assert [[error[0] for error in each] for each in told] == [[], [1], [2]]
        assert told[1][0][2:] == [
            "order.paid",
            "book",
            "failed",
            1,
            "ZeroDivisionError: division by zero",
        ]


async def test_too_many_browsers_are_refused(bus: GoEvent, mock_clock: MockClock) -> None:
    page = Page(bus)
    async with browsers(page, MAX_STREAMS), asking(page) as client:
        assert (await client.get("/events")).status_code == 503


async def test_a_question_for_the_headers_ends(bus: GoEvent) -> None:
    async with asking(Page(bus)) as client:
        answer = await client.head("/events")
        assert answer.headers["content-type"].startswith("text/event-stream")


async def test_the_stream_travels_over_http(bus: GoEvent) -> None:
    async with served(Page(bus, token=TOKEN)) as url:
        host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
        with trio.fail_after(HANG_SECONDS):
            async with await trio.open_tcp_stream(host, int(port)) as connection:
                request = f"GET /events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}"
                await connection.send_all(f"{request}\r\n\r\n".encode())
                got = b""
                while got.count(b"event: frame") < 3:
                    got += await connection.receive_some()
    assert b"content-type: text/event-stream" in got
    assert got.count(b'"type":"full"') == 1
    assert got.count(b'"type":"delta"') == 2
