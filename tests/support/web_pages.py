"""Pages of buses for tests: asked without a socket, served over HTTP, and opened in a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager, contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import httpx
import trio
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Error as BrowserError,
    Page as BrowserPage,
    sync_playwright,
)

from goevent import GoEvent
from goevent.web import Page, serve_http
from tests.support.brokers import missing
from tests.support.limits import HANG_SECONDS

TOKEN = "a-token-of-the-tests"
T = TypeVar("T")


def asking(page: Any, base_url: str = "http://127.0.0.1:8080", **options: Any) -> httpx.AsyncClient:
    """Return a client that calls a page as an application, without a socket."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(page), base_url=base_url, **options)


@asynccontextmanager
async def served(target: Page | GoEvent, address: str = "127.0.0.1:0") -> AsyncGenerator[str]:
    """Serve a page while the body runs; gives its URL."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(serve_http, target, address)
        nursery.cancel_scope.cancel()


def chromium() -> str:
    """Return the browser of the system; without one, skip the test, or fail it in CI."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    return found or missing("Chromium is not installed")


@contextmanager
def opened_browser(path: str) -> Generator[Browser]:
    """Run the browser while the body runs."""
    with sync_playwright() as playwright:
        # Without its sandbox, because root has none; it opens only pages of this test.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class BrowserThread:
    """A thread with a browser, which starts at the first call; playwright stays in one thread."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[Browser], Any], Future[Any]] | None]
        self._calls = SimpleQueue()
        self._thread: Thread | None = None

    def call(self, path: str, steps: Callable[[Browser], T]) -> T:
        """Call a function with the browser of this path in the thread of the browser."""
        if self._thread is None:
            self._thread = Thread(target=self._run, args=[path], daemon=True)
            self._thread.start()
        result: Future[T] = Future()
        self._calls.put((steps, result))
        return result.result()

    def close(self) -> None:
        """End the browser and the thread."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()

    def _run(self, path: str) -> None:
        with ExitStack() as stack:
            browser: Browser | None = None
            while (call := self._calls.get()) is not None:
                steps, result = call
                try:
                    if browser is None:
                        browser = stack.enter_context(opened_browser(path))
                    value = steps(browser)
                except BaseException as error:  # the caller raises it
                    result.set_exception(error)
                else:
                    result.set_result(value)


async def browse(
    thread: BrowserThread, url: str, steps: Callable[[BrowserPage], T], **context: Any
) -> T:
    """Open a page in the browser, and take some steps there in its thread.

    The steps fail if the page breaks one of its own rules: an exception, a refused script or style.

    Args:
        thread: The thread of the browser.
        url: The address.
        steps: Called with the page of playwright, when the page is open.
        context: Options of the browser's context, which has cookies and a storage of its own:
            `viewport`, `color_scheme`.
    """
    path = chromium()

    def open_page(browser: Browser) -> T:
        return _browse(browser, url, steps, context)

    return await trio.to_thread.run_sync(lambda: thread.call(path, open_page))


def _browse(
    browser: Browser, url: str, steps: Callable[[BrowserPage], T], context: dict[str, Any]
) -> T:
    with browser.new_context(**context) as own:
        page = own.new_page()
        page.set_default_timeout(HANG_SECONDS * 1000)
        broken: list[str] = []

        def note_error(error: BrowserError) -> None:
            broken.append(str(error))

        def note_text(said: ConsoleMessage) -> None:
            if is_broken(said.text):
                broken.append(said.text)

        page.on("pageerror", note_error)
        page.on("console", note_text)
        page.goto(url)
        result = steps(page)
        assert broken == []
        return result


def is_broken(text: str) -> bool:
    """Tell whether a line of the browser's console tells that a rule was broken."""
    return "Content Security Policy" in text or "Uncaught" in text


def writes_screenshots() -> bool:
    """Tell whether the screenshots of the docs are to be written."""
    return bool(os.environ.get("GOEVENT_WRITE_SCREENSHOTS"))
