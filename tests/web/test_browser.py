"""The page works in a real browser: it loads, lives, keeps strangers out and trusts no text."""

import re
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from playwright.sync_api import Page as BrowserPage, ViewportSize, expect
from tests.support.checks import ignore_error
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import REGISTRY, Paid
from tests.support.streams_buses import StreamsBus, streams_server
from tests.support.web_pages import TOKEN, BrowserThread, browse, served, writes_screenshots
from trio.testing import wait_all_tasks_blocked

from goevent import Config, Event, GoEvent
from goevent.web import Page

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
PHONE = ViewportSize(width=390, height=844)
DESKTOP = ViewportSize(width=1280, height=900)
IMAGES = Path(__file__).parents[2] / "docs" / "img"
MAX_IMAGE_BYTES = 150_000
LOAD_SECONDS = 75.0 if writes_screenshots() else 3.0
"""How long a bus works before its screenshot: the docs show a history."""

expect.set_options(timeout=HANG_SECONDS * 1000)


@asynccontextmanager
async def at_work(bus: GoEvent, *names: str, pause: float = 0.02) -> AsyncGenerator[None]:
    """Dispatch events while the body runs."""

    async def dispatch() -> None:
        while True:
            for name in names:
                await bus.dispatch(Event(name, {"text": HOSTILE}))
            await trio.sleep(pause)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dispatch)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def browser() -> Generator[BrowserThread]:
    """One browser for all tests; each test has a context of its own."""
    thread = BrowserThread()
    yield thread
    thread.close()


def number(text: str) -> int:
    return int(text.replace(",", ""))


def text_of(page: BrowserPage, selector: str) -> str:
    return page.locator(selector).inner_text()


def loudly(page: BrowserPage) -> None:
    """Wait until frames have come."""
    expect(page.locator("#live")).to_have_text("live")
    expect(page.locator("[data-tile=Deliveries] .value")).to_have_text(re.compile(r"\d.*/s"))


async def test_the_page_loads_and_lives(browser: BrowserThread) -> None:
    bus = GoEvent()
    bus.subscribe(lambda event: None, "order.*", name="audit")

    def steps(page: BrowserPage) -> None:
        loudly(page)
        expect(page.locator("#state")).to_have_text("open")
        expect(page.locator("#rows .a")).to_have_text(["audit"])
        done = page.locator("#rows td").nth(6)
        first = done.inner_text()
        expect(done).not_to_have_text(first)
        assert number(done.inner_text()) > number(first)
        expect(page.locator("#picture .node.event .t")).to_have_text(["order.paid"])
        assert page.locator("#picture .edge").count() == 1

    async with bus, served(Page(bus)) as url, at_work(bus, "order.paid"):
        await browse(browser, url, steps)


async def test_the_page_asks_for_the_token_and_opens_with_it(browser: BrowserThread) -> None:
    bus = GoEvent()

    def steps(page: BrowserPage) -> None:
        expect(page.locator("label")).to_have_text("Token")
        assert "goevent" in page.title()
        page.fill("#token", "a-token-that-is-wrong")
        page.keyboard.press("Enter")
        expect(page.locator(".wrong")).to_be_visible()
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#live")).to_have_text("live")
        assert TOKEN not in page.url
        page.reload()
        expect(page.locator("#live")).to_have_text("live")
        assert page.evaluate("document.cookie") == ""

    async with bus, served(Page(bus, token=TOKEN)) as url:
        await browse(browser, url, steps)


async def test_a_hostile_text_is_shown_as_text(browser: BrowserThread) -> None:
    bus = GoEvent()
    bus.on_error(ignore_error)

    async def fail(event: Event) -> None:
        raise ValueError(HOSTILE)

    bus.subscribe(fail, "order.paid", name=HOSTILE)

    def steps(page: BrowserPage) -> None:
        loudly(page)
        expect(page.locator("#rows .a").first).to_have_text(HOSTILE)
        expect(page.locator("#error-list .why").first).to_contain_text(HOSTILE)
        page.locator("#error-list summary").first.click()
        expect(page.locator("#error-list pre").first).to_contain_text(HOSTILE)
        assert page.locator("main img, main script").count() == 0
        assert "goevent" in page.title()

    async with bus, served(Page(bus)) as url, at_work(bus, "order.paid"):
        await browse(browser, url, steps)


async def test_a_failing_listener_is_red(browser: BrowserThread) -> None:
    bus = GoEvent()
    bus.on_error(ignore_error)
    bus.subscribe(lambda event: 1 / 0, "order.paid", name="book")
    bus.subscribe(lambda event: None, "order.paid", name="audit")

    def steps(page: BrowserPage) -> None:
        expect(page.locator("#picture .node.bad .t")).to_have_text(["book"])
        expect(page.locator("#picture .edge.bad")).to_have_count(1)
        expect(page.locator("#rows .alarm")).to_have_count(1)
        expect(page.locator("#error-list .who")).to_have_text(["book"])

    async with bus, served(Page(bus)) as url, at_work(bus, "order.paid"):
        await browse(browser, url, steps)


async def test_a_responder_is_shown_with_its_requests(browser: BrowserThread) -> None:
    bus = GoEvent()
    bus.respond(lambda event: 1, "price.asked", name="prices")

    def steps(page: BrowserPage) -> None:
        expect(page.locator("#rows .b")).to_have_text(["responds to price.asked"])
        expect(page.locator("#picture .node.event .t")).to_have_text(["requests of price.asked"])

    async with bus, served(Page(bus)) as url:
        assert await bus.request(Event("price.asked"), int) == 1
        await browse(browser, url, steps)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_fits_a_phone_in_light_and_in_dark(
    scheme: str, browser: BrowserThread
) -> None:
    bus = GoEvent()
    bus.on_error(ignore_error)
    long = "a.listener.with_a_name_that_is_longer_than_the_screen_of_a_phone_is_wide"
    bus.subscribe(lambda event: 1 / 0, "order.paid", name=long)
    for number in range(20):
        bus.subscribe(
            lambda event: None, f"order.of_a_long_name_{number}", name=f"listener {number}"
        )

    def steps(page: BrowserPage) -> None:
        loudly(page)
        expect(page.locator("#error-list .who")).to_have_text([long])
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(int(part) for part in background[4:-1].split(",")) > 384
        assert light == (scheme == "light")
        for selector in ("#main h2", ".muted", "#error-list .why", ".grid td.n", ".bar nav a"):
            assert page.evaluate(CONTRAST, selector) >= 4.5, selector

    async with bus, served(Page(bus)) as url, at_work(bus, "order.paid"):
        await browse(browser, url, steps, viewport=PHONE, color_scheme=scheme)


CONTRAST = r"""
selector => {
  const parts = text => text.match(/[\d.]+/g).map(Number);
  const linear = value => value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) =>
    .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const groundOf = node => {
    for (let at = node; at; at = at.parentElement) {
      const found = parts(getComputedStyle(at).backgroundColor);
      if (found[3] === undefined) return found;
    }
    return [255, 255, 255];
  };
  const ratios = [...document.querySelectorAll(selector)].map(node => {
    const a = light(parts(getComputedStyle(node).color)), b = light(groundOf(node));
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  });
  return Math.min(...ratios);
}
"""


async def test_messages_are_readable(browser: BrowserThread) -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    bus.subscribe(lambda event: None, Paid, name="audit")

    def steps(page: BrowserPage) -> None:
        paid = page.locator(".message").filter(has_text="order.paid")
        expect(paid).to_contain_text("received by audit")
        expect(paid.locator("dt")).to_have_text(["n?", "text?"])
        expect(paid.locator("dd")).to_have_text(["integer", "string"])

    async with bus, served(Page(bus)) as url:
        await browse(browser, url, steps)


FOCUSED = "document.activeElement.textContent || document.activeElement.id"


async def test_the_keyboard_reaches_everything(browser: BrowserThread) -> None:
    bus = GoEvent()
    bus.subscribe(lambda event: None, "order.paid", name="audit")

    def steps(page: BrowserPage) -> None:
        loudly(page)
        reached: set[str] = set()
        for _ in range(30):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate("document.activeElement.textContent || document.activeElement.id")
            )
        assert {"Skip to the content", "Listeners", "Rate", "filter"} <= reached
        page.locator("#picture .node.key").focus()
        page.keyboard.press("Enter")
        assert page.locator("#filter").input_value() == "audit"

    async with bus, served(Page(bus)) as url, at_work(bus, "order.paid"):
        await browse(browser, url, steps)


async def test_a_thousand_listeners_stay_usable(browser: BrowserThread) -> None:
    bus = GoEvent()
    for number in range(1000):
        bus.subscribe(lambda event: None, f"order.{number}", name=f"listener {number}")

    def steps(page: BrowserPage) -> None:
        loudly(page)
        expect(page.locator("#rows tr")).to_have_count(100)
        assert page.locator("#picture .node.key").count() < 12
        for name in ("listener 7", "listener 777"):
            shown = page.locator("#picture .node.key .t").get_by_text(name, exact=True)
            expect(shown).to_have_count(1)
        page.fill("#filter", "listener 77")
        expect(page.locator("#rows tr")).to_have_count(11)
        page.fill("#filter", "")
        page.click("#more")
        expect(page.locator("#rows tr")).to_have_count(300)

    async with bus, served(Page(bus)) as url, at_work(bus, "order.7", "order.777"):
        await browse(browser, url, steps)


async def test_the_page_tells_when_the_bus_has_closed(browser: BrowserThread) -> None:
    bus = GoEvent()
    opened = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def steps(page: BrowserPage) -> None:
        expect(page.locator("#live")).to_have_text("live")
        trio.from_thread.run_sync(opened.set, trio_token=token)
        expect(page.locator("#state")).to_have_text("closed")
        expect(page.locator("#live")).to_have_text("closed")

    async def close_when_opened() -> None:
        await opened.wait()
        await bus.close()

    async with bus, served(Page(bus)) as url, trio.open_nursery() as nursery:
        nursery.start_soon(close_when_opened)
        await browse(browser, url, steps)


async def test_dead_letters_are_replayed_and_discarded_on_the_page(browser: BrowserThread) -> None:
    async with streams_server() as server:
        bus = StreamsBus(server.addr, max_deliveries=1)
        failing = {0, 1, 2}
        ran = bus.tries(fail=lambda event: event.n in failing)

        def steps(page: BrowserPage) -> None:
            letters = page.locator("#letter-list > li")
            expect(letters).to_have_count(3)
            expect(page.locator("#letter-list .why").first).to_contain_text("ValueError: no 0")
            assert "Data" not in text_of(page, "#letters")
            letters.nth(0).locator("input").check()
            page.click("#discard")
            page.click("#confirm button[value=no]")
            expect(letters).to_have_count(3)
            page.click("#discard")
            page.click("#confirm button[value=yes]")
            expect(letters).to_have_count(2)
            expect(page.locator("#letters-told")).to_have_text("1 discarded")
            failing.clear()
            page.click("#replay")
            expect(page.locator("#letters-told")).to_have_text("2 replayed")
            expect(page.locator("#no-letters")).to_be_visible()

        async with bus, served(Page(bus, actions=True)) as url:
            for number in range(3):
                await bus.dispatch(Paid(n=number))
            await browse(browser, url, steps)
            with trio.fail_after(HANG_SECONDS):
                while len(ran) < 5:
                    await wait_all_tasks_blocked(0.01)
            assert sorted(n for n, _ in ran) == [0, 1, 1, 2, 2]


# -- the pictures of the docs


@asynccontextmanager
async def shop(addr: str) -> AsyncGenerator[GoEvent]:
    """Run a bus whose page has something of everything to show."""
    driver: dict[str, Any] = {"max_deliveries": 2, "backoff": 0.05}
    bus = StreamsBus(addr, "shop", **driver)

    def listens(name: str, *events: str, seconds: float = 0.0, fails_every: int = 0) -> None:
        runs = 0

        async def listener(event: Event) -> None:
            nonlocal runs
            runs += 1
            await trio.sleep(seconds)
            if fails_every and runs % fails_every == 0:
                raise ValueError("card declined: expired in 11/26")

        bus.subscribe(listener, *events, name=name, concurrency=4)

    listens("billing.charge_card", "order.paid", seconds=0.003, fails_every=60)
    listens("warehouse.reserve", "order.paid", seconds=0.002)
    listens("mail.receipt", "order.paid", "order.sent", seconds=0.004)
    listens("search.index", "product.changed", seconds=0.001)
    listens("stock.count", "product.changed")
    listens("mail.welcome", "user.created", seconds=0.02)
    listens("analytics.count", "page.viewed")

    async def dispatch() -> None:
        turn = 0
        while True:
            turn += 1
            busy = 2 + (turn % 40) // 8
            for _ in range(busy):
                bus.dispatch_nowait(Event("page.viewed", {"path": "/"}))
            await bus.dispatch(Event("product.changed", {"sku": "A-1"}))
            if turn % 3 == 0:
                await bus.dispatch(Paid(n=turn))
            if turn % 4 == 0:
                await bus.dispatch(Event("order.sent", {"n": turn}))
            if turn % 9 == 0:
                await bus.dispatch(Event("user.created", {"n": turn}))
            await trio.sleep(0.04)

    async with bus, trio.open_nursery() as nursery:
        nursery.start_soon(dispatch)
        yield bus
        nursery.cancel_scope.cancel()


async def test_the_page_looks_as_in_the_docs(tmp_path: Path, browser: BrowserThread) -> None:
    folder = IMAGES if writes_screenshots() else tmp_path

    def steps(page: BrowserPage) -> None:
        loudly(page)
        page.wait_for_timeout(LOAD_SECONDS * 1000)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.screenshot(path=folder / f"page-{scheme}.png")
        page.set_viewport_size(PHONE)
        page.wait_for_timeout(500)
        page.screenshot(path=folder / "page-phone.png")

    async with (
        streams_server() as server,
        shop(server.addr) as bus,
        served(Page(bus, actions=True)) as url,
    ):
        await browse(browser, url, steps, viewport=DESKTOP)
    for name in ("light", "dark", "phone"):
        assert 10_000 < (folder / f"page-{name}.png").stat().st_size < MAX_IMAGE_BYTES
