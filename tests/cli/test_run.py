"""`goevent run`: signals, exit codes, workers and reload, in real processes."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
from pathlib import Path

import pytest
import trio
from tests.support.command import goevent_command
from tests.support.limits import HANG_SECONDS
from tests.support.running_command import RunningCommand, running

from goevent import Ledger
from goevent.cli.run import addresses, in_words

PROGRAM = """
import os
from collections.abc import AsyncIterator

import trio

from goevent import Event, GoEvent

COUNT = {count}
bus = GoEvent()


@bus.listener("a.b")
async def work(event: Event) -> None:
    print("working", os.getpid(), flush=True)
    await trio.sleep({seconds})


@bus.lifespan
async def feed(bus: GoEvent) -> AsyncIterator[None]:
    async def dispatch() -> None:
        while bus.snapshot().state != "open":
            await trio.sleep(0.01)
        for _ in range(COUNT):
            await bus.dispatch(Event("a.b"))
        os.write(2, b"dispatched\\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dispatch)
        yield
        nursery.cancel_scope.cancel()
"""
SOME_TIME_NS = 1_700_000_000 * 10**9
# An empty value is none: Python writes bytecode whatever the surroundings of the test say.
BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
DYING = """
import os
import sys

import trio

from goevent import GoEvent

bus = GoEvent()


@bus.lifespan
async def die() -> None:
    print("the pool is broken", file=sys.stderr, flush=True)
    os._exit(7)
    yield
"""


def write(directory: Path, *, count: int = 3, seconds: float = 0.1, name: str = "shop") -> None:
    """Write a program whose bus handles some events."""
    text = PROGRAM.format(count=count, seconds=seconds)
    (directory / f"{name}.py").write_text(text)


def one_line(text: str) -> str:
    """Return the only line of a text."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


async def at_work(command: RunningCommand, workers: int = 1) -> None:
    """Wait until so many workers are open and have dispatched their events.

    Only whole lines count: the note of a worker that has died quotes its last line.
    """
    await command.has_line(r"(goevent|worker \d+): ready, .*", workers)
    await command.has_line("dispatched", workers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_the_ledger_is_told_in_words(
    tmp_path: Path, number: signal.Signals
) -> None:
    write(tmp_path)
    async with running("run", "shop:bus", cwd=tmp_path) as command:
        await at_work(command)
        command.process.send_signal(number)
        assert await command.ended() == 0
    assert command.out.splitlines()[-1] == "3 deliveries: 3 completed"
    assert "goevent: ready, 1 listener on MemoryDriver" in command.err
    assert "Traceback" not in command.err


async def test_what_the_grace_cuts_off_ends_with_1(tmp_path: Path) -> None:
    write(tmp_path, count=1, seconds=HANG_SECONDS)
    async with running("run", "shop:bus", "--grace", "0.1", "--json", cwd=tmp_path) as command:
        await at_work(command)
        command.terminate()
        assert await command.ended() == 1
    document = command.out[command.out.index("{") :]
    assert json.loads(document) == {
        "accepted": 1,
        "completed": 0,
        "failed": 0,
        "dropped": 0,
        "abandoned": 1,
    }
    assert "1 delivery cut off" in command.err


async def test_a_second_signal_during_the_drain_ends_it(tmp_path: Path) -> None:
    write(tmp_path, count=1, seconds=HANG_SECONDS)
    async with running("run", "shop:bus", "--grace", "1000", cwd=tmp_path) as command:
        await at_work(command)
        command.terminate()
        await command.says("draining")
        command.terminate()
        assert await command.ended() == 1
    assert "cut short" in command.err


async def test_a_signal_during_the_import_ends_in_peace(tmp_path: Path) -> None:
    program = "import os, time\nos.write(2, b'slow\\n')\ntime.sleep(1000)\n"
    (tmp_path / "slow.py").write_text(program)
    async with running("run", "slow:bus", cwd=tmp_path) as command:
        await command.says("slow")
        command.terminate()
        assert await command.ended() == 0
    assert command.out == "no deliveries\n"
    assert command.err == "slow\ngoevent: SIGTERM: nothing is opened\n"


async def test_a_signal_while_the_bus_opens_ends_in_peace(tmp_path: Path) -> None:
    hang = '    os.write(2, b"opening\\n")\n    await trio.sleep_forever()\n'
    program = PROGRAM.format(count=0, seconds=0)
    program = program.replace("    async with trio", f"{hang}    async with trio")
    (tmp_path / "shop.py").write_text(program)
    async with running("run", "shop:bus", cwd=tmp_path) as command:
        await command.says("opening")
        command.terminate()
        assert await command.ended() == 0
    assert command.out == "no deliveries\n"


async def test_workers_share_a_signal_and_their_ledgers_are_added(tmp_path: Path) -> None:
    write(tmp_path)
    async with running("run", "shop:bus", "--workers", "2", cwd=tmp_path) as command:
        await at_work(command, 2)
        command.terminate()
        assert await command.ended() == 0
    assert command.out.splitlines()[-1] == "6 deliveries: 6 completed"
    pids = {line.split()[1] for line in command.out.splitlines() if line.startswith("working")}
    assert len(pids) == 2
    assert "MemoryDriver shares no events in a group" in command.err


async def test_a_worker_that_is_killed_is_started_again(tmp_path: Path) -> None:
    write(tmp_path, count=1)
    async with running("run", "shop:bus", "--workers", "2", cwd=tmp_path) as command:
        await at_work(command, 2)
        await command.prints("working", 2)
        pid = int(command.out.split()[1])
        os.kill(pid, signal.SIGKILL)
        await command.says("signal SIGKILL")
        await at_work(command, 3)
        command.terminate()
        assert await command.ended() == 0
    assert command.out.splitlines()[-1] == "2 deliveries: 2 completed"


async def test_workers_end_once_the_command_itself_is_killed(tmp_path: Path) -> None:
    write(tmp_path, count=1, seconds=0)
    async with running("run", "shop:bus", "--workers", "2", cwd=tmp_path) as command:
        await at_work(command, 2)
        command.process.kill()
        # The workers hold the other ends of stdout.
        await command.ended()
    assert command.out.count("working") == 2


def test_a_worker_that_dies_at_once_ends_the_command_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(DYING)
    result = goevent_command("run", "shop:bus", "--workers", "2", cwd=tmp_path)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert "died 4 times within 60 s" in last
    assert "exit code 7: the pool is broken" in last
    assert "Traceback" not in result.stderr


def test_a_failing_lifespan_is_named_in_one_line(tmp_path: Path) -> None:
    program = DYING.replace("    os._exit(7)", '    raise LookupError("no DSN")')
    (tmp_path / "shop.py").write_text(program)
    result = goevent_command("run", "shop:bus", cwd=tmp_path)
    assert result.returncode == 1
    assert "goevent: LookupError: no DSN" in result.stderr
    assert "lifespan function" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_broker_that_is_down_is_named_without_the_password(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"redis+streams://worker:s3cret@127.0.0.1:{port}?group=g"
    (tmp_path / "shop.py").write_text(f"from goevent import GoEvent\nbus = GoEvent({url!r})\n")
    result = goevent_command("run", "shop:bus", cwd=tmp_path)
    assert result.returncode == 1
    assert f"127.0.0.1:{port}" in result.stderr
    assert "s3cret" not in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("shop:nobus",), "shop has no nobus"),
        (("missing:bus",), "there is no module 'missing'"),
        (("broken:bus",), "broken cannot be imported: ModuleNotFoundError"),
        (("broken:bus", "--workers", "2"), "broken cannot be imported: ModuleNotFoundError"),
        (("redis://user:s3cret@localhost",), "a URL has no listeners"),
        (("shop:bus", "--grace", "-1"), "--grace must be at least 0"),
        (("shop:bus", "--grace", "nan"), "--grace must be at least 0"),
        (("shop:bus", "--workers", "0"), "--workers"),
        (("shop:bus", "--workers", "2", "--reload"), "leave out --workers"),
        (("shop:bus", "--http", "8080"), "--http: an address is HOST:PORT"),
        (("shop:bus", "--http", "0.0.0.0:8080"), "0.0.0.0 is not loopback, so the page needs"),
        (("shop:bus", "--http", "localhost:65535", "--workers", "2"), "a port is from 1 to 65535"),
    ],
)
def test_wrong_use_is_one_line_and_ends_with_2(
    tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    write(tmp_path)
    (tmp_path / "broken.py").write_text("import nonsense_that_is_not_installed\n")
    result = goevent_command("run", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert reason in one_line(result.stderr)
    assert "s3cret" not in result.stderr


async def test_reload_starts_the_worker_again_after_a_change(tmp_path: Path) -> None:
    write(tmp_path, count=1, seconds=0)
    async with running("run", "shop:bus", "--reload", cwd=tmp_path) as command:
        await at_work(command)
        write(tmp_path, count=2, seconds=0)
        await command.says("shop.py has changed; the worker starts again")
        await at_work(command, 2)
        command.terminate()
        assert await command.ended() == 0
    assert command.out.splitlines()[-1] == "3 deliveries: 3 completed"


async def test_reload_runs_a_change_that_keeps_the_time_and_the_size(tmp_path: Path) -> None:
    write(tmp_path, count=1, seconds=0)
    program = tmp_path / "shop.py"
    os.utime(program, ns=(SOME_TIME_NS, SOME_TIME_NS))
    async with running("run", "shop:bus", "--reload", cwd=tmp_path, env=BYTECODE) as command:
        await at_work(command)
        assert [*tmp_path.glob("__pycache__/shop.*.pyc")]
        changed = tmp_path / "changed"
        changed.write_text(program.read_text().replace("COUNT = 1", "COUNT = 2"))
        # Python looks at whole seconds.
        os.utime(changed, ns=(SOME_TIME_NS + 1, SOME_TIME_NS + 1))
        changed.rename(program)
        await command.says("the worker starts again")
        await at_work(command, 2)
        command.terminate()
        assert await command.ended() == 0
    assert command.out.splitlines()[-1] == "3 deliveries: 3 completed"


async def test_reload_waits_for_a_change_after_the_worker_has_died(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import nonsense_that_is_not_installed\n")
    async with running("run", "shop:bus", "--reload", cwd=tmp_path) as command:
        await command.says("waiting for a change")
        write(tmp_path, count=1, seconds=0)
        await at_work(command)
        command.terminate()
        assert await command.ended() == 0
    assert command.out.splitlines()[-1] == "1 delivery: 1 completed"


async def test_reload_ends_while_it_waits_for_a_change(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("bus = None\n")
    async with running("run", "shop:bus", "--reload", cwd=tmp_path) as command:
        await command.says("waiting for a change")
        command.terminate()
        assert await command.ended() == 0


async def test_each_worker_serves_a_page_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, count=1, seconds=0)
    first = free_ports(2)
    options = ["--workers", "2", "--http", f"127.0.0.1:{first}"]
    async with running("run", "shop:bus", *options, cwd=tmp_path) as command:
        await at_work(command, 2)
        for port in (first, first + 1):
            assert b" 200 " in await answer(port, "/health/live")
        command.terminate()
        assert await command.ended() == 0
    assert "Traceback" not in command.err


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_taken_ends_with_1_and_its_name(tmp_path: Path, workers: int) -> None:
    write(tmp_path, count=0)
    with socket.socket() as taken:
        port = free_ports(workers)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        options = ["--http", f"127.0.0.1:{port}", "--workers", str(workers)]
        result = goevent_command("run", "shop:bus", *options, cwd=tmp_path)
    assert result.returncode == 1
    assert f"127.0.0.1:{port}: Address already in use" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert "ready, 1 listener" not in result.stderr.replace("worker 1: ready", "")


def free_ports(count: int) -> int:
    """Return the first of several free ports in a row.

    The system gives the ports above 32,767 to other sockets, so a free one is soon taken there.
    """
    while True:
        first = 20_000 + secrets.randbelow(12_000)  # `random` has one seed in all workers
        with contextlib.ExitStack() as stack:
            try:
                for number in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            return first


async def answer(port: int, path: str) -> bytes:
    """Return the first bytes of the answer to a GET."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        await stream.send_all(request.encode())
        return bytes(await stream.receive_some())


def test_each_worker_has_a_port_of_its_own() -> None:
    assert addresses("[::1]:8080", 2) == ["[::1]:8080", "[::1]:8081"]
    assert addresses(None, 2) == [None, None]


def test_a_ledger_in_words_leaves_out_what_is_zero() -> None:
    assert in_words(Ledger()) == "no deliveries"
    ledger = Ledger(accepted=1200, completed=1198, failed=1, abandoned=1)
    assert in_words(ledger) == "1,200 deliveries: 1,198 completed, 1 failed, 1 abandoned"
