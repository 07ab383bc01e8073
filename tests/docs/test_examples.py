"""Every example runs as a user runs it, and prints the output that the docs show."""

import os
import re
import runpy
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
from tests.support.limits import SUBPROCESS_SECONDS
from tests.support.redis_buses import plain_link
from tests.support.redis_server import redis_server
from trio.testing import MockClock

from goevent import Event, GoEvent

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DATA = EXAMPLES / "data" / "orders.jsonl"
ORDERS = [sys.executable, "-W", "error", "examples/orders.py"]

# The whole output of each example stands in these pages, in one block.
SHOWN = {
    "quickstart.py": ["README.md", "docs/index.md"],
    "tutorial/step1_first_event.py": ["docs/start/tutorial.md"],
    "tutorial/step2_async_listener.py": ["docs/start/tutorial.md"],
    "tutorial/step3_errors.py": ["docs/start/tutorial.md"],
    "tutorial/step4_backpressure.py": ["docs/start/tutorial.md"],
    "tutorial/step5_closing.py": ["docs/start/tutorial.md"],
    "hub.py": ["docs/use/several-buses.md"],
    "redis_pubsub.py": ["docs/brokers/from-one-process-to-many.md"],
    "nats_jobs.py": ["docs/start/for-faststream-users.md"],
    "health.py": ["docs/operate/observe.md"],
    "metrics.py": ["docs/operate/observe.md"],
    "tracing.py": ["docs/operate/observe.md"],
    "conversation.py": ["docs/use/conversations.md"],
}
# Several processes, or two buses, print, so the order of the lines is not fixed.
ANY_ORDER = {"conversation.py", "redis_pubsub.py", "tracing.py"}

# A busy machine makes a listener slow, and the bus says so.
SLOW = re.compile(r"^\w.* held the event loop for .*\n", re.MULTILINE)

# The text blocks of these pages, put together, are the output of the example.
SHOWN_IN_PARTS = {
    "blocking.py": "docs/use/blocking.md",
    "contract.py": "docs/operate/asyncapi.md",
    "middleware.py": "docs/use/middleware.md",
    "ordering.py": "docs/use/ordering.md",
    "patterns.py": "docs/use/patterns.md",
    "pipeline.py": "docs/use/back-pressure.md",
    "retries.py": "docs/use/retries.md",
    "supervision.py": "docs/use/supervision.md",
    "worker.py": "docs/operate/run-a-worker.md",
}
# A line that each of these examples prints. Its page shows less than the output, or none.
PRINTED = {
    "backpressure.py": "no room in the mailbox of slow",
    "redis_streams.py": "lost: 0",
    "kafka_orders.py": "billed: 40, each order in order: True\nmail gave up after 3 deliveries",
    "causes.py": "- ship failed: ValueError: no address",
    "errors.py": "alert: book failed on 'order.paid': ValueError: a payment is positive",
    "batches.py": "4 lines, 1 failed\n2 ValueError: a payment is positive",
    "listeners.py": "counted 1",
    "live_page.py": "open ['billing', 'audit']\n200 text/html; charset=utf-8",
    "snapshot.py": "index: 0 waiting, 0 running, 20 done",
    "streams.py": "OrderShipped(order_id=8)\norder 9 is on its way",
    "threads.py": "lines",
    "toy_driver.py": "the other bus got: hello over TCP",
    "watching.py": "0 missed before it",
    "versions.py": "OrderPlaced(order='A-1', cents=1250)",
}
OTHERS = {
    "orders.py",
    "box_office.py",
    "testing_a_bus.py",
    "toy_conformance.py",
    "data/generate.py",
    # `tests/portal` runs these on their web servers.
    "web/events_to_browser.py",
    "web/fastapi_app.py",
    "web/starlette_trio.py",
    "web/wsgi_app.py",
}


def run(
    *command: str, stdin: bytes | None = None, check: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command in the root of the checkout; fail on another exit code than `check`."""
    done = subprocess.run(
        command, cwd=ROOT, input=stdin, capture_output=True, timeout=SUBPROCESS_SECONDS
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == check, f"{out}\n{err}"
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def python(path: Path | str, *arguments: str) -> str:
    """Run an example, which must write no warning and no log; return its output."""
    done = run(sys.executable, "-W", "error", str(path), *arguments)
    assert SLOW.sub("", done.stderr) == ""
    return SLOW.sub("", done.stdout)


def blocks_of(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page that are in one language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# -- all of them


def test_no_example_is_forgotten() -> None:
    found = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.py")}
    assert found == {*SHOWN, *SHOWN_IN_PARTS, *PRINTED, *OTHERS}


@pytest.mark.parametrize("name", SHOWN)
def test_docs_show_the_output_of_the_example(name: str) -> None:
    output = python(EXAMPLES / name).splitlines()
    assert output
    for page in SHOWN[name]:
        shown = [block.splitlines() for block in blocks_of(page, "text")]
        if name in ANY_ORDER or "on_error: " in "\n".join(output):
            output, shown = sorted(output), [sorted(block) for block in shown]
        assert output in shown, page


@pytest.mark.parametrize("name", SHOWN_IN_PARTS)
def test_blocks_of_a_guide_are_the_output_of_its_example(name: str) -> None:
    assert python(EXAMPLES / name) == "".join(blocks_of(SHOWN_IN_PARTS[name], "text"))


@pytest.mark.parametrize("name", PRINTED)
def test_example_prints_its_result(name: str) -> None:
    assert PRINTED[name] in python(EXAMPLES / name)


def test_overflow_policies_behave_as_the_docs_show(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/use/mailboxes.md").read_text(encoding="utf-8")
    main = runpy.run_path(str(EXAMPLES / "backpressure.py"))["main"]
    trio.run(main, clock=MockClock(autojump_threshold=0))  # the clock jumps over sleeps
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    for line in lines:
        assert f"\n{line}\n" in page


def test_docs_show_the_output_of_registry_and_codec() -> None:
    page = (ROOT / "docs/use/events.md").read_text(encoding="utf-8")
    for line in python(EXAMPLES / "versions.py").splitlines():
        assert f"\n{line}\n" in page


def by_speaker(output: str) -> dict[str, list[str]]:
    """Return the lines of each process. Which process prints first is not fixed."""
    lines = output.splitlines()
    speakers = ("--", "shop", "kit")
    return {name: [line for line in lines if line.startswith(name)] for name in speakers}


async def test_two_processes_use_the_given_server() -> None:
    async with redis_server() as server, plain_link(server) as link:
        program = EXAMPLES / "redis_pubsub.py"
        output = await trio.to_thread.run_sync(python, program, server.url)
        blocks = blocks_of("docs/brokers/from-one-process-to-many.md", "text")
        assert by_speaker(output) in map(by_speaker, blocks)
        stats: bytes = await link.execute("INFO", "stats")
        assert b"total_connections_received:3\r" in stats  # two buses and this test


def test_two_processes_refuse_wrong_arguments() -> None:
    done = run(sys.executable, "examples/redis_pubsub.py", "redis://h", "a", "b", check=1)
    assert "python examples/redis_pubsub.py redis://localhost:6379" in done.stderr


async def test_worker_stops_cleanly_at_sigterm_and_leaves_nothing_pending() -> None:
    async with redis_server() as server, plain_link(server) as link:
        url = f"redis+streams://{server.addr}"
        command = [sys.executable, str(EXAMPLES / "worker.py"), f"{url}?group=mail"]
        start = partial(trio.run_process, command, stdout=subprocess.PIPE)
        said = b""
        with trio.fail_after(SUBPROCESS_SECONDS):
            async with trio.open_nursery() as nursery, GoEvent(url) as shop:
                worker: trio.Process = await nursery.start(start)
                assert worker.stdout is not None
                async for part in worker.stdout:
                    said += part
                    if said.endswith(b"connected\n"):
                        await shop.dispatch(Event("invoice.due", {"customer": "Ada", "cents": 5}))
                    elif said.endswith(b"sent 5 cents to Ada\n"):
                        worker.terminate()
        assert worker.returncode == 0
        assert (
            b"SIGTERM: draining for at most 25 s\ndisconnected\nLedger(accepted=1, completed=1, "
            in said
        )
        pending: list[object] = await link.execute("XPENDING", "goevent:stream:invoice.due", "mail")
        assert pending[0] == 0


def test_example_of_tests_passes() -> None:
    done = run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        str(EXAMPLES / "testing_a_bus.py"),
    )
    assert "4 passed" in done.stdout


def test_example_of_a_conformance_suite_passes_and_names_the_skipped_tests() -> None:
    done = run(
        *(sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"),
        str(EXAMPLES / "toy_conformance.py"),
    )
    assert re.search(r"^\d\d passed, \d+ skipped in", done.stdout, re.MULTILINE)
    assert ": the driver has no patterns\n" in done.stdout


# -- the README


def test_quickstart_of_the_readme_is_the_example() -> None:
    assert blocks_of("README.md", "python")[0] == (EXAMPLES / "quickstart.py").read_text()


def test_python_blocks_of_the_readme_run(tmp_path: Path) -> None:
    for number, block in enumerate(blocks_of("README.md", "python")):
        program = tmp_path / f"block{number}.py"
        program.write_text(block)
        assert python(program)


def test_readme_shows_the_commands_to_install_and_run() -> None:
    commands = "".join(blocks_of("README.md", "console"))
    assert 'python -m pip install -e ".[dev]" && python examples/orders.py' in commands
    assert 'python -m pip install -e ".[dev]" && python -m pytest' in commands
    assert 'python -m pip install -e ".[bench]" && python -m benchmarks' in commands


# -- the orders example


def number(pattern: str, report: str) -> int:
    found = re.search(pattern, report, re.MULTILINE)
    assert found is not None, f"no {pattern!r} in:\n{report}"
    return int(found[1].replace(",", ""))


def check_report(report: str) -> dict[str, int]:
    """Check that the numbers of a report agree; return those that depend on the input."""
    lines = number(r"^Read ([\d,]+) lines", report)
    dispatched = number(r"([\d,]+) events dispatched", report)
    refused = number(r"([\d,]+) lines refused", report)
    events = {
        name: int(count.replace(",", ""))
        for name, count in re.findall(r"^  ((?:order|payment)\.\w+) +([\d,]+)$", report, re.M)
    }
    listeners = {
        row[0]: [int(count.replace(",", "")) for count in row[1:]]
        for row in re.findall(
            r"^  (\w+) +(?:inline|in mailbox) " + r" +([\d,]+)" * 4 + "$", report, re.M
        )
    }
    ledger = [
        number(rf"^Ledger: .*?([\d,]+) {column}", report)
        for column in ("accepted", "completed", "failed", "dropped", "abandoned")
    ]
    assert ledger[0] == sum(ledger[1:])
    assert set(listeners) == {"count", "follow", "charge", "bank", "notify", "ratings"}
    assert [sum(column) for column in zip(*listeners.values(), strict=True)] == ledger[1:]
    payments = events.get("payment.taken", 0)
    assert sum(events.values()) == sum(listeners["count"])
    assert sum(events.values()) - payments == dispatched
    assert sum(listeners["charge"]) == events.get("order.placed", 0)
    assert sum(listeners["bank"]) == payments
    assert sum(listeners["ratings"]) == events.get("order.rated", 0)
    errors = number(r"^Errors: ([\d,]+)", report)
    assert errors == sum(ledger[2:])
    assert errors == sum(int(count) for count in re.findall(r"^  (\d+) x \w+: ", report, re.M))
    assert re.search(r"^Time: .* events/s, .* deliveries/s", report, re.M)
    return {"lines": lines, "dispatched": dispatched, "refused": refused, "errors": errors} | {
        "payments": payments,
        "declined": number(r"^  (\d+) x charge: CardDeclined", report) if errors else 0,
    }


def test_orders_processes_its_data_set() -> None:
    lines = DATA.read_text(encoding="utf-8").splitlines()
    assert len(lines) > 3000
    done = run(*ORDERS)
    assert done.stderr == ""
    numbers = check_report(done.stdout)
    assert numbers["lines"] == len(lines) == numbers["dispatched"] + numbers["refused"]
    assert numbers["refused"] == 12
    assert numbers["errors"] == 61
    assert numbers["declined"] == 26
    assert "charge failed on 'order.placed': GatewayTimeout: no answer about A-00039" in done.stdout
    assert "line 217: not a JSON object" in done.stdout


def test_orders_reads_standard_input() -> None:
    lines = DATA.read_bytes().splitlines(keepends=True)[:500]
    numbers = check_report(run(*ORDERS, "-", stdin=b"".join(lines)).stdout)
    assert (numbers["lines"], numbers["refused"]) == (500, 1)


def test_orders_reads_a_given_file(tmp_path: Path) -> None:
    placed = '{"event":"order.placed","order":"X-1","customer":"c","cents":100}'
    own = tmp_path / "own.jsonl"
    own.write_text(f"{placed}\n\n  \n" + '{"event":"order.shipped","order":"X-1","carrier":"DHL"}')
    report = run(*ORDERS, str(own)).stdout
    assert "Read 4 lines: 2 events dispatched, 0 lines refused." in report
    assert "payment.taken            1" in report
    assert "0 orders open, 2 mails" in report


def test_orders_reports_an_empty_input() -> None:
    report = run(*ORDERS, "-", stdin=b"").stdout
    assert "Read 0 lines" in report
    assert "Ledger: 0 accepted = 0 completed" in report


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nonsense", "not a JSON object"),
        (b"\xff\xfe\x00", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b'["order.placed"]', "not a JSON object"),
        (b"{}", "no event type is registered as ''"),
        (b'{"event":null}', "no event type is registered"),
        (b'{"event":"order.lost"}', "no event type is registered as 'order.lost'"),
        (b'{"event":"order.shipped","order":"A"}', "missing required field `carrier`"),
        (b'{"event":"order.shipped","order":7,"carrier":"UPS"}', "Expected `str`, got `int`"),
        (b'{"event":"order.rated","order":"A","stars":6}', "Expected `int` <= 5"),
    ],
)
def test_orders_refuses_a_bad_line_and_goes_on(line: bytes, reason: str) -> None:
    good = b'{"event":"order.rated","order":"A","stars":5}'
    report = run(*ORDERS, "-", stdin=b"\n".join([good, line, good])).stdout
    assert "Read 3 lines: 2 events dispatched, 1 lines refused." in report
    shown = re.search(r"^    line 2: (.*)$", report, re.M)
    assert shown is not None
    assert reason in shown[1]


def test_orders_reports_a_listener_that_fails() -> None:
    line = b'{"event":"order.shipped","order":"Z-9","carrier":"UPS"}'
    report = run(*ORDERS, "-", stdin=line).stdout
    assert "1 x follow: LookupError" in report
    assert "Z-9 was never placed" in report


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["no-such-file"], "cannot read 'no-such-file': No such file or directory"),
        (["examples"], "cannot read 'examples': Is a directory"),
        (["a", "b"], "unrecognized arguments: b"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_orders_refuses_wrong_arguments_in_one_line(arguments: list[str], reason: str) -> None:
    done = run(*ORDERS, *arguments, check=2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr


def test_orders_ends_quietly_if_its_output_is_closed() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        done = subprocess.run(
            [*ORDERS, "-"],
            cwd=ROOT,
            input=b"",
            stdout=theirs,
            stderr=subprocess.PIPE,
            timeout=SUBPROCESS_SECONDS,
        )
    finally:
        os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_orders_ends_with_a_report_on_control_c() -> None:
    child = subprocess.Popen(
        [*ORDERS, "-"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        # More than a pipe holds, so the program has begun to read when this returns.
        child.stdin.write(DATA.read_bytes()[:150_000])
        child.stdin.flush()
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 130
        report = child.stdout.read().decode()
        assert child.stderr.read() == b""
    assert report.startswith("Interrupted.")
    ledger = re.search(
        r"Ledger: ([\d,]+) accepted = ([\d,]+) completed \+ ([\d,]+) failed"
        r" \+ ([\d,]+) dropped \+ ([\d,]+) abandoned",
        report,
    )
    assert ledger is not None
    accepted, *settled = (int(count.replace(",", "")) for count in ledger.groups())
    assert accepted == sum(settled)


# -- the orders example on a terminal


def on_terminal(*prelude: str) -> tuple[str, str]:
    """Run the example with a terminal as stderr; return the output on stderr and stdout."""
    pty = pytest.importorskip("pty")
    program = "; ".join(
        [
            *prelude,
            "import runpy, sys",
            "sys.argv = ['orders.py']",
            "runpy.run_path('examples/orders.py', run_name='__main__')",
        ]
    )
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:  # Linux: the other side is closed
        pass
    finally:
        os.close(ours)
    report, _ = child.communicate(timeout=SUBPROCESS_SECONDS)
    assert child.returncode == 0, seen.decode()
    return seen.decode(), report.decode()


def test_orders_shows_a_bar_on_a_terminal() -> None:
    seen, report = on_terminal()
    assert "100%" in seen
    check_report(report)


def test_orders_counts_on_a_terminal_without_rich() -> None:
    seen, report = on_terminal("import sys", "sys.modules['rich'] = None")
    assert "64 kB" in seen
    assert "%" not in seen
    check_report(report)


def test_generator_makes_the_data_set(tmp_path: Path) -> None:
    copy = tmp_path / "generate.py"
    copy.write_text((EXAMPLES / "data" / "generate.py").read_text())
    assert python(copy) == ""
    assert (tmp_path / "orders.jsonl").read_bytes() == DATA.read_bytes()
