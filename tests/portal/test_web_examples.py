"""The examples of other frameworks, each on its own server in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest
from tests.support.limits import SUBPROCESS_SECONDS

EXAMPLES = Path(__file__).parents[2] / "examples" / "web"
LONG = float(SUBPROCESS_SECONDS)
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


@contextmanager
def web_server(*command: str) -> Generator[tuple[str, subprocess.Popen[str]]]:
    """Run a web server, which prints its address; return the address and the process."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=EXAMPLES,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # A server that prints nothing is stopped, and its output then ends.
    watch = threading.Timer(LONG, process.kill)
    watch.start()
    try:
        assert process.stdout is not None
        yield address_in(process.stdout), process
    finally:
        watch.cancel()
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def address_in(output: IO[str]) -> str:
    lines: list[str] = []
    for line in output:
        if found := ADDRESS.search(line):
            return found[0]
        lines.append(line)
    pytest.fail(f"the server has ended: {''.join(lines)}")


def test_fastapi_on_asyncio_dispatches_and_ends_with_sigterm() -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    command = ["-m", "uvicorn", "fastapi_app:app", "--port", "0", "--loop", "asyncio"]
    with web_server(*command) as (url, process), httpx.Client(base_url=url, timeout=LONG) as web:
        assert web.post("/orders/1").json() == {"accepted": 1}
        answer = web.post("/orders/2/now").json()
        assert (answer["invoices"], answer["errors"]) == ([1, 2], [])
        assert web.post("/blocking/3").json() == {"invoices": [1, 2, 3]}
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=LONG)
        assert "Application shutdown complete" in output
        assert "Traceback" not in output


def test_a_wsgi_application_waits_for_its_event_and_ends_with_ctrl_c() -> None:
    with web_server("wsgi_app.py", "0") as (url, process):
        assert httpx.get(f"{url}/orders/7", timeout=LONG).text == "invoices: [7]\n"
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=LONG)
        assert output.splitlines()[-1] == "closed"
        assert process.returncode == 0


def test_a_browser_follows_the_events_of_a_bus() -> None:
    pytest.importorskip("hypercorn")
    with (
        web_server("events_to_browser.py", "0") as (url, process),
        httpx.Client(base_url=url, timeout=LONG) as web,
    ):
        assert "EventSource" in web.get("/").text
        with web.stream("GET", "/events") as events:
            lines = events.iter_lines()
            assert next(lines) == ": the stream has begun"
            assert web.post("/orders/7").json() == {"listeners": 1}
            assert web.post("/orders/8").json() == {"listeners": 1}
            data = (line for line in lines if line.startswith("data:"))
            assert [next(data), next(data)] == ["data: 7", "data: 8"]
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=LONG)
        assert (process.returncode, output) == (0, "")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_starlette_and_the_bus_share_one_loop_of_trio(stop: signal.Signals) -> None:
    pytest.importorskip("hypercorn")
    with web_server("starlette_trio.py", "0") as (url, process):
        answer = httpx.post(f"{url}/orders/7", timeout=LONG)
        assert answer.json() == {"invoices": [7]}
        process.send_signal(stop)
        output, _ = process.communicate(timeout=LONG)
        assert (process.returncode, output) == (0, "")
